# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Episodes that rovers play over topics: which rover plays which one, and what came of it; nothing here needs ROS."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from policy_node_rover.mujoco.environment import EPISODE_S
from policy_node_rover.training.evaluate import EpisodeResult

# Simulated time is a sum of time steps.
ROUNDING_S = 1e-6


class Report(NamedTuple):
    """What the simulation tells of a rover's episode, in the order of `rover_i/episode`.

    Attributes
    ----------
    seed
        That of the latest reset, negative without one.
    time_s
        Simulated time since then.
    presses, collisions
        In that time.
    linear_m_s, angular_rad_s
        The last command that the rover obeyed.
    """

    seed: float
    time_s: float
    presses: float
    collisions: float
    linear_m_s: float
    angular_rad_s: float


@dataclass(frozen=True, eq=False)
class Episode:
    """An episode that was played to its end.

    Attributes
    ----------
    result
        What came of it.
    commands
        What the rover obeyed from each report to the next one, float64 [steps, 2]: linear_m_s, angular_rad_s.
    """

    result: EpisodeResult
    commands: np.ndarray


class Dealer:
    """Deals episodes to robots as they become free, and follows each one to its first press or the end of its time.

    Parameters
    ----------
    robots
        How many.
    seeds
        Of the episodes, in the order in which they are dealt.

    Attributes
    ----------
    running
        By index of the robot the seed of the episode that it plays; robots without one have nothing left to do.
    finished
        The episodes that have ended, in that order.
    """

    def __init__(self, robots: int, seeds: Iterable[int]) -> None:
        self._seeds = iter(seeds)
        self._reports: list[list[Report]] = [[] for _ in range(robots)]
        self.running: dict[int, int] = {}
        self.finished: list[Episode] = []
        for robot in range(robots):
            self._deal(robot)

    def has_begun(self, robot: int) -> bool:
        """Whether a robot has been heard in the episode that it is to play."""
        return bool(self._reports[robot])

    def note(self, robot: int, report: Report) -> None:
        """Take note of a report; those of other episodes than the one that the robot is to play mean nothing."""
        if self.running.get(robot) != report.seed:
            return
        reports = self._reports[robot]
        if report.time_s == 0.0:
            # It begins, or begins anew.
            reports.clear()
        elif reports and report.time_s <= reports[-1].time_s:
            return
        reports.append(report)
        if report.presses > 0 or report.time_s >= EPISODE_S - ROUNDING_S:
            self._end(robot)

    def _end(self, robot: int) -> None:
        reports, last = self._reports[robot], self._reports[robot][-1]
        pressed = last.presses > 0 and last.time_s <= EPISODE_S + ROUNDING_S
        result = EpisodeResult(int(last.seed), pressed, last.time_s, int(last.collisions))
        commands = np.array([(report.linear_m_s, report.angular_rad_s) for report in reports[1:]])
        self.finished.append(Episode(result, commands.reshape(-1, 2)))
        self._deal(robot)

    def _deal(self, robot: int) -> None:
        self._reports[robot] = []
        seed = next(self._seeds, None)
        if seed is None:
            self.running.pop(robot, None)
        else:
            self.running[robot] = seed


def ages_while_driven_ms(timing_ms: Sequence[np.ndarray], left_out: int) -> np.ndarray:
    """Return the ages of readings at the commands within episodes.

    Parameters
    ----------
    timing_ms
        What the node told of its ticks, see `NodeMonitor.timing_ms`; an age is NaN where a robot was not driven.
    left_out
        How many ticks before one without readings are left out: a robot that is about to begin anew is silent already,
        and its last readings grow old.

    Returns
    -------
    numpy.ndarray
        float64 [commands].
    """
    ages_ms = np.concatenate(timing_ms)[:, 2:]
    is_driven = np.isfinite(ages_ms)
    kept = is_driven.copy()
    for tick in range(1, left_out + 1):
        kept[:-tick] &= is_driven[tick:]
    return ages_ms[kept]
