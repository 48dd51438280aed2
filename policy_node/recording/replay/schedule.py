# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Compute the ticks of a replay: choose its clock, let messages arrive on it, and tick at the control rate.

The clock is chosen from the offsets between header stamps and times of recording.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median_high
from typing import NamedTuple

import numpy as np

from policy_node.config.schema import SourceConfiguration
from policy_node.control.timing import Schedule
from policy_node.messages.cdr import header_stamp_ns
from policy_node.recording.format import Tick as RecordedTick
from policy_node.recording.replay.bag import Arrival, Bag, BagError

CLOCK_TOPIC = "/clock"
CLOCK_TYPE = "rosgraph_msgs/msg/Clock"
# Clock of the ticks; see doc/bags.md.
TIMES = ("auto", "recorded", "stamp", "arrival", "clock")
# Messages of each topic that its offset is measured from, and most messages that are read for that.
_JUDGED = 20
_LOOKED_AT = 20_000
# Largest difference between the offsets of topics with one clock.
_ONE_CLOCK_NS = 10 * 10**9
# Largest offset between stamps and the /clock of their simulation, which may be published rarely.
_SIMULATED_NS = 10**9
# Time for which messages wait for others with earlier stamps.
_REORDERED_NS = 5 * 10**9
# Longer silences of the whole bag are skipped: every reading is too old by then.
LONGEST_SILENCE_NS = 60 * 10**9

# Returns the header stamp of a message in nanoseconds; None without a header.
Stamp = Callable[[bytes], "int | None"]


@dataclass(frozen=True)
class Tick:
    """One tick of a replay."""

    time_ns: int
    arrivals: list[Arrival] = field(default_factory=list)  #: Messages since the previous tick, in order of arrival.
    restarts: bool = False  #: Whether time jumped back before the tick, which resets the pipeline.
    recorded: RecordedTick | None = None  #: Tick of a recording; None in other bags, and between two ticks.


class Offset(NamedTuple):
    """Median offset of the header stamps of a topic."""

    to_record_ns: int  #: Time of recording minus stamp.
    to_clock_ns: int | None  #: Simulated time at the recording minus stamp; None without a /clock.
    zero: bool  #: Whether all stamps are zero.


def stamp_reader(source: SourceConfiguration, header_stamp: Stamp) -> Stamp:
    """Return what reads the stamps of a sensor's messages; those of their arrival are the times of recording."""
    offset_ns = round(source.stamp_offset_s * 1e9)
    if source.stamp != "header":
        return lambda raw: None
    if not offset_ns:
        return header_stamp

    def read(raw: bytes) -> int | None:
        stamp_ns = header_stamp(raw)
        return None if stamp_ns is None else stamp_ns + offset_ns

    return read


def measure_offsets(bag: Bag, stamps: Mapping[str, Stamp]) -> dict[str, Offset]:
    """Measure the offset of each topic whose messages have header stamps, from its first messages."""
    found: dict[str, list[tuple[int, int, int | None]]] = {topic: [] for topic in stamps}
    clock_ns: int | None = None
    with_clock = has_clock(bag)
    for count, message in enumerate(bag.messages({*stamps, *([CLOCK_TOPIC] if with_clock else [])})):
        if message.topic == CLOCK_TOPIC and with_clock:
            clock_ns = header_stamp_ns(message.raw)
            continue
        stamp_ns = stamps[message.topic](message.raw)
        if stamp_ns is not None and (clock_ns is not None or not with_clock):
            found[message.topic].append((stamp_ns, message.time_ns, clock_ns))
        enough = all(len(seen) >= min(_JUDGED, bag.topics[topic].messages) for topic, seen in found.items())
        if enough or count >= _LOOKED_AT:
            break
    return {
        topic: Offset(
            to_record_ns=median_high(time_ns - stamp_ns for stamp_ns, time_ns, _ in seen),
            to_clock_ns=median_high((now or 0) - stamp_ns for stamp_ns, _, now in seen) if with_clock else None,
            zero=not any(stamp_ns for stamp_ns, _, _ in seen),
        )
        for topic, seen in found.items()
        if seen
    }


def has_clock(bag: Bag) -> bool:
    """Return whether a bag has simulated time."""
    return CLOCK_TOPIC in bag.topics and bag.topics[CLOCK_TOPIC].type == CLOCK_TYPE


