# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Run PyTorch modules of other trainers, from TorchScript and ``torch.export`` files.

A recurrent policy may keep its memory in the module's buffers and attributes, for one robot, as Isaac Lab exports it.
Those that a call changes become memory of each robot like any other.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch

from policy_node.policies.contract import Policy
from policy_node.policies.described import DescribedPolicy, archive_sha256, description_to_texts, read_description
from policy_node.policies.foreign import ForeignPolicy
from policy_node.policies.formats import ExportSource, PolicyFile
from policy_node.policies.module_memory import ModuleMemory, UnfitMemoryError, Watch, find_memory
from policy_node.policies.pairing import Network, Port, ordered_names, reason_of
from policy_node.policies.precision import full_precision
from policy_node.policies.traced import traceable

# Writes a module with extra files into a path or stream.
SaveModule: TypeAlias = Callable[[Any, Mapping[str, str]], None]


class ModuleNetwork:
    """A module as a `Network`; its outputs after the named ones are left out.

    Parameters
    ----------
    call
        Calls a module with the inputs.
    memory
        The attributes of the module that a call changes; None for a module without any.
    watched
        Dotted names of tensors that no call may change; they are checked after each call.
    alone
        Why the module takes one robot at a time; empty where it may take several.
    is_wide
        Whether the module's memory takes several robots.
    open_shapes
        Returns the module with open shapes in its code, which may then take several robots; None without such shapes.
    """

    def __init__(
        self,
        module: Any,
        call: Callable[[Any, list[torch.Tensor]], Any],
        inputs: Sequence[Port],
        outputs: Sequence[str],
        memory: ModuleMemory | None = None,
        watched: Sequence[str] = (),
        alone: str = "",
        is_wide: bool = False,
        open_shapes: Callable[[], Any] = lambda: None,
    ) -> None:
        self.engine_name = "torchscript" if isinstance(module, torch.jit.ScriptModule) else "direct"
        self.alone = alone
        self._module = module
        self._call = call
        self._given = list(inputs)
        self._returned = list(outputs)
        self._memory = memory
        self._watched = watched
        self._watch = Watch(module, watched)
        self._is_wide = is_wide
        self._open_shapes = open_shapes
        taken = {*(port.name for port in inputs), *outputs}
        fresh = memory.fresh if memory else {}
        self.carried: Mapping[str, torch.Tensor] = {
            f"module.{name}" if name in taken else name: part for name, part in fresh.items()
        }
        self.inputs: Sequence[Port] = [
            *inputs,
            *(Port(name, (1, *part.shape), part.dtype) for name, part in self.carried.items()),
        ]
        self.outputs: Sequence[str] = [*outputs, *self.carried]

    def __call__(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        """Run the module."""
        memory, given = self._memory, len(self._given)
        if memory is None:
            result = _flat_outputs(self._call(self._module, inputs), self._returned)
        else:
            memory.write(inputs[given:] if self._is_wide else [part[0] for part in inputs[given:]])
            result = _flat_outputs(self._call(self._module, inputs[:given]), self._returned)
            # Numbers of the module are on the CPU.
            kept = [part.to(tensor.device) for part, tensor in zip(memory.read(), inputs[given:], strict=True)]
            result += kept if self._is_wide else [part[None] for part in kept]
        self._watch.check()
        return result

    def opened(self, axes: Mapping[str, int]) -> Iterator[Network]:
        """Yield networks for any number of robots: with memory whose tensors are widened, with open shapes, or both."""
        if self.alone:
            return
        memory = self._memory
        for module in (self._module, self._open_shapes()):
            if module is None:
                continue
            parts = (module, self._call, self._given, self._returned)
            for wide in memory.widened(module) if memory else ([None] if module is not self._module else []):
                yield ModuleNetwork(*parts, wide, self._watched, is_wide=True)


def load_module(
    file: PolicyFile,
    texts: Mapping[str, Any],
    algorithm: str,
    module: Any,
    call: Callable[[Any, list[torch.Tensor]], Any],
    ports: Sequence[Port],
    make_example: Callable[[Sequence[Port]], list[torch.Tensor]],
    written: Sequence[str],
    watched: Sequence[str],
    alone: str = "",
    open_shapes: Callable[[], Any] = lambda: None,
) -> Policy:
    """Make the policy of a module whose inputs and outputs are known by their order.

    Parameters
    ----------
    texts
        The extra files in the file.
    algorithm
        For the spec of a file that does not describe itself.
    ports
        The inputs, without their names.
    make_example
        Makes inputs for one robot.
    written
        Dotted names of the buffers and attributes that a call may change.
    watched
        Dotted names of the tensors that no call may change.
    alone
        Why the module takes one robot at a time; empty where it may take several.
    open_shapes
        Returns the module with open shapes in its code; None without such shapes.

    Raises
    ------
    PolicyError
        If the module and the interface do not fit each other, or the module cannot be run.
    """
    description = read_description(texts, file, lambda: archive_sha256(file.content))
    if description is not None:
        named = [Port(name, *port[1:]) for name, port in zip(description.input_names, ports, strict=True)]
        return DescribedPolicy(ModuleNetwork(module, call, named, description.output_names), description, file)
    names, outputs = ordered_names(len(ports), file)
    named = [Port(name, *port[1:]) for name, port in zip(names, ports, strict=True)]
    example = make_example(named)
    memory = _memory_of(file, module, lambda inputs: _flat_outputs(call(module, inputs), outputs), example, written)
    network = ModuleNetwork(module, call, named, outputs, memory, watched, alone, open_shapes=open_shapes)
    return ForeignPolicy(network, algorithm, file)


def _memory_of(
    file: PolicyFile,
    module: Any,
    run: Callable[[list[torch.Tensor]], list[torch.Tensor]],
    example: list[torch.Tensor],
    written: Sequence[str],
) -> ModuleMemory | None:
    """Return what `find_memory` does, None if calls change nothing; raises PolicyError if the module cannot be run."""
    try:
        with torch.inference_mode(), full_precision(file.device):
            if written:
                return find_memory(module, written, run, example)
            run(example)
            return None
    except UnfitMemoryError as error:
        raise file.error(
            f"keeps memory that cannot be kept for each robot: {error}; export it with this memory as input and output"
        ) from error
    except Exception as error:
        raise file.error(
            f"cannot be run on example inputs ({reason_of(error)}); correct the shapes that are given, or export it "
            "again with the robots and the steps of a history as its only open lengths"
        ) from error


def write_module(source: ExportSource, output: Path, make_save: Callable[..., SaveModule]) -> None:
    """Write a policy as a module that describes itself; `make_save` makes its saver from network and example inputs."""
    network, example, description = traceable(source)
    save, bare = make_save(network, example), io.BytesIO()
    save(bare, {})
    save(str(output), description_to_texts(description, archive_sha256(bare.getvalue())))


def _flat_outputs(result: Any, names: Sequence[str]) -> list[torch.Tensor]:
    """Return the outputs of a module, however they are nested, without those that are not named.

    Those in dictionaries are found by their names, if one of these is there, and the others are taken in order.
    """
    found = list(_tensors("", result))
    named = {name: tensor for name, tensor in found if name in names}
    others = [tensor for name, tensor in found if not (named and name)]
    missing = [name for name in names if name not in named]
    if len(others) < len(missing):
        raise ValueError(f"it gives {len(found)} outputs, described are {list(names)}")
    named |= zip(missing, others, strict=False)
    return [named[name] for name in names]


def _tensors(name: str, part: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors in an output, with the names that they have in dictionaries."""
    if isinstance(part, torch.Tensor):
        yield name, part
    elif isinstance(part, Mapping):
        for key, inner in part.items():
            yield from _tensors(str(key), inner)
    elif part is not None:
        for inner in part:
            yield from _tensors("", inner)
