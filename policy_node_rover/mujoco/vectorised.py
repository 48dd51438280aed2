# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Many rover arenas as one vectorised environment of Stable-Baselines3.

Arenas reset automatically: the last observation of an episode is in the info as ``terminal_observation``, and
``TimeLimit.truncated`` tells whether only the time ran out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from operator import attrgetter, methodcaller
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecFrameStack, VecTransposeImage
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from policy_node_rover.arena.conditions import NOMINAL, Conditions
from policy_node_rover.mujoco.environment import Observation, RoverTask, action_space, observation_space
from policy_node_rover.mujoco.workers import Worker, WorkerConfig, WorkerProcess, as_arrays, share_observations


class RoverArenaVecEnv(VecEnv):
    """Many rovers, each in its own arena, simulated by one or several processes.

    Results do not depend on the number of processes. Returned arrays belong to the caller. Processes are spawned, so a
    program that uses several must protect its entry point by ``if __name__ == "__main__":``.

    Parameters
    ----------
    arenas
        Number of arenas.
    episode_seeds
        One seed per episode, in the order in which episodes start.
    renderer
        Kind of the renderer: ``"auto"``, ``"egl"`` or ``"raycast"``.
    processes
        Number of processes, including this one; 0 means one for each CPU. The first arenas are simulated in this one:
        their tasks are in `tasks`, and `renderer` is their renderer.
    conditions
        Distribution of the episodes' conditions.
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
        self.running_seeds = [0] * arenas  # of the episode in each arena
        self._runs = False
        self._returns = np.zeros(arenas)
        self._lengths = np.zeros(arenas, int)
        shared = share_observations(arenas)
        self._observations = as_arrays(shared)
        count = min(processes or len(os.sched_getaffinity(0)), arenas)
        bounds = np.linspace(0, arenas, count + 1).astype(int).tolist()
        first, *others = (
            WorkerConfig(shared, slice(start, stop), renderer, conditions) for start, stop in pairwise(bounds)
        )
        local = Worker(first)
        self.tasks, self.renderer = local.tasks, local.renderer
        self._workers: list[tuple[slice, Worker | WorkerProcess]] = [
            (first.rows, local),
            # All use the renderer that works in this process, or fail.
            *((config.rows, WorkerProcess(config._replace(renderer=self.renderer.kind))) for config in others),
        ]

    def reset(self) -> Observation:
        """Start an episode in every arena: image uint8 [arenas, 64, 64, 3], touch float32 [arenas, 8]."""
        self._runs = True
        for rows, worker in self._workers:
            worker.begin("observe", self._draw_seeds(rows, np.ones(rows.stop - rows.start, bool)))
        for _, worker in self._workers:
            worker.result()
        return self._copy()

    def step_async(self, actions: np.ndarray) -> None:
        """Start to drive all rovers, actions float32 [arenas, 2], for one control period."""
        if np.shape(actions) != (self.num_envs, 2):
            found, wanted = list(np.shape(actions)), [self.num_envs, 2]
            raise ValueError(f"actions: found {found}, but {self.action_space} takes {wanted}")
        if not self._runs:
            raise ResetNeeded("step: no episodes run; call reset first")
        for rows, worker in self._workers:
            worker.begin("step", actions[rows])

    def step_wait(self) -> VecEnvStepReturn:
        """Wait for the step: observations, rewards [arenas], dones [arenas], infos."""
        rewards = np.zeros(self.num_envs, np.float32)
        dones = np.zeros(self.num_envs, bool)
        infos: list[dict[str, Any]] = []
        for rows, worker in self._workers:
            rewards[rows], dones[rows], worker_infos = zip(*worker.result(), strict=True)
            infos += worker_infos
            self._returns[rows] += rewards[rows]
            self._lengths[rows] += 1
            for row in rows.start + np.flatnonzero(dones[rows]):
                info = infos[row]
                # Stable-Baselines3 looks for finished episodes under this key.
                info["episode"] = {"r": float(self._returns[row]), "l": int(self._lengths[row]), "t": info["time_s"]}
                info["seed"] = self.running_seeds[row]
            if dones[rows].any():
                # Seeds are drawn in the order of the rows, whichever worker finishes first.
                worker.begin("observe", self._draw_seeds(rows, dones[rows]))
        for rows, worker in self._workers:
            if dones[rows].any():
                worker.result()
        return self._copy(), rewards, dones, infos

    def close(self) -> None:
        """Close the workers."""
        for _, worker in self._workers:
            worker.close()

    def get_attr(self, attr_name: str, indices: int | Iterable[int] | None = None) -> list[Any]:
        """Return an attribute of the tasks; `render_mode` is that of this environment."""
        if attr_name == "render_mode":
            return [self.render_mode for _ in self._get_indices(indices)]
        return self._apply(attrgetter(attr_name), indices)

    def set_attr(self, attr_name: str, value: Any, indices: int | Iterable[int] | None = None) -> None:
        """Set an attribute of the tasks."""
        self._apply(methodcaller("__setattr__", attr_name, value), indices)

    def env_method(
        self, method_name: str, *arguments: Any, indices: int | Iterable[int] | None = None, **keywords: Any
    ) -> list[Any]:
        """Call a method of the tasks."""
        return self._apply(methodcaller(method_name, *arguments, **keywords), indices)

    def env_is_wrapped(self, wrapper_class: type, indices: int | Iterable[int] | None = None) -> list[bool]:
        """Return False for each arena: tasks are never wrapped."""
        return [False for _ in self._get_indices(indices)]

    def _apply(self, function: Callable[[RoverTask], Any], indices: int | Iterable[int] | None) -> list[Any]:
        wanted = list(self._get_indices(indices))
        rows_of = [sorted({row for row in wanted if rows.start <= row < rows.stop}) for rows, _ in self._workers]
        for (rows, worker), chosen in zip(self._workers, rows_of, strict=True):
            worker.begin("apply", function, [row - rows.start for row in chosen])
        results: dict[int, Any] = {}
        for (_, worker), chosen in zip(self._workers, rows_of, strict=True):
            results.update(zip(chosen, worker.result(), strict=True))
        return [results[row] for row in wanted]

    def _draw_seeds(self, rows: slice, starting: np.ndarray) -> dict[int, int]:
        """Draw the seeds of the starting episodes of a worker, by their row in it."""
        seeds = {index: next(self._episode_seeds) for index in np.flatnonzero(starting).tolist()}
        for index, seed in seeds.items():
            row = rows.start + index
            self.running_seeds[row] = seed
            self._returns[row] = 0.0
            self._lengths[row] = 0
        return seeds

    def _copy(self) -> Observation:
        return {key: values.copy() for key, values in self._observations.items()}


class SelectKeys(VecEnvWrapper):
    """Keep some keys of the observations."""

    def __init__(self, arenas: VecEnv, keys: Sequence[str]) -> None:
        assert isinstance(arenas.observation_space, spaces.Dict)
        kept = {key: space for key, space in arenas.observation_space.spaces.items() if key in keys}
        super().__init__(arenas, observation_space=spaces.Dict(kept))
        self._keys = tuple(kept)

    def reset(self) -> Observation:
        """Start an episode in every arena."""
        return self._select(self.venv.reset())

    def step_wait(self) -> VecEnvStepReturn:
        """Return the step of all arenas; terminal observations have the kept keys, too."""
        observations, rewards, dones, infos = self.venv.step_wait()
        for row in np.flatnonzero(dones):
            infos[row]["terminal_observation"] = self._select(infos[row]["terminal_observation"])
        return self._select(observations), rewards, dones, infos

    def _select(self, observations: VecEnvObs) -> Observation:
        assert isinstance(observations, dict)
        return {key: observations[key] for key in self._keys}


def wrap_for_policy(arenas: VecEnv, keys: Sequence[str], stack: int) -> VecEnv:
    """Select the observation keys of a policy, transpose its images and stack its latest observations.

    The observations are images uint8 [arenas, stack * 3, height, width] and touch float32 [arenas, stack * cells],
    oldest first, with zeros before the start of an episode.
    """
    assert isinstance(arenas.observation_space, spaces.Dict)
    present = arenas.observation_space.spaces
    if unknown := [key for key in keys if key not in present]:
        raise ValueError(f"observation keys {unknown} are unknown; the arenas give {list(present)}")
    selected = arenas if set(keys) == set(present) else SelectKeys(arenas, keys)
    transposed = VecTransposeImage(selected) if "image" in keys else selected
    return VecFrameStack(transposed, stack) if stack > 1 else transposed
