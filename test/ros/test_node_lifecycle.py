# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The lifecycle of the node under services and signals, and its errors about a wrong configuration."""

import signal
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from node_harness import LifecycleClient, NodeProcess, Peer, ScriptedFleet, parameters_of

ROBOTS = ("robot_0", "robot_1")
SAFE = (0.0625, -0.125)
DRIVES = {"action.safe_command": list(SAFE), "synchronisation.max_age_s": 5.0}

Model = Callable[..., tuple[Path, Any]]
StartNode = Callable[..., NodeProcess]


def driven(fleet: ScriptedFleet) -> bool:
    """Whether every robot's newest command comes from the policy."""
    newest = [fleet.newest(robot) for robot in fleet.robots]
    return all(command is not None and not np.array_equal(command, SAFE) for command in newest)


def safe(fleet: ScriptedFleet) -> bool:
    """Whether every robot's newest command is the safe one."""
    return all(np.array_equal(fleet.newest(robot), SAFE) for robot in fleet.robots)


@pytest.mark.both_distributions
def test_an_operator_runs_the_lifecycle_transitions(model: Model, peer: Peer, start_node: StartNode) -> None:
    process = start_node(parameters_of(model()[0], ROBOTS, {**DRIVES, "autostart": False}))
    operator = LifecycleClient(peer, process.full_name)
    fleet = ScriptedFleet(peer, ROBOTS)
    assert operator.state() == "unconfigured"
    assert operator.change("configure")
    assert operator.state() == "inactive"
    fleet.wait_until_heard()
    refused = operator.set(control_rate_hz=10.0)
    assert "control_rate_hz: parameters are read at configure; deactivate and clean up the node" in refused
    assert "use_sim_time: parameters are read at configure" in operator.set(use_sim_time=True)
    assert not any(fleet.commands.values())

    for _ in range(2):
        assert operator.change("activate")
        assert operator.state() == "active"
        fleet.drive(lambda: driven(fleet), "commands of the policy")
        assert "policy.device: parameters are read at configure" in operator.set(policy__device="cpu")
        assert operator.change("deactivate")
        assert operator.state() == "inactive"
        peer.spin_until(lambda: safe(fleet), "the safe command of every robot")
        fleet.clear()
        assert not peer.spin_for(0.5, lambda: any(fleet.commands.values())), "a command after deactivate"

    assert operator.change("cleanup")
    assert operator.state() == "unconfigured"
    assert operator.set(robots=["robot_2"], control_rate_hz=10.0) == ""
    assert operator.change("configure") and operator.change("activate")
    another = ScriptedFleet(peer, ["robot_2"])
    another.drive(lambda: driven(another), "commands of the policy for another robot")
    assert not any(fleet.commands.values())
    assert operator.change("active_shutdown")
    assert operator.state() == "finalized"
    peer.spin_until(lambda: safe(another), "the safe command of the robot")
    assert process.send(signal.SIGINT) == 0


@pytest.mark.both_distributions
@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_a_signal_makes_every_robot_safe_and_ends_the_node(
    number: signal.Signals, model: Model, peer: Peer, start_node: StartNode
) -> None:
    process = start_node(parameters_of(model()[0], ROBOTS, DRIVES), fresh=True)
    fleet = ScriptedFleet(peer, ROBOTS)
    fleet.drive(lambda: driven(fleet), "commands of the policy")
    assert process.send(number) == 0
    peer.spin_until(lambda: safe(fleet), "the safe command of every robot")
    assert "Traceback" not in process.text


def test_simulated_time_that_is_no_boolean_is_refused(model: Model, start_node: StartNode) -> None:
    process = start_node(parameters_of(model()[0], ROBOTS, {"use_sim_time": 1}))
    process.wait_for(
        r"use_sim_time: found 1 \(int\), but it must be a boolean; start the node again with true or false"
    )
    assert process.send(signal.SIGINT) == 0


@pytest.mark.both_distributions
def test_empty_lists_in_a_parameter_file_count_as_not_given(model: Model, start_node: StartNode, peer: Peer) -> None:
    process = start_node(parameters_of(model()[0], ROBOTS, {"robots": [], "observations.touch.joints": []}))
    process.wait_for(r"configure failed:\nrobots: missing; give a list of strings.*The node stays alive")
    operator = LifecycleClient(peer, process.full_name)
    assert operator.set(robots=list(ROBOTS)) == ""
    assert operator.change("configure")


