# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""PPO of Stable-Baselines3 on the reward of the task, which improves what the imitation has taught.

First only the value function learns, from how the policy drives: the advantages of an untrained one would destroy the
policy.
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
# Standard deviation of the actions, in m/s and rad/s, around those of a policy that imitation has taught: the 0.3 with
# which the imitation explores to find mistakes would make most of them here.
EXPLORATION = 0.1
_VALUE_PARTS = ("value_net.", "mlp_extractor.value_net.")


class Improvement(BaseCallback):
    """Watches PPO: who learns, how far it is, its checkpoints, and the wish that it stops.

    Parameters
    ----------
    run
        The training that this is a phase of.

    Attributes
    ----------
    stopped
        Whether it stopped before its end.
    """

    def __init__(self, run: TrainingRun) -> None:
        super().__init__()
        self.stopped = False
        self._run = run
        self._first = True

    def _on_training_start(self) -> None:
        model = self.model
        if isinstance(model, PPO):
            latest: Any = model._last_obs
            observations: Any = obs_as_tensor(latest, model.device)
            model.policy.set_training_mode(False)
            forward: Any = recorded_forward(model.policy, observations)
            model.policy.forward = forward  # type: ignore[method-assign]

    def _on_rollout_start(self) -> None:
        """Keep what the update before has changed, as nothing is lost at this moment."""
        run = self._run
        teach_values_only = self.num_timesteps < run.plan.value_steps
        for name, parameter in self.model.policy.named_parameters():
            parameter.requires_grad_(not teach_values_only or name.startswith(_VALUE_PARTS))
        if not self._first:
            run.progress.add_point()
            if run.checkpoint_due():
                run.save_checkpoint()
        self._first = False
        self.stopped = run.stop.asked

    def _on_step(self) -> bool:
        for info, done in zip(self.locals["infos"], self.locals["dones"], strict=True):
            if done:
                self._run.progress.finish_episode(info)
        steps = min(self.num_timesteps, self._run.plan.steps)
        self._run.progress.move(steps, steps / self._run.plan.steps)
        return not self.stopped

    def _on_training_end(self) -> None:
        if not self.stopped:
            self._run.progress.add_point()


def improve(run: TrainingRun) -> bool:
    """Improve the policy by PPO until all steps are done; False when the training is to stop before."""
    model = run.model
    left = run.plan.steps - model.num_timesteps
    if left <= 0:
        return True
    run.progress.begin(PHASE, model.num_timesteps, run.plan.steps, model.num_timesteps / run.plan.steps)
    if run.plan.imitation_steps and model.num_timesteps == 0:
        with torch.no_grad():
            model.policy.log_std.fill_(math.log(EXPLORATION))
    watching = Improvement(run)
    try:
        model.learn(left, callback=watching, reset_num_timesteps=False, tb_log_name=PHASE)
    finally:
        # Also when it was never recorded.
        vars(model.policy).pop("forward", None)
    return not watching.stopped
