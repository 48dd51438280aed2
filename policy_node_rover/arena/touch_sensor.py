# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Model the foam of the bumper, which recovers slowly: readings rise at once and decay exponentially."""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from policy_node_rover.arena.description import ROVER

# A contact lasts many physics steps, and each step sends a message; there are a few between two readings.
_MAX_CONTACTS = 1000


def decay(duration_s: float) -> float:
    """Return the factor by which a reading decays in a duration without force."""
    return math.exp(-duration_s / ROVER.touch_recovery_s)


def reading_n(forces_n: np.ndarray) -> np.ndarray:
    """Return the readings of cells in newtons, float32 `[cells]`: zero below the threshold."""
    return np.where(forces_n < ROVER.touch_threshold_n, 0.0, forces_n).astype(np.float32)


class TouchSensor:
    """Compute readings of the touch cells from stamped contacts.

    Only stamps count: a reading includes the contacts up to its own stamp, in any order of their arrival.
    """

    def __init__(self) -> None:
        self._contacts: deque[tuple[int, np.ndarray]] = deque(maxlen=_MAX_CONTACTS)
        self._forces_n = np.zeros(ROVER.touch_cells)
        self._stamp_ns = 0

    def add_contact(self, forces_n: np.ndarray, stamp_ns: int) -> None:
        """Add the forces of a contact in newtons `[cells]`."""
        self._contacts.append((stamp_ns, forces_n))

    def read(self, stamp_ns: int) -> np.ndarray:
        """Return the readings at a time in newtons, float32 `[cells]`.

        Stamps must increase from call to call; a jump back in time resets the sensor.
        """
        elapsed_ns = stamp_ns - self._stamp_ns
        forces_n = self._forces_n * decay(elapsed_ns / 1e9) if elapsed_ns >= 0 else np.zeros_like(self._forces_n)
        pending = []
        for contact_ns, contact_n in self._contacts:
            if contact_ns <= stamp_ns:
                np.maximum(forces_n, contact_n * decay((stamp_ns - contact_ns) / 1e9), out=forces_n)
            elif elapsed_ns >= 0:
                pending.append((contact_ns, contact_n))
        self._contacts.clear()
        self._contacts.extend(pending)
        self._forces_n, self._stamp_ns = forces_n, stamp_ns
        return reading_n(forces_n)
