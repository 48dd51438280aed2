# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""A policy as a function of tensors alone, which other programs than PyTorch's interpreter can run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import nn

from policy_node.config.specs import ArraySpec
from policy_node.policies import Observations, Policy, State
from policy_node.policies.checks import CallChecks, torch_dtype
from policy_node.policies.rows import rows_without_nan, where_rows
from policy_node.policies.sb3.policy import Sb3Policy

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
        self, policy: Sb3Policy, masked: bool, channels_last: Collection[str] = (), marks_nan: bool = False
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


class EnginePolicy:
    """A policy whose computation an engine runs; see `policy_node.policies.Policy`.

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
        self.spec = source.spec
        self.device = source.device
        self.engine_name = engine_name
        self._source = source
        self._run = run
        self._robots = robots
        self._checks = CallChecks(self.spec, self.device)
        self._inputs = [(key, key in channels_last) for key in self.spec.observations]
        self._memory = tuple(self.spec.memory)

    def initial_state(self, robots: int) -> State:
        """Return the memory of robots that have seen nothing yet; see `policy_node.policies.Policy`."""
        return self._source.initial_state(robots)

    def reset(self, state: State, rows: torch.Tensor) -> State:
        """Return the state in which the chosen robots have seen nothing yet; see `policy_node.policies.Policy`."""
        return self._source.reset(state, rows)

    def __call__(
        self, observations: Observations, state: State = None, masks: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, State]:
        """Compute the final action of every robot; see `policy_node.policies.Policy`."""
        keyed, robots = self._checks.observations(observations)
        if robots != self._robots or masks is not None:
            return self._source(keyed, state, masks)
        self._checks.state(state, robots)
        with torch.inference_mode():
            inputs = [keyed[key].movedim(-3, -1) if moved else keyed[key] for key, moved in self._inputs]
            if state is not None:
                inputs += [state[name] for name in self._memory]
            actions, *after = self._run([tensor.contiguous() for tensor in inputs])
            return actions, dict(zip(self._memory, after, strict=True)) or None


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
