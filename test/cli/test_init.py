# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""`policy_node init` writes a parameter file that configures, also from the topics of running robots."""

import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forked import ForkedProcess
from geometry_msgs.msg import Twist
from gymnasium import spaces
from instructed import save_instructed
from node_harness import PATIENCE_S, NodeProcess, Peer, end
from sensor_msgs.msg import CompressedImage, Image, Imu, JointState
from stable_baselines3 import DQN, PPO
from std_msgs.msg import Float64MultiArray
from test_trainer_descriptions import write_deploy, write_onnx

from policy_node.cli import check, init
from policy_node.cli.init import main
from policy_node.config.package_files import share_path
from policy_node.config.parameter_file import read_parameter_file
from policy_node.config.specs import ArraySpec, DiscreteSpec
from policy_node.messages.cdr import serialise
from policy_node.messages.examples import example_message
from policy_node.policies.described_parameters import DescribedParameter
from policy_node.policies.proposed_parameters import Found, proposed_parameters
from policy_node.ros.checking import check_parameters
from policy_node.ros.discovery import Discovery, Graph, HeardTopic, discover, hear, topics_by_type
from policy_node_bench.harness.untrained import SpacesOnly

ROOT = Path(__file__).parents[2]
IMAGE = ArraySpec("image", (64, 64, 3), np.uint8, 0, 255)
TOUCH = ArraySpec("touch", (8,), np.float32, 0.0, 10.0)
VELOCITY = ArraySpec("action", (2,), np.float32, -1.0, 1.0)
TWIST = "geometry_msgs/msg/Twist"


def save(kind: Any, policy: str, observation: spaces.Space, action: spaces.Space, file: Path, **more: Any) -> Path:
    kind(policy, SpacesOnly(observation, action), seed=1, device="cpu", **more).save(file)
    return file


def rover(folder: Path) -> Path:
    return Path(share_path("models", "rover.bundle"))


def stacked_images(folder: Path) -> Path:
    space = spaces.Box(0, 255, (36, 36, 12), np.uint8)
    few = dict(n_steps=2, batch_size=2)
    return save(PPO, "CnnPolicy", space, spaces.Box(-1.0, 1.0, (2,)), folder / "stacked.zip", **few)


def choices(folder: Path) -> Path:
    space = spaces.Box(-1.0, 1.0, (5,), np.float32)
    return save(DQN, "MlpPolicy", space, spaces.Discrete(4), folder / "dqn.zip", buffer_size=10)


def arm(folder: Path) -> Path:
    return write_onnx(folder / "arm.onnx", {"joints": 14, "goal": 3}, {"action": 7})


def quadruped(folder: Path) -> Path:
    return write_deploy(folder).parents[1] / "exported" / "policy.onnx"


@pytest.mark.parametrize("policy", [rover, stacked_images, choices, arm, quadruped])
def test_the_file_configures(
    policy: Callable[[Path], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "my_robot.yaml"
    assert main([str(policy(tmp_path)), "--trusted", "--robots", "one", "two", "--output", str(file)]) == 0
    assert f"policy_node check {file} --live 10" in capsys.readouterr().out
    values = read_parameter_file(file)
    assert values["robots"] == ["one", "two"]
    engine = "onnxruntime" if values["policy.path"].endswith(".onnx") else "direct"
    assert check_parameters({**values, "policy.engine": engine}).problems == []


def test_a_policy_that_takes_a_text_asks_for_it(tmp_path: Path) -> None:
    file = tmp_path / "my_robot.yaml"
    assert main([str(save_instructed(tmp_path / "plans.pt", 3)), "--trusted", "--output", str(file)]) == 0
    values = {**read_parameter_file(file), "policy.engine": "torchscript"}
    assert values["observations.keys"] == ["touch"]
    (problem,) = check_parameters(values).problems
    assert problem.startswith("policy.task: MISSING: what the robots are to do")
    assert check_parameters({**values, "policy.task": ["go 1"]}).problems == []
    del values["policy.task"]
    assert check_parameters(values).problems[0].startswith("policy.task: missing, but the policy takes a text")
    assert check_parameters({**values, "policy.task_topic": "task"}).problems == []
    (problem,) = check_parameters({**values, "policy.task_topic": "no topic"}).problems
    assert problem.startswith("policy.task_topic: found 'no topic'")


def test_stacks_and_tables_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(stacked_images(tmp_path)), "--trusted"]) == 0
    text = capsys.readouterr().out
    assert "encoding: rgb8" in text and "stack: 4  # ASSUMED: 12 channels are 4 steps of 3" in text
    assert "# scale: factor of the action, 1 or 2 numbers; the policy's is action: float32 [2] in [-1, 1]" in text
    assert main([str(choices(tmp_path)), "--trusted"]) == 0
    rows = [line.strip() for line in capsys.readouterr().out.splitlines() if "# action" in line]
    assert rows == [f"0.0, 0.0,  # action {index}" for index in range(4)]


