# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The node with a policy that plans beside the tick, from outside."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diagnostic_msgs.msg import DiagnosticStatus
from moody import HANG, SAFE, MoodyFleet, hang, moody_parameters, save_moody
from node_harness import Diagnostics, LifecycleClient, Lockstep, NodeProcess, Peer, command_values
from std_srvs.srv import Trigger

ROBOTS = ("robot_0", "robot_1")
RATE_HZ, MAX_AGE_S = 20.0, 0.5
# 20 s of plan.
HORIZON = 400
# What the first number of a reading asks for, beside `HANG`.
NOT_FINITE = 104.0
# Added to the numbers of readings after an event: a command below is of a plan from before.
LATER = 100_000
# Ticks until a plan must have come.
MOST_TICKS = 20_000


class Plans(torch.nn.Module):
    """Plans the last two numbers of a reading for all steps."""

    def forward(self, touch: torch.Tensor) -> torch.Tensor:
        """Return plans `[robots, 400, 2]` for readings `[robots, 8]`."""
        return touch[:, None, 6:].repeat(1, 400, 1)


class MoodyPlans(torch.nn.Module):
    """Plans as `Plans`, 4 s long; computes as long as a reading asks for, or gives NaN."""

    def __init__(self, offset: float = 0.0) -> None:
        super().__init__()
        self.offset = offset

    def forward(self, touch: torch.Tensor) -> torch.Tensor:
        """Return plans `[robots, 80, 2]` for readings `[robots, 8]`."""
        hang(touch)
        plans = touch[:, None, 6:].repeat(1, 80, 1) + self.offset
        return torch.where((touch[:, 0] == 104.0)[:, None, None], torch.nan, plans)


class PlanFleet(MoodyFleet):
    """Robots that publish 20 readings a second, with the moods that the test sets, while they are not silent."""

    def __init__(self, peer: Peer) -> None:
        super().__init__(peer, ROBOTS)
        self.moods: dict[str, tuple[float, float]] = {}
        self.is_silent = False
        peer.node.create_timer(1.0 / RATE_HZ, self._act)

    def _act(self) -> None:
        if not self.is_silent:
            self.send(moods=self.moods)

    def wait(self, condition: Callable[[], Any], what: str) -> None:
        """Go on until a condition holds."""
        self._peer.spin_until(condition, what)

    def numbers(self, robot: str) -> list[float]:
        """Return the numbers of the commands of a robot, below 0 for the safe command."""
        return [float(command_values(command)[0]) for command in self.commands[robot]]


def save_plans(file: Path, offset: float = 0.0) -> Path:
    return save_moody(file, MoodyPlans(offset))


def reset(fleet: PlanFleet, peer: Peer, node: str, folder: Path) -> None:
    # No reading from before may be taken after it.
    fleet.is_silent = True
    peer.spin_for(0.2)
    assert peer.call(Trigger, f"{node}/reset", Trigger.Request()).success
    fleet.is_silent = False


def stop_and_resume(fleet: PlanFleet, peer: Peer, node: str, folder: Path) -> None:
    assert peer.call(Trigger, f"{node}/stop", Trigger.Request()).success
    fleet.number += LATER
    fleet.clear()
    fleet.wait(lambda: min(map(len, fleet.commands.values())) > 10, "safe commands")
    assert all(number < 0.0 for robot in ROBOTS for number in fleet.numbers(robot))
    assert peer.call(Trigger, f"{node}/resume", Trigger.Request()).success


def fall_silent(fleet: PlanFleet, peer: Peer, node: str, folder: Path) -> None:
    fleet.is_silent = True
    fleet.wait(fleet.is_safe, "safe commands")
    fleet.is_silent = False


def swap(fleet: PlanFleet, peer: Peer, node: str, folder: Path) -> None:
    file = save_plans(folder / "other.pt", LATER)
    assert LifecycleClient(peer, node).set(policy__path=str(file)) == ""


@pytest.mark.parametrize("happens", [reset, stop_and_resume, fall_silent, swap])
def test_nothing_of_a_plan_from_before_is_sent_after_an_event(
    happens: Callable[[PlanFleet, Peer, str, Path], None],
    tmp_path: Path,
    peer: Peer,
    start_node: Callable[..., NodeProcess],
) -> None:
    """Neither of the plan that was followed nor of the one that is computed when it happens."""
    parameters = moody_parameters(save_plans(tmp_path / "plans.pt"), ROBOTS, policy__inference="background")
    node = start_node(parameters)
    fleet = PlanFleet(peer)
    # Some inference is under way at any time.
    fleet.moods = {"robot_0": (HANG, 0.4)}
    fleet.wait(fleet.is_driven, "commands of plans")
    fleet.clear()
    happens(fleet, peer, node.full_name, tmp_path)
    if fleet.number < LATER and happens is not swap:
        fleet.number += LATER
    fleet.wait(lambda: all(fleet.numbers(robot)[-1:] > [LATER] for robot in ROBOTS), "commands of new plans")
    for robot in ROBOTS:
        numbers = fleet.numbers(robot)
        # A busy machine may have stopped it before, and driven it again.
        last_before = max((place for place, number in enumerate(numbers) if 0.0 <= number < LATER), default=-1)
        first_after = next(place for place, number in enumerate(numbers) if number >= LATER)
        assert last_before < first_after
        assert any(number < 0.0 for number in numbers[last_before + 1 : first_after])


