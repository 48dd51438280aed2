# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Keep the newest stamped messages of each sensor."""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import Any, NamedTuple

# Largest age, in nanoseconds, of what does not age.
AGELESS_NS = 2**62
# Makes a named tuple of a tuple, without the Python function that a call of its class is.
as_tuple = tuple.__new__


def age_ns(age_s: float) -> int:
    """Return an age in nanoseconds; infinite: `AGELESS_NS`."""
    return AGELESS_NS if age_s == math.inf else round(age_s * 1e9)


class Sample(NamedTuple):
    """One stamped message of a sensor, not yet decoded; the message is None for the silence of a sensor."""

    stamp_ns: int
    message: Any


class SampleRing:
    """The newest samples of one sensor of one robot, in the order of their stamps and of their arrival.

    Samples are ordered by arrival. If a stamp goes backwards (restart, clock step), buffered samples with later stamps
    are dropped. The oldest of more than `length` samples is dropped, too.

    Attributes
    ----------
    name
        Name of the sensor.
    max_age_ns
        Largest usable age of its samples; 0 without a limit of the sensor itself.
    limit
        The parameter with that age, for reasons.
    stamps, messages
        Stamps of the samples in nanoseconds, ascending, and their messages; the ring and `select_usual` change them.
    first_seen
        Stamp -> time at which the sample was first seen, for samples whose stamp once lay in the future.
    is_ahead
        Whether the last sample was refused because its stamp lay too far in the future.
    """

    __slots__ = ("_length", "first_seen", "is_ahead", "limit", "max_age_ns", "messages", "name", "stamps")

    def __init__(self, length: int, name: str = "", max_age_ns: int = 0, limit: str = "max_age_s") -> None:
        self._length = length
        self.name = name
        self.max_age_ns = max_age_ns
        self.limit = limit
        self.stamps: list[int] = []
        self.messages: list[Any] = []
        self.first_seen: dict[int, int] = {}
        self.is_ahead = False

    def append(self, stamp_ns: int, message: Any) -> None:
        """Add a sample; it replaces samples of equal and later stamps."""
        stamps = self.stamps
        if stamps and stamp_ns <= stamps[-1]:
            # Sending a measurement again does not make it newer.
            first_seen_ns = self.first_seen.get(stamp_ns)
            self._drop(slice(bisect_left(stamps, stamp_ns), None))
            if first_seen_ns is not None:
                self.first_seen[stamp_ns] = first_seen_ns
        stamps.append(stamp_ns)
        self.messages.append(message)
        self.is_ahead = False
        if len(stamps) > self._length:
            self._drop(slice(1))

    def refuse_ahead(self, now_ns: int, max_ahead_ns: int) -> int:
        """Drop samples whose stamps lie too far in the future, and return how many.

        The age of other samples in the future counts from now on.
        """
        stamps = self.stamps
        if not stamps or stamps[-1] <= now_ns:
            return 0
        kept = bisect_left(stamps, now_ns + max_ahead_ns + 1)
        refused = len(stamps) - kept
        if refused:
            self.is_ahead = True
            self._drop(slice(kept, None))
        for stamp_ns in stamps[bisect_left(stamps, now_ns + 1) :]:
            self.first_seen.setdefault(stamp_ns, now_ns)
        return refused

    def discard_before(self, stamp_ns: int) -> None:
        """Drop the samples that are older than `stamp_ns`."""
        first = bisect_left(self.stamps, stamp_ns)
        if first:
            self._drop(slice(first))

    def advance_to(self, stamp_ns: int) -> Sample:
        """Return the sample nearest to a stamp, the newer of two, and drop older ones; the ring must not be empty."""
        stamps = self.stamps
        nearest = len(stamps) - 1
        if stamps[nearest] > stamp_ns:
            nearest = bisect_left(stamps, stamp_ns)
            if nearest and stamp_ns - stamps[nearest - 1] < stamps[nearest] - stamp_ns:
                nearest -= 1
        if nearest:
            del stamps[:nearest]
            del self.messages[:nearest]
            if self.first_seen:
                self._forget_first_seen()
        return as_tuple(Sample, (stamps[0], self.messages[0]))

    def counts_from(self, stamp_ns: int) -> int:
        """Return the time from which the age of a sample counts: its stamp, or the time when it was first seen."""
        return self.first_seen.get(stamp_ns, stamp_ns)

    def clear(self) -> None:
        """Drop all samples."""
        self._drop(slice(None))
        self.is_ahead = False

    def _drop(self, part: slice) -> None:
        del self.stamps[part]
        del self.messages[part]
        if self.first_seen:
            self._forget_first_seen()

    def _forget_first_seen(self) -> None:
        """Forget when samples that were dropped were first seen."""
        self.first_seen = {stamp: seen for stamp, seen in self.first_seen.items() if stamp in self.stamps}
