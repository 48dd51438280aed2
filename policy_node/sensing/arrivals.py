# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Find the newest usable message of a sensor on a topic that other publishers may share."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from operator import attrgetter
from typing import Any

from policy_node.messages.reading import MissingJointsError
from policy_node.sensing.samples import Sample
from policy_node.sensing.synchroniser import RobotState, ahead_reason, old_reason

_STAMP = attrgetter("stamp_ns")
# The problem that keeps a robot from being driven.
Problem = tuple[RobotState, str]


class Arrivals:
    """The newest messages of one sensor of one robot.

    Other publishers may share the topic, as an arm and a gripper share `joint_states`. Unlike in a `SampleRing`, a
    message that cannot be used therefore never displaces one that can, not even with a newer stamp.

    Parameters
    ----------
    length
        Most messages kept between two ticks.
    name
        Name of the sensor.
    max_age_ns
        Largest age of a usable message; its stamp may lie as far in the future.

    Attributes
    ----------
    on_lacking
        Called with a message without some of the joints, while no message was usable; None: nothing is.
    """

    __slots__ = ("_counts_from_ns", "_kept", "_new", "_problem", "max_age_ns", "name", "on_lacking")

    def __init__(self, length: int, name: str, max_age_ns: int) -> None:
        self.name = name
        self.max_age_ns = max_age_ns
        self.on_lacking: Callable[[Any], None] | None = None
        self._new: deque[Sample] = deque(maxlen=length)
        # The newest usable message so far, and the time from which its age counts.
        self._kept: Sample | None = None
        self._counts_from_ns = 0
        # Why the newest message since then cannot be used.
        self._problem: Problem | None = None

    def append(self, stamp_ns: int, message: Any) -> None:
        """Add a message."""
        self._new.append(Sample(stamp_ns, message))

    def clear(self) -> None:
        """Drop all messages."""
        self._new.clear()
        self._kept = self._problem = None

    def newest_usable(
        self,
        now_ns: int,
        decode: Callable[[Any], None],
        refuse: Callable[[Any, Exception], str],
        decoded: Sample | None = None,
    ) -> Sample | Problem:
        """Decode the newest usable message, and return it, or why there is none.

        Parameters
        ----------
        now_ns
            Time of the tick, on the clock of the stamps.
        decode
            Decodes a message, or raises an exception.
        refuse
            Counts a message that cannot be used, and returns the reason in words.
        decoded
            The message that the caller has decoded; it is returned without decoding it again.
        """
        if len(self._new) > 1:
            # The newest stamp last, and of equal stamps the newest arrival: publishers may differ in latency.
            self._new = deque(sorted(self._new, key=_STAMP), self._new.maxlen)
        problem: Problem | None = None
        while self._new:
            sample = self._new.pop()
            counts_from_ns = self._counts_from(sample, now_ns)
            if counts_from_ns is None:
                continue
            found = self._try(sample, now_ns, now_ns - counts_from_ns, decode, refuse)
            if found is None:
                self._new.clear()
                self._kept, self._counts_from_ns, self._problem = sample, counts_from_ns, None
                return sample
            problem = problem or found
        self._problem = problem or self._problem
        if self._kept is None:
            return self._problem or (RobotState.WAITING, f"no message on {self.name}")
        age_ns = now_ns - self._counts_from_ns
        if age_ns > self.max_age_ns:
            if self._problem is None or self._problem[0] is RobotState.WAITING:
                # Messages without the joints come from another publisher.
                return RobotState.STALE, self._old(self._kept, age_ns)
            return self._problem
        if self._kept is not decoded:
            decode(self._kept.message)
        return self._kept

    def _counts_from(self, sample: Sample, now_ns: int) -> int | None:
        """Return the time from which the age of a message counts; None if the kept one is newer and still fresh."""
        kept = self._kept
        if kept is not None and sample.stamp_ns == kept.stamp_ns:
            # Sending a measurement again does not make it newer.
            return self._counts_from_ns
        # A kept message with a negative age was received before the clock was set back.
        if kept is None or sample.stamp_ns > kept.stamp_ns or not 0 <= now_ns - self._counts_from_ns <= self.max_age_ns:
            return min(sample.stamp_ns, now_ns)
        return None

    def _try(
        self,
        sample: Sample,
        now_ns: int,
        age_ns: int,
        decode: Callable[[Any], None],
        refuse: Callable[[Any, Exception], str],
    ) -> Problem | None:
        """Decode a message of this age; return why it cannot be used."""
        if sample.stamp_ns - now_ns > self.max_age_ns:
            reason = ahead_reason([self.name], self.max_age_ns)
            refuse(sample.message, ValueError(reason))
            return RobotState.REJECTED, reason
        if age_ns > self.max_age_ns:
            return RobotState.STALE, self._old(sample, age_ns)
        try:
            decode(sample.message)
        except MissingJointsError as error:
            # Not a fault of the message: it belongs to other joints.
            if self._kept is None and self.on_lacking is not None:
                self.on_lacking(sample.message)
            return RobotState.WAITING, f"{self.name}: {error}"
        except Exception as error:  # a broken message must not stop the robots
            return RobotState.REJECTED, refuse(sample.message, error)
        return None

    def _old(self, sample: Sample, age_ns: int) -> str:
        return old_reason(self.name, sample.stamp_ns, age_ns, "synchronisation.max_age_s", self.max_age_ns)
