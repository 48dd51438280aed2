# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The engine `onnxruntime`: the network exported in memory, inputs and outputs bound to the tensors."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import partial

import torch

from policy_node.engines.backends import Engine, EngineError, EngineRequest
from policy_node.engines.bound_tick import OPSET, BoundTick
from policy_node.engines.tracing import EnginePolicy, network_of, tracing
from policy_node.policies.contract import Policy


def _build(request: EngineRequest) -> Policy:
    try:
        import onnx  # noqa: F401  torch.onnx needs it, and says so less clearly.

        from policy_node.policies import onnxruntime_network as runtime
    except ModuleNotFoundError as error:
        raise EngineError(f"{error.name} is not installed; pip install onnx onnxruntime") from error
    device = request.policy.device
    if device.type == "cuda" and not runtime.runs_on_gpu():
        raise EngineError("the installed onnxruntime cannot use a GPU; install onnxruntime-gpu in its place")
    network, example = network_of(request, marks_nan=True)
    content = io.BytesIO()
    with tracing():
        # The older of PyTorch's exporters: on these networks it takes 0.05 s, the other one 2 s.
        torch.onnx.export(network, example, content, dynamo=False, opset_version=OPSET)  # type: ignore[arg-type]
    # TensorRT would compile for minutes.
    session = runtime.make_session(content.getvalue(), device, ["CUDAExecutionProvider"])
    if device.type == "cuda" and session.get_providers() == ["CPUExecutionProvider"]:
        raise EngineError("the installed onnxruntime cannot start CUDA here")
    run = runtime.OnnxruntimeNetwork(session, device)
    if device.type != "cpu":
        return EnginePolicy(request, "onnxruntime", run)
    # Without the examples, which may be large.
    return EnginePolicy(request, "onnxruntime", run, partial(BoundTick, replace(request, observations={})), run.bound)


ENGINE = Engine(
    name="onnxruntime",
    description="the acting network exported in memory, inputs and outputs bound to the tensors",
    where="CPU; GPU with onnxruntime-gpu",
    build=_build,
    is_quick=True,
)
