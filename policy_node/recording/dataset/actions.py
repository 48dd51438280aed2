# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Convert commands back to actions of a policy."""

from __future__ import annotations

import numpy as np

from policy_node.config.schema import ActionConfiguration, ConfigurationError
from policy_node.config.specs import ActionSpec, ArraySpec, DiscreteSpec

# Tolerance within which a command is that of an action, relative to its size.
_EXACT = 1e-6


class ActionInverse:
    """Converts commands to the actions of a policy that give them, without the limits of commands.

    Raises
    ------
    ConfigurationError
        When several actions give the same command.
    """

    def __init__(self, action: ActionSpec, configuration: ActionConfiguration) -> None:
        if configuration.components:
            raise ConfigurationError(
                f"{'action.components' if configuration.topic else 'actions.keys'}: given, but an action follows from "
                "commands only where they are all its components, on one topic"
            )
        self._action = action
        self.moved = 0  #: Number of commands that no action gives; each became the nearest action.
        self._scale = np.array(configuration.scale or (1.0,), np.float64)
        self._offset = np.array(configuration.offset or (0.0,), np.float64)
        if not self._scale.all():
            raise ConfigurationError("action.scale: a component is 0, so commands have no unique action")
        self._rows = np.zeros((0, 0))
        if isinstance(action, DiscreteSpec):
            self._rows = np.array(configuration.table, np.float64).reshape(action.n, -1)
            if len(np.unique(self._rows, axis=0)) < action.n:
                raise ConfigurationError("action.table: two rows are equal, so commands have no unique action")

    def __call__(self, commands: np.ndarray) -> np.ndarray:
        """Convert commands `[steps, components]` to actions `[steps, *action]`."""
        if isinstance(self._action, DiscreteSpec):
            distances = np.abs(commands[:, None] - self._rows).max(axis=2)
            chosen = distances.argmin(axis=1)
            self.moved += int((distances.min(axis=1) > _EXACT * max(1.0, float(np.abs(self._rows).max()))).sum())
            return chosen.astype(np.int64)
        wanted = (commands - self._offset) / self._scale
        if isinstance(self._action, ArraySpec):
            low, high = (bound.astype(np.float64).reshape(-1) for bound in (self._action.low, self._action.high))
            actions = np.clip(wanted, low, high)
            tolerance = _EXACT * np.maximum(1.0, np.abs(wanted))
            self.moved += int((np.abs(actions - wanted) > tolerance).any(axis=1).sum())
            # Rounding to the dtype may exceed a bound again.
            rounded = actions.astype(self._action.dtype).reshape(len(actions), *self._action.shape)
            return np.clip(rounded, self._action.low, self._action.high)
        choices = np.clip(np.rint(wanted), 0, np.array(self._action.choices) - 1)
        self.moved += int((np.abs(choices - wanted) > _EXACT).any(axis=1).sum())
        return choices.astype(np.int64)
