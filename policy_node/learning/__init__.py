# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Train on the robots themselves: a vectorised environment over ROS topics."""
