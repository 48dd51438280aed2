# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Commands of a whole fleet as serialised messages, in which only numbers and stamp change."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from rclpy.serialization import serialize_message

from policy_node.ros.messages import CommandEncoder

# No byte of these is 0: where they stand every byte of a message of zeros changes.
_PROBE = struct.unpack("=d", bytes([0x12, 0x34, 0x56, 0x78, 0x9A, 0x6B, 0x6C, 0x6D]))[0]
_PROBE_STAMP_NS = 0x11223344 * 1_000_000_000 + 0x15263748
_WORD = 8
# With these a layout is compared with the typed messages.
_CHECKED = (-0.0, 5e-324, -1.7976931348623157e308, 1 / 3, 2.5)
_CHECKED_STAMPS_NS = (0, 1_999_999_999, (2**31 - 1) * 1_000_000_000 + 999_999_999)


class FleetEncoder(Protocol):
    """Turns the commands of all robots into serialised messages."""

    def __call__(self, commands: np.ndarray, robots: Sequence[int], stamp_ns: int) -> list[bytes]:
        """Serialise those rows of `commands` `[robots, components]` float64 that `robots` names, with one stamp."""


class Layout(NamedTuple):
    """What is the same in every message of an encoder, and where the rest stands.

    Attributes
    ----------
    template
        A message.
    offsets
        Of each component, a float64.
    stamp_offset
        Of the seconds and the nanoseconds after them, four bytes each; None without a stamp.
    """

    template: bytes
    offsets: tuple[int, ...]
    stamp_offset: int | None


class TypedMessages:
    """Serialises one typed message after the other."""

    def __init__(self, encoder: CommandEncoder) -> None:
        self._encoder = encoder

    def __call__(self, commands: np.ndarray, robots: Sequence[int], stamp_ns: int) -> list[bytes]:
        """See `FleetEncoder`."""
        return [serialize_message(self._encoder(commands[robot], stamp_ns)) for robot in robots]


class PatchedMessages:
    """Writes numbers and stamp into the messages of all robots at once.

    Parameters
    ----------
    layout
        Of the messages.
    robots
        How many there are.
    """

    def __init__(self, layout: Layout, robots: int) -> None:
        size = len(layout.template)
        messages = bytearray(layout.template * robots)

        def column(dtype: type, offset: int) -> np.ndarray:
            return np.ndarray((robots,), dtype, messages, offset, strides=(size,))

        self._messages, self._size = messages, size
        self._columns = [column(np.float64, offset) for offset in layout.offsets]
        start = layout.stamp_offset
        self._stamps = None if start is None else (column(np.int32, start), column(np.uint32, start + 4))

    def __call__(self, commands: np.ndarray, robots: Sequence[int], stamp_ns: int) -> list[bytes]:
        """See `FleetEncoder`."""
        for column, values in zip(self._columns, commands.T, strict=True):
            column[:] = values
        if self._stamps is not None:
            self._stamps[0][:], self._stamps[1][:] = divmod(stamp_ns, 1_000_000_000)
        messages, size = bytes(self._messages), self._size
        return [messages[robot * size : (robot + 1) * size] for robot in robots]


def fleet_encoder(encoder: CommandEncoder, robots: int) -> FleetEncoder:
    """Make what serialises the commands of many robots: the fast one where the layout of the messages is known."""
    layout = find_layout(encoder)
    return TypedMessages(encoder) if layout is None else PatchedMessages(layout, robots)


def find_layout(encoder: CommandEncoder) -> Layout | None:
    """Find out where numbers and stamp stand in the messages of an encoder.

    Returns
    -------
    Layout | None
        None when messages that are patched by it would not be those of the encoder.
    """
    zeros = np.zeros(encoder.components)

    def serialised(command: np.ndarray, stamp_ns: int = 0) -> bytes:
        return serialize_message(encoder(command, stamp_ns))

    template, stamped = serialised(zeros), serialised(zeros, _PROBE_STAMP_NS)
    stamp_offset = None if stamped == template else _changed_word(template, stamped)
    offsets = [_changed_word(template, serialised(row)) for row in np.eye(encoder.components) * _PROBE]
    if -1 in (*offsets, stamp_offset):
        return None
    layout = Layout(template, tuple(offsets), stamp_offset)
    patched = PatchedMessages(layout, 1)
    for stamp_ns in _CHECKED_STAMPS_NS:
        for first in range(len(_CHECKED)):
            command = np.resize(np.roll(_CHECKED, first), encoder.components)
            if patched(command[np.newaxis], [0], stamp_ns) != [serialised(command, stamp_ns)]:
                return None
    return layout


def _changed_word(one: bytes, other: bytes) -> int:
    """Return where eight bytes differ, -1 when anything else does."""
    if len(one) != len(other):
        return -1
    changed = [index for index, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1]]
    return changed[0] if changed and changed == list(range(changed[0], changed[0] + _WORD)) else -1
