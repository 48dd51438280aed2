# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Imitation of the scripted driver (DAgger, Ross et al. 2011, https://arxiv.org/abs/1011.0686).

The policy itself drives, more and more of the time, and the driver says at each step what it would have done. Short
rounds of collecting and learning take turns, so that the samples always are of a policy like the present one. The last
quarter of the rounds only learns.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.utils import obs_as_tensor
from torch.utils.tensorboard import SummaryWriter

from policy_node_rover.mujoco.environment import action_space
from policy_node_rover.training.model import MINIBATCH
from policy_node_rover.training.run import TrainingRun
from policy_node_rover.training.samples import SEQUENCE_STEPS, Minibatch, Samples

PHASE = "imitation"
# The folder of what is learnt from, until the phase ends.
SAMPLES = "samples"
# Steps of every arena in a round; whole sequences of a memory.
ROUND_STEPS = 2 * SEQUENCE_STEPS
LEARNING_RATE = 1e-3
LAST_LEARNING_RATE = 1e-5
# The share of episodes that the scripted driver drives falls to this within the first quarter.
_LEAST_DRIVER_SHARE = 0.05
_NOISY_SHARE = 0.5


def rounds_of(steps: int, arenas: int) -> tuple[int, int]:
    """Return how many rounds collect and how many there are in all."""
    collecting = math.ceil(steps / (ROUND_STEPS * arenas)) if steps else 0
    return collecting, math.ceil(collecting * 4 / 3)


