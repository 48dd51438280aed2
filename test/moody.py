# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""A policy that hangs, raises or runs out of memory when a reading asks it to, and robots that ask for it."""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from node_harness import CELLS, PATIENCE_S, Peer, ScriptedFleet, parameters_of

SAFE = (-0.125, -0.25)
# What the first number of a reading asks for; any other number asks for nothing.
CALM, HANG, RAISE, EXHAUST = 0.0, 101.0, 102.0, 103.0


def hang(touch: torch.Tensor) -> None:
    """Compute as long as the readings `[robots, 8]` that ask for it say, in TorchScript."""
    hanging = touch[:, 0] == 101.0
    if bool(hanging.any()):
        end_ns = torch.ops.prim.TimePoint() + int(touch[hanging, 1].max() * 1e9)
        while torch.ops.prim.TimePoint() < end_ns:
            pass


class Moody(torch.nn.Module):
    """Commands the last two numbers of a reading."""

    def forward(self, touch: torch.Tensor) -> torch.Tensor:
        """Return commands `[robots, 2]` for readings `[robots, 8]`; hangs for as many seconds as their second says."""
        mood = touch[:, 0]
        hang(touch)
        if bool((mood == 102.0).any()):
            raise RuntimeError("a reading asked for it")
        if bool((mood == 103.0).any()):
            return torch.zeros([touch.size(0), 1_000_000_000_000_000])
        return touch[:, 6:]


def save_moody(file: Path, module: torch.nn.Module | None = None) -> Path:
    """Save a policy as TorchScript, None for `Moody`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module or Moody()).save(str(file))
    return file


def moody_parameters(file: Path, robots: Sequence[str], **changes: Any) -> dict[str, Any]:
    """Return the parameters of a node that drives robots with the policy; `__` stands for a dot."""
    only_touch: dict[str, Any] = {name: None for name in ("topic", "type")}
    return parameters_of(
        file,
        robots,
        {
            **{f"observations.image.{name}": value for name, value in only_touch.items()},
            "policy.engine": "torchscript",
            "observations.keys": ["touch"],
            "observations.touch.shape": [CELLS],
            "action.safe_command": list(SAFE),
            **{name.replace("__", "."): value for name, value in changes.items()},
        },
    )


class MoodyFleet(ScriptedFleet):
    """Robots that publish touch with their mood; the command to a reading is its number, twice."""

    def __init__(self, peer: Peer, robots: Sequence[str], namespace: str = "") -> None:
        super().__init__(peer, robots, namespace=namespace)
        self.number = 0

    def send(
        self,
        robots: Sequence[str] | None = None,
        moods: Mapping[str, tuple[float, float]] | None = None,
        stamp_ns: int | None = None,
    ) -> None:
        """Publish one reading of each robot: the next number, and each robot's mood with its seconds.

        `stamp_ns` is its stamp; None: now.
        """
        self.number += 1
        stamp_ns = self._peer.node.get_clock().now().nanoseconds if stamp_ns is None else stamp_ns
        for robot in self.robots if robots is None else robots:
            touch = np.zeros(CELLS)
            touch[:2] = (moods or {}).get(robot, (CALM, 0.0))
            touch[6:] = self.number
            self.publish_touch(robot, stamp_ns, touch)

    def live(self, condition: Callable[[], Any], what: str, robots: Sequence[str] | None = None) -> None:
        """Publish 20 calm readings a second until a condition holds."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not self._peer.spin_for(0.05, condition):
            assert time.monotonic() < deadline_s, f"waited in vain for {what}"
            self.send(robots)

    def wait_for_silence(self) -> None:
        """Wait until commands have ceased, as they do when a tick hangs."""
        deadline_s = time.monotonic() + PATIENCE_S
        self.clear()
        while self._peer.spin_for(0.5, lambda: any(self.commands.values())):
            assert time.monotonic() < deadline_s, "commands go on"
            self.clear()

    def is_driven(self, *robots: str) -> bool:
        """Whether the newest command of each of some robots, or of all, comes from the policy."""
        newest = [self.newest(robot) for robot in robots or self.robots]
        return all(command is not None and command[0] > 0.0 for command in newest)

    def is_safe(self, *robots: str) -> bool:
        """Whether the newest command of each of some robots, or of all, is the safe one."""
        return all(np.array_equal(self.newest(robot), SAFE) for robot in robots or self.robots)
