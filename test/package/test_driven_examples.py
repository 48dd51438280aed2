# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Example configurations drive robots with a real node, in one process: commands of the policy, and safe ones."""

import importlib.util
import math
import re
import time
import warnings
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from geometry_msgs.msg import PoseStamped, Quaternion, TransformStamped, Twist, Vector3
from gymnasium import spaces
from node_harness import PATIENCE_S, Peer
from onnx import TensorProto, helper, numpy_helper
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from rclpy.time import Time
from sensor_msgs.msg import Imu, JointState
from test_examples import ARM_POSITION, EXAMPLES, FINGER, expected_command, message, parameters

from policy_node.config.package_files import share_path
from policy_node.config.parameter_file import read_parameter_file
from policy_node.config.schema import ConfigurationError, parse_configuration, topic_of
from policy_node.messages.codecs import message_class
from policy_node.ros import ownership
from policy_node.ros.node import PolicyNode
from policy_node.ros.process import destroy_last_node
from policy_node_bench.harness.untrained import untrained_model

# A pause of a busy machine is no silence.
CALM: dict[str, Any] = {"synchronisation.max_age_s": 1.0, "synchronisation.slop_s": 0.9}
Make = Callable[[str], Any]


def numbers_of(command: Any) -> np.ndarray:
    """Return the components of a command of any of the types here."""
    if hasattr(command, "twist"):
        return np.array([command.twist.linear.x, command.twist.angular.z])
    if hasattr(command, "points"):
        return np.array(command.points[0].positions)
    if hasattr(command, "poses"):
        return np.array([pose.position.x for pose in command.poses])
    if hasattr(command, "motor_cmd"):
        return np.array([motor.q for motor in command.motor_cmd[:12]])
    return np.array(command.data)


