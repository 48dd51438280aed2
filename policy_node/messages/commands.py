# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Commands of a policy, to the messages that robots listen to."""

from __future__ import annotations

import array
import math
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import numpy as np

from policy_node.messages.fields import MessageClass, MessageTypeError, message_class, numeric_fields
from policy_node.messages.vectors import JOINT_FIELDS, require_unique


class VelocityEncoder:
    """Encodes into geometry_msgs Twist or TwistStamped.

    Parameters
    ----------
    message_type
        Class of the message.
    fields
        The field of each component, such as ``linear.x``, the same for both types; what is not named stays 0.
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
            _set_time(self._header.stamp, stamp_ns)
        return self._message


class ArrayEncoder:
    """Encodes into std_msgs Float64MultiArray, as the forward controllers of ros2_control take it: only `data`."""

    def __init__(self, message_type: MessageClass, components: int) -> None:
        self.message_type = message_type
        self.components = components
        self._message = message_type()

    def __call__(self, command: np.ndarray, stamp_ns: int) -> Any:
        """Return the message of a command `[components]`; the next call changes it."""
        self._message.data = _doubles(command)
        return self._message


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
        if field not in JOINT_FIELDS:
            raise MessageTypeError(f"field '{field}' is not of a JointState; allowed: {', '.join(JOINT_FIELDS)}")
        self.message_type = message_type
        self.components = len(joints)
        self._message = message_type(name=list(joints))
        self._message.header.frame_id = frame_id
        self._field = field

    def __call__(self, command: np.ndarray, stamp_ns: int) -> Any:
        """Return the message of a command `[components]`; the next call changes it."""
        setattr(self._message, self._field, _doubles(command))
        _set_time(self._message.header.stamp, stamp_ns)
        return self._message


class JointTrajectoryEncoder:
    """Encodes into trajectory_msgs JointTrajectory: one point of positions, to be reached `time_from_start_s` later.

    The stamp stays 0, which a joint trajectory controller takes as "from the arrival on": clocks of two machines need
    not agree, and a command that comes late is not rejected.

    Parameters
    ----------
    message_type
        Class of the message.
    joints
        The joint of each component.
    frame_id
        Frame of the message.
    time_from_start_s
        When the positions are to be reached, in seconds, above 0.

    Raises
    ------
    MessageTypeError
        If the time is not above 0.
    """

    def __init__(
        self, message_type: MessageClass, joints: Sequence[str], frame_id: str, time_from_start_s: float
    ) -> None:
        if not 0.0 < time_from_start_s <= 3600.0:
            raise MessageTypeError(f"time_from_start_s is {time_from_start_s}; above 0 s, at most 3600 s is allowed")
        self.message_type = message_type
        self.components = len(joints)
        self._message = message_type(joint_names=list(joints))
        self._message.header.frame_id = frame_id
        self._point = message_class("trajectory_msgs/msg/JointTrajectoryPoint")()
        _set_time(self._point.time_from_start, math.ceil(time_from_start_s * 1e9))
        self._message.points = [self._point]

    def __call__(self, command: np.ndarray, stamp_ns: int) -> Any:
        """Return the message of a command `[components]`; the next call changes it."""
        self._point.positions = _doubles(command)
        return self._message


def require_one_each(what: str, names: Sequence[str], components: int, example: str) -> None:
    """Raise `MessageTypeError` unless every component of the command has a name of its own."""
    if len(names) != components:
        raise MessageTypeError(
            f"{what}: {len(names)} named ({', '.join(names) or 'none'}), the command has {components} components; "
            f"name one for each, as in [{example}]"
        )
    require_unique(what, names)


def _doubles(command: np.ndarray) -> array.array[float]:
    return array.array("d", np.ascontiguousarray(command, np.float64).tobytes())


def _set_time(time: Any, nanoseconds: int) -> None:
    time.sec, time.nanosec = divmod(nanoseconds, 1_000_000_000)
