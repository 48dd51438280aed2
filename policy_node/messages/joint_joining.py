# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Join the joint states of several publishers, as of an arm and its gripper, into messages with all joints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from policy_node.messages.cdr import deserialise, serialise
from policy_node.messages.fields import message_class
from policy_node.messages.reading import UnusableReading

JOINT_STATE = "sensor_msgs/msg/JointState"
NANOSECONDS = 1_000_000_000


class Value(NamedTuple):
    """The newest value of a joint."""

    stamp_ns: int
    number: float


class JointJoiner:
    """Keeps the newest value of every joint that is read, each with its stamp.

    Parameters
    ----------
    read
        Field and joint of everything that is read.

    Attributes
    ----------
    names
        Names in the last message.
    is_complete
        Whether the last message alone had everything.
    """

    def __init__(self, read: Sequence[tuple[str, str]]) -> None:
        self._read = tuple(dict.fromkeys(read))
        self._values: dict[tuple[str, str], Value] = {}
        self.names: tuple[str, ...] = ()
        self.is_complete = False

    @property
    def missing(self) -> list[str]:
        """Joints that no message had yet."""
        return list(dict.fromkeys(joint for field, joint in self._read if (field, joint) not in self._values))

    def oldest(self) -> tuple[int, str]:
        """Return the oldest stamp of the values, in nanoseconds, and its joint."""
        (_, joint), value = min(self._values.items(), key=lambda item: item[1].stamp_ns)
        return value.stamp_ns, joint

    def add(self, stamp_ns: int, raw: bytes) -> bool:
        """Take the values of a message; return whether it had any that are read, each joint once.

        Raises UnusableReading if the message is damaged.
        """
        message = deserialise(raw, message_class(JOINT_STATE))
        places = {name: index for index, name in enumerate(message.name)}
        if len(places) != len(message.name):
            raise UnusableReading("a joint occurs twice")
        self.names = tuple(message.name)
        found = {
            (field, joint): Value(stamp_ns, getattr(message, field)[places[joint]])
            for field, joint in self._read
            # A publisher may leave out a field.
            if joint in places and len(getattr(message, field)) == len(places)
        }
        self._values.update(found)
        self.is_complete = len(found) == len(self._read)
        return bool(found)

    def message(self) -> bytes:
        """Return a message with the newest value of everything that is read, stamped as the oldest of them."""
        joints = list(dict.fromkeys(joint for _, joint in self._read))
        joined: Any = message_class(JOINT_STATE)(name=joints)
        joined.header.stamp.sec, joined.header.stamp.nanosec = divmod(self.oldest()[0], NANOSECONDS)
        for field in dict.fromkeys(field for field, _ in self._read):
            # Nobody reads the zeros.
            setattr(joined, field, [self._values.get((field, joint), Value(0, 0.0)).number for joint in joints])
        return serialise(joined)

    def clear(self) -> None:
        """Forget all values."""
        self._values.clear()
