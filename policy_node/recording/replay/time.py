# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Whose time a replay follows, and how far the stamps of a bag lie from the times at which it was recorded."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from policy_node.messages.cdr import header_stamp_ns
from policy_node.recording.replay.bag import Bag, BagError, Message
from policy_node.recording.replay.schedule import Arrival

CLOCK_TOPIC = "/clock"
CLOCK_TYPE = "rosgraph_msgs/msg/Clock"
# Whose time ticks follow; see doc/bags.md.
TIMES = ("auto", "recorded", "stamp", "arrival", "clock")
# Messages of each topic by which its offset is judged, and how many of all topics are looked at for that.
_JUDGED = 20
_LOOKED_AT = 20_000
# Topics whose stamps lie further apart than this are not of one clock.
_ONE_CLOCK_NS = 10 * 10**9
# Stamps that lie so near to a /clock are of its simulation, however seldom it is published.
_SIMULATED_NS = 10**9
# How long messages wait for others with earlier stamps.
_REORDERED_NS = 5 * 10**9

# The header stamp of a message in nanoseconds, None without one.
Stamp = Callable[[bytes], "int | None"]


class Offset(NamedTuple):
    """How the stamps of one topic lie to other times, as the middle of its first messages.

    Attributes
    ----------
    to_record_ns
        From the stamp to the time at which the message was recorded.
    to_clock_ns
        From the stamp to the simulated time of that moment; None without a /clock.
    zero
        Whether the stamps are zero.
    """

    to_record_ns: int
    to_clock_ns: int | None
    zero: bool


def measure_offsets(bag: Bag, stamps: Mapping[str, Stamp]) -> dict[str, Offset]:
    """Look at the first messages of each topic.

    Parameters
    ----------
    bag
        The bag.
    stamps
        By topic what finds the stamp of its messages.

    Returns
    -------
    dict
        By topic, those whose messages have stamps.
    """
    found: dict[str, list[tuple[int, int, int | None]]] = {topic: [] for topic in stamps}
    clock_ns: int | None = None
    for count, message in enumerate(bag.messages({*stamps, *([CLOCK_TOPIC] if has_clock(bag) else [])})):
        if message.topic == CLOCK_TOPIC and has_clock(bag):
            clock_ns = header_stamp_ns(message.raw)
            continue
        stamp_ns = stamps[message.topic](message.raw)
        if stamp_ns is not None and (clock_ns is not None or not has_clock(bag)):
            found[message.topic].append((stamp_ns, message.time_ns, clock_ns))
        enough = all(len(seen) >= min(_JUDGED, bag.topics[topic].messages) for topic, seen in found.items())
        if enough or count >= _LOOKED_AT:
            break
    return {
        topic: Offset(
            to_record_ns=_middle([time_ns - stamp_ns for stamp_ns, time_ns, _ in seen]),
            to_clock_ns=None if seen[0][2] is None else _middle([(now or 0) - stamp_ns for stamp_ns, _, now in seen]),
            zero=not any(stamp_ns for stamp_ns, _, _ in seen),
        )
        for topic, seen in found.items()
        if seen
    }


