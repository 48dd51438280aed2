# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Commands as arrays of numbers, for the forward controllers of ros2_control."""

from __future__ import annotations

from typing import Any

import numpy as np

from policy_node.messages.commands import CommandEncoder, CommandType, doubles
from policy_node.messages.types.numbers import FieldSource


class ArrayEncoder(CommandEncoder):
    """Encodes into std_msgs Float64MultiArray: only `data`, without a layout."""

    def __call__(self, command: np.ndarray, stamp_ns: int) -> Any:
        """See `CommandEncoder`."""
        self._message.data = doubles(command)
        return self._message


COMMAND_TYPES = CommandType(
    "std_msgs/msg/Float64MultiArray",
    named_by="",
    is_velocity=False,
    make=lambda message_type, choices: ArrayEncoder(message_type(), choices.components),
    source=lambda message_type, choices: FieldSource(message_type, ["data"]),
)
