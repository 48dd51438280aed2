# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Messages that hold numbers, to the vector that a policy wants."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any, Protocol

import numpy as np
from rclpy.serialization import deserialize_message

from policy_node.ros.cdr import body_end
from policy_node.ros.fields import MessageClass, MessageTypeError, NumericField, numeric_fields
from policy_node.samples import UnusableReading
from policy_node.specs import ArraySpec

JOINT_FIELDS = ("position", "velocity", "effort")


class NumberSource(Protocol):
    """Where the numbers of one message type are."""

    @property
    def dtypes(self) -> Sequence[np.dtype]:
        """Types of the numbers in the definition of the message."""

    @property
    def size(self) -> int | None:
        """How many numbers every message has; None if each message chooses."""

    def numbers(self, message: Any) -> np.ndarray:
        """Return the numbers of a message, `[n]` of any dtype; raises `UnusableReading`."""

    def label(self, message: Any, index: int) -> str:
        """Say which number of a message that is, as in ``effort of joint 'touch_3'``."""


class VectorReader:
    """Reads the numbers of one message into a vector.

    Parameters
    ----------
    message_type
        Class of the message.
    source
        Where its numbers are.
    spec
        One frame, `[n]`.

    Raises
    ------
    MessageTypeError
        If the numbers cannot be cast to the dtype of `spec` without changing their kind, or are known to be fewer or
        more than `spec` has.
    """

    def __init__(self, message_type: MessageClass, source: NumberSource, spec: ArraySpec) -> None:
        self._message_type = message_type
        self._source = source
        self._size = spec.shape[0] if len(spec.shape) == 1 else 0
        found = " and ".join(sorted({dtype.name for dtype in source.dtypes}))
        if not self._size or source.size not in (None, self._size):
            raise MessageTypeError(
                f"the observation is {spec.dtype} {list(spec.shape)}, the message gives "
                f"{'a vector' if source.size is None else f'{source.size} numbers'} of {found}; "
                "choose the numbers with `field` or `joints`, or another type"
            )
        if not all(np.can_cast(dtype, spec.dtype, "same_kind") for dtype in source.dtypes):
            raise MessageTypeError(
                f"the observation is {spec.dtype}, the message gives {found}, which would lose what it means; "
                "choose another `field` or type, or train the policy on that dtype"
            )
        self._low, self._high = _limits(spec.dtype)

    def __call__(self, raw: bytes, out: np.ndarray) -> None:
        """Read `raw` into `out` `[n]`, or leave it alone and raise `UnusableReading`."""
        body_end(raw)
        try:
            message = deserialize_message(raw, self._message_type)
        except Exception as error:  # the middleware chooses what it raises
            raise UnusableReading(f"the message is cut or damaged: {error}") from error
        # A signalling NaN may be in there; it is reported below, not by NumPy.
        with np.errstate(invalid="ignore"):
            numbers = self._source.numbers(message)
            if len(numbers) != self._size:
                raise UnusableReading(f"{len(numbers)} numbers found, the policy takes {self._size}")
            # NaN compares as False, so this finds it too.
            usable = (numbers >= self._low) & (numbers <= self._high)
        if not usable.all():
            index = int(np.argmin(usable))
            label = self._source.label(message, index)
            raise UnusableReading(f"{label} is {numbers[index]}, which is not a finite {out.dtype}")
        out[...] = numbers


class FieldSource:
    """The numbers at dotted paths of a message, one path after the other.

    Parameters
    ----------
    message_type
        Class of the message.
    paths
        Dotted paths; see `numeric_fields`, which also says what is raised.
    """

    def __init__(self, message_type: MessageClass, paths: Sequence[str]) -> None:
        self._fields: list[NumericField] = [field for path in paths for field in numeric_fields(message_type, path)]
        self._get = attrgetter(*(field.path for field in self._fields))
        self._only_numbers = not any(field.is_array for field in self._fields)
        self.dtypes = [field.dtype for field in self._fields]
        sizes = [field.size for field in self._fields]
        self.size = None if None in sizes else sum(size or 0 for size in sizes)

    def numbers(self, message: Any) -> np.ndarray:
        """Return all numbers `[n]`."""
        values = self._get(message)
        if self._only_numbers or len(self._fields) == 1:
            return np.atleast_1d(np.asarray(values))
        return np.concatenate([np.atleast_1d(np.asarray(value)) for value in values])

    def label(self, message: Any, index: int) -> str:
        """Say the path of a number, and its index where the path is an array."""
        for field in self._fields:
            length = len(attrgetter(field.path)(message)) if field.is_array else 1
            if index < length:
                return f"{field.path}[{index}]" if field.is_array else field.path
            index -= length
        raise IndexError(index)


