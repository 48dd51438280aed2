# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Compare episodes that were driven over ROS with the same episodes in process."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from policy_node_rover.evaluation.drivers import Driver, PolicyDriver, load_model
from policy_node_rover.evaluation.evaluate import run_episodes
from policy_node_rover.evaluation.results import EpisodeResult, RecordedCommands
from policy_node_rover.mujoco.environment import Observation
from policy_node_rover.mujoco.vectorised import RoverArenaVecEnv
from policy_node_rover.mujoco.wrappers import wrap_for_policy

ACTION_TOLERANCE = 1e-5
SUCCESS_TOLERANCE_POINTS = 3.0

# Called with the number of episodes that have ended, and of those that succeeded.
Progress: TypeAlias = Callable[[int, int], object]


@dataclass
class ActionComparison:
    """Commands over ROS compared with the actions of the policy in process, step by step.

    Attributes
    ----------
    largest_difference
        Largest difference of a component, in m/s or rad/s.
    differing_steps
        Number of steps above the tolerance.
    first_difference
        The first such step of each seed, and its difference.
    differing_episodes
        Seeds of the episodes that end differently in process with the same commands.
    """

    steps: int = 0
    equal_steps: int = 0
    largest_difference: float = 0.0
    differing_steps: int = 0
    first_difference: dict[int, tuple[int, float]] = field(default_factory=dict)
    differing_episodes: list[int] = field(default_factory=list)

    def add(self, seed: int, step: int, command: np.ndarray, action: np.ndarray) -> None:
        """Compare a command with the action of the policy, both [2]."""
        difference = float(np.nan_to_num(np.abs(command - action), nan=np.inf).max())
        self.steps += 1
        self.equal_steps += difference == 0.0
        self.largest_difference = max(self.largest_difference, difference)
        if difference > ACTION_TOLERANCE:
            self.differing_steps += 1
            self.first_difference.setdefault(seed, (step, difference))

    @property
    def first(self) -> dict[str, Any] | None:
        """The first differing step of the lowest seed: ``seed``, ``step`` and ``difference``."""
        if not self.first_difference:
            return None
        seed = min(self.first_difference)
        step, difference = self.first_difference[seed]
        return {"seed": seed, "step": step, "difference": difference}

    def report(self) -> dict[str, Any]:
        """Return the figures of the JSON report."""
        return {
            "tolerance": ACTION_TOLERANCE,
            "steps_compared": self.steps,
            "steps_equal_bit_by_bit": self.equal_steps,
            "steps_that_differ": self.differing_steps,
            "largest_difference": self.largest_difference,
            "first_difference": self.first,
            "episodes_that_end_otherwise": self.differing_episodes,
        }


class Reference:
    """The Stable-Baselines3 model of a zip in arenas of this process.

    Attributes
    ----------
    keys, stack
        Observation keys of the model, and how many of the latest observations it takes.
    """

    def __init__(self, path: Path, renderer: str, arenas: int) -> None:
        self._model, self.keys, self.stack = load_model(path, "cpu")
        self._renderer = renderer
        self._arenas = arenas

    def run(self, seeds: range, progress: Progress) -> list[EpisodeResult]:
        """Let the policy drive episodes."""
        return self._run(seeds, lambda _: PolicyDriver(self._model), progress)

    def replay(self, episodes: Sequence[RecordedCommands], progress: Progress) -> ActionComparison:
        """Replay the commands of episodes, and compare each with the action of the policy in the same state.

        The states stay the same, so that a difference of rounding does not grow over the following steps. The seeds of
        the episodes must be successive.
        """
        recorded = {episode.result.seed: episode for episode in episodes}
        comparison = ActionComparison()

        def replay_driver(arenas: RoverArenaVecEnv) -> Driver:
            return _ReplayDriver(arenas, PolicyDriver(self._model), recorded, comparison)

        results = self._run(range(min(recorded), max(recorded) + 1), replay_driver, progress)
        comparison.differing_episodes = sorted(
            result.seed for result in results if result != recorded[result.seed].result
        )
        return comparison

    def _run(
        self, seeds: range, make_driver: Callable[[RoverArenaVecEnv], Driver], progress: Progress
    ) -> list[EpisodeResult]:
        arenas = RoverArenaVecEnv(min(self._arenas, len(seeds)), itertools.count(seeds.start), self._renderer)
        with closing(wrap_for_policy(arenas, self.keys, self.stack)) as wrapped:
            return run_episodes(wrapped, make_driver(arenas), seeds, progress)


class _ReplayDriver:
    """Drive with recorded commands, and compare them with the actions of another driver."""

    def __init__(
        self,
        arenas: RoverArenaVecEnv,
        driver: Driver,
        recorded: Mapping[int, RecordedCommands],
        comparison: ActionComparison,
    ) -> None:
        self._arenas = arenas
        self._driver = driver
        self._recorded = recorded
        self._comparison = comparison
        self._steps = np.zeros(arenas.num_envs, int)

    def __call__(self, observations: Observation, starts: np.ndarray) -> np.ndarray:
        """Return the recorded commands [arenas, 2], or the actions after their end."""
        self._steps[starts] = 0
        actions = self._driver(observations, starts).astype(np.float64)
        for row, (seed, step) in enumerate(zip(self._arenas.running_seeds, self._steps.tolist(), strict=True)):
            if seed in self._recorded and step < len(commands := self._recorded[seed].commands):
                self._comparison.add(seed, step, commands[step], actions[row])
                actions[row] = commands[step]
        self._steps += 1
        return actions


def find_problems(success_rate: float, rate_in_process: float, comparison: ActionComparison | None) -> list[str]:
    """Return the differences above the tolerances, one sentence each; `comparison` is None in real time."""
    problems = []
    # Rounded, as 100 * (1 - 0.97) is not exactly 3.
    points = round(100 * (success_rate - rate_in_process), 6)
    if abs(points) > SUCCESS_TOLERANCE_POINTS:
        problems.append(
            f"over ROS {100 * success_rate:.1f} % of the episodes succeeded, in process {100 * rate_in_process:.1f} %: "
            f"{abs(points):.1f} percentage points apart, allowed are {SUCCESS_TOLERANCE_POINTS:g}"
        )
    if comparison is None:
        return problems
    if (first := comparison.first) is not None:
        problems.append(
            f"{comparison.differing_steps} of {comparison.steps} actions differ by more than {ACTION_TOLERANCE:g}, at "
            f"most by {comparison.largest_difference:g}; the first one at step {first['step']} of seed {first['seed']}"
        )
    if comparison.differing_episodes:
        problems.append(
            f"with the same commands {len(comparison.differing_episodes)} episodes end differently in process, seeds "
            f"{', '.join(map(str, comparison.differing_episodes))}: rover_sim does not simulate as the environment does"
        )
    return problems
