# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The samples of an imitation: what was seen and what the driver would have done, in files that outlive the process.

Each observation is kept once, in the order of time: stacks of the latest ones and sequences for a memory are put
together when they are learnt from.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from gymnasium import spaces

from policy_node_rover.mujoco.environment import action_space, observation_space

# How many steps of one arena a memory learns from at once, from the state that it had at the first of them.
SEQUENCE_STEPS = 32


@dataclass(frozen=True)
class Minibatch:
    """Some samples to learn from.

    Attributes
    ----------
    observations
        Observations of the policy by key, each [samples, …].
    targets
        What the driver would have done, float32 [samples, actions].
    starts
        1 where an episode began, float32 [samples].
    states
        Hidden and cell state before the first sample of each sequence, each [layers, sequences, units]; None without
        a memory. The samples of a sequence follow each other.
    """

    observations: dict[str, torch.Tensor]
    targets: torch.Tensor
    starts: torch.Tensor
    states: tuple[torch.Tensor, torch.Tensor] | None


class Samples:
    """All samples of an imitation, in memory-mapped files.

    Parameters
    ----------
    folder
        Where the files are.
    steps
        For how many steps of every arena there is room.
    arenas
        How many arenas.
    keys
        The observation keys of the policy.
    stack
        How many of the latest observations it takes.
    memory
        Layers and units of the policy's memory; None: it has none.
    resume
        Whether the files exist and are gone on with.

    Attributes
    ----------
    steps
        How many steps of every arena there are.
    capacity
        For how many there is room.
    """

    def __init__(
        self,
        folder: Path,
        steps: int,
        arenas: int,
        keys: tuple[str, ...],
        stack: int,
        memory: tuple[int, int] | None,
        resume: bool = False,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._resume = resume
        self._stack = stack
        self._arenas = arenas
        self.capacity = steps
        self.steps = 0
        sensors: dict[str, spaces.Space] = {
            key: space for key, space in observation_space().spaces.items() if key in keys
        }
        self._observations = {
            key: self._array(key, (steps, arenas, *(space.shape or ())), space.dtype) for key, space in sensors.items()
        }
        self._targets = self._array("target", (steps, arenas, *action_space().shape), np.dtype(np.float32))
        self._ages = self._array("age", (steps, arenas), np.dtype(np.int32))
        self._states = None
        if memory:
            layers, units = memory
            shape = (steps // SEQUENCE_STEPS, arenas, 2, layers, units)
            self._states = self._array("state", shape, np.dtype(np.float32))

    def add(
        self,
        observations: dict[str, np.ndarray],
        targets: np.ndarray,
        ages: np.ndarray,
        states: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> None:
        """Keep one step of every arena.

        Parameters
        ----------
        observations
            What the policy was given, by key: images [arenas, stack * 3, height, width], touch [arenas, stack * cells].
        targets
            What the driver would have done, [arenas, actions].
        ages
            Steps since each episode began, [arenas].
        states
            Hidden and cell state of the memory before this step, each [layers, arenas, units].
        """
        for key, kept in self._observations.items():
            newest = observations[key]
            if key == "image":
                newest = np.moveaxis(newest, 1, -1)
            kept[self.steps] = newest[..., -kept.shape[-1] :]
        self._targets[self.steps] = targets
        self._ages[self.steps] = ages
        if self._states is not None and states is not None and self.steps % SEQUENCE_STEPS == 0:
            for which, state in enumerate(states):
                self._states[self.steps // SEQUENCE_STEPS, :, which] = state.swapaxes(0, 1).cpu().numpy()
        self.steps += 1

    def draw(self, count: int, rng: np.random.Generator, device: torch.device) -> Minibatch:
        """Draw about `count` samples, with a memory whole sequences of them."""
        if self._states is None:
            steps, rows = np.divmod(rng.integers(self.steps * self._arenas, size=count), self._arenas)
            states = None
        else:
            sequences = self.steps // SEQUENCE_STEPS * self._arenas
            firsts, rows = np.divmod(rng.integers(sequences, size=max(count // SEQUENCE_STEPS, 1)), self._arenas)
            recorded = torch.as_tensor(self._states[firsts, rows], device=device).permute(1, 2, 0, 3).contiguous()
            states = (recorded[0], recorded[1])
            steps = (firsts[:, None] * SEQUENCE_STEPS + np.arange(SEQUENCE_STEPS)).ravel()
            rows = np.repeat(rows, SEQUENCE_STEPS)
        return Minibatch(
            {key: self._stacked(key, steps, rows, device) for key in self._observations},
            torch.as_tensor(self._targets[steps, rows], device=device),
            torch.as_tensor(self._ages[steps, rows] == 0, device=device).float(),
            states,
        )

    def _stacked(self, key: str, steps: np.ndarray, rows: np.ndarray, device: torch.device) -> torch.Tensor:
        kept = self._observations[key]
        latest = []
        for before in reversed(range(self._stack)):
            values = kept[np.maximum(steps - before, 0), rows]
            # As Stable-Baselines3 stacks them: zeros before the start of an episode.
            values[self._ages[steps, rows] < before] = 0
            latest.append(values)
        stacked = torch.as_tensor(latest[0] if self._stack == 1 else np.concatenate(latest, -1), device=device)
        return stacked.permute(0, 3, 1, 2) if key == "image" else stacked

    def _array(self, name: str, shape: tuple[int, ...], dtype: np.dtype | None) -> np.ndarray:
        path = self._folder / f"{name}.npy"
        if self._resume:
            if not path.exists():
                raise SystemExit(f"--resume: '{path}' is missing, which the checkpoint needs; train with --overwrite")
            return np.asarray(np.lib.format.open_memmap(path, mode="r+"))
        return np.asarray(np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape))