class RangeSource(FieldSource):
    """Distances in metres, as REP 117 says them, clipped to what the sensor can measure.

    A policy trains on distances clipped to the sensor's range, so +inf (nothing there) and anything beyond become the
    largest distance of the message, -inf (too near) and anything below become the smallest. NaN stays unusable.

    Parameters
    ----------
    message_type
        Class of the message.
    path, lowest, highest
        The fields of the distances and of the smallest and largest measurable one.
    """

    def __init__(self, message_type: MessageClass, path: str, lowest: str, highest: str) -> None:
        super().__init__(message_type, [path])
        self._limits = attrgetter(lowest, highest)
        self._names = f"{lowest} and {highest}"

    def numbers(self, message: Any) -> np.ndarray:
        """Return the clipped distances `[n]`."""
        lowest, highest = self._limits(message)
        if not -np.inf < lowest < highest < np.inf:
            raise UnusableReading(f"{self._names} are {lowest} and {highest}; finite and ascending ones are allowed")
        return np.clip(super().numbers(message), lowest, highest)


class JointSource:
    """Position, velocity or effort of joints, chosen by name.

    Parameters
    ----------
    field
        Position, velocity or effort; position if empty.
    joints
        Names of the joints in the order that the policy wants; if empty all, in the order of each message.

    Raises
    ------
    MessageTypeError
        If there is no such field, or a joint is named twice.
    """

    def __init__(self, field: str, joints: Sequence[str]) -> None:
        self._field = field or "position"
        if self._field not in JOINT_FIELDS:
            raise MessageTypeError(f"field '{field}' is not of a JointState; allowed: {', '.join(JOINT_FIELDS)}")
        require_unique("joints", joints)
        self._joints = list(joints)
        self._get = attrgetter("name", self._field)
        self._names: list[str] | None = None
        self._order = np.zeros(0, np.intp)
        self.dtypes = [np.dtype(np.float64)]
        self.size = len(joints) or None

    def numbers(self, message: Any) -> np.ndarray:
        """Return the values of the chosen joints `[n]`."""
        names, values = self._get(message)
        if not self._joints:
            return np.asarray(values)
        if len(values) != len(names):
            raise UnusableReading(f"{len(values)} values of {self._field} for {len(names)} joints")
        # Joints keep their order from message to message, so they are looked up only when it changes.
        if names != self._names:
            self._order = np.array([_position(names, joint) for joint in self._joints], np.intp)
            self._names = names
        return np.asarray(values)[self._order]

    def label(self, message: Any, index: int) -> str:
        """Say the field and the joint of a value."""
        return f"{self._field} of joint '{self._joints[index]}'" if self._joints else f"{self._field}[{index}]"


def require_unique(what: str, names: Sequence[str]) -> None:
    """Raise `MessageTypeError` that names what occurs twice."""
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise MessageTypeError(f"{what}: {', '.join(twice)} named more than once; name each once")


def _position(names: Sequence[str], joint: str) -> int:
    if names.count(joint) != 1:
        found = ", ".join(names[:20]) or "none"
        raise UnusableReading(f"joint '{joint}' occurs {names.count(joint)} times, not once; joints found: {found}")
    return names.index(joint)


def _limits(dtype: np.dtype) -> tuple[Any, Any]:
    """Return the least and greatest finite value of a dtype, typed so that a narrower array is widened to compare."""
    if dtype == np.bool_:
        return False, True
    if dtype.kind == "f":
        greatest = np.float64(np.finfo(dtype).max)
        return -greatest, greatest
    integers = np.iinfo(dtype)
    return int(integers.min), int(integers.max)
