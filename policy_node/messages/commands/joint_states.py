# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Commands of joints as JointState: targets of positions, velocities or efforts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from policy_node.messages.commands import CommandType, doubles, set_time
from policy_node.messages.fields import MessageClass
from policy_node.messages.types.joint_states import JointSource, check_joint_field


class JointStateEncoder:
    """Encodes into sensor_msgs JointState.

    Parameters
    ----------
    message_type
        Class of the message.
    joints
        The joint of each component.
    field
        What is commanded: position, velocity or effort.
    frame_id
        Frame of the message.

    Raises
    ------
    MessageTypeError
        If there is no such field.
    """

    def __init__(self, message_type: MessageClass, joints: Sequence[str], field: str, frame_id: str) -> None:
        check_joint_field(field)
        self.message_type = message_type
        self.components = len(joints)
        self._message = message_type(name=list(joints))
        self._message.header.frame_id = frame_id
        self._field = field

    def __call__(self, command: np.ndarray, stamp_ns: int) -> Any:
        """Return the message of a command `[components]`; the next call changes it."""
        setattr(self._message, self._field, doubles(command))
        set_time(self._message.header.stamp, stamp_ns)
        return self._message


COMMAND_TYPES = CommandType(
    "sensor_msgs/msg/JointState",
    named_by="joints",
    is_velocity=False,
    has_field=True,
    make=lambda message_type, choices: JointStateEncoder(message_type, choices.joints, choices.field, choices.frame_id),
    source=lambda message_type, choices: JointSource(choices.field, choices.joints),
)
