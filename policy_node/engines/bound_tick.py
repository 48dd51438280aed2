# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""A whole tick on a CPU in one session of onnxruntime: network, mapping and limits, bound to their arrays once.

Mapping and limits as operations of PyTorch, and new bindings at each tick, take longer than a small network computes.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from torch import nn

from policy_node.config.specs import PolicySpec
from policy_node.engines.backends import EngineError, EngineRequest
from policy_node.engines.tracing import network_of, tracing
from policy_node.policies.contract import State, Tensors, torch_dtype

OPSET = 18
# Largest difference between the session and PyTorch, absolute and relative.
TOLERANCE = 1e-5
TRIALS = 4
# Previous commands, starts and shares of ramps; low and high bounds, largest changes.
NUMBERS = 6


# The `CommandMap` of a tick.
TraceableMap: TypeAlias = Callable[[torch.Tensor], torch.Tensor]


class TraceableLimits(Protocol):
    """The `CommandLimits` of a tick, as a function of the numbers that change between two ticks."""

    @property
    def numbers(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Lower and upper bound, and largest change, `[components]` float64; they are changed in place."""

    @property
    def kinds(self) -> tuple[bool, ...]:
        """The kinds of limits that are computed."""

    @property
    def is_needed(self) -> bool:
        """Whether anything is limited."""

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
        """Limit the commands."""


class _TickNetwork(nn.Module):
    """Commands, actions and the next memory as a function of observations, memory, controls and limits."""

    def __init__(self, network: nn.Module, command_map: TraceableMap, limits: TraceableLimits) -> None:
        super().__init__()
        self.network = network
        self._command_map = command_map
        self._limits = limits

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        actions, *memory = self.network(*tensors[:-NUMBERS])
        commands = self._command_map(actions)
        if self._limits.is_needed:
            commands = self._limits.limit(commands, *tensors[-NUMBERS:])
        # An output that is an input, or another output, would have no place of its own.
        return commands.clone(), actions.clone(), *(part.clone() for part in memory)


class BoundTick:
    """Computes the commands of all robots from their observations, in arrays that it was bound to.

    Parameters
    ----------
    request
        The policy, for all robots of the tick.
    command_map, limits
        Parts of the tick. `limits` may change its numbers, but not its kinds.

    Raises
    ------
    EngineError
        If the session differs from PyTorch. Other exceptions: the tick cannot be exported.

    Attributes
    ----------
    kinds
        Kinds of the limits that it computes.
    """

    def __init__(self, request: EngineRequest, command_map: TraceableMap, limits: TraceableLimits) -> None:
        self.kinds = limits.kinds
        spec, robots = request.policy.spec, request.robots
        zeros = {
            key: torch.zeros((robots, *array.shape), dtype=torch_dtype(array.dtype))
            for key, array in spec.observations.items()
        }
        network, inputs = network_of(replace(request, observations=zeros), marks_nan=True)
        self._tick = _TickNetwork(network, command_map, limits).eval()
        self._observations = [(key, key in request.channels_last) for key in spec.observations]
        self._memory = tuple(spec.memory)
        self._inputs = [tensor.clone() for tensor in inputs]
        # Addresses of the observations that are bound themselves; 0 for a copy.
        self._places = [0] * len(self._observations)
        self._limits = limits.numbers
        unknown = torch.full((robots, len(self._limits[0])), torch.nan, dtype=torch.float64)
        self._controls = [unknown, unknown.clone(), torch.ones(robots, dtype=torch.float64)]
        self._control_rows = [control.numpy() for control in self._controls]
        with torch.inference_mode():
            self._outputs = [output.contiguous() for output in self._tick(*self._given)]
        self._rows = self._outputs[0].numpy()
        if self._rows.shape[:1] != (robots,):
            raise EngineError(f"its commands have the shape {list(self._rows.shape)} for {robots} robots")
        self._names = [f"input_{index}" for index in range(len(self._given))]
        self._bind()
        self._compare(np.random.default_rng(0), spec)
        del self._tick

    @property
    def _given(self) -> list[torch.Tensor]:
        return [*self._inputs, *self._controls, *self._limits]

    def _bind(self) -> None:
        """Make the session, and bind its inputs and outputs."""
        from policy_node.policies.onnxruntime_network import make_session

        content = io.BytesIO()
        outputs = [f"output_{index}" for index in range(len(self._outputs))]
        names: dict[str, Any] = {"input_names": self._names, "output_names": outputs}
        with tracing():
            export: Any = torch.onnx.export  # its stubs know no file in memory
            export(self._tick, tuple(self._given), content, dynamo=False, opset_version=OPSET, **names)
        self._session = make_session(content.getvalue(), torch.device("cpu"), [])
        self._binding = self._session.io_binding()
        # Without limits their numbers are no inputs.
        self._used = {found.name for found in self._session.get_inputs()}
        for name, tensor in zip(self._names, self._given, strict=True):
            self._bind_input(name, tensor)
        for name, tensor in zip(outputs, self._outputs, strict=True):
            place = tuple(tensor.shape), tensor.data_ptr()
            self._binding.bind_output(name, "cpu", 0, tensor.numpy().dtype, *place)

    def _bind_input(self, name: str, tensor: torch.Tensor) -> None:
        if name in self._used:
            self._binding.bind_input(name, "cpu", 0, tensor.numpy().dtype, tuple(tensor.shape), tensor.data_ptr())

    def _compare(self, rng: np.random.Generator, spec: PolicySpec) -> None:
        """Compare the session with PyTorch on drawn numbers, with and without NaN; raises EngineError."""
        for trial in range(TRIALS):
            drawn = [spec.observations[key].example(len(self._rows), rng) for key, _ in self._observations]
            tensors = [torch.from_numpy(array) for array in drawn]
            for (_, moved), tensor, bound in zip(self._observations, tensors, self._inputs, strict=False):
                bound.copy_(tensor.movedim(-3, -1) if moved else tensor)
            for control in self._control_rows[:2]:
                control[...] = rng.normal(size=control.shape)
            self._control_rows[2][...] = rng.uniform(size=len(self._rows))
            if trial % 2:
                spoiled = [tensor for tensor in self._inputs if tensor.is_floating_point()]
                for tensor in [*spoiled, *self._controls[:2]]:
                    tensor[rng.integers(len(tensor))] = torch.nan
            with torch.inference_mode():
                wanted = self._tick(*self._given)[0].numpy()
            self._session.run_with_iobinding(self._binding)
            if not np.allclose(self._rows, wanted, TOLERANCE, TOLERANCE, equal_nan=True):
                raise EngineError("its commands differ from those of PyTorch")

    def __call__(
        self, observations: Tensors, memory: State, previous: np.ndarray, start: np.ndarray, ramp: np.ndarray
    ) -> tuple[np.ndarray, torch.Tensor, State]:
        """Return commands, actions and the next memory; the last two are valid until the next call.

        The controls are those of `CommandLimits`.
        """
        inputs = self._inputs
        for index, (key, moved) in enumerate(self._observations):
            place = observations[key].data_ptr()
            # Staged rows stay at their place.
            if place != self._places[index]:
                given = observations[key].movedim(-3, -1) if moved else observations[key]
                inputs[index] = given.contiguous()
                self._bind_input(self._names[index], inputs[index])
                self._places[index] = place if inputs[index].data_ptr() == place else 0
        if memory is not None:
            for bound, name in zip(inputs[len(self._observations) :], self._memory, strict=True):
                bound.copy_(memory[name])
        for rows, control in zip(self._control_rows, (previous, start, ramp), strict=True):
            rows[...] = control
        self._session.run_with_iobinding(self._binding)
        _, actions, *after = self._outputs
        return self._rows.copy(), actions, dict(zip(self._memory, after, strict=True)) or None
