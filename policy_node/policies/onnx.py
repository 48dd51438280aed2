# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""ONNX files of any trainer, run with onnxruntime.

Inputs and outputs are bound where the tensors are, on the CPU and on the GPU: nothing is copied to or from NumPy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import onnx
import onnxruntime
import torch
from google.protobuf.message import DecodeError, Message
from onnx import external_data_helper

from policy_node.config.files import answer, read_file
from policy_node.policies.contract import Policy, PolicyError
from policy_node.policies.described import DescribedPolicy, description_to_texts, read_description
from policy_node.policies.foreign import ForeignPolicy
from policy_node.policies.formats import MAX_POLICY_BYTES, ExportSource, PolicyFile
from policy_node.policies.onnx_batch import branches_on_values, open_batch
from policy_node.policies.onnxruntime_network import (
    DTYPES,
    GPU_PROVIDERS,
    OnnxruntimeNetwork,
    make_session,
    runs_on_gpu,
)
from policy_node.policies.traced import open_robots_axis, traceable


def load_onnx(file: PolicyFile) -> Policy:
    """Make the policy of an ONNX file; its weights may lie in other files of its folder.

    Raises
    ------
    PolicyError
        If the file is damaged or of another format, refers to files outside of its folder, or does not fit the
        interface; or if the installed onnxruntime cannot use the device.
    """
    device = file.device
    if device.type == "cuda" and not runs_on_gpu():
        if not file.any_device:
            raise PolicyError(
                f"device is '{device}', but onnxruntime {onnxruntime.__version__} has only "
                f"{onnxruntime.get_available_providers()}; install onnxruntime-gpu in its place, or use device 'cpu'"
            )
        file = replace(file, device=torch.device("cpu"))
    try:
        model = onnx.load_model_from_string(file.content)
    except DecodeError as error:
        raise file.error(
            f"is no ONNX file, or cut off or damaged after {len(file.content)} bytes; copy or export it again"
        ) from error
    if not model.graph.node:
        raise _damaged(file, "it holds no network")
    file = _with_external_data(file, model)
    if any(node.op_type == "EPContext" for node in _messages(model, onnx.NodeProto)):
        raise file.error(
            "holds a compiled engine (EPContext), which may run code and open other files; "
            "give the ONNX file that it was compiled from"
        )
    operation = branches_on_values(model)
    alone = f"its '{operation}' depends on numbers in its inputs, which those of another robot would change"
    opened = partial(open_batch, model)
    network = OnnxruntimeNetwork(_session(file), file.device, opened, alone if operation else "")
    texts = {entry.key: entry.value for entry in model.metadata_props}
    description = read_description(texts, file, lambda: _model_sha256(model))
    if description is None:
        return ForeignPolicy(network, "ONNX", file)
    names = [port.name for port in network.inputs], network.outputs
    if names != (description.input_names, description.output_names):
        raise _damaged(file, "its inputs and outputs are not those of its description")
    return DescribedPolicy(network, description, file)


def write_onnx(source: ExportSource, output: Path) -> None:
    """Write a policy as an ONNX file that describes itself."""
    import onnxscript  # noqa: F401  torch.onnx needs it, and says so less clearly.

    network, example, description = traceable(source)
    program = torch.onnx.export(
        network,
        example,
        dynamic_shapes=open_robots_axis(example),
        input_names=description.input_names,
        output_names=description.output_names,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    # As a reader will find it: the file may order its parts differently than the exporter does in memory.
    model = onnx.load_model_from_string(program.model_proto.SerializeToString())
    onnx.helper.set_model_props(model, description_to_texts(description, _model_sha256(model)))
    # One file, unlike what torch makes of large networks; that is possible up to 2 GiB.
    output.write_bytes(model.SerializeToString())


def _session(file: PolicyFile) -> onnxruntime.InferenceSession:
    try:
        session = make_session(file.content, file.device, GPU_PROVIDERS)
    except Exception as error:
        raise _damaged(file, error) from error
    if file.device.type == "cuda" and session.get_providers() == ["CPUExecutionProvider"]:
        raise PolicyError(
            f"device is '{file.device}', but onnxruntime {onnxruntime.__version__} cannot start CUDA here; "
            "install the CUDA and cuDNN that it was built for, or use device 'cpu'"
        )
    for found in session.get_inputs():
        if found.type not in DTYPES:
            raise PolicyError(
                f"input '{found.name}' of policy file '{file.path}' is {found.type}; supported are {sorted(DTYPES)}"
            )
    return session


def _with_external_data(file: PolicyFile, model: onnx.ModelProto) -> PolicyFile:
    """Return the file with the weights inside that lie in other files, so that onnxruntime opens no file."""
    tensors = _messages(model, onnx.TensorProto)
    external = [tensor for tensor in tensors if external_data_helper.uses_external_data(tensor)]
    if not external:
        return file
    digest = hashlib.sha256(file.content)
    contents: dict[Path, bytes] = {}
    for tensor in external:
        _read_external(tensor, file, contents)
        digest.update(tensor.raw_data)
    try:
        return replace(file, content=model.SerializeToString(), sha256=digest.hexdigest())
    except (ValueError, onnx.checker.ValidationError) as error:
        raise file.error("with its weights exceeds 2 GiB; export a smaller network") from error


def _read_external(tensor: Any, file: PolicyFile, contents: dict[Path, bytes]) -> None:
    """Copy the weights of a tensor from another file, whose content is then in `contents`."""
    found = {entry.key: entry.value for entry in tensor.external_data}
    location = found.get("location", "")
    source = Path(file.path).parent / location
    try:
        folder = answer(file.path, Path(file.path).resolve).parent
        inside = PurePosixPath(location.replace("\\", "/"))
        source = folder / inside
        is_named_inside = not (inside.is_absolute() or ".." in inside.parts or ":" in location)
        if not (is_named_inside and folder in answer(source, source.resolve).parents):
            raise file.error(
                f"is refused: its weights '{tensor.name}' lie in '{location}', outside of its folder; "
                "get it again from somebody whom you trust, or save it as one file"
            )
        if source not in contents:
            contents[source] = read_file(source, MAX_POLICY_BYTES - sum(map(len, contents.values())))
        offset = int(found.get("offset", 0))
        length = int(found.get("length", len(contents[source]) - offset))
        if offset < 0 or length < 0 or offset + length > len(contents[source]):
            raise ValueError(f"bytes {offset} to {offset + length} of {len(contents[source])} are wanted")
    except PolicyError:
        raise
    except (OSError, ValueError) as error:
        raise PolicyError(
            f"the weights '{tensor.name}' of policy file '{file.path}' cannot be read from '{source}' "
            f"({getattr(error, 'strerror', None) or error}); copy that file too, or save the policy as one file"
        ) from error
    tensor.raw_data = contents[source][offset : offset + length]
    tensor.data_location = onnx.TensorProto.DEFAULT
    del tensor.external_data[:]


def _model_sha256(model: onnx.ModelProto) -> str:
    """Return the hash of a model without its metadata."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.metadata_props[:]
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()


def _messages(message: Message, kind: type) -> Iterator[Any]:
    """Yield all parts of that kind, also those in attributes, subgraphs and functions."""
    if isinstance(message, kind):
        yield message
        if kind is onnx.TensorProto:
            return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if isinstance(value, Message) else value:
                yield from _messages(part, kind)


def _damaged(file: PolicyFile, reason: object) -> PolicyError:
    return file.error(f"is no ONNX file that can be run, or damaged ({reason}); export it again")
