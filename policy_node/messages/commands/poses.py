# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Commands as targets of a pose; the orientation is the identity where no component gives it."""

from __future__ import annotations

from policy_node.messages.command_fields import by_fields

COMMAND_TYPES = (
    by_fields("geometry_msgs/msg/Pose"),
    by_fields("geometry_msgs/msg/PoseStamped", "pose."),
)
