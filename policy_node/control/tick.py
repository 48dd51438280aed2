# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The results of the steps of one tick: observation, actions, decided and sent commands, and a snapshot of it all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from policy_node.sensing.samples import Sample
from policy_node.sensing.synchroniser import RobotState

if TYPE_CHECKING:
    from policy_node.engines.inference import Inferred

# A state, and its reason.
Problem: TypeAlias = tuple[RobotState, str]

# Whether any, and whether all numbers are not zero, by default along the first axis. The methods `any` and `all` of an
# array call Python functions, which take longer.
any_of: Callable[..., Any] = np.logical_or.reduce
all_of: Callable[..., Any] = np.logical_and.reduce


def constant(array: np.ndarray) -> np.ndarray:
    """Return an array that cannot be written any more, to be shared by ticks."""
    array.flags.writeable = False
    return array


def with_problems(
    states: tuple[RobotState, ...], reasons: tuple[str, ...], problems: Mapping[int, Problem]
) -> tuple[tuple[RobotState, ...], tuple[str, ...]]:
    """Return states and reasons by robot, replaced for those with problems."""
    new_states, new_reasons = list(states), list(reasons)
    for robot, (state, reason) in problems.items():
        new_states[robot], new_reasons[robot] = state, reason
    return tuple(new_states), tuple(new_reasons)


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
    #: `[robots]` bool: robots that are stopped, or yielded to another node.
    stopped: np.ndarray
    #: `[robots]` bool: driven robots whose last policy command is too long ago (process paused or clock stepped).
    unseen_gap: np.ndarray
    #: By robot the readings that were chosen, in the order of the sensors.
    samples: tuple[tuple[Sample, ...], ...]
    #: By robot the reading of the safe position; None where none was usable or needed.
    positions: tuple[Sample | None, ...]
    #: By robot why its episode restarted since the last tick: empty, `reset`, or `overruled` (a safe command replaced
    #: the policy's).
    before: tuple[str, ...]
    #: Seconds that each stage took.
    stages_s: dict[str, float]
    #: Whether every robot is known to be READY; spares what is done by robot.
    all_ready: bool = False


class PlannedTick(NamedTuple):
    """The plans at one tick, of policies whose commands follow from plans. Its arrays are not changed."""

    #: `[robots]` bool: ready robots without an action that is due; their episodes go on.
    pending: np.ndarray
    #: Robot index -> state and reason, for robots without such an action and those whose plan cannot be used.
    problems: Mapping[int, tuple[RobotState, str]]
    #: `[robots]` float64: time since the observation of the newest plan; NaN without a plan.
    ages_s: np.ndarray
    #: Indices of the robots whose observations were taken for a plan at this tick.
    requested: tuple[int, ...]
    #: Steps of the previous plans that the policy was told, at the last request, to be executed meanwhile.
    delay: int
    #: Time of the observations of the plans that arrived at this tick; None without any.
    arrived_ns: int | None
    #: `[robots]` int64: plans taken, and plans that ended before the next one came, since configuration.
    taken: np.ndarray
    exhausted: np.ndarray
    #: Duration of the inference of the plans that arrived, and time from their observations to this tick; None without
    #: any.
    inference_s: float | None
    latency_s: float | None
    #: `[robots, points - 1, components]` float64: the commands that follow the one that is due, NaN for robots without
    #: any; None where trajectories have one point.
    following: np.ndarray | None = None


class Actions(NamedTuple):
    """The commands that the policy wants, limited on the device."""

    #: The commands; rows of robots that are not ready mean nothing.
    inferred: Inferred
    #: `[robots, components]` float64: the command that each robot is assumed to execute now; `max_rate` and `ramp_s`
    #: start from it.
    current: np.ndarray
    #: Why the policy failed for all robots; empty when it acted.
    failure: str
    #: Seconds that it took.
    infer_s: float
    #: The plans that the commands follow from; None where each follows from an inference in its tick.
    planned: PlannedTick | None = None


