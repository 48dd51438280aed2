# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Describe a message in a few words: size and encoding."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

from policy_node.messages.cdr import deserialise
from policy_node.messages.fields import MessageClass
from policy_node.messages.reading import UnusableReading

# Fields that hold the numbers of a message, and the names of its joints.
_LISTS = {"name": "joints", "joint_names": "joints", "ranges": "ranges", "data": "numbers"}
_KILOBYTE = 1000


def summary(raw: bytes, message_type: MessageClass) -> tuple[str, str]:
    """Return the size and the encoding of a serialised message, such as ``640×480`` and ``rgb8``; either may be empty.

    Sizes of images are in pixels, of other messages the count of joints or numbers, else bytes.
    """
    try:
        message = deserialise(raw, message_type)
    except UnusableReading as error:
        return f"{len(raw)} bytes", str(error)
    encoding = str(getattr(message, "encoding", "") or getattr(message, "format", ""))
    if hasattr(message, "width") and hasattr(message, "height"):
        return f"{message.width}×{message.height}", encoding
    for name, what in _LISTS.items():
        values = getattr(message, name, None)
        if not encoding and isinstance(values, Sized) and not isinstance(values, str):
            return f"{len(values)} {what}", ""
    return _bytes(len(raw)), encoding


def joint_names(message: Any) -> tuple[str, ...]:
    """Return the names of the joints of a JointState; empty for other messages."""
    names = getattr(message, "name", ())
    return tuple(names) if isinstance(names, list) else ()


def _bytes(count: int) -> str:
    return f"{count} bytes" if count < _KILOBYTE else f"{count / _KILOBYTE:.0f} kB"
