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

from policy_node_rover.evaluation.evaluate import Driver, PolicyDriver, load_model, run_episodes
from policy_node_rover.evaluation.results import EpisodeResult, RecordedCommands
from policy_node_rover.mujoco.environment import Observation
from policy_node_rover.mujoco.vectorised import RoverArenaVecEnv, wrap_for_policy

ACTION_TOLERANCE = 1e-5
SUCCESS_TOLERANCE_POINTS = 3.0

# Called with the number of episodes that have ended, and of those that succeeded.
Progress: TypeAlias = Callable[[int, int], object]


@dataclass
class ActionComparison:
    """Commands over ROS compared with the actions of the policy in process, step by step.

    `differences` has seed, step and largest difference of a component, in m/s or rad/s, of each step;
    `differing_episodes` the seeds of the episodes that end differently in process with the same commands.
    """

    differences: list[tuple[int, int, float]] = field(default_factory=list)
    differing_episodes: list[int] = field(default_factory=list)

    def add(self, seed: int, step: int, command: np.ndarray, action: np.ndarray) -> None:
        """Compare a command with the action of the policy, both [2]."""
        difference = float(np.nan_to_num(np.abs(command - action), nan=np.inf).max())
        self.differences.append((seed, step, difference))

    def report(self) -> dict[str, Any]:
        """Return the figures of the JSON report."""
        differing = [entry for entry in self.differences if entry[2] > ACTION_TOLERANCE]
        # The first step of the lowest seed.
        first = dict(zip(("seed", "step", "difference"), min(differing), strict=True)) if differing else None
        sizes = [size for _, _, size in self.differences]
        return {
            "tolerance": ACTION_TOLERANCE,
            "steps_compared": len(sizes),
            "steps_equal_bit_by_bit": sizes.count(0.0),
            "steps_that_differ": len(differing),
            "largest_difference": max(sizes, default=0.0),
            "first_difference": first,
            "episodes_that_end_otherwise": self.differing_episodes,
        }


class Reference:
    """The Stable-Baselines3 model of a zip in arenas of this process.

    `keys` are its observation keys, `stack` is how many of the latest observations it takes.
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
            drive = PolicyDriver(self._model)
            steps = np.zeros(arenas.num_envs, int)

            def replay(observations: Observation, starts: np.ndarray) -> np.ndarray:
                """Return the recorded commands [arenas, 2], or the actions after their end."""
                steps[starts] = 0
                actions = drive(observations, starts).astype(np.float64)
                for row, (seed, step) in enumerate(zip(arenas.running_seeds, steps.tolist(), strict=True)):
                    if seed in recorded and step < len(commands := recorded[seed].commands):
                        comparison.add(seed, step, commands[step], actions[row])
                        actions[row] = commands[step]
                steps[:] += 1
                return actions

            return replay

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


def find_problems(success_rate: float, rate_in_process: float, actions: Mapping[str, Any] | None) -> list[str]:
    """Return the differences above the tolerances, one sentence each.

    `actions` is the report of an `ActionComparison`, None in real time.
    """
    problems = []
    # Rounded, as 100 * (1 - 0.97) is not exactly 3.
    points = round(100 * (success_rate - rate_in_process), 6)
    if abs(points) > SUCCESS_TOLERANCE_POINTS:
        problems.append(
            f"over ROS {100 * success_rate:.1f} % of the episodes succeeded, in process {100 * rate_in_process:.1f} %: "
            f"{abs(points):.1f} percentage points apart, allowed are {SUCCESS_TOLERANCE_POINTS:g}"
        )
    if actions and (first := actions["first_difference"]):
        problems.append(
            f"{actions['steps_that_differ']} of {actions['steps_compared']} actions differ by more than "
            f"{ACTION_TOLERANCE:g}, at most by {actions['largest_difference']:g}; the first one at step "
            f"{first['step']} of seed {first['seed']}"
        )
    if actions and (seeds := actions["episodes_that_end_otherwise"]):
        problems.append(
            f"with the same commands {len(seeds)} episodes end differently in process, seeds "
            f"{', '.join(map(str, seeds))}: rover_sim does not simulate as the environment does"
        )
    return problems
