# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The engine `cuda_graph`: the whole tick on the GPU, launched at once."""

from __future__ import annotations

from policy_node.engines.backends import Engine, EngineRequest, direct
from policy_node.engines.wrapped import CapturedPolicy
from policy_node.policies.contract import Policy

# Engines that run a policy in PyTorch.
_PYTORCH = ("direct", "torchscript")


def _problem(policy: Policy) -> str:
    if policy.device.type != "cuda":
        return f"needs a GPU, but the policy runs on {policy.device}"
    return "" if policy.engine_name in _PYTORCH else f"cannot run this file, which '{policy.engine_name}' runs"


def _build(request: EngineRequest) -> Policy:
    return CapturedPolicy(direct.build(request), request.robots)


ENGINE = Engine(
    name="cuda_graph",
    description="the whole tick on the GPU, from history to limits, launched at once",
    where="CUDA",
    problem=_problem,
    build=_build,
    is_quick=True,
    lowers_precision=True,
)