class Rig:
    """A node that drives one robot, the sensors of that robot, and its commands.

    Attributes
    ----------
    commands
        What came on each command topic, in the order of `configuration.commands`.
    """

    def __init__(self, peer: Peer, given: dict[str, Any], make: Make) -> None:
        self._peer = peer
        self._make = make
        self.configuration = configuration = parse_configuration(given)
        robot = configuration.robots[0]
        self.sensors = {source.topic: source.type for source in configuration.sources}
        self._publishers = {
            topic: peer.node.create_publisher(message_class(kind), topic_of(robot, topic), 10)
            for topic, kind in self.sensors.items()
        }
        self.commands: list[list[Any]] = []
        for command in configuration.commands:
            found: list[Any] = []
            topic = topic_of(robot, command.topic)
            peer.node.create_subscription(message_class(command.type), topic, found.append, QoSProfile(depth=1000))
            self.commands.append(found)
        self.node = PolicyNode(parameter_overrides=[Parameter(name, value=value) for name, value in given.items()])
        peer._executor.add_node(self.node)
        assert self.node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert self.node.trigger_activate() == TransitionCallbackReturn.SUCCESS

    def destroy(self) -> None:
        self.node.stop()
        self._peer._executor.remove_node(self.node)
        destroy_last_node(self.node)

    def newest(self) -> np.ndarray:
        """Return the newest command, the components of all topics one after the other; NaN where none came."""
        if not all(self.commands):
            return np.array([np.nan])
        return np.concatenate([numbers_of(found[-1]) for found in self.commands])

    def run_until_commanded(self, expected: np.ndarray, silent: Collection[str] = ()) -> None:
        """Publish the readings of all sensors but the silent ones until the robot gets a command."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not self._peer.spin_for(0.02, lambda: np.allclose(self.newest(), expected, rtol=0.0, atol=1e-4)):
            loop = self.node.loop
            states = loop.latest.reasons if loop is not None and loop.latest is not None else None
            assert time.monotonic() < deadline_s, f"expected {expected}, got {self.newest()}, {states}"
            stamp = Time(nanoseconds=self._peer.node.get_clock().now().nanoseconds).to_msg()
            for topic in self.sensors.keys() - set(silent):
                made = self._make(self.sensors[topic])
                if hasattr(made, "header"):
                    made.header.stamp = stamp
                self._publishers[topic].publish(made)


@pytest.fixture
def make_rig(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Rig]]:
    monkeypatch.setattr(ownership, "DISCOVERY_S", 0.0)
    made: list[Rig] = []

    def make(given: dict[str, Any], reading: Make) -> Rig:
        made.append(Rig(peer, given, reading))
        return made[-1]

    yield make
    for rig in made:
        rig.destroy()


SAFE = {
    # Positions as measured, so that the arm stays where it is and the gripper drops nothing.
    "arm_gripper.yaml": [*ARM_POSITION, FINGER],
    "lidar_goal.yaml": [0.0, 0.0],
    "depth_camera.yaml": [0.0, 0.0],
}


@pytest.mark.both_distributions
@pytest.mark.parametrize("file", SAFE)
def test_a_robot_is_driven_and_safe_while_a_sensor_is_silent(
    file: str, make_rig: Callable[..., Rig], tmp_path: Path
) -> None:
    (example,) = [example for example in EXAMPLES if example.file == file]
    model = untrained_model(spaces.Dict(example.observations), spaces.Box(-1.0, 1.0, (example.actions,), np.float32))
    with torch.no_grad():
        # An untrained policy commands next to nothing.
        model.policy.action_net.weight.mul_(10.0)
        model.policy.action_net.bias.fill_(0.2)
    model.save(tmp_path / "policy.zip")
    # The ramp of the arm takes its time.
    given = parameters(example, tmp_path / "policy.zip", **CALM, **{"action.ramp_s": None})
    rig = make_rig(given, lambda kind: message(example, kind, 0))
    expected = expected_command(example, model, rig.configuration)
    assert not np.allclose(expected, SAFE[file], atol=0.01)
    rig.run_until_commanded(expected)
    position = rig.configuration.safe_position
    # Without joint states the position to hold is soon unknown, and nothing is sent: test_safe_position.py.
    for topic in rig.sensors.keys() - {position.topic if position else ""}:
        rig.run_until_commanded(np.array(SAFE[file]), silent=[topic])
        rig.run_until_commanded(expected)
    rig.node.trigger_deactivate()
    rig.run_until_commanded(np.array(SAFE[file]))


def goal_by_tf(folder: Path) -> dict[str, Any]:
    """Return the parameters of the lidar robot with the goal that the file shows for tf."""
    text = share_path("config", "lidar_goal.yaml").read_text()
    shown, count = re.subn(r"^( {8})#(goal:|  \w+: )", r"\1\2", text, flags=re.MULTILINE)
    assert count == 7
    file = folder / "lidar_goal_by_tf.yaml"
    # Of two entries with one name the last counts.
    file.write_text(shown)
    given = read_parameter_file(file)
    return {name: value for name, value in given.items() if name.startswith("observations.state.goal.")}


def test_the_goal_of_the_lidar_robot_can_be_that_of_rviz(tmp_path: Path) -> None:
    (example,) = [example for example in EXAMPLES if example.file == "lidar_goal.yaml"]
    configuration = parse_configuration(parameters(example, Path("unused"), **goal_by_tf(tmp_path)))
    (goal,) = [source for source in configuration.sources if source.name == "state.goal"]
    assert (goal.topic, goal.base_frame, goal.max_age_s) == ("/goal_pose", "base_link", math.inf)
    assert goal.reading_max_age_s == 1.0


def transform_of(frame: str, child: str, stamp: Any, x: float, y: float, yaw: float) -> TransformStamped:
    """Return where a frame is in another one."""
    made = TransformStamped(child_frame_id=child)
    made.header.stamp, made.header.frame_id = stamp, frame
    made.transform.translation.x, made.transform.translation.y = x, y
    made.transform.rotation.z, made.transform.rotation.w = math.sin(yaw / 2), math.cos(yaw / 2)
    return made


@pytest.mark.both_distributions
@pytest.mark.skipif(
    importlib.util.find_spec("tf2_ros") is None, reason="tf2_ros comes with a ROS 2 installation, not as a wheel"
)
def test_a_lidar_robot_is_driven_to_a_goal_in_the_map_by_tf(make_rig: Callable[..., Rig], tmp_path: Path) -> None:
    (example,) = [example for example in EXAMPLES if example.file == "lidar_goal.yaml"]
    model = untrained_model(spaces.Dict(example.observations), spaces.Box(-1.0, 1.0, (2,), np.float32))
    with torch.no_grad():
        model.policy.action_net.weight.mul_(10.0)
        model.policy.action_net.bias.fill_(0.2)
    model.save(tmp_path / "policy.zip")
    changes = {**CALM, **goal_by_tf(tmp_path), "action.max_rate": None}
    rig = make_rig(parameters(example, tmp_path / "policy.zip", **changes), lambda kind: message(example, kind, 0))
    node, (topic,) = rig._peer.node, {"/goal_pose"} & rig.sensors.keys()
    transforms = node.create_publisher(message_class("tf2_msgs/msg/TFMessage"), "/tf", 100)
    goals = rig._publishers[topic]
    # Where the robot is on the map; none: nothing localises it.
    poses: list[tuple[float, float, float]] = []

    def send_transforms() -> None:
        stamp = node.get_clock().now().to_msg()
        found = [transform_of("odom", "base_link", stamp, *poses[-1])] if poses else []
        localised = [transform_of("map", "odom", stamp, 1.0, 1.0, 0.0)] if is_localised else []
        transforms.publish(message_class("tf2_msgs/msg/TFMessage")(transforms=[*found, *localised]))

    is_localised = True
    timer = node.create_timer(0.02, send_transforms)
    try:
        poses.append((0.0, 0.0, 0.0))
        rig.run_until_commanded(np.array(SAFE["lidar_goal.yaml"]), silent=[topic])
        goal = PoseStamped()
        goal.header.frame_id = "map"
        goal.header.stamp = node.get_clock().now().to_msg()
        goal.pose.position.x, goal.pose.position.y = 3.0, 0.0
        goals.publish(goal)
        # In the frame of the robot 2 m ahead and 1 m to the right, as in the example.
        expected = expected_command(example, model, rig.configuration)
        rig.run_until_commanded(expected, silent=[topic])
        # The robot drives and turns to the left; the goal stays where it is.
        poses.append((1.0, 0.5, math.pi / 2))
        state = [-1.5, -1.0, 0.2, -0.5]
        moved = expected_command(replace(example, seen={**example.seen, "state": state}), model, rig.configuration)
        assert not np.allclose(moved, expected, atol=0.01)
        rig.run_until_commanded(moved, silent=[topic])
        is_localised = False
        rig.run_until_commanded(np.array(SAFE["lidar_goal.yaml"]), silent=[topic])
        reasons = rig.node.loop.latest.reasons
        found = r"state\.goal \(transform map -> base_link\): is 1\.\d+ s old, its transform_max_age_s allows 1\.000 s"
        assert re.search(found, str(reasons)), reasons
        is_localised = True
        rig.run_until_commanded(moved, silent=[topic])
    finally:
        node.destroy_timer(timer)
        node.destroy_publisher(transforms)


class Plans(torch.nn.Module):
    """Plans eight actions of the arm, each joint a tenth more in each; the gripper stays in the middle."""

    def forward(self, joints: torch.Tensor) -> torch.Tensor:
        """Return plans `[robots, 8, 7]` for joints `[robots, 7]`."""
        steps = 0.1 * torch.arange(8)[None, :, None].float()
        return torch.cat([steps.repeat(joints.size(0), 1, 6), torch.zeros(joints.size(0), 8, 1)], dim=2)


def test_an_arm_gets_trajectories_of_its_plan(make_rig: Callable[..., Rig], tmp_path: Path) -> None:
    (example,) = [example for example in EXAMPLES if example.file == "arm_gripper.yaml"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(Plans()).save(str(tmp_path / "plans.pt"))
    changes = {"observations.keys": ["joints"], "observations.joints.shape": [7], "action.ramp_s": None}
    given = parameters(example, tmp_path / "plans.pt", **CALM, **changes, **{"policy.engine": "torchscript"})
    given = {name: value for name, value in given.items() if not name.startswith("observations.image")}
    with pytest.raises(ConfigurationError, match=r"actions.gripper.points: given for a std_msgs/msg/Float64MultiArray"):
        parse_configuration({**given, "actions.gripper.points": 6})
    rig = make_rig(
        {**given, "actions.arm.points": 6, "actions.arm.max_rate": [0.8]}, lambda kind: message(example, kind, 0)
    )
    settings = rig.configuration.action
    start = np.array(settings.offset)
    rig.run_until_commanded(start)
    points = rig.commands[0][-1].points
    assert [point.time_from_start.sec * 10**9 + point.time_from_start.nanosec for point in points] == [
        number * 100_000_000 for number in range(1, 7)
    ]
    # Points are two steps of 0.05 rad apart, max_rate allows 0.08 rad, and the last action repeats.
    changed = np.array([point.positions for point in points]) - start[:6]
    expected = np.array([0.0, 0.08, 0.16, 0.24, 0.32, 0.35])
    np.testing.assert_allclose(changed, np.repeat(expected[:, None], 6, axis=1), atol=1e-6)
    rig.node.trigger_deactivate()
    rig.run_until_commanded(np.array(SAFE["arm_gripper.yaml"]))
    assert [list(point.positions) for point in rig.commands[0][-1].points] == [ARM_POSITION.tolist()] * 6


# The robot's message type needs a package that does not come as a wheel.
HAS_MOTORS = importlib.util.find_spec("ros2_unitree_legged_msgs") is not None
# Other messages that have arrays of messages, too.
STAND_IN = {
    "motor_cmd": "poses",
    ".q": ".position.x",
    ".kp": ".orientation.x",
    ".kd": ".orientation.y",
    ".mode": ".orientation.z",
}
QUADRUPED_STATE = JointState(
    position=np.linspace(-1.5, 0.9, 12).tolist(),
    velocity=np.linspace(2.0, -2.0, 12).tolist(),
)
TURNING, TILTED = Vector3(x=0.5, y=-0.25, z=1.0), Quaternion(x=0.6, w=0.8)
# Of the policy's last action in its next one.
MEMORY = 0.1


class Quadruped:
    """A linear policy of the quadruped in `quadruped_gains.yaml`, what it should command, and what the robot senses."""

    def __init__(self, file: Path) -> None:
        self.velocity = np.array([0.5, -0.25, 0.75])
        self.weights = np.random.default_rng(5).normal(0.0, 0.3, (45, 12)).astype(np.float32)
        self.weights[33:] = MEMORY * np.eye(12)
        ports = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["robots", size])
            for name, size in (("obs", 45), ("actions", 12))
        ]
        node = helper.make_node("MatMul", ["obs", "weights"], ["actions"])
        weights = numpy_helper.from_array(self.weights, "weights")
        graph = helper.make_graph([node], "policy", ports[:1], ports[1:], [weights])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(file))
        given = read_parameter_file(share_path("config", "quadruped_gains.yaml"))
        own: dict[str, Any] = {"policy.path": str(file), "policy.device": "cpu"}
        if not HAS_MOTORS:
            own["action.type"] = "geometry_msgs/msg/PoseArray"
            for name in ("action.fields", "action.constants"):
                own[name] = [_stand_in(text) for text in given[name] if text.startswith("motor_cmd")]
        self.parameters = {**given, **own, **CALM}
        self.joints = given["observations.policy.joint_position.joints"]
        self.default = np.array(given["observations.policy.joint_position.default"])

    def message(self, kind: str) -> Any:
        """Return what a sensor of a type says; the joints in another order than the policy's."""
        if kind == "sensor_msgs/msg/JointState":
            QUADRUPED_STATE.name = self.joints[::-1]
            return QUADRUPED_STATE
        if kind == "geometry_msgs/msg/Twist":
            x, y, turn = self.velocity.tolist()
            return Twist(linear=Vector3(x=x, y=y), angular=Vector3(z=turn))
        return Imu(angular_velocity=TURNING, orientation=TILTED)

    def action(self, before: np.ndarray) -> np.ndarray:
        """Return the action of the policy after the one before it."""
        position, velocity = np.array(QUADRUPED_STATE.position)[::-1], np.array(QUADRUPED_STATE.velocity)[::-1]
        turning = np.array([TURNING.x, TURNING.y, TURNING.z])
        # Of a body that is rolled by 2 atan2(0.6, 0.8).
        gravity = [0.0, -0.96, -0.28]
        observed = [0.2 * turning, gravity, self.velocity, position - self.default, 0.05 * velocity, before]
        return np.concatenate(observed) @ self.weights

    def settled(self) -> np.ndarray:
        """Return the action that follows itself."""
        return self.action(np.zeros(12)) / (1.0 - MEMORY)


