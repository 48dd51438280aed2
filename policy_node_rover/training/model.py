# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The models that are trained: PPO of Stable-Baselines3, with a memory RecurrentPPO of sb3-contrib."""

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
Decision: TypeAlias = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

STEPS_PER_UPDATE = 256
MINIBATCH = 512
# A memory is learnt one step after the other, which takes the longer the longer its sequences are.
RECURRENT_STEPS_PER_UPDATE = 64
RECURRENT_MINIBATCH = 1024


def make_model(
    arenas: VecEnv,
    seed: int = 0,
    device: str = "cpu",
    recurrent: bool = False,
    log_folder: Path | None = None,
) -> PPO | RecurrentPPO:
    """Make an untrained model with the default feature extractors of Stable-Baselines3.

    Parameters
    ----------
    arenas
        Where it drives.
    seed
        Seed of the networks and of learning.
    device
        Where the networks are computed.
    recurrent
        Whether the policy has a memory (LSTM).
    log_folder
        For the logs of TensorBoard; None: none.
    """
    kind, policy = (RecurrentPPO, "MultiInputLstmPolicy") if recurrent else (PPO, "MultiInputPolicy")
    steps = RECURRENT_STEPS_PER_UPDATE if recurrent else STEPS_PER_UPDATE
    minibatch = RECURRENT_MINIBATCH if recurrent else MINIBATCH
    # The value function reads the memory of the policy, which halves the time that memories take.
    memory = {"shared_lstm": True, "enable_critic_lstm": False} if recurrent else {}
    settings: dict[str, Any] = {
        # Small steps, since the policy that imitation leaves is good already.
        "learning_rate": LinearSchedule(5e-5, 5e-6, 1.0),
        "clip_range": 0.1,
        "target_kl": 0.015,
        # Values share the features with the actions, and must not carry them away.
        "vf_coef": 0.05,
        "n_steps": steps,
        "batch_size": min(minibatch, steps * arenas.num_envs),
        "n_epochs": 3,
        "gamma": 0.998,
        "gae_lambda": 0.95,
        "ent_coef": 0.0,
        "policy_kwargs": {"net_arch": [256], "log_std_init": -1.2, **memory},
    }
    return kind(
        policy,
        arenas,
        tensorboard_log=str(log_folder) if log_folder else None,
        seed=seed,
        device=device,
        **settings,
    )


def recorded_forward(policy: ActorCriticPolicy, observations: Observations) -> Callable[[Observations], Decision]:
    """Record the forward pass of a policy, for as many rows as there are observations.

    On a CPU it draws, bit by bit, what the policy draws. It goes on learning with the policy, as its parameters are
    the same; but the Python of Stable-Baselines3, a sixth of its time with a few rows, is left out.
    """
    # Recording draws, too, and must change nothing of what is drawn later.
    with torch.no_grad(), torch.random.fork_rng(), warnings.catch_warnings():
        # What is drawn differs from call to call, and arguments were checked while it was recorded.
        warnings.simplefilter("ignore")
        forward: Callable[[Observations], Decision] = torch.jit.trace(
            policy, (observations,), check_trace=False
        ).forward
    return forward
