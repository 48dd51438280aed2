# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Episodes that were played over ROS, compared with the same ones in process; nothing here needs ROS."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from policy_node_rover.demo.episodes import Episode
from policy_node_rover.mujoco.environment import Observation
from policy_node_rover.mujoco.vectorised import RoverArenaVecEnv
from policy_node_rover.mujoco.wrappers import wrap_for_policy
from policy_node_rover.training.drivers import Driver, PolicyDriver, load_model
from policy_node_rover.training.evaluate import EpisodeResult, drive_episodes

ACTION_TOLERANCE = 1e-5
SUCCESS_TOLERANCE_POINTS = 3.0

# Is told how many episodes have ended.
Progress: TypeAlias = Callable[[int], object]


class Reference:
    """The model of Stable-Baselines3 in arenas of this process, as `policy_train evaluate` lets it drive.

    Parameters
    ----------
    path
        Zip of the model.
    renderer
        Kind of the renderer: ``"egl"`` or ``"raycast"``.
    arenas
        How many are simulated at once.

    Attributes
    ----------
    keys, stack
        Which observations the model takes, and how many of the latest ones.
    """

    def __init__(self, path: Path, renderer: str, arenas: int) -> None:
        self._model, self.keys, self.stack = load_model(path, "cpu")
        self._renderer = renderer
        self._arenas = arenas

    def play(self, seeds: range, progress: Progress) -> list[EpisodeResult]:
        """Let the policy drive the episodes of some seeds."""
        return self._drive(seeds, lambda _: PolicyDriver(self._model), progress)

    def retrace(self, episodes: Sequence[Episode], progress: Progress) -> Comparison:
        """Drive episodes as they were played, and ask the policy at every step what it would do.

        So a difference in the last digit at one step does not grow with those that follow from it.

        Parameters
        ----------
        episodes
            Of successive seeds, in any order.
        progress
            See `Progress`.
        """
        seeds = sorted(episode.result.seed for episode in episodes)
        commands = {episode.result.seed: episode.commands for episode in episodes}
        comparison = Comparison()

        def retracing(arenas: RoverArenaVecEnv) -> Driver:
            return _Retracing(arenas, PolicyDriver(self._model), commands, comparison)

        results = self._drive(range(seeds[0], seeds[-1] + 1), retracing, progress)
        played = {episode.result.seed: episode.result for episode in episodes}
        comparison.other_episodes = sorted(result.seed for result in results if result != played[result.seed])
        return comparison

    def _drive(
        self, seeds: range, make_driver: Callable[[RoverArenaVecEnv], Driver], progress: Progress
    ) -> list[EpisodeResult]:
        count = min(self._arenas, len(seeds))
        rovers = RoverArenaVecEnv(count, itertools.count(seeds.start), self._renderer)
        with closing(wrap_for_policy(rovers, self.keys, self.stack)) as arenas:
            results = drive_episodes(arenas, _counting(make_driver(rovers), rovers, seeds, progress), seeds)
        progress(len(seeds))
        return results


