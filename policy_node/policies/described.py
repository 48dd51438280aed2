# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Files that describe themselves, as `policy_export` writes them, so that they need no configuration.

The description consists of two texts: JSON with the spec and the names of inputs and outputs, and the golden vectors
as base64.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from policy_node.config.specs import PolicySpec
from policy_node.policies.contract import (
    BoundNetwork,
    Policy,
    PolicyError,
    Tensors,
    mark_rows,
    rows_without_nan,
)
from policy_node.policies.description import spec_from_json, spec_to_json
from policy_node.policies.formats import PolicyFile
from policy_node.policies.golden import GoldenVectors, check_golden, golden_from_bytes, golden_to_bytes
from policy_node.policies.pairing import Network

NAME = "policy_node"
GOLDEN_NAME = "policy_node_golden"
VERSION = 1


@dataclass(frozen=True, eq=False)
class FileDescription:
    """Inputs, outputs and golden vectors of an exported file.

    Attributes
    ----------
    spec
        The entries of its memory are named as their inputs.
    inputs
        Name of the input by observation key, in the order of the inputs; the memory follows, then the mask.
    memory
        Pairs of an input and the output that is fed back into it, `[robots, *shape]`, in the order of both.
    action_mask
        Input that takes the mask of allowed choices, `[robots, spec.mask]` bool; empty without one.
    action
        Output that is the final action: within its bounds, or for choices int64, `[robots]` or `[robots, choices]`.
    source_sha256
        Hash of the file that was exported.
    normalisation
        See `Policy.normalisation`.
    """

    spec: PolicySpec
    inputs: Mapping[str, str]
    memory: tuple[tuple[str, str], ...]
    action_mask: str
    action: str
    source_sha256: str
    golden: GoldenVectors
    normalisation: str = Policy.normalisation

    @property
    def input_names(self) -> list[str]:
        """Return the names of all inputs in order."""
        mask = [self.action_mask] if self.action_mask else []
        return [*self.inputs.values(), *(name for name, _ in self.memory), *mask]

    @property
    def output_names(self) -> list[str]:
        """Return the names of all outputs in order."""
        return [self.action, *(name for _, name in self.memory)]


def archive_sha256(content: bytes) -> str:
    """Return the hash of a TorchScript or ``torch.export`` file without its description."""
    digest = hashlib.sha256()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name in sorted(archive.namelist()):
            # The first folder is named after the file that was written.
            inside = name.partition("/")[2]
            if inside.rpartition("/")[2] not in (NAME, GOLDEN_NAME) and not inside.startswith(".data/"):
                digest.update(f"{inside}\n".encode() + hashlib.sha256(archive.read(name)).digest())
    return digest.hexdigest()


def description_to_texts(description: FileDescription, network_sha256: str) -> dict[str, str]:
    """Return both texts by name; `network_sha256` is the hash of all else in the file."""
    golden = golden_to_bytes(description.golden)
    data = {
        "version": VERSION,
        "spec": spec_to_json(description.spec),
        "inputs": list(description.inputs.items()),
        "memory": [list(pair) for pair in description.memory],
        "action_mask": description.action_mask,
        "action": description.action,
        "source_sha256": description.source_sha256,
        "normalisation": description.normalisation,
        "network_sha256": network_sha256,
        "golden_sha256": hashlib.sha256(golden).hexdigest(),
    }
    return {NAME: json.dumps(data, allow_nan=False), GOLDEN_NAME: base64.b64encode(golden).decode()}


def empty_texts() -> dict[str, Any]:
    """Return the names of both texts, for loaders that fill them in."""
    return {NAME: "", GOLDEN_NAME: ""}


def read_description(
    texts: Mapping[str, Any], file: PolicyFile, network_sha256: Callable[[], str]
) -> FileDescription | None:
    """Return the description of a file, None if `policy_export` did not write the file.

    Parameters
    ----------
    texts
        All metadata or extra files of the file, str or bytes.
    network_sha256
        Gives the hash of all else in the file. Golden vectors would not show a small change of a weight.

    Raises
    ------
    PolicyError
        If the texts are damaged or of a later version, or the file was changed since it was exported.
    """
    found = {name: texts.get(name) or "" for name in (NAME, GOLDEN_NAME)}
    if not found[NAME]:
        return None
    try:
        data = json.loads(found[NAME])
        if data["version"] > VERSION:
            raise file.error(
                f"has version {data['version']} of its description, known are those up to {VERSION}; update policy_node"
            )
        golden = base64.b64decode(found[GOLDEN_NAME], validate=True)
        if hashlib.sha256(golden).hexdigest() != data["golden_sha256"]:
            raise ValueError("the golden vectors have another hash than is noted")
        if network_sha256() != data["network_sha256"]:
            raise ValueError("the network has another hash than is noted: it was changed since it was exported")
        return FileDescription(
            spec_from_json(data["spec"], file.sha256),
            {str(key): str(name) for key, name in data["inputs"]},
            tuple((str(before), str(after)) for before, after in data["memory"]),
            str(data["action_mask"]),
            str(data["action"]),
            str(data["source_sha256"]),
            golden_from_bytes(golden, file.path),
            # Files of earlier versions lack it.
            str(data.get("normalisation", Policy.normalisation)),
        )
    except PolicyError:
        raise
    except Exception as error:
        raise PolicyError(
            f"the description in policy file '{file.path}' is damaged ({type(error).__name__}: {error}); "
            "get the file again or export it again"
        ) from error


class DescribedPolicy(Policy):
    """A policy whose file describes its network, with inputs and outputs in the order of the description.

    Raises PolicyError if the network cannot be run or does not act as it did when it was exported.
    """

    interface_fields = ()

    def __init__(self, network: Network, description: FileDescription, file: PolicyFile) -> None:
        super().__init__(description.spec, file.device)
        self.engine_name = network.engine_name
        self.golden = description.golden
        self.normalisation = description.normalisation
        self._network = network
        self._description = description
        try:
            check_golden(self, self.golden, file.path)
        except PolicyError:
            raise
        except Exception as error:
            raise file.error(
                f"cannot be run on {self.device} ({type(error).__name__}: {error}); "
                "export it again, or update what runs it"
            ) from error

    def act(self, observations: Tensors, memory: Tensors, masks: torch.Tensor | None) -> tuple[torch.Tensor, Tensors]:
        """Compute actions and the next memory from checked arguments."""
        description = self._description
        inputs = [observations[key] for key in description.inputs]
        inputs += [memory[name] for name, _ in description.memory]
        usable = rows_without_nan(inputs)
        if description.action_mask:
            robots = len(inputs[0])
            everything = torch.ones((robots, self.spec.mask), dtype=torch.bool, device=self.device)
            inputs.append(everything if masks is None else masks)
        action, following = self._finish(memory, self._network([tensor.contiguous() for tensor in inputs]))
        return (action, following) if usable is None else mark_rows(usable, action, following)

    def _finish(self, memory: Tensors, outputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, Tensors]:
        """Return actions and next memory from what the network wrote; see `BoundNetwork`."""
        action, *after = outputs
        return action, {name: part for (name, _), part in zip(self._description.memory, after, strict=True)}

    def bound_network(self, robots: int) -> BoundNetwork | None:
        """See `Policy`."""
        description, bind = self._description, getattr(self._network, "bound", None)
        names = [*description.inputs, *(name for name, _ in description.memory)]
        in_order = names == [*self.spec.observations, *self.spec.memory] and not description.action_mask
        return BoundNetwork(bind, self._finish) if bind is not None and in_order else None
