# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Task texts: what a robot is to do, in words, for policies that take a text as an observation.

In a batch a text is a row of bytes: UTF-8, followed by zeros.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from policy_node.config.specs import ArraySpec

# Longest text in UTF-8. The tokenisers of today's policies keep 48 to 200 tokens.
MAX_TASK_BYTES = 512


def task_spec(name: str) -> ArraySpec:
    """Return the spec of an observation that is a text."""
    return ArraySpec(name, (MAX_TASK_BYTES,), np.uint8, 0, 255)


def task_problem(text: str) -> str:
    """Return why a text cannot be a task, and what to do; empty if it can."""
    if not text.strip():
        return "it is empty; say what the robot is to do"
    if "\0" in text:
        return "it has a NUL character; remove it"
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        return f"it is no Unicode text ({error.reason}); send UTF-8"
    if size > MAX_TASK_BYTES:
        return f"it has {size} bytes of UTF-8, at most {MAX_TASK_BYTES} are allowed; shorten it"
    return ""


def encode_task(text: str) -> np.ndarray:
    """Return a text, which `task_problem` allows or which is empty, as a row `[MAX_TASK_BYTES]` uint8."""
    row = np.zeros(MAX_TASK_BYTES, np.uint8)
    encoded = np.frombuffer(text.encode(), np.uint8)
    row[: len(encoded)] = encoded
    return row


def decode_tasks(rows: np.ndarray) -> list[str]:
    """Return the texts of rows `[robots, MAX_TASK_BYTES]` uint8; bytes that are no UTF-8 are replaced by U+FFFD."""
    return [row.tobytes().partition(b"\0")[0].decode(errors="replace") for row in rows]


def shown_task(text: str, most: int = 60) -> str:
    """Return a text for a line of a log, quoted and shortened to `most` characters."""
    return repr(text if len(text) <= most else f"{text[: most - 1]}…")


def task_of_each(texts: Sequence[str], robots: int) -> tuple[str, ...]:
    """Return the text of each robot: `texts` has one for all, one for each, or none, where all are empty."""
    return tuple(texts) if len(texts) == robots and robots else tuple(texts or [""]) * robots
