# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Imitation of the scripted driver (DAgger, Ross et al. 2011, https://arxiv.org/abs/1011.0686).

The policy drives a growing share of the episodes, and every step is labelled with the command of the scripted driver.
Short rounds of collecting and learning alternate, so that the data match the present policy. The last quarter of the
rounds only learns.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.utils import obs_as_tensor

from policy_node_rover.mujoco.environment import action_space, observation_space
from policy_node_rover.training.model import MINIBATCH
from policy_node_rover.training.run import TrainingRun

PHASE = "imitation"
# Folder of the demonstrations until the end of the phase.
SAMPLES = "samples"
# Length of the sequences of one arena that a recurrent policy learns from, starting with the stored state.
SEQUENCE_STEPS = 32
# Steps of every arena per round.
ROUND_STEPS = 2 * SEQUENCE_STEPS
LEARNING_RATE = 1e-3
LAST_LEARNING_RATE = 1e-5
# The share of episodes of the scripted driver decreases to this within the first quarter.
_MIN_DRIVER_SHARE = 0.05
_EXPLORATION_SHARE = 0.5


class Minibatch(NamedTuple):
    """Samples to learn from; those of a sequence are consecutive."""

    observations: dict[str, torch.Tensor]
    targets: torch.Tensor  # commands of the scripted driver, float32 [samples, actions]
    starts: torch.Tensor  # 1 where an episode starts, float32 [samples]
    # Hidden and cell state before each sequence, [layers, sequences, units]; None for feed-forward policies.
    states: tuple[torch.Tensor, torch.Tensor] | None