def choose_time(asked: str, simulated: bool, with_clock: bool, offsets: Mapping[str, Offset], limit_ns: int) -> str:
    """Choose the clock of the ticks for `asked`, one of `TIMES`.

    `simulated` tells whether the parameters set `use_sim_time`; `limit_ns` is the largest age of a reading.

    Raises
    ------
    BagError
        When the bag has no such clock.
    """
    if asked == "clock" and not with_clock:
        raise BagError(f"--time clock: the bag has no {CLOCK_TOPIC}; give --time stamp or --time recorded")
    if asked == "stamp":
        _require_one_clock(offsets)
    if asked != "auto":
        return asked
    stamped = [offset for offset in offsets.values() if not offset.zero]
    fits_record = all(abs(offset.to_record_ns) <= limit_ns for offset in stamped)
    if with_clock:
        fits_clock = all(abs(offset.to_clock_ns or 0) <= max(limit_ns, _SIMULATED_NS) for offset in stamped)
        if simulated or (fits_clock and not fits_record):
            return "clock"
    elif simulated and stamped and not fits_record:
        # The stamps are from a simulation whose clock was not recorded.
        _require_one_clock(offsets)
        return "stamp"
    return "recorded"


def are_of_one_clock(offsets: Mapping[str, Offset]) -> bool:
    """Return whether the stamps of all topics can be from one clock."""
    values = [offset.to_record_ns for offset in offsets.values()]
    spread_ns = max(values) - min(values) if values else 0
    return spread_ns <= _ONE_CLOCK_NS and not any(offset.zero for offset in offsets.values())


def _require_one_clock(offsets: Mapping[str, Offset]) -> None:
    if not are_of_one_clock(offsets):
        raise BagError(
            "the header stamps are not from one clock, so ticks cannot follow them; give --time arrival, which "
            f"stamps each message with the time at which it was recorded\n{describe_offsets(offsets)}"
        )


def describe_offsets(offsets: Mapping[str, Offset], to_clock: bool = False) -> str:
    """Describe the offset of each topic from the time of recording, or from simulated time, one per line."""
    width = max((len(topic) for topic in offsets), default=0)
    lines = []
    for topic, offset in sorted(offsets.items()):
        seconds = ((offset.to_clock_ns if to_clock else offset.to_record_ns) or 0) / 1e9
        clock = "simulated time" if to_clock else "the time of recording"
        text = f"stamps lie {abs(seconds):.3f} s {'before' if seconds >= 0 else 'after'} {clock}"
        lines.append(f"  {topic:<{width}}  {'stamps are zero' if offset.zero else text}")
    return "\n".join(lines)


def unfitting(offsets: Mapping[str, Offset], time: str, limits_ns: Mapping[str, int]) -> list[str]:
    """Return the topics whose readings are too old or in the future on the chosen clock; `limits_ns` is by topic."""
    if time in ("stamp", "arrival"):
        return []
    return [
        topic
        for topic, offset in offsets.items()
        if abs((offset.to_clock_ns if time == "clock" else offset.to_record_ns) or 0) > limits_ns[topic]
    ]


def arrivals_of(
    messages: Iterable[Arrival], stamps: Mapping[str, Stamp], time: str, offsets: Mapping[str, Offset]
) -> Iterator[Arrival]:
    """Set arrival time and stamp of each message for one of `TIMES` other than `auto` and `clock`."""
    if time == "stamp":
        yield from _by_stamp(messages, stamps, offsets)
        return
    for message in messages:
        stamp_ns = _stamp_of(message, stamps) if time != "arrival" else None
        yield message._replace(stamp_ns=message.time_ns if stamp_ns is None else stamp_ns)


def _stamp_of(message: Arrival, stamps: Mapping[str, Stamp]) -> int | None:
    return stamps[message.topic](message.raw) if message.topic in stamps else None


def _by_stamp(
    messages: Iterable[Arrival], stamps: Mapping[str, Stamp], offsets: Mapping[str, Offset]
) -> Iterator[Arrival]:
    """Let each message arrive at its stamp; messages without one are moved by the median offset of the others."""
    offset_ns = int(np.median([offset.to_record_ns for offset in offsets.values()])) if offsets else 0
    waiting: list[tuple[int, int, Arrival]] = []
    for position, message in enumerate(messages):
        shifted_ns = message.time_ns - offset_ns
        stamp_ns = _stamp_of(message, stamps)
        arrives_ns = shifted_ns if stamp_ns is None else stamp_ns
        heapq.heappush(waiting, (arrives_ns, position, message._replace(time_ns=arrives_ns, stamp_ns=arrives_ns)))
        while waiting and waiting[0][0] < shifted_ns - _REORDERED_NS:
            yield heapq.heappop(waiting)[2]
    while waiting:
        yield heapq.heappop(waiting)[2]


def arrivals_on_clock(messages: Iterable[Arrival], stamps: Mapping[str, Stamp]) -> Iterator[Arrival | int]:
    """Yield messages and times of the clock for `ticks_on_clock`."""
    for message in messages:
        if message.topic == CLOCK_TOPIC:
            clock_ns = header_stamp_ns(message.raw)
            if clock_ns is not None:
                yield clock_ns
        else:
            yield message._replace(stamp_ns=_stamp_of(message, stamps))


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
