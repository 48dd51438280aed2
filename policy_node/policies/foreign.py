# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""A policy of another trainer at work: inputs by their roles, memory fed back, histories, final actions.

What runs the network is an `Engine`, one for each file format.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch

from policy_node.config.specs import ActionSpec, ArraySpec, DiscreteSpec, PolicySpec
from policy_node.policies.contract import Policy, PolicyError, State
from policy_node.policies.interface import PolicyInterface
from policy_node.policies.precision import full_precision
from policy_node.policies.rows import rows_without_nan, where_rows

STEPS = "steps_since_reset"
# A length that the file leaves open is its symbol.
Shape: TypeAlias = tuple["int | str", ...]


@dataclass(frozen=True)
class Port:
    """One input of a network.

    Attributes
    ----------
    name
        By which the configuration calls it.
    shape
        With the robots axis; lengths that the file leaves open are symbols. None where the file says nothing.
    dtype
        None where the file says nothing.
    """

    name: str
    shape: Shape | None
    dtype: torch.dtype | None


class Engine(Protocol):
    """Runs the network of a file.

    Attributes
    ----------
    name
        As `policy.engine` calls it.
    inputs
        In the order of the call.
    outputs
        Names in the order of the result.
    carried
        What the network keeps inside itself: initial values by a name that is among both inputs and outputs.
    """

    name: str
    inputs: Sequence[Port]
    outputs: Sequence[str]
    carried: Mapping[str, torch.Tensor]

    def __call__(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        """Run the network on contiguous tensors, laid out as the file wants them."""


@dataclass(frozen=True)
class _Memory:
    """One memory: which output feeds it, where its robots axis lies, and how it begins for one robot."""

    input: str
    output: str
    axis: int
    fresh: torch.Tensor


class ForeignPolicy(Policy):
    """A policy of any trainer.

    Parameters
    ----------
    engine
        Runs the network.
    algorithm, sha256
        For the spec.
    path
        Where the policy came from, for errors.
    device
        Where the engine runs.
    interface
        What the inputs and outputs are.

    Raises
    ------
    PolicyError
        If the file and the interface do not fit each other, or the network cannot be run.
    """

    def __init__(
        self, engine: Engine, algorithm: str, sha256: str, path: str, device: torch.device, interface: PolicyInterface
    ) -> None:
        self.device = device
        self.engine_name = engine.name
        self._engine = engine
        self._interface = interface
        self._path = path
        pairs = (*interface.memory, *((name, name) for name in engine.carried))
        inputs = {port.name: port for port in engine.inputs}
        special = [*(name for name, _ in pairs), *filter(None, (interface.lengths, interface.mask))]
        self._find("input", [*special, *interface.inputs.values()], list(inputs))
        self._find("output", [*(name for _, name in pairs), *filter(None, (interface.action,))], engine.outputs)
        self._keys = self._name_observations([name for name in inputs if name not in special])
        self._find("observation", interface.history, list(self._keys.values()))

        fixed: dict[str, int] = {}
        observations = {key: self._observation(inputs[name], key, fixed) for name, key in self._keys.items()}
        symbol = next((port.shape[0] for name in self._keys if (port := inputs[name]).shape), None)
        memory = {name: self._memory(inputs[name], output, symbol, fixed) for name, output in pairs}
        for name in filter(None, (interface.lengths, interface.mask)):
            shape = inputs[name].shape
            if shape and isinstance(shape[0], int):
                fixed[name] = shape[0]
        if len(set(fixed.values())) > 1:
            self._refuse(f"its inputs have different fixed numbers of robots {fixed}", "export it with one number")
        self._memories = list(memory.values())
        self._tracked = interface.history if interface.lengths or interface.mask else {}
        self._steps = next(iter(self._tracked.values()), 0)
        self._dtypes = {name: port.dtype for name, port in inputs.items()}

        remaining = [name for name in engine.outputs if name not in [part.output for part in self._memories]]
        if not remaining:
            self._refuse("all its outputs are memory", "name fewer of them as memory")
        self._action = interface.action or remaining[0]
        self._batch, outputs = self._probe(observations, next(iter(fixed.values()), None))
        action = self._action_spec(outputs[self._action])
        self._finish = _make_finish(action, device)
        memory_specs = {part.input: _memory_spec(part.input, part.fresh) for part in self._memories}
        if self._steps:
            memory_specs[STEPS] = ArraySpec(STEPS, (), np.int64, 0, self._steps)
        super().__init__(PolicySpec(observations, action, algorithm, sha256, memory_specs), device)

    def initial_state(self, robots: int) -> State:
        """Return the memory of robots that have seen nothing yet."""
        state = {part.input: part.fresh.expand(robots, *part.fresh.shape).clone() for part in self._memories}
        if self._steps:
            state[STEPS] = torch.zeros(robots, dtype=torch.int64, device=self.device)
        return state or None

    def act(
        self, observations: Mapping[str, torch.Tensor], memory: Mapping[str, torch.Tensor], masks: torch.Tensor | None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Compute actions and the next memory from checked arguments."""
        memory = dict(memory)
        inputs = {name: observations[key] for name, key in self._keys.items()}
        inputs |= {part.input: memory[part.input] for part in self._memories}
        if self._steps:
            memory[STEPS] = (memory[STEPS] + 1).clamp_max(self._steps)
            inputs |= self._history_inputs(observations, memory[STEPS])
        # Some engines do not pass NaN on: they take the larger of NaN and 0 to be 0.
        usable = rows_without_nan(inputs.values())
        robots = len(next(iter(inputs.values())))
        if usable is None:
            usable = torch.ones(robots, dtype=torch.bool, device=self.device)
        outputs = self._run_in_parts(inputs, robots)
        for part in self._memories:
            after = outputs[part.output]
            memory[part.input] = where_rows(usable, after, torch.nan) if after.is_floating_point() else after
        return self._finish(outputs[self._action], usable), memory

    def _history_inputs(self, observations: Mapping[str, torch.Tensor], steps: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the histories, padded as the network wants them, with their lengths and mask."""
        slots = torch.arange(self._steps, device=self.device)
        at_end = self._interface.padding == "end"
        valid = slots < steps[:, None] if at_end else slots >= self._steps - steps[:, None]
        ready = {}
        for name, key in self._keys.items():
            if key in self._tracked:
                tensor = observations[key]
                if at_end:
                    # The newest step comes last: the oldest valid one moves to the front.
                    source = (slots + self._steps - steps[:, None]).clamp_max(self._steps - 1)
                    tensor = tensor[torch.arange(len(tensor), device=self.device)[:, None], source]
                # Whatever was there before the reset: attention multiplies it by zero, which NaN survives.
                ready[name] = torch.where(valid.view(*valid.shape, *[1] * (tensor.ndim - 2)), tensor, 0)
        for name, value in ((self._interface.lengths, steps), (self._interface.mask, valid)):
            if name:
                ready[name] = value.to(self._dtypes[name] or value.dtype)
        return ready

    def _run_in_parts(self, inputs: Mapping[str, torch.Tensor], robots: int) -> dict[str, torch.Tensor]:
        """Run the network on as many robots at once as it takes."""
        batch = self._batch
        if batch is None or batch == robots:
            return self._run(inputs)
        parts = []
        for first in range(0, robots, batch):
            # The last part is filled up with its last robot.
            rows = torch.arange(first, first + batch, device=self.device).clamp_max(robots - 1)
            parts.append(self._run({name: tensor[rows] for name, tensor in inputs.items()}))
        return {name: torch.cat([part[name] for part in parts])[:robots] for name in parts[0]}

    def _run(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Run the network once; all tensors here have the robots axis first."""
        axes = {part.input: part.axis for part in self._memories}
        arguments = [inputs[port.name].movedim(0, axes.get(port.name, 0)).contiguous() for port in self._engine.inputs]
        outputs = dict(zip(self._engine.outputs, self._engine(arguments), strict=True))
        for part in self._memories:
            outputs[part.output] = outputs[part.output].movedim(part.axis, 0)
        return outputs

    def _find(self, kind: str, names: Sequence[str] | Mapping[str, Any], there: Sequence[str]) -> None:
        for name in names:
            if name not in there:
                self._refuse(f"it has no {kind} '{name}', but {list(there)}", "name one of these")

    def _name_observations(self, names: Sequence[str]) -> dict[str, str]:
        """Return the observation key by input name."""
        keys = {name: key for key, name in self._interface.inputs.items()}
        if not names:
            self._refuse("none of its inputs is an observation", "name fewer of them as memory, lengths or mask")
        if len(names) == 1 and names[0] not in keys:
            return {names[0]: next(iter(self._interface.history), "observation")}
        named = {name: keys.get(name, name) for name in names}
        if len(set(named.values())) < len(named):
            self._refuse(f"two of its inputs {names} are the same observation", "name the input of each")
        return named

    def _observation(self, port: Port, key: str, fixed: dict[str, int]) -> ArraySpec:
        shape: Shape | None = self._interface.shapes.get(key)
        if port.shape:
            shape = shape or port.shape[1:]
            if isinstance(port.shape[0], int):
                fixed[port.name] = port.shape[0]
        if shape is None:
            self._refuse(f"it does not say the shape of observation '{key}'", "give it as its entry of shapes")
            raise AssertionError
        steps = self._interface.history.get(key)
        if steps is not None:
            if not shape or (isinstance(shape[0], int) and shape[0] != steps):
                self._refuse(
                    f"its observation '{key}' is {list(shape)}, not a history of {steps} steps",
                    "configure a history of its first length",
                )
            shape = (steps, *shape[1:])
        lengths = tuple(length for length in shape if isinstance(length, int))
        if len(lengths) < len(shape):
            self._refuse(
                f"it leaves the shape of observation '{key}' open: {list(shape)}",
                "give the steps of its history, or its shape as its entry of shapes",
            )
        dtype = self._dtype(port, key)
        low, high = (-np.inf, np.inf) if dtype.kind == "f" else (0, 1) if dtype.kind == "b" else _integer_bounds(dtype)
        return ArraySpec(key, lengths, dtype, low, high)

    def _memory(self, port: Port, output: str, symbol: int | str | None, fixed: dict[str, int]) -> _Memory:
        shape: Shape | None = self._interface.shapes.get(port.name)
        if shape is not None:
            axis = shape.index(-1) if -1 in shape else 0
            shape = shape if -1 in shape else (-1, *shape)
            if port.shape and isinstance(length := port.shape[axis], int):
                fixed[port.name] = length
        elif port.shape:
            shape = port.shape
            is_open = [index for index, length in enumerate(shape) if isinstance(length, str)]
            if len(is_open) > 1:
                is_open = [index for index in is_open if shape[index] == symbol]
            if len(is_open) == 1:
                axis = is_open[0]
            else:
                # As recurrent layers have it: [layers, robots, units].
                axis = 1 if len(shape) >= 3 else 0
                if isinstance(symbol, int) and shape[axis] != symbol and symbol in shape:
                    axis = shape.index(symbol)
                if isinstance(length := shape[axis], int):
                    fixed[port.name] = length
        else:
            self._refuse(f"it does not say the shape of memory '{port.name}'", "give it as its entry of shapes")
            raise AssertionError
        lengths = tuple(length for index, length in enumerate(shape) if index != axis and isinstance(length, int))
        if len(lengths) != len(shape) - 1:
            self._refuse(
                f"it leaves the shape of memory '{port.name}' open: {list(shape)}",
                "give it as its entry of shapes, with -1 for the robots",
            )
        if port.name in self._engine.carried:
            fresh = self._engine.carried[port.name].to(self.device)
        else:
            fresh = torch.from_numpy(np.zeros(lengths, self._dtype(port, port.name))).to(self.device)
        return _Memory(port.name, output, axis, fresh)

    def _dtype(self, port: Port, key: str) -> np.dtype:
        if port.dtype is not None:
            return torch.empty(0, dtype=port.dtype).numpy().dtype
        name = self._interface.dtypes.get(key, "float32")
        try:
            dtype = np.dtype(name)
            torch.from_numpy(np.empty(0, dtype))
        except TypeError:
            raise PolicyError(f"the dtype of '{key}' is '{name}'; give one as float32 or uint8") from None
        return dtype

    def _probe(
        self, observations: Mapping[str, ArraySpec], fixed: int | None
    ) -> tuple[int | None, dict[str, torch.Tensor]]:
        """Find out how many robots the network takes at once, None for any number, and what it gives."""
        reason = ""
        for batch in [2, 1] if fixed is None else [fixed]:
            try:
                with torch.inference_mode(), full_precision(self.device):
                    inputs = self._probe_inputs(observations, batch)
                    outputs = self._run(inputs)
                    mirrored = self._run({name: tensor.flip(0) for name, tensor in inputs.items()})
            except Exception as error:
                reason = reason or f"it cannot be run on {batch} robots ({type(error).__name__}: {error})"
                continue
            kept = {part.output: (batch, *part.fresh.shape) for part in self._memories}
            misfit = next((name for name, shape in kept.items() if tuple(outputs[name].shape) != shape), None)
            if misfit:
                reason = reason or f"its output '{misfit}' is {list(outputs[misfit].shape)} for {list(kept[misfit])} in"
            elif outputs[self._action].shape[:1] != (batch,):
                reason = reason or f"its action is {list(outputs[self._action].shape)} for {batch} robots"
            elif any(not _alike(outputs[name], mirrored[name].flip(0)) for name in (self._action, *kept)):
                reason = reason or "robots influence each other, or the same observations give different actions"
            else:
                whole = fixed is None and batch > 1
                if not whole:
                    rows = "robot after robot" if batch == 1 else f"{batch} robots at a time"
                    warnings.warn(
                        f"policy file '{self._path}' is run {rows}: "
                        f"{reason or f'it was exported for a batch of {batch}'}; "
                        "export it with a robots axis of any length to run all at once",
                        stacklevel=5,
                    )
                return (None if whole else batch), outputs
        self._refuse(reason, "check memory and shapes, and export it in evaluation mode with robots as the first axis")
        raise AssertionError

    def _probe_inputs(self, observations: Mapping[str, ArraySpec], batch: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng(0)
        arrays = {key: torch.from_numpy(spec.example(batch, rng)).to(self.device) for key, spec in observations.items()}
        inputs = {name: arrays[key] for name, key in self._keys.items()}
        inputs |= {part.input: part.fresh.expand(batch, *part.fresh.shape) for part in self._memories}
        if self._steps:
            inputs |= self._history_inputs(arrays, torch.full((batch,), self._steps, device=self.device))
        return inputs

    def _action_spec(self, output: torch.Tensor) -> ActionSpec:
        shape, choices = tuple(output.shape[1:]), self._interface.discrete
        if choices:
            is_index = not output.is_floating_point() and shape in ((), (1,))
            if not is_index and shape != (choices,):
                self._refuse(f"its output '{self._action}' is {list(shape)} for {choices} choices", "correct discrete")
            return DiscreteSpec("action", choices)
        if not output.is_floating_point():
            self._refuse(
                f"its output '{self._action}' is {output.dtype}, no continuous action", "give discrete, or another one"
            )
        dtype = np.float64 if output.dtype == torch.float64 else np.float32
        try:
            return ArraySpec("action", shape, dtype, self._interface.low, self._interface.high)
        except ValueError as error:
            raise PolicyError(f"the bounds do not fit policy file '{self._path}': {error}") from error

    def _refuse(self, reason: str, remedy: str) -> None:
        raise PolicyError(f"policy file '{self._path}' does not fit its description: {reason}; {remedy}")


def ordered_names(interface: PolicyInterface, count: int, path: str) -> tuple[list[str], list[str]]:
    """Name the inputs and outputs of a file that knows only their order.

    Parameters
    ----------
    interface
        Says what is there.
    count
        Inputs that the file has.
    path
        Of the file, for errors.

    Raises
    ------
    PolicyError
        If the interface describes another number of inputs.
    """
    observations = list(interface.inputs.values()) or list(interface.history) or ["observation"]
    names = [*observations, *(name for name, _ in interface.memory)]
    names += filter(None, (interface.lengths, interface.mask))
    if len(names) != count:
        raise PolicyError(
            f"policy file '{path}' takes {count} inputs, but {len(names)} are described: {names}; describe them all, "
            "in order: observations, memory, lengths, mask"
        )
    return names, [interface.action or "action", *(name for _, name in interface.memory)]


def flat_outputs(result: Any, names: Sequence[str]) -> list[torch.Tensor]:
    """Return the outputs of a module in order, however they are nested; those beyond the named ones are left out.

    Raises
    ------
    ValueError
        If there are fewer than names.
    """

    def tensors(part: Any) -> list[torch.Tensor]:
        if isinstance(part, torch.Tensor):
            return [part]
        if isinstance(part, Mapping):
            part = part.values()
        return list(itertools.chain.from_iterable(map(tensors, part))) if part is not None else []

    found = tensors(result)
    if len(found) < len(names):
        raise ValueError(f"it gives {len(found)} outputs, described are {list(names)}")
    return found[: len(names)]


def _make_finish(action: ActionSpec, device: torch.device) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return the function from the network's output and the usable rows to final actions."""
    if isinstance(action, ArraySpec):
        low, high = (torch.tensor(bound, device=device) for bound in (action.low, action.high))
        return lambda output, usable: where_rows(usable, torch.clamp(output.to(low.dtype), low, high), torch.nan)
    assert isinstance(action, DiscreteSpec)
    choices = action.n

    def choose(output: torch.Tensor, usable: torch.Tensor) -> torch.Tensor:
        if output.is_floating_point():
            return torch.where(usable & ~output.isnan().any(dim=1), output.argmax(dim=1), -1)
        chosen = output.reshape(-1).long()
        return torch.where(usable & (chosen >= 0) & (chosen < choices), chosen, -1)

    return choose


def _alike(first: torch.Tensor, second: torch.Tensor) -> bool:
    return torch.allclose(first.double(), second.double(), rtol=1e-3, atol=1e-4, equal_nan=True)


def _integer_bounds(dtype: np.dtype) -> tuple[int, int]:
    limits = np.iinfo(dtype)
    return limits.min, limits.max


def _memory_spec(name: str, fresh: torch.Tensor) -> ArraySpec:
    dtype = fresh.cpu().numpy().dtype
    low, high = (-np.inf, np.inf) if dtype.kind == "f" else (0, 1) if dtype.kind == "b" else _integer_bounds(dtype)
    return ArraySpec(name, tuple(fresh.shape), dtype, low, high)
