# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""A training that runs: what its phases share, and the checkpoints from which it goes on."""

from __future__ import annotations

import time
from typing import Any

from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv

from policy_node_rover.arena.conditions import CONDITIONS
from policy_node_rover.mujoco.vectorised import RoverArenaVecEnv
from policy_node_rover.mujoco.wrappers import wrap_for_policy
from policy_node_rover.training.checkpoint import StopRequest, read_state, replaced, restore_generators, write_state
from policy_node_rover.training.model import make_model
from policy_node_rover.training.plan import EpisodeSeeds, Plan
from policy_node_rover.training.progress import TrainingProgress


class TrainingRun:
    """What the phases of a training share.

    Parameters
    ----------
    plan
        What is to be done.
    progress
        Where it is shown.

    Attributes
    ----------
    plan, progress
        As given.
    arenas
        The arenas with all that they know.
    observed
        The same arenas as the policy sees them.
    model
        What learns.
    stop
        Whether it is to stop.
    imitation_state
        What the imitation goes on from: None before it has begun, and empty after its end.
    runs
        Command and commit of each part of the training so far.
    """

    def __init__(self, plan: Plan, progress: TrainingProgress) -> None:
        self.plan = plan
        self.progress = progress
        self.stop = StopRequest()
        self._seeds = EpisodeSeeds(plan.seed)
        self.arenas = RoverArenaVecEnv(
            plan.arenas, self._seeds, plan.renderer, plan.processes, CONDITIONS[plan.conditions]
        )
        self.observed: VecEnv = wrap_for_policy(self.arenas, plan.keys, plan.stack)
        self.model: PPO | RecurrentPPO = make_model(
            self.observed, plan.seed, plan.device, plan.recurrent, log_folder=plan.output
        )
        self.imitation_state: dict[str, Any] | None = None
        self.runs: list[dict[str, str | None]] = []
        self._saved_s = time.monotonic()

    def restore(self) -> None:
        """Go on from the checkpoint in the output folder.

        Raises
        ------
        SystemExit
            When there is none, or it is one of another training.
        """
        state = read_state(self.plan.output)
        for option, value in self.plan.fixed().items():
            if state["plan"][option] != value:
                raise SystemExit(
                    f"--resume: {self.plan.output} was trained with {option} {state['plan'][option]}, found {value}; "
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

    def imitation_is_over(self) -> bool:
        """Tell whether nothing of the imitation is left, or none was asked for."""
        return not self.plan.imitation_steps or self.imitation_state == {}

    def is_over(self) -> bool:
        """Tell whether nothing is left to learn."""
        return self.imitation_is_over() and self.model.num_timesteps >= self.plan.steps

    def checkpoint_due(self) -> bool:
        """Tell whether it is time for a checkpoint, or the last chance for one."""
        return self.stop.asked or time.monotonic() - self._saved_s >= self.plan.checkpoint_s

    def save_checkpoint(self) -> None:
        """Save all that the training needs to go on, and the model as it is now."""
        write_state(
            self.plan.output,
            {
                "plan": self.plan.fixed(),
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
        self.progress.write_curve(self.plan.output)
        self._saved_s = time.monotonic()

    def save_model(self, name: str) -> None:
        """Save the model as it is now in the output folder, in one piece."""
        with replaced(self.plan.output / name) as new:
            self.model.save(new)
