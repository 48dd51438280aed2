# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""`policy_ctl` operates running nodes."""

import threading
from asyncio import run
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forked import ForkedProcess
from node_harness import PATIENCE_S, Diagnostics, NodeProcess, Peer, ScriptedFleet, parameters_of
from rclpy.node import Node

from policy_node.cli.ctl import main
from policy_node.cli.operations import OperationError, Operations
from policy_node.ros.rclpy_internals import spinning

ROBOTS = ("robot_0", "robot_1")


def test_it_operates_a_running_node(
    model: Callable[..., tuple[Path, Any]], peer: Peer, start_node: Callable[..., NodeProcess]
) -> None:
    start_node(parameters_of(model()[0], ROBOTS, {"synchronisation.max_age_s": 5.0}), name="fleet")
    fleet, diagnostics = ScriptedFleet(peer, ROBOTS), Diagnostics(peer)
    fleet.drive(lambda: all(fleet.commands.values()), "commands")
    node, ended = Node("operator", start_parameter_services=False), threading.Event()
    try:
        with spinning(node):
            operations = Operations(node, ended, PATIENCE_S)
            assert run(operations.find()) == ["/fleet"]
            with pytest.raises(OperationError, match="there is no policy node /other; found are /fleet"):
                run(Operations(node, ended, 0.1).find("/other"))
            success, text = run(operations.operate("/fleet", "stop"))
            assert success and "2 of 2 robots got their safe command" in text
            assert run(operations.operate("/fleet", "resume"))[0]
            assert run(operations.operate("/fleet", "stop", "robot_1")) == (True, "stop of robot_1: the node has it")

            def states() -> list[str | None]:
                return [diagnostics.values(f"fleet: {robot}").get("state") for robot in ROBOTS]

            # A report may still be of the stop of both.
            fleet.drive(lambda: states() == ["READY", "STOPPED"], "the stop of one")
            success, text = run(operations.operate("/fleet", "stop", "robot_9"))
            assert not success and text.endswith("allowed are robot_0, robot_1")
            success, text = run(operations.swap("/fleet", {"policy.path": "nothing.zip"}))
            assert not success and "nothing.zip" in text and "The present policy goes on." in text
            other = str(model(seed=2)[0])
            assert run(operations.swap("/fleet", {"policy.path": other})) == (True, f"the policy is now {other}")
            assert run(operations.change("/fleet", "deactivate")) == (True, "inactive: no robot is driven")
            success, text = run(operations.change("/fleet", "configure"))
            assert not success and text == "configure failed, or is not possible now: inactive: no robot is driven"
    finally:
        node.destroy_node()
    # The command itself; the node is found by itself.
    for command, status in ((["activate"], 0), (["stop", "robot_9"], 1), (["resume"], 0)):
        process = ForkedProcess(main, [*command, "--timeout-s", "60"])
        fleet.drive(lambda process=process: process.poll() is not None, "the end of the command")
        said, _ = process.communicate()
        assert process.returncode == status and said.startswith("/fleet: "), said


def test_it_says_that_there_is_no_node(ros: None) -> None:
    node = Node("operator", start_parameter_services=False)
    try:
        with pytest.raises(OperationError, match=r"no policy node was found within 0\.1 s with ROS_DOMAIN_ID"):
            run(Operations(node, threading.Event(), 0.1).find())
    finally:
        node.destroy_node()
