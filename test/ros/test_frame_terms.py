# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Poses in the base frame of a robot: their numbers, the computation, and what is refused without tf2_ros."""

import importlib.util
import math
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped, Quaternion, Transform, TransformStamped, Vector3
from node_harness import Peer
from rclpy.serialization import deserialize_message, serialize_message
from rclpy.time import Time

from policy_node.config.schema import Configuration, ConfigurationError, parse_configuration
from policy_node.config.specs import ArraySpec
from policy_node.messages.codecs import reading_decoder, reading_size
from policy_node.messages.reading import UnusableReading
from policy_node.ros.frames import FrameIntake, FramePoses, transformed
from policy_node.ros.subscriptions import check_topics

POSE = "geometry_msgs/msg/PoseStamped"
NOW = 10**18


def yaw_of(angle: float) -> Quaternion:
    return Quaternion(z=math.sin(angle / 2), w=math.cos(angle / 2))


def pose_of(x: float, y: float, yaw: float, frame: str = "base_link") -> PoseStamped:
    pose = PoseStamped()
    pose.header.frame_id = frame
    pose.pose.position.x, pose.pose.position.y = x, y
    pose.pose.orientation = yaw_of(yaw)
    return pose


def decode(pose: PoseStamped, size: int, **choices: Any) -> list[float]:
    decoder = reading_decoder(POSE, ArraySpec("goal", (size,), np.float64, -9, 9), topic="goal", **choices)
    out = np.zeros(size)
    for _ in range(2):
        decoder.decode(serialize_message(pose), out)
    return out.tolist()


@pytest.mark.both_distributions
@pytest.mark.parametrize(
    ("pose_as", "expected"),
    [
        ("position", [1.0, -2.0, 0.0]),
        ("yaw", [2.5]),
        ("position_yaw", [1.0, -2.0, 0.0, 2.5]),
        ("orientation", [0.0, 0.0, math.sin(1.25), math.cos(1.25)]),
        ("pose", [1.0, -2.0, 0.0, 0.0, 0.0, math.sin(1.25), math.cos(1.25)]),
    ],
)
def test_what_is_observed_of_a_pose(pose_as: str, expected: list[float]) -> None:
    assert decode(pose_of(1.0, -2.0, 2.5), len(expected), pose_as=pose_as) == pytest.approx(expected)
    assert reading_size(POSE, pose_as=pose_as) == len(expected)


def test_poses_in_another_frame_are_refused() -> None:
    assert decode(pose_of(1.0, 2.0, 0.5), 1, pose_as="yaw", base_frame="base_link") == pytest.approx([0.5])
    assert decode(pose_of(1.0, 2.0, 0.5, "a/base"), 1, pose_as="yaw", base_frame="{robot}/base") == pytest.approx([0.5])
    for frame in ("map", "", "base_link2"):
        with pytest.raises(UnusableReading, match=f"the pose is in the frame '{frame}', not 'base_link'"):
            decode(pose_of(1.0, 2.0, 0.5, frame), 1, pose_as="yaw", base_frame="base_link")
    pose = pose_of(1.0, 2.0, 0.5)
    pose.pose.orientation.w = 0.0
    with pytest.raises(UnusableReading, match="the quaternion has length"):
        decode(pose, 1, pose_as="yaw")


def test_a_pose_is_transformed_as_matrices_say() -> None:
    rng = np.random.default_rng(3)

    def matrix(q: np.ndarray, t: np.ndarray) -> np.ndarray:
        x, y, z, w = q
        rotation = [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
        return np.block([[np.array(rotation), t[:, None]], [np.zeros((1, 3)), np.ones((1, 1))]])

    for _ in range(20):
        quaternions = rng.normal(size=(2, 4))
        first, second = quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)
        moves = rng.normal(size=(2, 3))
        pose = PoseStamped()
        pose.pose.orientation = Quaternion(**dict(zip("xyzw", second.tolist(), strict=True)))
        for name, number in zip("xyz", moves[1].tolist(), strict=True):
            setattr(pose.pose.position, name, number)
        transform = Transform(
            translation=Vector3(**dict(zip("xyz", moves[0].tolist(), strict=True))),
            rotation=Quaternion(**dict(zip("xyzw", first.tolist(), strict=True))),
        )
        moved = transformed(pose, transform).pose
        got = matrix(
            np.array([getattr(moved.orientation, name) for name in "xyzw"]),
            np.array([getattr(moved.position, name) for name in "xyz"]),
        )
        assert np.allclose(got, matrix(first, moves[0]) @ matrix(second, moves[1]))


def configuration_of(**goal: Any) -> Configuration:
    return parse_configuration(
        {
            "control_rate_hz": 20.0,
            "robots": ["a", "b"],
            "policy": {"path": "unused"},
            "observations": {
                "keys": ["goal", "touch"],
                "goal": {"topic": "goal_pose", "type": POSE, "base_frame": "{robot}/base_link", **goal},
                "touch": {"topic": "touch", "type": "sensor_msgs/msg/JointState"},
            },
            "synchronisation": {"slop_s": 0.02, "max_age_s": 0.1},
            "action": {"topic": "cmd_vel", "type": "geometry_msgs/msg/Twist", "fields": ["linear.x"]},
        }
    )


