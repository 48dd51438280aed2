# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Messages that hold numbers, to the vector that a policy wants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Protocol, TypeAlias

import numpy as np
from rclpy.serialization import deserialize_message

from policy_node.config.specs import ArraySpec
from policy_node.messages.cdr import body_end
from policy_node.messages.fields import MessageClass, MessageTypeError, NumericField, numeric_fields
from policy_node.messages.layouts import Layout, find_layout, number_run
from policy_node.sensing.samples import UnusableReading

JOINT_FIELDS = ("position", "velocity", "effort")
# Shapes of messages that are remembered, of one size and in all; frames of robots differ in length.
MAX_LAYOUTS_OF_SIZE = 8
MAX_LAYOUTS = 64

# Reads the numbers of any message of one layout; raises `UnusableReading`.
ReadNumbers: TypeAlias = Callable[[bytes], np.ndarray]


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

    def remedy(self, message: Any) -> str:
        """Say how to choose from a message that has too many numbers, after a semicolon; empty where one cannot."""

    @property
    def compared(self) -> Sequence[str]:
        """Paths of the strings on which it depends where the numbers are."""

    def located(self, layout: Layout) -> ReadNumbers | None:
        """Return what reads the same numbers from every message of the layout of the last one, None if unknown."""


class VectorReader:
    """Reads the numbers of one message into a vector.

    The first message of each shape is deserialised; from others of that shape only the numbers are read, where the
    first had them. Whatever is unusual is left to the deserialiser, which alone refuses messages.

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

    parallel = False

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
        self._dtype = spec.dtype
        self._low, self._high = _limits(spec.dtype)
        # By size of the message: what decides its shape, and what reads the numbers.
        self._layouts: dict[int, list[tuple[Layout, ReadNumbers]]] = {}
        self._may_learn = MAX_LAYOUTS if _may_be_located(source.dtypes, self._low, self._high) else 0
        # Only finite numbers, far within the limits, have so small a sum of squares; integers need no look.
        self._usual = np.float64(min(float(self._high), 1e150) ** 2 / 4)

    def __call__(self, raw: bytes, out: np.ndarray) -> None:
        """Read `raw` into `out` `[n]`, or leave it alone and raise `UnusableReading`."""
        read = self._located(raw)
        if read is not None:
            # A signalling NaN or a huge number may be in there: the deserialiser's path says so, not NumPy.
            with np.errstate(over="ignore", invalid="ignore"):
                numbers = read(raw)
                usual = numbers.dtype.kind != "f" or numbers.dot(numbers) <= self._usual
            if usual:
                out[...] = numbers
                return
        out[...] = self._deserialised(raw, learn=read is None)

    def _located(self, raw: bytes) -> ReadNumbers | None:
        for layout, read in self._layouts.get(len(raw), ()):
            if layout.unpack(raw) == layout.fixed:
                return read
        return None

    def _deserialised(self, raw: bytes, learn: bool) -> np.ndarray:
        """Return the numbers `[n]` of a message, all usable, or raise `UnusableReading`."""
        body_end(raw)
        try:
            message = deserialize_message(raw, self._message_type)
        except Exception as error:  # the middleware chooses what it raises
            raise UnusableReading(f"the message is cut or damaged: {error}") from error
        # A signalling NaN may be in there; it is reported below, not by NumPy.
        with np.errstate(invalid="ignore"):
            numbers = self._source.numbers(message)
            if len(numbers) != self._size:
                remedy = self._source.remedy(message) if len(numbers) > self._size else ""
                raise UnusableReading(f"{len(numbers)} numbers found, the policy takes {self._size}{remedy}")
            # NaN compares as False, so this finds it too.
            usable = (numbers >= self._low) & (numbers <= self._high)
        if not usable.all():
            index = int(np.argmin(usable))
            label = self._source.label(message, index)
            raise UnusableReading(f"{label} is {numbers[index]}, which is not a finite {self._dtype}")
        if learn and self._may_learn:
            self._learn(raw, numbers)
        return numbers

    def _learn(self, raw: bytes, numbers: np.ndarray) -> None:
        """Remember where the numbers of a message lie."""
        layouts = self._layouts.setdefault(len(raw), [])
        if len(layouts) == MAX_LAYOUTS_OF_SIZE:
            return
        self._may_learn -= 1
        layout = find_layout(self._message_type, raw, self._source.compared)
        read = self._source.located(layout) if layout is not None else None
        if layout is not None and read is not None and np.array_equal(read(raw), numbers):
            layouts.append((layout, read))


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
        self.compared: tuple[str, ...] = ()

    def located(self, layout: Layout) -> ReadNumbers | None:
        """See `NumberSource`."""
        return number_run(layout, [field.path for field in self._fields])

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

    def remedy(self, message: Any) -> str:
        """See `NumberSource`."""
        return ""


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
        self._limit_paths = (lowest, highest)
        self._limits = attrgetter(*self._limit_paths)

    def numbers(self, message: Any) -> np.ndarray:
        """Return the clipped distances `[n]`."""
        return self._clip(super().numbers(message), *self._limits(message))

    def located(self, layout: Layout) -> ReadNumbers | None:
        """See `NumberSource`."""
        read_distances, read_limits = super().located(layout), number_run(layout, self._limit_paths)
        if read_distances is None or read_limits is None:
            return None

        def read(raw: bytes) -> np.ndarray:
            return self._clip(read_distances(raw), *read_limits(raw).tolist())

        return read

    def _clip(self, distances: np.ndarray, lowest: float, highest: float) -> np.ndarray:
        if not -np.inf < lowest < highest < np.inf:
            names = " and ".join(self._limit_paths)
            raise UnusableReading(f"{names} are {lowest} and {highest}; finite and ascending ones are allowed")
        return np.clip(distances, lowest, highest)


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
            raise UnusableReading(f"{len(values)} values of {self._field} for {len(names)} joints")
        # Joints keep their order from message to message, so they are looked up only when it changes.
        if names != self._names:
            self._order = np.array([_position(names, joint) for joint in self._joints], np.intp)
            self._names = names
        return np.asarray(values)[self._order]

    def label(self, message: Any, index: int) -> str:
        """Say the field and the joint of a value."""
        return f"{self._field} of joint '{self._joints[index]}'" if self._joints else f"{self._field}[{index}]"

    def remedy(self, message: Any) -> str:
        """Say that joints can be chosen where the message names them."""
        if self._joints or not message.name:
            return ""
        return f"; choose them in `joints`, in the order of training; found are {', '.join(message.name[:20])}"


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


def _may_be_located(dtypes: Sequence[np.dtype], low: Any, high: Any) -> bool:
    """Whether numbers of all these types can be judged without a look at each: floats, or integers within limits."""
    return all(
        dtype.kind == "f" or (dtype.kind in "iu" and np.iinfo(dtype).min >= low and np.iinfo(dtype).max <= high)
        for dtype in dtypes
    )
