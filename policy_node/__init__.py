# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""One learned policy drives a fleet of robots over ROS 2.

Imports point downward only: `ros`, `simulation` and `tools` import the core, never the other way round, and the core
imports no rclpy.
"""

__version__ = "0.1.0"