class Imitation:
    """Teaches a policy to drive as the scripted driver does.

    Parameters
    ----------
    run
        The training that this is a phase of.
    """

    def __init__(self, run: TrainingRun) -> None:
        plan = run.plan
        self._run = run
        # With and without a memory their distributions take other arguments.
        self._policy: Any = run.model.policy
        self._rng = np.random.default_rng([plan.seed, 1])
        self._collecting, self._rounds = rounds_of(plan.imitation_steps, plan.arenas)
        self._round = 0
        self._optimiser = torch.optim.Adam(self._policy.parameters(), lr=LEARNING_RATE)
        # Convolutions of processors that have them are quicker in short floats; the weights stay as they are.
        abilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        self._short_floats = self._policy.device.type == "cpu" and abilities.get("avx512_bf16", False)
        self._memory: tuple[torch.Tensor, torch.Tensor] | None = None
        memory = None
        if isinstance(run.model.policy, RecurrentActorCriticPolicy):
            lstm = run.model.policy.lstm_actor
            memory = (lstm.num_layers, lstm.hidden_size)
            zeros = torch.zeros(lstm.num_layers, plan.arenas, lstm.hidden_size, device=run.model.device)
            self._memory = (zeros, zeros)
        self._samples = Samples(
            plan.output / SAMPLES,
            self._collecting * ROUND_STEPS,
            plan.arenas,
            plan.keys,
            plan.stack,
            memory,
            resume=run.imitation_state is not None,
        )
        if run.imitation_state is not None:
            self._round = run.imitation_state["round"]
            self._samples.steps = run.imitation_state["samples"]
            self._optimiser.load_state_dict(run.imitation_state["optimiser"])
            self._rng.bit_generator.state = run.imitation_state["generator"]
        self._observations: Any = run.observed.reset()
        self._ages = np.zeros(plan.arenas, np.int32)
        self._draw_drivers(np.ones(plan.arenas, bool))

    def learn(self) -> bool:
        """Go through all rounds that are left; False when the training is to stop before."""
        run = self._run
        run.progress.begin(PHASE, self._steps(), run.plan.imitation_steps, self._round / self._rounds)
        with SummaryWriter(run.plan.output / PHASE) as log:
            while self._round < self._rounds:
                if self._round < self._collecting:
                    self._collect()
                error = self._learn_from_samples()
                self._round += 1
                run.progress.move(self._steps(), self._round / self._rounds)
                point = run.progress.add_point()
                log.add_scalar("imitation/action_error", error, self._round)
                if point["success_rate"] is not None:
                    log.add_scalar("imitation/success_rate", point["success_rate"], self._round)
                if run.checkpoint_due():
                    run.imitation_state = self._state()
                    run.save_checkpoint()
                if run.stop.asked:
                    return False
        run.save_model("imitation.zip")
        run.imitation_state = {}
        run.save_checkpoint()
        return True

    def _steps(self) -> int:
        return min(self._samples.steps * self._run.plan.arenas, self._run.plan.imitation_steps)

    def _state(self) -> dict[str, object]:
        return {
            "round": self._round,
            "samples": self._samples.steps,
            "optimiser": self._optimiser.state_dict(),
            "generator": self._rng.bit_generator.state,
        }

    def _draw_drivers(self, begun: np.ndarray) -> None:
        """Draw for each episode that has begun, [arenas], who drives it and whether the policy explores in it."""
        share = max(1.0 - 4 * self._round / self._rounds, _LEAST_DRIVER_SHARE)
        if begun.all():
            self._driven = np.zeros(len(begun), bool)
            self._noisy = np.zeros(len(begun), bool)
        self._driven[begun] = self._rng.random(begun.sum()) < share
        self._noisy[begun] = self._rng.random(begun.sum()) < _NOISY_SHARE

    def _collect(self) -> None:
        """Drive for the steps of a round and keep what was seen and what the driver would have done."""
        space = action_space()
        for _ in range(ROUND_STEPS):
            wanted = np.array(self._run.arenas.env_method("scripted_command"), np.float32)
            self._samples.add(self._observations, wanted, self._ages, self._memory)
            own = self._act()
            actions = np.where(self._driven[:, None], wanted, own).clip(space.low, space.high)
            self._observations, _, dones, infos = self._run.observed.step(actions)
            self._ages = np.where(dones, 0, self._ages + 1).astype(np.int32)
            for row in np.flatnonzero(dones & ~self._driven):
                self._run.progress.finish_episode(infos[row])
            self._draw_drivers(dones)

    def _act(self) -> np.ndarray:
        """Return what the policy does in every arena, [arenas, actions]."""
        device = self._policy.device
        observations = obs_as_tensor(self._observations, device)
        with torch.no_grad():
            if self._memory is None:
                distribution = self._policy.get_distribution(observations)
            else:
                starts = torch.as_tensor(self._ages == 0, device=device).float()
                distribution, self._memory = self._policy.get_distribution(observations, self._memory, starts)
            mean = distribution.distribution.mean.cpu().numpy()
            deviation = self._policy.log_std.exp().cpu().numpy()
        return mean + self._noisy[:, None] * deviation * self._rng.standard_normal(mean.shape, np.float32)

    def _learn_from_samples(self) -> float:
        """Learn from samples of all rounds as much as is due in this one; return the mean error of the actions."""
        plan = self._run.plan
        updates = plan.imitation_passes * self._collecting * ROUND_STEPS * plan.arenas / MINIBATCH
        due = int((self._round + 1) * updates / self._rounds) - int(self._round * updates / self._rounds)
        cosine = (1 + math.cos(math.pi * self._round / self._rounds)) / 2
        for group in self._optimiser.param_groups:
            group["lr"] = LAST_LEARNING_RATE + (LEARNING_RATE - LAST_LEARNING_RATE) * cosine
        self._policy.set_training_mode(True)
        errors = [self._update(self._samples.draw(MINIBATCH, self._rng, self._policy.device)) for _ in range(due)]
        self._policy.set_training_mode(False)
        return float(np.mean(errors)) if errors else math.nan

    def _update(self, batch: Minibatch) -> float:
        policy = self._policy
        with torch.autocast("cpu", torch.bfloat16, enabled=self._short_floats):
            features = policy.extract_features(batch.observations)
        latent = features.float()
        if batch.states is not None:
            latent, _ = policy._process_sequence(latent, batch.states, batch.starts, policy.lstm_actor)
        means = policy.action_net(policy.mlp_extractor.forward_actor(latent))
        errors = torch.nn.functional.smooth_l1_loss(means, batch.targets, reduction="none", beta=0.5)
        # Speeds matter more per unit than turn rates, whose range is wider.
        loss = (errors * errors.new_tensor([2.0, 1.0])).mean()
        self._optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._policy.parameters(), 1.0)
        self._optimiser.step()
        return float(loss.detach())
