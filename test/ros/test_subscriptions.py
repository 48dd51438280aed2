# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Messages taken at the tick over real DDS, and reports of lost messages."""

import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rclpy
from node_harness import PATIENCE_S, Peer, parameters_of
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image, JointState

from policy_node.config.schema import Configuration, SourceConfiguration, parse_configuration
from policy_node.config.specs import ArraySpec
from policy_node.messages.codecs import reading_decoder
from policy_node.ros.middleware import CYCLONE, middleware
from policy_node.ros.process import EventThreadMonitor
from policy_node.ros.subscriptions import SensorSubscriptions, restamp_of

pytestmark = pytest.mark.both_distributions

# Cameras that publish with the default settings of Fast DDS until SIGINT.
PUBLISHER = textwrap.dedent("""
    import rclpy
    from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import Image
    from policy_node.ros.process import destroy_last_node, ros_process
    with ros_process() as stopping:
        node = rclpy.create_node("camera")
        best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        topics = [f"/large_{robot}/camera/image_raw" for robot in range(4)]
        publishers = [node.create_publisher(Image, topic, best_effort) for topic in topics]
        image = Image(height=480, width=640, encoding="rgb8", step=1920, data=bytes(921600))
        while not stopping.wait(1 / 30):
            for publisher in publishers:
                image.header.stamp = node.get_clock().now().to_msg()
                publisher.publish(image)
        destroy_last_node(node)
""")


class Taken:
    """Replaces the pipeline, and keeps the messages."""

    def __init__(self) -> None:
        self.samples: list[tuple[int, int, int, bytes]] = []
        self.present: dict[tuple[int, int], bool] = {}

    def add(self, robot: int, sensor: int, stamp_ns: int, message: Any) -> None:
        self.samples.append((robot, sensor, stamp_ns, message))

    def set_present(self, robot: int, sensor: int, present: bool) -> None:
        self.present[robot, sensor] = present


class SilentTopic:
    """A topic of robot 0 whose publisher sends when a test wants it."""

    def __init__(self, subscriptions: SensorSubscriptions, peer: Peer) -> None:
        self.subscriptions = subscriptions
        self.taken = Taken()
        qos = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.publisher = peer.node.create_publisher(JointState, "/silent/touch", qos)
        peer.spin_until(lambda: self.publisher.get_subscription_count() == 1, "the subscription")

    def renew(self, now_s: float) -> list[str]:
        """Take messages at two ticks, then renew what is silent at a time."""
        for _ in range(2):
            self.subscriptions.take(self.taken, None)
        return self.subscriptions.renew_silent(now_s)

    def is_taken(self) -> bool:
        """Publish a message, and return whether any has been taken."""
        self.publisher.publish(JointState(name=["a", "b"], effort=[0.0, 0.0]))
        self.subscriptions.take(self.taken, None)
        return bool(self.taken.samples)


def subscriptions_of(node: Node, configuration: Configuration) -> SensorSubscriptions:
    decoders = {}
    for source, *_ in configuration.sensors:
        spec = ArraySpec(source.name, (480, 640, 3), "uint8", 0, 255)
        if not source.is_image:
            spec = ArraySpec(source.name, (len(source.joints) or 2,), "float32", -1, 1)
        decoders[source.name] = reading_decoder(
            source.type, spec, topic=source.topic, field=source.field, joints=source.joints
        )
    return SensorSubscriptions(node, configuration, decoders)


@pytest.fixture
def cameras() -> Iterator[None]:
    profile = "FASTRTPS_DEFAULT_PROFILES_FILE"
    environment = {name: value for name, value in os.environ.items() if name != profile}
    process = subprocess.Popen([sys.executable, "-c", PUBLISHER], env=environment)
    yield
    # Terminated, not killed: see `node_harness.kill` for the effects of a kill while sending.
    process.send_signal(signal.SIGINT)
    process.wait(PATIENCE_S)


