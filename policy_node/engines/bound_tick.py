# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""A whole tick on a CPU in one session of onnxruntime: network, mapping and limits, bound to their arrays once.

Mapping and limits as operations of PyTorch, and new bindings at each tick, take longer than a small network computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol, TypeAlias

import numpy as np
import torch
from torch import nn

from policy_node.config.specs import OUTPUT, PolicySpec
from policy_node.engines.backends import EngineError, EngineRequest
from policy_node.engines.lean import export_lean
from policy_node.engines.tracing import network_of
from policy_node.policies.contract import BoundNetwork, State, Tensors, torch_dtype
from policy_node.policies.traced import mark_nan

# Largest difference between the session and PyTorch, absolute and relative.
TOLERANCE = 1e-5
TRIALS = 4
# In place of an address: the observation is copied at each call.
COPIED = -1
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
    """Commands, actions and the next memory as a function of observations, memory, controls and limits.

    `network` gives actions and the next memory of the first tensors.
    """

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


class _Finish(nn.Module):
    """Actions and the next memory as a function of observations, memory, and what a network wrote."""

    def __init__(self, network: BoundNetwork, spec: PolicySpec) -> None:
        super().__init__()
        self._finish = network.finish
        self._given = len(spec.observations) + len(spec.memory)
        self._memory = tuple(spec.memory)

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given, written = tensors[: self._given], tensors[self._given :]
        memory = dict(zip(self._memory, given[len(given) - len(self._memory) :], strict=True))
        actions, after = self._finish(memory, written)
        # What is only kept of the outputs before is not read by the network.
        read = [tensor for name, tensor in memory.items() if not name.startswith(OUTPUT)]
        actions, after = mark_nan((*given[: len(given) - len(memory)], *read), actions, after)
        return actions, *(after[name] for name in self._memory)


