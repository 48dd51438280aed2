# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Policies that were never trained, to measure and test with."""

from __future__ import annotations

import gymnasium
from gymnasium import spaces
from stable_baselines3 import PPO


class SpacesOnly(gymnasium.Env):
    """An environment that is never stepped: a model takes its spaces from it."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space) -> None:
        self.observation_space = observation_space
        self.action_space = action_space


def untrained_model(observation_space: spaces.Dict, action_space: spaces.Space, seed: int = 1) -> PPO:
    """Build a PPO MultiInputPolicy for a Dict space, with random weights that follow from the seed."""
    # Two steps: the buffer for training, which never happens, would hold that many observations.
    env = SpacesOnly(observation_space, action_space)
    return PPO("MultiInputPolicy", env, n_steps=2, batch_size=2, seed=seed, device="cpu")
