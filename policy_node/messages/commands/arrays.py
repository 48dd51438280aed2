# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Commands as arrays of numbers, for the forward controllers of ros2_control."""

from __future__ import annotations

import array
from typing import Any

import numpy as np

from policy_node.messages.command_fields import number_cast
from policy_node.messages.commands import CommandChoices, CommandEncoder, CommandType
from policy_node.messages.fields import MessageClass
from policy_node.messages.types.numbers import FieldSource


class ArrayEncoder(CommandEncoder):
    """Encodes into the arrays of std_msgs: only `data`, without a layout."""

    def __init__(self, message_type: MessageClass, choices: CommandChoices, dtype: np.dtype) -> None:
        super().__init__(message_type(), choices.components)
        self.dtypes = (dtype,) * choices.components
        self._cast = number_cast(dtype)

    def __call__(self, command: np.ndarray, stamp_ns: int) -> Any:
        """See `CommandEncoder`."""
        numbers = np.ascontiguousarray(self._cast(command))
        self._message.data = array.array(numbers.dtype.char, numbers.tobytes())
        return self._message


def _array_type(name: str, dtype: str) -> CommandType:
    return CommandType(
        f"std_msgs/msg/{name}",
        named_by="",
        is_velocity=False,
        make=lambda message_type, choices: ArrayEncoder(message_type, choices, np.dtype(dtype)),
        source=lambda message_type, choices: FieldSource(message_type, ["data"]),
    )


COMMAND_TYPES = (_array_type("Float64MultiArray", "float64"), _array_type("Float32MultiArray", "float32"))
