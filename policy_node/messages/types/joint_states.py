# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Joint states: position, velocity or effort of joints, chosen by name."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import numpy as np

from policy_node.messages.fields import MessageTypeError, require_unique
from policy_node.messages.layouts import Layout, number_run
from policy_node.messages.reading import MissingJointsError, UnusableReading
from policy_node.messages.types import vector_type
from policy_node.messages.vectors import NumberSource, ReadNumbers

JOINT_FIELDS = ("position", "velocity", "effort")


class JointSource(NumberSource):
    """Position (if empty), velocity or effort of the named joints; without names of all, in each message's order.

    Raises MessageTypeError if there is no such field, or a joint is named twice.
    """

    dtypes = (np.dtype(np.float64),)

    def __init__(self, field: str, joints: Sequence[str]) -> None:
        self._field = field or "position"
        check_joint_field(self._field)
        require_unique("joints", joints)
        self._joints = list(joints)
        self._get = attrgetter("name", self._field)
        self._names: list[str] | None = None
        self._order = np.zeros(0, np.intp)
        self.size = len(joints) or None
        self.compared = ("name",) if joints else ()

    def located(self, layout: Layout) -> ReadNumbers | None:
        """See `NumberSource`."""
        return number_run(layout, [self._field], self._order if self._joints else None)

    def numbers(self, message: Any) -> np.ndarray:
        """Return the values of the chosen joints `[n]`."""
        names, values = self._get(message)
        if not self._joints:
            return np.asarray(values)
        if len(values) != len(names):
            # Those of other joints may lack the field.
            if names:
                self._order_in(names)
            raise UnusableReading(f"{len(values)} values of {self._field} for {len(names)} joints")
        # Joints keep their order from message to message, so they are looked up only when it changes.
        if names != self._names:
            self._order = self._order_in(names)
            self._names = names
        return np.asarray(values)[self._order]

    def _order_in(self, names: list[str]) -> np.ndarray:
        """Return the place of each joint among names."""
        return np.array([position_of(names, joint) for joint in self._joints], np.intp)

    def label(self, message: Any, index: int) -> str:
        """Return the field and the joint of a value."""
        return f"{self._field} of joint '{self._joints[index]}'" if self._joints else f"{self._field}[{index}]"

    def remedy(self, message: Any) -> str:
        """Return that joints can be chosen, where the message names them."""
        if self._joints or not message.name:
            return ""
        return f"; choose them in `joints`, in the order of training; found are {', '.join(message.name[:20])}"


def check_joint_field(field: str) -> None:
    """Raise MessageTypeError if a JointState has no such field."""
    if field not in JOINT_FIELDS:
        remedy = "; name joints in `joints`, as publishers order them differently" if "[" in field else ""
        raise MessageTypeError(f"field '{field}' is not of a JointState; allowed: {', '.join(JOINT_FIELDS)}{remedy}")


def position_of(names: Sequence[str], joint: str) -> int:
    """Return the index of a joint; raises UnusableReading unless the joint occurs once."""
    count = names.count(joint)
    if count != 1:
        found = ", ".join(names[:20]) or "none"
        problem = MissingJointsError if count == 0 else UnusableReading
        raise problem(f"joint '{joint}' occurs {count} times, not once; joints found: {found}")
    return names.index(joint)


MESSAGE_TYPES = vector_type(
    "sensor_msgs/msg/JointState",
    "`position` (or `velocity`, `effort`) of `joints`; those of several publishers are joined",
    "one per joint",
    lambda message_type, choices: JointSource(choices.field, choices.joints),
    takes=frozenset({"field", "joints"}),
    refuses="NaN and infinity of a joint that is read; a joint that no publisher of the topic has, or one has twice",
)
