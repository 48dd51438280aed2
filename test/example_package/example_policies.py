# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""A policy format and an engine of another package.

The format `linear` is a .npz file with a matrix `weights` `[components, numbers]`. The engine `halves` runs any policy
on one half of the robots after the other.
"""

from __future__ import annotations

import io

import numpy as np
import torch

from policy_node.config.specs import ArraySpec, PolicySpec
from policy_node.engines.backends import Engine, EngineRequest
from policy_node.policies.contract import Policy, Tensors, WrappedPolicy
from policy_node.policies.formats import PolicyFile, PolicyFormat


class LinearPolicy(Policy):
    """Multiplies the observation by a matrix and clips the result."""

    def __init__(self, weights: np.ndarray, file: PolicyFile) -> None:
        components, numbers = weights.shape
        observation = ArraySpec("observation", (numbers,), np.float32, -np.inf, np.inf)
        action = ArraySpec("action", (components,), np.float32, -1.0, 1.0)
        super().__init__(PolicySpec({"observation": observation}, action, "linear", file.sha256), file.device)
        self._weights = torch.from_numpy(weights.astype(np.float32)).to(file.device)

    def act(self, observations: Tensors, memory: Tensors, masks: torch.Tensor | None) -> tuple[torch.Tensor, Tensors]:
        """Compute actions from checked arguments."""
        # Row by row, so that each robot's action does not depend on the number of robots.
        return (observations["observation"][:, None] * self._weights).sum(dim=2).clamp(-1.0, 1.0), {}


def _load(file: PolicyFile) -> Policy:
    try:
        weights = np.load(io.BytesIO(file.content), allow_pickle=False)["weights"]
    except (OSError, ValueError, KeyError) as error:
        raise file.error(f"is no linear policy, or damaged ({error}); give a .npz file with 'weights'") from error
    return LinearPolicy(weights, file)


FORMAT = PolicyFormat(
    name="linear",
    title="a linear policy",
    description="example_policies",
    suffixes=(".npz",),
    load=_load,
    is_zip=True,
    runs_code=False,
)


class Halves(WrappedPolicy):
    """Runs a policy on one half of the robots after the other."""

    def __init__(self, source: Policy) -> None:
        super().__init__(source)
        self.engine_name = "halves"

    def act(self, observations: Tensors, memory: Tensors, masks: torch.Tensor | None) -> tuple[torch.Tensor, Tensors]:
        """Compute actions and the next memory from checked arguments."""
        robots = len(next(iter(observations.values())))
        parts = [
            self.source.act(
                {key: tensor[rows] for key, tensor in observations.items()},
                {name: tensor[rows] for name, tensor in memory.items()},
                None if masks is None else masks[rows],
            )
            for rows in (slice(0, robots // 2), slice(robots // 2, robots))
        ]
        after = {name: torch.cat([part[1][name] for part in parts]) for name in memory}
        return torch.cat([part[0] for part in parts]), after


def _build(request: EngineRequest) -> Policy:
    return Halves(request.policy)


ENGINE = Engine(
    name="halves",
    description="one half of the robots after the other",
    where="every device",
    problem=lambda policy: "",
    build=_build,
)
