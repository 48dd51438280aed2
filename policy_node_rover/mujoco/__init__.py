# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The rover arena in MuJoCo: physics, rendering, Gymnasium environments and the ROS simulation."""
