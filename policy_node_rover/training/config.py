# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Configuration of a training, and the seeds of its episodes."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

# Training seeds start here, so that evaluations with small seeds use unseen episodes.
FIRST_TRAINING_SEED = 2**32
# A training that is resumed must not change these.
_FIXED = (
    *("seed", "arenas", "observations", "stack", "recurrent", "conditions"),
    *("imitation_steps", "imitation_passes", "steps", "value_steps"),
)


@dataclass(frozen=True)
class TrainingConfig:
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

    @classmethod
    def from_options(cls, options: argparse.Namespace) -> TrainingConfig:
        """Take the values from the command line."""
        return cls(**{field.name: getattr(options, field.name) for field in fields(cls)})

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
