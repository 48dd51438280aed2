# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Reinforcement learning with PPO after the imitation.

At first only the value function learns: the advantages of an untrained one would destroy the policy.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import obs_as_tensor

from policy_node_rover.training.model import recorded_forward
from policy_node_rover.training.run import TrainingRun

PHASE = "ppo"
# Standard deviation of the actions in m/s and rad/s. The 0.3 of the imitation would cause most of the mistakes here.
EXPLORATION = 0.1
_VALUE_PARAMETERS = ("value_net.", "mlp_extractor.value_net.")


class TrainingCallback(BaseCallback):
    """Freeze the policy at first, update the progress, save checkpoints, and stop on request."""

    def __init__(self, run: TrainingRun) -> None:
        super().__init__()
        self.stopped = False
        self._run = run
        self._is_first_rollout = True

    def _on_training_start(self) -> None:
        model = self.model
        if isinstance(model, PPO):
            latest: Any = model._last_obs
            observations: Any = obs_as_tensor(latest, model.device)
            model.policy.set_training_mode(False)
            forward: Any = recorded_forward(model.policy, observations)
            model.policy.forward = forward  # type: ignore[method-assign]

    def _on_rollout_start(self) -> None:
        """Save a checkpoint here, between the update before and the next steps."""
        run = self._run
        values_only = self.num_timesteps < run.config.value_steps
        for name, parameter in self.model.policy.named_parameters():
            parameter.requires_grad_(not values_only or name.startswith(_VALUE_PARAMETERS))
        if not self._is_first_rollout:
            run.progress.add_point()
            if run.checkpoint_is_due():
                run.save_checkpoint()
        self._is_first_rollout = False
        self.stopped = run.stop_requested

    def _on_step(self) -> bool:
        for info, done in zip(self.locals["infos"], self.locals["dones"], strict=True):
            if done:
                self._run.progress.add_episode(info)
        steps = min(self.num_timesteps, self._run.config.steps)
        self._run.progress.show(steps, steps / self._run.config.steps)
        return not self.stopped

    def _on_training_end(self) -> None:
        if not self.stopped:
            self._run.progress.add_point()


def run_ppo(run: TrainingRun) -> bool:
    """Execute the remaining steps of PPO; False when the training is to stop before their end."""
    model = run.model
    remaining = run.config.steps - model.num_timesteps
    if remaining <= 0:
        return True
    run.progress.start_phase(PHASE, model.num_timesteps, run.config.steps, model.num_timesteps / run.config.steps)
    if run.config.imitation_steps and model.num_timesteps == 0:
        with torch.no_grad():
            model.policy.log_std.fill_(math.log(EXPLORATION))
    callback = TrainingCallback(run)
    try:
        model.learn(remaining, callback=callback, reset_num_timesteps=False, tb_log_name=PHASE)
    finally:
        # Restore the method of the class.
        vars(model.policy).pop("forward", None)
    return not callback.stopped
