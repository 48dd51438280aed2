# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""A robot whose safe command is its position: driven, stopped there, and ramped up from there."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from node_harness import Diagnostics, NodeProcess, Peer, ScriptedFleet, parameters_of
from rclpy.duration import Duration
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

ROBOT = "arm"
MAX_RATE = 2.0
PERIOD_S = 0.05

Model = Callable[..., tuple[Path, Any]]
StartNode = Callable[..., NodeProcess]


def test_an_arm_stops_at_its_position_and_ramps_up_from_there(model: Model, peer: Peer, start_node: StartNode) -> None:
    changes = {
        "action.type": "std_msgs/msg/Float64MultiArray",
        "action.fields": None,
        "action.safe_position_topic": "joint_states",
        "action.safe_position_joints": ["shoulder", "elbow"],
        "action.max_rate": [MAX_RATE],
        # Long enough for a pause of a busy machine.
        "synchronisation.max_age_s": 2.0,
    }
    process = start_node(parameters_of(model()[0], [ROBOT], changes))
    fleet = ScriptedFleet(peer, [ROBOT], Float64MultiArray)
    diagnostics = Diagnostics(peer)
    joints = peer.node.create_publisher(JointState, f"{ROBOT}/joint_states", 1)

    def publish_position(shoulder: float, elbow: float) -> None:
        # Joints are found by their names; a gripper beside them does not matter.
        message = JointState(name=["elbow", "gripper", "shoulder"], position=[elbow, 9.0, shoulder])
        message.header.stamp = peer.node.get_clock().now().to_msg()
        joints.publish(message)

    def state() -> dict[str, str]:
        return diagnostics.values(f"policy_node: {ROBOT}")

    fleet.drive(lambda: state().get("state") == "WAITING", "diagnostics of an arm whose position is not known")
    fleet.drive(lambda: "action.safe_position" in state()["reason"], "the reason")
    assert not fleet.commands[ROBOT]
    process.wait_for(r"waiting for the first message of arm: .*joint_states")

    fleet.drive(
        lambda: len(fleet.commands[ROBOT]) > 20,
        "commands",
        publish_more=lambda: publish_position(0.25, -0.75),
    )
    commands = np.array([message.data for message in fleet.commands[ROBOT]])
    # The first command may differ from the position by one step, as any two commands may.
    steps = np.abs(np.diff(np.vstack([[0.25, -0.75], commands]), axis=0))
    assert (steps <= MAX_RATE * PERIOD_S + 1e-9).all()
    assert len(np.unique(commands, axis=0)) > 1
    fleet.drive(lambda: int(state()["slowed"]) > 0, "the count of limited commands")

    # Without readings it holds that position, and does not follow its sagging.
    fleet.drive(
        lambda: np.array_equal(fleet.newest(ROBOT), [0.5, 0.125]),
        "the position as command",
        robots=[],
        publish_more=lambda: publish_position(0.5, 0.125),
    )
    count = len(fleet.commands[ROBOT])
    fleet.drive(
        lambda: len(fleet.commands[ROBOT]) > count + 20,
        "more commands",
        robots=[],
        publish_more=lambda: publish_position(0.4, 0.1),
    )
    assert {tuple(message.data) for message in fleet.commands[ROBOT][count:]} == {(0.5, 0.125)}


def test_an_arm_that_shares_its_topic_stops_where_it_is(model: Model, peer: Peer, start_node: StartNode) -> None:
    position = (0.25, -0.75)
    changes = {
        "action.type": "std_msgs/msg/Float64MultiArray",
        "action.fields": None,
        "action.safe_position_topic": "joint_states",
        "action.safe_position_joints": ["shoulder", "elbow"],
    }
    start_node(parameters_of(model()[0], [ROBOT], changes))
    fleet = ScriptedFleet(peer, [ROBOT], Float64MultiArray)
    commands, name = fleet.commands[ROBOT], f"policy_node: {ROBOT}"
    diagnostics = Diagnostics(peer)
    joints = peer.node.create_publisher(JointState, f"{ROBOT}/joint_states", 10)

    def publish(name: list[str], values: list[float], earlier_s: float = 0.0) -> None:
        message = JointState(name=name, position=values)
        message.header.stamp = (peer.node.get_clock().now() - Duration(seconds=earlier_s)).to_msg()
        joints.publish(message)

    def publish_gripper() -> None:
        # Not all clocks agree, and one joint has no number.
        publish(["gripper"], [9.0], earlier_s=0.01)
        publish(["shoulder", "elbow"], [math.nan, 0.0], earlier_s=0.02)
        joints.publish(b"\0\1\0\0" + bytes(40))

    def publish_both() -> None:
        publish(["elbow", "shoulder"], [position[1], position[0]])
        publish_gripper()

    for _ in range(2):
        commands.clear()
        fleet.drive(lambda: len(commands) > 10, "commands", publish_more=publish_both)
        assert not np.array_equal(fleet.newest(ROBOT), position)
        fleet.drive(
            lambda: np.array_equal(fleet.newest(ROBOT), position), "the position", robots=[], publish_more=publish_both
        )
        commands.clear()
        fleet.drive(lambda: len(commands) > 10, "more commands", robots=[], publish_more=publish_both)
        assert {tuple(message.data) for message in commands} == {position}

    # Without a position it is left alone, although its readings are good.
    fleet.drive(lambda: not np.array_equal(fleet.newest(ROBOT), position), "commands", publish_more=publish_both)
    fleet.drive(
        lambda: "action.safe_position: " in diagnostics.values(name)["reason"],
        "the reason",
        publish_more=publish_gripper,
    )
    commands.clear()
    readings = itertools.count()
    fleet.drive(lambda: next(readings) > 20, "more readings", publish_more=publish_gripper)
    assert not commands
