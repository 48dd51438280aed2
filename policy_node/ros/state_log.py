# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Decide which lines the log gets about the states of the robots and about missed ticks. Imports no ROS."""

from __future__ import annotations

import math
import string
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from policy_node.config.schema import named
from policy_node.control.timing import TickRecord, column_percentiles
from policy_node.sensing.synchroniser import RobotState

# A robot with so many changes within so many seconds is unsteady, until it had none for as long.
UNSTEADY_CHANGES = 6
UNSTEADY_S = 5.0
# Most reasons of one robot that are logged within `FINDING_PERIOD_S` while it is unsteady.
MAX_REASONS = 10
# Least period of log lines about one finding, such as an unsteady robot or missed ticks.
FINDING_PERIOD_S = 60.0
# Reports in a row with missed ticks, or without any, after which that is logged.
PERSISTENT_REPORTS = 3


_WITHOUT_DIGITS = str.maketrans("", "", string.digits)


class Line(NamedTuple):
    """A line of the log: a warning, or information."""

    text: str
    is_warning: bool = True


class StateLog:
    """Logs the states of robots: a line for each state, and robots with the same one in one line.

    A robot whose state changes again and again gets a single line with its figures, and another one every minute. New
    reasons get their line nevertheless.

    Parameters
    ----------
    robots
        Names of the robots.
    when_stale
        The parameter `action.when_stale`.
    """

    def __init__(self, robots: Sequence[str], when_stale: str) -> None:
        self._robots = robots
        self._when_stale = when_stale
        # For each robot: changes of its state that were seen, changes of its state or reason, and what was logged last.
        self._seen = [0] * len(robots)
        self._events = np.zeros(len(robots), np.int64)
        self._unlogged = [0] * len(robots)
        self._logged: list[tuple[RobotState, str]] = [(RobotState.WAITING, "")] * len(robots)
        self._now_in = list(self._logged)
        # Events at the checks of the last seconds, with their times.
        self._history: deque[tuple[float, np.ndarray]] = deque()
        # Time of the last line by unsteady robot, and by robot the time of the last line about a state and reason.
        self._unsteady: dict[int, float] = {}
        self._known: list[dict[tuple[RobotState, str], float]] = [{} for _ in robots]

    def lines(
        self,
        now_s: float,
        states: Sequence[RobotState],
        reasons: Sequence[str],
        changes: Sequence[int],
        interruptions: Sequence[tuple[RobotState, str] | None],
        driven_shares: np.ndarray,
    ) -> list[Line]:
        """Return the new lines.

        Parameters
        ----------
        now_s
            Time of this check.
        states, reasons, changes, interruptions
            By robot, see `ControlLoop`.
        driven_shares
            `[robots]`: part of the last ticks in which the robot was driven; NaN where it is not known.
        """
        self._note_events(now_s, states, reasons, changes)
        recent = (self._events - self._history[0][1]).tolist()
        steady: dict[tuple[RobotState, str], tuple[list[str], str]] = {}
        unsteady: dict[tuple[RobotState, str], tuple[list[str], str]] = {}
        for robot, name in enumerate(self._robots):
            if self._is_unsteady(robot, recent[robot]) and not self._is_new(robot, now_s):
                if now_s - self._unsteady.get(robot, -math.inf) >= FINDING_PERIOD_S:
                    self._unsteady[robot], self._unlogged[robot] = now_s, 0
                    state, reason = states[robot], reasons[robot]
                    if state is RobotState.READY:
                        state, reason = interruptions[robot] or (state, reason)
                    share = driven_shares[robot]
                    driven = f"driven in {share:.0%} of the ticks, " if math.isfinite(share) else ""
                    key = (state, without_digits(reason))
                    self._note_logged(robot, key, now_s)
                    names, _ = unsteady.setdefault(key, ([], reason))
                    names.append(f"{name} ({driven}{recent[robot]} changes in {UNSTEADY_S:g} s)")
            elif self._unlogged[robot] or (self._now_in[robot] != self._logged[robot] and changes[robot]):
                count = self._unlogged[robot]
                names, _ = steady.setdefault(self._now_in[robot], ([], reasons[robot]))
                names.append(name + (f" (after {count} changes)" if count > 1 else ""))
                self._logged[robot], self._unlogged[robot] = self._now_in[robot], 0
                self._note_logged(robot, self._now_in[robot], now_s)
        return [
            *(self._steady_line(state, ", ".join(names), reason) for (state, _), (names, reason) in steady.items()),
            *(
                Line(
                    f"{', '.join(names)}: {state.name}, again and again: {reason}; when_stale: {self._when_stale}; "
                    f"logged again after {FINDING_PERIOD_S:g} s if it lasts"
                )
                for (state, _), (names, reason) in unsteady.items()
            ),
        ]

    def _note_events(
        self, now_s: float, states: Sequence[RobotState], reasons: Sequence[str], changes: Sequence[int]
    ) -> None:
        """Count the changes since the last check."""
        if not self._history:
            self._history.append((now_s, self._events.copy()))
        for robot, (state, reason) in enumerate(zip(states, reasons, strict=True)):
            changed, self._seen[robot] = changes[robot] - self._seen[robot], changes[robot]
            # Ages differ from tick to tick and robot to robot: compare only state and sensor name.
            before, self._now_in[robot] = self._now_in[robot], (state, without_digits(reason))
            if changed or self._now_in[robot] != before:
                self._unlogged[robot] += changed
                self._events[robot] += max(changed, 1)
        while now_s - self._history[0][0] > UNSTEADY_S and len(self._history) > 1:
            self._history.popleft()
        self._history.append((now_s, self._events.copy()))

    def _is_unsteady(self, robot: int, recent: int) -> bool:
        """Whether a robot with so many recent changes is unsteady, or still is."""
        if robot in self._unsteady and not recent:
            del self._unsteady[robot]
            self._unlogged[robot] = 1
        return robot in self._unsteady or recent >= UNSTEADY_CHANGES

    def _note_logged(self, robot: int, key: tuple[RobotState, str], now_s: float) -> None:
        """Note a line about a state and reason, and forget those of more than `FINDING_PERIOD_S` ago."""
        known = {**self._known[robot], key: now_s}
        self._known[robot] = {each: logged_s for each, logged_s in known.items() if now_s - logged_s < FINDING_PERIOD_S}

    def _is_new(self, robot: int, now_s: float) -> bool:
        """Whether the robot's state has a reason that was not logged within `FINDING_PERIOD_S`, unless many were."""
        known = [key for key, logged_s in self._known[robot].items() if now_s - logged_s < FINDING_PERIOD_S]
        now_in = self._now_in[robot]
        return now_in[0] is not RobotState.READY and now_in not in known and len(known) < MAX_REASONS

    def _steady_line(self, state: RobotState, robots: str, reason: str) -> Line:
        if state is RobotState.READY:
            return Line(f"{robots}: READY, driven by the policy", is_warning=False)
        if state is RobotState.STOPPED:
            return Line(f"{robots}: STOPPED, {reason}")
        return Line(f"{robots}: {state.name}, {reason}; when_stale: {self._when_stale}")


