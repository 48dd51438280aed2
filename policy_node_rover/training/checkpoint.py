# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The files of a training: all that it needs to go on, replaced in one piece, and what the next one must not mix with.

Also the wish that it stops.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from policy_node.cli.signal_handling import temporary_handler

STATE_FILE = "checkpoint.pt"
MODEL_FILE = "rover.zip"
RECORD_FILE = "training.json"
_WRITTEN = (
    STATE_FILE,
    MODEL_FILE,
    RECORD_FILE,
    "checkpoint.zip",
    "imitation.zip",
    # What a killed training had not finished.
    "*.new.pt",
    "*.new.zip",
    "curve.json",
    "rover.md",
    "evaluation_*.json",
    "samples",
    "imitation",
    "ppo_*",
)


class StopRequest:
    """Whether SIGINT or SIGTERM asked the training to stop; a second one stops it at once."""

    def __init__(self) -> None:
        self.asked = False

    def listening(self) -> AbstractContextManager[None]:
        """Listen to the signals for a while."""
        return temporary_handler(self._ask, signal.SIGINT, signal.SIGTERM)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Give a file to write, which then replaces another in one piece; one that was not finished is removed."""
    new = path.with_name(f"{path.stem}.new{path.suffix}")
    try:
        yield new
        # A power cut must not leave the new name with the content of neither.
        with new.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


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
    with replaced(folder / STATE_FILE) as new:
        torch.save({**state, "generators": generators}, new)


def refuse_to_overwrite(folder: Path) -> None:
    """Refuse a folder that holds a training.

    Raises
    ------
    SystemExit
        When it does.
    """
    found = [name for name in (STATE_FILE, MODEL_FILE, RECORD_FILE) if (folder / name).exists()]
    if found:
        go_on = "--resume to go on with it, " if STATE_FILE in found else ""
        raise SystemExit(
            f"train: --output {folder} holds a training already ({', '.join(found)}); give {go_on}--overwrite to "
            "delete it and begin anew, or another --output"
        )


def remove_training(folder: Path) -> None:
    """Remove all that an earlier training has written into its folder, and nothing else."""
    for pattern in _WRITTEN:
        for path in folder.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


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
