# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Commands of a replay lie in its bag as the node would have sent them."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from bag_harness import read_bag
from node_harness import parameters_of
from rclpy.serialization import serialize_message

from policy_node.config.schema import parse_configuration
from policy_node.messages.reading import UnusableReading
from policy_node.recording.replay.commands import CommandBag, command_reader

JOINT_TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
JOINTS = ["shoulder", "elbow"]


def test_a_trajectory_is_written_as_the_node_sends_it_and_read_back(tmp_path: Path) -> None:
    changes = {"action.type": JOINT_TRAJECTORY, "action.joints": JOINTS, "action.safe_command": [0.0, 0.0]}
    parameters = parameters_of(tmp_path / "policy.zip", ["arm_0", "arm_1"], changes)
    del parameters["action.fields"]
    configuration = parse_configuration(parameters)
    commands = np.array([[0.5, -0.25], [1.0, 2.0]])
    output = CommandBag(tmp_path / "commands", configuration, ["/arm_0/command", "/arm_1/command"], 2, {})
    with closing(output) as bag:
        bag.write(7, commands, np.array([False, True]))
    found = read_bag(tmp_path / "commands")
    assert not found["/arm_0/command"]
    ((time_ns, message),) = found["/arm_1/command"]
    # One control period, as nothing else is configured.
    assert time_ns == 7 and message.points[0].time_from_start.nanosec == 50_000_000
    read = command_reader(JOINT_TRAJECTORY, configuration.action, 2, "/arm_1/command")
    # Joints may stand in another order.
    message.joint_names = JOINTS[::-1]
    assert read(bytes(serialize_message(message))).tolist() == [2.0, 1.0]
    message.points = []
    with pytest.raises(UnusableReading, match="0 positions in the first point for 2 joints"):
        read(bytes(serialize_message(message)))