class Demonstrations:
    """Demonstrations on disk, in memory-mapped files: observations and the commands of the scripted driver.

    Each observation is stored once; stacks and sequences are composed when they are sampled. `keys` and `stack` are
    the observations of the policy; `lstm` are layers and units of its LSTM, None for feed-forward policies. With
    `resume`, existing files are continued. `steps` is the number of stored steps.
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


def count_rounds(steps: int, arenas: int) -> tuple[int, int]:
    """Return the number of rounds that collect, and of all rounds."""
    collecting = math.ceil(steps / (ROUND_STEPS * arenas)) if steps else 0
    return collecting, math.ceil(collecting * 4 / 3)


class Imitation:
    """Teach a policy to drive as the scripted driver does."""

    def __init__(self, run: TrainingRun) -> None:
        config = run.config
        self._run = run
        # The signature of `get_distribution` differs between feed-forward and recurrent policies.
        self._policy: Any = run.model.policy
        self._rng = np.random.default_rng([config.seed, 1])
        self._collecting, self._rounds = count_rounds(config.imitation_steps, config.arenas)
        self._round = 0
        self._optimiser = torch.optim.Adam(self._policy.parameters(), lr=LEARNING_RATE)
        # bfloat16 speeds up convolutions on processors that support it; the weights stay float32.
        capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        self._uses_bfloat16 = self._policy.device.type == "cpu" and capabilities.get("avx512_bf16", False)
        self._lstm_state: tuple[torch.Tensor, torch.Tensor] | None = None
        lstm_shape = None
        if isinstance(run.model.policy, RecurrentActorCriticPolicy):
            lstm = run.model.policy.lstm_actor
            lstm_shape = (lstm.num_layers, lstm.hidden_size)
            zeros = torch.zeros(lstm.num_layers, config.arenas, lstm.hidden_size, device=run.model.device)
            self._lstm_state = (zeros, zeros)
        self._samples = Demonstrations(
            config.output / SAMPLES,
            self._collecting * ROUND_STEPS,
            config.arenas,
            config.keys,
            config.stack,
            lstm_shape,
            resume=run.imitation_state is not None,
        )
        if run.imitation_state is not None:
            self._round = run.imitation_state["round"]
            self._samples.steps = run.imitation_state["samples"]
            self._optimiser.load_state_dict(run.imitation_state["optimiser"])
            self._rng.bit_generator.state = run.imitation_state["generator"]
        self._observations: Any = run.wrapped_arenas.reset()
        self._ages = np.zeros(config.arenas, np.int32)
        self._is_scripted = np.zeros(config.arenas, bool)
        self._explores = np.zeros(config.arenas, bool)
        self._draw_drivers(np.ones(config.arenas, bool))

    def learn(self) -> bool:
        """Execute the remaining rounds; False when the training is to stop before their end."""
        # Without TensorBoard this raises, which would keep `--help` from being shown.
        from torch.utils.tensorboard import SummaryWriter

        run = self._run
        run.progress.start_phase(PHASE, self._steps(), run.config.imitation_steps, self._round / self._rounds)
        with SummaryWriter(run.config.output / PHASE) as log:
            while self._round < self._rounds:
                if self._round < self._collecting:
                    self._collect()
                error = self._learn_from_samples()
                self._round += 1
                run.progress.show(self._steps(), self._round / self._rounds)
                point = run.progress.add_point()
                log.add_scalar("imitation/action_error", error, self._round)
                if point["success_rate"] is not None:
                    log.add_scalar("imitation/success_rate", point["success_rate"], self._round)
                if run.checkpoint_is_due():
                    run.imitation_state = self._state()
                    run.save_checkpoint()
                if run.stop_requested:
                    return False
        run.save_model("imitation.zip")
        run.imitation_state = {}
        run.save_checkpoint()
        return True

    def _steps(self) -> int:
        return min(self._samples.steps * self._run.config.arenas, self._run.config.imitation_steps)

    def _state(self) -> dict[str, object]:
        return {
            "round": self._round,
            "samples": self._samples.steps,
            "optimiser": self._optimiser.state_dict(),
            "generator": self._rng.bit_generator.state,
        }

    def _draw_drivers(self, starts: np.ndarray) -> None:
        """Draw the driver of each starting episode, bool [arenas], and whether the policy explores in it."""
        share = max(1.0 - 4 * self._round / self._rounds, _MIN_DRIVER_SHARE)
        self._is_scripted[starts] = self._rng.random(starts.sum()) < share
        self._explores[starts] = self._rng.random(starts.sum()) < _EXPLORATION_SHARE

    def _collect(self) -> None:
        """Drive for the steps of a round, and store observations and commands of the scripted driver."""
        space = action_space()
        for _ in range(ROUND_STEPS):
            targets = np.array(self._run.arenas.env_method("scripted_command"), np.float32)
            self._samples.add(self._observations, targets, self._ages, self._lstm_state)
            policy_actions = self._act()
            actions = np.where(self._is_scripted[:, None], targets, policy_actions).clip(space.low, space.high)
            self._observations, _, dones, infos = self._run.wrapped_arenas.step(actions)
            self._ages = np.where(dones, 0, self._ages + 1).astype(np.int32)
            for row in np.flatnonzero(dones & ~self._is_scripted):
                self._run.progress.add_episode(infos[row])
            self._draw_drivers(dones)

    def _act(self) -> np.ndarray:
        """Return the actions of the policy, [arenas, actions]."""
        device = self._policy.device
        observations = obs_as_tensor(self._observations, device)
        with torch.no_grad():
            if self._lstm_state is None:
                distribution = self._policy.get_distribution(observations)
            else:
                starts = torch.as_tensor(self._ages == 0, device=device).float()
                distribution, self._lstm_state = self._policy.get_distribution(observations, self._lstm_state, starts)
            mean = distribution.distribution.mean.cpu().numpy()
            deviation = self._policy.log_std.exp().cpu().numpy()
        return mean + self._explores[:, None] * deviation * self._rng.standard_normal(mean.shape, np.float32)

    def _learn_from_samples(self) -> float:
        """Execute the updates of a round; return the mean error of the actions."""
        config = self._run.config
        updates = config.imitation_passes * self._collecting * ROUND_STEPS * config.arenas / MINIBATCH
        due = int((self._round + 1) * updates / self._rounds) - int(self._round * updates / self._rounds)
        cosine = (1 + math.cos(math.pi * self._round / self._rounds)) / 2
        for group in self._optimiser.param_groups:
            group["lr"] = LAST_LEARNING_RATE + (LEARNING_RATE - LAST_LEARNING_RATE) * cosine
        self._policy.set_training_mode(True)
        errors = [self._update(self._samples.sample(MINIBATCH, self._rng, self._policy.device)) for _ in range(due)]
        self._policy.set_training_mode(False)
        return float(np.mean(errors)) if errors else math.nan

    def _update(self, batch: Minibatch) -> float:
        policy = self._policy
        with torch.autocast("cpu", torch.bfloat16, enabled=self._uses_bfloat16):
            features = policy.extract_features(batch.observations)
        latent = features.float()
        if batch.states is not None:
            latent, _ = policy._process_sequence(latent, batch.states, batch.starts, policy.lstm_actor)
        means = policy.action_net(policy.mlp_extractor.forward_actor(latent))
        errors = torch.nn.functional.smooth_l1_loss(means, batch.targets, reduction="none", beta=0.5)
        # The range of turn rates is wider than that of speeds.
        loss = (errors * errors.new_tensor([2.0, 1.0])).mean()
        self._optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._policy.parameters(), 1.0)
        self._optimiser.step()
        return float(loss.detach())


def imitate(run: TrainingRun) -> bool:
    """Execute the remaining rounds of the imitation; False when the training is to stop before its end."""
    if not run.imitation_is_done() and not Imitation(run).learn():
        return False
    shutil.rmtree(run.config.output / SAMPLES, ignore_errors=True)
    return True
