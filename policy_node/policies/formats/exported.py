# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The format `exported`: files of ``torch.export.save``, with the shapes of the inputs, but without their names."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from policy_node.policies.contract import Policy
from policy_node.policies.described import empty_texts
from policy_node.policies.formats import ExportSource, PolicyFile, PolicyFormat
from policy_node.policies.module_network import SaveModule, load_module, write_module
from policy_node.policies.pairing import Port
from policy_node.policies.traced import PolicyNetwork, open_robots_axis


def _load(file: PolicyFile) -> Policy:
    # Imported here, because they import PyTorch's compiler.
    from torch.export.passes import move_to_device_pass
    from torch.utils import _pytree

    texts = empty_texts()
    try:
        program = torch.export.load(io.BytesIO(file.content), extra_files=texts)
    except Exception as error:
        raise file.error(
            f"is no torch.export file, or damaged ({type(error).__name__}: {error}); "
            "give a file that torch.export.save wrote, with the PyTorch that is installed here"
        ) from error
    if file.device.type != "cpu":
        program = move_to_device_pass(program, str(file.device))
    values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    tensors = [values[name] for name in program.graph_signature.user_inputs if isinstance(name, str)]
    ports = [Port("", tuple(n if isinstance(n, int) else str(n) for n in part.shape), part.dtype) for part in tensors]
    module, in_spec = program.module(), program.call_spec.in_spec

    def call(inputs: list[torch.Tensor]) -> Any:
        # Dictionaries and keyword arguments are passed as the exported module took them.
        arguments, keywords = _pytree.tree_unflatten(inputs, in_spec)
        return module(*arguments, **keywords)

    written = _written_buffers(program)
    tensors_inside = [*module.named_parameters(), *module.named_buffers()]
    watched = {name: tensor for name, tensor in tensors_inside if name not in written}
    return load_module(file, texts, "torch.export", module, call, ports, partial(_example, file), written, watched)


def _written_buffers(program: Any) -> list[str]:
    """Return the names of the buffers that a call may change, in the order of the code."""
    signature = program.graph_signature
    buffers = {**signature.inputs_to_buffers, **signature.inputs_to_lifted_tensor_constants}
    found = dict.fromkeys(signature.buffers_to_mutate.values())
    for node in program.graph.nodes:
        if not isinstance(node.target, torch._ops.OpOverload):
            continue
        for place, argument in enumerate(node.target._schema.arguments):
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            value = node.args[place] if place < len(node.args) else node.kwargs.get(argument.name)
            # Views share the memory of their first argument.
            while isinstance(value, torch.fx.Node) and isinstance(value.target, torch._ops.OpOverload):
                is_view = any(result.alias_info is not None for result in value.target._schema.returns)
                value = value.args[0] if is_view and value.args else None
            if isinstance(value, torch.fx.Node) and value.name in buffers:
                found[buffers[value.name]] = None
    return list(found)


def _example(file: PolicyFile, ports: Sequence[Port]) -> list[torch.Tensor]:
    """Return inputs of the lengths in the file; open ones are the robots or the steps of the history."""
    generator = torch.Generator().manual_seed(0)
    robots = next((port.shape[0] for port in ports if port.shape), None)
    steps = next(iter(file.interface.history.values()), 1)
    example = []
    for port in ports:
        shape = [n if isinstance(n, int) else 2 if n == robots else steps for n in port.shape or ()]
        example.append(torch.rand(shape, generator=generator).to(file.device, port.dtype))
    return example


def _write(source: ExportSource, output: Path) -> None:
    def make_save(network: PolicyNetwork, example: tuple[torch.Tensor, ...]) -> SaveModule:
        program = torch.export.export(network, example, dynamic_shapes=open_robots_axis(example))
        return lambda target, texts: torch.export.save(program, target, extra_files=dict(texts))

    write_module(source, output, make_save)


FORMAT = PolicyFormat(
    name="exported",
    title="a torch.export file",
    description="any PyTorch trainer",
    suffixes=(".pt2",),
    load=_load,
    is_zip=True,
    is_ordered=True,
    write=_write,
)
