# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Policies saved with ``torch.jit.save``."""

from __future__ import annotations

import hashlib
import io
import warnings

import numpy as np
import torch

from policy_node.policies.contract import Policy, PolicyError
from policy_node.policies.described import DescribedPolicy
from policy_node.policies.foreign import ForeignPolicy, Port, ordered_names
from policy_node.policies.interface import PolicyInterface
from policy_node.policies.metadata import GOLDEN_NAME, NAME, archive_sha256, description_from_texts
from policy_node.policies.module_engine import ModuleEngine


def load_torchscript(content: bytes, path: str, device: torch.device, interface: PolicyInterface) -> Policy:
    """Build the policy of a TorchScript file.

    Parameters
    ----------
    content
        The whole file.
    path
        Where it came from, for errors.
    device
        Where to run.
    interface
        What its inputs and outputs are; the shapes of all inputs among it. Not used for a file that `policy_export`
        wrote, which says it itself.

    Raises
    ------
    PolicyError
        If the file is damaged or of another format, or the interface does not fit it.
    """
    texts = {NAME: "", GOLDEN_NAME: ""}
    try:
        with warnings.catch_warnings():
            # The format is deprecated as one to write; the files that exist stay.
            warnings.simplefilter("ignore", DeprecationWarning)
            module = torch.jit.load(io.BytesIO(content), map_location=device, _extra_files=texts)
    except Exception as error:
        raise PolicyError(
            f"policy file '{path}' is no TorchScript file, or damaged ({str(error).splitlines()[0]}); "
            "give a file that torch.jit.save wrote"
        ) from error
    module.eval()
    sha256 = hashlib.sha256(content).hexdigest()
    description = description_from_texts(texts, path, sha256, lambda: archive_sha256(content))
    if description is not None:
        ports = [Port(name, None, None) for name in description.input_names]
        engine = ModuleEngine(module, lambda inputs: module(*inputs), ports, description.output_names, None)
        return DescribedPolicy(engine, description, path, device)
    arguments = module.forward.schema.arguments[1:]
    names, outputs = ordered_names(interface, len(arguments), path)
    ports = [Port(name, None, None) for name in names]
    example = _example(interface, names, path, device)
    try:
        engine = ModuleEngine(module, lambda inputs: module(*inputs), ports, outputs, example)
    except Exception as error:
        raise PolicyError(
            f"policy file '{path}' cannot be run on one robot of the described shapes "
            f"({str(error).strip().splitlines()[-1]}); correct the shapes"
        ) from error
    return ForeignPolicy(engine, "TorchScript", sha256, path, device, interface)


def _example(interface: PolicyInterface, names: list[str], path: str, device: torch.device) -> list[torch.Tensor]:
    """Return inputs for one robot."""
    rng = np.random.default_rng(0)
    keys = {name: key for key, name in interface.inputs.items()}
    steps = next(iter(interface.history.values()), 0)
    example = []
    for name in names:
        key = keys.get(name, name)
        if name == interface.lengths:
            tensor = torch.full((1,), steps)
        elif name == interface.mask:
            tensor = torch.ones(1, steps, dtype=torch.bool)
        elif key not in interface.shapes:
            raise PolicyError(
                f"policy file '{path}' is TorchScript, which says no shapes, and that of '{key}' is not given; "
                "give it as its entry of shapes"
            )
        else:
            shape = interface.shapes[key]
            shape = tuple(abs(length) for length in shape) if -1 in shape else (1, *shape)
            dtype = np.dtype(interface.dtypes.get(key, "float32"))
            tensor = torch.from_numpy(rng.uniform(0, 1, shape).astype(dtype))
        example.append(tensor.to(device))
    return example
