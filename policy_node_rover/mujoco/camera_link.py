# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Simulate latency and loss of camera images."""

from __future__ import annotations

from collections import deque

import numpy as np

from policy_node_rover.arena.description import ROVER

_SHAPE = (ROVER.camera_size_px, ROVER.camera_size_px, 3)


class CameraLink:
    """Transmit one image per control period, uint8 [height, width, 3]; ideal until `restart` is called."""

    def __init__(self) -> None:
        self.restart(0, 0.0, np.random.default_rng(0))

    def restart(self, latency_periods: int, loss: float, rng: np.random.Generator) -> None:
        """Start an episode.

        Parameters
        ----------
        latency_periods
            Latency in control periods. The first image of an episode arrives at once.
        loss
            Probability that an image is lost. The first one never is.
        rng
            Draws the lost images.
        """
        self._latency_periods = latency_periods
        self._loss = loss
        self._rng = rng
        self._in_flight: deque[np.ndarray | None] = deque()
        self._newest: np.ndarray | None = None

    def send(self) -> np.ndarray | None:
        """Send the image of this control period: return the array to render into, or None if it will be lost."""
        lost = self._newest is not None and self._loss > 0.0 and self._rng.random() < self._loss
        image = None if lost else np.empty(_SHAPE, np.uint8)
        self._in_flight.append(image)
        if self._newest is None:
            self._newest = image
        return image

    def receive(self) -> np.ndarray:
        """Return the newest image that has arrived; call it once per control period, after rendering."""
        if len(self._in_flight) > self._latency_periods:
            arrived = self._in_flight.popleft()
            if arrived is not None:
                self._newest = arrived
        if self._newest is None:
            raise RuntimeError("camera link: no image was sent in this episode; call send before receive")
        return self._newest