@pytest.mark.skipif(importlib.util.find_spec("tf2_ros") is not None, reason="tf2_ros is installed")
def test_without_tf2_ros_a_base_frame_is_refused_with_the_remedy(peer: Peer) -> None:
    with pytest.raises(
        ConfigurationError,
        match=r"observations.goal.base_frame: found '\{robot\}/base_link', but tf2_ros cannot be imported .*install",
    ):
        check_topics(peer.node, configuration_of())


def test_a_frame_without_a_base_frame_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"observations\.goal\.frame: given without base_frame"):
        configuration_of(base_frame="", frame="goal")


def test_a_pose_in_the_frame_of_a_robot_must_age() -> None:
    with pytest.raises(ConfigurationError, match=r"observations\.goal\.max_age_s: found \.inf beside base_frame"):
        configuration_of(max_age_s=math.inf)


class Taken(list[tuple[int, int, int, Any]]):
    """Replaces the pipeline, and keeps the messages."""

    def add(self, robot: int, sensor: int, stamp_ns: int, message: Any) -> None:
        self.append((robot, sensor, stamp_ns, message))

    def set_present(self, robot: int, sensor: int, present: bool) -> None:
        raise AssertionError


class Graph:
    """Stands in for tf2_ros where that is not installed: the transforms that a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.transforms: dict[tuple[str, str], TransformStamped] = {}
        module = ModuleType("tf2_ros")
        vars(module).update(
            Buffer=lambda: SimpleNamespace(lookup_transform=self.lookup),
            TransformListener=lambda buffer, node: None,
            TransformException=KeyError,
        )
        monkeypatch.setitem(sys.modules, "tf2_ros", module)

    def lookup(self, target: str, source: str, time: Time) -> TransformStamped:
        assert time.nanoseconds == 0
        return self.transforms[target, source]

    def set(self, target: str, source: str, stamp_ns: int, x: float, yaw: float) -> None:
        transform = TransformStamped()
        transform.header.stamp = Time(nanoseconds=stamp_ns).to_msg()
        transform.transform.translation.x, transform.transform.rotation = x, yaw_of(yaw)
        self.transforms[target, source] = transform


def positions(taken: Taken) -> list[tuple[int, float, float]]:
    """Return robot, x and y of the poses that were passed on, and forget them."""
    found = []
    for robot, _, stamp_ns, raw in taken:
        pose = deserialize_message(raw, PoseStamped)
        assert pose.header.frame_id == f"{'ab'[robot]}/base_link"
        assert Time.from_msg(pose.header.stamp).nanoseconds == stamp_ns
        found.append((robot, round(pose.pose.position.x, 6), round(pose.pose.position.y, 6)))
    taken.clear()
    return found


def test_a_goal_stays_where_it_is_while_the_robot_moves(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, taken = Graph(monkeypatch), Taken()
    configuration = configuration_of(max_age_s=1.0)
    goal = [sources[0].name for sources in configuration.sensors].index("goal")
    poses = FramePoses(peer.node, configuration)
    intake = FrameIntake(poses, taken)
    intake.add(0, goal, NOW, serialize_message(pose_of(4.0, 0.0, 0.0, "map")))
    intake.add(0, 1 - goal, NOW, b"touch")
    assert taken == [(0, 1 - goal, NOW, b"touch")]
    taken.clear()
    # No transform yet: nothing is passed on, and that is logged.
    poses.pass_on(taken)
    assert not taken
    graph.set("a/base_link", "map", NOW, -1.0, 0.0)
    poses.pass_on(taken)
    assert positions(taken) == [(0, 3.0, 0.0)]
    # No news.
    poses.pass_on(taken)
    assert not taken
    graph.set("a/base_link", "map", NOW + 1, -2.0, math.pi / 2)
    poses.pass_on(taken)
    assert positions(taken) == [(0, -2.0, 4.0)]
    intake.add(0, goal, NOW, serialize_message(pose_of(5.0, 0.0, 0.0, "map")))
    poses.pass_on(taken)
    assert positions(taken) == [(0, -2.0, 5.0)]


def test_the_pose_of_a_frame_needs_no_topic(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, taken = Graph(monkeypatch), Taken()
    poses = FramePoses(peer.node, configuration_of(frame="{robot}/dock"))
    for robot in "ab":
        graph.set(f"{robot}/base_link", f"{robot}/dock", 0, 1.0 if robot == "a" else 2.0, 0.0)
    # A static transform is passed on at every tick, with the time of now.
    for _ in range(2):
        poses.pass_on(taken)
        assert all(stamp_ns > 10**18 for _, _, stamp_ns, _ in taken)
        assert positions(taken) == [(0, 1.0, 0.0), (1, 2.0, 0.0)]
