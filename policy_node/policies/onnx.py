# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Policies in ONNX, of whatever trainer, run with onnxruntime.

Inputs and outputs are bound where the tensors lie, on the CPU and on the GPU: nothing is copied to or from NumPy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from google.protobuf.message import DecodeError, Message
from onnx import external_data_helper

from policy_node.policies.contract import Policy, PolicyError
from policy_node.policies.described import DescribedPolicy
from policy_node.policies.foreign import Engine, ForeignPolicy, Port
from policy_node.policies.interface import PolicyInterface
from policy_node.policies.metadata import description_from_texts
from policy_node.policies.rows import torch_dtype

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(bool)": np.bool_,
    **{f"tensor({name})": getattr(np, name) for name in ("uint8", "int8", "uint16", "int16", "int32", "int64")},
}
_GPU_PROVIDERS = ("TensorrtExecutionProvider", "CUDAExecutionProvider")


def runs_on_gpu() -> bool:
    """Tell whether the installed onnxruntime can use a GPU."""
    return any(provider in onnxruntime.get_available_providers() for provider in _GPU_PROVIDERS)


def load_onnx(content: bytes, path: str, device: torch.device, interface: PolicyInterface) -> Policy:
    """Build the policy of an ONNX file.

    Parameters
    ----------
    content
        The whole file.
    path
        Where it lies: its weights may lie in other files of that folder.
    device
        Where to run.
    interface
        What its inputs and outputs are; not used for a file that `policy_export` wrote, which says it itself.

    Raises
    ------
    PolicyError
        If the file is damaged or of another format, refers to files outside of its folder, or the interface does not
        fit it; or if the installed onnxruntime cannot use the device.
    """
    if device.type == "cuda" and not runs_on_gpu():
        raise PolicyError(
            f"device is '{device}', but onnxruntime {onnxruntime.__version__} has only "
            f"{onnxruntime.get_available_providers()}; install onnxruntime-gpu in its place, or use device 'cpu'"
        )
    digest = hashlib.sha256(content)
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise _damaged(path, error) from error
    if not model.graph.node:
        raise _damaged(path, "it holds no network")
    external = [
        tensor for tensor in _messages(model, onnx.TensorProto) if external_data_helper.uses_external_data(tensor)
    ]
    if external:
        for tensor in external:
            _read_external(tensor, Path(path), digest)
        try:
            content = model.SerializeToString()
        except (ValueError, onnx.checker.ValidationError) as error:
            raise PolicyError(
                f"policy file '{path}' with its weights exceeds 2 GiB; export a smaller network"
            ) from error
    if any(node.op_type == "EPContext" for node in _messages(model, onnx.NodeProto)):
        raise PolicyError(
            f"policy file '{path}' holds a compiled engine (EPContext), which may run code and open other files; "
            "give the ONNX file that it was compiled from"
        )
    try:
        session = onnxruntime.InferenceSession(content, _options(), providers=_providers(device, _GPU_PROVIDERS))
    except Exception as error:
        raise _damaged(path, error) from error
    if device.type == "cuda" and session.get_providers() == ["CPUExecutionProvider"]:
        raise PolicyError(
            f"device is '{device}', but onnxruntime {onnxruntime.__version__} cannot start CUDA here; "
            "install the CUDA and cuDNN that it was built for, or use device 'cpu'"
        )
    for found in session.get_inputs():
        if found.type not in _DTYPES:
            raise PolicyError(
                f"input '{found.name}' of policy file '{path}' is {found.type}; supported are {sorted(_DTYPES)}"
            )
    ports = _ports(session)
    engine = _OnnxEngine(session, ports, device)
    texts = session.get_modelmeta().custom_metadata_map
    description = description_from_texts(texts, path, digest.hexdigest(), lambda: model_sha256(model))
    if description is None:
        return ForeignPolicy(engine, "ONNX", digest.hexdigest(), path, device, interface)
    if [port.name for port in ports] != description.input_names or engine.outputs != description.output_names:
        raise _damaged(path, "its inputs and outputs are not those of its description")
    return DescribedPolicy(engine, description, path, device)


def session_engine(content: bytes, device: torch.device) -> Engine:
    """Return what runs a model that was exported here.

    Parameters
    ----------
    content
        The model.
    device
        Where its inputs and outputs are.

    Raises
    ------
    Exception
        Whatever onnxruntime raises on a model or a device that it cannot use.
    """
    # TensorRT would compile for minutes.
    session = onnxruntime.InferenceSession(content, _options(), providers=_providers(device, _GPU_PROVIDERS[1:]))
    if device.type == "cuda" and session.get_providers() == ["CPUExecutionProvider"]:
        raise RuntimeError(f"onnxruntime {onnxruntime.__version__} cannot start CUDA here")
    return _OnnxEngine(session, _ports(session), device)


