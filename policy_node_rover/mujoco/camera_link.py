# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The way of a camera's images to the policy, on which they are late and some are lost."""

from __future__ import annotations

from collections import deque

import numpy as np

from policy_node_rover.arena.description import ROVER

_SHAPE = (ROVER.camera_size_px, ROVER.camera_size_px, 3)


class CameraLink:
    """Brings one image per control period, uint8 [height, width, 3], or the newest one that came before.

    Until `restart` is called images are neither late nor lost.
    """

    def __init__(self) -> None:
        self.restart(0, 0.0, np.random.default_rng(0))

    def restart(self, late_periods: int, lost: float, rng: np.random.Generator) -> None:
        """Begin an episode.

        Parameters
        ----------
        late_periods
            How many control periods an image takes.
        lost
            Share of the images that never arrive. The first one always does, and at once: nothing moved before it.
        rng
            Draws which ones are lost.
        """
        self._late_periods = late_periods
        self._lost = lost
        self._rng = rng
        self._under_way: deque[np.ndarray | None] = deque()
        self._newest: np.ndarray | None = None

    def send(self) -> np.ndarray | None:
        """Send the image of this control period: return the array to draw it into, or None when it will be lost."""
        lost = self._newest is not None and self._lost > 0.0 and self._rng.random() < self._lost
        image = None if lost else np.empty(_SHAPE, np.uint8)
        self._under_way.append(image)
        if self._newest is None:
            self._newest = image
        return image

    def receive(self) -> np.ndarray:
        """Return the newest image that has arrived, once in every control period and after it was drawn."""
        if len(self._under_way) > self._late_periods:
            arrived = self._under_way.popleft()
            if arrived is not None:
                self._newest = arrived
        if self._newest is None:
            raise RuntimeError("camera link: no image was sent since the episode began; call send before receive")
        return self._newest
