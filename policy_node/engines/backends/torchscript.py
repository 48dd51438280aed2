# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The engine `torchscript`: the network traced, frozen and optimised."""

from __future__ import annotations

import torch

from policy_node.engines.backends import Engine, EngineRequest
from policy_node.engines.tracing import EnginePolicy, network_of, tracing
from policy_node.policies.contract import Policy


def _build(request: EngineRequest) -> Policy:
    network, example = network_of(request)
    with tracing():
        module = torch.jit.freeze(torch.jit.trace(network, example, check_trace=False).eval())
        # Its rewriting for oneDNN knows float32 only.
        if request.precision == "float32":
            module = torch.jit.optimize_for_inference(module)
    return EnginePolicy(request, "torchscript", lambda inputs: module(*inputs))


ENGINE = Engine(
    name="torchscript",
    description="the acting network recorded, frozen and optimised",
    where="every device",
    build=_build,
    is_quick=True,
    lowers_precision=True,
)
