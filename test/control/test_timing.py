# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Deadlines on artificial clocks, and the statistics of ticks."""

import math
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from policy_node.control import timing
from policy_node.control.timing import (
    POLL_S,
    Schedule,
    SteadyClock,
    TickRecord,
    TickStatistics,
    column_percentiles,
    percentiles,
)

pytestmark = pytest.mark.timing

PERIOD_NS = 50


def record(missed: int = 0, lateness_s: float = 0.0) -> TickRecord:
    return TickRecord(lateness_s, 0.001, missed, {"infer": 0.001}, np.zeros(2))


@given(st.integers(0, 10**12), st.lists(st.integers(0, 400), max_size=40))
def test_deadlines_stay_on_the_grid_and_every_missed_one_is_counted(start_ns, durations_ns):
    schedule = Schedule(PERIOD_NS, start_ns)
    now_ns, ticks, missed = start_ns, 0, 0
    for duration_ns in durations_ns:
        tick_ns = max(now_ns, schedule.deadline_ns)
        lateness_ns = tick_ns - schedule.deadline_ns
        # A tick that would start a whole period late was skipped.
        assert lateness_ns < PERIOD_NS
        assert (schedule.deadline_ns - start_ns) % PERIOD_NS == 0
        now_ns = tick_ns + duration_ns
        ticks += 1
        missed += schedule.advance(now_ns)
        # Each deadline so far was either ticked or counted as missed.
        assert schedule.deadline_ns == start_ns + (ticks + missed + 1) * PERIOD_NS


@pytest.mark.parametrize(
    ("ended_ns", "missed", "next_ns"),
    [
        (100, 0, 150),  # the tick at 100 took no time
        (149, 0, 150),
        (150, 0, 150),
        (151, 0, 150),  # late, but the tick at 150 is still the present one
        (199, 0, 150),
        (200, 1, 200),
        (249, 1, 200),
        (1000, 17, 1000),
        (20, 0, 150),  # a clock that went back
    ],
)
def test_ticks_that_passed_are_skipped(ended_ns, missed, next_ns):
    schedule = Schedule(PERIOD_NS, now_ns=50)
    assert schedule.deadline_ns == 100
    assert schedule.advance(ended_ns) == missed
    assert schedule.deadline_ns == next_ns


def test_no_burst_follows_a_stall():
    """After a tick of a hundred periods, ticks are one period apart again; missed ones are not repeated."""
    schedule = Schedule(PERIOD_NS, now_ns=0)
    now_ns = schedule.deadline_ns + 100 * PERIOD_NS + 7
    assert schedule.advance(now_ns) == 99
    started = []
    for _ in range(5):
        now_ns = max(now_ns, schedule.deadline_ns)
        started.append(now_ns)
        assert schedule.advance(now_ns) == 0
    assert np.diff(started).tolist() == [PERIOD_NS - 7, PERIOD_NS, PERIOD_NS, PERIOD_NS]


def test_the_steady_clock_never_returns_before_the_deadline():
    clock = SteadyClock()
    deadline_ns = clock.now_ns() + 3_000_000
    assert clock.wait_until(deadline_ns)
    assert clock.now_ns() >= deadline_ns
    assert clock.wait_until(deadline_ns - 10**9)


def test_the_steady_clock_sleeps_until_the_deadline_with_a_look_at_the_end_in_between(monkeypatch):
    slept_s = []
    now = SimpleNamespace(ns=10**9)

    def sleep(duration_s):
        slept_s.append(duration_s)
        now.ns += round(duration_s * 1e9)

    monkeypatch.setattr(timing, "time", SimpleNamespace(monotonic_ns=lambda: now.ns, sleep=sleep))
    assert SteadyClock().wait_until(now.ns + round(2.5 * POLL_S * 1e9))
    assert slept_s == pytest.approx([POLL_S, POLL_S, POLL_S / 2])
    assert SteadyClock().wait_until(now.ns) and len(slept_s) == 3
    assert SteadyClock().wait_until(now.ns + 1) and slept_s[3] == 1e-9


