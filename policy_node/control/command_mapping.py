# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Map final actions to commands and limit those, on the device."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from policy_node.config.catalogue import command_kind
from policy_node.config.schema import ActionConfiguration, ConfigurationError
from policy_node.config.specs import ActionSpec, DiscreteSpec, MultiDiscreteSpec


class CommandMapper:
    """Maps final actions `[robots, *action]` to commands `[robots, components]` on the device.

    A continuous action is flattened, its components in their order, and becomes `action * scale + offset`, computed in
    float64 if one of them is given; `CommandLimiter` then clips it. So does each choice of a MultiDiscrete or
    MultiBinary action, a whole number from 0; a Discrete action picks a row of `action.table`. A negative choice,
    with which policies mark invalid logits, becomes NaN. Numbers that are not finite stay so. The guard rejects both.

    Raises
    ------
    ConfigurationError
        When the policy's actions and the configured command do not fit; both are named.
    """

    def __init__(self, action: ActionSpec, configuration: ActionConfiguration, device: torch.device) -> None:
        joints = command_kind(configuration.type).named_by == "joints"
        name, named = ("action.joints", configuration.joints) if joints else ("action.fields", configuration.fields)
        self._table: torch.Tensor | None = None
        self._picked: torch.Tensor | None = None
        self._choices = isinstance(action, MultiDiscreteSpec)
        affine = {name: getattr(configuration, name) for name in ("scale", "offset", "low", "high")}
        if isinstance(action, DiscreteSpec):
            affine["components"] = configuration.components
            given = [f"action.{name}" for name, numbers in affine.items() if numbers]
            if given:
                raise ConfigurationError(
                    f"{given[0]}: given, but the policy's action is {action}; give final commands in action.table"
                )
            self.components = self._discrete_components(action, configuration, len(named), name)
            rows = np.asarray(configuration.table, np.float64).reshape(action.n, self.components)
            # The choice -1 marks an action that must not be used; it picks this last row.
            self._table = torch.from_numpy(np.vstack([rows, np.full((1, self.components), np.nan)])).to(device)
        else:
            self.components = len(action.choices) if isinstance(action, MultiDiscreteSpec) else math.prod(action.shape)
            self._pick(action, configuration, device)
            if configuration.table:
                kind = "several choices" if self._choices else "continuous"
                raise ConfigurationError(f"action.table: given, but the policy's action is {kind}, {action}; remove it")
            if named and len(named) != self.components:
                raise ConfigurationError(
                    f"{name}: found {len(named)} ({', '.join(named)}), but the policy's action has "
                    f"{self.components} components, {action}"
                )
        affine.pop("components", None)
        _check_counts(affine, self.components)
        self._scale, self._offset = (
            torch.tensor(affine[name], dtype=torch.float64, device=device) if affine[name] else None
            for name in ("scale", "offset")
        )
        self.safe_command = self._safe_command(configuration)

    def _pick(self, action: ActionSpec, configuration: ActionConfiguration, device: torch.device) -> None:
        """Take the configured components of the action only, in their order."""
        picked = configuration.components
        if not picked:
            return
        if max(picked) >= self.components:
            commands = [f"{each}" for each in picked if each >= self.components]
            raise ConfigurationError(
                f"components of the command: found {', '.join(commands)}, but the policy's action has "
                f"{self.components} components, {action}, counted from 0"
            )
        self.components = len(picked)
        self._picked = torch.tensor(picked, dtype=torch.int64, device=device)

    @staticmethod
    def _discrete_components(action: DiscreteSpec, configuration: ActionConfiguration, named: int, name: str) -> int:
        numbers = len(configuration.table)
        components = named or len(configuration.safe_command) or numbers // action.n
        if not numbers or numbers != action.n * components:
            raise ConfigurationError(
                f"action.table: found {numbers} numbers, but the policy's action is Discrete({action.n}): "
                f"give {action.n} rows" + (f" of {named} numbers, one for each of {name}" if named else "")
            )
        return components

    def _safe_command(self, configuration: ActionConfiguration) -> np.ndarray | None:
        """Return the safe command `[components]` float64, None when the configuration names none."""
        numbers = configuration.safe_command
        if not numbers:
            return np.zeros(self.components) if command_kind(configuration.type).is_velocity else None
        if len(numbers) != self.components:
            raise ConfigurationError(
                f"action.safe_command: found {len(numbers)} numbers, but a command has {self.components} components"
            )
        return np.asarray(numbers, np.float64)

    def __call__(self, actions: torch.Tensor) -> torch.Tensor:
        """Return the commands `[robots, components]` of `actions`, on their device."""
        if self._table is not None:
            return self._table[actions]
        commands = actions.reshape(actions.shape[0], -1)
        if self._picked is not None:
            commands = commands[:, self._picked]
        if self._choices:
            commands = commands.double().where(commands >= 0, torch.nan)
        if self._scale is not None:
            commands = commands * self._scale
        if self._offset is not None:
            commands = commands + self._offset
        return commands


