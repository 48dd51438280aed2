# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Share options, arenas, model, progress and checkpoints between the phases of a training."""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv

from policy_node_rover.arena.conditions import CONDITIONS
from policy_node_rover.mujoco.vectorised import RoverArenaVecEnv, wrap_for_policy
from policy_node_rover.training.model import make_model
from policy_node_rover.training.progress import TrainingProgress

STATE_FILE = "checkpoint.pt"
MODEL_FILE = "rover.zip"
RECORD_FILE = "training.json"
_OUTPUT_FILES = (
    *(STATE_FILE, MODEL_FILE, RECORD_FILE, "checkpoint.zip", "imitation.zip", "curve.json", "rover.md"),
    # Unfinished files of a training that was killed.
    *("*.new.pt", "*.new.zip"),
    *("evaluation_*.json", "samples", "imitation", "ppo_*"),
)
# Training seeds start here, so that evaluations with small seeds use unseen episodes.
FIRST_TRAINING_SEED = 2**32
# A training that is resumed must not change these.
_FIXED = (
    *("seed", "arenas", "observations", "stack", "recurrent", "conditions"),
    *("imitation_steps", "imitation_passes", "steps", "value_steps"),
)


class TrainingConfig(argparse.Namespace):
    """Options of a training, see `policy_train train --help`."""

    output: Path
    seed: int
    arenas: int
    observations: str
    stack: int
    recurrent: bool
    conditions: str
    imitation_steps: int
    imitation_passes: float
    steps: int
    value_steps: int
    renderer: str
    device: str
    processes: int
    threads: int
    checkpoint_s: float
    resume: bool
    overwrite: bool
    evaluate: int
    quiet: bool

    @property
    def keys(self) -> tuple[str, ...]:
        """The observation keys of the policy."""
        return tuple(self.observations.split("+"))

    def fixed_options(self) -> dict[str, Any]:
        """Return the options that must not change when a training is resumed, by name."""
        return {f"--{name.replace('_', '-')}": getattr(self, name) for name in _FIXED}


class EpisodeSeeds(Iterator[int]):
    """Endless random seeds of training episodes, which can be saved and restored."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._first: list[int] = []

    def __next__(self) -> int:
        """Return the seed of the next episode."""
        return self._first.pop(0) if self._first else int(self._rng.integers(FIRST_TRAINING_SEED, 2**62))

    def state(self, running: Sequence[int]) -> dict[str, Any]:
        """Return the state of the sequence, with the seeds of the running episodes."""
        return {"generator": self._rng.bit_generator.state, "running": list(running), "first": list(self._first)}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a state, first with the episodes that were running."""
        self._rng.bit_generator.state = state["generator"]
        self._first = [*state["running"], *state["first"]]


class TrainingRun:
    """State of a training; `arenas` have all sensors, `wrapped_arenas` give the observations of the policy."""

    def __init__(self, config: TrainingConfig, progress: TrainingProgress) -> None:
        self.config = config
        self.progress = progress
        self.stop_requested = False  # after the present round
        self._seeds = EpisodeSeeds(config.seed)
        self.arenas = RoverArenaVecEnv(
            config.arenas, self._seeds, config.renderer, config.processes, CONDITIONS[config.conditions]
        )
        self.wrapped_arenas: VecEnv = wrap_for_policy(self.arenas, config.keys, config.stack)
        self.model: PPO | RecurrentPPO = make_model(
            self.wrapped_arenas, config.seed, config.device, config.recurrent, log_folder=config.output
        )
        # At the latest checkpoint: None before the imitation has started, empty after its end.
        self.imitation_state: dict[str, Any] | None = None
        # Command and commit of each part of the training so far.
        self.runs: list[dict[str, str | None]] = []
        self._saved_s = time.monotonic()

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Request the stop at the first signal, and stop at once at the second."""
        if self.stop_requested:
            raise KeyboardInterrupt
        self.stop_requested = True

    def imitation_is_done(self) -> bool:
        """Return whether the imitation is complete, or was not requested."""
        return not self.config.imitation_steps or self.imitation_state == {}

    def is_done(self) -> bool:
        """Return whether the training is complete."""
        return self.imitation_is_done() and self.model.num_timesteps >= self.config.steps

    def checkpoint_is_due(self) -> bool:
        """Return whether to save a checkpoint now."""
        return self.stop_requested or time.monotonic() - self._saved_s >= self.config.checkpoint_s

    def save_checkpoint(self) -> None:
        """Save the state of the training, and the present model."""
        numpy_state: Any = np.random.get_state(legacy=False)
        numpy_state["state"]["key"] = numpy_state["state"]["key"].tolist()
        state = {
            "plan": self.config.fixed_options(),
            "policy": self.model.policy.state_dict(),
            "optimiser": self.model.policy.optimizer.state_dict(),
            "steps": self.model.num_timesteps,
            "updates": self.model._n_updates,
            "imitation": self.imitation_state,
            "seeds": self._seeds.state(self.arenas.running_seeds),
            "progress": self.progress.state(),
            "runs": self.runs,
            "generators": {"torch": torch.get_rng_state(), "numpy": numpy_state},
        }
        with _atomic_write(self.config.output / STATE_FILE) as file:
            torch.save(state, file)
        self.save_model("checkpoint.zip")
        self.progress.write_curve(self.config.output)
        self._saved_s = time.monotonic()

    def save_model(self, name: str) -> None:
        """Save the present model in the output folder."""
        with _atomic_write(self.config.output / name) as file:
            self.model.save(file)

    def restore(self) -> None:
        """Restore the checkpoint in the output folder; SystemExit if it is from a training with other options."""
        state = read_state(self.config.output)
        for option, value in self.config.fixed_options().items():
            if state["plan"][option] != value:
                raise SystemExit(
                    f"--resume: {self.config.output} was trained with {option} {state['plan'][option]}, found {value}; "
                    "give the same, or another --output"
                )
        self.model.policy.load_state_dict(state["policy"])
        self.model.policy.optimizer.load_state_dict(state["optimiser"])
        self.model.num_timesteps = state["steps"]
        self.model._n_updates = state["updates"]
        self.imitation_state = state["imitation"]
        self.runs = state["runs"]
        self._seeds.restore(state["seeds"])
        self.progress.restore(state["progress"])
        torch.set_rng_state(state["generators"]["torch"])
        np.random.set_state(state["generators"]["numpy"])


def read_state(folder: Path) -> dict[str, Any]:
    """Read the state of a training; SystemExit when there is none."""
    path = folder / STATE_FILE
    if not path.exists():
        raise SystemExit(f"--resume: {folder} holds no {STATE_FILE}; train without --resume first")
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


@contextmanager
def _atomic_write(path: Path) -> Iterator[Path]:
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
