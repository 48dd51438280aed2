# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a training: all that it needs to go on, replaced in one piece, and the wish that it stops."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

STATE_FILE = "checkpoint.pt"


class StopRequest:
    """Whether SIGINT or SIGTERM asked the training to stop; a second one stops it at once."""

    def __init__(self) -> None:
        self.asked = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen to the signals for a while."""
        before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Replace the state of the training in one piece, with the random generators that all share."""
    numpy_state: Any = np.random.get_state()
    name, keys, position, has_gauss, gauss = numpy_state
    version, words, next_gauss = random.getstate()
    generators = {
        "torch": torch.get_rng_state(),
        "numpy": [name, keys.tolist(), int(position), int(has_gauss), float(gauss)],
        "python": [version, list(words), next_gauss],
    }
    new = folder / f"{STATE_FILE}.new"
    torch.save({**state, "generators": generators}, new)
    os.replace(new, folder / STATE_FILE)


def remove_state(folder: Path) -> None:
    """Remove the state of an earlier training: its samples are overwritten, so that nobody can go on from it."""
    (folder / STATE_FILE).unlink(missing_ok=True)


def read_state(folder: Path) -> dict[str, Any]:
    """Read the state of a training.

    Raises
    ------
    SystemExit
        When there is none.
    """
    path = folder / STATE_FILE
    if not path.exists():
        raise SystemExit(f"--resume: {folder} holds no {STATE_FILE}; train without --resume first")
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


def restore_generators(state: dict[str, Any]) -> None:
    """Let the random generators that all share go on from a state."""
    generators = state["generators"]
    torch.set_rng_state(generators["torch"])
    name, keys, position, has_gauss, gauss = generators["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), position, has_gauss, gauss))
    version, words, next_gauss = generators["python"]
    random.setstate((version, tuple(words), next_gauss))
