# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""When a replay ticks, as a function of the times of a bag: at the control rate, or as simulated time allows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from policy_node.control.timing import Schedule
from policy_node.recording.format import Tick as RecordedTick

# A longer silence of a whole bag is left out: by then every reading is too old.
LONGEST_SILENCE_NS = 60 * 10**9


class Arrival(NamedTuple):
    """A message that reaches the node.

    Attributes
    ----------
    time_ns
        When, on the clock of the replay.
    stamp_ns
        To which time its reading belongs; None: to that of the tick which takes it.
    topic, raw
        Where, and what.
    """

    time_ns: int
    stamp_ns: int | None
    topic: str
    raw: bytes


@dataclass(frozen=True)
class Tick:
    """One tick of a replay.

    Attributes
    ----------
    time_ns
        When.
    arrivals
        What has arrived since the tick before, in its order.
    restarts
        Whether time went back before it, so that everything begins anew.
    recorded
        What the node has recorded of it; None: it never ticked then.
    """

    time_ns: int
    arrivals: list[Arrival] = field(default_factory=list)
    restarts: bool = False
    recorded: RecordedTick | None = None


def ticks_at_rate(arrivals: Iterable[Arrival], period_ns: int) -> Iterator[Tick]:
    """Tick at a fixed rate: the first time one period after the first arrival, the last time when all have arrived.

    An arrival that is earlier than the one before it counts as of the same time. A tick takes what arrived up to its
    time. After `LONGEST_SILENCE_NS` without any arrival there is no tick until the next one, which begins a new row.
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
    """Tick as the node does in simulated time: at the first time on the clock that reaches the deadline.

    Parameters
    ----------
    arrivals
        Messages, and the times of the clock among them; a message arrives at the last time before it. Nothing arrives
        before the clock has begun.
    period_ns
        Control period.
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
