# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Run networks with onnxruntime, with inputs and outputs bound where the tensors are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
import torch

from policy_node.policies.contract import torch_dtype
from policy_node.policies.pairing import Network, Port

GPU_PROVIDERS = ("TensorrtExecutionProvider", "CUDAExecutionProvider")
# Type of an input, as onnxruntime names it -> dtype in NumPy.
DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(bool)": np.bool_,
    **{f"tensor({name})": getattr(np, name) for name in ("uint8", "int8", "uint16", "int16", "int32", "int64")},
}


class OnnxruntimeNetwork:
    """A session as a `Network`.

    Parameters
    ----------
    open_batch
        Returns the model with the given robots axis of each input open, see `opened`; None if it cannot be opened.
    alone
        Why it takes one robot at a time; empty where it may take several.
    """

    engine_name = "onnxruntime"

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        device: torch.device,
        open_batch: Callable[[Mapping[str, int]], bytes | None] = lambda axes: None,
        alone: str = "",
    ) -> None:
        self.alone = alone
        self._open_batch = open_batch
        self.inputs: Sequence[Port] = [
            Port(
                found.name,
                tuple(n if isinstance(n, int) else n or f"?{axis}" for axis, n in enumerate(found.shape)),
                torch_dtype(np.dtype(DTYPES[found.type])),
            )
            for found in session.get_inputs()
        ]
        self.carried: Mapping[str, torch.Tensor] = {}
        self.outputs: Sequence[str] = [output.name for output in session.get_outputs()]
        self._session = session
        self._device = device
        # Shapes of the inputs -> shapes and dtypes of the outputs, so that these can be bound before a run.
        self._known: dict[tuple[torch.Size, ...], list[tuple[tuple[int, ...], torch.dtype]]] = {}

    def __call__(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        """Run the session."""
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
            # The session works on its own stream.
            torch.cuda.current_stream(self._device).synchronize()
        self._session.run_with_iobinding(binding)
        if known is None:
            outputs = [torch.from_numpy(array).to(self._device) for array in binding.copy_outputs_to_cpu()]
            self._known[sizes] = [(tuple(output.shape), output.dtype) for output in outputs]
        return outputs

    def bound(self, inputs: list[torch.Tensor]) -> Callable[[], list[torch.Tensor]]:
        """Return a function that runs the session on a CPU, with these inputs and its outputs bound once."""
        binding, outputs = self._session.io_binding(), self(inputs)
        for port, tensor in zip(self.inputs, inputs, strict=True):
            self._bind(binding.bind_input, port.name, tensor)
        for name, tensor in zip(self.outputs, outputs, strict=True):
            self._bind(binding.bind_output, name, tensor)

        # The binding has only the addresses of the inputs.
        def run(kept: list[torch.Tensor] = inputs) -> list[torch.Tensor]:
            self._session.run_with_iobinding(binding)
            return outputs

        return run

    def opened(self, axes: Mapping[str, int]) -> Iterator[Network]:
        """Yield the network with an open robots axis."""
        content = None if self.alone else self._open_batch(axes)
        if content is None:
            return
        try:
            session = make_session(content, self._device, GPU_PROVIDERS)
        except Exception:  # its shapes do not fit each other any more
            return
        yield OnnxruntimeNetwork(session, self._device)

    def _bind(self, bind: Any, name: str, tensor: torch.Tensor) -> None:
        kind = np.dtype(str(tensor.dtype).removeprefix("torch."))
        bind(name, tensor.device.type, tensor.device.index or 0, kind, tuple(tensor.shape), tensor.data_ptr())


def make_session(content: bytes, device: torch.device, gpu_providers: Sequence[str]) -> onnxruntime.InferenceSession:
    """Make a session of an ONNX model, on a GPU by those `gpu_providers` (best first) that are installed."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    # Threads that spin while they wait for work take the cores of everything else.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Errors only: its warnings concern nodes, which users cannot change.
    options.log_severity_level = 3
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type != "cpu":
        # TensorFloat-32 would round inputs to 10 bits, a thousandth of the action range.
        settings: dict[str, dict[str, Any]] = {
            "TensorrtExecutionProvider": {"device_id": device.index},
            "CUDAExecutionProvider": {"device_id": device.index, "use_tf32": 0},
        }
        available = onnxruntime.get_available_providers()
        providers = [*((name, settings[name]) for name in gpu_providers if name in available), *providers]
    return onnxruntime.InferenceSession(content, options, providers=providers)


def runs_on_gpu() -> bool:
    """Return whether the installed onnxruntime can use a GPU."""
    return any(provider in onnxruntime.get_available_providers() for provider in GPU_PROVIDERS)
