# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Find messages that are lost, arrive too late, or come from two publishers of one topic.

The tick thread counts; the thread that reports compares the counts of a few seconds. They share only counters, so no
lock is needed.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from policy_node.config.package_files import share_path
from policy_node.config.schema import named
from policy_node.sensing.samples import age_ns

WINDOW_S = 5.0
# Report a problem only if both thresholds are reached.
MIN_FRACTION = 0.02
MIN_MESSAGES = 3
REPEATED_FRACTION = 0.1
# Calls in a row whose ages differ by less than this, which are then an offset of clocks.
_AGES = 5
_CONSTANT_NS = 50_000_000
# Longest time that messages may be under way; older ones have stamps of a clock that is behind.
_LONGEST_DELAY_S = 1.0
# Stamps that are further in the future are of a clock that is ahead.
_AHEAD_S = 0.01
# No message takes so long to arrive: its stamp must come from another clock.
_OTHER_CLOCK_S = 3600.0
# Most publishers of one topic whose last sequence number is kept.
_MAX_PUBLISHERS = 8
_ROBOTS_NAMED = 5


@dataclass(frozen=True)
class Finding:
    """A problem of the reception of one sensor; as a string, the problem and its remedy.

    Attributes
    ----------
    kind
        `lost`, `late`, `offset` (stamps of another clock), `repeated` (stacks with one image twice) or `mixed` (two
        publishers on one topic).
    robots
        Names of the robots with the problem.
    fraction
        Lost: of their sent messages; late: of their received messages; repeated: of the ticks; mixed, offset: of the
        robots.
    """

    sensor: str
    kind: str
    robots: tuple[str, ...]
    fraction: float
    text: str

    def __str__(self) -> str:
        """Return the text."""
        return self.text


@dataclass(frozen=True)
class SensorKind:
    """Properties of a sensor: its queue holds `depth` messages, and those older than `max_age_s` cannot be used.

    `steps` are those in the stack or history of an image. The stamps of a sensor with `has_stamps` are from its
    messages.
    """

    name: str
    topic: str
    is_image: bool
    depth: int
    max_age_s: float
    steps: int = 1
    has_stamps: bool = True


class Counts(NamedTuple):
    """Counts of one stream: messages, ticks, changes of the publisher, and the sum of the ages of late messages."""

    received: int
    lost: int
    late: int
    ticks: int
    fresh_ticks: int
    changes: int
    late_ages_ns: int


