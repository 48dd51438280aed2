# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The format `torchscript`: files of ``torch.jit.save``, with neither names nor shapes of the inputs."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from policy_node.policies.archive import member_names
from policy_node.policies.contract import Policy
from policy_node.policies.described import empty_texts
from policy_node.policies.formats import ExportSource, PolicyFile, PolicyFormat, lazily
from policy_node.policies.module_network import SaveModule, load_module, write_module
from policy_node.policies.pairing import Port, described_inputs
from policy_node.policies.script_graph import (
    branches_on_values,
    code_of,
    open_shapes,
    read_tensors,
    remove_prints,
    written_attributes,
)
from policy_node.policies.traced import PolicyNetwork


def _matches(content: bytes) -> bool:
    """Return whether an archive holds code; its first folder is named after the file that was written."""
    return any(name.partition("/")[2].startswith("code/") for name in member_names(content))


def _load(file: PolicyFile) -> Policy:
    texts = empty_texts()
    try:
        module = _read(file, texts)
    except Exception as error:
        if "PytorchStreamReader" in str(error):
            raise file.error(f"is cut off or damaged after {len(file.content)} bytes; copy or save it again") from error
        raise file.error(
            f"is no TorchScript file, or damaged ({str(error).splitlines()[0]}); give a file that torch.jit.save wrote"
        ) from error
    graph = code_of(module)
    written = written_attributes(graph)
    operation = branches_on_values(graph)
    alone = f"its code reads numbers from tensors ({operation}), which those of another robot would change"
    watched = [name for name in read_tensors(graph) if name not in written]
    # Without the module itself.
    arguments = _Arguments(module.forward.schema.arguments[1:], described_inputs(file)[0])

    def open_module() -> Any:
        opened = _read(file, empty_texts())
        return opened if open_shapes(opened) else None

    return load_module(
        file,
        texts,
        "TorchScript",
        module,
        lambda module, inputs: module(*arguments.nested(inputs)),
        [Port("", None, None)] * arguments.count,
        partial(_example, file),
        written,
        watched,
        alone if operation else "",
        open_module,
    )


def _read(file: PolicyFile, texts: dict[str, Any]) -> Any:
    """Return the module of a file in evaluation mode, without its prints, and fill in the texts."""
    with warnings.catch_warnings():
        # The format is deprecated for new files; those that exist stay.
        warnings.simplefilter("ignore", DeprecationWarning)
        module = torch.jit.load(io.BytesIO(file.content), map_location=file.device, _extra_files=texts)
    remove_prints(module)
    return module.eval()


class _Arguments:
    """The arguments of a module, which may be nested, from tensors in order.

    A dictionary or list takes the tensors that are left over from the other arguments, a dictionary by their names.
    Arguments with a default value are left out where fewer inputs are described.

    Attributes
    ----------
    count
        Number of tensors.
    """

    def __init__(self, arguments: Sequence[Any], names: Sequence[str]) -> None:
        arguments = list(arguments)
        while arguments and arguments[-1].has_default_value() and self._least(arguments) > len(names):
            arguments.pop()
        self._types = [argument.type for argument in arguments]
        self._names = names
        least = self._least(arguments)
        self._open = max(0, len(names) - least)
        self.count = least + (self._open if any(map(_takes_rest, self._types)) else 0)

    @staticmethod
    def _least(arguments: Sequence[Any]) -> int:
        return sum(_tensor_count(argument.type) for argument in arguments)

    def nested(self, tensors: list[torch.Tensor]) -> list[Any]:
        """Return the arguments."""
        remaining = iter(zip(self._names, tensors, strict=True) if self._open else (("", part) for part in tensors))
        return [self._nest(kind, remaining) for kind in self._types]

    def _nest(self, kind: Any, remaining: Iterator[tuple[str, torch.Tensor]]) -> Any:
        kind = _without_optional(kind)
        if kind.kind() == "TupleType":
            return tuple(self._nest(element, remaining) for element in kind.elements())
        if kind.kind() == "DictType":
            return dict(islice(remaining, self._open))
        if kind.kind() == "ListType":
            return [tensor for _, tensor in islice(remaining, self._open)]
        return next(remaining)[1]


def _without_optional(kind: Any) -> Any:
    return kind.getElementType() if kind.kind() == "OptionalType" else kind


def _takes_rest(kind: Any) -> bool:
    """Return whether an argument has a dictionary or list, of any length."""
    kind = _without_optional(kind)
    if kind.kind() == "TupleType":
        return any(map(_takes_rest, kind.elements()))
    return kind.kind() in ("DictType", "ListType")


def _tensor_count(kind: Any) -> int:
    """Return the number of tensors in an argument, without those in dictionaries and lists."""
    kind = _without_optional(kind)
    if kind.kind() == "TupleType":
        return sum(map(_tensor_count, kind.elements()))
    return 0 if kind.kind() in ("DictType", "ListType") else 1


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
            is_memory = key in dict(interface.memory)
            give = "behind its names, such as input=output:1,-1,64" if is_memory else "for one robot, such as [47]"
            raise file.error(
                f"is TorchScript, which says no shapes, and that of '{key}' is not given; give it {give}",
                "policy.memory" if is_memory else f"observations.{key}.shape",
                is_missing=True,
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
    inspect=lazily("inspection", "inspect_torchscript"),
    is_zip=True,
    is_ordered=True,
    write=_write,
)
