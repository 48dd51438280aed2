# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The cameras of many arenas, drawn by several threads: MuJoCo draws without Python's lock.

Moving an arena holds the lock most of the time, so that threads would only wait for each other there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from policy_node.simulation.arena import Arena
from policy_node.simulation.mujoco_model import ArenaModel
from policy_node.simulation.rendering import Renderer, make_renderer

# An arena and where its image goes.
Job = tuple[Arena, np.ndarray]


class Cameras:
    """Draws what the cameras of many arenas see.

    Parameters
    ----------
    model
        The model of all arenas.
    kind
        Kind of the renderers: ``"auto"``, ``"egl"`` or ``"raycast"``.
    threads
        How many draw, the caller's among them; 0 means one for each CPU of this process.

    Attributes
    ----------
    renderer
        The renderer of the caller's thread.
    """

    def __init__(self, model: ArenaModel, kind: str = "auto", threads: int = 0) -> None:
        count = threads or len(os.sched_getaffinity(0))
        self.renderer = make_renderer(model, kind)
        self._helpers = [make_renderer(model, self.renderer.kind) for _ in range(count - 1)]
        for renderer in self._helpers:
            renderer.release()
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="camera")

    def draw(self, jobs: Sequence[Job]) -> None:
        """Draw every image into its array."""
        left = iter(jobs)
        drawing = [self._pool.submit(_draw, renderer, left) for renderer in self._helpers]
        _draw(self.renderer, left)
        for helper in drawing:
            helper.result()

    def close(self) -> None:
        """End the threads and free the renderers."""
        self._pool.shutdown()
        for renderer in (self.renderer, *self._helpers):
            renderer.close()


def _draw(renderer: Renderer, left: Iterator[Job]) -> None:
    """Draw what is left, of which every thread takes one after the other."""
    try:
        for arena, image in left:
            renderer.camera(arena, image)
    finally:
        renderer.release()
