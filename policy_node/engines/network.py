# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""A policy as a function of tensors alone, which other programs than PyTorch's interpreter can run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import nn

from policy_node.config.specs import ArraySpec
from policy_node.policies.contract import Policy, TorchPolicy, WrappedPolicy
from policy_node.policies.rows import rows_without_nan, torch_dtype, where_rows

# From the network's inputs to its outputs.
Run = Callable[[list[torch.Tensor]], Sequence[torch.Tensor]]


class PolicyNetwork(nn.Module):
    """A whole policy as a function of tensors: observations, memory and mask in, final actions and memory out.

    Parameters
    ----------
    policy
        The policy.
    masked
        Whether the last input is the mask of allowed choices.
    channels_last
        Keys of the images that come as `[robots, ..., height, width, channels]`, in which order they lie in memory.
    marks_nan
        Whether robots with NaN in an input are marked in the outputs: some programs take the larger of NaN and 0 to
        be 0.
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
        observations |= {key: channels_first(observations[key]) for key in self._channels_last}
        memory = {name: next(remaining) for name in spec.memory}
        masks = next(remaining) if self._masked else None
        actions, after = self._policy.act(observations, memory, masks)
        outputs = [actions, *(after[name] for name in spec.memory)]
        if self._marks_nan:
            outputs = self._marked(tensors, outputs)
        return tuple(outputs)

    def _marked(self, tensors: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        usable = rows_without_nan(tensors)
        if usable is None:
            return list(outputs)
        marks: list[float | None] = [torch.nan if isinstance(self._policy.spec.action, ArraySpec) else -1]
        marks += [torch.nan if output.is_floating_point() else None for output in outputs[1:]]
        return [
            output if mark is None else where_rows(usable, output, mark)
            for mark, output in zip(marks, outputs, strict=True)
        ]


def channels_first(images: torch.Tensor) -> torch.Tensor:
    """Move the channels before height and width; in axes counted from the front, as ONNX needs them."""
    axes = range(images.ndim)
    return images.permute(*axes[:-3], images.ndim - 1, *axes[-3:-1])


class EnginePolicy(WrappedPolicy):
    """A policy whose computation an engine runs.

    Parameters
    ----------
    source
        The policy; it acts itself for another number of robots than that of the engine, and where masks are given.
    run
        The engine, on contiguous inputs in the order of `PolicyNetwork`, without the mask.
    robots
        For how many robots the engine was made.
    engine_name
        Name of the engine.
    channels_last
        As in `PolicyNetwork`.
    """

    def __init__(
        self, source: Policy, run: Run, robots: int, engine_name: str, channels_last: Collection[str] = ()
    ) -> None:
        super().__init__(source)
        self.engine_name = engine_name
        self._run = run
        self._robots = robots
        self._inputs = [(key, key in channels_last) for key in self.spec.observations]
        self._memory = tuple(self.spec.memory)

    def act(
        self, observations: Mapping[str, torch.Tensor], memory: Mapping[str, torch.Tensor], masks: torch.Tensor | None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Compute actions and the next memory from checked arguments."""
        inputs = [observations[key] for key, _ in self._inputs]
        if len(inputs[0]) != self._robots or masks is not None:
            return self.source.act(observations, memory, masks)
        inputs = [
            tensor.movedim(-3, -1) if moved else tensor for tensor, (_, moved) in zip(inputs, self._inputs, strict=True)
        ]
        inputs += [memory[name] for name in self._memory]
        actions, *after = self._run([tensor.contiguous() for tensor in inputs])
        return actions, dict(zip(self._memory, after, strict=True))


def example_inputs(policy: Policy, observations: Mapping[str, torch.Tensor], channels_last: Collection[str]) -> tuple:
    """Return the inputs of a `PolicyNetwork` without a mask, for robots that have seen nothing yet."""
    robots = len(next(iter(observations.values())))
    inputs = [
        (observations[key].movedim(-3, -1) if key in channels_last else observations[key]).contiguous()
        for key in policy.spec.observations
    ]
    state = policy.initial_state(robots) or {}
    return (*inputs, *(state[name].contiguous() for name in policy.spec.memory))


def output_dtypes(policy: Policy) -> list[torch.dtype]:
    """Return the dtypes of a network's outputs."""
    action = policy.spec.action
    actions = torch_dtype(action.dtype) if isinstance(action, ArraySpec) else torch.int64
    return [actions, *(torch_dtype(array.dtype) for array in policy.spec.memory.values())]
