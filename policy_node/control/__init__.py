# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The tick without ROS: observe, act, guard, commit; limits, safe commands and timing."""