def test_the_newest_messages_are_taken_in_their_order(peer: Peer, tmp_path: Path) -> None:
    changes = {
        "observations.keys": ["touch"],
        "observations.image.topic": None,
        "observations.image.type": None,
        "observations.touch.depth": 3,
    }
    configuration = parse_configuration(parameters_of(tmp_path / "policy.zip", ["newest"], changes))
    subscriptions, taken = subscriptions_of(peer.node, configuration), Taken()
    best_effort = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
    publisher = peer.node.create_publisher(JointState, "/newest/touch", best_effort)
    peer.spin_until(lambda: publisher.get_subscription_count() == 1, "the subscription")

    def take(numbers: range) -> list[int]:
        taken.samples.clear()
        for number in numbers:
            message = JointState(name=["a", "b"], effort=[0.0, 0.0])
            message.header.stamp.sec = number
            publisher.publish(message)

        def newest_is_there() -> bool:
            subscriptions.take(taken, None)
            return bool(taken.samples) and taken.samples[-1][2] == numbers[-1] * 10**9

        peer.spin_until(newest_is_there, "the newest message")
        return [stamp_ns // 10**9 for _, _, stamp_ns, _ in taken.samples]

    assert take(range(1, 3)) == [1, 2]
    burst = take(range(3, 30))
    assert burst == sorted(burst) and burst[-1] == 29
    subscriptions.destroy()


@pytest.fixture
def silent(peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SilentTopic]:
    """Return a topic with a publisher, and one without, that a node subscribes."""
    # The machine may keep the thread from running; a test of its own looks at that.
    monkeypatch.setattr(EventThreadMonitor, "has_stopped", lambda *checks: False)
    changes = {"observations.keys": ["touch"], "observations.image.topic": None, "observations.image.type": None}
    configuration = parse_configuration(parameters_of(tmp_path / "policy.zip", ["silent", "absent"], changes))
    topic = SilentTopic(subscriptions_of(peer.node, configuration), peer)
    yield topic
    topic.subscriptions.destroy()
    peer.spin_until(lambda: topic.publisher.get_subscription_count() == 0, "the end of all subscriptions")


def test_a_topic_that_is_silent_although_it_has_a_publisher_is_subscribed_again(
    silent: SilentTopic, peer: Peer
) -> None:
    assert silent.renew(100.0) == [] == silent.renew(104.0)
    assert silent.renew(105.0) == ["/silent/touch"]
    # The next time takes twice as long.
    assert silent.renew(114.0) == []
    assert silent.renew(115.0) == ["/silent/touch"]
    peer.spin_until(silent.is_taken, "a message of the new subscription")
    assert {robot for robot, *_ in silent.taken.samples} == {0}
    # Silence is measured from the last message on.
    assert silent.renew(200.0) == [] == silent.renew(204.0)
    assert silent.publisher.get_subscription_count() == 1


def test_a_tick_takes_on_from_a_subscription_that_is_replaced_meanwhile(silent: SilentTopic, peer: Peer) -> None:
    subscriptions = silent.subscriptions
    assert silent.renew(100.0) == [] == silent.renew(104.0)
    subscriptions.take(silent.taken, None)
    depth, take, *others = subscriptions._takes[0]
    found = []

    def take_while_renewed() -> Any:
        found.append(subscriptions.renew_silent(105.0 + len(found)))
        return take()

    subscriptions._takes[0] = (depth, take_while_renewed, *others)
    subscriptions.take(silent.taken, None)
    assert found == [["/silent/touch"]]
    assert silent.renew(106.0) == [] == silent.renew(107.0)
    peer.spin_until(silent.is_taken, "a message of the new subscription")


def test_silence_without_ticks_is_no_fault_of_the_publisher(silent: SilentTopic) -> None:
    assert silent.renew(100.0) == []
    assert [silent.subscriptions.renew_silent(time_s) for time_s in (106.0, 150.0, 300.0)] == [[], [], []]


def test_nothing_is_renewed_while_the_middleware_stands_still(
    silent: SilentTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert silent.renew(100.0) == [] == silent.renew(104.0)
    monkeypatch.setattr(EventThreadMonitor, "has_stopped", lambda *checks: True)
    assert silent.renew(200.0) == []


@pytest.mark.parametrize(
    "usual", [{"durability": "transient_local", "reliability": "reliable"}, {"max_age_s": math.inf}, {"max_age_s": 9.0}]
)
def test_topics_that_are_silent_for_long_as_a_rule_are_left_alone(
    usual: dict[str, Any], peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EventThreadMonitor, "has_stopped", lambda *checks: False)
    changes = {f"observations.touch.{name}": value for name, value in usual.items()}
    configuration = parse_configuration(parameters_of(tmp_path / "policy.zip", ["silent"], changes))
    topic = SilentTopic(subscriptions_of(peer.node, configuration), peer)
    assert topic.renew(100.0) == [] == topic.renew(108.0)
    topic.subscriptions.destroy()


def test_the_safe_position_is_subscribed_as_the_last_sensor(peer: Peer, tmp_path: Path) -> None:
    changes = {
        "action.type": "std_msgs/msg/Float64MultiArray",
        "action.fields": None,
        "action.safe_position_topic": "joint_states",
        "action.safe_position_joints": ["a", "b"],
    }
    configuration = parse_configuration(parameters_of(tmp_path / "policy.zip", ["arm"], changes))
    subscriptions, taken = subscriptions_of(peer.node, configuration), Taken()
    publisher = peer.node.create_publisher(JointState, "/arm/joint_states", 1)
    peer.spin_until(lambda: publisher.get_subscription_count() == 1, "the subscription")
    message = JointState(name=["a", "b"], position=[0.25, 0.5])
    message.header.stamp.sec = 7

    def arrived() -> bool:
        publisher.publish(message)
        subscriptions.take(taken, None)
        return bool(taken.samples)

    peer.spin_until(arrived, "the position")
    assert taken.samples[0][:3] == (0, 2, 7 * 10**9)
    subscriptions.destroy()


def test_a_topic_that_robots_share_is_subscribed_once_and_read_by_all(peer: Peer, tmp_path: Path) -> None:
    """An absolute topic, and topics that remapping makes one; a second observation reads the former, too."""
    changes = {
        "observations.keys": ["image", "touch", "wide"],
        "observations.image.topic": "/camera",
        "observations.wide.topic": "/camera",
        "observations.wide.type": "sensor_msgs/msg/Image",
        "observations.touch.when_silent": "zeros",
    }
    robots = ["one", "two", "three"]
    configuration = parse_configuration(parameters_of(tmp_path / "policy.zip", robots, changes))
    remapped = [argument for robot in robots[:2] for argument in ("-r", f"/{robot}/touch:=/floor")]
    node = rclpy.create_node("sharing", cli_args=["--ros-args", *remapped])
    subscriptions, taken = subscriptions_of(node, configuration), Taken()
    camera = peer.node.create_publisher(Image, "/camera", 1)
    floor = peer.node.create_publisher(JointState, "/floor", 1)
    own = peer.node.create_publisher(JointState, "/three/touch", 1)
    publishers = (camera, floor, own)
    peer.spin_until(lambda: all(each.get_subscription_count() for each in publishers), "the subscriptions")
    assert [each.get_subscription_count() for each in publishers] == [1, 1, 1]
    assert len(list(node.subscriptions)) == 3

    # Image, wide, and touch, which is last as it may be silent.
    expected = [(robot, sensor) for robot in range(3) for sensor in range(3)]
    for publisher, message in ((camera, Image()), (floor, JointState()), (own, JointState())):
        message.header.stamp.sec = 7
        publisher.publish(message)

    def heard() -> bool:
        subscriptions.take(taken, None)
        return len(taken.samples) >= len(expected) and len(taken.present) == 3 and all(taken.present.values())

    peer.spin_until(heard, "all messages and publishers")
    assert sorted(sample[:2] for sample in taken.samples) == expected
    assert {stamp_ns for _, _, stamp_ns, _ in taken.samples} == {7 * 10**9}
    by_reader = {(robot, sensor): message for robot, sensor, _, message in taken.samples}
    # One object, so that staging decodes it once.
    assert len({id(by_reader[robot, sensor]) for robot in range(3) for sensor in (0, 1)}) == 1
    assert by_reader[0, 2] is by_reader[1, 2] and by_reader[0, 2] is not by_reader[2, 2]
    assert set(taken.present) == {(robot, 2) for robot in range(3)}
    received = [[stream.counts().received for stream in streams] for streams in subscriptions.reception.streams]
    assert received == [[1, 1, 1]] * 3
    subscriptions.destroy()
    node.destroy_node()


@pytest.mark.over_dds
@pytest.mark.skipif(middleware() == CYCLONE, reason="it does not number messages")
def test_lost_large_images_are_reported_with_the_remedy(peer: Peer, tmp_path: Path, cameras: None) -> None:
    changes = {
        "observations.keys": ["image"],
        **{f"observations.touch.{name}": None for name in ("topic", "type", "field")},
    }
    robots = [f"large_{robot}" for robot in range(4)]
    configuration = parse_configuration(parameters_of(tmp_path / "policy.zip", robots, changes))
    subscriptions, taken = subscriptions_of(peer.node, configuration), Taken()
    deadline_s = time.monotonic() + PATIENCE_S
    lost: list[Any] = []
    while not lost and time.monotonic() < deadline_s:
        subscriptions.take(taken, None)
        lost = [finding for finding in subscriptions.reception.findings() if finding.kind == "lost"]
        time.sleep(0.02)
    assert lost, f"{len(taken.samples)} images came, none was found to be lost"
    assert lost[0].sensor == "image" and set(lost[0].robots) <= set(robots)
    assert "FASTRTPS_DEFAULT_PROFILES_FILE" in str(lost[0])
    subscriptions.destroy()


def test_the_time_of_a_reading_is_chosen() -> None:
    info = {"source_timestamp": 100, "received_timestamp": 200}

    def restamped(simulated_ns: int | None = None, **given: Any) -> tuple[int, int] | None:
        source = SourceConfiguration(key="seen", topic="seen", type="sensor_msgs/msg/JointState", **given)
        restamp = restamp_of(source)
        # A header stamp of 50, which is also the time of publication as long as nothing else is known.
        return None if restamp is None else restamp(50, 50, info, simulated_ns)

    assert restamped() is None
    assert restamped(stamp_offset_s=1e-8) == (60, 60)
    assert restamped(stamp="receive") == (200, 200)
    assert restamped(stamp="source") == (100, 100)
    assert restamped(stamp="source", stamp_offset_s=-1e-8) == (90, 90)
    # Under simulated time that of the tick.
    assert restamped(7, stamp="receive") == (7, 200)
