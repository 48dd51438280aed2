# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Store the demonstrations of the imitation on disk: observations and the commands of the scripted driver.

Each observation is stored once. Stacks and sequences are composed when they are sampled.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from policy_node_rover.mujoco.environment import action_space, observation_space

# Length of the sequences of one arena that a recurrent policy learns from, starting with the stored state.
SEQUENCE_STEPS = 32


@dataclass(frozen=True)
class Minibatch:
    """Samples to learn from; those of a sequence are consecutive.

    Attributes
    ----------
    targets
        Commands of the scripted driver, float32 [samples, actions].
    starts
        1 where an episode starts, float32 [samples].
    states
        Hidden and cell state before each sequence, each [layers, sequences, units]; None for feed-forward policies.
    """

    observations: dict[str, torch.Tensor]
    targets: torch.Tensor
    starts: torch.Tensor
    states: tuple[torch.Tensor, torch.Tensor] | None


class Demonstrations:
    """Demonstrations in memory-mapped files for a number of steps of every arena.

    `keys` and `stack` are the observations of the policy; `lstm` are layers and units of its LSTM, None for
    feed-forward policies. With `resume`, existing files are continued. `steps` is the number of stored steps.
    """

    def __init__(
        self,
        folder: Path,
        steps: int,
        arenas: int,
        keys: tuple[str, ...],
        stack: int,
        lstm: tuple[int, int] | None,
        resume: bool = False,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._resume = resume
        self._stack = stack
        self._arenas = arenas
        self.steps = 0
        self._observations = {
            key: self._array(key, (steps, arenas, *(space.shape or ())), space.dtype)
            for key, space in observation_space().spaces.items()
            if key in keys
        }
        self._targets = self._array("target", (steps, arenas, *action_space().shape), np.dtype(np.float32))
        self._ages = self._array("age", (steps, arenas), np.dtype(np.int32))
        self._states = None
        if lstm:
            shape = (steps // SEQUENCE_STEPS, arenas, 2, *lstm)
            self._states = self._array("state", shape, np.dtype(np.float32))

    def add(
        self,
        observations: dict[str, np.ndarray],
        targets: np.ndarray,
        ages: np.ndarray,
        states: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> None:
        """Store one step of every arena.

        Observations are those of the policy: images [arenas, stack * 3, height, width], touch [arenas, stack * cells].
        The targets [arenas, actions] are the commands of the scripted driver, the ages [arenas] steps since the start
        of the episode, the states hidden and cell state before this step, each [layers, arenas, units].
        """
        for key, stored in self._observations.items():
            newest = observations[key]
            if key == "image":
                newest = np.moveaxis(newest, 1, -1)
            stored[self.steps] = newest[..., -stored.shape[-1] :]
        self._targets[self.steps] = targets
        self._ages[self.steps] = ages
        if self._states is not None and states is not None and self.steps % SEQUENCE_STEPS == 0:
            for which, state in enumerate(states):
                self._states[self.steps // SEQUENCE_STEPS, :, which] = state.swapaxes(0, 1).cpu().numpy()
        self.steps += 1

    def sample(self, count: int, rng: np.random.Generator, device: torch.device) -> Minibatch:
        """Draw about `count` samples, for recurrent policies in whole sequences."""
        if self._states is None:
            steps, rows = np.divmod(rng.integers(self.steps * self._arenas, size=count), self._arenas)
            states = None
        else:
            sequences = self.steps // SEQUENCE_STEPS * self._arenas
            firsts, rows = np.divmod(rng.integers(sequences, size=max(count // SEQUENCE_STEPS, 1)), self._arenas)
            stored = torch.as_tensor(self._states[firsts, rows], device=device).permute(1, 2, 0, 3).contiguous()
            states = (stored[0], stored[1])
            steps = (firsts[:, None] * SEQUENCE_STEPS + np.arange(SEQUENCE_STEPS)).ravel()
            rows = np.repeat(rows, SEQUENCE_STEPS)
        return Minibatch(
            {key: self._stacked(key, steps, rows, device) for key in self._observations},
            torch.as_tensor(self._targets[steps, rows], device=device),
            torch.as_tensor(self._ages[steps, rows] == 0, device=device).float(),
            states,
        )

    def _stacked(self, key: str, steps: np.ndarray, rows: np.ndarray, device: torch.device) -> torch.Tensor:
        """Compose the stacks as Stable-Baselines3 does, with zeros before the start of an episode."""
        stored = self._observations[key]
        latest = []
        for age in reversed(range(self._stack)):
            values = stored[np.maximum(steps - age, 0), rows]
            values[self._ages[steps, rows] < age] = 0
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
