# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Explanations of topics without messages."""

import pytest
import rclpy
from geometry_msgs.msg import Twist
from node_harness import Peer, parameters_of
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from policy_node.config.schema import parse_configuration
from policy_node.ros.graph import several_publishers, why_silent, why_unheard
from policy_node.ros.publishers import command_qos
from policy_node.ros.rclpy_internals import NO_EVENTS

pytestmark = pytest.mark.both_distributions

ROBOTS = ("one", "two")


def test_the_reason_names_topic_found_type_and_wanted_type(peer: Peer, tmp_path) -> None:
    changes = {"observations.image.reliability": "reliable"}
    configuration = parse_configuration(parameters_of(tmp_path / "policy.zip", ROBOTS, changes))
    image = next(source for source in configuration.sources if source.name == "image")

    def why(robot: str) -> str:
        return why_silent(peer.node, robot, image, ROBOTS)

    assert why("one") == "no publisher on /one/camera/image_raw"
    best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    # Another robot's topic is no hint, one outside all namespaces is.
    peer.node.create_publisher(Image, "/two/camera/image_raw", best_effort)
    peer.node.create_publisher(Image, "/camera/image_raw", best_effort)
    remedy = "but /camera/image_raw has one; check the robot's namespace"
    peer.spin_until(lambda: why("one") == f"no publisher on /one/camera/image_raw, {remedy}", "the hint")
    assert why("two") == (
        "/two/camera/image_raw is published best_effort, but observations.image.reliability is reliable"
    )
    peer.node.create_publisher(Twist, "/one/camera/image_raw", 1)
    carries = "/one/camera/image_raw carries geometry_msgs/msg/Twist, but observations.image.type is"
    peer.spin_until(lambda: why("one") == f"{carries} sensor_msgs/msg/Image", "the type")
    peer.node.create_publisher(Image, "/two/camera/image_raw", 1)
    peer.spin_until(lambda: why("two") == "", "no reason for a publisher that fits")


def test_the_safe_position_is_named_by_its_parameter(peer: Peer, tmp_path) -> None:
    arm = {"type": "sensor_msgs/msg/JointState", "fields": [], "joints": ["a", "b"], "safe_command": []}
    changes = {f"action.{name}": value for name, value in {**arm, "safe_position_topic": "state"}.items()}
    configuration = parse_configuration(parameters_of(tmp_path / "policy.zip", ("five",), changes))
    position = configuration.safe_position
    assert position is not None
    peer.node.create_publisher(Twist, "/five/state", 1)
    wanted = "but action.safe_position_topic needs one of sensor_msgs/msg/JointState"
    peer.spin_until(
        lambda: (
            why_silent(peer.node, "five", position, ("five",))
            == f"/five/state carries geometry_msgs/msg/Twist, {wanted}"
        ),
        "the type",
    )


def test_a_topic_with_two_publishers_is_named_with_them(peer: Peer, tmp_path) -> None:
    configuration = parse_configuration(parameters_of(tmp_path / "policy.zip", ("three", "four"), {}))
    image = next(source for source in configuration.sources if source.name == "image")

    def several() -> str:
        return several_publishers(peer.node, configuration.robots, image)

    peer.node.create_publisher(Image, "/three/camera/image_raw", 1)
    peer.node.create_publisher(Image, "/four/camera/image_raw", 1)
    peer.spin_until(lambda: peer.node.count_publishers("/four/camera/image_raw") == 1, "both publishers")
    assert several() == ""
    peer.node.create_publisher(Image, "/four/camera/image_raw", 1)
    peer.spin_until(lambda: several() != "", "the second publisher")
    name = peer.node.get_fully_qualified_name()
    assert several().startswith(f"/four/camera/image_raw has 2 publishers ({name}, {name})")


def test_a_subscriber_that_gets_no_command_is_named_with_the_reason(peer: Peer) -> None:
    publisher = peer.node.create_publisher(Twist, "/six/cmd_vel", command_qos(0.2), event_callbacks=NO_EVENTS)
    peer.node.create_subscription(Twist, "/six/cmd_vel", print, 1)
    peer.spin_until(lambda: publisher.get_subscription_count() == 1, "the subscription")
    assert why_unheard(peer.node, publisher) == ""
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    demanding = peer.node.create_subscription(Twist, "/six/cmd_vel", print, latched)
    name = peer.node.get_fully_qualified_name()
    found = (
        f"{name} requests another QoS on /six/cmd_vel and gets no message: "
        "Volatile publisher and transient local subscription"
    )
    peer.spin_until(lambda: why_unheard(peer.node, publisher) == found, "the reason")
    peer.node.destroy_subscription(demanding)
    peer.spin_until(lambda: why_unheard(peer.node, publisher) == "", "the end of the subscription")
    # One participant cannot have two types of a topic.
    with rclpy.Context() as context:
        other = rclpy.create_node("other", context=context)
        other.create_subscription(Image, "/six/cmd_vel", print, 1)
        found = "/other expects sensor_msgs/msg/Image on /six/cmd_vel, but its messages are geometry_msgs/msg/Twist"
        peer.spin_until(lambda: why_unheard(peer.node, publisher) == found, "the type")
        other.destroy_node()
