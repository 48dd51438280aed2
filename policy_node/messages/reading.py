# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Terms that all readers of messages share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True)
class ReadingChoices:
    """The choices that parameters make from a message; empty where nothing is chosen.

    Attributes
    ----------
    field
        Position, velocity or effort of a JointState; for other types the dotted path to a number, an array of numbers,
        or a message of only numbers, which is flattened in the order of its definition.
    fields
        Several such paths, one after the other, instead of `field`.
    joints
        Joints of a JointState, in the order that the policy wants; without them all, in the order of each message.
    encoding
        Encoding of the images that the policy was trained on, a key of `IMAGE_ENCODINGS`; without it the default of the
        channels and dtype. Messages of another colour encoding are converted, and images of another size resized.
    """

    field: str = ""
    fields: tuple[str, ...] = ()
    joints: tuple[str, ...] = ()
    encoding: str = ""

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of `fields`, or that of `field`; none when neither is given."""
        return self.fields or ((self.field,) if self.field else ())