class ForOneRobot(torch.nn.Module):
    """Decides by the numbers of the whole batch."""

    def forward(self, touch: torch.Tensor) -> torch.Tensor:
        if bool(touch.sum() > 1.0):
            touch = -touch
        return 0.1 * touch[:, :2]


def test_warnings_of_a_policy_go_to_the_ros_log_without_source(start_node: StartNode, tmp_path: Path) -> None:
    file = tmp_path / "policy.pth"
    torch.jit.save(torch.jit.script(ForOneRobot()), file)
    changes = {"observations.keys": ["touch"], "observations.touch.shape": [8], "policy.engine": "torchscript"}
    parameters = parameters_of(file, ROBOTS, changes)
    process = start_node({name: value for name, value in parameters.items() if ".image." not in name})
    process.wait_for(rf"\[WARN\][^\n]*\[policy_node\]: policy file '{file}' is run robot after robot")
    process.wait_for("active: driving")
    assert "UserWarning" not in process.text and "warn(" not in process.text


def test_an_unreadable_parameter_file_is_reported_without_a_traceback(model: Model, start_node: StartNode) -> None:
    process = start_node(parameters_of(model()[0], ROBOTS, {"action.table": [0.3, 0, 1.0]}))
    process.wait_for("policy_node cannot start: .*give all numbers of a list a decimal point, or none")
    assert "Traceback" not in process.text


def test_a_missing_home_folder_is_explained(model: Model, start_node: StartNode) -> None:
    without_home = ["env", "-u", "HOME", "-u", "ROS_HOME", "-u", "ROS_LOG_DIR"]
    process = start_node(parameters_of(model()[0], ROBOTS, {}), wrapper=without_home)
    process.wait_for("policy_node cannot start: .*set HOME, or ROS_LOG_DIR to a folder that this user may write")
    assert "Traceback" not in process.text


def test_what_a_node_cannot_do_is_refused_at_configure(model: Model, start_node: StartNode, peer: Peer) -> None:
    parameters = parameters_of(model()[0], ROBOTS, {"autostart": False})
    process = start_node(parameters)
    operator = LifecycleClient(peer, process.full_name)
    refused: dict[str, tuple[dict[str, Any], str]] = {
        "more robots than the middleware can serve": (
            {"robots": [f"robot_{index}" for index in range(10_000)]},
            "robots: found 10000 with 2 topics each, but one node drives at most 1060 of them.*give each of 10 nodes",
        ),
        "its own commands": (
            {"action.topic": "touch"},
            "observations.touch.topic: found 'touch', but /robot_0/touch has the commands of robot_0",
        ),
        "the commands of another robot": (
            {"observations.image.topic": "/robot_1/cmd_vel"},
            "observations.image.topic: found '/robot_1/cmd_vel', but /robot_1/cmd_vel has the commands of robot_1",
        ),
        "its commands as its position": (
            {
                "action.type": "std_msgs/msg/Float64MultiArray",
                "action.fields": None,
                "action.safe_position_topic": "cmd_vel",
                "action.safe_position_joints": ["a", "b"],
            },
            "action.safe_position_topic: found 'cmd_vel', but /robot_0/cmd_vel has the commands of robot_0",
        ),
        "a home folder that does not exist": (
            {"policy.path": "~nobody_of_this_name/policy.zip"},
            "policy.path: found '~nobody_of_this_name/policy.zip', but that home folder is unknown; set HOME",
        ),
    }
    for changes, reason in refused.values():
        start = len(process.text)
        assert operator.set(**{name.replace(".", "__"): value for name, value in changes.items()}) == ""
        assert not operator.change("configure")
        process.wait_for(reason, start)
        former = {name.replace(".", "__"): parameters.get(name) for name in changes}
        assert operator.set(**former) == ""
    assert operator.change("configure")


@pytest.mark.slow
def test_a_signal_ends_a_configure_that_opens_many_topics(model: Model, start_node: StartNode) -> None:
    process = start_node(parameters_of(model()[0], [f"robot_{index}" for index in range(1000)], {}))
    process.wait_for("engine direct")
    assert process.send(signal.SIGINT) == 0
    process.wait_for("configure was interrupted by a signal")
    assert "configured in" not in process.text


