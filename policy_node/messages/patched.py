# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Serialise the commands of a fleet: one template, in which only numbers and stamp change."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from policy_node.messages.cdr import deserialise, serialise
from policy_node.messages.command_fields import number_cast
from policy_node.messages.commands import CommandEncoder

# Bytes that occur nowhere else in a message, and by type the value that serialises to them, exact in float64. Types
# without one are too short to be found.
_PROBE_BYTES = bytes([0x12, 0x34, 0x56, 0x78, 0x9A, 0x6B, 0x6C, 0x6D])
_PROBES = {
    "d": struct.unpack("=d", _PROBE_BYTES)[0],
    "f": struct.unpack("=f", _PROBE_BYTES[2:6])[0],
    **dict.fromkeys("iI", 0x12346B6C),
    **dict.fromkeys("lLqQ", 0x12345678_9A6C0000),
}
_PROBE_STAMP_BYTES = struct.pack("=iI", 0x11223344, 0x15263748)
_PROBE_STAMP_NS = 0x11223344 * 1_000_000_000 + 0x15263748
# Numbers and stamps with which a template is compared with the typed messages.
_CHECKED = (-0.0, 5e-324, -1.7976931348623157e308, 1 / 3, 2.5)
_CHECKED_STAMPS_NS = (0, 1_999_999_999, (2**31 - 1) * 1_000_000_000 + 999_999_999)


# Serialises the rows `robots` of commands `[robots, components]` float64, all with one stamp in nanoseconds. Messages
# of several points take those of all points, or one command that all points repeat.
FleetEncoder: TypeAlias = Callable[[np.ndarray, Sequence[int], int], list[bytes]]


class Template(NamedTuple):
    """A serialised message, and the offsets of its components and of its stamp (two numbers of 4 bytes)."""

    message: bytes
    offsets: tuple[int, ...]
    dtypes: tuple[np.dtype, ...]
    stamp_offset: int | None


class TypedMessages:
    """Serialises one typed message after the other."""

    def __init__(self, encoder: CommandEncoder) -> None:
        self._encoder = encoder

    def __call__(self, commands: np.ndarray, robots: Sequence[int], stamp_ns: int) -> list[bytes]:
        """See `FleetEncoder`."""
        return [serialise(self._encoder(commands[robot], stamp_ns)) for robot in robots]


class PatchedMessages:
    """Writes numbers and stamp into the messages of all robots at once."""

    def __init__(self, template: Template, robots: int) -> None:
        size = len(template.message)
        messages = bytearray(template.message * robots)

        def column(dtype: DTypeLike, offset: int) -> np.ndarray:
            return np.ndarray((robots,), dtype, messages, offset, strides=(size,))

        self._messages, self._size = messages, size
        self._columns = [column(*each) for each in zip(template.dtypes, template.offsets, strict=True)]
        # Numbers of other types than float64, by the index of their component.
        self._casts = [(i, number_cast(dtype)) for i, dtype in enumerate(template.dtypes) if dtype != np.float64]
        start = template.stamp_offset
        self._stamps = None if start is None else (column(np.int32, start), column(np.uint32, start + 4))

    def __call__(self, commands: np.ndarray, robots: Sequence[int], stamp_ns: int) -> list[bytes]:
        """See `FleetEncoder`."""
        by_component: Sequence[np.ndarray] | np.ndarray = commands.T
        if self._casts:
            by_component = columns = list(by_component)
            for component, cast in self._casts:
                columns[component] = cast(columns[component])
        for column, values in zip(self._columns, by_component, strict=True):
            column[:] = values
        if self._stamps is not None:
            self._stamps[0][:], self._stamps[1][:] = divmod(stamp_ns, 1_000_000_000)
        messages, size = bytes(self._messages), self._size
        return [messages[robot * size : (robot + 1) * size] for robot in robots]


def fleet_encoder(encoder: CommandEncoder, robots: int) -> FleetEncoder:
    """Make the encoder of a fleet: `PatchedMessages` where a template is found, else `TypedMessages`."""
    template = find_template(encoder)
    encode: FleetEncoder = TypedMessages(encoder) if template is None else PatchedMessages(template, robots)
    if encoder.points == 1:
        return encode

    def repeated(commands: np.ndarray, robots: Sequence[int], stamp_ns: int) -> list[bytes]:
        if commands.shape[1] != encoder.components:
            commands = np.tile(commands, encoder.points)
        return encode(commands, robots, stamp_ns)

    return repeated


def find_template(encoder: CommandEncoder) -> Template | None:
    """Find where numbers and stamp lie in messages; None if patched ones would differ from those of the encoder.

    Messages are not compared byte by byte, as the bytes in the gaps before aligned values are arbitrary.
    """
    components = encoder.components

    def places(command: np.ndarray, stamp_ns: int, pattern: bytes) -> list[int]:
        message = serialise(encoder(command, stamp_ns))
        return [match.start() for match in re.finditer(re.escape(pattern), message)]

    if any(dtype.char not in _PROBES for dtype in encoder.dtypes):
        return None
    probes = np.array([_PROBES[dtype.char] for dtype in encoder.dtypes], np.float64)
    stamps = places(np.zeros(components), _PROBE_STAMP_NS, _PROBE_STAMP_BYTES)
    offsets = [
        places(row, 0, probe.astype(dtype).tobytes())
        for row, probe, dtype in zip(np.diag(probes), probes, encoder.dtypes, strict=True)
    ]
    if len(stamps) > 1 or any(len(found) != 1 for found in offsets):
        return None
    message = serialise(encoder(np.zeros(components), 0))
    template = Template(message, tuple(found[0] for found in offsets), encoder.dtypes, stamps[0] if stamps else None)
    patched = PatchedMessages(template, 1)
    for stamp_ns in _CHECKED_STAMPS_NS:
        for first in range(len(_CHECKED)):
            command = np.resize(np.roll(_CHECKED, first), components)
            typed = deserialise(patched(command[np.newaxis], [0], stamp_ns)[0], encoder.message_type)
            # Their texts tell -0.0 from 0.0.
            if repr(typed) != repr(encoder(command, stamp_ns)):
                return None
    return template
