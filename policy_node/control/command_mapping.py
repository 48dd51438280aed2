# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Map the policy's final actions to one command per robot, and find the safe command."""

from __future__ import annotations

import math

import numpy as np
import torch

from policy_node.config.catalogue import COMMAND_TYPES
from policy_node.config.schema import ActionConfiguration, ConfigurationError
from policy_node.config.specs import ActionSpec, DiscreteSpec, MultiDiscreteSpec


class CommandMapper:
    """Maps final actions `[robots, *action]` to commands `[robots, components]` on the device.

    A continuous action is flattened, its components in their order, and becomes `action * scale + offset`, computed in
    float64 if one of them is given; `CommandLimiter` then clips it. So does each choice of a MultiDiscrete or
    MultiBinary action, a whole number from 0; a Discrete action picks a row of `action.table`. A number that is not
    finite, or a choice that is negative (the policies' mark of logits that were not finite), comes out as NaN.

    Parameters
    ----------
    action
        The policy's action space.
    configuration
        The commands' configuration.
    device
        Where the actions are.

    Raises
    ------
    ConfigurationError
        When the policy's actions and the configured command do not fit; both are named.
    """

    def __init__(self, action: ActionSpec, configuration: ActionConfiguration, device: torch.device) -> None:
        joints = COMMAND_TYPES[configuration.type].named_by == "joints"
        name, named = ("action.joints", configuration.joints) if joints else ("action.fields", configuration.fields)
        self._table: torch.Tensor | None = None
        self._choices = isinstance(action, MultiDiscreteSpec)
        affine = {name: getattr(configuration, name) for name in ("scale", "offset", "low", "high")}
        if isinstance(action, DiscreteSpec):
            given = [f"action.{name}" for name, numbers in affine.items() if numbers]
            if given:
                raise ConfigurationError(
                    [f"{given[0]}: given, but the policy's action is {action}; give final commands in action.table"]
                )
            self.components = self._discrete_components(action, configuration, len(named), name)
            rows = np.asarray(configuration.table, np.float64).reshape(action.n, self.components)
            # The last row, picked by -1, marks an action that must not be used.
            self._table = torch.from_numpy(np.vstack([rows, np.full((1, self.components), np.nan)])).to(device)
        else:
            self.components = len(action.choices) if isinstance(action, MultiDiscreteSpec) else math.prod(action.shape)
            if configuration.table:
                kind = "several choices" if self._choices else "continuous"
                raise ConfigurationError(
                    [f"action.table: given, but the policy's action is {kind}, {action}; remove it"]
                )
            if named and len(named) != self.components:
                raise ConfigurationError(
                    [
                        f"{name}: found {len(named)} ({', '.join(named)}), but the policy's action has "
                        f"{self.components} components, {action}"
                    ]
                )
        wrong = {name: len(numbers) for name, numbers in affine.items() if len(numbers) not in (0, 1, self.components)}
        if wrong:
            raise ConfigurationError(
                [
                    f"action.{name}: found {count} numbers, but a command has {self.components} components; give 1 or "
                    f"{self.components}"
                    for name, count in wrong.items()
                ]
            )
        self._scale, self._offset = (
            torch.tensor(affine[name], dtype=torch.float64, device=device) if affine[name] else None
            for name in ("scale", "offset")
        )
        self.safe_command = self._safe_command(configuration)

    @staticmethod
    def _discrete_components(action: DiscreteSpec, configuration: ActionConfiguration, named: int, name: str) -> int:
        numbers = len(configuration.table)
        if named:
            components = named
        else:
            components = len(configuration.safe_command) or numbers // action.n
        if not numbers or numbers != action.n * components:
            raise ConfigurationError(
                [
                    f"action.table: found {numbers} numbers, but the policy's action is Discrete({action.n}): "
                    f"give {action.n} rows" + (f" of {named} numbers, one for each of {name}" if named else "")
                ]
            )
        return components

    def _safe_command(self, configuration: ActionConfiguration) -> np.ndarray | None:
        """Return the safe command `[components]` float64, None when the configuration names none."""
        numbers = configuration.safe_command
        if not numbers:
            return np.zeros(self.components) if COMMAND_TYPES[configuration.type].is_velocity else None
        if len(numbers) != self.components:
            raise ConfigurationError(
                [f"action.safe_command: found {len(numbers)} numbers, but a command has {self.components} components"]
            )
        return np.asarray(numbers, np.float64)

    def __call__(self, actions: torch.Tensor) -> torch.Tensor:
        """Return the commands `[robots, components]` of `actions`, on their device."""
        if self._table is not None:
            return self._table[actions]
        commands = actions.reshape(actions.shape[0], -1)
        if self._choices:
            commands = commands.double().where(commands >= 0, torch.nan)
        if self._scale is not None:
            commands = commands * self._scale
        if self._offset is not None:
            commands = commands + self._offset
        return commands
