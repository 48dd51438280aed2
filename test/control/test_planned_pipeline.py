# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Policies that give plans, and policies beside the tick, in the whole tick without ROS."""

import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rclpy.serialization import serialize_message
from sensor_msgs.msg import JointState

from policy_node.config.schema import ConfigurationError, parse_configuration
from policy_node.control.pipeline import Pipeline
from policy_node.control.tick import FleetTick
from policy_node.policies.contract import Tensors
from policy_node.ros.deployment import deploy
from policy_node.sensing.synchroniser import RobotState

WAITING, READY, STALE, REJECTED, FAULT, STOPPED = RobotState
PERIOD_NS = 50_000_000
HORIZON = 4
SAFE = [-1.0, -2.0]


class Plans(torch.nn.Module):
    """Plans from the readings `[robots, 2]`: in each step 1 more than in the one before."""

    def forward(self, touch: torch.Tensor) -> torch.Tensor:
        return touch[:, None, :] + torch.arange(4)[None, :, None]


class Told(torch.nn.Module):
    """Plans the first two steps of the rest of the previous plan, then the reading, then the delay."""

    def forward(self, touch: torch.Tensor, rest: torch.Tensor, delay: torch.Tensor) -> torch.Tensor:
        return torch.cat([rest[:, :2], touch[:, None], delay[:, None, None].expand(-1, 1, 2)], dim=1)


class Echo(torch.nn.Module):
    """Gives the reading as the action."""

    def forward(self, touch: torch.Tensor) -> torch.Tensor:
        return touch * 1.0


