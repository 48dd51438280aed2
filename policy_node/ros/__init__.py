# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The ROS 2 side: message types, parameters, subscriptions, diagnostics and the lifecycle node."""
