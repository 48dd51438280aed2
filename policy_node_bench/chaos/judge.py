# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Judge a node by its commands only: the readings that each was computed from, and when it was sent.

All times are seconds since the begin of the run, on the monotonic clock.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from policy_node.control.timing import percentiles
from policy_node_bench.chaos.faults import Fault
from policy_node_bench.chaos.policy import GarbledCommandError, Reading, origin_of

# Violations of safety, and of timing, which a busy machine can cause.
SAFETY = {
    "old_data": "a command from readings older than max_age_s and one period",
    "mixed_robots": "a command from another robot's readings, or its position",
    "old_position": "a safe command that is not the position of the robot when it was stopped",
    "unsynchronised": "a command from readings further apart than slop_s",
    "garbled": "a command that is neither safe nor computed from readings",
    "wrong_policy": "a command of another policy: of the one before or after a swap, or of a second node",
    "undetected": "a fault without a safe command, or which the node does not report",
    "not_healed": "a robot that was not driven again after its fault",
}
TIMING = {
    "detected_late": "a safe command later than max_age_s and three periods after the cause began",
    "healed_late": "a robot driven again later than 1 s after the cause ended",
    "stopped_without_cause": "a safe command to a robot without a fault",
    "missed_tick": "a tick without a command to a robot without a fault",
    "late": "p99 of the lateness of robots without a fault above a quarter of the period",
}
# Violations that are excused if the node or the robot waited for a processor.
LACK_OF_TIME = ("old_data", "old_position", "detected_late", "healed_late", "stopped_without_cause", "missed_tick")
# Number of violations of each kind whose details are kept.
DETAILS = 5
# Largest p99 of the lateness, as a part of the period.
LATENESS_PART = 0.25
HEAL_LIMIT_S = 1.0
# The grid begins at this quantile, because commands that are late by half a period seem early.
EARLIEST = 0.05
# Part of a period by which a command may precede the grid.
EARLY = 0.1


class Limits(NamedTuple):
    """The limits of a node, in seconds."""

    period_s: float
    max_age_s: float
    slop_s: float
    plan_age_s: float = 0.0  # 0: no command follows from plans

    @property
    def age_s(self) -> float:
        """Largest age of the readings behind a command when it is sent."""
        return self.max_age_s + self.plan_age_s + self.period_s

    @property
    def detect_s(self) -> float:
        """Longest time from a cause to the safe command."""
        return max(self.max_age_s, self.plan_age_s) + 3 * self.period_s


class _Intervals:
    """Intervals of time, closed, which may overlap; there may be a hundred thousand on a busy machine."""

    def __init__(self, intervals: Iterable[tuple[float, float]]) -> None:
        ordered = np.array(sorted(intervals)).reshape(-1, 2)
        self._starts, self._latest_ends = ordered[:, 0], np.maximum.accumulate(ordered[:, 1])

    def __contains__(self, time_s: float) -> bool:
        """Return whether a time is in one of them."""
        begun = int(np.searchsorted(self._starts, time_s, side="right"))
        return begun > 0 and bool(time_s <= self._latest_ends[begun - 1])


