# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Policies saved with ``torch.export.save`` (``.pt2``)."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.export.passes import move_to_device_pass
from torch.utils import _pytree

from policy_node.policies.contract import Policy, PolicyError
from policy_node.policies.described import DescribedPolicy
from policy_node.policies.foreign import ForeignPolicy, Port, flat_outputs, ordered_names
from policy_node.policies.interface import PolicyInterface
from policy_node.policies.metadata import GOLDEN_NAME, NAME, description_from_texts


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
    kept = [*program.graph_signature.buffers_to_mutate.values()]
    if kept:
        raise PolicyError(
            f"policy file '{path}' keeps memory inside itself ({', '.join(kept)}); "
            "export it with the memory as input and output"
        )
    if device.type != "cpu":
        program = move_to_device_pass(program, str(device))
    values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    tensors = [values[name] for name in program.graph_signature.user_inputs if isinstance(name, str)]
    sha256 = hashlib.sha256(content).hexdigest()
    description = description_from_texts(texts, path, sha256)
    if description is None:
        names, outputs = ordered_names(interface, len(tensors), path)
    else:
        names, outputs = description.input_names, description.output_names
    ports = [
        Port(name, tuple(n if isinstance(n, int) else str(n) for n in tensor.shape), tensor.dtype)
        for name, tensor in zip(names, tensors, strict=True)
    ]
    engine = _ExportedEngine(program.module(), program.call_spec.in_spec, ports, outputs)
    if description is not None:
        return DescribedPolicy(engine, description, path, device)
    return ForeignPolicy(engine, "torch.export", sha256, path, device, interface)


class _ExportedEngine:
    """Runs an exported program; see `policy_node.policies.foreign.Engine`."""

    def __init__(self, module: Callable[..., Any], in_spec: Any, inputs: Sequence[Port], outputs: list[str]) -> None:
        self._module = module
        self._in_spec = in_spec
        self.inputs = inputs
        self.outputs: Sequence[str] = outputs
        self.carried: Mapping[str, torch.Tensor] = {}

    def __call__(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        """Run the program; see `policy_node.policies.foreign.Engine`."""
        # Dictionaries and keyword arguments are taken as the exported module took them.
        arguments, keywords = _pytree.tree_unflatten(inputs, self._in_spec)
        return flat_outputs(self._module(*arguments, **keywords), self.outputs)
