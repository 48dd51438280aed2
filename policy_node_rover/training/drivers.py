# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Who drives in an evaluation: a policy, the scripted driver, or one that knows nothing."""

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

# Takes the observations of all arenas and whether an episode begins in each, bool [arenas]; gives actions [arenas, 2].
Driver: TypeAlias = Callable[[Observation, np.ndarray], np.ndarray]

_ALGORITHMS: dict[str, type[BaseAlgorithm]] = {"PPO": PPO, "RecurrentPPO": RecurrentPPO}
REFERENCES = ("scripted", "random", "still")
_RANDOM_HOLD_STEPS = 20


def load_model(path: Path, device: str) -> tuple[BaseAlgorithm, list[str], int]:
    """Load a PPO or RecurrentPPO model that drives the rover.

    Returns
    -------
    BaseAlgorithm, list[str], int
        The model, which observations it takes, and how many of the latest ones.

    Raises
    ------
    SystemExit
        When the file is missing, damaged or of another algorithm, its spaces are not the rover's, or the device does
        not exist.
    """
    # Our own loader first: it says in one line what is wrong with the file and what to do.
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
    arena = observation_space().spaces
    given = {key: space for key, space in arena.items() if key in spec.observations}
    taken = model.observation_space
    stack = 0
    if given and isinstance(taken, spaces.Dict):
        stack = max(math.prod(taken[key].shape or ()) // math.prod(given[key].shape or ()) for key in given)
    if not stack or taken != _observed_space(given, stack) or model.action_space != action_space():
        inputs = "; ".join(str(array) for array in spec.observations.values())
        offered = _observed_space(arena, 1).spaces
        raise SystemExit(
            f"evaluate: policy file '{path}' takes {inputs} and gives {spec.action}; the rover gives "
            f"{', '.join(f'{key} {space.dtype} {list(space.shape or ())}' for key, space in offered.items())}, "
            f"one or several of each, and takes {action_space()}; {remedy}"
        )
    return model, list(given), stack


def make_driver(name: str, arenas: RoverArenaVecEnv) -> Driver:
    """Return a reference: the scripted driver, random commands that are held for a second each, or standing still.

    The random commands of an episode follow from its seed, so that they do not depend on the number of arenas.
    """
    if name == "scripted":
        return lambda *_: np.array(arenas.env_method("scripted_command"), np.float32)
    if name == "random":
        return _RandomDriver(arenas)
    still = np.zeros((arenas.num_envs, 2), np.float32)
    return lambda *_: still


class PolicyDriver:
    """Drives with a model, which forgets what it remembers of an arena when an episode begins there.

    Parameters
    ----------
    model
        The model.
    blanked
        The observation key in whose place it reads zeros; None for none.
    """

    def __init__(self, model: BaseAlgorithm, blanked: str | None = None) -> None:
        self._model = model
        self._blanked = blanked
        self._memory: tuple[np.ndarray, ...] | None = None

    def __call__(self, observations: Observation, starts: np.ndarray) -> np.ndarray:
        """Return the deterministic actions [arenas, 2]."""
        if self._blanked:
            observations = {**observations, self._blanked: np.zeros_like(observations[self._blanked])}
        actions, self._memory = self._model.predict(observations, self._memory, starts, deterministic=True)
        return actions


class _RandomDriver:
    """Drives at random in each arena."""

    def __init__(self, arenas: RoverArenaVecEnv) -> None:
        self._arenas = arenas
        self._space = action_space()
        self._rngs = [np.random.default_rng() for _ in range(arenas.num_envs)]
        self._steps = np.zeros(arenas.num_envs, int)
        self._held = np.zeros((arenas.num_envs, 2), np.float32)

    def __call__(self, _: Observation, starts: np.ndarray) -> np.ndarray:
        """Return the commands [arenas, 2]."""
        self._steps[starts] = 0
        for row in np.flatnonzero(self._steps % _RANDOM_HOLD_STEPS == 0):
            if starts[row]:
                # Other numbers than those of which the layout was made.
                self._rngs[row] = np.random.default_rng([self._arenas.running_seeds[row], 1])
            self._held[row] = self._rngs[row].uniform(self._space.low, self._space.high)
        self._steps += 1
        return self._held.copy()


def _observed_space(given: dict[str, Any], stack: int) -> spaces.Dict:
    """Return the space of the latest observations of arenas, with the channels of images first."""
    transposed = spaces.Dict(
        {key: VecTransposeImage.transpose_space(space) if key == "image" else space for key, space in given.items()}
    )
    space = StackedObservations(1, stack, transposed).stacked_observation_space
    assert isinstance(space, spaces.Dict)
    return space
