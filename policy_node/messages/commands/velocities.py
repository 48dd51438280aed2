# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Commands as velocities: Twist and TwistStamped."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import numpy as np

from policy_node.messages.commands import CommandType, set_time
from policy_node.messages.fields import MessageClass, MessageTypeError, numeric_fields
from policy_node.messages.types.numbers import FieldSource


class VelocityEncoder:
    """Encodes into geometry_msgs Twist or TwistStamped.

    Parameters
    ----------
    message_type
        Class of the message.
    fields
        The field of each component, such as ``linear.x``, the same for both types; other fields stay 0.
    frame_id
        Frame of a TwistStamped.

    Raises
    ------
    MessageTypeError
        If a field does not exist or is not a number.
    """

    def __init__(self, message_type: MessageClass, fields: Sequence[str], frame_id: str) -> None:
        self.message_type = message_type
        self.components = len(fields)
        self._message = message_type()
        self._header = getattr(self._message, "header", None)
        twist = self._message
        if self._header is not None:
            self._header.frame_id = frame_id
            twist = self._message.twist
        self._targets: list[tuple[Any, str]] = []
        for path in fields:
            if numeric_fields(type(twist), path)[0].path != path:
                raise MessageTypeError(f"field '{path}' is not a number; name one of its parts, such as '{path}.x'")
            owner, _, name = path.rpartition(".")
            self._targets.append((attrgetter(owner)(twist), name))

    def __call__(self, command: np.ndarray, stamp_ns: int) -> Any:
        """Return the message of a command `[components]`; the next call changes it."""
        for (owner, name), value in zip(self._targets, command.tolist(), strict=True):
            setattr(owner, name, value)
        if self._header is not None:
            set_time(self._header.stamp, stamp_ns)
        return self._message


def _velocity_type(name: str, prefix: str) -> CommandType:
    return CommandType(
        name,
        named_by="fields",
        is_velocity=True,
        make=lambda message_type, choices: VelocityEncoder(message_type, choices.fields, choices.frame_id),
        source=lambda message_type, choices: FieldSource(message_type, [prefix + path for path in choices.fields]),
    )


COMMAND_TYPES = (
    _velocity_type("geometry_msgs/msg/Twist", ""),
    _velocity_type("geometry_msgs/msg/TwistStamped", "twist."),
)