def constants_of(command: Any) -> list[tuple[float, ...]]:
    """Return kp, kd and mode of each motor."""
    if HAS_MOTORS:
        assert (command.head.tolist(), command.level_flag) == ([254, 239], 255)
        assert not any(motor.q or motor.kp for motor in command.motor_cmd[12:])
        return [(motor.kp, motor.kd, motor.mode) for motor in command.motor_cmd[:12]]
    return [(pose.orientation.x, pose.orientation.y, pose.orientation.z) for pose in command.poses]


def _stand_in(text: str) -> str:
    return re.sub(r"motor_cmd|\.(?:q|kp|kd|mode)\b", lambda match: STAND_IN[match[0]], text)


def test_a_quadruped_gets_gains_and_500_commands_a_second(make_rig: Callable[..., Rig], tmp_path: Path) -> None:
    robot = Quadruped(tmp_path / "quadruped.onnx")
    rig = make_rig(robot.parameters, robot.message)
    settings = rig.configuration.action
    assert settings.publish_rate_hz == 10 * rig.configuration.control_rate_hz == 500.0

    def command(action: np.ndarray) -> np.ndarray:
        return np.clip(action * settings.scale + settings.offset, settings.low, settings.high)

    # The motors take single precision.
    safe, (commands,) = np.array(settings.safe_command, np.float32 if HAS_MOTORS else np.float64), rig.commands
    rig.run_until_commanded(command(robot.settled()))
    # Safe at once, without any command in between.
    for topic in rig.sensors:
        driven = command(robot.settled())
        del commands[:-1]
        rig.run_until_commanded(safe, silent=[topic])
        # A busy machine may have stopped it before, and driven it again.
        sent = [numbers_of(found) for found in commands]
        last = max(at for at, found in enumerate(sent) if np.allclose(found, driven, atol=1e-4))
        assert last < len(sent) - 1 and all(np.array_equal(found, safe) for found in sent[last + 1 :])
        rig.run_until_commanded(driven)

    # Tenths of the way from one command to the next that were sent.
    tenths: set[int] = set()

    def ask_for_another_velocity() -> None:
        """Let the operator ask for another velocity, and note the tenths of the way to the next command."""
        action = robot.settled()
        robot.velocity *= -1.0
        start, end = command(action), command(robot.action(action))
        way = start + (end - start) * np.arange(11)[:, None] / 10
        del commands[:-1]
        rig.run_until_commanded(command(robot.settled()))
        passed: list[int] = []
        for sent in map(numbers_of, commands):
            tenth = int(np.abs(way - sent).max(axis=1).argmin())
            if not np.allclose(sent, way[tenth], rtol=0.0, atol=1e-4):
                break
            passed.append(tenth)
        assert passed == sorted(passed)
        tenths.update(passed)

    # A busy machine skips some at a time.
    deadline_s = time.monotonic() + PATIENCE_S
    while tenths != set(range(11)):
        assert time.monotonic() < deadline_s, f"only these tenths of the way were commanded: {sorted(tenths)}"
        ask_for_another_velocity()
    for found in commands:
        assert constants_of(found) == [(25.0, 0.5, 10.0)] * 12
