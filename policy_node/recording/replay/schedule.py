# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Compute the ticks of a replay from the times of a bag: at the control rate, or on simulated time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from policy_node.control.timing import Schedule
from policy_node.recording.format import Tick as RecordedTick
from policy_node.recording.replay.bag import Arrival

# Longer silences of the whole bag are skipped: every reading is too old by then.
LONGEST_SILENCE_NS = 60 * 10**9


@dataclass(frozen=True)
class Tick:
    """One tick of a replay.

    Attributes
    ----------
    time_ns
        Time of the tick.
    arrivals
        Messages since the previous tick, in the order of arrival.
    restarts
        Whether time jumped back before the tick, which resets the pipeline.
    recorded
        Tick in a recording of the node; None in other bags, and between two ticks.
    """

    time_ns: int
    arrivals: list[Arrival] = field(default_factory=list)
    restarts: bool = False
    recorded: RecordedTick | None = None


def ticks_at_rate(arrivals: Iterable[Arrival], period_ns: int) -> Iterator[Tick]:
    """Yield ticks at a fixed rate, from one period after the first arrival until all messages have arrived.

    A tick takes the messages up to its time. A message that is earlier than the one before it arrives with that one.
    After `LONGEST_SILENCE_NS` without a message, ticks continue one period after the next message.
    """
    waiting: list[Arrival] = []
    deadline_ns = last_ns = 0
    for position, arrival in enumerate(arrivals):
        if position == 0:
            deadline_ns, last_ns = arrival.time_ns + period_ns, arrival.time_ns
        while deadline_ns < arrival.time_ns:
            yield Tick(deadline_ns, waiting)
            waiting = []
            deadline_ns += period_ns
            if last_ns + LONGEST_SILENCE_NS < deadline_ns < arrival.time_ns:
                deadline_ns = arrival.time_ns + period_ns
        last_ns = max(last_ns, arrival.time_ns)
        waiting.append(arrival)
    if waiting:
        yield Tick(deadline_ns, waiting)


def ticks_on_clock(arrivals: Iterable[Arrival | int], period_ns: int) -> Iterator[Tick]:
    """Yield ticks as the node does in simulated time: at the first time of the clock that reaches each deadline.

    `arrivals` are messages and times of the clock; a message arrives at the last time before it. Messages before
    the first time are dropped.
    """
    waiting: list[Arrival] = []
    schedule: Schedule | None = None
    now_ns = 0
    restarts = False
    for arrival in arrivals:
        if isinstance(arrival, Arrival):
            if schedule is not None:
                waiting.append(arrival._replace(time_ns=now_ns))
            continue
        if schedule is None or arrival < now_ns:
            restarts = schedule is not None
            waiting = []
            schedule = Schedule(period_ns, arrival)
        now_ns = arrival
        while now_ns >= schedule.deadline_ns:
            yield Tick(now_ns, waiting, restarts)
            waiting, restarts = [], False
            schedule.advance(now_ns)
