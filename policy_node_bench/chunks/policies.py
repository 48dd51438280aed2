# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Policies of the benchmark of plans, as TorchScript files."""

from __future__ import annotations

import math
import timeit
import warnings
from pathlib import Path

import torch
from torch import nn

# Numbers of a reading: level or phase, and the error of the observation.
READING = 2
COMPONENTS = 2
# Side of the matrices whose products take the time of an inference.
SIDE = 192
# Radians per second of the trajectories that plans follow.
SPEED = math.pi


class Slow(nn.Module):
    """Plans the first number of a reading, for all steps, and computes `products` of matrices meanwhile."""

    def __init__(self, products: int, horizon: int) -> None:
        super().__init__()
        self.products = products
        self.horizon = horizon
        self.matrix = nn.Parameter(torch.eye(SIDE), requires_grad=False)

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        """Return plans `[robots, horizon, 2]` for readings `[robots, 2]`; without a horizon actions `[robots, 2]`."""
        product: torch.Tensor = self.matrix
        for _ in range(self.products):
            product = product @ self.matrix
        actions = state[:, :1].repeat(1, 2) * product[0, 0]
        return actions[:, None].repeat(1, self.horizon, 1) if self.horizon > 0 else actions


class Swing(nn.Module):
    """Plans a circle from the phase that it observes, with the error of the observation as an error of all steps."""

    def __init__(self, horizon: int, step_s: float) -> None:
        super().__init__()
        self.register_buffer("angles", torch.arange(horizon) * step_s * SPEED)

    def nominal(self, state: torch.Tensor) -> torch.Tensor:
        """Return the plans without regard to those before."""
        angles = state[:, :1] + self.angles  # type: ignore[operator]
        return torch.stack([angles.sin(), angles.cos()], dim=2) + state[:, 1:, None]

    def forward(self, state: torch.Tensor) -> torch.Tensor:
        """Return plans `[robots, horizon, 2]` for readings `[robots, 2]`."""
        return self.nominal(state)


class PrefixedSwing(Swing):
    """Plans as `Swing`, but begins with what is executed meanwhile, as policies trained for that do."""

    def forward(  # type: ignore[override]
        self, state: torch.Tensor, rest: torch.Tensor, delay: torch.Tensor
    ) -> torch.Tensor:
        """Return plans `[robots, horizon, 2]` that follow `rest` for `delay` steps and then return to the circle."""
        nominal = self.nominal(state)
        steps = torch.arange(nominal.shape[1])[None] - delay[:, None]
        last = delay.long().clamp(max=nominal.shape[1] - 1)[:, None, None].expand(-1, 1, 2)
        gap = rest.gather(1, last) - nominal.gather(1, last)
        # The plan returns from its prefix to its own trajectory within about ten steps.
        weight = torch.exp(-steps.clamp(min=0) / 10.0) * (delay > 0)[:, None]
        planned = nominal + gap * weight[:, :, None]
        return torch.where(((steps < 0) & (delay > 0)[:, None])[:, :, None], rest, planned)


def products_for(seconds: float) -> int:
    """Return how many products of matrices take so long on one thread of this machine."""
    matrix = torch.eye(SIDE)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            shortest_s = min(timeit.repeat(lambda: matrix @ matrix, number=50, repeat=10)) / 50
    finally:
        torch.set_num_threads(threads)
    return max(1, round(seconds / shortest_s))


def save(module: nn.Module, file: Path) -> str:
    """Save a policy as TorchScript and return its path."""
    with warnings.catch_warnings():
        # The format is deprecated for new files.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module.eval()).save(str(file))
    return str(file)