class Counting(torch.nn.Module):
    """Counts the plans of each episode in its memory and plans the count."""

    def forward(self, touch: torch.Tensor, count: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        count = count + 1.0
        return (0.0 * touch + count)[:, None, :].repeat(1, 4, 1), count


def save(module: torch.nn.Module, file: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module).save(str(file))
    return file


class Rig:
    """A pipeline of robots whose readings `[robots, 2]` the test sets; `beside` as in `deploy`."""

    def __init__(self, policy: Path, robots: int = 3, beside: str | None = None, **changes: Any) -> None:
        parameters = {
            "control_rate_hz": 20.0,
            "robots": [f"robot_{index}" for index in range(robots)],
            "policy.path": str(policy),
            "policy.trusted": True,
            "policy.engine": "torchscript",
            "observations.keys": ["touch"],
            "observations.touch.topic": "touch",
            "observations.touch.type": "sensor_msgs/msg/JointState",
            "observations.touch.field": "position",
            "observations.touch.shape": [2],
            "action.topic": "command",
            "action.type": "std_msgs/msg/Float64MultiArray",
            "action.safe_command": SAFE,
            **{name.replace("__", "."): value for name, value in changes.items()},
        }
        self.configuration = parse_configuration(parameters)
        self.pipeline: Pipeline = deploy(self.configuration, beside).pipeline
        self.now_ns = 1_000_000_000_000
        self.readings: dict[int, tuple[float, float]] = {robot: (10.0 * robot, 0.5) for robot in range(robots)}

    def tick(self, skip: int = 1) -> FleetTick:
        self.now_ns += skip * PERIOD_NS
        for robot, reading in self.readings.items():
            message = JointState(position=list(reading))
            self.pipeline.add(robot, 0, self.now_ns, serialize_message(message))
        return self.pipeline.step(self.now_ns)

    def wait(self) -> None:
        """Wait for the end of the current inference beside the tick."""
        deadline_s = time.monotonic() + 20.0
        while self.pipeline.planning_since_s is not None:
            assert time.monotonic() < deadline_s
            time.sleep(0.001)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policies")
    for module in (Plans(), Told(), Echo(), Counting()):
        save(module, folder / f"{type(module).__name__}.pt")
    return folder


@pytest.fixture
def rigs() -> Iterator[list[Rig]]:
    made: list[Rig] = []
    yield made
    for rig in made:
        assert rig.pipeline.end(20.0)


def test_a_chunk_is_seen_and_its_actions_are_taken_step_by_step(folder: Path) -> None:
    rig = Rig(folder / "Plans.pt", chunk__replan_every=HORIZON)
    assert rig.pipeline.policy.spec.horizon == HORIZON
    assert rig.pipeline.policy.spec.action.shape == (2,)
    for step in range(10):
        tick = rig.tick()
        assert tick.states == (READY,) * 3
        assert tick.planned is not None
        assert tick.planned.requested == ((0, 1, 2) if step % HORIZON == 0 else ())
        expected = [[10.0 * robot + step % HORIZON, 0.5 + step % HORIZON] for robot in range(3)]
        np.testing.assert_array_equal(tick.commands, expected)


def test_a_policy_in_the_background_skips_the_steps_of_its_inference(folder: Path, rigs: list[Rig]) -> None:
    rig = Rig(folder / "Plans.pt", policy__inference="background", chunk__replan_every=3)
    rigs.append(rig)
    rig.pipeline.start()
    tick = rig.tick()
    assert tick.states == (WAITING,) * 3 and tick.reasons[0].startswith("it waits for its first plan")
    assert tick.planned is not None and tick.planned.requested == (0, 1, 2)
    np.testing.assert_array_equal(tick.commands, [SAFE] * 3)
    rig.wait()
    tick = rig.tick(skip=2)
    assert tick.states == (READY,) * 3
    assert tick.planned is not None and tick.planned.arrived_ns == rig.now_ns - 2 * PERIOD_NS
    np.testing.assert_array_equal(tick.commands[:, 0], [2.0, 12.0, 22.0])


def test_a_policy_in_the_background_runs_once_before_its_first_plan(folder: Path, rigs: list[Rig]) -> None:
    """First runs take longer, and each thread has its own."""
    rig = Rig(folder / "Plans.pt", policy__inference="background")
    rigs.append(rig)
    policy = rig.pipeline.policy
    act, runs = policy.act, []

    def noted(observations: Tensors, memory: Tensors, masks: torch.Tensor | None) -> tuple[torch.Tensor, Tensors]:
        actions, after = act(observations, memory, masks)
        runs.append((threading.current_thread().name, actions.shape))
        return actions, after

    policy.act = noted  # type: ignore[method-assign]
    rig.pipeline.start()
    assert rig.pipeline.end(20.0)
    assert runs == [("planner", (3, HORIZON, 2))]


@pytest.mark.parametrize("inference", ["tick", "background"])
def test_a_plan_that_ends_leaves_the_safe_command_or_its_last_action(
    folder: Path, rigs: list[Rig], inference: str
) -> None:
    # The last action of a plan of 4 is held for two periods more.
    changes = {"chunk__on_exhausted": "hold", "chunk__hold_s": 0.1, "policy__inference": inference}
    rig = Rig(folder / "Plans.pt", chunk__replan_every=HORIZON, **changes)
    rigs.append(rig)
    rig.tick()
    # No plan comes any more.
    rig.pipeline._inference.planner.request = lambda request: None  # type: ignore[union-attr, method-assign]
    commands = [rig.tick().commands[1, 0] for _ in range(7)]
    assert commands == [11.0, 12.0, 13.0, 13.0, 13.0, -1.0, -1.0]
    tick = rig.tick()
    assert tick.states == (STALE,) * 3 and tick.reasons[0].startswith("its plan has ended")
    assert tick.planned is not None and tick.planned.exhausted.tolist() == [1, 1, 1]


def test_a_policy_without_a_horizon_keeps_its_last_action_in_the_background(folder: Path, rigs: list[Rig]) -> None:
    rig = Rig(folder / "Echo.pt", policy__inference="background", chunk__max_age_s=0.2)
    rigs.append(rig)
    rig.pipeline.start()
    rig.tick()
    rig.wait()
    rig.pipeline._inference.planner.request = lambda request: None  # type: ignore[union-attr, method-assign]
    states = [rig.tick().states[1] for _ in range(6)]
    assert states == [READY] * 4 + [STALE] * 2


def test_a_ramp_begins_with_the_first_plan_and_for_the_robot_that_waited_alone(folder: Path, rigs: list[Rig]) -> None:
    ramp_s = 4 * PERIOD_NS / 1e9
    rig = Rig(folder / "Plans.pt", policy__inference="background", chunk__replan_every=1, action__ramp_s=ramp_s)
    rigs.append(rig)
    rig.pipeline.start()

    def tick() -> FleetTick:
        """Run a tick whose plans have all arrived at the next one."""
        tick = rig.tick()
        rig.wait()
        return tick

    wanted = np.array([[10.0 * robot + 1.0, 1.5] for robot in range(3)])
    while not np.array_equal(tick().commands, wanted):
        pass
    del rig.readings[1]
    while tick().states[1] is READY:
        pass
    rig.readings[1] = (10.0, 0.5)
    expected = wanted.copy()
    expected[1] = SAFE
    found = tick()
    assert found.states == (READY, WAITING, READY)
    np.testing.assert_array_equal(found.commands, expected)
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        found = tick()
        assert found.states == (READY,) * 3
        expected[1] = SAFE + share * (wanted[1] - SAFE)
        np.testing.assert_allclose(found.commands, expected, rtol=1e-12)


def test_memory_counts_plans_and_restarts_with_the_episode(folder: Path) -> None:
    rig = Rig(folder / "Counting.pt", policy__memory=["count=next:-1,2"], chunk__replan_every=2)
    counts = [rig.tick().commands[0, 0] for _ in range(4)]
    assert counts == [1.0, 1.0, 2.0, 2.0]
    del rig.readings[1]
    rig.tick(skip=6)
    rig.readings[1] = (0.0, 0.0)
    tick = rig.tick()
    # A pause of all robots restarts every episode; the one without readings restarts a tick later.
    assert tick.commands[:, 0].tolist() == [1.0, 1.0, 1.0]
    assert rig.tick().commands[:, 0].tolist() == [2.0, 1.0, 2.0]


def test_a_part_of_the_fleet_is_planned_at_a_time_the_oldest_plans_first(folder: Path) -> None:
    rig = Rig(folder / "Plans.pt", robots=5, chunk__stagger=2)
    requested = []
    for _ in range(4):
        tick = rig.tick()
        assert tick.planned is not None
        requested.append(tick.planned.requested)
    assert requested == [(0, 1, 2), (0, 3, 4), (0, 1, 2), (0, 3, 4)]
    assert tick.states == (READY,) * 5


@pytest.mark.parametrize("inference", ["tick", "background"])
def test_a_policy_is_told_the_rest_of_its_previous_plan_and_the_delay(
    folder: Path, rigs: list[Rig], inference: str
) -> None:
    prefix = {"aggregate": "prefix", "prefix_input": "rest", "delay_input": "delay", "replan_every": 2}
    changes: dict[str, Any] = {f"chunk__{name}": value for name, value in prefix.items()}
    rig = Rig(folder / "Told.pt", policy__inference=inference, policy__horizon=HORIZON, **changes)
    rigs.append(rig)
    rig.pipeline.start()
    rig.readings = {robot: (7.0, 7.0) for robot in range(3)}
    commands = []
    for _ in range(8):
        tick = rig.tick()
        rig.wait()
        commands.append(tick.commands[1, 0])
    assert tick.planned is not None
    if inference == "tick":
        # Nothing comes before the first plan; the second begins with the reading, which the first one planned for now.
        assert commands == [0.0, 0.0, 7.0, 0.0, 7.0, 0.0, 7.0, 0.0] and tick.planned.delay == 0
    else:
        # Each plan is there a tick after its observation, and was told at least this one.
        assert tick.planned.delay >= 1
        assert commands[:4] == [SAFE[0], 0.0, 7.0, 0.0]


@pytest.mark.parametrize("inference", ["tick", "background"])
def test_nothing_of_a_plan_is_left_after_another_activation(folder: Path, rigs: list[Rig], inference: str) -> None:
    rig = Rig(folder / "Plans.pt", policy__inference=inference)
    rigs.append(rig)
    for _ in range(2):
        # As the node does it at activation and deactivation.
        rig.pipeline.reset()
        rig.pipeline.start()
        rig.pipeline.warm_up()
        states = []
        for _ in range(3):
            rig.wait()
            states.append(rig.tick().states[0])
        assert states == ([READY] * 3 if inference == "tick" else [WAITING, READY, READY])
        assert rig.pipeline.end(20.0)


TRAJECTORY: dict[str, Any] = {
    "action__type": "trajectory_msgs/msg/JointTrajectory",
    "action__joints": ["shoulder", "elbow"],
    "action__points": 4,
}


def test_the_commands_that_follow_in_the_plan_are_known_and_limited(folder: Path) -> None:
    # The second joint is limited: 0.5 from point to point.
    limits = {"action__max_rate": [1000.0, 10.0], "action__high": [12.5, 100.0]}
    rig = Rig(folder / "Plans.pt", 2, chunk__replan_every=4, **TRAJECTORY, **limits)
    rig.tick()
    tick = rig.tick()
    assert tick.planned is not None and tick.planned.following is not None
    # The second action of the plan is due; the last one repeats. The first robot's command is far from its safe one.
    np.testing.assert_allclose(tick.sent[:, 0], [1.0, 11.0])
    np.testing.assert_allclose(tick.planned.following[:, :, 0], [[2.0, 3.0, 3.0], [12.0, 12.5, 12.5]])
    changed = tick.planned.following[:, :, 1] - tick.sent[:, 1, None]
    np.testing.assert_allclose(changed, [[0.5, 1.0, 1.5]] * 2)
    # Without a plan nothing follows.
    rig.pipeline.reset()
    rig.readings.clear()
    rig.now_ns += PERIOD_NS
    idle = rig.pipeline.step(rig.now_ns)
    assert not idle.driven.any()
    one = Rig(folder / "Plans.pt", 2).tick()
    assert one.planned is not None and one.planned.following is None


def test_parameters_of_plans_that_do_not_fit_are_refused(folder: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"action\.points: found 4, but the policy gives one action, not a plan"
    ):
        Rig(folder / "Echo.pt", **TRAJECTORY)
    with pytest.raises(ConfigurationError, match=r"chunk\.replan_every: found 5, but a plan of this policy has 4"):
        Rig(folder / "Plans.pt", chunk__replan_every=5)
    with pytest.raises(ConfigurationError, match=r"chunk\.stagger: given, but the policy gives one action"):
        Rig(folder / "Echo.pt", chunk__stagger=2)
    with pytest.raises(ConfigurationError, match=r"chunk\.aggregate: found blend, but the policy gives one action"):
        Rig(folder / "Echo.pt", chunk__aggregate="blend", policy__inference="background")
    with pytest.raises(ConfigurationError, match=r"policy\.horizon: .* \[4, 2\] for one robot, no 3 future actions"):
        Rig(folder / "Plans.pt", policy__horizon=3)
    with pytest.raises(ConfigurationError, match=r"chunk\.prefix_input: missing, as is chunk\.delay_input"):
        Rig(folder / "Plans.pt", chunk__aggregate="prefix")
    with pytest.raises(ConfigurationError, match=r"chunk\.delay_input: given, but chunk\.aggregate is newest"):
        Rig(folder / "Plans.pt", chunk__delay_input="delay")
    with pytest.raises(ConfigurationError, match=r"chunk\.nearest: found 'grip', but the components are the numbers"):
        Rig(folder / "Plans.pt", chunk__nearest=["grip"])
