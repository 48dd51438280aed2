# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Dotted paths to the fields of messages, with the indices of elements: ``motor_cmd[0:12].q``."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Elements that one path may stand for, and highest index.
MOST_ELEMENTS = 4096
_RANGE = re.compile(r"\[(\d{1,9}):(\d{1,9})\]")


def expand(paths: Sequence[str]) -> tuple[str, ...]:
    """Write out the ranges of paths, with their end left out as in Python: ``q[0:2]`` becomes ``q[0]``, ``q[1]``.

    A range without elements, or with more than `MOST_ELEMENTS`, stays as it is; no message has such a field.
    """
    written: list[str] = []
    for path in paths:
        found = _RANGE.search(path)
        first, end = (int(found[1]), int(found[2])) if found else (0, 0)
        if found is None or not first < end <= MOST_ELEMENTS:
            written.append(path)
        else:
            before, after = path[: found.start()], path[found.end() :]
            written += expand([f"{before}[{index}]{after}" for index in range(first, end)])
    return tuple(written)
