# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The rover arena in Gazebo: SDF models, bridge configuration and the process `gazebo_watch`."""