def test_a_file_that_may_run_code_is_read_without_trust(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(choices(tmp_path))]) == 0
    said = capsys.readouterr()
    assert "trusted: false  # loading the file can run code" in said.out
    assert "give --trusted if you know where it comes from; or policy_export" in said.err


def test_errors_end_with_status_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    taken = tmp_path / "taken.yaml"
    taken.write_text("kept")
    assert main([str(rover(tmp_path)), "--output", str(taken)]) == 1
    assert "exists; give another path, or --force to replace it" in capsys.readouterr().err
    assert taken.read_text() == "kept"
    assert main([str(tmp_path / "nothing.bundle")]) == 1
    assert "nothing.bundle' cannot be read" in capsys.readouterr().err


def heard(name: str, message: Any, type_name: str, rate_hz: float = 30.0) -> HeardTopic:
    return HeardTopic(name, type_name, serialise(message), 10, rate_hz)


def camera(name: str, size: tuple[int, int] = (48, 64)) -> HeardTopic:
    rng = np.random.default_rng(0)
    spec = ArraySpec("image", (*size, 3), np.uint8, 0, 255)
    return heard(name, example_message(Image, spec, rng), "sensor_msgs/msg/Image")


def bumper(name: str, cells: int = 8) -> HeardTopic:
    message = JointState(name=[f"touch_{cell}" for cell in range(cells)], effort=[0.5] * cells)
    return heard(name, message, "sensor_msgs/msg/JointState", 10.0)


def rovers(*namespaces: str) -> Graph:
    topics = [topic for one in namespaces for topic in (camera(f"{one}/camera/image_raw"), bumper(f"{one}/touch"))]
    return Graph(topics, {f"{one}/cmd_vel": TWIST for one in namespaces}, has_clock=False)


def found_for(graph: Graph, robots: tuple[str, ...] = ()) -> Discovery:
    return discover(graph, {"image": IMAGE, "touch": TOUCH}, VELOCITY, robots)


@pytest.mark.parametrize(
    ("namespaces", "robots"),
    [
        (("/rover_2", "/rover_10"), ("rover_2", "rover_10")),
        (("/rover_0",), ("rover_0",)),
        (("/site/a", "/site/b"), ("site/a", "site/b")),
    ],
)
def test_namespaces_of_robots_are_recognised(namespaces: tuple[str, ...], robots: tuple[str, ...]) -> None:
    discovery = found_for(rovers(*namespaces))
    assert discovery.robots == robots and discovery.missing == ()
    values: Mapping[str, Any] = discovery.found["touch"].values
    assert values["topic"] == "touch" and values["field"] == "effort"
    assert discovery.found["image"].values["topic"] == "camera/image_raw"
    assert "Image, 30.0 Hz, 64×48 rgb8" in discovery.found["image"].heard
    assert discovery.found["action"].values == {"topic": "cmd_vel", "type": TWIST}
    assert discovery.slowest_hz == 10.0


def test_a_single_robot_without_a_namespace_has_absolute_topics() -> None:
    discovery = found_for(rovers(""))
    assert discovery.robots == ("robot",)
    topics = {key: found.values["topic"] for key, found in discovery.found.items()}
    assert topics == {"image": "/camera/image_raw", "touch": "/touch", "action": "/cmd_vel"}