def test_a_clock_that_is_set_back_drops_plans(
    tmp_path: Path, peer: Peer, start_node: Callable[..., NodeProcess]
) -> None:
    changes = {"policy__inference": "background", "use_sim_time": True}
    start_node(moody_parameters(save_plans(tmp_path / "plans.pt"), ROBOTS, **changes))
    fleet = MoodyFleet(peer, ROBOTS)
    lockstep = Lockstep(peer, fleet, round(1e9 / RATE_HZ))

    def tick() -> list[float]:
        fleet.send(moods={"robot_0": (HANG, 0.1)}, stamp_ns=lockstep.next_ns)
        return [float(command_values(command)[0]) for command in lockstep.tick().values()]

    lockstep.start(1_000_000_000_000)
    # Ticks are much shorter than an inference.
    assert any(min(tick()) >= 0.0 for _ in range(MOST_TICKS))
    first = lockstep.start(500_000_000_000)
    assert all(np.array_equal(command_values(command), SAFE) for command in first.values())
    fleet.number += LATER
    sent = [tick()]
    while min(sent[-1]) < 0.0 and len(sent) < MOST_TICKS:
        sent.append(tick())
    assert min(sent[-1]) >= LATER
    assert all(number < 0.0 or number >= LATER for numbers in sent for number in numbers)


def test_a_plan_that_is_not_finite_is_the_fault_of_its_robot_alone(
    tmp_path: Path, peer: Peer, start_node: Callable[..., NodeProcess]
) -> None:
    start_node(moody_parameters(save_plans(tmp_path / "plans.pt"), ROBOTS, policy__inference="background"))
    fleet, diagnostics = PlanFleet(peer), Diagnostics(peer)
    fleet.wait(fleet.is_driven, "commands of plans")
    fleet.moods = {"robot_1": (NOT_FINITE, 0.0)}
    fleet.wait(lambda: fleet.is_safe("robot_1"), "the safe command")
    fleet.clear()
    fleet.wait(lambda: diagnostics.values("policy_node: robot_1").get("state") == "FAULT", "FAULT")
    assert diagnostics.values("policy_node: robot_1")["reason"] == "its plan is not finite"
    assert all(number < 0.0 for number in fleet.numbers("robot_1"))
    # A busy machine may stop it for a moment.
    assert any(number > 0.0 for number in fleet.numbers("robot_0"))
    fleet.wait(lambda: diagnostics.values("policy_node: robot_0").get("state") == "READY", "the other robot")
    fleet.moods = {}
    fleet.wait(fleet.is_driven, "the robot to drive again")


def test_an_inference_that_hangs_is_told_from_a_slow_one(
    tmp_path: Path, peer: Peer, start_node: Callable[..., NodeProcess]
) -> None:
    """Plans last 4 s. The tick goes on, and robots stop when their plans end."""
    start_node(moody_parameters(save_plans(tmp_path / "plans.pt"), ROBOTS, policy__inference="background"))
    fleet, diagnostics = PlanFleet(peer), Diagnostics(peer)
    fleet.wait(fleet.is_driven, "commands of plans")

    def control() -> dict[str, str]:
        return diagnostics.values("policy_node: control")

    # From an observation to the end of the next inference it takes more than 4 s.
    fleet.moods = {"robot_0": (HANG, 2.5)}
    fleet.wait(lambda: "planner_slow" in control(), "planner_slow")
    assert not any(
        pair.key == "planner_hangs" for each in diagnostics.arrays for part in each.status for pair in part.values
    )
    fleet.moods = {"robot_0": (HANG, 8.0)}
    fleet.wait(lambda: "planner_hangs" in control(), "planner_hangs")
    fleet.moods = {}
    assert diagnostics.newest["policy_node: control"].level == DiagnosticStatus.ERROR
    assert "planner_slow" not in control()
    fleet.wait(fleet.is_safe, "safe commands")
    fleet.wait(fleet.is_driven, "the robots to drive again")
    fleet.wait(lambda: control() and "planner_hangs" not in control(), "the end of planner_hangs")


def test_a_robot_whose_sensor_dies_in_a_good_plan_gets_the_safe_command(
    tmp_path: Path, peer: Peer, start_node: Callable[..., NodeProcess]
) -> None:
    file = save_moody(tmp_path / "plans.pt", Plans())
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