def _middle(numbers: list[int]) -> int:
    return sorted(numbers)[len(numbers) // 2]


def has_clock(bag: Bag) -> bool:
    """Whether a bag holds simulated time."""
    return CLOCK_TOPIC in bag.topics and bag.topics[CLOCK_TOPIC].type == CLOCK_TYPE


def choose_time(asked: str, simulated: bool, with_clock: bool, offsets: Mapping[str, Offset], limit_ns: int) -> str:
    """Choose whose time to follow.

    Parameters
    ----------
    asked
        One of `TIMES`.
    simulated
        Whether the parameters have `use_sim_time`.
    with_clock
        Whether the bag has a /clock.
    offsets
        From `measure_offsets`.
    limit_ns
        How old readings may be.

    Raises
    ------
    BagError
        When the bag cannot be replayed by the time that was asked for.
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
        # Stamps of a simulation whose clock was not recorded.
        _require_one_clock(offsets)
        return "stamp"
    return "recorded"


def are_of_one_clock(offsets: Mapping[str, Offset]) -> bool:
    """Whether the stamps of all topics may be of one clock, by which a replay can go."""
    values = [offset.to_record_ns for offset in offsets.values()]
    spread_ns = max(values) - min(values) if values else 0
    return spread_ns <= _ONE_CLOCK_NS and not any(offset.zero for offset in offsets.values())


def _require_one_clock(offsets: Mapping[str, Offset]) -> None:
    if not are_of_one_clock(offsets):
        raise BagError(
            "the header stamps are not of one clock, so that no time can follow them; give --time arrival, by which "
            f"each message is stamped with the time at which it was recorded\n{describe_offsets(offsets)}"
        )


def describe_offsets(offsets: Mapping[str, Offset], to_clock: bool = False) -> str:
    """Say how far the stamps of each topic lie from the time of recording, or from simulated time, a line each."""
    width = max((len(topic) for topic in offsets), default=0)
    return "\n".join(f"  {topic:<{width}}  {_described(offset, to_clock)}" for topic, offset in sorted(offsets.items()))


def _described(offset: Offset, to_clock: bool) -> str:
    if offset.zero:
        return "stamps are zero"
    seconds = ((offset.to_clock_ns if to_clock else offset.to_record_ns) or 0) / 1e9
    what = "simulated time" if to_clock else "the time of recording"
    return f"stamps lie {abs(seconds):.3f} s {'before' if seconds >= 0 else 'after'} {what}"


def unfitting(offsets: Mapping[str, Offset], time: str, limits_ns: Mapping[str, int]) -> list[str]:
    """Return the topics whose stamps make their readings unusable by a time, as they are too old or in the future.

    Parameters
    ----------
    offsets
        From `measure_offsets`.
    time
        From `choose_time`.
    limits_ns
        By topic how old its readings may be.
    """
    if time in ("stamp", "arrival"):
        return []
    return [
        topic
        for topic, offset in offsets.items()
        if abs((offset.to_clock_ns if time == "clock" else offset.to_record_ns) or 0) > limits_ns[topic]
    ]


def arrivals_of(
    messages: Iterable[Message], stamps: Mapping[str, Stamp], time: str, offsets: Mapping[str, Offset]
) -> Iterator[Arrival]:
    """Say when each message arrives and to which time it belongs, by one of `TIMES` other than `auto` and `clock`."""
    if time == "stamp":
        yield from _by_stamp(messages, stamps, offsets)
        return
    for time_ns, topic, raw in messages:
        stamp_ns = stamps[topic](raw) if topic in stamps and time != "arrival" else None
        yield Arrival(time_ns, time_ns if stamp_ns is None else stamp_ns, topic, raw)


def _by_stamp(
    messages: Iterable[Message], stamps: Mapping[str, Stamp], offsets: Mapping[str, Offset]
) -> Iterator[Arrival]:
    """Let each message arrive at its stamp; those without one are moved as the others are in the middle."""
    offset_ns = int(np.median([offset.to_record_ns for offset in offsets.values()])) if offsets else 0
    waiting: list[tuple[int, int, Arrival]] = []
    for position, (time_ns, topic, raw) in enumerate(messages):
        stamp_ns = stamps[topic](raw) if topic in stamps else None
        arrives_ns = time_ns - offset_ns if stamp_ns is None else stamp_ns
        heapq.heappush(waiting, (arrives_ns, position, Arrival(arrives_ns, arrives_ns, topic, raw)))
        while waiting and waiting[0][0] < time_ns - offset_ns - _REORDERED_NS:
            yield heapq.heappop(waiting)[2]
    while waiting:
        yield heapq.heappop(waiting)[2]


def arrivals_on_clock(messages: Iterable[Message], stamps: Mapping[str, Stamp]) -> Iterator[Arrival | int]:
    """Yield messages, and the times of the clock among them, for `ticks_on_clock`."""
    for time_ns, topic, raw in messages:
        if topic == CLOCK_TOPIC:
            clock_ns = header_stamp_ns(raw)
            if clock_ns is not None:
                yield clock_ns
        else:
            yield Arrival(time_ns, stamps[topic](raw) if topic in stamps else None, topic, raw)
