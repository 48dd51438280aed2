# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Commands of joints as JointTrajectory: one point of positions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from policy_node.messages.commands import CommandType, doubles, set_time
from policy_node.messages.fields import MessageClass, MessageTypeError, message_class
from policy_node.messages.layouts import Layout
from policy_node.messages.reading import UnusableReading
from policy_node.messages.types.joint_states import position_of
from policy_node.messages.vectors import ReadNumbers


class JointTrajectoryEncoder:
    """Encodes into trajectory_msgs JointTrajectory: one point of positions, to be reached `time_from_start_s` later.

    The stamp stays 0, which a joint trajectory controller takes as "from the arrival on": the clocks of two machines
    need not agree, and a late command is not rejected.

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
        set_time(self._point.time_from_start, math.ceil(time_from_start_s * 1e9))
        self._message.points = [self._point]

    def __call__(self, command: np.ndarray, stamp_ns: int) -> Any:
        """Return the message of a command `[components]`; the next call changes it."""
        self._point.positions = doubles(command)
        return self._message


class FirstPointSource:
    """The positions of joints in the first point of a trajectory.

    Parameters
    ----------
    joints
        Names of the joints, in the order of the numbers.
    """

    def __init__(self, joints: Sequence[str]) -> None:
        self._joints = list(joints)
        self.dtypes = [np.dtype(np.float64)]
        self.size = len(joints)
        self.compared = ()

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

    def remedy(self, message: Any) -> str:
        """See `NumberSource`."""
        return ""

    def located(self, layout: Layout) -> ReadNumbers | None:
        """See `NumberSource`; places in sequences of messages are not known."""
        return None


COMMAND_TYPES = CommandType(
    "trajectory_msgs/msg/JointTrajectory",
    named_by="joints",
    is_velocity=False,
    make=lambda message_type, choices: JointTrajectoryEncoder(
        message_type, choices.joints, choices.frame_id, choices.time_from_start_s
    ),
    source=lambda message_type, choices: FirstPointSource(choices.joints),
)
