# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""What is taken at the tick, over real DDS, and what is said of messages that were lost."""

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
from node_harness import PATIENCE_S, Peer, parameters_of
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState

from policy_node.configuration import Configuration, parse_configuration
from policy_node.ros.messages import reading_decoder
from policy_node.ros.subscriptions import SensorSubscriptions
from policy_node.specs import ArraySpec

# Cameras that publish with Fast DDS as it comes, until SIGINT.
PUBLISHER = textwrap.dedent("""
    import rclpy
    from rclpy.qos import QoSProfile, ReliabilityPolicy
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
    """Stands where the pipeline does, and keeps what it is handed."""

    def __init__(self) -> None:
        self.samples: list[tuple[int, int, int, bytes]] = []

    def add(self, robot: int, sensor: int, stamp_ns: int, message: Any) -> None:
        self.samples.append((robot, sensor, stamp_ns, message))


def subscriptions_of(peer: Peer, configuration: Configuration) -> SensorSubscriptions:
    decoders = {}
    for source, *_ in configuration.sensors:
        spec = ArraySpec(source.name, (480, 640, 3), "uint8", 0, 255)
        if not source.is_image:
            spec = ArraySpec(source.name, (len(source.joints) or 2,), "float32", -1, 1)
        decoders[source.name] = reading_decoder(
            source.type, spec, topic=source.topic, field=source.field, joints=source.joints
        )
    return SensorSubscriptions(peer.node, configuration, decoders)


@pytest.fixture
def cameras() -> Iterator[None]:
    profile = "FASTRTPS_DEFAULT_PROFILES_FILE"
    environment = {name: value for name, value in os.environ.items() if name != profile}
    process = subprocess.Popen([sys.executable, "-c", PUBLISHER], env=environment)
    yield
    # In order: see `node_harness.kill` for what a process that is killed while it sends leaves behind.
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
    subscriptions, taken = subscriptions_of(peer, configuration), Taken()
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
            subscriptions.take(taken, None)  # type: ignore[arg-type]
            return bool(taken.samples) and taken.samples[-1][2] == numbers[-1] * 10**9

        peer.spin_until(newest_is_there, "the newest message")
        return [stamp_ns // 10**9 for _, _, stamp_ns, _ in taken.samples]

    assert take(range(1, 3)) == [1, 2]
    burst = take(range(3, 30))
    assert burst == sorted(burst) and burst[-1] == 29
    subscriptions.destroy()


def test_the_safe_position_is_subscribed_as_the_last_sensor(peer: Peer, tmp_path: Path) -> None:
    changes = {
        "action.type": "std_msgs/msg/Float64MultiArray",
        "action.fields": None,
        "action.safe_position_topic": "joint_states",
        "action.safe_position_joints": ["a", "b"],
    }
    configuration = parse_configuration(parameters_of(tmp_path / "policy.zip", ["arm"], changes))
    subscriptions, taken = subscriptions_of(peer, configuration), Taken()
    publisher = peer.node.create_publisher(JointState, "/arm/joint_states", 1)
    peer.spin_until(lambda: publisher.get_subscription_count() == 1, "the subscription")
    message = JointState(name=["a", "b"], position=[0.25, 0.5])
    message.header.stamp.sec = 7

    def arrived() -> bool:
        publisher.publish(message)
        subscriptions.take(taken, None)  # type: ignore[arg-type]
        return bool(taken.samples)

    peer.spin_until(arrived, "the position")
    assert taken.samples[0][:3] == (0, 2, 7 * 10**9)
    subscriptions.destroy()


def test_large_images_that_are_lost_are_reported_with_the_remedy(peer: Peer, tmp_path: Path, cameras: None) -> None:
    changes = {
        "observations.keys": ["image"],
        **{f"observations.touch.{name}": None for name in ("topic", "type", "field")},
    }
    robots = [f"large_{robot}" for robot in range(4)]
    configuration = parse_configuration(parameters_of(tmp_path / "policy.zip", robots, changes))
    subscriptions, taken = subscriptions_of(peer, configuration), Taken()
    deadline_s = time.monotonic() + PATIENCE_S
    lost: list[Any] = []
    while not lost and time.monotonic() < deadline_s:
        subscriptions.take(taken, None)  # type: ignore[arg-type]
        lost = [finding for finding in subscriptions.reception.findings() if finding.kind == "lost"]
        time.sleep(0.02)
    assert lost, f"{len(taken.samples)} images came, none was found to be lost"
    assert lost[0].sensor == "image" and set(lost[0].robots) <= set(robots)
    assert "FASTRTPS_DEFAULT_PROFILES_FILE" in str(lost[0])
    subscriptions.destroy()
