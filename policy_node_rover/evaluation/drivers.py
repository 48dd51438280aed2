# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Drivers of an evaluation: a policy, the scripted driver, random commands, or standing still."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecTransposeImage
from stable_baselines3.common.vec_env.stacked_observations import StackedObservations

from policy_node.policies import PolicyError, load_policy
from policy_node_rover.mujoco.environment import Observation, action_space, observation_space
from policy_node_rover.mujoco.vectorised import RoverArenaVecEnv

# Maps the observations of all arenas, and whether an episode starts in each, bool [arenas], to actions [arenas, 2].
Driver: TypeAlias = Callable[[Observation, np.ndarray], np.ndarray]

_ALGORITHMS: dict[str, type[BaseAlgorithm]] = {"PPO": PPO, "RecurrentPPO": RecurrentPPO}
REFERENCE_DRIVERS = ("scripted", "random", "still")
_RANDOM_HOLD_STEPS = 20


def load_model(path: Path, device: str) -> tuple[BaseAlgorithm, list[str], int]:
    """Load a PPO or RecurrentPPO model that drives the rover.

    Returns
    -------
    BaseAlgorithm, list[str], int
        The model, its observation keys, and how many of the latest observations it takes.

    Raises
    ------
    SystemExit
        When the file is missing, damaged or of another algorithm, its spaces are not the rover's, or the device does
        not exist.
    """
    # The loader of the node first, for its error messages.
    try:
        spec = load_policy(path, device, trusted=True, format="sb3").spec
    except PolicyError as error:
        raise SystemExit(f"evaluate: {error}") from error
    remedy = "give a model that policy_train trained, such as models/rover.zip"
    if spec.algorithm not in _ALGORITHMS:
        raise SystemExit(
            f"evaluate: policy file '{path}' holds a {spec.algorithm} model, allowed are {' and '.join(_ALGORITHMS)}; "
            f"{remedy}"
        )
    model = _ALGORITHMS[spec.algorithm].load(path, device=device)
    available = observation_space().spaces
    used = {key: space for key, space in available.items() if key in spec.observations}
    model_space = model.observation_space
    stack = 0
    if used and isinstance(model_space, spaces.Dict):
        stack = max(math.prod(model_space[key].shape or ()) // math.prod(used[key].shape or ()) for key in used)
    if not stack or model_space != _wrapped_space(used, stack) or model.action_space != action_space():
        inputs = "; ".join(str(array) for array in spec.observations.values())
        offered = _wrapped_space(available, 1).spaces
        raise SystemExit(
            f"evaluate: policy file '{path}' takes {inputs} and gives {spec.action}; the rover gives "
            f"{', '.join(f'{key} {space.dtype} {list(space.shape or ())}' for key, space in offered.items())}, "
            f"one or several of each, and takes {action_space()}; {remedy}"
        )
    return model, list(used), stack


def reference_driver(name: str, arenas: RoverArenaVecEnv) -> Driver:
    """Return a driver of `REFERENCE_DRIVERS`: scripted, random commands held for 1 s each, or standing still."""
    if name == "scripted":
        return lambda *_: np.array(arenas.env_method("scripted_command"), np.float32)
    if name == "random":
        return _RandomDriver(arenas)
    still = np.zeros((arenas.num_envs, 2), np.float32)
    return lambda *_: still


class PolicyDriver:
    """Drive with the deterministic actions of a model; its memory of an arena is reset when an episode starts.

    `blanked` is an observation key to replace by zeros.
    """

    def __init__(self, model: BaseAlgorithm, blanked: str | None = None) -> None:
        self._model = model
        self._blanked = blanked
        self._memory: tuple[np.ndarray, ...] | None = None

    def __call__(self, observations: Observation, starts: np.ndarray) -> np.ndarray:
        """Return the actions [arenas, 2]."""
        if self._blanked:
            observations = {**observations, self._blanked: np.zeros_like(observations[self._blanked])}
        actions, self._memory = self._model.predict(observations, self._memory, starts, deterministic=True)
        return actions


class _RandomDriver:
    """Draw the commands of an episode from its seed, independent of the number of arenas."""

    def __init__(self, arenas: RoverArenaVecEnv) -> None:
        self._arenas = arenas
        self._space = action_space()
        self._rngs = [np.random.default_rng() for _ in range(arenas.num_envs)]
        self._steps = np.zeros(arenas.num_envs, int)
        self._commands = np.zeros((arenas.num_envs, 2), np.float32)

    def __call__(self, _: Observation, starts: np.ndarray) -> np.ndarray:
        self._steps[starts] = 0
        for row in np.flatnonzero(self._steps % _RANDOM_HOLD_STEPS == 0):
            if starts[row]:
                # Not the random numbers of the layout.
                self._rngs[row] = np.random.default_rng([self._arenas.running_seeds[row], 1])
            self._commands[row] = self._rngs[row].uniform(self._space.low, self._space.high)
        self._steps += 1
        return self._commands.copy()


def _wrapped_space(sensors: dict[str, Any], stack: int) -> spaces.Dict:
    """Return the observation space of wrapped arenas: stacked, images with the channels first."""
    transposed = spaces.Dict(
        {key: VecTransposeImage.transpose_space(space) if key == "image" else space for key, space in sensors.items()}
    )
    space = StackedObservations(1, stack, transposed).stacked_observation_space
    assert isinstance(space, spaces.Dict)
    return space
