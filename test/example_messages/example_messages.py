# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Polar coordinates of a point, images of inverted grey, and pushes as Vector3."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from policy_node.messages.commands import CommandEncoder, CommandType
from policy_node.messages.encodings import Encoding
from policy_node.messages.types import vector_type
from policy_node.messages.types.numbers import FieldSource


class PolarSource(FieldSource):
    """Distance and bearing of a point, from its coordinates."""

    def __init__(self, message_type: Any) -> None:
        super().__init__(message_type, ["point.x", "point.y"])

    def numbers(self, message: Any) -> np.ndarray:
        """Return distance and bearing `[2]`."""
        x, y = super().numbers(message)
        return np.array([math.hypot(x, y), math.atan2(y, x)])

    def located(self, layout: Any) -> None:
        """Return None: every message is deserialised."""
        return None


class PushEncoder(CommandEncoder):
    """Encodes into geometry_msgs Vector3."""

    def __call__(self, command: np.ndarray, stamp_ns: int) -> Any:
        """Return the message of a command `[3]`; the next call changes it."""
        self._message.x, self._message.y, self._message.z = command.tolist()
        return self._message


POINT = vector_type(
    "geometry_msgs/msg/PointStamped",
    "distance and bearing",
    "2",
    lambda message_type, choices: PolarSource(message_type),
    takes=frozenset(),
)
INVERTED = Encoding("inverted8", np.dtype(np.uint8), 1)
PUSH = CommandType(
    "geometry_msgs/msg/Vector3",
    named_by="",
    is_velocity=False,
    make=lambda message_type, choices: PushEncoder(message_type(), 3),
    source=lambda message_type, choices: FieldSource(message_type, ["x", "y", "z"]),
)