def test_the_robots_may_be_given() -> None:
    assert found_for(rovers("/a", "/b", "/c"), ("b",)).robots == ("b",)


def test_topics_that_do_not_fit_are_not_proposed() -> None:
    """Of another size, of another kind, and none at all; those that fit, too, are named."""
    graph = Graph([camera("/r/rear/image"), camera("/r/image"), bumper("/r/touch", cells=6)], {}, has_clock=True)
    discovery = found_for(graph)
    assert set(discovery.missing) == {"touch", "action"} and discovery.has_clock
    assert discovery.found["image"].values["topic"].endswith("image") and len(discovery.found["image"].others) == 1


def test_remarks_name_what_was_heard_or_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = str(choices(tmp_path))
    monkeypatch.setenv("ROS_DOMAIN_ID", "77")
    monkeypatch.setattr(init, "_hear", lambda duration_s: Graph([], {}, has_clock=False))
    assert main([policy, "--trusted", "--from-graph"]) == 0
    said = capsys.readouterr()
    assert "robots: [robot_0]  # ASSUMED" in said.out
    assert "no topic at all was heard with ROS_DOMAIN_ID 77 and ROS_AUTOMATIC_DISCOVERY_RANGE" in said.err
    monkeypatch.setattr(init, "_hear", lambda duration_s: Graph([bumper("/r/touch")], {}, has_clock=False))
    assert main([policy, "--trusted", "--from-graph"]) == 0
    said = capsys.readouterr()
    assert "no topic fits observation: float32 [5] in [-1, 1]: see" in said.err
    assert "heard were /r/touch (JointState, 10.0 Hz, 8 joints, best effort)" in said.err


def test_numbers_are_found_inside_messages() -> None:
    spec = ArraySpec("angular_velocity", (3,), np.float32, -np.inf, np.inf)
    imu = heard("/r/imu", Imu(), "sensor_msgs/msg/Imu")
    discovery = discover(Graph([imu], {"/r/cmd": TWIST}, False), {"angular_velocity": spec}, DiscreteSpec("action", 3))
    assert discovery.found["angular_velocity"].values["field"] == "angular_velocity"


@pytest.mark.parametrize("namespace", ["", "/cell_1"])
def test_an_arm_gets_the_names_of_its_joints(namespace: str) -> None:
    names = [f"joint_{index}" for index in range(7)]
    state = JointState(name=names, position=[0.0] * 7, velocity=[0.0] * 7)
    graph = Graph(
        [heard(f"{namespace}/joint_states", state, "sensor_msgs/msg/JointState")],
        {f"{namespace}/arm_controller/joint_trajectory": "trajectory_msgs/msg/JointTrajectory"},
        has_clock=False,
    )
    action = ArraySpec("action", (7,), np.float32, -1.0, 1.0)
    found = discover(graph, {"joint_position": ArraySpec("x", (7,), np.float32, -9.0, 9.0)}, action).found
    assert found["joint_position"].values["field"] == "position"
    assert found["joint_position"].values["joints"] == tuple(names)
    assert found["action"].values["joints"] == tuple(names)
    assert found["action"].values["safe_position_topic"] == ("joint_states" if namespace else "/joint_states")


def test_a_topic_of_one_number_is_not_proposed_for_more() -> None:
    """Another topic of the robot is named, in case the policy commands several."""
    graph = rovers("/r")
    graph = graph._replace(commands={**graph.commands, "/r/gripper": "std_msgs/msg/Float64"})
    discovery = found_for(graph)
    assert discovery.found["action"].others == ()
    assert discovery.commands == (f"cmd_vel ({TWIST})", "gripper (std_msgs/msg/Float64)")


@pytest.mark.parametrize(
    ("type_name", "components", "fields"),
    [
        ("geometry_msgs/msg/TwistStamped", 3, ("linear.x", "linear.y", "angular.z")),
        ("geometry_msgs/msg/PoseStamped", 3, ("position.x", "position.y", "position.z")),
        ("ackermann_msgs/msg/AckermannDriveStamped", 2, ("speed", "steering_angle")),
        (TWIST, 4, ("linear.x", "linear.y", "linear.z", "angular.x")),
    ],
)
def test_the_fields_are_those_of_the_type(type_name: str, components: int, fields: tuple[str, ...]) -> None:
    action = ArraySpec("action", (components,), np.float32, -1.0, 1.0)
    found = {"action": Found({"topic": "drive", "type": type_name}, "a robot listens")}
    entries = proposed_parameters({}, action, {}, DescribedParameter(("r",)), found)
    assert entries["action.fields"].value == fields


