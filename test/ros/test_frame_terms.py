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
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from node_harness import Peer
from rclpy.serialization import deserialize_message, serialize_message
from rclpy.time import Time

from policy_node.config.schema import Configuration, ConfigurationError, check_same_sensors, parse_configuration
from policy_node.config.specs import ArraySpec
from policy_node.messages.codecs import reading_decoder, reading_size
from policy_node.messages.reading import UnusableReading
from policy_node.ros.frames import FrameIntake, FramePoses, transformed
from policy_node.ros.subscriptions import check_topics
from policy_node.sensing.fleet_samples import FleetSamples
from policy_node.sensing.synchroniser import RobotState, Selection

POSE = "geometry_msgs/msg/PoseStamped"
NOW = 10**18
SECOND = 10**9


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
    goal = next(source for source in configuration_of(max_age_s=math.inf, transform_max_age_s=0.5).sources)
    assert goal.reading_max_age_s == 0.5


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"max_age_s": 1.0}, r"found 0\.5 beside max_age_s 1\.0, which also limits the age of the transform"),
        ({}, r"found 0\.5 beside max_age_s 0\.0"),
        ({"max_age_s": math.inf, "base_frame": ""}, "given without base_frame"),
    ],
)
def test_the_transform_has_a_limit_only_where_the_message_does_not_age(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"observations\.goal\.transform_max_age_s: {problem}"):
        configuration_of(transform_max_age_s=0.5, **given)


class Taken(list[tuple[int, int, int, Any]]):
    """Replaces the pipeline, and keeps the messages."""

    def add(self, robot: int, sensor: int, stamp_ns: int, message: Any) -> None:
        self.append((robot, sensor, stamp_ns, message))

    def set_present(self, robot: int, sensor: int, present: bool) -> None:
        raise AssertionError

    def name_oldest(self, robot: int, sensor: int, what: str) -> None:
        pass


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


def intake_of(peer: Peer, taken: Taken) -> tuple[FramePoses, FrameIntake, int]:
    """Return the poses of goals that age, what stands before the pipeline, and the index of the goal."""
    configuration = configuration_of(max_age_s=1.0)
    poses = FramePoses(peer.node, configuration)
    return poses, FrameIntake(poses, taken), [sources[0].name for sources in configuration.sensors].index("goal")


