# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The engine `onnxruntime`: the network exported in memory, inputs and outputs bound to the tensors."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from policy_node.engines.backends import Engine, EngineError, EngineRequest
from policy_node.engines.bound_tick import BoundTick
from policy_node.engines.lean import export_lean
from policy_node.engines.tracing import EnginePolicy, network_of
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
    # TensorRT would compile for minutes.
    session = runtime.make_session(export_lean(network, example), device, ["CUDAExecutionProvider"])
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
