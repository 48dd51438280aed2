# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Terms that all readers of messages share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias

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


# Copies the numbers of a usual message to the array that it was made for; False: the message was not copied.
Copy: TypeAlias = Callable[[Any], bool]


class Copies(NamedTuple):
    """How usual messages are copied: those whose shape is known, and whose numbers are used as they are stored.

    A decoder of such messages has it as `copies`; all other messages are left to `decode`.

    Attributes
    ----------
    to
        Returns the function that copies messages to an array of the spec's shape and of `dtype`.
    dtype
        Of the numbers in the messages.
    low, high
        Only numbers from `low` to `high` may be used, which is checked for the arrays of many messages at once. None:
        all may be used, so that messages are copied into the rows of the batch themselves.
    """

    to: Callable[[np.ndarray], Copy]
    dtype: np.dtype
    low: float | None = None
    high: float | None = None


class Reader(Protocol):
    """Reads a serialised message into `out`; does not change `out` when that fails."""

    @property
    def parallel(self) -> bool:
        """Whether reading takes long, releases the interpreter lock and may run in several threads."""

    def __call__(self, raw: bytes, out: np.ndarray) -> None:
        """Read `raw` into `out`; raises `UnusableReading`."""