def test_an_ended_wait_returns_false():
    stopping = threading.Event()
    clock = SteadyClock(stopping)
    threading.Timer(0.05, stopping.set).start()
    deadline_ns = clock.now_ns() + 3600 * 10**9
    assert not clock.wait_until(deadline_ns)
    assert clock.now_ns() < deadline_ns


def test_statistics_return_every_record_once():
    statistics = TickStatistics()
    statistics.add(record())
    statistics.add(record(missed=3))
    records, ticks, missed = statistics.collect()
    assert ([entry.missed for entry in records], ticks, missed) == ([0, 3], 2, 3)
    assert statistics.collect() == ([], 2, 3)


def test_statistics_forget_the_oldest_records_but_count_all():
    statistics = TickStatistics(length=3)
    for number in range(5):
        statistics.add(record(missed=number))
    records, ticks, missed = statistics.collect()
    assert ([entry.missed for entry in records], ticks, missed) == ([2, 3, 4], 5, 10)


def test_statistics_keep_the_ticks_of_minutes():
    statistics = TickStatistics()
    for number in range(10_001):
        statistics.add(record(missed=number))
    records, _, _ = statistics.collect()
    assert [records[0].missed, len(records)] == [1, 10_000]


def test_statistics_lose_nothing_between_threads():
    statistics = TickStatistics()
    thread = threading.Thread(target=lambda: [statistics.add(record(missed=number)) for number in range(5000)])
    thread.start()
    collected = []
    while thread.is_alive():
        collected += statistics.collect()[0]
    thread.join()
    collected += statistics.collect()[0]
    assert [entry.missed for entry in collected] == list(range(5000))


def test_percentiles_ignore_values_that_are_not_finite():
    assert percentiles([math.nan, 1.0, 3.0, math.inf]) == (2.0, pytest.approx(2.98))
    assert all(math.isnan(value) for value in percentiles([math.nan]))
    assert all(math.isnan(value) for value in percentiles([]))


@given(
    arrays(
        np.float64,
        array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=6),
        elements=st.floats(-1e6, 1e6) | st.sampled_from([math.nan, math.inf]),
    )
)
def test_percentiles_of_columns_are_those_of_each_column(rows):
    p50, p99 = column_percentiles(rows)
    expected = np.array([percentiles(column) for column in rows.T]).reshape(-1, 2)
    np.testing.assert_allclose(np.stack([p50, p99], axis=1), expected, rtol=1e-12, atol=1e-6)


DURATIONS_S = st.floats(0.0, 0.2)


@given(DURATIONS_S, DURATIONS_S, st.floats(-0.1, 1.0), st.floats(0.02, 0.4))
def test_what_waits_for_a_gap_begins_just_after_a_tick(lateness_s, duration_s, tick_s, period_s):
    tick = TickRecord(lateness_s, duration_s, 0, {}, np.zeros(1))
    delay_s = timing.delay_until_gap(1.0, tick_s, tick, period_s)
    ticks = (delay_s - timing.GAP_S - duration_s - lateness_s - tick_s) / period_s
    assert abs(ticks - round(ticks)) < 1e-6
    assert abs(delay_s - 1.0) <= period_s / 2 + 1e-9


def test_the_delay_of_a_slow_loop_stays():
    assert timing.delay_until_gap(1.0, 0.3, record(), 0.5) == 1.0
    # Two and a half periods are enough: the second tick from the next one on.
    assert timing.delay_until_gap(1.0, 0.3, record(), 0.4) == pytest.approx(0.3 + 0.001 + timing.GAP_S + 0.8)


def test_statistics_know_the_last_tick():
    statistics = TickStatistics()
    assert statistics.newest is None
    statistics.add(record())
    last = record(lateness_s=0.5)
    statistics.add(last)
    statistics.collect()
    assert statistics.newest is last
