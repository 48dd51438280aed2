# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Poses: position and orientation, or only the yaw, in a frame that the policy knows."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from policy_node.config.parameters import ReadingChoices
from policy_node.messages.fields import MessageClass
from policy_node.messages.layouts import Layout
from policy_node.messages.reading import UnusableReading
from policy_node.messages.types import PATHS, vector_type
from policy_node.messages.types.numbers import FieldSource
from policy_node.messages.vectors import ReadNumbers

POSE_STAMPED = "geometry_msgs/msg/PoseStamped"
POSITION, ORIENTATION = "pose.position", "pose.orientation"
# What is read for each value of `pose_as`.
_PATHS = {
    "pose": (POSITION, ORIENTATION),
    "position": (POSITION,),
    "orientation": (ORIENTATION,),
    "yaw": (ORIENTATION,),
    "position_yaw": (POSITION, ORIENTATION),
}
_QUATERNION = 4
# A quaternion that is further from length one is no orientation.
_TOLERANCE = 0.01


class PoseSource(FieldSource):
    """The numbers of a PoseStamped: those of paths, or of `pose_as`; with `base_frame` only of poses in that frame."""

    def __init__(self, message_type: MessageClass, choices: ReadingChoices) -> None:
        super().__init__(message_type, choices.paths or _PATHS[choices.pose_as])
        self._has_yaw = not choices.paths and choices.pose_as.endswith("yaw")
        if self._has_yaw:
            assert self.size is not None
            self.size += 1 - _QUATERNION
        self._frame = choices.base_frame
        self._is_known = re.compile(re.escape(self._frame).replace(r"\{robot\}", ".+")).fullmatch
        self.compared = ("header.frame_id",) if self._frame else ()

    def numbers(self, message: Any) -> np.ndarray:
        """Return the numbers of the pose."""
        frame = message.header.frame_id
        if self._frame and not self._is_known(frame):
            raise UnusableReading(f"the pose is in the frame '{frame}', not '{self._frame}'; remove base_frame")
        return self._with_yaw(super().numbers(message))

    def located(self, layout: Layout) -> ReadNumbers | None:
        """See `NumberSource`."""
        read = super().located(layout)
        return read if read is None or not self._has_yaw else lambda raw: self._with_yaw(read(raw))

    def label(self, message: Any, index: int) -> str:
        """Return the name of a number."""
        return "yaw" if self._has_yaw and index == (self.size or 0) - 1 else super().label(message, index)

    def _with_yaw(self, numbers: np.ndarray) -> np.ndarray:
        """Return numbers whose quaternion at the end became its yaw, if that is wanted."""
        if not self._has_yaw:
            return numbers
        x, y, z, w = numbers[-_QUATERNION:].tolist()
        length = float(np.sqrt(x * x + y * y + z * z + w * w))
        if not abs(length - 1.0) <= _TOLERANCE:
            raise UnusableReading(f"the quaternion has length {length:.3g}, an orientation has length 1")
        yaw = np.arctan2(2.0 * (w * z + x * y), 1.0 - 2.0 * (y * y + z * z))
        return np.append(numbers[:-_QUATERNION], yaw)


MESSAGE_TYPES = vector_type(
    POSE_STAMPED,
    "position and orientation (x, y, z, w), or `pose_as`",
    "7",
    PoseSource,
    takes=PATHS | {"pose_as", "base_frame"},
    refuses="NaN and infinity; poses in another frame than `base_frame`; a quaternion whose length is not 1 for a yaw",
)
