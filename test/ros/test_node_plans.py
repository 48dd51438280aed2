# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The node with a policy that plans beside the tick, from outside."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from moody import SAFE, MoodyFleet, moody_parameters
from node_harness import Diagnostics, NodeProcess, Peer, command_values

ROBOTS = ("robot_0", "robot_1")
RATE_HZ, MAX_AGE_S = 20.0, 0.5
# 20 s of plan.
HORIZON = 400


class Plans(torch.nn.Module):
    """Plans the last two numbers of a reading for all steps."""

    def forward(self, touch: torch.Tensor) -> torch.Tensor:
        """Return plans `[robots, 400, 2]` for readings `[robots, 8]`."""
        return touch[:, None, 6:].repeat(1, 400, 1)


def test_a_robot_whose_sensor_dies_in_a_good_plan_gets_the_safe_command(
    tmp_path: Path, peer: Peer, start_node: Callable[..., NodeProcess]
) -> None:
    file = tmp_path / "plans.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(Plans()).save(str(file))
    changes = {"policy__inference": "background", "synchronisation__max_age_s": MAX_AGE_S}
    start_node(moody_parameters(file, ROBOTS, **changes))
    fleet, diagnostics = MoodyFleet(peer, ROBOTS), Diagnostics(peer)
    fleet.live(fleet.is_driven, "commands of plans")
    fleet.live(
        lambda: float(diagnostics.values("policy_node: control").get("plans_per_s", 0.0)) > 0.0, "plans in diagnostics"
    )
    control, robot = (diagnostics.values(f"policy_node: {part}") for part in ("control", "robot_1"))
    assert 0.0 <= float(control["inference_ms_p50"]) <= float(control["inference_ms_p99"])
    assert 0.0 <= float(control["plan_age_at_command_ms_p50"]) and control["robots_waiting_for_plan"] == "0"
    assert int(robot["plans"]) > 0 and float(robot["plan_age_ms"]) >= 0.0

    fleet.live(lambda: fleet.is_driven("robot_0"), "commands of plans")
    fleet.clear()
    fleet.live(lambda: fleet.newest("robot_0") is not None and fleet.is_safe("robot_0"), "safety", ROBOTS[1:])
    # Each command belongs to a tick, so that their number is a time that no busy machine prolongs.
    driven = [command for command in fleet.commands["robot_0"] if not np.array_equal(command_values(command), SAFE)]
    assert len(driven) <= (MAX_AGE_S * RATE_HZ) + 2
    fleet.live(lambda: fleet.is_driven("robot_1") and fleet.is_safe("robot_0"), "the other robot", ROBOTS[1:])
    fleet.live(fleet.is_driven, "the robot to drive again")
