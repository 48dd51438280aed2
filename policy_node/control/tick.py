# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The results of the steps of one tick: observation, actions, commands, what left, and a snapshot of the whole tick."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from policy_node.engines.inference import Inferred
from policy_node.sensing.samples import Sample
from policy_node.sensing.synchroniser import RobotState


class Observed(NamedTuple):
    """The observation of all robots at one tick, before the policy acts."""

    #: Times of this tick and of the one before, on the clock of the stamps.
    now_ns: int
    previous_ns: int
    #: Time at which `now_ns` was read, on the clock of `time.perf_counter`.
    started_s: float
    #: One per robot; the reason is empty when READY.
    states: tuple[RobotState, ...]
    reasons: tuple[str, ...]
    #: `[robots]` float64: age of the robot's oldest synchronised reading; NaN without a set of readings.
    ages_s: np.ndarray
    #: `[robots]` bool: robots that the policy acts for.
    ready: np.ndarray
    #: `[robots]` bool: ready robots whose history and memory restart.
    fresh_start: np.ndarray
    #: `[robots]` bool: robots that are stopped, or left to another node.
    stopped: np.ndarray
    #: `[robots]` bool: robots that were driven before a pause in which no tick ran.
    unseen_gap: np.ndarray
    #: By robot the readings that were chosen, in the order of the sensors.
    samples: tuple[tuple[Sample, ...], ...]
    #: By robot the reading of the safe position; None where none was usable or needed.
    positions: tuple[Sample | None, ...]
    #: By robot what happened to its episode since the last tick: nothing (empty), `reset` or `overruled`.
    before: tuple[str, ...]
    #: Seconds that each stage took.
    stages_s: dict[str, float]


class Actions(NamedTuple):
    """The commands that the policy wants, limited on the device."""

    #: The commands; rows of robots that are not ready mean nothing.
    inferred: Inferred
    #: `[robots, components]` float64: the command that each robot follows until now, from which changes are limited.
    present: np.ndarray
    #: Why the policy failed for all robots; empty when it acted.
    failure: str
    #: Seconds that it took.
    infer_s: float


class FleetCommands(NamedTuple):
    """The commands that the guard lets through, and those that replace others."""

    #: What they were decided from.
    observed: Observed
    actions: Actions
    #: `[robots, components]` float64: the policy's command, or the one that replaces it.
    commands: np.ndarray
    #: `[robots]` bool: robots that are to get their command.
    publish: np.ndarray
    #: One per robot; the reason is empty when READY.
    states: tuple[RobotState, ...]
    reasons: tuple[str, ...]
    #: `[robots]` bool: robots that get the policy's command; all but these and `held` get their safe command.
    ready: np.ndarray
    #: `[robots]` bool: robots that get their last command again.
    held: np.ndarray
    #: `[robots]` bool: robots whose policy failed.
    faulty: np.ndarray
    #: Largest age of the readings behind a command of the policy when it leaves.
    max_age_s: float
    #: Seconds that the decision took.
    guard_s: float

    @property
    def expires_s(self) -> np.ndarray:
        """When the readings behind each command become too old, `[robots]` on the clock of `time.perf_counter`.

        Infinity for commands that do not come from the policy.
        """
        age_s = self.observed.ages_s
        return np.where(self.ready, self.observed.started_s + self.max_age_s - age_s, np.inf)


class Sent(NamedTuple):
    """What left the node at one tick."""

    #: `[robots, components]` float64: the last command that left for each robot; NaN where none left.
    commands: np.ndarray
    #: `[robots]` bool: robots for which that is the command of the tick.
    as_decided: np.ndarray
    #: By the index of a robot whose command of the tick did not leave: its state now, and the reason.
    instead: Mapping[int, tuple[RobotState, str]]
    #: Whether safe commands were sent to all robots while the tick still ran.
    overruled: bool = False

    @classmethod
    def without(cls, decided: FleetCommands, instead: Mapping[int, tuple[RobotState, str]]) -> Sent:
        """Return that every command left as decided, but none for the robots that `instead` names."""
        as_decided = decided.publish
        if instead:
            as_decided = as_decided.copy()
            as_decided[list(instead)] = False
        return cls(np.where(as_decided[:, None], decided.commands, np.nan), as_decided, instead)

    @property
    def replaced(self) -> np.ndarray:
        """`[robots]` bool: robots that got their safe command in place of the tick's."""
        return ~self.as_decided & np.isfinite(self.commands).all(axis=1)


class SentCommands(NamedTuple):
    """Commands that were sent together, with one stamp."""

    #: Their stamp.
    time_ns: int
    #: Serialised, by index of the robot.
    messages: Mapping[int, bytes]
    #: Whether a tick decided on them; False for safe commands that replace those.
    of_tick: bool


class FleetTick(NamedTuple):
    """Snapshot of one tick, for all observers of the control loop. Its arrays cannot be written."""

    #: Time of the tick on the clock of the stamps.
    time_ns: int
    #: What the guard decided, see `FleetCommands`.
    commands: np.ndarray
    publish: np.ndarray
    #: `[robots, components]` float64: the last command that left for each robot; NaN where none left.
    sent: np.ndarray
    #: `[robots]` bool: robots for which the command that the tick decided on left.
    commanded: np.ndarray
    #: `[robots]` bool: those of them whose command came from the policy.
    driven: np.ndarray
    #: One per robot; the reason is empty when READY. A robot whose command did not leave is not READY.
    states: tuple[RobotState, ...]
    reasons: tuple[str, ...]
    #: `[robots]` float64: age of the robot's oldest synchronised reading at the tick; NaN without a set of readings.
    ages_s: np.ndarray
    #: `[robots]` bool: robots whose history and memory started with this tick.
    fresh_start: np.ndarray
    #: Seconds spent in each stage, in the order of the stages.
    stages_s: Mapping[str, float]
    #: By robot the readings that the policy got, in the order of the sensors, a silent one with the message None; ()
    #: where it got none, or where no command followed from them.
    samples: tuple[tuple[Sample, ...], ...]
    #: By robot the reading of the safe position before this tick; None where none was usable or needed.
    positions: tuple[Sample | None, ...]
    #: By robot what happened to its episode since the last tick: nothing (empty), `reset` or `overruled`, see
    #: `Pipeline.reset` and `Pipeline.note_overruled`.
    before: tuple[str, ...]
    #: Whether an operator has stopped the robots.
    stopped: bool
    #: By the index of a robot that is left to another node: the name of that node.
    owners: Mapping[int, str]
    #: Of the policy that acted.
    policy_sha256: str
    #: `[robots]` int64: messages that could not be used since configuration.
    rejected: np.ndarray
    #: `[robots]` int64: commands since configuration that left clipped to a bound, or with a limited change.
    bounded: np.ndarray
    slowed: np.ndarray
    #: By robot the sensors that were never heard and are not merely silent; only robots with such a sensor.
    unheard: Mapping[str, list[str]]
