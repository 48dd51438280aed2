# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Run PyTorch modules of other trainers, from TorchScript and ``torch.export`` files.

A recurrent policy may keep its memory in the module's buffers, for one robot, as Isaac Lab exports it. Buffers that a
run changes become memory of each robot like any other.
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
from policy_node.policies.pairing import Port, ordered_names
from policy_node.policies.traced import traceable

# Writes a module with extra files into a path or stream.
SaveModule: TypeAlias = Callable[[Any, Mapping[str, str]], None]


class ModuleNetwork:
    """A module as a `Network`; its outputs after the named ones are left out.

    Parameters
    ----------
    call
        Calls the module with the inputs.
    example
        Inputs for one robot, to find the buffers that a run changes; None for a module without memory.
    """

    def __init__(
        self,
        module: Any,
        call: Callable[[list[torch.Tensor]], Any],
        inputs: Sequence[Port],
        outputs: Sequence[str],
        example: list[torch.Tensor] | None = None,
    ) -> None:
        self.engine_name = "torchscript" if isinstance(module, torch.jit.ScriptModule) else "direct"
        self._module = module
        self._call = call
        self._given = len(inputs)
        self._returned = list(outputs)
        before = {name: buffer.clone() for name, buffer in module.named_buffers()} if example is not None else {}
        if example is not None:
            with torch.inference_mode():
                call(example)
        changed = [name for name, buffer in module.named_buffers() if name in before and not buffer.equal(before[name])]
        self.carried: Mapping[str, torch.Tensor] = {name: before[name] for name in changed}
        self.inputs: Sequence[Port] = [
            *inputs,
            *(Port(name, (1, *part.shape), part.dtype) for name, part in self.carried.items()),
        ]
        self.outputs: Sequence[str] = [*outputs, *changed]

    def __call__(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        """Run the module."""
        if not self.carried:
            return _flat_outputs(self._call(inputs), self._returned)
        # Looked up each time: the module may replace its buffers instead of writing into them.
        for name, value in zip(self.carried, inputs[self._given :], strict=True):
            dict(self._module.named_buffers())[name].copy_(value[0])
        result = _flat_outputs(self._call(inputs[: self._given]), self._returned)
        buffers = dict(self._module.named_buffers())
        return [*result, *(buffers[name].clone()[None] for name in self.carried)]


def load_module(
    file: PolicyFile,
    texts: Mapping[str, Any],
    algorithm: str,
    module: Any,
    call: Callable[[list[torch.Tensor]], Any],
    ports: Sequence[Port],
    make_example: Callable[[Sequence[Port]], list[torch.Tensor] | None],
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
        Makes inputs for one robot; gives None where the module can remember nothing.

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
    try:
        network = ModuleNetwork(module, call, named, outputs, example)
    except Exception as error:
        reason = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise file.error(
            f"cannot be run on example inputs ({reason[0]}); correct the shapes that are given, or export it again "
            "with the robots and the steps of a history as its only open lengths"
        ) from error
    return ForeignPolicy(network, algorithm, file)


def write_module(source: ExportSource, output: Path, make_save: Callable[..., SaveModule]) -> None:
    """Write a policy as a module that describes itself; `make_save` makes its saver from network and example inputs."""
    network, example, description = traceable(source)
    save, bare = make_save(network, example), io.BytesIO()
    save(bare, {})
    save(str(output), description_to_texts(description, archive_sha256(bare.getvalue())))


def _flat_outputs(result: Any, names: Sequence[str]) -> list[torch.Tensor]:
    """Return the outputs of a module in order, however they are nested, without those after the named ones."""
    found = list(_tensors(result))
    if len(found) < len(names):
        raise ValueError(f"it gives {len(found)} outputs, described are {list(names)}")
    return found[: len(names)]


def _tensors(part: Any) -> Iterator[torch.Tensor]:
    if isinstance(part, torch.Tensor):
        yield part
    elif part is not None:
        for inner in part.values() if isinstance(part, Mapping) else part:
            yield from _tensors(inner)
