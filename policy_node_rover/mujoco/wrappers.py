# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Wrap the arenas so that they give the observations that a policy takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecFrameStack, VecTransposeImage
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from policy_node_rover.mujoco.environment import Observation


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

    Returns
    -------
    VecEnv
        Gives a dict of the keys: images uint8 [arenas, stack * 3, height, width] and touch float32
        [arenas, stack * cells], oldest first, with zeros before the start of an episode.
    """
    assert isinstance(arenas.observation_space, spaces.Dict)
    present = arenas.observation_space.spaces
    if unknown := [key for key in keys if key not in present]:
        raise ValueError(f"observation keys {unknown} are unknown; the arenas give {list(present)}")
    selected = arenas if set(keys) == set(present) else SelectKeys(arenas, keys)
    transposed = VecTransposeImage(selected) if "image" in keys else selected
    return VecFrameStack(transposed, stack) if stack > 1 else transposed