class OverloadLog:
    """Logs that ticks are missed again and again: at first, then once a minute, and when it has ended."""

    def __init__(self, control_rate_hz: float) -> None:
        self._rate_hz = control_rate_hz
        # Reports in a row with missed ticks; negative: without any.
        self._in_a_row = 0
        self._logged_s = -math.inf
        self._is_overloaded = False

    def lines(self, now_s: float, records: Sequence[TickRecord], elapsed_s: float) -> list[Line]:
        """Return the new lines for the ticks `records` of the last `elapsed_s`."""
        if not records:
            return []
        missed = sum(record.missed for record in records)
        self._in_a_row = max(self._in_a_row, 0) + 1 if missed else min(self._in_a_row, 0) - 1
        if self._in_a_row >= PERSISTENT_REPORTS and now_s - self._logged_s >= FINDING_PERIOD_S:
            self._logged_s, self._is_overloaded = now_s, True
            return [Line(f"overload: {self.text(records, elapsed_s)}")]
        if self._is_overloaded and self._in_a_row <= -PERSISTENT_REPORTS:
            self._is_overloaded = False
            return [Line("the overload has ended: no tick is missed", is_warning=False)]
        return []

    def text(self, records: Sequence[TickRecord], elapsed_s: float) -> str:
        """Return how many ticks are missed, why, and what to do."""
        missed = sum(record.missed for record in records)
        stages = list(records[-1].stages_s)
        rows_ms = [[each.duration_s * 1e3, *(each.stages_s[stage] * 1e3 for stage in stages)] for each in records]
        tick_ms, *stages_ms = column_percentiles(np.array(rows_ms))[0].tolist()
        period_ms = 1e3 / self._rate_hz
        slowest = max(range(len(stages)), key=stages_ms.__getitem__, default=None)
        longest = f", {stages[slowest]} {stages_ms[slowest]:.1f} ms" if slowest is not None else ""
        if tick_ms < period_ms:
            remedy = "relieve the machine, or set realtime.priority and realtime.cpus"
        else:
            remedy = (
                f"lower control_rate_hz below {1e3 / tick_ms:.3g}, choose a faster engine, device or policy, or "
                f"relieve the machine"
            )
        return (
            f"{missed} of {missed + len(records)} ticks were missed in the last {elapsed_s:.1f} s, the robots get "
            f"{len(records) / elapsed_s:.1f} instead of {self._rate_hz:g} commands a second: a tick takes "
            f"{tick_ms:.1f} ms (p50{longest}), the control period is {period_ms:.1f} ms; {remedy}"
        )


class BoundLog:
    """Logs once that the bounds change every command of a robot: scale or bounds are probably wrong."""

    def __init__(self, robots: Sequence[str]) -> None:
        self._robots = robots
        self._bounded = np.zeros(len(robots), np.int64)
        # Reports in a row in which every command was changed.
        self._in_a_row = np.zeros(len(robots), np.int64)
        self._logged = np.zeros(len(robots), bool)

    def lines(self, bounded: np.ndarray, driven_ticks: np.ndarray) -> list[Line]:
        """Return the new lines.

        Parameters
        ----------
        bounded
            `[robots]`: commands so far that a bound has changed.
        driven_ticks
            `[robots]`: commands of the policy since the last call.
        """
        changed, self._bounded = bounded - self._bounded, bounded
        # The last tick may be in one count already and in the other not yet.
        always = (driven_ticks > 1) & (changed >= driven_ticks - 1)
        self._in_a_row = np.where(always, self._in_a_row + 1, 0)
        new = (self._in_a_row >= PERSISTENT_REPORTS) & ~self._logged
        if not new.any():
            return []
        self._logged |= new
        names = named([self._robots[robot] for robot in np.flatnonzero(new).tolist()])
        return [
            Line(
                f"{names}: action.low or action.high changes every command; see whether action.scale, action.offset "
                "and the bounds are those of the training (logged once)"
            )
        ]


def without_digits(text: str) -> str:
    """Return a reason without the figures that differ from tick to tick."""
    return text.translate(_WITHOUT_DIGITS)