def test_topics_of_a_description_are_found_by_their_types() -> None:
    graph = Graph(
        [heard("/dog/body/imu", Imu(), "sensor_msgs/msg/Imu"), bumper("/dog/joints")],
        {"/dog/goal": "sensor_msgs/msg/JointState"},
        has_clock=False,
    )
    types = {
        "observations.o.a": "sensor_msgs/msg/Imu",
        "action": "sensor_msgs/msg/JointState",
        "observations.o.b": TWIST,
    }
    robots, topics = topics_by_type(graph, types)
    assert robots == ("dog",)
    assert {name: found.values["topic"] for name, found in topics.items()} == {
        "observations.o.a": "body/imu",
        "action": "goal",
    }


def test_topics_are_heard_over_dds(peer: Peer) -> None:
    publisher = peer.node.create_publisher(CompressedImage, "/seven/camera/compressed", 1)
    peer.node.create_subscription(Twist, "/seven/cmd_vel", lambda message: None, 1)
    from rclpy.node import Node

    node, ended = Node("listening", start_parameter_services=False), threading.Event()
    spec = ArraySpec("image", (8, 8, 3), np.uint8, 0, 255)
    message = example_message(CompressedImage, spec, np.random.default_rng(0))
    graphs: list[Graph] = []
    try:
        peer.spin_until(lambda: node.count_publishers("/seven/camera/compressed"), "the topic")
        peer.spin_until(lambda: node.count_subscribers("/seven/cmd_vel"), "the robot")
        thread = threading.Thread(target=lambda: graphs.append(hear(node, 0.5, ended)))
        thread.start()
        while thread.is_alive():
            publisher.publish(message)
            peer.spin_for(0.05)
        thread.join()
    finally:
        node.destroy_node()
    (graph,) = graphs
    assert graph.commands["/seven/cmd_vel"] == TWIST
    (topic,) = [each for each in graph.heard if each.name == "/seven/camera/compressed"]
    assert topic.count and topic.reliable and topic.rate_hz > 0.0
    discovery = discover(graph, {"image": spec}, VELOCITY, ("seven",))
    assert discovery.found["image"].values["topic"] == "camera/compressed"


@pytest.mark.slow
@pytest.mark.over_dds
def test_three_commands_drive_the_robots_of_the_example(
    peer: Peer, start_node: Callable[..., NodeProcess], tmp_path: Path
) -> None:
    """From a policy and running robots to driving, as the documentation shows it."""
    robots = subprocess.Popen([sys.executable, str(ROOT / "examples" / "point_robot.py")])
    pushes: list[Float64MultiArray] = []
    try:
        peer.spin_until(lambda: peer.node.count_publishers("/right/state"), "the robots")
        file = tmp_path / "points.yaml"
        policy = ROOT / "test" / "data" / "point_mass.onnx"
        writing = ForkedProcess(main, [str(policy), "--from-graph", "5", "--output", str(file)])
        said, _ = writing.communicate(PATIENCE_S)
        assert writing.returncode == 0, said
        values = read_parameter_file(file)
        assert values["robots"] == ["left", "right"]
        assert values["observations.observation.topic"] == "state" and values["action.topic"] == "push"
        checking = ForkedProcess(check.main, [str(file), "--live", "2"])
        said, _ = checking.communicate(PATIENCE_S)
        assert checking.returncode == 0 and "no problem: every robot would be driven" in said, said
        peer.node.create_subscription(Float64MultiArray, "/left/push", pushes.append, 1)
        start_node({**values, "policy.engine": "onnxruntime"})
        peer.spin_until(lambda: len(pushes) > 5, "commands")
    finally:
        end(robots)
    assert all(len(push.data) == 2 for push in pushes)
