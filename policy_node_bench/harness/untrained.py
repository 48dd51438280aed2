# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Make untrained policies for benchmarks and tests."""

from __future__ import annotations

import gymnasium
from gymnasium import spaces
from stable_baselines3 import PPO


class SpacesOnly(gymnasium.Env):
    """Hold the spaces for a model; this environment is never stepped."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        self.observation_space = observation_space
        self.action_space = action_space


def untrained_model(observation_space: spaces.Dict, action_space: spaces.Space, seed: int = 1) -> PPO:
    """Build a PPO MultiInputPolicy for a Dict space, with random weights from the seed."""
    # The rollout buffer holds n_steps observations; it is never used.
    env = SpacesOnly(observation_space, action_space)
    return PPO("MultiInputPolicy", env, n_steps=2, batch_size=2, seed=seed, device="cpu")