@pytest.mark.both_distributions
def test_a_wrong_parameter_file_is_explained_and_can_be_corrected(
    model: Model, start_node: StartNode, peer: Peer
) -> None:
    wrong = {"control_rate_hz": 20, "policy.threads": 0, "polcy.device": "cpu", "robots": None}
    process = start_node(parameters_of(model()[0], ROBOTS, {**DRIVES, **wrong}))
    operator = LifecycleClient(peer, process.full_name)
    process.wait_for(r"configure failed:.*The node stays alive")
    for problem in (
        "polcy.device: found 'cpu', but there is no such parameter; did you mean policy.device?",
        "control_rate_hz: found 20 (int), but it must be a double; write 20.0",
        "policy.threads: found 0, but it must be finite, 1 to 256",
        "robots: missing; give a list of strings",
    ):
        assert problem in process.text
    assert operator.state() == "unconfigured"
    assert operator.set(control_rate_hz=20.0, policy__threads=1, polcy__device=None, robots=list(ROBOTS)) == ""
    assert operator.change("configure")
    assert operator.change("cleanup")


@pytest.fixture(scope="module")
def operator_of_a_wrong_node(
    ros: None, model: Model, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[LifecycleClient, NodeProcess]]:
    """Start one node for all errors: it must survive them, and drive afterwards."""
    peer = Peer()
    parameters = parameters_of(model()[0], ROBOTS, {**DRIVES, "autostart": False})
    # Runs beside the nodes of other tests of this file, whose services must not be its own.
    process = NodeProcess(parameters, tmp_path_factory.mktemp("wrong") / "parameters.yaml", name="wrong_node")
    operator = LifecycleClient(peer, process.full_name)
    yield operator, process
    try:
        assert operator.change("configure") and operator.change("activate")
        fleet = ScriptedFleet(peer, ROBOTS)
        fleet.drive(lambda: driven(fleet), "commands of the policy")
        assert process.send(signal.SIGTERM) == 0
    finally:
        process.end()
        peer.destroy()


# Parameters, and the error of the node; `{folder}` holds the model files.
ERRORS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "unknown parameter": (
        {"action.topics": "cmd_vel"},
        ["action.topics: found 'cmd_vel', but there is no such parameter; did you mean action.topic?"],
    ),
    "missing parameter": ({"action.topic": None}, ["action.topic: missing; give a string: Topic of the commands"]),
    "two robots of one name": (
        {"robots": ["robot_0", "robot_1", "robot_0"]},
        ["robots: 'robot_0' stands there 2 times; every name must be unique"],
    ),
    "type without the observation": (
        {"observations.touch.type": "sensor_msgs/msg/Imu"},
        [
            "observations.touch: topic 'touch' of sensor_msgs/msg/Imu cannot give observation 'touch'",
            "no field 'effort'",
        ],
    ),
    "vector for an image": (
        {"observations.image.type": "sensor_msgs/msg/Imu"},
        ["observations.image: topic 'camera/image_raw' of sensor_msgs/msg/Imu cannot give observation 'image'"],
    ),
    "unknown type": (
        {"observations.touch.type": "sensor_msgs/msg/Touch"},
        ["package 'sensor_msgs' has no message type 'Touch'"],
    ),
    "space of another shape": (
        {"policy.path": "{folder}/stack_4_continuous.zip"},
        [
            "policy wants",
            "configured sensor",
            "image: uint8 [12, 36, 36] in [0, 255]  sensor_msgs/msg/Image on camera/image_raw",
        ],
    ),
    "observation that the policy does not have": (
        {
            "observations.keys": ["image", "touch", "speed"],
            "observations.speed.topic": "odom",
            "observations.speed.type": "nav_msgs/msg/Odometry",
        },
        [
            "observations.keys: 'speed' is not in the policy's observation space",
            "speed  not there",
        ],
    ),
    "topic with a space": (
        {"observations.image.topic": "camera/image raw", "action.topic": "cmd_vel/"},
        [
            "observations.image.topic: found 'camera/image raw'; Invalid topic name: topic name must not contain",
            "action.topic: found 'cmd_vel/'; Invalid topic name: topic name must not end with a forward slash",
        ],
    ),
    "one robot by two names": (
        {"robots": ["robot_0", "/robot_0"]},
        ["robots: 'robot_0' stands there 2 times; every name must be unique"],
    ),
    "command of another size": (
        {"action.fields": ["linear.x"], "action.safe_command": [0.0]},
        ["action.fields: found 1 (linear.x), but the policy's action has 2 components"],
    ),
    "missing model file": (
        {"policy.path": "{folder}/missing.zip"},
        ["policy file '{folder}/missing.zip' cannot be read: No such file or directory; give the path of a .zip file"],
    ),
    "empty model file": (
        {"policy.path": "{folder}/empty.zip"},
        ["{folder}/empty.zip' is empty (0 bytes); give a .zip"],
    ),
    "truncated model file": (
        {"policy.path": "{folder}/truncated.zip"},
        ["{folder}/truncated.zip' is cut off or damaged", "copy or save it again"],
    ),
    "foreign model file": (
        {"policy.path": "{folder}/foreign.zip"},
        ["{folder}/foreign.zip' is a zip archive, but not of Stable-Baselines3; give a .zip file"],
    ),
    "package that is not there": (
        {"policy.path": "package://no_such_package/model.zip"},
        ["policy.path: found 'package://no_such_package/model.zip', but there is no package 'no_such_package' here"],
    ),
    "unknown device": (
        {"policy.device": "gpu"},
        ["device is 'gpu'; allowed are 'auto', 'cpu', 'cuda' and 'cuda:<index>'"],
    ),
    "no CUDA": ({"policy.device": "cuda"}, ["device is 'cuda', but PyTorch", "use device 'cpu' or 'auto'"]),
}


