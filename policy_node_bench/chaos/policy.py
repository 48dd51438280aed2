# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""A policy whose commands say which readings they were computed from, and that fails when a reading asks it to."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from policy_node_bench.chaos.readings import IMAGE_SHAPE, SAFE_COMMAND, TOUCH_SIZE, Request


class TellTale(torch.nn.Module):
    """Copies robot and time of both readings into the command; see `chaos_readings`."""

    def __init__(self) -> None:
        super().__init__()
        self.nan, self.block, self.fail = float(Request.NAN), float(Request.BLOCK), float(Request.RAISE)
        # From the eight bytes of a mark to robot, second and microsecond.
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
            raise ValueError("a reading asked the policy to fail")
        pixels = image.reshape(image.size(0), -1).float()
        first, last = pixels[:, :8], pixels[:, -8:]
        torn = (first != last).any(dim=1, keepdim=True).float()
        # Sums of three products, each exact in float32.
        mark = (first[:, :, None] * self.weights).sum(dim=1)
        command = torch.cat([touch[:, :3], mark, touch[:, 3:4], torn], dim=1)
        return torch.where((request == self.nan)[:, None], torch.full_like(command, float("nan")), command)


def save_policy(path: Path) -> None:
    """Save the policy as TorchScript."""
    with warnings.catch_warnings():
        # The format is deprecated as one to write; nothing else holds a policy that blocks and raises on demand.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(TellTale()).save(str(path))


def node_parameters(
    policy: Path, robots: list[str], rate_hz: float, max_age_s: float, slop_s: float, priority: int
) -> dict[str, Any]:
    """Return the parameters of a node that drives robots with this policy."""
    return {
        "control_rate_hz": rate_hz,
        "robots": robots,
        "policy": {"path": str(policy), "format": "torchscript", "trusted": True, "device": "cpu"},
        "observations": {
            "keys": ["image", "touch"],
            "image": {
                "topic": "camera/image_raw",
                "type": "sensor_msgs/msg/Image",
                "encoding": "rgb8",
                "shape": list(IMAGE_SHAPE),
            },
            "touch": {
                "topic": "touch",
                "type": "sensor_msgs/msg/JointState",
                "field": "effort",
                "shape": [TOUCH_SIZE],
            },
        },
        "synchronisation": {"slop_s": slop_s, "max_age_s": max_age_s},
        "action": {
            "topic": "command",
            "type": "std_msgs/msg/Float64MultiArray",
            "safe_command": list(SAFE_COMMAND),
            "when_stale": "stop",
        },
        "realtime": {"priority": priority},
    }
