# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""From the staged rows of all robots to their commands: upload, history, policy, command, limits, one download."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from policy_node.config.schema import Configuration, ConfigurationError
from policy_node.control.actions import CommandLimiter, CommandMapper
from policy_node.engines.captured import CapturedPolicy
from policy_node.engines.device_program import Controls, DeviceLink, DeviceProgram
from policy_node.policies import Policy
from policy_node.sensing.batch import ObservationBatch, ObservationLayout


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
        From `pairing.match_observations`.

    Attributes
    ----------
    batch
        Where the newest readings are staged.
    policy
        The policy.
    components
        Numbers of one command.
    safe_command
        The safe command `[components]` float64, None when the configuration names none.

    Raises
    ------
    ConfigurationError
        When the policy's actions do not fit the configured command.
    """

    def __init__(self, configuration: Configuration, policy: Policy, layouts: Mapping[str, ObservationLayout]) -> None:
        self._robots = len(configuration.robots)
        self.policy = policy
        device = policy.device
        recorded = isinstance(policy, CapturedPolicy)
        keyed = {layout.key: layout for layout in layouts.values()}
        self.batch = ObservationBatch(keyed, self._robots, device)
        mapper = CommandMapper(policy.spec.action, configuration.action, device)
        self.components = mapper.components
        self.safe_command = mapper.safe_command
        limiter = CommandLimiter(configuration.action, self.components, 1.0 / configuration.control_rate_hz, device)
        self._is_limited = limiter.is_needed
        source = policy.source if isinstance(policy, CapturedPolicy) else policy
        self._program = DeviceProgram(source, self.batch, mapper, limiter, self._robots, static=recorded)
        self._link: DeviceLink | None = None
        if recorded or device.type == "cuda":
            self._link = DeviceLink(self._program, self._robots, self.components, device, recorded)

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
            for key, spec in self.policy.spec.observations.items():
                frame = self.batch.row(key, 0)
                frame[...] = np.resize(spec.example(1, rng), frame.shape)
            self(everything, start, start, np.ones(self._robots))
        with torch.inference_mode():
            self._program.forget()

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
        if continues:
            with torch.inference_mode():
                other.batch.take_over(self.batch)
        self.policy, self.batch, self.safe_command = other.policy, other.batch, other.safe_command
        self._program, self._link, self._is_limited = other._program, other._link, other._is_limited
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
            self.batch.upload()
            if self._link is not None:
                numbers = self._link(fresh_start, previous, start, ramp)
            else:
                restart = torch.from_numpy(fresh_start) if fresh_start.any() else None
                controls = Controls(restart, *map(torch.from_numpy, (previous, start, ramp)))
                numbers = self._program(controls).numpy()
        if not self._is_limited:
            nothing = np.zeros(self._robots, bool)
            return Inferred(numbers, nothing, nothing)
        return Inferred(numbers[:, :-2], numbers[:, -2] != 0.0, numbers[:, -1] != 0.0)
