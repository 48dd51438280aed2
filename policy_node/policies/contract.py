# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""What every policy offers, whatever file it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeAlias

import torch

from policy_node.config.specs import PolicySpec

Observations: TypeAlias = Mapping[str, torch.Tensor] | torch.Tensor
# A tensor `[robots, *shape]` for each entry of `PolicySpec.memory`; None for a policy without memory.
State: TypeAlias = dict[str, torch.Tensor] | None


class PolicyError(ValueError):
    """A policy cannot be loaded or called; the text says what was found, what is allowed and what to do."""


class Policy(Protocol):
    """A trained policy that acts for many robots at once, row by row.

    Rows never influence each other: a row of NaN gives an unusable action in that row only.
    """

    spec: PolicySpec
    device: torch.device

    def initial_state(self, robots: int) -> State:
        """Return the memory of `robots` robots that have seen nothing yet.

        Returns
        -------
        State
            To be handed to the first call; None for a policy without memory.
        """

    def __call__(
        self, observations: Observations, state: State, masks: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, State]:
        """Compute the final action of every robot.

        Runs under `torch.inference_mode`, so the result cannot be changed in place outside of it.

        Parameters
        ----------
        observations
            For each key of `spec.observations` a tensor `[robots, *shape]` on `device`, with the dtype of its
            spec and any strides. A policy with one key also takes that tensor by itself.
        state
            What `initial_state`, the last call or `reset` returned.
        masks
            `[robots, spec.mask]` bool on `device`, true for the choices that are allowed, those of several choices
            one after the other; None allows all.

        Returns
        -------
        actions : torch.Tensor
            On `device`. An `ArraySpec`: `[robots, *shape]` of its dtype, clipped or unscaled to the bounds, NaN
            where the network gave NaN. A `DiscreteSpec`: `[robots]` int64, a `MultiDiscreteSpec`:
            `[robots, choices]` int64; -1 where the network gave NaN and where the mask allows no choice.
        state : State
            To be handed to the next call.

        Raises
        ------
        PolicyError
            If keys, shapes, dtypes or devices are not those of the spec, or masks are given to a policy that takes
            none. Values are not looked at.
        """

    def reset(self, state: State, rows: torch.Tensor) -> State:
        """Return the state in which the chosen robots have seen nothing yet, whatever it holds for them.

        Parameters
        ----------
        state
            What `initial_state`, the last call or `reset` returned.
        rows
            `[robots]` bool, true for the robots to reset.
        """