@pytest.mark.over_dds
@pytest.mark.parametrize("name", ERRORS)
def test_an_error_names_parameter_value_and_remedy_and_the_node_stays_alive(
    name: str, model: Model, operator_of_a_wrong_node: tuple[LifecycleClient, NodeProcess]
) -> None:
    if name == "no CUDA" and torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    operator, process = operator_of_a_wrong_node
    model_file, _ = model()
    model(stack=4)
    folder = model_file.parent
    (folder / "empty.zip").touch()
    (folder / "truncated.zip").write_bytes(model_file.read_bytes()[:-1000])
    with zipfile.ZipFile(folder / "foreign.zip", "w") as archive:
        archive.writestr("readme.txt", "no model")
    right = parameters_of(model_file, ROBOTS, DRIVES)

    changes, messages = ERRORS[name]
    wrong = {key: value.format(folder=folder) if isinstance(value, str) else value for key, value in changes.items()}
    start = len(process.text)
    assert operator.set(**{key.replace(".", "__"): value for key, value in wrong.items()}) == ""
    try:
        assert not operator.change("configure")
        process.wait_for("The node stays alive: correct the file", start)
        for message in messages:
            assert message.format(folder=folder) in process.text[start:]
        assert "Traceback" not in process.text[start:]
        assert operator.state() == "unconfigured"
    finally:
        assert operator.set(**{key.replace(".", "__"): right.get(key) for key in wrong}) == ""
    assert operator.change("configure")
    assert operator.change("cleanup")


@pytest.mark.both_distributions
@pytest.mark.parametrize(
    ("parameter", "value", "problem"),
    [
        ("control_rate_hz", 0.0, ""),
        ("synchronisation.max_age_s", 100.0, ""),
        ("policy.threads", 0, ""),
        ("control_rate_hz", 20, "found 20 (int), but it must be a double; write 20.0"),
        ("policy.trusted", "yes", "found 'yes' (str), but it must be a boolean"),
        (
            "action.safe_command",
            [0, 0],
            "found [0, 0] (list), but it must be a list of doubles; write every number with a decimal point",
        ),
    ],
)
def test_a_value_of_another_type_or_range_is_refused_at_once(
    parameter: str, value: Any, problem: str, operator_of_a_wrong_node: tuple[LifecycleClient, NodeProcess]
) -> None:
    operator, _ = operator_of_a_wrong_node
    refused = operator.set(**{parameter.replace(".", "__"): value})
    assert parameter in refused and problem in refused
