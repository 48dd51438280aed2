# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""A parser of raw messages with valid messages, and its check against the typed deserialiser."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from rclpy.serialization import deserialize_message, serialize_message
from std_msgs.msg import Header

from policy_node.config.specs import ArraySpec
from policy_node.messages.cdr import body_end
from policy_node.messages.codecs import ReadingDecoder, reading_decoder
from policy_node.messages.fields import NUMBERS, MessageClass, elements_of, message_of
from policy_node.messages.reading import UnusableReading

HEADER = Header(stamp=Time(sec=12, nanosec=345), frame_id="base")
# Fills the row before decoding.
MARK = 0x5A


@dataclass(frozen=True)
class Case:
    """A parser with valid messages of one type and their expected values."""

    name: str
    messages: Sequence[Any]
    shape: tuple[int, ...]
    # Reads the values from a typed message, without the parser: numbers, an image, or None if it cannot be used.
    read: Callable[[Any], list[float] | np.ndarray | None]
    dtype: str = "float32"
    choices: dict[str, Any] = field(default_factory=dict)  # further arguments of `reading_decoder`
    # Makes the parser, where `reading_decoder` does not.
    make: Callable[[], ReadingDecoder] | None = None

    @property
    def type_name(self) -> str:
        """Type of the messages, such as `sensor_msgs/msg/Imu`."""
        message_type = type(self.messages[0])
        return f"{message_type.__module__.partition('.')[0]}/msg/{message_type.__name__}"

    def decoder(self) -> ReadingDecoder:
        """Return a parser that has parsed no message yet."""
        if self.make is not None:
            return self.make()
        spec = ArraySpec("seen", self.shape, self.dtype, 0, 1)
        return reading_decoder(self.type_name, spec, topic="seen", **self.choices)

    def seeds(self) -> list[bytes]:
        """Return the valid messages, serialised in both byte orders."""
        raws = [serialize_message(message) for message in self.messages]
        return [*raws, *(byteswapped(type(message), raw) for message, raw in zip(self.messages, raws, strict=True))]

    def expected(self, message: Any) -> list[float] | np.ndarray | None:
        """Return the values of a typed message, or None if it cannot be used."""
        values = self.read(message)
        if not isinstance(values, list):
            return values
        limit = float(np.finfo(self.dtype).max)
        fits = (len(values),) == self.shape and all(abs(float(value)) <= limit for value in values)
        return values if fits else None


class ProblemError(AssertionError):
    """A parser returned a wrong result."""


def check(case: Case, decoder: ReadingDecoder, raw: bytes) -> bool:
    """Parse a message, compare the result with the typed message and return whether the parser accepted it.

    Raises ProblemError if the parser raises an unexpected exception, writes to the row of a message that it
    rejects, accepts a message that the deserialiser rejects, gives other values, or rejects a usable message.
    """
    out = np.zeros(case.shape, case.dtype)
    out.view(np.uint8)[:] = MARK
    untouched = out.tobytes()
    stamp_ns, reason = None, ""
    try:
        stamp_ns = decoder.stamp_ns(raw)
        decoder.decode(raw, out)
    except UnusableReading as error:
        reason = str(error)
        if out.tobytes() != untouched:
            raise ProblemError(f"rejected ({reason}), but the row was changed") from error
    except Exception as error:
        raise ProblemError(f"{type(error).__name__}: {error}") from error
    message = typed(raw, decoder.message_type)
    expected = None if message is None else case.expected(message)
    if not reason and expected is None:
        raise ProblemError(
            "accepted, but the deserialiser rejects it"
            if message is None
            else f"accepted, but the typed message cannot be used: {message}"
        )
    if reason and expected is not None and not (raw[3] & 3 and "Image" in case.type_name):
        # If the encapsulation of an image names padding, the deserialiser may drop data; the parser does not.
        raise ProblemError(f"rejected ({reason}), but the typed message can be used")
    if not reason:
        _compare(message, expected, out, stamp_ns)
    return not reason


def _compare(message: Any, expected: Any, out: np.ndarray, stamp_ns: int | None) -> None:
    """Raise ProblemError if values or stamp differ from those of the typed message."""
    with np.errstate(all="ignore"):
        wanted = np.asarray(expected).astype(out.dtype)
    if wanted.tobytes() != out.tobytes():
        raise ProblemError(f"gives {out.tolist()}, the typed message {wanted.tolist()}")
    if stamp_ns is not None:
        stamp = message.header.stamp
        if stamp_ns != stamp.sec * 1_000_000_000 + stamp.nanosec:
            raise ProblemError(f"stamp {stamp_ns}, the typed message has {stamp}")


def typed(raw: bytes, message_type: MessageClass) -> Any | None:
    """Deserialise a message; None if it is invalid or known to crash the deserialiser."""
    try:
        body_end(raw)
    except UnusableReading:
        return None
    try:
        return deserialize_message(raw, message_type)
    except Exception:  # depends on the middleware
        return None


def byteswapped(message_type: MessageClass, raw: bytes) -> bytes:
    """Convert a serialised message from little-endian to big-endian."""
    swapped = bytearray(raw)
    swapped[1] = 0
    offset = 4

    def number(size: int) -> int:
        nonlocal offset
        offset += (4 - offset) % size
        swapped[offset : offset + size] = raw[offset : offset + size][::-1]
        offset += size
        return int.from_bytes(raw[offset - size : offset], "little")

    def visit(kind: str) -> None:
        nonlocal offset
        elements = elements_of(kind)
        if kind in NUMBERS:
            number(NUMBERS[kind].itemsize)
        elif kind == "string":
            length = number(4)
            offset += length
        elif elements is not None:
            for _ in range(number(4) if elements[1] is None else elements[1]):
                visit(elements[0])
        else:
            owner = message_of(kind)
            assert owner is not None, kind
            for part in owner.get_fields_and_field_types().values():
                visit(part)

    for kind in message_type.get_fields_and_field_types().values():
        visit(kind)
    return bytes(swapped)


def again(name: str, messages: Sequence[Any], shape: tuple[int, ...], dtype: str = "float32", **choices: Any) -> Case:
    """Return a case whose expected values are those of a parser that reads the message as serialised again."""
    case = Case(name, messages, shape, lambda message: None, dtype, choices)
    decoder = case.decoder()

    def read(message: Any) -> np.ndarray | None:
        out = np.zeros(shape, dtype)
        try:
            decoder.decode(serialize_message(message), out)
        except UnusableReading:
            return None
        return out

    return replace(case, read=read)