class FleetCommands(NamedTuple):
    """The commands that the guard lets through, and those that replace others."""

    #: Input of the decision.
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
    #: `[robots]` bool: robots that have no action although their readings are good, see `PlannedTick`; None
    #: where there is none.
    pending: np.ndarray | None
    #: Largest age of the synchronised readings behind a command of the policy when it is sent.
    max_age_s: float
    #: Seconds that the decision took.
    guard_s: float
    #: Whether every robot is known to get the command of the policy, whose components are all finite.
    all_ready: bool = False

    @property
    def expires_s(self) -> np.ndarray:
        """Times `[robots]` at which the synchronised readings of each command become too old, on `time.perf_counter`.

        Infinity for commands that do not come from the policy. The tick alone judges readings with their own
        `max_age_s`.
        """
        expires_s = self.observed.started_s + self.max_age_s - self.observed.ages_s
        return expires_s if self.all_ready else np.where(self.ready, expires_s, np.inf)

    @property
    def following(self) -> np.ndarray | None:
        """See `PlannedTick.following`; NaN for robots that do not get the policy's command."""
        planned = self.actions.planned
        if planned is None or planned.following is None:
            return None
        return np.where(self.ready[:, None, None], planned.following, np.nan)


class Sent(NamedTuple):
    """The commands that were really sent at one tick."""

    #: `[robots, components]` float64: the last command sent to each robot during this tick; NaN if none was sent.
    commands: np.ndarray
    #: `[robots]` bool: robots that were sent the command the guard decided.
    as_decided: np.ndarray
    #: Robot index -> new state and reason, for robots whose decided command was not sent.
    not_sent: Mapping[int, tuple[RobotState, str]]
    #: Whether safe commands were sent to all robots while the tick still ran.
    overruled: bool = False

    @classmethod
    def without(cls, decided: FleetCommands, not_sent: Mapping[int, tuple[RobotState, str]]) -> Sent:
        """Return that every command was sent as decided, but none to the robots in `not_sent`."""
        as_decided = decided.publish
        if not_sent:
            as_decided = as_decided.copy()
            as_decided[list(not_sent)] = False
        elif decided.all_ready:
            return cls(decided.commands, as_decided, not_sent)
        return cls(np.where(as_decided[:, None], decided.commands, np.nan), as_decided, not_sent)

    @property
    def replaced(self) -> np.ndarray:
        """`[robots]` bool: robots that got their safe command in place of the decided one."""
        return ~self.as_decided & np.isfinite(self.commands).any(axis=1)


class SentCommands(NamedTuple):
    """Commands that were sent together, with one stamp."""

    #: Their stamp.
    time_ns: int
    #: Serialised, by index of the topic: robot * topics of a robot + topic.
    messages: Mapping[int, bytes]
    #: True for the commands of a tick; False for safe commands that replace them.
    of_tick: bool


class FleetTick(NamedTuple):
    """Snapshot of one tick, for all observers of the control loop. Its arrays cannot be written."""

    #: Time of the tick on the clock of the stamps.
    time_ns: int
    #: What the guard decided, see `FleetCommands`.
    commands: np.ndarray
    publish: np.ndarray
    #: `[robots, components]` float64: the last command sent to each robot during this tick; NaN if none was sent.
    sent: np.ndarray
    #: `[robots]` bool: robots that were sent the command the guard decided.
    commanded: np.ndarray
    #: `[robots]` bool: those of them whose command came from the policy.
    driven: np.ndarray
    #: One per robot; the reason is empty when READY. A robot whose command was not sent is not READY.
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
    #: By robot why its episode restarted since the last tick: empty, `reset` (`Pipeline.reset`), or `overruled` (a
    #: safe command replaced the policy's, `Pipeline.note_overruled`).
    before: tuple[str, ...]
    #: Whether an operator has stopped all robots.
    stopped: bool
    #: Robot index -> name of the node that the robot is yielded to.
    owners: Mapping[int, str]
    #: SHA-256 of the policy that acted.
    policy_sha256: str
    #: `[robots]` int64: messages that could not be used since configuration.
    rejected: np.ndarray
    #: `[robots]` int64: commands sent since configuration that were clipped to a bound, or whose change was limited.
    bounded: np.ndarray
    slowed: np.ndarray
    #: By robot the sensors that were never heard and are not merely silent; only robots with such a sensor.
    unheard: Mapping[str, list[str]]
    #: The limits in force, as JSON: see `config.schema.LIMITS`.
    limits: str = ""
    #: See `Actions.planned`.
    planned: PlannedTick | None = None
    #: By robot the text that says what it is to do, empty before the first; () for a policy that takes none.
    tasks: tuple[str, ...] = ()
