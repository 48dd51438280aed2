# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Serialised ROS 2 messages (plain CDR, also called XCDR1), read without trust in their content.

Four bytes of encapsulation come first: 0, then 0 for big-endian or 1 for little-endian, then two of options whose
last two bits count padding bytes at the end. Some middlewares pad without counting it, as rmw_cyclonedds_cpp. Numbers
of four bytes lie at multiples of four. In XCDR2, which DDS applications without ROS may send, numbers of eight bytes
lie elsewhere, so it is refused.
"""

from __future__ import annotations

import importlib
from functools import cache
from struct import Struct
from typing import Any

from policy_node.messages.reading import UnusableReading

BODY_START = 4
FRAME_START = 12  # of a std_msgs/Header: two numbers of the stamp, then the frame
# Each indexed by the second byte of the message.
ONE_UINT32 = (Struct(">I"), Struct("<I"))
TWO_UINT32 = (Struct(">II"), Struct("<II"))
THREE_UINT32 = (Struct(">III"), Struct("<III"))
# The second byte of messages in XCDR2: plain, delimited, and with a list of parameters.
_XCDR2 = range(6, 12)
_STAMP = (Struct(">iI"), Struct("<iI"))


def body_end(raw: bytes) -> int:
    """Check the encapsulation and return where the message ends; raises UnusableReading if it is no CDR, or empty.

    The deserialiser of Fast DDS reads beyond a message whose padding exceeds its length, and the process dies.
    So call this before every use of a message.
    """
    if len(raw) <= BODY_START or raw[0] != 0 or raw[1] > 1:
        if len(raw) > BODY_START and raw[0] == 0 and raw[1] in _XCDR2:
            raise UnusableReading(
                f"the message is in XCDR2 (it starts with '{raw[:BODY_START].hex(' ')}'), but ROS 2 uses XCDR1; set "
                "the data representation of its publisher to XCDR1"
            )
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


@cache
def _middleware() -> Any:
    # Imported here, like the message classes: only reading and writing messages needs the middleware.
    return importlib.import_module("rclpy.serialization")


def serialise(message: Any) -> bytes:
    """Return a message of a generated class as CDR."""
    return _middleware().serialize_message(message)


def deserialise(raw: bytes, message_type: Any) -> Any:
    """Return a serialised message as an object of its class; raises UnusableReading if it is no CDR, cut or damaged."""
    body_end(raw)
    try:
        return _middleware().deserialize_message(raw, message_type)
    except Exception as error:  # the middleware chooses the class of its errors
        raise UnusableReading(f"the message is cut or damaged: {error}") from error
