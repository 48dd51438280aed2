# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Configurations of robots that are commanded on several topics."""

from typing import Any

import numpy as np
import pytest
from test_configuration import problems_of, rovers

from policy_node.config.parameters import COMMAND_PARAMETERS
from policy_node.config.paths import expand
from policy_node.config.schema import parse_configuration

ARM = {
    "topic": "arm/command",
    "type": "sensor_msgs/msg/JointState",
    "joints": ["shoulder", "elbow"],
    "scale": [0.5],
    "low": [-1.0, -2.0],
    "safe_position_topic": "joint_states",
    "when_stale": "hold",
}
GRIPPER = {
    "topic": "gripper/command",
    "type": "std_msgs/msg/Float64MultiArray",
    "components": [4],
    "max_rate": [2.0],
    "safe_command": [0.25],
}
BASE = {
    "topic": "cmd_vel",
    "type": "geometry_msgs/msg/Twist",
    "fields": ["linear.x", "angular.z"],
    "components": [3, 2],
}


def several(changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the configuration of robots with an arm, a gripper and a base; None removes a parameter."""
    values = rovers(without=("action.topic", "action.type", "action.fields"))
    values["actions.keys"] = ["arm", "gripper", "base"]
    for key, parameters in (("arm", ARM), ("gripper", GRIPPER), ("base", BASE)):
        values |= {f"actions.{key}.{name}": value for name, value in parameters.items()}
    return {name: value for name, value in {**values, **(changes or {})}.items() if value is not None}


def test_the_components_of_all_topics_follow_one_another() -> None:
    configuration = parse_configuration(several())
    action = configuration.action
    # The arm takes the first components, because it names none.
    assert action.components == (0, 1, 4, 3, 2)
    assert action.fields == ("arm.shoulder", "arm.elbow", "gripper.0", "base.linear.x", "base.angular.z")
    assert configuration.columns == (slice(0, 2), slice(2, 3), slice(3, 5))
    assert action.scale == (0.5, 0.5, 1.0, 1.0, 1.0)
    assert (action.offset, action.high) == ((), ())
    highest = np.finfo(np.float64).max
    assert action.low == (-1.0, -2.0, -highest, -highest, -highest)
    assert action.max_rate[2] == 2.0 and set(action.max_rate) == {2.0, 1e9}
    # A velocity is safe at zero, a measured position is not known yet.
    np.testing.assert_array_equal(action.safe_command, [np.nan, np.nan, 0.25, 0.0, 0.0])
    assert configuration.safe_position is not None and configuration.safe_position.joints == ("shoulder", "elbow")
    assert [command.prefix for command in configuration.commands] == ["actions.arm", "actions.gripper", "actions.base"]
    assert action.deadline_s == pytest.approx(0.15)


def test_one_topic_has_all_components() -> None:
    configuration = parse_configuration(rovers())
    assert configuration.commands == (configuration.action,)
    assert configuration.columns == (slice(None),)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"action.topic": "cmd_vel"}, "action.topic: found 'cmd_vel', but actions.keys names several topics"),
        ({"actions.keys": ["arm", "gripper"]}, "actions.keys does not name 'base'"),
        ({"actions.gripper.components": None}, "actions.gripper.components: missing"),
        ({"actions.arm.components": [0]}, "actions.arm.components: found 1, but 2 joints are named"),
        ({"actions.base.topic": "gripper/command"}, "2 of them have the topic 'gripper/command'"),
        ({"actions.arm.low": [0.0, 0.0, 0.0]}, "actions.arm.low: found 3 numbers, but the command has 2 components"),
        ({"actions.gripper.safe_command": None}, "actions.gripper.safe_command: missing"),
        ({"actions.gripper.topic": None}, "actions.gripper.topic: missing"),
        ({"actions.base.topic": "/cmd_vel"}, "actions.base.topic: found '/cmd_vel', which would send"),
        ({"actions.arm.points": 3}, "actions.arm.points: given for a sensor_msgs/msg/JointState; only trajectory_msgs"),
        (
            {"actions.arm.points": 3, "action.publish_rate_hz": 100.0},
            "a trajectory of several points already says what follows a tick",
        ),
        ({"action.table": [0.0]}, "action.table: given beside actions.keys"),
        (
            {
                "actions.gripper.safe_command": None,
                "actions.gripper.safe_position_topic": "fingers",
                "actions.gripper.safe_position_joints": ["finger"],
                "actions.gripper.when_stale": "hold",
            },
            "positions are read from one topic, but fingers, joint_states are given",
        ),
        (
            {
                "actions.gripper.safe_command": None,
                "actions.gripper.safe_position_topic": "joint_states",
                "actions.gripper.safe_position_joints": ["finger"],
            },
            "topics with a safe_position_topic need the same when_stale and hold_s",
        ),
    ],
)
def test_topics_that_cannot_work_are_refused(changes: dict[str, Any], problem: str) -> None:
    assert any(problem in found for found in problems_of(several(changes)))


def test_a_safe_position_is_read_as_the_observation_of_its_topic_is() -> None:
    """An arm's clock that is behind, and its queue, are the same for both."""
    changes = {
        "observations.keys": ["image", "touch", "joints"],
        "observations.joints.topic": "joint_states",
        "observations.joints.type": "sensor_msgs/msg/JointState",
        "observations.joints.depth": 50,
        "observations.joints.reliability": "reliable",
        "observations.joints.stamp_offset_s": 10.0,
    }
    position = parse_configuration(several(changes)).safe_position
    assert position is not None
    assert (position.depth, position.reliability, position.stamp_offset_s) == (50, "reliable", 10.0)
    assert position.joints == ("shoulder", "elbow") and not position.is_synchronised
    other = parse_configuration(several({**changes, "observations.joints.topic": "other_states"})).safe_position
    assert other is not None
    assert (other.depth, other.reliability, other.stamp_offset_s) == (0, "best_effort", 0.0)


def test_defaults_that_were_declared_for_one_topic_do_not_matter() -> None:
    empty = {name: [] for name in COMMAND_PARAMETERS if name in ("action.joints", "action.fields")}
    assert parse_configuration(several(empty)) == parse_configuration(several())


def test_ranges_of_paths_are_written_out() -> None:
    assert expand(["q[0:2]", "a.b[1:3].c", "d"]) == ("q[0]", "q[1]", "a.b[1].c", "a.b[2].c", "d")
    assert expand(["m[0:2].q[1:3]"]) == ("m[0].q[1]", "m[0].q[2]", "m[1].q[1]", "m[1].q[2]")
    # No message has such a field, which the encoder says.
    assert expand(["q[2:2]", "q[0:5000]"]) == ("q[2:2]", "q[0:5000]")
    fields = {"action.type": "sensor_msgs/msg/Joy", "action.fields": ["axes[0:3]"], "action.safe_command": [0.0] * 3}
    assert parse_configuration(rovers(fields)).action.fields == ("axes[0]", "axes[1]", "axes[2]")
