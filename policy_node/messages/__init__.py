# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""ROS messages to arrays and back, one file per family. Needs no node, no tensors and no rclpy."""
