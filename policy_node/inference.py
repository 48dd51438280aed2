# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""From the staged rows of all robots to their commands: upload, history, policy, command, limits, one download."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from policy_node.actions import CommandLimiter, CommandMapper
from policy_node.batch import ObservationBatch, ObservationLayout
from policy_node.configuration import Configuration, ConfigurationError
from policy_node.policies import Policy


class Inferred(NamedTuple):
    """What one inference gives, on the host.

    Attributes
    ----------
    commands
        `[robots, components]`; NaN where an action was not usable.
    bounded, slowed
        `[robots]` bool: whether a bound, or a limit of the change, acted on the command.
    """

    commands: np.ndarray
    bounded: np.ndarray
    slowed: np.ndarray


class Inference:
    """A policy with its observations before it and its commands behind it, for all robots at once.

    Parameters
    ----------
    configuration
        The deployment.
    policy
        The policy, on its device.
    layouts
        From `pipeline.match_observations`.

    Attributes
    ----------
    batch
        Where the newest readings are staged.

    Raises
    ------
    ConfigurationError
        When the policy's actions do not fit the configured command.
    """

    def __init__(self, configuration: Configuration, policy: Policy, layouts: Mapping[str, ObservationLayout]) -> None:
        self._robots = len(configuration.robots)
        self._policy = policy
        self.batch = ObservationBatch({layout.key: layout for layout in layouts.values()}, self._robots, policy.device)
        self._mapper = CommandMapper(policy.spec.action, configuration.action, policy.device)
        self.components = self._mapper.components
        self._limiter = CommandLimiter(
            configuration.action, self.components, 1.0 / configuration.control_rate_hz, policy.device
        )
        self._memory = policy.initial_state(self._robots)

    @property
    def safe_command(self) -> np.ndarray | None:
        """The safe command `[components]` float64, None when the configuration names none."""
        return self._mapper.safe_command

    def warm_up(self) -> None:
        """Run the whole batch three times on example observations, so that the first tick costs what later ones do.

        Raises
        ------
        Exception
            Whatever the policy raises on its own example observations.
        """
        rng = np.random.default_rng(0)
        everything = np.ones(self._robots, bool)
        start = np.full((self._robots, self.components), np.nan)
        for _ in range(3):
            for key, spec in self._policy.spec.observations.items():
                frame = self.batch.row(key, 0)
                frame[...] = np.resize(spec.example(1, rng), frame.shape)
            self(everything, start, start, np.ones(self._robots))
        self._memory = self._policy.initial_state(self._robots)

    def adopt(self, other: Inference) -> bool:
        """Go on with the policy of another inference of the same deployment, which is not to be used any more.

        The new policy's memory starts anew.

        Returns
        -------
        bool
            Whether the histories go on as they are, as the new policy takes the same; else they start anew.

        Raises
        ------
        ConfigurationError
            When its commands have another number of components; nothing is changed then.
        """
        if other.components != self.components:
            raise ConfigurationError(
                [
                    f"policy.path: the new policy's commands have {other.components} components, those of the present "
                    f"one {self.components}; clean up the node, then configure it with the new policy"
                ]
            )
        continues = self.batch.is_like(other.batch)
        if not continues:
            self.batch = other.batch
        self._policy, self._memory, self._mapper = other._policy, other._memory, other._mapper
        self._limiter = other._limiter
        return continues

    def __call__(self, fresh_start: np.ndarray, previous: np.ndarray, start: np.ndarray, ramp: np.ndarray) -> Inferred:
        """Run the policy on the staged rows.

        Parameters
        ----------
        fresh_start
            `[robots]` bool: robots whose histories and memories start anew.
        previous, start, ramp
            See `CommandLimiter`.
        """
        with torch.inference_mode():
            observations = self.batch.push(fresh_start)
            if self._memory is not None and fresh_start.any():
                self._memory = self._policy.reset(self._memory, torch.from_numpy(fresh_start).to(self._policy.device))
            actions, self._memory = self._policy(observations, self._memory)
            self.batch.remember(actions)
            commands = self._mapper(actions)
            # Rows of another number could not be told apart.
            if commands.shape != previous.shape:
                raise ValueError(f"its commands are {list(commands.shape)}, not {list(previous.shape)}")
            if not self._limiter.is_needed:
                nothing = np.zeros(self._robots, bool)
                return Inferred(commands.cpu().numpy(), nothing, nothing)
            device = self._policy.device
            result = self._limiter(commands, *(torch.from_numpy(part).to(device) for part in (previous, start, ramp)))
            numbers = result.cpu().numpy()
        return Inferred(numbers[:, :-2], numbers[:, -2] != 0.0, numbers[:, -1] != 0.0)
