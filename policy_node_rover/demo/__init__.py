# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Demonstrate the policy over ROS, and evaluate it as it is deployed (`policy_demo`)."""
