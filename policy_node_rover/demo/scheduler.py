# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Assign episodes to rovers, and follow each one to its end; independent of ROS."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from policy_node_rover.evaluation.results import EpisodeResult, RecordedCommands
from policy_node_rover.mujoco.environment import EPISODE_S

# Simulated time is a sum of time steps.
ROUNDING_S = 1e-6


class EpisodeStatus(NamedTuple):
    """Status of a rover's episode, in the order of `rover_i/episode`.

    The seed is that of the latest reset, negative without one; time and counts are since then.
    """

    seed: float
    time_s: float
    presses: float
    collisions: float
    linear_m_s: float
    angular_rad_s: float


class EpisodeScheduler:
    """Give the next seed to each rover that has finished an episode, by a press or after the maximum time.

    Attributes
    ----------
    running
        Seed of the present episode by index of the rover; rovers without one have finished.
    finished
        Finished episodes in the order of their ends.
    """

    def __init__(self, robots: int, seeds: Iterable[int]) -> None:
        self._seeds = iter(seeds)
        self._statuses: list[list[EpisodeStatus]] = [[] for _ in range(robots)]
        self.running: dict[int, int] = {}
        self.finished: list[RecordedCommands] = []
        for robot in range(robots):
            self._assign(robot)

    def has_started(self, robot: int) -> bool:
        """Return whether a status of the rover's present episode was received."""
        return bool(self._statuses[robot])

    def update(self, robot: int, status: EpisodeStatus) -> None:
        """Add a status; those of other episodes are ignored."""
        if self.running.get(robot) != status.seed:
            return
        statuses = self._statuses[robot]
        if status.time_s == 0.0:
            # The episode starts, or was reset again.
            statuses.clear()
        elif statuses and status.time_s <= statuses[-1].time_s:
            return
        statuses.append(status)
        if status.presses > 0 or status.time_s >= EPISODE_S - ROUNDING_S:
            self._finish(robot)

    def _finish(self, robot: int) -> None:
        statuses, last = self._statuses[robot], self._statuses[robot][-1]
        pressed = last.presses > 0 and last.time_s <= EPISODE_S + ROUNDING_S
        result = EpisodeResult(int(last.seed), pressed, last.time_s, int(last.collisions))
        commands = np.array([(status.linear_m_s, status.angular_rad_s) for status in statuses[1:]])
        self.finished.append(RecordedCommands(result, commands.reshape(-1, 2)))
        self._assign(robot)

    def _assign(self, robot: int) -> None:
        self._statuses[robot] = []
        seed = next(self._seeds, None)
        if seed is None:
            self.running.pop(robot, None)
        else:
            self.running[robot] = seed


def ages_in_episodes_ms(timing_ms: Sequence[np.ndarray], omitted_ticks: int) -> np.ndarray:
    """Return the ages of readings at the commands within episodes, float64 [commands].

    `timing_ms` is that of `NodeMonitor`; an age is NaN where a robot was not driven. Some ticks before one without
    readings are omitted: a rover that was reset publishes nothing for a while, and its last readings age.
    """
    ages_ms = np.concatenate(timing_ms)[:, 2:]
    is_driven = np.isfinite(ages_ms)
    kept = is_driven.copy()
    for tick in range(1, omitted_ticks + 1):
        kept[:-tick] &= is_driven[tick:]
    return ages_ms[kept]