def _ports(session: onnxruntime.InferenceSession) -> list[Port]:
    ports = []
    for found in session.get_inputs():
        lengths = tuple(n if isinstance(n, int) else n or f"?{axis}" for axis, n in enumerate(found.shape))
        ports.append(Port(found.name, lengths, torch_dtype(np.dtype(_DTYPES[found.type]))))
    return ports


class _OnnxEngine:
    """Runs a session; see `policy_node.policies.foreign.Engine`."""

    name = "onnxruntime"

    def __init__(self, session: onnxruntime.InferenceSession, inputs: list[Port], device: torch.device) -> None:
        self.inputs: Sequence[Port] = inputs
        self.carried: Mapping[str, torch.Tensor] = {}
        self.outputs: Sequence[str] = [output.name for output in session.get_outputs()]
        self._session = session
        self._device = device
        # Shapes and dtypes of the outputs by the shapes of the inputs, so that they can be bound before a run.
        self._known: dict[tuple[torch.Size, ...], list[tuple[tuple[int, ...], torch.dtype]]] = {}

    def __call__(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        """Run the session; see `policy_node.policies.foreign.Engine`."""
        binding = self._session.io_binding()
        for port, tensor in zip(self.inputs, inputs, strict=True):
            self._bind(binding.bind_input, port.name, tensor)
        sizes = tuple(tensor.shape for tensor in inputs)
        known = self._known.get(sizes)
        outputs = []
        if known is None:
            for name in self.outputs:
                binding.bind_output(name, "cpu")
        else:
            for name, (shape, dtype) in zip(self.outputs, known, strict=True):
                outputs.append(torch.empty(shape, dtype=dtype, device=self._device))
                self._bind(binding.bind_output, name, outputs[-1])
        if self._device.type == "cuda":
            # The session works on a stream of its own.
            torch.cuda.current_stream(self._device).synchronize()
        self._session.run_with_iobinding(binding)
        if known is None:
            outputs = [torch.from_numpy(array).to(self._device) for array in binding.copy_outputs_to_cpu()]
            self._known[sizes] = [(tuple(output.shape), output.dtype) for output in outputs]
        return outputs

    def _bind(self, bind: Any, name: str, tensor: torch.Tensor) -> None:
        kind = np.dtype(str(tensor.dtype).removeprefix("torch."))
        bind(name, tensor.device.type, tensor.device.index or 0, kind, tuple(tensor.shape), tensor.data_ptr())


def model_sha256(model: onnx.ModelProto) -> str:
    """Return the hash of a model without its metadata."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.metadata_props[:]
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()


def _options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    # Threads that wait for work in a loop take the cores of everything else.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Errors only: its warnings speak of nodes, which a user can do nothing about.
    options.log_severity_level = 3
    return options


def _providers(device: torch.device, on_gpu: Sequence[str]) -> list[Any]:
    """Return where the session may run, best first."""
    if device.type == "cpu":
        return ["CPUExecutionProvider"]
    # TensorFloat-32 would round inputs to 10 bits, a thousandth of the action range.
    settings: dict[str, dict[str, Any]] = {
        "TensorrtExecutionProvider": {"device_id": device.index},
        "CUDAExecutionProvider": {"device_id": device.index, "use_tf32": 0},
    }
    available = onnxruntime.get_available_providers()
    return [*((name, settings[name]) for name in on_gpu if name in available), "CPUExecutionProvider"]


def _messages(message: Message, kind: type) -> Iterator[Any]:
    """Yield all parts of that kind, those in attributes, subgraphs and functions among them."""
    if isinstance(message, kind):
        yield message
        if kind is onnx.TensorProto:
            return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if isinstance(value, Message) else value:
                yield from _messages(part, kind)


def _read_external(tensor: Any, file: Path, digest: Any) -> None:
    """Take weights that lie in another file into the model, so that onnxruntime opens no file."""
    location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
    folder = file.resolve().parent
    inside = PurePosixPath(location.replace("\\", "/"))
    source = folder / inside
    if inside.is_absolute() or ".." in inside.parts or ":" in location or folder not in source.resolve().parents:
        raise PolicyError(
            f"policy file '{file}' is refused: its weights '{tensor.name}' lie in '{location}', outside of its folder; "
            "get it again from whom you trust, or save it as one file"
        )
    try:
        external_data_helper.load_external_data_for_tensor(tensor, str(folder))
    except Exception as error:
        raise PolicyError(
            f"the weights '{tensor.name}' of policy file '{file}' cannot be read from '{source}' ({error}); "
            "copy that file too, or save the policy as one file"
        ) from error
    tensor.data_location = onnx.TensorProto.DEFAULT
    del tensor.external_data[:]
    digest.update(tensor.raw_data)


def _damaged(path: str, reason: object) -> PolicyError:
    return PolicyError(f"policy file '{path}' is no ONNX file that can be run, or damaged ({reason}); export it again")
