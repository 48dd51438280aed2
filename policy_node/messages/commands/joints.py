# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Commands of joints: JointState with positions, velocities or efforts, and JointTrajectory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from policy_node.messages.command_fields import write_constants
from policy_node.messages.commands import CommandChoices, CommandEncoder, CommandType, doubles, set_time
from policy_node.messages.fields import MessageClass, MessageTypeError, message_class
from policy_node.messages.reading import UnusableReading
from policy_node.messages.types.joint_states import JointSource, check_joint_field, position_of
from policy_node.messages.vectors import NumberSource


class JointStateEncoder(CommandEncoder):
    """Encodes into sensor_msgs JointState."""

    def __init__(self, message_type: MessageClass, choices: CommandChoices) -> None:
        check_joint_field(choices.field)
        super().__init__(message_type(name=list(choices.joints)), len(choices.joints), choices.frame_id)
        self._field = choices.field
        written = write_constants(self._message, choices.constants)
        taken = {"name", choices.field}.intersection(path.partition("[")[0] for path in written)
        if taken:
            raise MessageTypeError(
                f"constants: {', '.join(sorted(taken))} follows from the command; remove the constant"
            )

    def __call__(self, command: np.ndarray, stamp_ns: int) -> Any:
        """See `CommandEncoder`."""
        setattr(self._message, self._field, doubles(command))
        set_time(self._message.header.stamp, stamp_ns)
        return self._message


class JointTrajectoryEncoder(CommandEncoder):
    """Encodes into trajectory_msgs JointTrajectory: points of positions, each `time_from_start_s` after the one before.

    The stamp stays 0, which a joint trajectory controller takes as "from the arrival on": the clocks of two machines
    need not agree, and a late command is not rejected.
    """

    def __init__(self, message_type: MessageClass, choices: CommandChoices) -> None:
        time_s = choices.time_from_start_s
        if not 0.0 < time_s <= 3600.0:
            raise MessageTypeError(f"time_from_start_s is {time_s}; above 0 s, at most 3600 s is allowed")
        self._joints, points = len(choices.joints), choices.points
        message = message_type(joint_names=list(choices.joints))
        super().__init__(message, self._joints * points, choices.frame_id, points)
        self._points = [message_class("trajectory_msgs/msg/JointTrajectoryPoint")() for _ in range(points)]
        for number, point in enumerate(self._points, 1):
            set_time(point.time_from_start, number * math.ceil(time_s * 1e9))
        message.points = self._points

    def __call__(self, command: np.ndarray, stamp_ns: int) -> Any:
        """See `CommandEncoder`; the positions of the first point come first."""
        for start, point in enumerate(self._points):
            point.positions = doubles(command[start * self._joints : (start + 1) * self._joints])
        return self._message


class FirstPointSource(NumberSource):
    """The positions of some joints, in their order, in the first point of a trajectory."""

    dtypes = (np.dtype(np.float64),)

    def __init__(self, joints: Sequence[str]) -> None:
        self._joints = list(joints)
        self.size = len(joints)

    def numbers(self, message: Any) -> np.ndarray:
        """Return the positions `[joints]`; raises UnusableReading."""
        positions = message.points[0].positions if message.points else ()
        if len(positions) != len(message.joint_names):
            raise UnusableReading(
                f"{len(positions)} positions in the first point for {len(message.joint_names)} joints"
            )
        return np.asarray(positions)[[position_of(message.joint_names, joint) for joint in self._joints]]

    def label(self, message: Any, index: int) -> str:
        """Return the joint of a position."""
        return f"position of joint '{self._joints[index]}'"


COMMAND_TYPES = (
    CommandType(
        "sensor_msgs/msg/JointState",
        named_by="joints",
        is_velocity=False,
        has_field=True,
        has_constants=True,
        make=JointStateEncoder,
        source=lambda message_type, choices: JointSource(choices.field, choices.joints),
    ),
    CommandType(
        "trajectory_msgs/msg/JointTrajectory",
        named_by="joints",
        is_velocity=False,
        has_points=True,
        make=JointTrajectoryEncoder,
        source=lambda message_type, choices: FirstPointSource(choices.joints),
    ),
)
