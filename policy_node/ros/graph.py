# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Explain from the ROS graph why a topic has no messages, or too many publishers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSCompatibility, ReliabilityPolicy, qos_check_compatible

from policy_node.config.schema import SAFE_POSITION, SourceConfiguration, topic_of


def why_silent(node: Node, robot: str, source: SourceConfiguration, robots: Sequence[str]) -> str:
    """Return why no message of a sensor can arrive; empty when a publisher matches and is merely silent.

    Parameters
    ----------
    node
        Node that reads the graph.
    robot, source
        The robot and its silent sensor.
    robots
        Names of all robots: their topics are no hint.
    """
    topic = node.resolve_topic_name(topic_of(robot, source.topic))
    publishers = node.get_publishers_info_by_topic(topic)
    if not publishers:
        ending = f"/{source.topic.lstrip('/')}"
        expected = {node.resolve_topic_name(topic_of(name, source.topic)) for name in robots}
        others = [
            name
            for name, types in node.get_topic_names_and_types()
            if name not in expected and name.endswith(ending) and source.type in types and node.count_publishers(name)
        ]
        found = f", but {', '.join(sorted(others)[:3])} has one; check the robot's namespace" if others else ""
        return f"no publisher on {topic}{found}"
    types = {publisher.topic_type for publisher in publishers}
    if source.type not in types:
        found = f"{topic} carries {', '.join(sorted(types))}"
        if source.name == SAFE_POSITION:
            return f"{found}, but action.safe_position_topic needs one of {source.type}"
        return f"{found}, but observations.{source.name}.type is {source.type}"
    best_effort = all(publisher.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT for publisher in publishers)
    if source.reliability == "reliable" and best_effort:
        return f"{topic} is published best_effort, but observations.{source.name}.reliability is reliable"
    return ""


def why_unheard(node: Node, publisher: Publisher[Any]) -> str:
    """Return which subscriber gets no message of a publisher, and why; empty when all subscribers match."""
    topic = publisher.topic_name
    # Counting is cheap, and mostly finds the same number.
    if node.count_subscribers(topic) <= publisher.get_subscription_count():
        return ""
    wanted = f"{publisher.msg_type.__module__.split('.')[0]}/msg/{publisher.msg_type.__name__}"
    for endpoint in node.get_subscriptions_info_by_topic(topic):
        name = f"{endpoint.node_namespace.rstrip('/')}/{endpoint.node_name}"
        if endpoint.topic_type != wanted:
            return f"{name} expects {endpoint.topic_type} on {topic}, but its messages are {wanted}"
        compatibility, reason = qos_check_compatible(publisher.qos_profile, endpoint.qos_profile)
        if compatibility == QoSCompatibility.ERROR:
            why = reason.replace("ERROR: ", "").strip("; ")
            return f"{name} requests another QoS on {topic} and gets no message: {why}"
    return ""


def several_publishers(node: Node, robots: Sequence[str], source: SourceConfiguration) -> str:
    """Return which topics of a sensor have more than one publisher; empty when none has.

    A policy that gets readings of two sensors in turns sees the robot jump back and forth.
    """
    topics = dict.fromkeys(node.resolve_topic_name(topic_of(robot, source.topic)) for robot in robots)
    crowded = [topic for topic in topics if node.count_publishers(topic) > 1]
    if not crowded:
        return ""
    publishers = node.get_publishers_info_by_topic(crowded[0])
    names = sorted(f"{publisher.node_namespace.rstrip('/')}/{publisher.node_name}" for publisher in publishers)
    others = f" and {len(crowded) - 1} topics more" if len(crowded) > 1 else ""
    return (
        f"{crowded[0]}{others} has {len(publishers)} publishers ({', '.join(names[:4])}), but the policy takes their "
        "messages for those of one sensor; stop all but one, or give each another topic"
    )