def test_a_goal_stays_where_it_is_while_the_robot_moves(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, taken = Graph(monkeypatch), Taken()
    poses, intake, goal = intake_of(peer, taken)
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


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    stamp=st.tuples(st.integers(-(2**31), 2**31 - 1), st.integers(0, 2**32 - 1)),
    transform_s=st.sampled_from([0, 1, 2**31 - 1]),
    offset_s=st.sampled_from([0, -(10**10), 10**10]),
    numbers=st.lists(st.floats(), min_size=7, max_size=7),
)
def test_no_pose_stops_the_tick_and_none_is_newer_than_its_message(
    stamp: tuple[int, int],
    transform_s: int,
    offset_s: int,
    numbers: list[float],
    peer: Peer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph, taken = Graph(monkeypatch), Taken()
    poses, intake, goal = intake_of(peer, taken)
    pose = pose_of(0.0, 0.0, 0.0, "map")
    pose.header.stamp.sec, pose.header.stamp.nanosec = stamp
    for part, names, values in (("position", "xyz", numbers[:3]), ("orientation", "xyzw", numbers[3:])):
        for name, value in zip(names, values, strict=True):
            setattr(getattr(pose.pose, part), name, value)
    stamp_ns = (stamp[0] + offset_s) * SECOND + stamp[1]
    graph.set("a/base_link", "map", transform_s * SECOND, 1.0, 1.0)
    clock = peer.node.get_clock()
    begun_ns = clock.now().nanoseconds
    intake.add(0, goal, stamp_ns, serialize_message(pose))
    poses.pass_on(taken)
    ((robot, sensor, passed_ns, raw),) = taken
    assert (robot, sensor) == (0, goal)
    older_ns = min([stamp_ns, *([transform_s * SECOND] if transform_s else [])])
    # A clock that is ahead makes nothing younger.
    assert passed_ns == older_ns or begun_ns <= passed_ns <= min(older_ns, clock.now().nanoseconds)
    assert deserialize_message(raw, PoseStamped).header.frame_id == "a/base_link"


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


class Fleet:
    """Poses on their way to the choice of the readings, with the transforms that a test sets."""

    def __init__(self, peer: Peer, monkeypatch: pytest.MonkeyPatch, **goal: Any) -> None:
        self.graph = Graph(monkeypatch)
        configuration = configuration_of(**goal)
        names = [sources[0].name for sources in configuration.sensors]
        self._goal, self._touch = names.index("goal"), names.index("touch")
        self.samples = FleetSamples(configuration)
        self._poses = FramePoses(peer.node, configuration)
        self._intake = FrameIntake(self._poses, self.samples)

    def publish(self, stamp_ns: int) -> None:
        """Publish a goal for the first robot."""
        self._intake.add(0, self._goal, stamp_ns, serialize_message(pose_of(4.0, 0.0, 0.0, "map")))

    def select(self, now_ns: int) -> Selection:
        """Return the readings of the first robot for a tick; the other sensor always has one."""
        self._poses.pass_on(self.samples)
        self._intake.add(0, self._touch, now_ns, b"touch")
        return self.samples.select(now_ns, now_ns - 50_000_000)[0]


MESSAGE, TRANSFORM = "message on a/goal_pose", "transform map -> a/base_link"


def test_a_dead_detector_makes_the_robot_stale_although_tf_goes_on(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(peer, monkeypatch, max_age_s=1.0)
    fleet.publish(NOW)
    for age_ns in range(0, 2 * SECOND, SECOND // 4):
        fleet.graph.set("a/base_link", "map", NOW + age_ns, -1.0, 0.0)
        selection = fleet.select(NOW + age_ns)
        if age_ns <= SECOND:
            assert selection.state is RobotState.READY
            # What was measured once is as old as that, however often it is computed again.
            assert selection.samples[1].stamp_ns == NOW
        else:
            assert selection.state is RobotState.STALE
            expected = f"goal ({MESSAGE}): is {age_ns / 1e9:.3f} s old, its max_age_s allows 1.000 s"
            assert selection.reason == expected
    fleet.publish(NOW + 2 * SECOND)
    assert fleet.select(NOW + 2 * SECOND).state is RobotState.READY


def test_a_static_transform_makes_a_message_no_newer(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(peer, monkeypatch, max_age_s=1.0)
    fleet.graph.set("a/base_link", "map", 0, -1.0, 0.0)
    fleet.publish(NOW)
    assert fleet.select(NOW + SECOND).state is RobotState.READY
    selection = fleet.select(NOW + SECOND + 1)
    assert selection.state is RobotState.STALE and selection.reason.startswith(f"goal ({MESSAGE}): is 1.000 s old")


@pytest.mark.parametrize("is_known", [True, False])
def test_a_dead_localisation_makes_the_robot_stale_although_the_detector_goes_on(
    is_known: bool, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(peer, monkeypatch, max_age_s=1.0)
    fleet.graph.set("a/base_link", "map", NOW, -1.0, 0.0)
    fleet.publish(NOW - 1)
    assert fleet.select(NOW).state is RobotState.READY
    if not is_known:
        # What tf has of the other frames of the chain is too new by now.
        fleet.graph.transforms.clear()
    fleet.publish(NOW + 2 * SECOND)
    selection = fleet.select(NOW + 2 * SECOND)
    assert selection.state is RobotState.STALE
    assert selection.reason == f"goal ({TRANSFORM}): is 2.000 s old, its max_age_s allows 1.000 s"


def test_a_goal_that_is_published_once_is_as_old_as_its_transform(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(peer, monkeypatch, max_age_s=math.inf, transform_max_age_s=0.5)
    fleet.publish(NOW - 3600 * SECOND)
    fleet.graph.set("a/base_link", "map", NOW, -1.0, 0.0)
    assert fleet.select(NOW + SECOND // 2).state is RobotState.READY
    selection = fleet.select(NOW + SECOND)
    assert selection.state is RobotState.STALE
    assert selection.reason == f"goal ({TRANSFORM}): is 1.000 s old, its transform_max_age_s allows 0.500 s"
    fleet.samples.change_limits(configuration_of(max_age_s=math.inf, transform_max_age_s=1.5))
    assert fleet.select(NOW + SECOND).state is RobotState.READY


def test_a_detector_whose_clock_is_ahead_is_noticed_when_it_dies(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(peer, monkeypatch, max_age_s=1.0)
    arrived_ns = peer.node.get_clock().now().nanoseconds
    fleet.graph.set("a/base_link", "map", arrived_ns, -1.0, 0.0)
    fleet.publish(arrived_ns + 3600 * SECOND)
    assert fleet.select(arrived_ns + SECOND).state is RobotState.READY
    fleet.graph.set("a/base_link", "map", arrived_ns + 3600 * SECOND, -1.0, 0.0)
    assert fleet.select(arrived_ns + 3 * SECOND).state is RobotState.STALE


def test_whether_a_message_ages_is_not_changed_while_the_node_is_configured() -> None:
    ageless, ages = configuration_of(max_age_s=math.inf, transform_max_age_s=0.5), configuration_of(max_age_s=0.5)
    for current, wanted in ((ageless, ages), (ages, ageless)):
        with pytest.raises(ConfigurationError, match=r"beside base_frame neither from nor to \.inf"):
            check_same_sensors(current, wanted)
    check_same_sensors(ages, configuration_of(max_age_s=1.5))


def test_a_synchronised_pose_is_judged_by_the_limit_of_all(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(peer, monkeypatch)
    fleet.graph.set("a/base_link", "map", NOW, -1.0, 0.0)
    fleet.publish(NOW - SECOND // 5)
    selection = fleet.select(NOW)
    assert selection.state is RobotState.STALE
    assert selection.reason == f"goal ({MESSAGE}): is 0.200 s old, synchronisation.max_age_s allows 0.100 s"


def test_of_several_messages_between_two_ticks_the_newest_counts(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, taken = Graph(monkeypatch), Taken()
    poses, intake, goal = intake_of(peer, taken)
    graph.set("a/base_link", "map", NOW, -1.0, 0.0)
    for x in range(50):
        # Python may give the newest message the identity of one before.
        for position in (float(x), x + 0.5):
            intake.add(0, goal, NOW, serialize_message(pose_of(position, 0.0, 0.0, "map")))
        poses.pass_on(taken)
        assert positions(taken) == [(0, x - 0.5, 0.0)]