def _check_counts(numbers: Mapping[str, Sequence[float]], components: int) -> None:
    """Check that parameters have no number, one or one per component."""
    problems = [
        f"action.{name}: found {len(given)} numbers, but a command has {components} components; give 1 or {components}"
        for name, given in numbers.items()
        if len(given) not in (0, 1, components)
    ]
    if problems:
        raise ConfigurationError(problems)


class CommandLimiter:
    """Keeps commands within bounds and limits their change, on the device and in float64.

    A command is clipped to `action.low` and `action.high`. It is then blended linearly from `start` to the policy's
    command over `action.ramp_s`: `start + (command - start) * ramp`. Last, it differs from the one sent before by at
    most `action.max_rate` times the control period. Bounds come first: where the command sent before, or `start`, lies
    beyond one, as a safe command may, the bound replaces it. Without a configured limit, `is_needed` is False and a
    command is what the policy gives.

    Parameters
    ----------
    configuration, components, period_s, device
        The limits, the numbers of a command, the control period, and where commands are.
    captured
        Whether the computation is captured: `change` may then change numbers, but not add a kind of limit.

    Raises
    ------
    ConfigurationError
        When a limit has another number of components.
    """

    def __init__(
        self,
        configuration: ActionConfiguration,
        components: int,
        period_s: float,
        device: torch.device,
        captured: bool = False,
    ) -> None:
        self._components = components
        self._period_s = period_s
        self._captured = False
        # They stay at their place in memory, as a captured computation needs it.
        self._low, self._high, self._max_change = torch.empty((3, components), dtype=torch.float64, device=device)
        self._ramps = configuration.ramp_s > 0.0
        self._bounds = self._limits_change = False
        self.change(configuration)
        self._captured = captured

    @property
    def is_needed(self) -> bool:
        """Whether anything is limited."""
        return self._ramps or self._bounds or self._limits_change

    def check(self, configuration: ActionConfiguration) -> None:
        """Check that `change` can set these limits.

        Raises
        ------
        ConfigurationError
            When it cannot.
        """
        limits = {name: getattr(configuration, name) for name in ("low", "high", "max_rate")}
        _check_counts(limits, self._components)
        for name, numbers in limits.items():
            is_computed = self._limits_change if name == "max_rate" else self._bounds
            if numbers and self._captured and not is_computed:
                raise ConfigurationError(
                    f"action.{name}: found {list(numbers)}, but this policy was captured as a CUDA graph without such "
                    f"a limit; deactivate and clean up the node, set it, then configure the node again"
                )

    def change(self, configuration: ActionConfiguration) -> None:
        """Apply the bounds and the largest change of a configuration from the next command on; see `check`."""
        self.check(configuration)
        max_change = tuple(rate * self._period_s for rate in configuration.max_rate)
        limits = ((self._low, configuration.low, -math.inf), (self._high, configuration.high, math.inf))
        for tensor, numbers, nothing in (*limits, (self._max_change, max_change, math.inf)):
            tensor.copy_(torch.tensor(numbers or (nothing,), dtype=torch.float64))
        if not self._captured:
            self._bounds = bool(configuration.low or configuration.high)
            self._limits_change = bool(configuration.max_rate)

    @property
    def numbers(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Lower and upper bound, and the largest change, `[components]` float64; `change` writes in place."""
        return self._low, self._high, self._max_change

    @property
    def kinds(self) -> tuple[bool, ...]:
        """Whether commands ramp, are bounded, and are limited in their change."""
        return self._ramps, self._bounds, self._limits_change

    def __call__(
        self, commands: torch.Tensor, previous: torch.Tensor, start: torch.Tensor, ramp: torch.Tensor
    ) -> torch.Tensor:
        """Limit the commands, see `CommandLimits`."""
        return self.limit(commands, previous, start, ramp, *self.numbers)

    def limit(
        self,
        commands: torch.Tensor,
        previous: torch.Tensor,
        start: torch.Tensor,
        ramp: torch.Tensor,
        low: torch.Tensor,
        high: torch.Tensor,
        max_change: torch.Tensor,
    ) -> torch.Tensor:
        """Limit the commands by these `numbers`, so that an exported computation can take others."""

        def clip(values: torch.Tensor) -> torch.Tensor:
            return values.clamp(low, high) if self._bounds else values

        wanted = commands.double().where(commands.isfinite(), torch.nan)
        bounded = clip(wanted)
        slowed = bounded
        if self._ramps:
            begin = clip(start)
            # Rounding may move the sum beyond a bound.
            ramped = clip(begin + (bounded - begin) * ramp[:, None])
            slowed = bounded.where((ramp >= 1.0)[:, None] | start.isnan(), ramped)
        if self._limits_change:
            sent = clip(previous)
            limited = slowed.clamp(sent - max_change, sent + max_change)
            slowed = slowed.where(previous.isnan(), limited)
        usable = ~wanted.isnan()
        steps = ((wanted, bounded), (bounded, slowed))
        acted = [(usable & (after != before)).any(dim=1, keepdim=True).double() for before, after in steps]
        return torch.cat([slowed, *acted], dim=1)
