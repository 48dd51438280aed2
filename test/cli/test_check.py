# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""`policy_node check` reports what configure would refuse, and what is heard of running robots."""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from geometry_msgs.msg import Twist, Vector3
from node_harness import ACTION_SPACE, Peer, parameters_of
from rclpy.node import Node
from std_msgs.msg import Float64MultiArray

from policy_node.cli import check, executables
from policy_node.cli.check import main
from policy_node.cli.output import make_console
from policy_node.config.schema import parse_configuration
from policy_node.ros.checking import check_parameters
from policy_node.ros.live_check import listen, wait_for_graph
from policy_node.ros.rclpy_internals import spinning
from policy_node.ros.simulated_robots import SimulatedRobots

ROBOTS = ("robot_0", "robot_1")

Model = Callable[..., tuple[Path, Any]]


@pytest.fixture
def file(model: Model, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes the parameter file of scripted robots, with changes by dotted name."""

    def write(changes: Mapping[str, Any] | None = None) -> Path:
        path = tmp_path / "robots.yaml"
        parameters = parameters_of(model()[0], ROBOTS, changes or {})
        path.write_text(yaml.safe_dump({"/**": {"ros__parameters": parameters}}))
        return path

    return write


def test_a_file_that_configures_has_no_problem(file: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    path = file()
    assert main([str(path)]) == 0
    said = capsys.readouterr().out
    assert f"{path}: no problem; PPO policy" in said and "robot_0, robot_1 at 20 Hz" in said


def test_all_problems_are_reported_at_once(
    file: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also those that configure would find one after the other."""
    (tmp_path / "occupied").touch()
    changes = {
        "action.topic": "cmd vel",
        "action.fields": ["linear.x"],
        "observations.touch.type": "std_msgs/msg/Bool",
        "observations.touch.field": "",
        "record.path": str(tmp_path / "occupied"),
        "realtime.cpus": [10_000],
    }
    assert main([str(file(changes))]) == 1
    said = capsys.readouterr().out
    for name in ("action.topic", "action.fields", "observations.touch", "record.path", "realtime.cpus"):
        assert f"\n{name}: " in said, said
    assert ": 5 problems" in said


def test_the_policy_file_is_checked_beside_wrong_parameters(
    file: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = file({"control_rate_hz": 20})
    assert main([str(path), "--policy", "nothing.bundle"]) == 1
    said = capsys.readouterr().out
    assert "control_rate_hz: found 20" in said and "policy.path: policy file 'nothing.bundle' cannot be read" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_no_problem(model: Model) -> None:
    found = check_parameters(parameters_of(model()[0], ROBOTS, {"policy.device": "cuda:1"}))
    assert not found.problems
    (note,) = found.notes
    assert note == "policy.device is cuda:1, and there is no GPU here: checked on the CPU"
    # A device that does not exist anywhere is one.
    (problem,) = check_parameters(parameters_of(model()[0], ROBOTS, {"policy.device": "gpu"})).problems
    assert problem.startswith("policy.device: ")


def test_a_file_that_cannot_be_read_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nothing.yaml"]) == 1
    assert "parameter file 'nothing.yaml' cannot be read" in capsys.readouterr().err


def test_the_executable_runs_its_commands(
    file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["policy_node", "check", str(file())])
    assert executables.policy_node() == 0
    assert "no problem" in capsys.readouterr().out


def test_it_reports_what_was_heard_and_the_first_commands(model: Model, ros: None) -> None:
    """Of three robots, one publishes no touch, and nobody listens to the last one."""
    robots = ("robot_0", "robot_1", "robot_2")
    parameters = parameters_of(model()[0], robots, {})
    found = check_parameters(parameters)
    assert found.deployment is not None
    policy = found.deployment.policy
    ended = threading.Event()
    simulating, checking = (Node(name, start_parameter_services=False) for name in ("simulating", "checking"))
    simulated = SimulatedRobots(simulating, parse_configuration({**parameters, "robots": list(robots[:2])}), policy)
    readings = (reading for reading in simulated.random_readings(30.0) if reading.topic != "/robot_1/touch")
    thread = threading.Thread(target=simulated.publish, args=(readings, ended), daemon=True)
    try:
        with spinning(simulating), spinning(checking):
            thread.start()
            wait_for_graph(checking, ended, settle_s=0.5)
            reports = listen(checking, found.deployment, 1.5, ended)
    finally:
        ended.set()
        thread.join()
        simulating.destroy_node()
        checking.destroy_node()
    first, second, third = reports
    image, touch = first.sensors
    assert (image.topic, image.size, image.encoding) == ("/robot_0/camera/image_raw", "36×36", "rgb8")
    assert touch.size == "8 joints" and touch.rate_hz > 0.0 and touch.age_max_s >= touch.age_p50_s > 0.0
    assert first.skew_max_s >= first.skew_p50_s >= 0.0
    assert first.state == "READY" and first.first_command is not None
    assert np.all((first.first_command >= ACTION_SPACE.low) & (first.first_command <= ACTION_SPACE.high))
    (topic,) = first.listeners
    assert first.listeners == {topic: ("/simulating",)} and first.commanders == {topic: ()} and first.problems == []
    (silent,) = second.problems
    assert silent.startswith("robot_1: /robot_1/touch has a publisher, but no message came within 1.")
    assert second.first_command is None
    assert third.problems[-1] == "robot_2: nobody listens to its commands on /robot_2/cmd_vel"
    assert third.problems[0].startswith("robot_2: no publisher on /robot_2/camera/image_raw")
    # Nothing was sent.
    assert all(newest is None for _, newest in simulated.commands.values())


TWO_TOPICS: dict[str, Any] = {
    **dict.fromkeys(("action.topic", "action.type", "action.fields")),
    "actions.keys": ["base", "arm"],
    "actions.base.topic": "cmd_vel",
    "actions.base.type": "geometry_msgs/msg/Twist",
    "actions.base.fields": ["angular.z"],
    "actions.base.components": [1],
    "actions.arm.topic": "lift",
    "actions.arm.type": "std_msgs/msg/Float64MultiArray",
    "actions.arm.components": [0],
    "actions.arm.when_stale": "silent",
}


def test_a_robot_with_two_command_topics(model: Model, ros: None, capsys: pytest.CaptureFixture[str]) -> None:
    """Each topic is simulated, and heard of, on its own."""
    parameters = parameters_of(model()[0], ("robot_7",), TWO_TOPICS)
    found = check_parameters(parameters)
    assert found.problems == [] and found.deployment is not None
    (note,) = found.notes
    assert note.startswith("actions.arm: no safe command is known") and "give actions.arm.safe_command" in note
    ended = threading.Event()
    simulating, checking = (Node(name, start_parameter_services=False) for name in ("simulating_two", "checking_two"))
    configuration = parse_configuration(parameters)
    simulated = SimulatedRobots(simulating, configuration, found.deployment.policy)
    assert list(simulated.commands) == ["robot_7 base", "robot_7 arm"]
    thread = threading.Thread(target=simulated.publish, args=(simulated.random_readings(30.0), ended), daemon=True)
    twist = checking.create_publisher(Twist, "/robot_7/cmd_vel", 10)
    lift = checking.create_publisher(Float64MultiArray, "/robot_7/lift", 10)
    try:
        with spinning(simulating), spinning(checking):
            thread.start()
            wait_for_graph(checking, ended, settle_s=0.5)
            (report,) = listen(checking, found.deployment, 1.0, ended)
            while not all(count for count, _ in simulated.commands.values()):
                twist.publish(Twist(angular=Vector3(z=0.5)))
                lift.publish(Float64MultiArray(data=[0.25]))
                ended.wait(0.05)
    finally:
        ended.set()
        thread.join()
        simulating.destroy_node()
        checking.destroy_node()
    listener = ("/simulating_two",)
    assert report.listeners == {"/robot_7/cmd_vel": listener, "/robot_7/lift": listener}
    assert report.first_command is not None and report.first_command.shape == (2,)
    newest = {name: command.tolist() for name, (_, command) in simulated.commands.items() if command is not None}
    assert newest == {"robot_7 base": [0.5], "robot_7 arm": [0.25]}
    check._print_live([report], found.deployment, 1.0, make_console())
    said = capsys.readouterr().out
    assert "cmd_vel, geometry_msgs/msg/Twist with angular.z; lift, std_msgs/msg/Float64MultiArray; none was" in said


def test_a_wrong_topic_suggests_those_of_its_type(model: Model, peer: Peer) -> None:
    from sensor_msgs.msg import Image

    from policy_node.ros.graph import why_silent

    configuration = parse_configuration(parameters_of(model()[0], ("six",), {}))
    image = configuration.sources[0]
    peer.node.create_publisher(Image, "/six/front/image", 1)
    expected = (
        "no publisher on /six/camera/image_raw; of sensor_msgs/msg/Image there is /six/front/image: did you mean "
        "/six/front/image?"
    )
    peer.spin_until(lambda: why_silent(peer.node, "six", image, ("six",)) == expected, "the suggestion")
