# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Turn the outputs of a network into final actions, and add the noise of drawn actions.

All noise is added to the outputs, before choices and clipping: the largest of logits with Gumbel noise is a draw from
their distribution, and logistic noise does the same for one bit. So a row of NaN stays a row of NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from policy_node.config.specs import ActionSpec, ArraySpec, DiscreteSpec, MultiDiscreteSpec
from policy_node.policies.contract import PolicyError, where_rows

# Function from outputs and masks, both `[robots, outputs]`, to final actions.
Finish = Callable[[torch.Tensor, "torch.Tensor | None"], torch.Tensor]
# Function that adds noise: from outputs, latent and the memory's noise matrices to outputs.
Explore = Callable[[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]], torch.Tensor]


def action_spec(space: spaces.Space, path: str) -> ActionSpec:
    """Return the spec of the policy's actions.

    Raises PolicyError if Stable-Baselines3 itself cannot use the space, or it is a Box of integers.
    """
    # The policy and its training counted actions from 0, also where the space has another start.
    if isinstance(space, spaces.Discrete):
        return DiscreteSpec("action", int(space.n))
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        return MultiDiscreteSpec("action", tuple(space.nvec.tolist()))
    if isinstance(space, spaces.MultiBinary) and len(space.shape) == 1:
        return MultiDiscreteSpec("action", (2,) * space.shape[0])
    if isinstance(space, spaces.Box) and space.dtype in (np.float32, np.float64):
        return ArraySpec("action", space.shape, space.dtype, space.low, space.high)
    raise PolicyError(
        f"the action of policy file '{path}' is {space}; supported are Box of float32 or float64, Discrete, "
        "MultiDiscrete and MultiBinary of one axis"
    )


def finish_choice(logits: torch.Tensor, masks: torch.Tensor | None) -> torch.Tensor:
    """Return the largest of the allowed logits, `[robots]` int64; -1 for unusable rows, as NaN looks like a choice."""
    usable = ~logits.isnan().any(dim=1)
    if masks is not None:
        usable = usable & masks.any(dim=1)
        logits = torch.where(masks, logits, -torch.inf)
    return where_rows(usable, logits.argmax(dim=1), -1)


def finish_choices(counts: tuple[int, ...]) -> Finish:
    """Return the function that gives the largest allowed logit of each choice, `[robots, choices]` int64."""

    def finish(logits: torch.Tensor, masks: torch.Tensor | None) -> torch.Tensor:
        parts = logits.split(counts, dim=1)
        allowed = [None] * len(parts) if masks is None else masks.split(counts, dim=1)
        chosen = torch.stack([finish_choice(*pair) for pair in zip(parts, allowed, strict=True)], dim=1)
        return where_rows((chosen >= 0).all(dim=1), chosen, -1)

    return finish


def finish_bits(logits: torch.Tensor, masks: torch.Tensor | None) -> torch.Tensor:
    """Return whether each bit is more likely than not, `[robots, bits]` int64."""
    chosen = torch.sigmoid(logits).round().nan_to_num().long()
    return where_rows(~logits.isnan().any(dim=1), chosen, -1)


def finish_box(model: Any, action: ArraySpec, squash: bool) -> Finish:
    """Return the function that gives the action within its bounds, `[robots, *shape]`.

    Outputs of a model with `squash_output` are unscaled from -1 to 1, after tanh if they must still be squashed
    (`squash`); others are clipped.
    """
    shape, unscale = (-1, *action.shape), model.squash_output
    low, high = (torch.tensor(bound, device=model.device) for bound in (action.low, action.high))
    span = high - low

    def finish(outputs: torch.Tensor, masks: torch.Tensor | None) -> torch.Tensor:
        outputs = (torch.tanh(outputs) if squash else outputs).reshape(shape)
        # The order of operations and the precision of `predict`.
        if unscale:
            return low + 0.5 * (outputs + 1.0) * span
        return torch.clamp(outputs.to(low.dtype), low, high)

    return finish


def make_finish(model: Any, action: ActionSpec, squash: bool) -> Finish:
    """Return the last step of a policy, from its network's outputs to final actions."""
    if isinstance(action, ArraySpec):
        return finish_box(model, action, squash)
    if isinstance(action, DiscreteSpec):
        return finish_choice
    # Bits have one logit each, except with masks, where they have a pair like any two choices.
    bits = isinstance(model.action_space, spaces.MultiBinary) and model.action_net.out_features == len(action.choices)
    return finish_bits if bits else finish_choices(action.choices)


def explore_gaussian(log_std: nn.Module | torch.Tensor, generator: torch.Generator) -> Explore:
    """Return the function that adds noise of a learned standard deviation, or of one computed from the latent."""

    def explore(outputs: torch.Tensor, latent: torch.Tensor, memory: dict[str, torch.Tensor]) -> torch.Tensor:
        # The bounds are those of the soft actor-critic family.
        logarithm = log_std if isinstance(log_std, torch.Tensor) else log_std(latent).clamp(-20, 2)
        noise = torch.randn(outputs.shape, generator=generator, device=outputs.device)
        return outputs + noise * logarithm.exp()

    return explore


def explore_state_dependent(
    outputs: torch.Tensor, latent: torch.Tensor, memory: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Add the product of each row's latent and its noise matrix `[robots, latent, outputs]` (gSDE)."""
    return outputs + torch.einsum("rl,rlo->ro", latent, memory["noise"])


def explore_choice(generator: torch.Generator, bits: bool) -> Explore:
    """Return the function that adds noise to logits, so that the largest is drawn from their distribution."""

    def gumbel(like: torch.Tensor) -> torch.Tensor:
        # An exponential may round to zero, whose logarithm is infinite.
        return -torch.empty_like(like).exponential_(generator=generator).clamp_min(1e-30).log()

    def explore(outputs: torch.Tensor, latent: torch.Tensor, memory: dict[str, torch.Tensor]) -> torch.Tensor:
        noise = gumbel(outputs)
        return outputs + (noise - gumbel(outputs) if bits else noise)

    return explore


def explore_epsilon(rate: float, generator: torch.Generator) -> Explore:
    """Return the function that gives each row any action with a given probability."""

    def explore(outputs: torch.Tensor, latent: torch.Tensor, memory: dict[str, torch.Tensor]) -> torch.Tensor:
        coins, values = (
            torch.rand(shape, generator=generator, device=outputs.device)
            for shape in ((len(outputs), 1), outputs.shape)
        )
        return torch.where((coins < rate) & ~outputs.isnan(), values, outputs)

    return explore
