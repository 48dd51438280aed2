# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""When ticks are due, and what they cost: absolute deadlines, skipped ticks, statistics."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


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


class SteadyClock:
    """The machine's monotonic clock, which no adjustment of the system time moves."""

    @staticmethod
    def now_ns() -> int:
        """Return the present time."""
        return time.monotonic_ns()

    def wait_until(self, deadline_ns: int) -> bool:
        """Sleep until the deadline; True, as this clock always gets there."""
        # From Python 3.11 on time.sleep sleeps to an absolute deadline on the monotonic clock.
        remaining_ns = deadline_ns - time.monotonic_ns()
        if remaining_ns > 0:
            time.sleep(remaining_ns / 1e9)
        return True


class TickRecord(NamedTuple):
    """What one tick cost.

    Attributes
    ----------
    lateness_s
        From the deadline to the start of the tick.
    duration_s
        From the start of the tick to the last command published.
    missed
        Ticks skipped just before this one.
    stages_s
        Seconds by stage.
    command_ages_s
        `[robots]` float64: age of the oldest reading behind each robot's command when it was published; NaN for robots
        that were not ready.
    """

    lateness_s: float
    duration_s: float
    missed: int
    stages_s: dict[str, float]
    command_ages_s: np.ndarray


class TickStatistics:
    """Hands the records of the tick thread over to whoever reports them.

    Parameters
    ----------
    length
        Records kept when nobody collects them; the oldest go first.
    """

    def __init__(self, length: int = 10_000) -> None:
        self._records: deque[TickRecord] = deque(maxlen=length)
        self._lock = threading.Lock()
        self.ticks = 0
        self.missed = 0

    def add(self, record: TickRecord) -> None:
        """Note one tick; called by the tick thread."""
        with self._lock:
            self._records.append(record)
            self.ticks += 1
            self.missed += record.missed

    def collect(self) -> list[TickRecord]:
        """Return the records since the last call; called by the reporting thread."""
        with self._lock:
            records = list(self._records)
            self._records.clear()
        return records


def percentiles(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Return p50 and p99 of the finite values; NaN when there are none."""
    array = np.asarray(values, np.float64)
    array = array[np.isfinite(array)]
    if not array.size:
        return float("nan"), float("nan")
    p50, p99 = np.percentile(array, [50, 99])
    return float(p50), float(p99)
