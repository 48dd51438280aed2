# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Explanations of topics without messages."""

import pytest
from geometry_msgs.msg import Twist, TwistStamped
from node_harness import Peer, parameters_of
from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, LivelinessPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from policy_node.config.schema import parse_configuration
from policy_node.ros.command_subscribers import CommandSubscribers, why_unheard
from policy_node.ros.graph import several_publishers, why_silent
from policy_node.ros.publishers import command_qos

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


def test_subscribers_that_get_no_commands_are_named_with_the_reason(peer: Peer) -> None:
    offered = command_qos(0.15)
    subscriber = peer.node.get_fully_qualified_name()

    def why(robot: str) -> str:
        return why_unheard(peer.node, f"/{robot}/cmd_vel", "geometry_msgs/msg/Twist", "action", offered)

    def subscribe(robot: str, message_type: type, **qos: object) -> None:
        peer.node.create_subscription(message_type, f"{robot}/cmd_vel", print, QoSProfile(depth=1, **qos))

    incompatible = {
        "late": {"durability": DurabilityPolicy.TRANSIENT_LOCAL},
        "fast": {"deadline": Duration(seconds=0.05)},
        "lease": {"liveliness_lease_duration": Duration(seconds=0.1)},
        "manual": {"liveliness": LivelinessPolicy.MANUAL_BY_TOPIC},
    }
    subscribe("good", Twist, reliability=ReliabilityPolicy.BEST_EFFORT, deadline=Duration(seconds=0.15))
    subscribe("stamped", TwistStamped)
    for robot, qos in incompatible.items():
        subscribe(robot, Twist, **qos)
    peer.spin_until(lambda: peer.node.count_subscribers("/good/cmd_vel") == 1, "a subscriber that gets commands")
    assert why("good") == ""
    assert why("stamped") == (
        f"/stamped/cmd_vel is subscribed as geometry_msgs/msg/TwistStamped by {subscriber}, "
        "action.type is geometry_msgs/msg/Twist"
    )
    expected = {
        "late": "it requests transient_local, commands are volatile",
        "fast": "it requests a deadline of 0.05 s, commands offer 0.15 s; lower action.deadline_s",
        "lease": "it requests a lease of liveliness of 0.1 s, commands offer 0.15 s",
        "manual": "it requests manual liveliness, that of commands is automatic",
    }
    for robot, reason in expected.items():
        assert why(robot).startswith(
            f"/{robot}/cmd_vel is subscribed by {subscriber} with an incompatible QoS: {reason}"
        )
    # Another one that gets the commands does not make up for it.
    subscribe("late", Twist)
    peer.spin_until(lambda: peer.node.count_subscribers("/late/cmd_vel") == 2, "the second subscriber")
    assert "it requests transient_local" in why("late")


def test_a_problem_counts_when_it_is_found_twice_and_no_longer_when_it_is_gone(peer: Peer, tmp_path) -> None:
    robots = ("six", "seven", "others")
    subscribers = CommandSubscribers(peer.node, parse_configuration(parameters_of(tmp_path / "policy.zip", robots, {})))
    everyone, owners = range(3), {2: "/other_node"}
    subscribers.look(everyone, owners)
    assert subscribers.problems == {}
    subscribers.look(everyone, owners)
    assert subscribers.problems == {
        0: "nobody subscribes to /six/cmd_vel",
        1: "nobody subscribes to /seven/cmd_vel",
    }
    peer.node.create_subscription(Twist, "/six/cmd_vel", print, 1)
    peer.spin_until(lambda: peer.node.count_subscribers("/six/cmd_vel") == 1, "the subscriber")
    subscribers.look(everyone, owners)
    assert set(subscribers.problems) == {1}
    # A topic outside all namespaces is a hint, those of other robots are none.
    peer.node.create_subscription(Twist, "/cmd_vel", print, 1)
    peer.spin_until(lambda: peer.node.count_subscribers("/cmd_vel") == 1, "the subscriber outside")
    subscribers.look(everyone, owners)
    remedy = "but /cmd_vel is subscribed; check the robot's namespace"
    assert subscribers.problems == {1: f"nobody subscribes to /seven/cmd_vel, {remedy}"}
    # Another subscriber is looked at, and the same ones from time to time.
    late = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    peer.node.create_subscription(Twist, "/six/cmd_vel", print, late)
    peer.spin_until(lambda: peer.node.count_subscribers("/six/cmd_vel") == 2, "the second subscriber")
    for _ in range(2):
        subscribers.look(everyone, owners)
    assert "it requests transient_local" in subscribers.problems[0]
    peer.node.destroy_subscription(list(peer.node.subscriptions)[-1])
    peer.spin_until(lambda: peer.node.count_subscribers("/six/cmd_vel") == 1, "the end of the second subscriber")
    subscribers.look(everyone, owners)
    assert set(subscribers.problems) == {1}
