# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Joint states of an arm and its gripper on one topic: each joint has its newest value and its own age."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rclpy.serialization import serialize_message
from rclpy.time import Time
from sensor_msgs.msg import JointState

from policy_node.config.schema import parse_configuration
from policy_node.control.pipeline import Pipeline
from policy_node.control.tick import FleetTick
from policy_node.ros.deployment import deploy
from policy_node.sensing.synchroniser import RobotState

NOW = 10**18
MS = 10**6
PERIOD = 50 * MS
JOINTS = ["shoulder", "elbow", "finger"]


class Echo(torch.nn.Module):
    """Commands what it observes."""

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """Return the observation `[robots, numbers]`."""
        return observation


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a policy that commands what it observes."""
    file = tmp_path_factory.mktemp("echo") / "echo.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(Echo()).save(str(file))
    return file


def pipeline_of(echo: Path, observation: dict[str, Any], numbers: int, **action: Any) -> Pipeline:
    parameters = {
        "control_rate_hz": 20.0,
        "robots": ["arm"],
        "policy": {"path": str(echo), "trusted": True, "engine": "torchscript", "device": "cpu"},
        "observations": {"keys": ["state"], "state": {"shape": [numbers], **observation}},
        "synchronisation": {"slop_s": 0.02, "max_age_s": 0.2},
        "action": {
            "topic": "command",
            "type": "std_msgs/msg/Float64MultiArray",
            "safe_command": [] if "safe_position_topic" in action else [0.0] * numbers,
            **action,
        },
    }
    return deploy(parse_configuration(parameters)).pipeline


def source(joints: Sequence[str], **more: Any) -> dict[str, Any]:
    return {"topic": "joint_states", "type": "sensor_msgs/msg/JointState", "joints": list(joints), **more}


def state(stamp_ns: int, **fields: Any) -> tuple[int, bytes]:
    message = JointState(**fields)
    message.header.stamp = Time(nanoseconds=stamp_ns).to_msg()
    return stamp_ns, serialize_message(message)


def arm(stamp_ns: int, *position: float, **more: Any) -> tuple[int, bytes]:
    return state(stamp_ns, name=["elbow", "shoulder"], position=list(position), **more)


def gripper(stamp_ns: int, position: float, **more: Any) -> tuple[int, bytes]:
    return state(stamp_ns, name=["finger"], position=[position], **more)


class Robot:
    """Feeds messages to the pipeline of one robot, tick by tick."""

    def __init__(self, pipeline: Pipeline, sensor: int = 0) -> None:
        self.pipeline, self.sensor, self.now_ns = pipeline, sensor, NOW

    def tick(self, *messages: tuple[int, bytes]) -> FleetTick:
        for stamp_ns, raw in messages:
            self.pipeline.add(0, self.sensor, stamp_ns, raw)
        tick = self.pipeline.step(self.now_ns)
        self.now_ns += PERIOD
        return tick

    def drive(self, *messages: tuple[int, bytes]) -> list[float]:
        tick = self.tick(*messages)
        assert tick.states[0] is RobotState.READY, tick.reasons[0]
        return tick.sent[0].tolist()


@pytest.fixture
def robot(echo: Path) -> Robot:
    """Return an arm with gripper whose joints are joined already."""
    robot = Robot(pipeline_of(echo, source(JOINTS), 3))
    robot.tick(arm(NOW, 0.0, 0.0))
    robot.tick(gripper(robot.now_ns, 0.0), arm(robot.now_ns, 0.0, 0.0), gripper(robot.now_ns, 0.0))
    return robot


def test_publishers_that_alternate_drive_the_robot_from_the_second_message_on(echo: Path) -> None:
    robot = Robot(pipeline_of(echo, source(JOINTS), 3))
    first = robot.tick(arm(robot.now_ns, 2.0, 1.0))
    assert first.states[0] is RobotState.REJECTED and "joint 'finger' occurs 0 times" in first.reasons[0]
    waiting = robot.tick(gripper(robot.now_ns, 3.0))
    assert waiting.states[0] is RobotState.WAITING
    assert waiting.reasons[0] == "no message on state with joint shoulder, elbow"
    assert robot.drive(arm(robot.now_ns, 2.0, 1.0)) == [1.0, 2.0, 3.0]
    assert robot.drive(gripper(robot.now_ns, 4.0)) == [1.0, 2.0, 4.0]
    assert robot.drive(arm(robot.now_ns, 6.0, 5.0)) == [5.0, 6.0, 4.0]
    assert robot.pipeline.joined == {(0, 0)}


def test_equal_stamps_of_two_publishers_are_one_set(robot: Robot) -> None:
    for number in (1.0, 2.0, 3.0):
        now_ns = robot.now_ns
        tick = robot.tick(gripper(now_ns, number), arm(now_ns, number, number))
        assert tick.states[0] is RobotState.READY and tick.ages_s[0] == 0.0
        assert tick.sent[0].tolist() == [number] * 3


def test_the_set_is_as_old_as_its_oldest_joint(robot: Robot) -> None:
    last_ns = robot.now_ns
    robot.drive(arm(last_ns, 0.0, 0.0), gripper(last_ns, 0.0))
    ages = []
    for _ in range(4):
        ages.append(round(float(robot.tick(arm(robot.now_ns, 1.0, 1.0)).ages_s[0]), 3))
    assert ages == [0.05, 0.1, 0.15, 0.2]
    stale = robot.tick(arm(robot.now_ns, 1.0, 1.0))
    assert stale.states[0] is RobotState.STALE
    assert stale.reasons[0] == "state (joint finger): is 0.250 s old, synchronisation.max_age_s allows 0.200 s"
    # The gripper publishes again.
    assert robot.drive(gripper(robot.now_ns, 7.0), arm(robot.now_ns, 1.0, 1.0)) == [1.0, 1.0, 7.0]


def test_a_misspelt_joint_is_named_as_before(echo: Path) -> None:
    robot = Robot(pipeline_of(echo, source(["shoulder", "elbo"]), 2))
    for _ in range(3):
        tick = robot.tick(arm(robot.now_ns, 1.0, 2.0))
        assert tick.states[0] is RobotState.REJECTED
        assert "joint 'elbo' occurs 0 times, not once; joints found: elbow, shoulder" in tick.reasons[0]
    assert not robot.pipeline.joined


def test_terms_of_different_joints_do_not_reject_each_other(echo: Path) -> None:
    terms = {
        "terms": ["arm", "speed", "gripper"],
        "arm": source(["shoulder", "elbow"]),
        "speed": source(["shoulder"], field="velocity"),
        "gripper": source(["finger"]),
    }
    robot = Robot(pipeline_of(echo, terms, 4))
    robot.tick(arm(robot.now_ns, 0.0, 0.0, velocity=[0.0, 0.0]))
    for number in (1.0, 2.0):
        now_ns = robot.now_ns
        # The gripper says nothing about velocities.
        robot.tick(gripper(now_ns, number), arm(now_ns, 2.0, 1.0, velocity=[9.0, 8.0]))
    assert robot.drive(gripper(robot.now_ns, 3.0)) == [1.0, 2.0, 8.0, 3.0]


def test_what_nobody_reads_does_not_matter(robot: Robot) -> None:
    now_ns = robot.now_ns
    mixed = state(
        now_ns, name=["wheel", "finger"], position=[math.nan, 5.0], velocity=[math.nan], effort=[math.inf, math.nan]
    )
    assert robot.drive(mixed, arm(now_ns, 2.0, 1.0, effort=[math.nan, 0.0])) == [1.0, 2.0, 5.0]
    other = state(robot.now_ns, name=["wheel"], position=[3.0])
    assert robot.drive(other, arm(robot.now_ns, 2.0, 1.0)) == [1.0, 2.0, 5.0]


def test_a_value_that_is_read_must_be_finite(robot: Robot) -> None:
    now_ns = robot.now_ns
    tick = robot.tick(arm(now_ns, 2.0, 1.0), gripper(now_ns, math.nan))
    assert tick.states[0] is RobotState.REJECTED and "position of joint 'finger' is nan" in tick.reasons[0]


def test_damaged_messages_and_joints_that_occur_twice_are_refused(robot: Robot) -> None:
    stamp_ns, raw = arm(robot.now_ns, 2.0, 1.0)
    assert robot.tick((stamp_ns, raw[:-20])).states[0] is RobotState.REJECTED
    twice = state(robot.now_ns, name=["finger", "finger"], position=[1.0, 2.0])
    assert "occurs" in robot.tick(twice).reasons[0]
    now_ns = robot.now_ns
    assert robot.drive(arm(now_ns, 2.0, 1.0), gripper(now_ns, 3.0)) == [1.0, 2.0, 3.0]


def test_a_reset_forgets_the_joints(robot: Robot) -> None:
    robot.pipeline.reset()
    tick = robot.tick(arm(robot.now_ns, 2.0, 1.0))
    assert tick.states[0] is RobotState.WAITING and tick.reasons[0] == "no message on state with joint finger"
    assert robot.drive(gripper(robot.now_ns, 3.0)) == [1.0, 2.0, 3.0]


def test_a_safe_position_of_two_publishers_is_joined(echo: Path) -> None:
    action = {"safe_position_topic": "joint_states", "safe_position_joints": JOINTS}
    observation = {"topic": "touch", "type": "sensor_msgs/msg/JointState", "field": "effort"}
    pipeline = pipeline_of(echo, observation, 3, **action)
    robot = Robot(pipeline, sensor=1)

    def touched() -> None:
        pipeline.add(0, 0, *state(robot.now_ns, effort=[0.5, 0.5, 0.5]))

    for message in (arm(NOW, 2.0, 1.0), gripper(NOW, 3.0), arm(NOW, 2.0, 1.0), gripper(NOW, 3.0)):
        touched()
        tick = robot.tick((robot.now_ns, message[1]))
    assert tick.states[0] is RobotState.READY, tick.reasons
    assert np.array_equal(pipeline.safe_commands[0], [1.0, 2.0, 3.0])


def test_a_gripper_beside_a_complete_publisher_of_the_safe_position_is_left_alone(echo: Path) -> None:
    action = {"safe_position_topic": "joint_states", "safe_position_joints": JOINTS}
    observation = {"topic": "touch", "type": "sensor_msgs/msg/JointState", "field": "effort"}
    pipeline = pipeline_of(echo, observation, 3, **action)
    robot = Robot(pipeline, sensor=1)
    everything = {"name": JOINTS, "position": [1.0, 2.0, 3.0]}
    for message in (gripper(NOW, 9.0), state(NOW, **everything), gripper(NOW, 9.0)):
        pipeline.add(0, 0, *state(robot.now_ns, effort=[0.5, 0.5, 0.5]))
        tick = robot.tick((robot.now_ns, message[1]))
    assert tick.states[0] is RobotState.READY, tick.reasons
    assert not pipeline.joined and np.array_equal(pipeline.safe_commands[0], [1.0, 2.0, 3.0])