class Judge:
    """Process every command and record violations."""

    def __init__(self, robots: int, limits: Limits) -> None:
        self.limits = limits
        self.commands: Counter[str] = Counter()
        # By kind; those of LACK_OF_TIME are known after `finish`. Of each kind, the details of the first ones are kept.
        self.violations: Counter[str] = Counter()
        self.excused: Counter[str] = Counter()
        self.details: dict[str, list[dict[str, Any]]] = {}
        # By robot: times of its commands, begin and end of its faults, whether its last command is from readings.
        self.sent_s = [array("d") for _ in range(robots)]
        self.concerned: list[list[tuple[float, float]]] = [[] for _ in range(robots)]
        self.driven = np.zeros(robots, bool)
        self.largest_age_s = 0.0
        self._active: dict[int, Fault] = {}
        # The numbers of the policies that may drive, each from a time on.
        self._policies: list[tuple[float, frozenset[int]]] = [(-np.inf, frozenset([0]))]
        self._pending: list[tuple[str, int | None, float, dict[str, Any]]] = []
        # By robot, or -1 for the node, begin and end.
        self._excuses: defaultdict[int, list[tuple[float, float]]] = defaultdict(list)

    def note(self, kind: str, robot: int | None, time_s: float, **what: Any) -> None:
        """Record a violation; those of `LACK_OF_TIME` may be excused in `finish`."""
        if kind in LACK_OF_TIME:
            self._pending.append((kind, robot, time_s, what))
        else:
            self._note(kind, robot, time_s, what)

    def _note(self, kind: str, robot: int | None, time_s: float, what: dict[str, Any]) -> None:
        self.violations[kind] += 1
        details = self.details.setdefault(kind, [])
        if len(details) < DETAILS:
            name = {} if robot is None else {"robot": robot}
            details.append({"time_s": round(time_s, 4), **name, **what})

    def begin(self, fault: Fault) -> None:
        """Record that a fault is about to begin."""
        for robot in fault.robots:
            self._active[robot] = fault
            self.concerned[robot].append((fault.asked_s, np.inf))

    def expect_policies(self, numbers: Iterable[int], from_s: float) -> None:
        """Set which policies may have given the commands that are sent after a time."""
        self._policies.append((from_s, frozenset(numbers)))

    def excuse(self, robot: int, start_s: float, end_s: float) -> None:
        """Record that the machine delayed the publishing of a robot, so that its data became old."""
        self._excuses[robot].append((start_s, end_s + self.limits.age_s))

    def starve(self, start_s: float, end_s: float) -> None:
        """Record that the node waited for a processor for at least a period in this interval."""
        self._excuses[-1].append((start_s, end_s + self.limits.period_s))

    def finish(self) -> None:
        """Judge the violations of `LACK_OF_TIME`; delays by the machine are known only afterwards."""
        delays = {who: _Intervals(intervals) for who, intervals in self._excuses.items()}
        for kind, robot, time_s, what in self._pending:
            kept = (-1, robot) if kind == "stopped_without_cause" else (-1,)
            if any(who in delays and time_s in delays[who] for who in kept):
                self.excused[kind] += 1
            else:
                self._note(kind, robot, time_s, what)
        self._pending.clear()

    def command(self, robot: int, sent_s: float, values: np.ndarray) -> None:
        """Process a command `[COMMAND_SIZE]` that was sent to a robot."""
        self.sent_s[robot].append(sent_s)
        fault = self._active.get(robot)
        if fault is not None and sent_s < fault.asked_s:
            fault = None
        try:
            origin = origin_of(values)
        except GarbledCommandError as error:
            self.note("garbled", robot, sent_s, found=str(error), fault=_name(fault))
            return
        if isinstance(origin, Reading):
            self._safe_command(robot, sent_s, fault, origin)
            return
        self.driven[robot] = True
        self.commands["driven"] += 1
        readings_us = [reading.time_us for reading in origin.readings]
        age_s = sent_s - min(readings_us) / 1e6
        spread_s = (max(readings_us) - min(readings_us)) / 1e6
        self.largest_age_s = max(self.largest_age_s, age_s)
        found = {"fault": _name(fault)}
        if {reading.robot for reading in origin.readings} != {robot}:
            self.note("mixed_robots", robot, sent_s, found=[reading.robot for reading in origin.readings], **found)
        policies = next(numbers for from_s, numbers in reversed(self._policies) if from_s < sent_s)
        if origin.policy not in policies:
            self.note("wrong_policy", robot, sent_s, policy=origin.policy, allowed=sorted(policies), **found)
        if age_s > self.limits.age_s:
            self.note("old_data", robot, sent_s, age_s=round(age_s, 4), allowed_s=self.limits.age_s, **found)
        # A robot reads the clock once for the stamp and once for the content.
        if spread_s > self.limits.slop_s + self.limits.period_s:
            self.note("unsynchronised", robot, sent_s, spread_s=round(spread_s, 4), **found)
        if fault is not None and min(readings_us) / 1e6 >= fault.ended_s:
            self._heal(robot, fault, sent_s)

    def _safe_command(self, robot: int, sent_s: float, fault: Fault | None, position: Reading) -> None:
        self.commands["safe"] += 1
        was_driven, self.driven[robot] = self.driven[robot], False
        age_s = sent_s - position.time_us / 1e6
        if position.robot != robot:
            self.note("mixed_robots", robot, sent_s, found=position.robot, fault=_name(fault))
        elif was_driven and age_s > self.limits.detect_s:
            self.note("old_position", robot, sent_s, age_s=round(age_s, 4), fault=_name(fault))
        if fault is not None and self._may_stop(fault):
            index = fault.robots.index(robot)
            fault.detected_s[index] = min(fault.detected_s[index], sent_s)
        else:
            self.note("stopped_without_cause", robot, sent_s, fault=_name(fault))

    def _may_stop(self, fault: Fault) -> bool:
        """Return whether a robot with this fault may get its safe command; a swap drops all plans."""
        return fault.kind.stops is not False or (self.limits.plan_age_s > 0.0 and fault.kind.name == "swapped")

    def _heal(self, robot: int, fault: Fault, sent_s: float) -> None:
        position = fault.robots.index(robot)
        fault.healed_s[position] = sent_s
        del self._active[robot]
        self.concerned[robot][-1] = (fault.asked_s, sent_s)
        kind = fault.kind.name
        if fault.kind.stops:
            detected_s = fault.detected_s[position] - fault.begun_s
            if not np.isfinite(detected_s):
                self.note("undetected", robot, sent_s, fault=kind, begun_s=round(fault.begun_s, 4))
            elif detected_s > self.limits.detect_s:
                self.note("detected_late", robot, sent_s, fault=kind, detect_s=round(detected_s, 4))
        heal_s = sent_s - fault.ended_s
        if heal_s > HEAL_LIMIT_S:
            self.note("healed_late", robot, sent_s, fault=kind, heal_s=round(heal_s, 4))

    def shown(self, robots: Iterable[int], time_s: float) -> None:
        """Process diagnostics that show these robots as not driven by the policy."""
        for robot in robots:
            fault = self._active.get(robot)
            if fault is not None and self._may_stop(fault) and time_s >= fault.begun_s:
                position = fault.robots.index(robot)
                fault.shown_s[position] = min(fault.shown_s[position], time_s)

    def give_up(self, fault: Fault, now_s: float, reason: Callable[[int], str]) -> None:
        """Record that a fault did not heal in time; `reason` returns why the node does not drive a robot."""
        for position, robot in enumerate(fault.robots):
            if not np.isfinite(fault.healed_s[position]):
                found = {"fault": fault.kind.name, "ended_s": round(fault.ended_s, 4), "reason": reason(robot)}
                self.note("not_healed", robot, now_s, **found)
                self._active.pop(robot, None)

    def add(self, other: Judge) -> None:
        """Add the violations of safety that another judge has recorded."""
        other.finish()
        for kind in SAFETY:
            self.violations[kind] += other.violations[kind]
            self.excused[kind] += other.excused[kind]
            self.details[kind] = (self.details.get(kind, []) + other.details.get(kind, []))[:DETAILS]
        self.largest_age_s = max(self.largest_age_s, other.largest_age_s)


