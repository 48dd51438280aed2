# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""One learned policy drives a fleet of robots over ROS 2.

Imports point downward only, from `cli` to `config`; import-linter checks it (see pyproject.toml). Only `ros`,
`learning`, the recorder and the executables import rclpy.
"""

__version__ = "0.1.0"
