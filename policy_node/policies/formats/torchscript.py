# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The format `torchscript`: files of ``torch.jit.save``, with neither names nor shapes of the inputs."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from policy_node.policies.archive import member_names
from policy_node.policies.contract import Policy
from policy_node.policies.described import empty_texts
from policy_node.policies.formats import ExportSource, PolicyFile, PolicyFormat
from policy_node.policies.module_network import SaveModule, load_module, write_module
from policy_node.policies.pairing import Port
from policy_node.policies.traced import PolicyNetwork


def _matches(content: bytes) -> bool:
    """Return whether an archive holds code; its first folder is named after the file that was written."""
    return any(name.partition("/")[2].startswith("code/") for name in member_names(content))


def _load(file: PolicyFile) -> Policy:
    texts = empty_texts()
    try:
        with warnings.catch_warnings():
            # The format is deprecated for new files; those that exist stay.
            warnings.simplefilter("ignore", DeprecationWarning)
            module = torch.jit.load(io.BytesIO(file.content), map_location=file.device, _extra_files=texts)
    except Exception as error:
        raise file.error(
            f"is no TorchScript file, or damaged ({str(error).splitlines()[0]}); give a file that torch.jit.save wrote"
        ) from error
    module.eval()
    # Without the module itself.
    ports = [Port("", None, None)] * (len(module.forward.schema.arguments) - 1)
    make_example = partial(_example, file)
    return load_module(file, texts, "TorchScript", module, lambda inputs: module(*inputs), ports, make_example)


def _example(file: PolicyFile, ports: Sequence[Port]) -> list[torch.Tensor]:
    """Return inputs for one robot."""
    interface, rng = file.interface, np.random.default_rng(0)
    keys = {name: key for key, name in interface.inputs.items()}
    steps = next(iter(interface.history.values()), 0)
    example = []
    for port in ports:
        key = keys.get(port.name, port.name)
        if port.name == interface.lengths:
            tensor = torch.full((1,), steps)
        elif port.name == interface.mask:
            tensor = torch.ones(1, steps, dtype=torch.bool)
        elif key not in interface.shapes:
            raise file.error(
                f"is TorchScript, which says no shapes, and that of '{key}' is not given; "
                "give it as its entry of shapes"
            )
        else:
            shape = interface.shapes[key]
            shape = tuple(abs(length) for length in shape) if -1 in shape else (1, *shape)
            dtype = np.dtype(interface.dtypes.get(key, "float32"))
            tensor = torch.from_numpy(rng.uniform(0, 1, shape).astype(dtype))
        example.append(tensor.to(file.device))
    return example


def _write(source: ExportSource, output: Path) -> None:
    def make_save(network: PolicyNetwork, example: tuple[torch.Tensor, ...]) -> SaveModule:
        module = torch.jit.freeze(torch.jit.trace(network, example, check_trace=False).eval())
        return lambda target, texts: torch.jit.save(module, target, _extra_files=dict(texts))

    write_module(source, output, make_save)


FORMAT = PolicyFormat(
    name="torchscript",
    title="a TorchScript file",
    description="any PyTorch trainer",
    suffixes=(".pt", ".ts"),
    load=_load,
    matches=_matches,
    is_zip=True,
    is_ordered=True,
    write=_write,
)