def _name(fault: Fault | None) -> str:
    return fault.kind.name if fault is not None else ""


class Ticks(NamedTuple):
    """The commands of robots without a fault, tick by tick."""

    lateness_ms: list[np.ndarray]  # of every command, by window
    missed: list[tuple[int, float]]  # robot and time of every tick without a command
    ticks: int  # number of ticks


def grid_phase_s(times_s: np.ndarray, period_s: float) -> float:
    """Return the phase of the grid of the ticks from the times of commands, most of which are in time."""
    reference_s = float(times_s[0])
    for _ in range(2):
        # Centre the offsets first, so that no command is assigned to the period before.
        offsets_s = (times_s - reference_s + period_s / 2) % period_s - period_s / 2
        reference_s += float(np.median(offsets_s))
    offsets_s = (times_s - reference_s + period_s / 2) % period_s - period_s / 2
    return (reference_s + float(np.quantile(offsets_s, EARLIEST))) % period_s


def judge_ticks(judge: Judge, windows: Sequence[tuple[float, float]], phases_s: Sequence[float]) -> Ticks:
    """Assign the commands of robots without a fault, in ascending windows of time, to the ticks of each one's grid."""
    lateness_ms: list[list[np.ndarray]] = [[] for _ in windows]
    missed: list[tuple[int, float]] = []
    ticks = 0
    for robot, sent_s in enumerate(judge.sent_s):
        for window, (start_s, end_s) in enumerate(windows):
            for free_start_s, free_end_s in _free(judge.concerned[robot], start_s, end_s):
                low, high = np.searchsorted(sent_s, [free_start_s, free_end_s])
                if high - low < 2:
                    continue
                times_s = np.array(sent_s[low:high]) - phases_s[window]
                numbers = tick_numbers(times_s, judge.limits.period_s)
                lateness_ms[window].append((times_s - numbers * judge.limits.period_s) * 1e3)
                skipped = np.maximum(np.diff(numbers) - 1, 0)
                missed += [(robot, sent_s[low + 1 + at]) for at in np.flatnonzero(skipped) for _ in range(skipped[at])]
                ticks += int(numbers[-1] - numbers[0]) + 1
    return Ticks([np.concatenate([np.zeros(0), *parts]) for parts in lateness_ms], missed, ticks)


