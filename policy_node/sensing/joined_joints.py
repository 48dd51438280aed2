# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Join the joint states of several publishers on one topic before they are chosen."""

from __future__ import annotations

from collections.abc import Sequence

from policy_node.config.parameters import SourceConfiguration
from policy_node.messages.joint_joining import JOINT_STATE, JointJoiner
from policy_node.messages.reading import UnusableReading
from policy_node.sensing.arrivals import Arrivals
from policy_node.sensing.samples import SampleRing


def joints_read(sources: Sequence[SourceConfiguration]) -> list[tuple[str, str]]:
    """Return field and joint of everything that is read from a topic; empty if it cannot be joined."""
    if sources[0].type != JOINT_STATE or not all(source.joints for source in sources):
        return []
    return [(source.field or "position", joint) for source in sources for joint in source.joints]


class JoinedJoints:
    """Stands before the buffer of a sensor after a message lacked some of its joints.

    Once a message with other joints has come, the buffer gets joined messages: each joint has its newest value, and
    the stamp is that of the oldest of them. Until then, all messages pass, so the policy's decoder names what is wrong.

    Parameters
    ----------
    buffer
        Buffer of the sensor.
    read
        From `joints_read`.
    lacking
        The message that lacked joints.
    only_if_needed
        Whether messages pass if those of one publisher have all joints.
    """

    def __init__(
        self,
        buffer: SampleRing | Arrivals,
        read: Sequence[tuple[str, str]],
        lacking: bytes,
        only_if_needed: bool = False,
    ) -> None:
        self._buffer = buffer
        self._name = buffer.name
        self._joiner = JointJoiner(read)
        self._joiner.add(0, lacking)
        self._joiner.clear()
        self._first_names = self._joiner.names
        self._only_if_needed = only_if_needed
        self._passes = False
        #: Whether messages are joined.
        self.joins = False

    @property
    def max_age_ns(self) -> int:
        """Largest usable age of the messages."""
        return self._buffer.max_age_ns

    @max_age_ns.setter
    def max_age_ns(self, max_age_ns: int) -> None:
        self._buffer.max_age_ns = max_age_ns

    def append(self, stamp_ns: int, message: bytes) -> None:
        """Add a message, joined with those before."""
        if self._passes:
            self._buffer.append(stamp_ns, message)
            return
        try:
            is_new = self._joiner.add(stamp_ns, message)
        except UnusableReading:
            # Its decoder says why.
            self._buffer.append(stamp_ns, message)
            return
        if not self.joins:
            self._passes = self._only_if_needed and self._joiner.is_complete
            if self._passes or self._joiner.names == self._first_names:
                self._buffer.append(stamp_ns, message)
                return
            self.joins = True
            self._buffer.clear()
        missing = self._joiner.missing
        if missing:
            self._buffer.name = f"{self._name} with joint {', '.join(missing)}"
        elif is_new:
            oldest_ns, joint = self._joiner.oldest()
            self._buffer.name = f"{self._name} (joint {joint})"
            self._buffer.append(oldest_ns, self._joiner.message())

    def clear(self) -> None:
        """Drop all messages."""
        self._joiner.clear()
        self._buffer.clear()
