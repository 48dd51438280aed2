# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Share arenas, model, progress and checkpoints between the phases of a training."""

from __future__ import annotations

import time
from typing import Any

from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv

from policy_node_rover.arena.conditions import CONDITIONS
from policy_node_rover.mujoco.vectorised import RoverArenaVecEnv
from policy_node_rover.mujoco.wrappers import wrap_for_policy
from policy_node_rover.training.checkpoint import StopRequest, atomic_write, read_state, restore_generators, write_state
from policy_node_rover.training.config import EpisodeSeeds, TrainingConfig
from policy_node_rover.training.model import make_model
from policy_node_rover.training.progress import TrainingProgress


class TrainingRun:
    """State of a training.

    Attributes
    ----------
    arenas, wrapped_arenas
        The arenas with all sensors, and as the policy takes them.
    imitation_state
        State of the imitation at the latest checkpoint: None before it has started, empty after its end.
    runs
        Command and commit of each part of the training so far.
    """

    def __init__(self, config: TrainingConfig, progress: TrainingProgress) -> None:
        self.config = config
        self.progress = progress
        self.stop = StopRequest()
        self._seeds = EpisodeSeeds(config.seed)
        self.arenas = RoverArenaVecEnv(
            config.arenas, self._seeds, config.renderer, config.processes, CONDITIONS[config.conditions]
        )
        self.wrapped_arenas: VecEnv = wrap_for_policy(self.arenas, config.keys, config.stack)
        self.model: PPO | RecurrentPPO = make_model(
            self.wrapped_arenas, config.seed, config.device, config.recurrent, log_folder=config.output
        )
        self.imitation_state: dict[str, Any] | None = None
        self.runs: list[dict[str, str | None]] = []
        self._saved_s = time.monotonic()

    def restore(self) -> None:
        """Restore the checkpoint in the output folder; SystemExit if it is from a training with other options."""
        state = read_state(self.config.output)
        for option, value in self.config.fixed_options().items():
            if state["plan"][option] != value:
                raise SystemExit(
                    f"--resume: {self.config.output} was trained with {option} {state['plan'][option]}, found {value}; "
                    "give the same, or another --output"
                )
        self.model.policy.load_state_dict(state["policy"])
        self.model.policy.optimizer.load_state_dict(state["optimiser"])
        self.model.num_timesteps = state["steps"]
        self.model._n_updates = state["updates"]
        self.imitation_state = state["imitation"]
        self.runs = state["runs"]
        self._seeds.restore(state["seeds"])
        self.progress.restore(state["progress"])
        restore_generators(state)

    def imitation_is_done(self) -> bool:
        """Return whether the imitation is complete, or was not requested."""
        return not self.config.imitation_steps or self.imitation_state == {}

    def is_done(self) -> bool:
        """Return whether the training is complete."""
        return self.imitation_is_done() and self.model.num_timesteps >= self.config.steps

    def checkpoint_is_due(self) -> bool:
        """Return whether to save a checkpoint now."""
        return self.stop.requested or time.monotonic() - self._saved_s >= self.config.checkpoint_s

    def save_checkpoint(self) -> None:
        """Save the state of the training, and the present model."""
        write_state(
            self.config.output,
            {
                "plan": self.config.fixed_options(),
                "policy": self.model.policy.state_dict(),
                "optimiser": self.model.policy.optimizer.state_dict(),
                "steps": self.model.num_timesteps,
                "updates": self.model._n_updates,
                "imitation": self.imitation_state,
                "seeds": self._seeds.state(self.arenas.running_seeds),
                "progress": self.progress.state(),
                "runs": self.runs,
            },
        )
        self.save_model("checkpoint.zip")
        self.progress.write_curve(self.config.output)
        self._saved_s = time.monotonic()

    def save_model(self, name: str) -> None:
        """Save the present model in the output folder."""
        with atomic_write(self.config.output / name) as file:
            self.model.save(file)
