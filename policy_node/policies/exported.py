# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Policies saved with ``torch.export.save`` (``.pt2``)."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import torch
from torch.export.passes import move_to_device_pass
from torch.utils import _pytree

from policy_node.policies.contract import Policy, PolicyError
from policy_node.policies.described import DescribedPolicy
from policy_node.policies.foreign import ForeignPolicy, Port, ordered_names
from policy_node.policies.interface import PolicyInterface
from policy_node.policies.metadata import GOLDEN_NAME, NAME, archive_sha256, description_from_texts
from policy_node.policies.module_engine import ModuleEngine


def load_exported(content: bytes, path: str, device: torch.device, interface: PolicyInterface) -> Policy:
    """Build the policy of a ``torch.export`` file.

    Parameters
    ----------
    content
        The whole file.
    path
        Where it came from, for errors.
    device
        Where to run.
    interface
        What its inputs and outputs are; not used for a file that `policy_export` wrote, which says it itself.

    Raises
    ------
    PolicyError
        If the file is damaged or of another format, or the interface does not fit it.
    """
    texts = {NAME: "", GOLDEN_NAME: ""}
    try:
        program = torch.export.load(io.BytesIO(content), extra_files=texts)
    except Exception as error:
        raise PolicyError(
            f"policy file '{path}' is no torch.export file, or damaged ({type(error).__name__}: {error}); "
            "give a file that torch.export.save wrote, with the PyTorch that is installed here"
        ) from error
    if device.type != "cpu":
        program = move_to_device_pass(program, str(device))
    values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    tensors = [values[name] for name in program.graph_signature.user_inputs if isinstance(name, str)]
    sha256 = hashlib.sha256(content).hexdigest()
    description = description_from_texts(texts, path, sha256, lambda: archive_sha256(content))
    if description is None:
        names, outputs = ordered_names(interface, len(tensors), path)
    else:
        names, outputs = description.input_names, description.output_names
    ports = [
        Port(name, tuple(n if isinstance(n, int) else str(n) for n in tensor.shape), tensor.dtype)
        for name, tensor in zip(names, tensors, strict=True)
    ]
    module, in_spec = program.module(), program.call_spec.in_spec

    def call(inputs: list[torch.Tensor]) -> Any:
        # Dictionaries and keyword arguments are taken as the exported module took them.
        arguments, keywords = _pytree.tree_unflatten(inputs, in_spec)
        return module(*arguments, **keywords)

    if description is not None:
        return DescribedPolicy(ModuleEngine(module, call, ports, outputs, None), description, path, device)
    # Only a module with buffers can remember anything.
    example = _example(ports, interface, device) if next(module.buffers(), None) is not None else None
    try:
        engine = ModuleEngine(module, call, ports, outputs, example)
    except Exception as error:
        raise PolicyError(
            f"policy file '{path}' cannot be run ({type(error).__name__}: {error}); "
            "export it again, with the robots and the steps of a history as its only open lengths"
        ) from error
    return ForeignPolicy(engine, "torch.export", sha256, path, device, interface)


def _example(ports: list[Port], interface: PolicyInterface, device: torch.device) -> list[torch.Tensor]:
    """Return inputs of the lengths that the file says; open ones are the robots or the steps of the history."""
    generator = torch.Generator().manual_seed(0)
    robots = next((port.shape[0] for port in ports if port.shape), None)
    steps = next(iter(interface.history.values()), 1)
    example = []
    for port in ports:
        shape = [n if isinstance(n, int) else 2 if n == robots else steps for n in port.shape or ()]
        example.append(torch.rand(shape, generator=generator).to(device, port.dtype))
    return example
