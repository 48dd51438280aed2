# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Serialised ROS 2 messages (plain CDR), read without trusting them.

Four bytes of encapsulation come first: 0, then 0 for big-endian or 1 for little-endian, then two of options whose
last two bits count padding bytes at the end. Numbers of four bytes lie at multiples of four.
"""

from __future__ import annotations

from struct import Struct

from policy_node.sensing.samples import UnusableReading

BODY_START = 4
FRAME_START = 12  # of a std_msgs/Header: two numbers of the stamp, then the frame
# Each indexed by the second byte of the message.
ONE_UINT32 = (Struct(">I"), Struct("<I"))
TWO_UINT32 = (Struct(">II"), Struct("<II"))
THREE_UINT32 = (Struct(">III"), Struct("<III"))
_STAMP = (Struct(">iI"), Struct("<iI"))


def body_end(raw: bytes) -> int:
    """Check the encapsulation and return where the message ends.

    The deserialiser of Fast DDS reads beyond a message whose padding exceeds its length, and the process dies of it;
    so every message passes here first.

    Raises
    ------
    UnusableReading
        If the message is not plain CDR, or empty.
    """
    if len(raw) <= BODY_START or raw[0] != 0 or raw[1] > 1:
        raise UnusableReading(f"{len(raw)} bytes that start with '{raw[:BODY_START].hex(' ')}' are not a CDR message")
    end = len(raw) - (raw[3] & 3)
    if end <= BODY_START:
        raise UnusableReading("the message is empty")
    return end


def header_stamp_ns(raw: bytes) -> int | None:
    """Return the stamp, in nanoseconds, of a message that starts with a std_msgs/Header; None if it is cut before."""
    if len(raw) < FRAME_START:
        return None
    seconds, nanoseconds = _STAMP[raw[1] & 1].unpack_from(raw, BODY_START)
    return seconds * 1_000_000_000 + nanoseconds


def skip_string(raw: bytes, offset: int) -> int:
    """Return where a number of four bytes lies after the string at `offset`; raises `struct.error` beyond the end."""
    return (offset + 4 + ONE_UINT32[raw[1]].unpack_from(raw, offset)[0] + 3) & ~3