def tick_numbers(times_s: np.ndarray, period_s: float) -> np.ndarray:
    """Return the tick number `[n]` of each command `[n]`.

    A tick that ends after the deadline of the next one is followed by that one at once. Of two commands within one
    period, the first therefore belongs to the period before, unless that has a command.
    """
    numbers = np.floor(times_s / period_s + EARLY).astype(int)
    for at in np.flatnonzero(np.diff(numbers) == 0):
        if at == 0 or numbers[at - 1] < numbers[at] - 1:
            numbers[at] -= 1
    return numbers


def _free(concerned: Sequence[tuple[float, float]], start_s: float, end_s: float) -> list[tuple[float, float]]:
    """Return the parts of an interval in which a robot had no fault."""
    free = []
    for fault_start_s, fault_end_s in concerned:
        if fault_end_s <= start_s or fault_start_s >= end_s:
            continue
        if fault_start_s > start_s:
            free.append((start_s, fault_start_s))
        start_s = max(start_s, fault_end_s)
    if start_s < end_s:
        free.append((start_s, end_s))
    return free


def compare_lateness(
    quiet_ms: Sequence[np.ndarray], faults_ms: Sequence[np.ndarray], period_s: float
) -> dict[str, float]:
    """Compare the p99 of the lateness with faults with its limit, and with that of times without faults.

    The noise is the largest difference between the p99 of half a window without faults and that of all of them.
    """
    quiet, faults = percentiles(np.concatenate(quiet_ms)), percentiles(np.concatenate(faults_ms))
    halves = [half for values in quiet_ms for half in np.array_split(values, 2) if len(half)]
    noise_ms = max(abs(percentiles(half)[1] - quiet[1]) for half in halves)
    return {
        "quiet_p50": quiet[0],
        "quiet_p99": quiet[1],
        "faults_p50": faults[0],
        "faults_p99": faults[1],
        "noise": noise_ms,
        "limit": LATENESS_PART * period_s * 1e3,
    }
