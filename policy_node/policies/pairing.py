# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Pair the inputs and outputs of a file's network with the interface that the configuration describes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
import torch

from policy_node.config.specs import ArraySpec
from policy_node.policies.contract import PolicyError
from policy_node.policies.formats import PolicyFile

# A length that the file leaves open is its symbol.
Shape: TypeAlias = tuple["int | str", ...]

_GIVE_SHAPE = "give it for one robot, such as [47]"
_GIVE_MEMORY = "give it behind the names, with -1 for the robots, such as input=output:1,-1,64"


class Port(NamedTuple):
    """One input of a network.

    Attributes
    ----------
    name
        As the configuration names it.
    shape
        With the robots axis; lengths that the file leaves open are symbols. None where the file has no shapes.
    dtype
        None where the file has no dtypes.
    """

    name: str
    shape: Shape | None
    dtype: torch.dtype | None


class Network(Protocol):
    """Runs the network of a file.

    Attributes
    ----------
    inputs
        In the order of the call.
    outputs
        Names in the order of the result.
    carried
        Memory that the network keeps inside itself: initial values by a name that is among both inputs and outputs.
    alone
        Why the network takes one robot at a time, as it would let robots influence each other; empty where it may
        take several.
    """

    engine_name: str
    inputs: Sequence[Port]
    outputs: Sequence[str]
    carried: Mapping[str, torch.Tensor]
    alone: str

    def __call__(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        """Run the network on contiguous tensors, laid out as the file wants them."""

    def opened(self, axes: Mapping[str, int]) -> Iterable[Network]:
        """Yield networks that may do for any number of robots what this one does for one robot, likely ones first.

        They are to be compared with this one. `axes` is the robots axis by input; those inside the network are
        `[robots, ...]`.
        """


@dataclass(frozen=True)
class Memory:
    """One memory: the input that takes it, the output that feeds it, its robots axis, and its start for one robot."""

    input: str
    output: str
    axis: int
    fresh: torch.Tensor


@dataclass(eq=False)
class Pairing:
    """The roles of a network's inputs and outputs.

    Attributes
    ----------
    keys
        Observation key by input.
    observations
        Spec by observation key.
    memories
        In the order of the interface, those inside the network last.
    action
        The output that is the action.
    fixed
        Number of robots that the file fixes, by input.
    """

    keys: dict[str, str]
    observations: dict[str, ArraySpec] = field(default_factory=dict)
    memories: list[Memory] = field(default_factory=list)
    action: str = ""
    fixed: dict[str, int] = field(default_factory=dict)


def misfit(
    file: PolicyFile, reason: str, remedy: str, parameter: str = "policy.path", is_missing: bool = False
) -> PolicyError:
    """Return the error of a file that does not fit its interface; see `PolicyError`."""
    return file.error(f"does not fit the configured inputs and outputs: {reason}; {remedy}", parameter, is_missing)


def reason_of(error: Exception) -> str:
    """Return why a network cannot be run, in one line; TorchScript begins with the place in its code."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if "Please fix either" in lines[-1]:  # advice of onnxruntime, after the lengths
        return " ".join(line.strip() for line in lines[:-1])
    if isinstance(error, RuntimeError) or "TorchScript" in lines[0]:
        return lines[-1].removeprefix("RuntimeError: ")
    return f"{type(error).__name__}: {lines[0]}"


def pair_network(network: Network, file: PolicyFile) -> Pairing:
    """Give every input and output its role; raises PolicyError if network and interface do not fit each other."""
    interface = file.interface
    pairs = (*interface.memory, *((name, name) for name in network.carried))
    inputs = {port.name: port for port in network.inputs}
    tracking = [name for name in (interface.lengths, interface.mask) if name]
    special = [*(name for name, _ in pairs), *tracking]
    _find(file, "input", [*special, *interface.inputs.values()], list(inputs))
    outputs = [*(name for _, name in pairs), *([interface.action] if interface.action else []), *interface.outputs]
    _find(file, "output", outputs, network.outputs)
    pairing = Pairing(_observation_keys([name for name in inputs if name not in special], file))
    _find(file, "observation", interface.history, list(pairing.keys.values()))

    fixed = pairing.fixed
    pairing.observations = {key: _observation(inputs[name], key, file) for name, key in pairing.keys.items()}
    for name in [*pairing.keys, *tracking]:
        shape = inputs[name].shape
        if shape and isinstance(shape[0], int):
            fixed[name] = shape[0]
    robots = next((shape[0] for name in pairing.keys if (shape := inputs[name].shape)), None)
    for name, output in pairs:
        port = inputs[name]
        if name in network.carried:
            # The network keeps it for one robot.
            fixed[name] = 1
            pairing.memories.append(Memory(name, output, 0, network.carried[name].to(file.device)))
            continue
        axis, lengths = _memory_layout(port, robots, file)
        if port.shape and isinstance(length := port.shape[axis], int):
            fixed[name] = length
        zeros = torch.from_numpy(np.zeros(lengths, _dtype(port, name, file)))
        pairing.memories.append(Memory(name, output, axis, zeros.to(file.device)))
    if len(set(fixed.values())) > 1:
        raise misfit(file, f"its inputs have different fixed numbers of robots {fixed}", "export it with one number")
    kept = [*(part.output for part in pairing.memories), *interface.outputs]
    remaining = [name for name in network.outputs if name not in kept]
    if not remaining:
        raise misfit(file, "all its outputs are memory or further outputs", "name fewer of them as memory or outputs")
    pairing.action = interface.action or remaining[0]
    return pairing


def ordered_names(count: int, file: PolicyFile) -> tuple[list[str], list[str]]:
    """Name the inputs and outputs of a file that knows them by their order only, as its interface describes them.

    Raises PolicyError if the interface describes another number of inputs than `count`.
    """
    names, outputs = described_inputs(file)
    if len(names) != count:
        raise file.error(
            f"takes {count} inputs, but {len(names)} are described: {names}; describe them all, in order: "
            "observations, memory, lengths, mask",
            is_missing=len(names) < count,
        )
    return names, outputs


def described_inputs(file: PolicyFile) -> tuple[list[str], list[str]]:
    """Return the names of all inputs that the interface describes, and those of the outputs, in order."""
    interface = file.interface
    observations = list(interface.inputs.values()) or list(interface.history) or ["observation"]
    names = [*observations, *(name for name, _ in interface.memory)]
    names += filter(None, (interface.lengths, interface.mask))
    return names, [interface.action or "action", *(name for _, name in interface.memory), *interface.outputs]


def array_spec(name: str, shape: tuple[int, ...], dtype: np.dtype) -> ArraySpec:
    """Return the spec of an array whose bounds are those of its dtype."""
    if dtype.kind == "f":
        return ArraySpec(name, shape, dtype, -np.inf, np.inf)
    limits = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return ArraySpec(name, shape, dtype, *limits)


def _find(file: PolicyFile, kind: str, names: Iterable[str], found: Sequence[str]) -> None:
    for name in names:
        if name not in found:
            raise misfit(file, f"it has no {kind} '{name}', but {list(found)}", "name one of these")


def _observation_keys(names: Sequence[str], file: PolicyFile) -> dict[str, str]:
    """Return the observation key by input."""
    keys = {name: key for key, name in file.interface.inputs.items()}
    if not names:
        raise misfit(file, "none of its inputs is an observation", "name fewer of them as memory, lengths or mask")
    if len(names) == 1 and names[0] not in keys:
        return {names[0]: next(iter(file.interface.history), "observation")}
    named = {name: keys.get(name, name) for name in names}
    if len(set(named.values())) < len(named):
        raise misfit(file, f"two of its inputs {names} are the same observation", "name the input of each")
    return named


def _observation(port: Port, key: str, file: PolicyFile) -> ArraySpec:
    shape: Shape | None = file.interface.shapes.get(key)
    if port.shape:
        shape = shape or port.shape[1:]
    if shape is None:
        reason = f"it does not say the shape of observation '{key}'"
        raise misfit(file, reason, _GIVE_SHAPE, f"observations.{key}.shape", True)
    declared = port.shape[1:] if port.shape else shape
    if len(declared) != len(shape) or any(
        one != other for one, other in zip(declared, shape, strict=True) if isinstance(one, int)
    ):
        reason = f"the shape of observation '{key}' is given as {list(shape)}, but the file takes {list(declared)}"
        raise misfit(file, reason, "correct it, or leave it out", f"observations.{key}.shape")
    steps = file.interface.history.get(key)
    if steps is not None:
        if not shape or (isinstance(shape[0], int) and shape[0] != steps):
            reason = f"its observation '{key}' is {list(shape)}, not a history of {steps} steps"
            raise misfit(file, reason, "configure a history of its first length")
        shape = (steps, *shape[1:])
    lengths = tuple(length for length in shape if isinstance(length, int))
    if len(lengths) < len(shape):
        reason = f"it leaves the shape of observation '{key}' open: {list(shape)}"
        remedy = f"for a history give its steps, else {_GIVE_SHAPE}"
        raise misfit(file, reason, remedy, f"observations.{key}.shape", True)
    spec = array_spec(key, lengths, _dtype(port, key, file))
    return ArraySpec(key, lengths, spec.dtype, 0, spec.high) if key in file.interface.counters else spec


def _memory_layout(port: Port, robots: int | str | None, file: PolicyFile) -> tuple[int, tuple[int, ...]]:
    """Return the robots axis of a memory and its shape without it; `robots` is that axis of the observations."""
    shape: Shape | None = file.interface.shapes.get(port.name)
    if shape is not None:
        axis = shape.index(-1) if -1 in shape else 0
        shape = shape if -1 in shape else (-1, *shape)
    elif port.shape:
        shape = port.shape
        axis = _robots_axis(shape, robots)
    else:
        reason = f"it does not say the shape of memory '{port.name}'"
        raise misfit(file, reason, _GIVE_MEMORY, "policy.memory", True)
    lengths = tuple(length for index, length in enumerate(shape) if index != axis and isinstance(length, int))
    if len(lengths) != len(shape) - 1:
        reason = f"it leaves the shape of memory '{port.name}' open: {list(shape)}"
        raise misfit(file, reason, _GIVE_MEMORY, "policy.memory", True)
    return axis, lengths


def _robots_axis(shape: Shape, robots: int | str | None) -> int:
    """Return which axis of a memory has the robots."""
    is_open = [index for index, length in enumerate(shape) if isinstance(length, str)]
    if len(is_open) > 1:
        is_open = [index for index in is_open if shape[index] == robots]
    if len(is_open) == 1:
        return is_open[0]
    # As in recurrent layers: [layers, robots, units].
    axis = 1 if len(shape) >= 3 else 0
    if isinstance(robots, int) and shape[axis] != robots and robots in shape:
        axis = shape.index(robots)
    return axis


def _dtype(port: Port, key: str, file: PolicyFile) -> np.dtype:
    if port.dtype is not None:
        return torch.empty(0, dtype=port.dtype).numpy().dtype
    name = file.interface.dtypes.get(key, "float32")
    try:
        dtype = np.dtype(name)
        torch.from_numpy(np.empty(0, dtype))
    except TypeError:
        raise PolicyError(f"the dtype of '{key}' is '{name}'; give one as float32 or uint8") from None
    return dtype
