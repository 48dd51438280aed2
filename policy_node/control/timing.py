# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Time the ticks: absolute deadlines, skipped ticks, statistics."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from policy_node.control.tick import PlannedTick

# Period with which a thread that waits for a distant deadline checks whether it must stop.
POLL_S = 0.1
# Shortest delay in control periods that `delay_until_gap` changes, and how long after a tick the gap begins.
MIN_PERIODS = 2.5
GAP_S = 0.001


class Schedule:
    """Absolute deadlines, one period apart, on any clock.

    A deadline that has passed by a whole period is skipped and counted, never caught up in a burst.

    Parameters
    ----------
    period_ns
        Control period.
    now_ns
        Time from which the first deadline is one period away.
    """

    def __init__(self, period_ns: int, now_ns: int) -> None:
        self._period_ns = period_ns
        self.deadline_ns = now_ns + period_ns

    def advance(self, now_ns: int) -> int:
        """Move on to the next deadline after the tick that just ended and return how many ticks were missed.

        Parameters
        ----------
        now_ns
            Present time. A tick is missed when the one after it is already due.
        """
        missed = max(0, (now_ns - self.deadline_ns) // self._period_ns - 1)
        self.deadline_ns += (missed + 1) * self._period_ns
        return missed


def delay_until_gap(delay_s: float, tick_s: float, tick: TickRecord, period_s: float) -> float:
    """Return the delay nearest to `delay_s` after which a tick has just ended, if ticks take as long as the last one.

    Work that begins then has nearly a period before it competes with a tick for the interpreter. A delay of few periods
    stays as it is.

    Parameters
    ----------
    delay_s
        The wanted delay.
    tick_s
        Time until the next tick begins; negative during a tick.
    tick
        The last tick.
    period_s
        Control period.
    """
    if delay_s < MIN_PERIODS * period_s:
        return delay_s
    gap_s = tick_s + tick.lateness_s + tick.duration_s + GAP_S
    return max(0.0, gap_s + round((delay_s - gap_s) / period_s) * period_s)


class SteadyClock:
    """The machine's monotonic clock, which no adjustment of the system time moves; `stopping` ends every wait."""

    def __init__(self, stopping: threading.Event | None = None) -> None:
        self._stopping = stopping or threading.Event()

    @staticmethod
    def now_ns() -> int:
        """Return the current time."""
        return time.monotonic_ns()

    def wait_until(self, deadline_ns: int) -> bool:
        """Sleep until the deadline; False when the wait was ended before."""
        while not self._stopping.is_set():
            remaining_s = (deadline_ns - time.monotonic_ns()) / 1e9
            if remaining_s <= 0:
                return True
            # From Python 3.11 on time.sleep sleeps to an absolute deadline on the monotonic clock.
            time.sleep(min(remaining_s, POLL_S))
        return False


class TickRecord(NamedTuple):
    """Durations of one tick."""

    #: From the deadline to the start of the tick.
    lateness_s: float
    #: From the start of the tick to the last command published.
    duration_s: float
    #: Ticks skipped just before this one.
    missed: int
    #: Seconds by stage.
    stages_s: dict[str, float]
    #: `[robots]` float64: age of the oldest synchronised reading behind each robot's command when it was published; NaN
    #: for robots that were sent no command of the policy.
    command_ages_s: np.ndarray
    #: See `Actions.planned`.
    planned: PlannedTick | None = None


class TickStatistics:
    """Passes the records of the tick thread to the reporter; keeps the newest `length` until they are collected."""

    def __init__(self, length: int = 10_000) -> None:
        self._records: deque[TickRecord] = deque(maxlen=length)
        self._lock = threading.Lock()
        self._ticks = 0
        #: The last tick; None before the first.
        self.newest: TickRecord | None = None
        #: Ticks missed so far.
        self.missed = 0

    def add(self, record: TickRecord) -> None:
        """Record one tick; called by the tick thread."""
        with self._lock:
            self._records.append(record)
            self.newest = record
            self._ticks += 1
            self.missed += record.missed

    def collect(self) -> tuple[list[TickRecord], int, int]:
        """Return the records since the last call, and the numbers of ticks run and missed since the start."""
        with self._lock:
            records = list(self._records)
            self._records.clear()
            return records, self._ticks, self.missed


def percentiles(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Return p50 and p99 of the finite values; NaN when there are none."""
    p50, p99 = column_percentiles(np.asarray(values, np.float64).reshape(-1, 1))
    return float(p50[0]), float(p99[0])


def column_percentiles(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return p50 and p99 of the finite values in each column of `[rows, columns]`; NaN where there are none."""
    if not len(rows):
        return np.full(rows.shape[1], np.nan), np.full(rows.shape[1], np.nan)
    # `numpy.nanpercentile` loops over the columns in Python.
    ordered = np.sort(np.where(np.isfinite(rows), rows, np.nan), axis=0)  # NaN comes last
    last = np.maximum(np.isfinite(ordered).sum(axis=0) - 1, 0)
    columns = np.arange(rows.shape[1])

    def at(fraction: float) -> np.ndarray:
        position = fraction * last
        below = np.floor(position).astype(np.intp)
        low, high = ordered[below, columns], ordered[np.minimum(below + 1, last), columns]
        return low + (high - low) * (position - below)

    return at(0.50), at(0.99)