@dataclass
class Comparison:
    """Commands of episodes over ROS beside what the policy in process does at the same steps.

    Attributes
    ----------
    steps, equal_steps
        How many were compared, and how many of them are the same bit by bit.
    largest_difference
        Of a component of an action, in m/s or rad/s.
    differing_steps
        How many differ by more than the tolerance.
    first_difference
        By seed the first step that does, and its difference.
    other_episodes
        Seeds of the episodes that end otherwise in process with the same commands.
    """

    steps: int = 0
    equal_steps: int = 0
    largest_difference: float = 0.0
    differing_steps: int = 0
    first_difference: dict[int, tuple[int, float]] = field(default_factory=dict)
    other_episodes: list[int] = field(default_factory=list)

    def note(self, seed: int, step: int, command: np.ndarray, action: np.ndarray) -> None:
        """Compare what was commanded with the action of the policy, both [2]."""
        # What is no number is as far away as can be.
        difference = float(np.nan_to_num(np.abs(command - action), nan=np.inf).max())
        self.steps += 1
        self.equal_steps += difference == 0.0
        self.largest_difference = max(self.largest_difference, difference)
        if difference > ACTION_TOLERANCE:
            self.differing_steps += 1
            self.first_difference.setdefault(seed, (step, difference))

    @property
    def first(self) -> dict[str, Any] | None:
        """The first step of the lowest seed that differs: ``seed``, ``step`` and ``difference``; None: none does."""
        if not self.first_difference:
            return None
        seed = min(self.first_difference)
        step, difference = self.first_difference[seed]
        return {"seed": seed, "step": step, "difference": difference}

    def report(self) -> dict[str, Any]:
        """Return what is written of it."""
        return {
            "tolerance": ACTION_TOLERANCE,
            "steps_compared": self.steps,
            "steps_equal_bit_by_bit": self.equal_steps,
            "steps_that_differ": self.differing_steps,
            "largest_difference": self.largest_difference,
            "first_difference": self.first,
            "episodes_that_end_otherwise": self.other_episodes,
        }


class _Retracing:
    """Drives as was driven before, and compares that with what a driver would do."""

    def __init__(
        self, arenas: RoverArenaVecEnv, drive: Driver, commands: Mapping[int, np.ndarray], comparison: Comparison
    ) -> None:
        self._arenas = arenas
        self._drive = drive
        self._commands = commands
        self._comparison = comparison
        self._steps = np.zeros(arenas.num_envs, int)

    def __call__(self, observations: Observation, starts: np.ndarray) -> np.ndarray:
        """Return the commands as they were played [arenas, 2], or the actions where nothing was."""
        self._steps[starts] = 0
        actions = self._drive(observations, starts).astype(np.float64)
        for row, (seed, step) in enumerate(zip(self._arenas.running_seeds, self._steps.tolist(), strict=True)):
            played = self._commands.get(seed, ())
            if step < len(played):
                self._comparison.note(seed, step, played[step], actions[row])
                actions[row] = played[step]
        self._steps += 1
        return actions


def _counting(drive: Driver, arenas: RoverArenaVecEnv, seeds: range, progress: Progress) -> Driver:
    """Return the driver, which tells at every step how many episodes of some seeds have ended."""

    def drive_and_count(observations: Observation, starts: np.ndarray) -> np.ndarray:
        running = arenas.running_seeds
        begun = min(max(running) + 1, seeds.stop) - seeds.start
        progress(begun - sum(seed in seeds for seed in running))
        return drive(observations, starts)

    return drive_and_count


def shortcomings(success_rate: float, rate_in_process: float, comparison: Comparison | None) -> list[str]:
    """Return why the goal is missed, a sentence each; nothing: it is reached.

    Parameters
    ----------
    success_rate, rate_in_process
        Shares of the episodes that succeeded over ROS and in process.
    comparison
        Of the actions, None in real time.
    """
    found = []
    # Rounded, as 97 % are not exactly 3 points less than 100 %.
    points = round(100 * (success_rate - rate_in_process), 6)
    if abs(points) > SUCCESS_TOLERANCE_POINTS:
        found.append(
            f"over ROS {100 * success_rate:.1f} % of the episodes succeeded, in process {100 * rate_in_process:.1f} %: "
            f"{abs(points):.1f} percentage points apart, allowed are {SUCCESS_TOLERANCE_POINTS:g}"
        )
    if comparison is None:
        return found
    if (first := comparison.first) is not None:
        found.append(
            f"{comparison.differing_steps} of {comparison.steps} actions differ by more than {ACTION_TOLERANCE:g}, at "
            f"most by {comparison.largest_difference:g}; the first one at step {first['step']} of seed {first['seed']}"
        )
    if comparison.other_episodes:
        found.append(
            f"with the same commands {len(comparison.other_episodes)} episodes end otherwise in process, seeds "
            f"{', '.join(map(str, comparison.other_episodes))}: rover_sim does not simulate as the environment does"
        )
    return found
