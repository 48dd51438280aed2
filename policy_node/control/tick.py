# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The results of the steps of one tick: observation, actions, commands, what left, and the snapshot of it all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from policy_node.engines.inference import Inferred
from policy_node.sensing.samples import Sample
from policy_node.sensing.synchroniser import RobotState


class Observed(NamedTuple):
    """The observation of all robots at one tick, before the policy acts.

    Attributes
    ----------
    now_ns, previous_ns
        Times of this tick and of the one before, on the clock of the stamps.
    started_s
        Time at which `now_ns` was read, on the clock of `time.perf_counter`.
    states, reasons
        One per robot; the reason is empty when READY.
    ages_s
        `[robots]` float64: age of the robot's oldest synchronised reading; NaN without a set of readings.
    ready, fresh_start, stopped
        `[robots]` bool: robots that the policy acts for; those of them whose history and memory start anew; robots
        that are stopped, or left to another node.
    unseen_gap
        `[robots]` bool: robots that were driven before a pause in which no tick ran.
    samples
        By robot the readings that were chosen, in the order of the sensors.
    positions
        By robot the reading of the safe position; None where none was usable or needed.
    before
        By robot what happened to its episode since the last tick: nothing (empty), `reset` or `overruled`.
    stages_s
        Seconds that each stage took.
    """

    now_ns: int
    previous_ns: int
    started_s: float
    states: tuple[RobotState, ...]
    reasons: tuple[str, ...]
    ages_s: np.ndarray
    ready: np.ndarray
    fresh_start: np.ndarray
    stopped: np.ndarray
    unseen_gap: np.ndarray
    samples: tuple[tuple[Sample, ...], ...]
    positions: tuple[Sample | None, ...]
    before: tuple[str, ...]
    stages_s: dict[str, float]


class Actions(NamedTuple):
    """The commands that the policy wants, limited on the device.

    Attributes
    ----------
    inferred
        The commands; rows of robots that are not ready mean nothing.
    present
        `[robots, components]` float64: the command that each robot is taken to follow until now, from which the
        change was limited.
    failure
        Why the policy failed for all robots; empty when it acted.
    infer_s
        Seconds that it took.
    """

    inferred: Inferred
    present: np.ndarray
    failure: str
    infer_s: float


class FleetCommands(NamedTuple):
    """The commands that the guard lets through, and those that it puts in place of others.

    Attributes
    ----------
    observed, actions
        What they were decided from.
    commands
        `[robots, components]` float64: the policy's command, or the one that replaces it.
    publish
        `[robots]` bool: robots that are to get their command.
    states, reasons
        One per robot; the reason is empty when READY.
    ready, held, faulty
        `[robots]` bool: robots that get the policy's command; that get their last one again; whose policy failed.
        All others that are published get their safe command.
    max_age_s
        How old the readings behind a command of the policy may be when it leaves.
    guard_s
        Seconds that the decision took.
    """

    observed: Observed
    actions: Actions
    commands: np.ndarray
    publish: np.ndarray
    states: tuple[RobotState, ...]
    reasons: tuple[str, ...]
    ready: np.ndarray
    held: np.ndarray
    faulty: np.ndarray
    max_age_s: float
    guard_s: float

    @property
    def expires_s(self) -> np.ndarray:
        """When the readings behind each command become too old, `[robots]` on the clock of `time.perf_counter`.

        Infinity for commands that do not come from the policy.
        """
        age_s = self.observed.ages_s
        return np.where(self.ready, self.observed.started_s + self.max_age_s - age_s, np.inf)


class Sent(NamedTuple):
    """What left the node at one tick.

    Attributes
    ----------
    commands
        `[robots, components]` float64: the last command that left for each robot; NaN where none left.
    as_decided
        `[robots]` bool: robots for which that is the command of the tick.
    instead
        By the index of a robot whose command of the tick did not leave: its state now, and the reason.
    overruled
        Whether safe commands were sent to all robots while the tick still ran.
    """

    commands: np.ndarray
    as_decided: np.ndarray
    instead: Mapping[int, tuple[RobotState, str]]
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
    """Commands that were sent together, with one stamp.

    Attributes
    ----------
    time_ns
        Their stamp.
    messages
        By index of the robot, serialised.
    of_tick
        Whether a tick decided on them; False for safe commands that replace those.
    """

    time_ns: int
    messages: Mapping[int, bytes]
    of_tick: bool


class FleetTick(NamedTuple):
    """Snapshot of one tick, for all who watch the control loop. Its arrays cannot be written.

    Attributes
    ----------
    time_ns
        Time of the tick on the clock of the stamps.
    commands, publish
        What the guard decided, see `FleetCommands`.
    sent
        `[robots, components]` float64: the last command that left for each robot; NaN where none left.
    commanded, driven
        `[robots]` bool: robots for which the command that the tick decided on left; those of them whose command came
        from the policy.
    states, reasons
        One per robot; the reason is empty when READY. A robot whose command did not leave is not READY.
    ages_s
        `[robots]` float64: age of the robot's oldest synchronised reading at the tick; NaN without a set of readings.
    fresh_start
        `[robots]` bool: robots whose history and memory started with this tick.
    stages_s
        Seconds spent in each stage, in the order of the stages.
    samples
        By robot the readings that the policy was given, in the order of the sensors, a silent one with the message
        None; () where it was given none, or where no command followed from them.
    positions
        By robot the reading of the safe position before this tick; None where none was usable or needed.
    before
        By robot what happened to its episode since the last tick: nothing (empty), `reset` or `overruled`, see
        `Pipeline.reset` and `Pipeline.note_overruled`.
    stopped, owners
        Whether an operator has stopped the robots; by index the robots left to other nodes, with the names of these.
    policy_sha256
        Of the policy that acted.
    rejected, bounded, slowed
        `[robots]` int64: messages that could not be used, and commands that left on which a bound, or a limit of the
        change, acted; all since configuration.
    unheard
        By robot the sensors that were never heard and are not merely silent; only robots with such a sensor.
    """

    time_ns: int
    commands: np.ndarray
    publish: np.ndarray
    sent: np.ndarray
    commanded: np.ndarray
    driven: np.ndarray
    states: tuple[RobotState, ...]
    reasons: tuple[str, ...]
    ages_s: np.ndarray
    fresh_start: np.ndarray
    stages_s: Mapping[str, float]
    samples: tuple[tuple[Sample, ...], ...]
    positions: tuple[Sample | None, ...]
    before: tuple[str, ...]
    stopped: bool
    owners: Mapping[int, str]
    policy_sha256: str
    rejected: np.ndarray
    bounded: np.ndarray
    slowed: np.ndarray
    unheard: Mapping[str, list[str]]
