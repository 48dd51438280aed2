# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Commands as velocities: Twist and TwistStamped."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import numpy as np

from policy_node.messages.commands import CommandChoices, CommandEncoder, CommandType, set_time
from policy_node.messages.fields import MessageClass, MessageTypeError, numeric_fields
from policy_node.messages.types.numbers import FieldSource


class VelocityEncoder(CommandEncoder):
    """Encodes into geometry_msgs Twist or TwistStamped; fields without a component stay 0."""

    def __init__(self, message_type: MessageClass, choices: CommandChoices) -> None:
        super().__init__(message_type(), len(choices.fields), choices.frame_id)
        self._header = getattr(self._message, "header", None)
        twist = self._message if self._header is None else self._message.twist
        self._targets: list[tuple[Any, str]] = []
        for path in choices.fields:
            if numeric_fields(type(twist), path)[0].path != path:
                raise MessageTypeError(f"field '{path}' is not a number; name one of its parts, such as '{path}.x'")
            owner, _, name = path.rpartition(".")
            self._targets.append((attrgetter(owner)(twist), name))

    def __call__(self, command: np.ndarray, stamp_ns: int) -> Any:
        """See `CommandEncoder`."""
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
        make=VelocityEncoder,
        source=lambda message_type, choices: FieldSource(message_type, [prefix + path for path in choices.fields]),
    )


COMMAND_TYPES = (
    _velocity_type("geometry_msgs/msg/Twist", ""),
    _velocity_type("geometry_msgs/msg/TwistStamped", "twist."),
)
