# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Commands as velocities: Twist and TwistStamped, and those of ackermann_msgs for cars."""

from __future__ import annotations

from policy_node.messages.command_fields import by_fields

COMMAND_TYPES = (
    by_fields("geometry_msgs/msg/Twist", is_velocity=True),
    by_fields("geometry_msgs/msg/TwistStamped", "twist.", is_velocity=True),
    by_fields("ackermann_msgs/msg/AckermannDrive", is_velocity=True),
    by_fields("ackermann_msgs/msg/AckermannDriveStamped", "drive.", is_velocity=True),
)
