# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Many rover arenas as one environment of Stable-Baselines3, in this process or in several.

`environment.py` says what is observed, commanded and rewarded. An arena whose episode ends starts the next one by
itself; the last observation is then in the info as ``terminal_observation``, and ``TimeLimit.truncated`` says whether
only the time ran out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import pairwise
from operator import attrgetter, methodcaller
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from policy_node_rover.arena.conditions import NOMINAL, Conditions
from policy_node_rover.mujoco.environment import Observation, RoverTask, action_space, observation_space
from policy_node_rover.mujoco.rover_group import Calls, DirectCalls, ObservationArrays, ProcessCalls, RoverGroup, Share


class RoverArenaVecEnv(VecEnv):
    """Many rovers, each in its own arena, in this process or in several that move and draw at the same time.

    What comes of them does not depend on the number of processes. All values of a step are in arrays over the arenas,
    which belong to the caller. As other processes are started afresh, a program that asks for them must begin below
    ``if __name__ == "__main__":``.

    Parameters
    ----------
    arenas
        How many.
    episode_seeds
        One seed for every episode that starts, in the order of starting.
    renderer
        Kind of the renderer: ``"auto"``, ``"egl"`` or ``"raycast"``.
    processes
        How many simulate and draw, this one among them; 0 means one for each CPU of this process.
    conditions
        From what those of an episode are drawn.

    Attributes
    ----------
    renderer
        The renderer of this process, for the thread that steps.
    tasks
        The tasks of the first arenas: those that are in this process.
    running_seeds
        The seed of the running episode of each arena.
    """

    def __init__(
        self,
        arenas: int,
        episode_seeds: Iterator[int],
        renderer: str = "auto",
        processes: int = 1,
        conditions: Conditions = NOMINAL,
    ) -> None:
        self.render_mode = None
        super().__init__(arenas, observation_space(), action_space())
        self._episode_seeds = episode_seeds
        self.running_seeds = [0] * arenas
        self._returns = np.zeros(arenas)
        self._lengths = np.zeros(arenas, int)
        observations = ObservationArrays(arenas)
        self._observed = {"image": observations.image, "touch": observations.touch}
        count = min(processes or len(os.sched_getaffinity(0)), arenas)
        bounds = np.linspace(0, arenas, count + 1).astype(int).tolist()
        own, *others = (
            Share(observations, slice(start, stop), renderer, conditions) for start, stop in pairwise(bounds)
        )
        group = RoverGroup(own)
        self.tasks, self.renderer = group.tasks, group.renderer
        self._groups: list[tuple[slice, Calls]] = [
            (own.rows, DirectCalls(group)),
            # They draw as this one does, or not at all.
            *((share.rows, ProcessCalls(replace(share, renderer=self.renderer.kind))) for share in others),
        ]

    def reset(self) -> Observation:
        """Start an episode in every arena: image uint8 [arenas, 64, 64, 3], touch float32 [arenas, 8]."""
        for rows, calls in self._groups:
            calls.begin("observe", self._draw_seeds(rows, np.ones(rows.stop - rows.start, bool)))
        for _, calls in self._groups:
            calls.result()
        return self._copy()

    def step_async(self, actions: np.ndarray) -> None:
        """Begin to drive all rovers, actions float32 [arenas, 2], for one control period."""
        for rows, calls in self._groups:
            calls.begin("move", actions[rows])

    def step_wait(self) -> tuple[Observation, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Wait until all rovers have been driven: observations, rewards [arenas], dones [arenas], infos."""
        rewards = np.zeros(self.num_envs, np.float32)
        dones = np.zeros(self.num_envs, bool)
        infos: list[dict[str, Any]] = []
        for rows, calls in self._groups:
            rewards[rows], dones[rows], moved = zip(*calls.result(), strict=True)
            infos += moved
            self._returns[rows] += rewards[rows]
            self._lengths[rows] += 1
            for row in rows.start + np.flatnonzero(dones[rows]):
                info = infos[row]
                # The key under which Stable-Baselines3 looks for finished episodes.
                info["episode"] = {"r": float(self._returns[row]), "l": int(self._lengths[row]), "t": info["time_s"]}
                info["seed"] = self.running_seeds[row]
            if dones[rows].any():
                # Episodes start in the order of the rows, whichever group has moved first.
                calls.begin("observe", self._draw_seeds(rows, dones[rows]))
        for rows, calls in self._groups:
            if dones[rows].any():
                calls.result()
        return self._copy(), rewards, dones, infos

    def restart_seeds(self, episode_seeds: Iterator[int]) -> None:
        """Take the seeds of all episodes that start from now on from another sequence."""
        self._episode_seeds = episode_seeds

    def close(self) -> None:
        """End the groups."""
        for _, calls in self._groups:
            calls.close()

    def get_attr(self, attr_name: str, indices: int | Iterable[int] | None = None) -> list[Any]:
        """Return an attribute of the tasks; the attribute `render_mode` is the same for all."""
        if attr_name == "render_mode":
            return [self.render_mode for _ in self._get_indices(indices)]
        return self._of_tasks(attrgetter(attr_name), indices)

    def set_attr(self, attr_name: str, value: Any, indices: int | Iterable[int] | None = None) -> None:
        """Set an attribute of the tasks."""
        self._of_tasks(methodcaller("__setattr__", attr_name, value), indices)

    def env_method(
        self, method_name: str, *arguments: Any, indices: int | Iterable[int] | None = None, **keywords: Any
    ) -> list[Any]:
        """Call a method of the tasks."""
        return self._of_tasks(methodcaller(method_name, *arguments, **keywords), indices)

    def env_is_wrapped(self, wrapper_class: type, indices: int | Iterable[int] | None = None) -> list[bool]:
        """Say that no task is wrapped."""
        return [False for _ in self._get_indices(indices)]

    def _of_tasks(self, call: Callable[[RoverTask], Any], indices: int | Iterable[int] | None) -> list[Any]:
        wanted = list(self._get_indices(indices))
        found: dict[int, Any] = {}
        asked = [sorted({row for row in wanted if rows.start <= row < rows.stop}) for rows, _ in self._groups]
        for (rows, calls), those in zip(self._groups, asked, strict=True):
            calls.begin("each", call, [row - rows.start for row in those])
        for (_, calls), those in zip(self._groups, asked, strict=True):
            found.update(zip(those, calls.result(), strict=True))
        return [found[row] for row in wanted]

    def _draw_seeds(self, rows: slice, starting: np.ndarray) -> dict[int, int]:
        """Draw the seeds of the episodes that start in a group, by their place in it."""
        seeds = {place: next(self._episode_seeds) for place in np.flatnonzero(starting).tolist()}
        for place, seed in seeds.items():
            row = rows.start + place
            self.running_seeds[row] = seed
            self._returns[row] = 0.0
            self._lengths[row] = 0
        return seeds

    def _copy(self) -> Observation:
        """Return what all rovers observe."""
        return {key: values.copy() for key, values in self._observed.items()}
