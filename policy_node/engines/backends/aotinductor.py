# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The engine `aotinductor`: the network compiled to machine code, kept in the user's cache."""

from __future__ import annotations

import hashlib
from typing import Any

from policy_node.engines import cache
from policy_node.engines.backends import Engine, EngineError, EngineRequest, EngineSettings
from policy_node.engines.tracing import EnginePolicy, network_of, tracing
from policy_node.policies.contract import Policy, TorchPolicy


def _build(request: EngineRequest) -> Policy:
    settings = request.settings
    package = cache.package_file(_package_key(request))
    if not package.is_file():
        if not (settings.compile or settings.engine == "aotinductor"):
            raise EngineError("it is not compiled; policy.compile allows that")
        cache.make_package_folder(package)
    import torch._inductor

    if not package.is_file():
        network, example = network_of(request, marks_nan=True)
        with tracing():
            program = torch.export.export(network, example)
            unfinished = package.with_name(f".unfinished_{package.name}")
            torch._inductor.aoti_compile_and_package(program, package_path=str(unfinished))
            unfinished.replace(package)
    module = torch._inductor.aoti_load_package(str(package))
    return EnginePolicy(request, "aotinductor", lambda inputs: module(*inputs))


def _package_key(request: EngineRequest) -> dict[str, Any]:
    """Return the key of a compiled package, which holds all numbers of the policy."""
    assert isinstance(request.policy, TorchPolicy)
    digest = hashlib.sha256()
    for module in request.policy.modules:
        for name, tensor in module.state_dict(keep_vars=True).items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    # Other settings change nothing in the package.
    settings = EngineSettings(threads=request.settings.threads)
    key = cache.policy_key(request.policy, request.robots, settings, request.channels_last)
    return {**key, "weights": digest.hexdigest()}


ENGINE = Engine(
    name="aotinductor",
    description="the acting network compiled to machine code, once for a policy and a number of robots",
    where="needs a C++ compiler and `policy.compile`",
    build=_build,
)
