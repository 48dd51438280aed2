# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Terms that all readers of messages share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import numpy as np


class UnusableReading(ValueError):  # noqa: N818  not an error of the program
    """A message that cannot be used; its text is the reason that the operator sees."""


class MissingJointsError(UnusableReading):
    """A message without the joints that are read: one of other joints, on the same topic."""


def stack_hint(wanted: int, found: int) -> str:
    """Return the end of an error where a policy may want several steps of `found` numbers each; empty elsewhere."""
    steps, rest = divmod(wanted, found) if found else (0, 1)
    if rest or steps < 2:
        return ""
    return f"; {wanted} = {steps} × {found}: trained with VecFrameStack({steps})? set `stack: {steps}`"


# Writes a message into a row of the batch, finite numbers only; raises UnusableReading.
Decode: TypeAlias = Callable[[Any, np.ndarray], None]


class Reader(Protocol):
    """Reads a serialised message into `out`; does not change `out` when that fails."""

    @property
    def parallel(self) -> bool:
        """Whether reading takes long, releases the interpreter lock and may run in several threads."""

    def __call__(self, raw: bytes, out: np.ndarray) -> None:
        """Read `raw` into `out`; raises `UnusableReading`."""
