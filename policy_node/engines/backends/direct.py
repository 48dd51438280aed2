# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The engine `direct`: PyTorch runs the policy as it was loaded, or in lower precision."""

from __future__ import annotations

from policy_node.engines.backends import Engine, EngineRequest
from policy_node.policies.contract import Policy


def build(request: EngineRequest) -> Policy:
    """Return the policy in the precision of the request."""
    from policy_node.engines.tracing import EnginePolicy, network_of

    if request.precision == "float32":
        return request.policy
    network, _ = network_of(request)
    return EnginePolicy(request, "direct", lambda inputs: network(*inputs))


ENGINE = Engine(
    name="direct",
    description="the acting network in PyTorch",
    where="every device",
    build=build,
    lowers_precision=True,
)