class BoundTick:
    """Computes the commands of all robots from their observations, in arrays that it was bound to.

    Parameters
    ----------
    request
        The policy, for all robots of the tick.
    command_map, limits
        Parts of the tick. `limits` may change its numbers, but not its kinds.
    network
        The network of the policy, which runs before the rest; None: the policy is traced with the rest.

    Raises
    ------
    EngineError
        If the session differs from PyTorch. Other exceptions: the tick cannot be exported.

    Attributes
    ----------
    kinds
        Kinds of the limits that it computes.
    """

    def __init__(
        self,
        request: EngineRequest,
        command_map: TraceableMap,
        limits: TraceableLimits,
        network: BoundNetwork | None = None,
    ) -> None:
        self.kinds = limits.kinds
        spec, robots = request.policy.spec, request.robots
        zeros = {
            key: torch.zeros((robots, *array.shape), dtype=torch_dtype(array.dtype))
            for key, array in spec.observations.items()
        }
        self._observations = [(key, network is None and key in request.channels_last) for key in spec.observations]
        self._memory = tuple(spec.memory)
        self._network = network
        self._run_network: Callable[[], Sequence[torch.Tensor]] | None = None
        self._written: list[torch.Tensor] = []
        if network is None:
            part, inputs = network_of(replace(request, observations=zeros), marks_nan=True)
        else:
            state = request.policy.initial_state(robots) or {}
            if not all(torch.isfinite(tensor).all() for tensor in state.values()):
                raise EngineError("its memory begins with numbers that are not finite, which mark a fault here")
            part, inputs = _Finish(network, spec), (*zeros.values(), *(state[name] for name in self._memory))
        self._inputs = [tensor.clone() for tensor in inputs]
        self._tick = _TickNetwork(part, command_map, limits).eval()
        # The observations of the last call, and the addresses of those that are bound themselves; 0: not yet.
        self._seen: list[torch.Tensor | None] = [None] * len(self._observations)
        self._places = [0] * len(self._observations)
        self._limits = limits.numbers
        unknown = torch.full((robots, len(self._limits[0])), torch.nan, dtype=torch.float64)
        self._controls = [unknown, unknown.clone(), torch.ones(robots, dtype=torch.float64)]
        self._control_rows = [control.numpy() for control in self._controls]
        self._bind_network()
        with torch.inference_mode():
            self._outputs = [output.contiguous() for output in self._tick(*self._given)]
        self._rows = self._outputs[0].numpy()
        if self._rows.shape[:1] != (robots,):
            raise EngineError(f"its commands have the shape {list(self._rows.shape)} for {robots} robots")
        self._names = [f"input_{index}" for index in range(len(self._given))]
        outputs = {f"output_{index}": output for index, output in enumerate(self._outputs)}
        content = export_lean(self._tick, self._given, self._names, list(outputs))
        self._session = _Session(content, dict(zip(self._names, self._given, strict=True)), outputs)
        # Without limits of a kind, its controls are no inputs.
        controls = self._names[-NUMBERS : -NUMBERS + len(self._controls)]
        self._used_controls = [index for index, name in enumerate(controls) if name in self._session.used]
        self._compare(np.random.default_rng(0), spec)
        del self._tick

    @property
    def _given(self) -> list[torch.Tensor]:
        return [*self._inputs, *self._written, *self._controls, *self._limits]

    def _bind_network(self) -> None:
        """Bind the network that runs before the rest to the inputs, if there is one."""
        if self._network is not None:
            self._run_network = self._network.bind(self._inputs)
            self._written = list(self._run_network())

    def _run(self) -> None:
        """Run the network, if it runs before the rest, and the session."""
        if self._run_network is not None:
            self._run_network()
        self._session.run()

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
            self._run()
            with torch.inference_mode():
                wanted = self._tick(*self._given)[0].numpy()
            if not np.allclose(self._rows, wanted, TOLERANCE, TOLERANCE, equal_nan=True):
                raise EngineError("its commands differ from those of PyTorch")

    def __call__(
        self, observations: Tensors, memory: State, previous: np.ndarray, start: np.ndarray, ramp: np.ndarray
    ) -> tuple[np.ndarray, torch.Tensor, State]:
        """Return commands, actions and the next memory; the last two are valid until the next call.

        The controls are those of `CommandLimits`.
        """
        for index, (key, moved) in enumerate(self._observations):
            given = observations[key]
            # Staged rows stay at their place.
            if given is not self._seen[index] or self._places[index] <= 0:
                self._take(index, given.movedim(-3, -1) if moved else given)
                self._seen[index] = given
        if memory is not None:
            for bound, name in zip(self._inputs[len(self._observations) :], self._memory, strict=True):
                bound.copy_(memory[name])
        controls = previous, start, ramp
        for index in self._used_controls:
            self._control_rows[index][...] = controls[index]
        self._run()
        _, actions, *after = self._outputs
        return self._rows.copy(), actions, dict(zip(self._memory, after, strict=True)) or None

    def _take(self, index: int, given: torch.Tensor) -> None:
        """Bind an observation where it lies; one that is not contiguous is copied.

        So is one that a network reads at another place, from then on: to bind it again the network must run.
        """
        bound, place = self._places[index], given.data_ptr()
        may_move = self._network is None or bound in (0, place)
        if bound != COPIED and given.is_contiguous() and may_move:
            if place != bound:
                self._move(index, given)
                self._places[index] = place
            return
        if bound > 0:
            self._move(index, torch.zeros(given.shape, dtype=given.dtype))
        self._places[index] = COPIED
        self._inputs[index].copy_(given)

    def _move(self, index: int, tensor: torch.Tensor) -> None:
        self._inputs[index] = tensor
        self._session.bind_input(self._names[index], tensor)
        if self._network is not None:
            self._bind_network()
            for name, written in zip(self._names[len(self._inputs) :], self._written, strict=False):
                self._session.bind_input(name, written)


class _Session:
    """A session of onnxruntime on a CPU whose inputs and outputs are bound to tensors, which the caller keeps.

    Attributes
    ----------
    run
        Runs it.
    used
        Names of the inputs that the results depend on; others cannot be bound.
    """

    def __init__(self, content: bytes, inputs: Mapping[str, torch.Tensor], outputs: Mapping[str, torch.Tensor]) -> None:
        from policy_node.policies.onnxruntime_network import make_session

        session = make_session(content, torch.device("cpu"), [])
        self._binding = session.io_binding()
        self.used = {found.name for found in session.get_inputs()}
        for name, tensor in inputs.items():
            self.bind_input(name, tensor)
        for name, tensor in outputs.items():
            place = tuple(tensor.shape), tensor.data_ptr()
            self._binding.bind_output(name, "cpu", 0, tensor.numpy().dtype, *place)
        self.run = partial(session.run_with_iobinding, self._binding)

    def bind_input(self, name: str, tensor: torch.Tensor) -> None:
        """Bind an input to another tensor, of the same shape."""
        if name in self.used:
            self._binding.bind_input(name, "cpu", 0, tensor.numpy().dtype, tuple(tensor.shape), tensor.data_ptr())
