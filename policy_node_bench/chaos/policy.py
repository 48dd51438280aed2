# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""A policy whose commands name the readings they were computed from, and that fails on request of a reading."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from policy_node_bench.chaos.judge import Limits
from policy_node_bench.chaos.readings import IMAGE_SHAPE, SAFE_COMMAND, TOUCH_SIZE, Request
from policy_node_bench.harness.robots import robot_parameters


class TellTale(torch.nn.Module):
    """Copy robot and time of both readings into the command; see `chaos.readings`."""

    def __init__(self) -> None:
        super().__init__()
        self.nan, self.block, self.fail = float(Request.NAN), float(Request.BLOCK), float(Request.RAISE)
        # Convert the eight bytes of a mark to robot, second and microsecond.
        weights = torch.zeros(8, 3)
        weights[:2, 0] = torch.tensor([256.0, 1.0])
        for number, first in ((1, 2), (2, 5)):
            weights[first : first + 3, number] = torch.tensor([65536.0, 256.0, 1.0])
        self.weights = torch.nn.Parameter(weights, requires_grad=False)

    def forward(self, image: torch.Tensor, touch: torch.Tensor) -> torch.Tensor:
        """Return the commands `[robots, COMMAND_SIZE]` of images `[robots, *IMAGE_SHAPE]` and touch."""
        request = touch[:, 4]
        blocking = request == self.block
        if bool(blocking.any()):
            end_ns = torch.ops.prim.TimePoint() + int((touch[:, 5] * blocking.float()).max() * 1e9)
            while torch.ops.prim.TimePoint() < end_ns:
                pass
        if bool((request == self.fail).any()):
            raise ValueError("a reading requested a failure of the policy")
        pixels = image.reshape(image.size(0), -1).float()
        first, last = pixels[:, :8], pixels[:, -8:]
        torn = (first != last).any(dim=1, keepdim=True).float()
        # Sums of at most three products, which are exact in float32.
        mark = (first[:, :, None] * self.weights).sum(dim=1)
        command = torch.cat([touch[:, :3], mark, touch[:, 3:4], torn], dim=1)
        return torch.where((request == self.nan)[:, None], torch.full_like(command, float("nan")), command)


def save_policy(path: Path) -> None:
    """Save the policy as TorchScript."""
    with warnings.catch_warnings():
        # The format is deprecated, but no other one can hold a policy that blocks and raises on request.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(TellTale()).save(str(path))


def node_parameters(policy: Path, robots: int, limits: Limits, priority: int) -> dict[str, Any]:
    """Return by dotted name the parameters of a node that drives the robots with this policy."""
    parameters = robot_parameters(robots, 1.0 / limits.period_s, str(policy))
    del parameters["action.fields"]
    return parameters | {
        "policy.format": "torchscript",
        "observations.image.encoding": "rgb8",
        "observations.image.shape": list(IMAGE_SHAPE),
        "observations.touch.shape": [TOUCH_SIZE],
        "synchronisation.slop_s": limits.slop_s,
        "synchronisation.max_age_s": limits.max_age_s,
        "action.type": "std_msgs/msg/Float64MultiArray",
        "action.safe_command": list(SAFE_COMMAND),
        "realtime.priority": priority,
    }
