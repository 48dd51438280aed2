# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""A policy as a function of tensors alone, which programs other than PyTorch's interpreter can run."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from policy_node.config.specs import ArraySpec
from policy_node.policies.contract import Tensors, TorchPolicy, torch_dtype
from policy_node.policies.described import FileDescription
from policy_node.policies.formats import ExportSource

# Name of the input with the mask in exported files.
_ACTION_MASK = "action_mask"


class PolicyNetwork(nn.Module):
    """A whole policy as a function of tensors: observations, memory and mask in, final actions and memory out.

    Parameters
    ----------
    masked
        Whether the last input is the mask of allowed choices.
    channels_last
        Keys of the images that come as `[robots, ..., height, width, channels]`, in which order they lie in memory.
    marks_nan
        Whether robots with NaN in an input are marked in the outputs, see `mark_nan`.
    """

    def __init__(
        self, policy: TorchPolicy, masked: bool, channels_last: Collection[str] = (), marks_nan: bool = False
    ) -> None:
        super().__init__()
        self.parts = nn.ModuleList(policy.modules)
        self._policy = policy
        self._masked = masked
        self._channels_last = channels_last
        self._marks_nan = marks_nan

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Act for all robots; the inputs are in the order of the spec: observations, memory, mask."""
        spec = self._policy.spec
        remaining = iter(tensors)
        observations = {key: next(remaining) for key in spec.observations}
        observations |= {key: _channels_first(observations[key]) for key in self._channels_last}
        memory = {name: next(remaining) for name in spec.memory}
        masks = next(remaining) if self._masked else None
        actions, after = self._policy.act(observations, memory, masks)
        if self._marks_nan:
            actions, after = mark_nan(tensors, actions, after)
        return actions, *(after[name] for name in spec.memory)


def mark_nan(
    tensors: Sequence[torch.Tensor], actions: torch.Tensor, memory: Tensors
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Mark the actions and the memory of robots with NaN or infinity in a tensor, as `mark_rows` does.

    In a graph one product with zeros takes less than a test, a reduction and a choice.
    """
    nan = None
    for tensor in tensors:
        if tensor.is_floating_point():
            # A tensor with one number for each robot has no further axis.
            rows = tensor if tensor.ndim == 2 else tensor[:, None].flatten(1)
            found = (rows @ torch.zeros((rows.shape[1], 1), dtype=rows.dtype, device=rows.device)).float()
            nan = found if nan is None else nan + found
    if nan is None:
        return actions, dict(memory)
    return _with_nan(nan, actions, -1), {name: _with_nan(nan, part) for name, part in memory.items()}


def _with_nan(nan: torch.Tensor, tensor: torch.Tensor, integer: int | None = None) -> torch.Tensor:
    """Return a tensor with NaN where `nan` `[robots, 1]` is; if it holds integers, with `integer` if there is one."""
    rows = nan.view(-1, *[1] * (tensor.ndim - 1))
    if tensor.is_floating_point():
        return tensor + rows.to(tensor.dtype)
    return tensor if integer is None else torch.where(rows.isnan(), integer, tensor)


def _channels_first(images: torch.Tensor) -> torch.Tensor:
    """Move the channels before height and width; in axes counted from the front, as ONNX needs them."""
    axes = range(images.ndim)
    return images.permute(*axes[:-3], images.ndim - 1, *axes[-3:-1])


def example_inputs(
    policy: TorchPolicy, observations: Mapping[str, torch.Tensor], channels_last: Collection[str] = ()
) -> tuple[torch.Tensor, ...]:
    """Return the inputs of a `PolicyNetwork` without a mask, for robots that have seen nothing yet."""
    robots = len(next(iter(observations.values())))
    inputs = [
        (observations[key].movedim(-3, -1) if key in channels_last else observations[key]).contiguous()
        for key in policy.spec.observations
    ]
    state = policy.initial_state(robots) or {}
    return (*inputs, *(state[name].contiguous() for name in policy.spec.memory))


def output_dtypes(policy: TorchPolicy) -> list[torch.dtype]:
    """Return the dtypes of the outputs of a `PolicyNetwork`."""
    action = policy.spec.action
    actions = torch_dtype(action.dtype) if isinstance(action, ArraySpec) else torch.int64
    return [actions, *(torch_dtype(array.dtype) for array in policy.spec.memory.values())]


def traceable(source: ExportSource) -> tuple[PolicyNetwork, tuple[torch.Tensor, ...], FileDescription]:
    """Return a policy to be exported as a network, example inputs for three robots, and the file's description."""
    policy, spec, robots = source.policy, source.policy.spec, 3
    rng = np.random.default_rng(0)
    example = example_inputs(
        policy, {key: torch.from_numpy(array.example(robots, rng)) for key, array in spec.observations.items()}
    )
    if spec.mask:
        example = (*example, torch.ones(robots, spec.mask, dtype=torch.bool))
    taken = {*spec.memory, *(f"next_{name}" for name in spec.memory), _ACTION_MASK, "action"}
    description = FileDescription(
        spec=spec,
        inputs={key: f"observation_{key}" if key in taken else key for key in spec.observations},
        memory=tuple((name, f"next_{name}") for name in spec.memory),
        action_mask=_ACTION_MASK if spec.mask else "",
        action="action",
        source_sha256=spec.sha256,
        golden=source.golden,
        normalisation="inside" if source.statistics else policy.normalisation,
    )
    return PolicyNetwork(policy, masked=bool(spec.mask)).eval(), example, description


def open_robots_axis(example: Sequence[torch.Tensor]) -> tuple[Any, ...]:
    """Return the dynamic shapes of a `PolicyNetwork` for ``torch.export``: any number of robots."""
    robots = torch.export.Dim("robots", min=1)
    # One argument: the tuple of all tensors.
    return (tuple({0: robots} for _ in example),)
