# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Make the models: PPO of Stable-Baselines3, or RecurrentPPO of sb3-contrib."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv

Observations: TypeAlias = dict[str, torch.Tensor]
# Actions, values and log-probabilities.
PolicyOutput: TypeAlias = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

STEPS_PER_UPDATE = 256
MINIBATCH = 512
# Backpropagation through time takes longer for longer sequences.
RECURRENT_STEPS_PER_UPDATE = 64
RECURRENT_MINIBATCH = 1024


def make_model(
    arenas: VecEnv,
    seed: int = 0,
    device: str = "cpu",
    recurrent: bool = False,
    log_folder: Path | None = None,
) -> PPO | RecurrentPPO:
    """Make an untrained model for wrapped arenas, with the default feature extractors of Stable-Baselines3.

    A recurrent one has an LSTM. TensorBoard logs go to `log_folder`.
    """
    kind, policy = (RecurrentPPO, "MultiInputLstmPolicy") if recurrent else (PPO, "MultiInputPolicy")
    steps = RECURRENT_STEPS_PER_UPDATE if recurrent else STEPS_PER_UPDATE
    minibatch = RECURRENT_MINIBATCH if recurrent else MINIBATCH
    # The value function shares the LSTM of the policy, which halves its time.
    lstm = {"shared_lstm": True, "enable_critic_lstm": False} if recurrent else {}
    settings: dict[str, Any] = {
        # Small steps, as the policy after the imitation is good already.
        "learning_rate": LinearSchedule(5e-5, 5e-6, 1.0),
        "clip_range": 0.1,
        "target_kl": 0.015,
        # Values and actions share the features: a large weight of the values would spoil the policy.
        "vf_coef": 0.05,
        "n_steps": steps,
        "batch_size": min(minibatch, steps * arenas.num_envs),
        "n_epochs": 3,
        "gamma": 0.998,
        "gae_lambda": 0.95,
        "ent_coef": 0.0,
        "policy_kwargs": {"net_arch": [256], "log_std_init": -1.2, **lstm},
    }
    logs = str(log_folder) if log_folder else None
    return kind(policy, arenas, tensorboard_log=logs, seed=seed, device=device, **settings)


def recorded_forward(policy: ActorCriticPolicy, observations: Observations) -> Callable[[Observations], PolicyOutput]:
    """Trace the forward pass of a policy for the batch size of the observations.

    On a CPU the samples are bit-identical to those of the policy. The trace shares the parameters, so it follows
    learning, and omits the Python code of Stable-Baselines3, a sixth of the time for small batches.
    """
    # Tracing samples, too, and must not change later samples.
    with torch.no_grad(), torch.random.fork_rng(), warnings.catch_warnings():
        # Samples differ between calls, and checks of arguments are not traced.
        warnings.simplefilter("ignore")
        forward: Callable[[Observations], PolicyOutput] = torch.jit.trace(
            policy, (observations,), check_trace=False
        ).forward
    return forward