class Stream:
    """Counts the messages of one topic; only the tick thread calls `arrived` and `tick_ended`."""

    def __init__(self, depth: int, max_age_ns: int) -> None:
        self._depth = depth
        #: Messages that are older when they arrive are late.
        self.max_age_ns = max_age_ns
        #: By publisher: a message that came after one of another publisher.
        self.turns: dict[bytes | int, Any] = {}
        #: Age of the last message when it arrived.
        self.age_ns = 0
        # Publisher -> sequence number of its last message. Publishers that the middleware does not name are numbered.
        self._last: dict[bytes | int, int] = {}
        self._publisher: bytes | int = b""
        self._named = 0
        # The largest gaps, as size and sequence number before it: they may hide publishers that are not named.
        self._gaps: list[tuple[int, int]] = []
        self._taken = 0
        self._first_gap = 0
        self._received = self._lost = self._late = self._ticks = self._fresh_ticks = self._changes = 0
        self._late_ages_ns = 0

    def arrived(self, sequence: int | None, publisher: bytes, age_ns: int, message: Any = None) -> None:
        """Count one message that was taken.

        Parameters
        ----------
        sequence
            Number of the message at its publisher; None if the middleware does not tell.
        publisher
            Identifies the publisher; empty if the middleware does not tell, as with Jazzy.
        age_ns
            Age of the message when it arrived.
        message
            The message, which is kept if publishers take turns.
        """
        sender = publisher or (0 if sequence is None else self._publisher_that_continues(sequence))
        if sender:
            last = self._last.get(sender)
            if last is None:
                if len(self._last) == _MAX_PUBLISHERS:
                    self._last.clear()
                    self.turns.clear()
            else:
                if sequence is not None and sequence > last + 1:
                    self._lose(sequence - last - 1, last, not publisher)
                # An earlier publisher sends again: two take turns. A restarted one would have a new identity.
                if sender != self._publisher:
                    self._changes += 1
                    self.turns[sender] = message
            self._last[sender] = sequence or 0
            self._publisher = sender
        self.age_ns = age_ns
        if age_ns > self.max_age_ns:
            self._late += 1
            self._late_ages_ns += age_ns
        self._taken += 1

    def _lose(self, gap: int, last: int, unnamed: bool) -> None:
        """Count the messages between the last one of a publisher and that which was taken."""
        if self._taken:
            self._lost += gap
        else:
            self._first_gap = gap
        if unnamed:
            self._gaps = sorted([*self._gaps, (gap, last)])[-_MAX_PUBLISHERS:]

    def _publisher_that_continues(self, sequence: int) -> int:
        """Return the publisher whose last number is the nearest below that of the message, or a new publisher."""
        if isinstance(self._publisher, int) and self._last[self._publisher] == sequence - 1:
            return self._publisher
        below = [
            (sequence - last, publisher != self._publisher, publisher)
            for publisher, last in self._last.items()
            if isinstance(publisher, int) and last < sequence
        ]
        nearest = min(below, default=(math.inf, False, 0))
        for gap, before in self._gaps:
            if 0 < sequence - before < min(gap + 1, nearest[0]):
                # The number lies in this gap: another publisher sent what came after it, and nothing was lost.
                self._gaps.remove((gap, before))
                if self._first_gap == gap:
                    self._first_gap = 0
                else:
                    self._lost -= gap
                nearest = (math.inf, False, 0)
                break
        if nearest[2]:
            return nearest[2]
        self._named += 1
        return self._named

    def tick_ended(self) -> None:
        """Note that all messages that had arrived were taken."""
        self._ticks += 1
        if self._taken:
            self._fresh_ticks += 1
            self._received += self._taken
            # A full queue drops its oldest messages by design: those before the first one that was taken.
            if self._taken < self._depth:
                self._lost += self._first_gap
            elif self._first_gap:
                self._gaps = [gap for gap in self._gaps if gap[0] != self._first_gap]
            self._taken = self._first_gap = 0

    def counts(self) -> Counts:
        """Return the counts since the start."""
        return Counts(
            self._received,
            self._lost,
            self._late,
            self._ticks,
            self._fresh_ticks,
            self._changes,
            self._late_ages_ns,
        )


