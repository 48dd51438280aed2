# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""What a training is asked to do, and the seeds of its episodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# Training draws its episodes from here on, so that no small seed is ever trained on.
FIRST_TRAINING_SEED = 2**32


@dataclass(frozen=True)
class Plan:
    """What a training is asked to do.

    Attributes
    ----------
    output
        Folder of everything that the training writes.
    seed
        Seed of layouts, networks and learning.
    arenas
        How many arenas are simulated at once.
    keys
        Observation keys of the policy.
    stack
        How many of the latest observations it takes.
    recurrent
        Whether it has a memory (LSTM).
    conditions
        Name of the conditions in which it is trained.
    imitation_steps
        Steps of imitation, over all arenas; 0: none.
    imitation_passes
        How often a sample of the imitation is learnt from, on average.
    steps
        Steps of PPO, over all arenas.
    value_steps
        How many of them only teach the value function.
    renderer
        Kind of the renderer.
    device
        Device of the networks.
    processes
        Processes that simulate and draw the arenas; 0: one for each CPU.
    threads
        Threads of PyTorch.
    checkpoint_s
        Time between checkpoints.
    """

    output: Path
    seed: int
    arenas: int
    keys: tuple[str, ...]
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

    def fixed(self) -> dict[str, Any]:
        """Return what a training that goes on must not change, by the names of the options."""
        return {
            "--seed": self.seed,
            "--arenas": self.arenas,
            "--observations": "+".join(self.keys),
            "--stack": self.stack,
            "--recurrent": self.recurrent,
            "--conditions": self.conditions,
            "--imitation-steps": self.imitation_steps,
            "--imitation-passes": self.imitation_passes,
            "--steps": self.steps,
            "--value-steps": self.value_steps,
        }


class EpisodeSeeds(Iterator[int]):
    """Endless random seeds of training episodes, in a sequence that can be gone on with.

    Parameters
    ----------
    seed
        Seed of the sequence.
    """

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._first: list[int] = []

    def __next__(self) -> int:
        """Return the seed of the next episode."""
        return self._first.pop(0) if self._first else int(self._rng.integers(FIRST_TRAINING_SEED, 2**62))

    def state(self, running: Sequence[int]) -> dict[str, Any]:
        """Return where the sequence stands, with the seeds of the running episodes."""
        return {"generator": self._rng.bit_generator.state, "running": list(running), "first": list(self._first)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state, with the episodes that were running then."""
        self._rng.bit_generator.state = state["generator"]
        self._first = [*state["running"], *state["first"]]
