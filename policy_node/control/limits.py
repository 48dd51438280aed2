# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Limit commands and their change, on the device."""

from __future__ import annotations

import torch

from policy_node.config.schema import ActionConfiguration, ConfigurationError


class CommandLimiter:
    """Keeps commands within bounds and limits their change, on the device and in float64.

    A command is clipped to `action.low` and `action.high`. It then goes over from `start` to the policy's within
    `action.ramp_s`: `start + (command - start) * ramp`. Last, it differs from the one sent before by at most
    `action.max_rate` times the control period. Bounds come first: where the command sent before, or `start`, lies
    beyond one, as a safe command may, the bound is taken in its place.

    Parameters
    ----------
    configuration
        The commands' configuration.
    components
        Of a command.
    period_s
        Control period.
    device
        Where the commands are.

    Attributes
    ----------
    is_needed
        Whether any limit is configured; without, a command is what the policy gives.

    Raises
    ------
    ConfigurationError
        When a limit has another number of components.
    """

    def __init__(
        self, configuration: ActionConfiguration, components: int, period_s: float, device: torch.device
    ) -> None:
        max_rate = configuration.max_rate
        if len(max_rate) not in (0, 1, components):
            raise ConfigurationError(
                [
                    f"action.max_rate: found {len(max_rate)} numbers, but a command has {components} components; give "
                    f"1 or {components}"
                ]
            )
        self._low, self._high, self._max_change = (
            torch.tensor(numbers, dtype=torch.float64, device=device) if numbers else None
            for numbers in (configuration.low, configuration.high, tuple(rate * period_s for rate in max_rate))
        )
        self._ramps = configuration.ramp_s > 0.0
        limits = (self._low, self._high, self._max_change)
        self.is_needed = self._ramps or any(limit is not None for limit in limits)

    def __call__(
        self, commands: torch.Tensor, previous: torch.Tensor, start: torch.Tensor, ramp: torch.Tensor
    ) -> torch.Tensor:
        """Limit the commands.

        Parameters
        ----------
        commands
            `[robots, components]`; a number that is not finite comes out as NaN, as a bound must not make it usable.
        previous
            `[robots, components]` float64: what was sent last; NaN where nothing was, which limits nothing.
        start
            `[robots, components]` float64: where the ramp begins; NaN where there is no such command.
        ramp
            `[robots]` float64: how much of the way has passed, 0 to 1.

        Returns
        -------
        torch.Tensor
            `[robots, components + 2]` float64: the commands, whether a bound acted, whether ramp or rate acted.
        """
        wanted = commands.double().where(commands.isfinite(), torch.nan)
        bounded = self._clip(wanted)
        slowed = bounded
        if self._ramps:
            begin = self._clip(start)
            # By a rounding the sum may lie beyond a bound.
            ramped = self._clip(begin + (bounded - begin) * ramp[:, None])
            slowed = bounded.where((ramp >= 1.0)[:, None] | start.isnan(), ramped)
        if self._max_change is not None:
            sent = self._clip(previous)
            limited = slowed.clamp(sent - self._max_change, sent + self._max_change)
            slowed = slowed.where(previous.isnan(), limited)
        usable = ~wanted.isnan()
        steps = ((wanted, bounded), (bounded, slowed))
        acted = [(usable & (after != before)).any(dim=1, keepdim=True).double() for before, after in steps]
        return torch.cat([slowed, *acted], dim=1)

    def _clip(self, commands: torch.Tensor) -> torch.Tensor:
        bounds = self._low is not None or self._high is not None
        return commands.clamp(self._low, self._high) if bounds else commands
