# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Read the numbers of messages into vectors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from policy_node.config.specs import ArraySpec
from policy_node.messages.cdr import deserialise
from policy_node.messages.fields import MessageClass, MessageTypeError
from policy_node.messages.layouts import Layout, NumberRun, find_layout
from policy_node.messages.reading import Copies, Copy, UnusableReading, stack_hint

# Most shapes of messages that are remembered, of one size and in all; the frames of robots differ in length.
MAX_LAYOUTS_OF_SIZE = 8
MAX_LAYOUTS = 64

# Reads the numbers of any message of one layout; raises `UnusableReading`.
ReadNumbers: TypeAlias = Callable[[bytes], np.ndarray]


class NumberSource(ABC):
    """Finds the numbers in messages of one type.

    Attributes
    ----------
    dtypes
        Types of the numbers in the definition of the message.
    size
        Count of the numbers in every message; None if each message chooses.
    compared
        Paths of the strings that decide where the numbers are.
    """

    dtypes: Sequence[np.dtype]
    size: int | None
    compared: Sequence[str] = ()

    @abstractmethod
    def numbers(self, message: Any) -> np.ndarray:
        """Return the numbers of a message, `[n]` of any dtype; raises `UnusableReading`."""

    @abstractmethod
    def label(self, message: Any, index: int) -> str:
        """Return the name of a number in a message, as in ``effort of joint 'touch_3'``."""

    def remedy(self, message: Any) -> str:
        """Return how to choose from a message of too many numbers, after a semicolon; empty if one cannot choose."""
        return ""

    def located(self, layout: Layout) -> ReadNumbers | None:
        """Return a function that reads the same numbers from messages of the layout of the last message read.

        By default None: their places are not known.
        """
        return None


class PaddedSource(NumberSource):
    """The numbers of another source, cut or filled up with zeros; `has_count` says whether their count comes last."""

    def __init__(self, source: NumberSource, size: int, has_count: bool) -> None:
        self._source = source
        self.size = size
        self._most = size - 1 if has_count else size
        self._has_count = has_count
        self.dtypes = source.dtypes
        self.compared = source.compared

    def numbers(self, message: Any) -> np.ndarray:
        """Return the numbers `[size]`."""
        return self._padded(self._source.numbers(message))

    def located(self, layout: Layout) -> ReadNumbers | None:
        """See `NumberSource`."""
        read = self._source.located(layout)
        return None if read is None else lambda raw: self._padded(read(raw))

    def label(self, message: Any, index: int) -> str:
        """Return the name of a number."""
        return self._source.label(message, index)

    def _padded(self, numbers: np.ndarray) -> np.ndarray:
        array = np.zeros(self.size or 0, np.result_type(numbers, np.int64) if self._has_count else numbers.dtype)
        used = min(len(numbers), self._most)
        array[:used] = numbers[:used]
        if self._has_count:
            array[-1] = len(numbers)
        return array


def padded(source: NumberSource, spec: ArraySpec, padding: str) -> NumberSource:
    """Return a source with as many numbers as a vector has; `padding` is the parameter of that name."""
    if padding == "refuse" or len(spec.shape) != 1:
        return source
    return PaddedSource(source, spec.shape[0], padding == "zeros_and_count")


class VectorReader:
    """Reads the numbers of one message into a vector `[n]`.

    The first message of each shape is deserialised; from later ones of that shape only the numbers are read, at the
    places found in the first. Every unusual message goes to the deserialiser, which alone refuses messages.

    Raises
    ------
    MessageTypeError
        If the numbers cannot be cast to the dtype of the spec without changing their kind, or their count differs.
    """

    parallel = False

    def __init__(self, message_type: MessageClass, source: NumberSource, spec: ArraySpec) -> None:
        self._message_type = message_type
        self._source = source
        self._size = spec.shape[0] if len(spec.shape) == 1 else 0
        found = " and ".join(sorted({dtype.name for dtype in source.dtypes}))
        if not self._size or source.size not in (None, self._size):
            hint = stack_hint(self._size, source.size or 0)
            raise MessageTypeError(
                f"the observation is {spec.dtype} {list(spec.shape)}, the message gives "
                f"{'a vector' if source.size is None else f'{source.size} numbers'} of {found}; "
                f"choose the numbers with `field` or `joints`, or another type{hint}"
            )
        if not all(np.can_cast(dtype, spec.dtype, "same_kind") for dtype in source.dtypes):
            raise MessageTypeError(
                f"the observation is {spec.dtype}, the message gives {found}, which would lose what it means; "
                "choose another `field` or type, or train the policy on that dtype"
            )
        self._dtype = spec.dtype
        self._low, self._high = _limits(spec.dtype)
        # Size of the message -> its layouts, each with the function that reads the numbers.
        self._layouts: dict[int, list[tuple[Layout, ReadNumbers]]] = {}
        self._may_learn = MAX_LAYOUTS if _may_be_located(source.dtypes, self._low, self._high) else 0
        # Only finite numbers, far within the limits, have so small a sum of squares; integers need no look.
        self._usual = np.float64(min(float(self._high), 1e150) ** 2 / 4)
        #: See `Copies`; None where numbers of several types are read, or integers.
        self.copies: Copies | None = None
        if self._may_learn and len({*source.dtypes}) == 1 and source.dtypes[0].kind == "f":
            # Those of the messages themselves, where the observation has a wider dtype.
            high = min(float(self._high), float(np.finfo(source.dtypes[0]).max))
            self.copies = Copies(self._copy_to, source.dtypes[0], -high, high)

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

    def _copy_to(self, out: np.ndarray) -> Copy:
        """Return a function that copies the numbers of messages of a known layout to `out` `[n]`, usable or not."""
        layouts, frombuffer = self._layouts, np.frombuffer

        def copy(raw: bytes) -> bool:
            for layout, read in layouts.get(len(raw), ()):
                if layout.unpack(raw) == layout.fixed:
                    # Others compute with their numbers, of which NumPy may warn.
                    if type(read) is not NumberRun:
                        return False
                    numbers = frombuffer(raw, read.dtype, read.count, read.start)
                    out[...] = numbers if read.indices is None else numbers[read.indices]
                    return True
            return False

        return copy

    def _located(self, raw: bytes) -> ReadNumbers | None:
        for layout, read in self._layouts.get(len(raw), ()):
            if layout.unpack(raw) == layout.fixed:
                return read
        return None

    def _deserialised(self, raw: bytes, learn: bool) -> np.ndarray:
        """Return the numbers `[n]` of a message, all usable, or raise `UnusableReading`."""
        message = deserialise(raw, self._message_type)
        # A signalling NaN may be in there; it is reported below, not by NumPy.
        with np.errstate(invalid="ignore"):
            numbers = self._source.numbers(message)
            if len(numbers) != self._size:
                remedy = (
                    self._source.remedy(message) if len(numbers) > self._size else stack_hint(self._size, len(numbers))
                )
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
    """Return whether numbers of all these types are within the limits: floats, or integers of a narrower range."""
    return all(
        dtype.kind == "f" or (dtype.kind in "iu" and np.iinfo(dtype).min >= low and np.iinfo(dtype).max <= high)
        for dtype in dtypes
    )