class Reception:
    """Judges the reception of all sensors of all robots.

    Parameters
    ----------
    sensors
        Properties of each sensor, in the order of their index.
    topics
        `[robots][sensors]`: the topic that each sensor of each robot reads.
    waits_s
        Longest time that a message has waited when the middleware notes its arrival: a control period if that is done
        when the message is taken.

    Attributes
    ----------
    streams
        `[robots][sensors]`; robots that read a sensor from the same topic share its stream.
    """

    def __init__(
        self,
        robots: Sequence[str],
        sensors: Sequence[SensorKind],
        topics: Sequence[Sequence[str]],
        waits_s: float = 0.0,
    ) -> None:
        self._robots = tuple(robots)
        self._waits_s = waits_s
        streams: dict[tuple[int, str], Stream] = {}
        self.streams = [
            [
                streams.setdefault((sensor, topic), Stream(kind.depth, 0))
                for sensor, (kind, topic) in enumerate(zip(sensors, of_robot, strict=True))
            ]
            for of_robot in topics
        ]
        self.change_limits(sensors)
        # Counts `[robots][sensors]` at earlier calls of `findings`, with their times.
        self._history: deque[tuple[float, list[list[Counts]]]] = deque()
        self._history.append((time.monotonic(), self._counts()))
        # Ages of the newest messages at the last calls, `[calls, robots, sensors]`; NaN where none came.
        self._ages_ns = np.full((_AGES, len(robots), len(sensors)), np.nan)

    def change_limits(self, sensors: Sequence[SensorKind]) -> None:
        """Use the largest ages of these sensors from now on, which are the same sensors otherwise."""
        self._sensors = tuple(sensors)
        for streams in self.streams:
            for stream, kind in zip(streams, sensors, strict=True):
                stream.max_age_ns = age_ns(kind.max_age_s + self._waits_s)

    def _counts(self) -> list[list[Counts]]:
        return [[stream.counts() for stream in streams] for streams in self.streams]

    def findings(self, now_s: float | None = None, joined: Collection[tuple[int, int]] = ()) -> list[Finding]:
        """Return the problems of the last seconds, sensor by sensor.

        Call it about every second, from one thread; `now_s` is the time on the monotonic clock. The messages of several
        publishers belong together for the robots and sensors in `joined`.
        """
        now_s = time.monotonic() if now_s is None else now_s
        counts = self._counts()
        self._history.append((now_s, counts))
        while len(self._history) > 2 and self._history[1][0] <= now_s - WINDOW_S:
            self._history.popleft()
        elapsed_s, before = now_s - self._history[0][0], self._history[0][1]
        found = self._offsets(counts, self._history[-2][1])
        is_offset = {finding.sensor for finding in found}
        for index, sensor in enumerate(self._sensors):
            rows = [
                Counts(*(new - old for new, old in zip(after[index], earlier[index], strict=True)))
                for after, earlier in zip(counts, before, strict=True)
            ]
            for kind, (affected, describe) in _PROBLEMS.items():
                if (kind == "repeated" and sensor.steps == 1) or (kind == "late" and sensor.name in is_offset):
                    continue
                part = REPEATED_FRACTION if kind == "repeated" else MIN_FRACTION
                concerned = [robot for robot, row in enumerate(rows) if _is_much(*affected(row), part)]
                if kind == "mixed" and joined:
                    concerned = [robot for robot in concerned if (robot, index) not in joined]
                if concerned:
                    total = self._total(index, rows, concerned)
                    count, of = (len(concerned), len(rows)) if kind == "mixed" else affected(total)
                    text = describe(sensor, total, self._named(concerned), elapsed_s)
                    found.append(Finding(sensor.name, kind, self._names(concerned), count / of, text))
        return found

    def _offsets(self, counts: list[list[Counts]], before: list[list[Counts]]) -> list[Finding]:
        """Return the sensors whose stamps differ by a constant from the clock of this computer, or from each other."""
        has_stamps = np.array([sensor.has_stamps for sensor in self._sensors])
        arrived = np.array(
            [
                [new.received > old.received for new, old in zip(*rows, strict=True)]
                for rows in zip(counts, before, strict=True)
            ]
        )
        self._ages_ns = np.roll(self._ages_ns, 1, axis=0)
        self._ages_ns[0] = [[stream.age_ns for stream in streams] for streams in self.streams]
        self._ages_ns[:, ~(arrived & has_stamps)] = np.nan
        # Robots and sensors with a constant age of their messages.
        ages_s = self._ages_ns.mean(axis=0) / 1e9
        ages_s[~((np.ptp(self._ages_ns, axis=0) < _CONSTANT_NS) & (abs(ages_s) < _OTHER_CLOCK_S))] = np.nan
        if not ((ages_s > _LONGEST_DELAY_S) | (ages_s < 0.0)).any():
            return []
        found = []
        for index, sensor in enumerate(self._sensors):
            of_sensor, limit_s = ages_s[:, index], self.streams[0][index].max_age_ns / 1e9
            # Messages may be under way for long, but none arrives before it was sent.
            beyond = (of_sensor > max(limit_s, _LONGEST_DELAY_S)) | (of_sensor < -limit_s)
            others = np.where(beyond[:, None], np.nan, ages_s)
            first = np.min(others, axis=1, initial=np.inf, where=~np.isnan(others))
            apart = ~beyond & (first < -_AHEAD_S) & (of_sensor - first > limit_s)
            for concerned, offsets_s, reference in (
                (beyond, of_sensor, "the clock of this computer"),
                (apart, of_sensor - first, "those of another sensor of the robot"),
            ):
                robots = np.flatnonzero(concerned).tolist()
                if robots:
                    offset_s = float(offsets_s[robots[0]])
                    text = _describe_offset(sensor, offset_s, reference, self._named(robots))
                    found.append(Finding(sensor.name, "offset", self._names(robots), len(robots) / len(ages_s), text))
        return found

    def _total(self, sensor: int, rows: Sequence[Counts], robots: Sequence[int]) -> Counts:
        """Add up the counts of some robots; a stream that several robots share counts once."""
        distinct = {id(self.streams[robot][sensor]): rows[robot] for robot in robots}
        return Counts(*map(sum, zip(*distinct.values(), strict=True)))

    def _names(self, robots: Sequence[int]) -> tuple[str, ...]:
        return tuple(self._robots[robot] for robot in robots)

    def _named(self, robots: Sequence[int]) -> str:
        if len(robots) == len(self._robots) > 1:
            return f"all {len(robots)} robots"
        return named(self._names(robots), _ROBOTS_NAMED)


