# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Hazards of a Create 3, the base of a TurtleBot 4: which parts of the bumper are pressed, which sensors see a cliff.

The frame of each detection says which sensor it comes from, such as ``bump_front_left`` or ``cliff_side_right``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from policy_node.config.parameters import ReadingChoices
from policy_node.messages.fields import MessageClass, require_unique
from policy_node.messages.types import vector_type
from policy_node.messages.vectors import NumberSource

HAZARDS = "irobot_create_msgs/msg/HazardDetectionVector"
BUMPER = ("bump_left", "bump_front_left", "bump_front_center", "bump_front_right", "bump_right")


class HazardSource(NumberSource):
    """A one for each frame with a detection, else a zero; `fields` names other frames than those of the bumper."""

    dtypes = (np.dtype(np.bool_),)

    def __init__(self, message_type: MessageClass, choices: ReadingChoices) -> None:
        self._frames = choices.paths or BUMPER
        require_unique("fields", self._frames)
        self.size = len(self._frames)

    def numbers(self, message: Any) -> np.ndarray:
        """Return whether each frame has a detection `[frames]` bool."""
        detected = {detection.header.frame_id for detection in message.detections}
        return np.array([frame in detected for frame in self._frames])

    def label(self, message: Any, index: int) -> str:
        """Return the frame of a number."""
        return self._frames[index]


MESSAGE_TYPES = vector_type(
    HAZARDS,
    f"a one for each of the frames {', '.join(f'`{frame}`' for frame in BUMPER)} (or `fields`) with a detection",
    "one per frame",
    HazardSource,
    takes=frozenset({"field", "fields"}),
    refuses="nothing but damaged messages: without a detection all numbers are 0",
)
