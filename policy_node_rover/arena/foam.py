# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The foam of the bumper, in every simulator: it gives way at once and springs back slowly.

So a touch cell goes on telling of a force that is gone, and how weak the reading has become tells how long ago.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from policy_node_rover.arena.description import ROVER

# A contact lasts many physics steps, and each is heard of; between two readings there are a few.
_MOST_CONTACTS = 1000


def fading(duration_s: float) -> float:
    """Return the factor by which what a cell feels fades in a duration without force."""
    return math.exp(-duration_s / ROVER.touch_recovery_s)


def told_n(felt_n: np.ndarray) -> np.ndarray:
    """Return what cells tell of what they feel `[cells]`, both in newtons: nothing below the threshold; float32."""
    return np.where(felt_n < ROVER.touch_threshold_n, 0.0, felt_n).astype(np.float32)


class Foam:
    """The cells of a bumper, of whose contacts one hears a while after they were.

    Contacts and readings go by stamps alone: a reading tells of the contacts up to its own time, whichever was heard of
    first.
    """

    def __init__(self) -> None:
        self._contacts: deque[tuple[int, np.ndarray]] = deque(maxlen=_MOST_CONTACTS)
        self._felt_n = np.zeros(ROVER.touch_cells)
        self._felt_at_ns = 0

    def press(self, forces_n: np.ndarray, at_ns: int) -> None:
        """Let forces in newtons `[cells]` act at a time."""
        self._contacts.append((at_ns, forces_n))

    def reading_n(self, at_ns: int) -> np.ndarray:
        """Return what the cells tell at a time, in newtons, float32 `[cells]`.

        Time goes on from reading to reading; where it jumps back it began anew, and nothing has been felt.
        """
        elapsed_ns = at_ns - self._felt_at_ns
        felt_n = self._felt_n * fading(elapsed_ns / 1e9) if elapsed_ns >= 0 else np.zeros_like(self._felt_n)
        to_come = []
        for contact_ns, forces_n in self._contacts:
            if contact_ns <= at_ns:
                np.maximum(felt_n, forces_n * fading((at_ns - contact_ns) / 1e9), out=felt_n)
            elif elapsed_ns >= 0:
                to_come.append((contact_ns, forces_n))
        self._contacts.clear()
        self._contacts.extend(to_come)
        self._felt_n, self._felt_at_ns = felt_n, at_ns
        return told_n(felt_n)