def _is_much(count: int, of: int, part: float) -> bool:
    return count >= MIN_MESSAGES and count >= part * of


def _describe_offset(sensor: SensorKind, age_s: float, reference: str, robots: str) -> str:
    return (
        f"{sensor.name}: stamps on {sensor.topic} are {abs(age_s):.2f} s {'behind' if age_s > 0 else 'ahead of'} "
        f"{reference}, constant ({robots}); synchronise the clocks, or set stamp_offset_s: {age_s:.2f} of "
        "this sensor"
    )


def _describe_repeated(sensor: SensorKind, total: Counts, robots: str, elapsed_s: float) -> str:
    repeated = 1.0 - total.fresh_ticks / total.ticks
    return (
        f"{sensor.name}: at {repeated:.0%} of the ticks within {elapsed_s:.1f} s no new image came on {sensor.topic} "
        f"({robots}), so the {sensor.steps} steps hold one twice; publish at the control rate, or set control_rate_hz "
        "to the rate of the images if the policy was trained so"
    )


def _describe_lost(sensor: SensorKind, total: Counts, robots: str, elapsed_s: float) -> str:
    lost, sent = total.lost, total.lost + total.received
    fresh = total.fresh_ticks / total.ticks
    remedy = "see that network and CPUs are not overloaded, publish at a lower rate, or reliably"
    if sensor.is_image:
        profile = share_path("config", "fastdds.xml")
        remedy = (
            "where the images are published with Fast DDS, start the publishers with "
            f"FASTRTPS_DEFAULT_PROFILES_FILE={profile} (its default settings lose large messages), "
            "or publish compressed or smaller images, or fewer of them"
        )
    return (
        f"{sensor.name}: {lost} of {sent} messages on {sensor.topic} were lost on their way within {elapsed_s:.1f} s "
        f"({lost / sent:.0%}; {robots}), a new one came at {fresh:.0%} of the ticks; {remedy}"
    )


def _describe_late(sensor: SensorKind, total: Counts, robots: str, elapsed_s: float) -> str:
    age_s = total.late_ages_ns / total.late / 1e9
    remedy = "see that the clocks agree and that the publisher stamps the time of the measurement"
    if age_s > _OTHER_CLOCK_S:
        remedy = "their stamps are simulated or recorded time: start the node with use_sim_time: true, and a /clock"
    elif sensor.is_image:
        remedy += ", publish compressed or smaller images, or fewer of them"
    return (
        f"{sensor.name}: {total.late} of {total.received} messages on {sensor.topic} within {elapsed_s:.1f} s were "
        f"{age_s:.3f} s old on average when they arrived ({robots}), but {sensor.max_age_s:.3f} s are allowed; {remedy}"
    )


def _describe_mixed(sensor: SensorKind, total: Counts, robots: str, elapsed_s: float) -> str:
    return (
        f"{sensor.name}: two publishers take turns on {sensor.topic} ({robots}); the policy sees one, "
        "then the other: stop one of them, or give it another topic"
    )


# Kind -> number of affected messages, number of all messages, and the text for the operator.
_PROBLEMS: dict[str, tuple[Callable[[Counts], tuple[int, int]], Callable[[SensorKind, Counts, str, float], str]]] = {
    "lost": (lambda row: (row.lost, row.received + row.lost), _describe_lost),
    "late": (lambda row: (row.late, row.received), _describe_late),
    "repeated": (lambda row: (row.ticks - row.fresh_ticks if row.received else 0, row.ticks), _describe_repeated),
    "mixed": (lambda row: (row.changes, row.received), _describe_mixed),
}
