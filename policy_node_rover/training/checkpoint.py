# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Read and write the files of a training, and handle the request to stop it."""

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
_OUTPUT_FILES = (
    *(STATE_FILE, MODEL_FILE, RECORD_FILE, "checkpoint.zip", "imitation.zip", "curve.json", "rover.md"),
    # Unfinished files of a training that was killed.
    *("*.new.pt", "*.new.zip"),
    *("evaluation_*.json", "samples", "imitation", "ppo_*"),
)


class StopRequest:
    """Stop the training in order at the first SIGINT or SIGTERM, and at once at the second."""

    def __init__(self) -> None:
        self.requested = False

    def listening(self) -> AbstractContextManager[None]:
        """Handle the signals while the context lasts."""
        return temporary_handler(self._on_signal, signal.SIGINT, signal.SIGTERM)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary file to write, which then replaces another atomically; remove it after an error."""
    new = path.with_name(f"{path.stem}.new{path.suffix}")
    try:
        yield new
        # Without this, a power failure could leave an empty file.
        with new.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Write the state of the training, with that of the global random generators."""
    numpy_state: Any = np.random.get_state()
    name, keys, position, has_gauss, gauss = numpy_state
    version, words, next_gauss = random.getstate()
    generators = {
        "torch": torch.get_rng_state(),
        "numpy": [name, keys.tolist(), int(position), int(has_gauss), float(gauss)],
        "python": [version, list(words), next_gauss],
    }
    with atomic_write(folder / STATE_FILE) as file:
        torch.save({**state, "generators": generators}, file)


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
    """Restore the global random generators."""
    generators = state["generators"]
    torch.set_rng_state(generators["torch"])
    name, keys, position, has_gauss, gauss = generators["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), position, has_gauss, gauss))
    version, words, next_gauss = generators["python"]
    random.setstate((version, tuple(words), next_gauss))


def check_folder_is_unused(folder: Path) -> None:
    """Raise SystemExit when a folder holds a training."""
    found = [name for name in (STATE_FILE, MODEL_FILE, RECORD_FILE) if (folder / name).exists()]
    if found:
        resume = "--resume to continue it, " if STATE_FILE in found else ""
        raise SystemExit(
            f"train: --output {folder} holds a training already ({', '.join(found)}); give {resume}--overwrite to "
            "delete it and start again, or another --output"
        )


def remove_training(folder: Path) -> None:
    """Remove the files of a training from its folder, and nothing else."""
    for path in (path for pattern in _OUTPUT_FILES for path in folder.glob(pattern)):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
