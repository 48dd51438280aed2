# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Explain from the ROS graph why a topic has no messages, or too many publishers."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from rclpy.topic_endpoint_info import TopicEndpointInfo

from policy_node.config.schema import SAFE_POSITION, SourceConfiguration, topic_of
from policy_node.messages.cdr import deserialise
from policy_node.messages.fields import is_zero
from policy_node.messages.reading import UnusableReading

# Most topics that are suggested in place of one that nobody publishes.
MOST_SUGGESTED = 3


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
    if source.frame:
        return f"tf has no transform from {source.frame} to {source.base_frame}"
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
        if others:
            found = f", but {', '.join(sorted(others)[:MOST_SUGGESTED])} has one; check the robot's namespace"
        else:
            found = _topics_of_type(node, robot, source)
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
    is_volatile = all(publisher.qos_profile.durability == DurabilityPolicy.VOLATILE for publisher in publishers)
    if source.durability == "transient_local" and is_volatile:
        return f"{topic} is published volatile, but observations.{source.name}.durability is transient_local"
    return ""


def _topics_of_type(node: Node, robot: str, source: SourceConfiguration) -> str:
    """Return the published topics of a sensor's type in the robot's namespace, as the end of an error; else nothing."""
    is_absolute = source.topic.startswith("/")
    namespace = "/" if is_absolute else node.resolve_topic_name(topic_of(robot, "x")).removesuffix("x")
    found = sorted(
        name
        for name, types in node.get_topic_names_and_types()
        if source.type in types and name.startswith(namespace) and node.count_publishers(name)
    )
    if not found:
        return ""
    shown = ", ".join(found[:MOST_SUGGESTED])
    return f"; of {source.type} there {'is' if len(found) == 1 else 'are'} {shown}: did you mean {found[0]}?"


def natural_order(name: str) -> list[tuple[int, str]]:
    """Return a sorting key that puts robot_2 before robot_10."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def endpoint_name(endpoint: TopicEndpointInfo) -> str:
    """Return the full name of the node with a publisher or subscription."""
    return f"{endpoint.node_namespace.rstrip('/')}/{endpoint.node_name}"


def endpoint_names(endpoints: Sequence[TopicEndpointInfo]) -> tuple[str, ...]:
    """Return the full names of the nodes with these publishers or subscriptions, each once."""
    return tuple(sorted(set(map(endpoint_name, endpoints))))


def zero_publisher(node: Node, topic: str, turns: Mapping[bytes | int, bytes], message_type: Any) -> str:
    """Return which of the publishers that take turns on a topic sends only zeros, after a semicolon; empty: none.

    `turns` is a message of each publisher by its identity, `topic` the fully qualified name.
    """
    zeros = []
    for publisher, raw in turns.items():
        with contextlib.suppress(UnusableReading):
            if is_zero(deserialise(raw, message_type)):
                zeros.append(publisher)
    if not zeros or len(zeros) == len(turns):
        return ""
    named = [
        endpoint_name(each)
        for each in node.get_publishers_info_by_topic(topic)
        if any(isinstance(gid, bytes) and bytes(each.endpoint_gid)[: len(gid)] == gid for gid in zeros)
    ]
    return f"; {' and '.join(named) or 'one of them'} sends only zeros"


def several_publishers(node: Node, robots: Sequence[str], source: SourceConfiguration) -> str:
    """Return which topics of a sensor have more than one publisher; empty when none has.

    A policy that gets readings of two sensors in turns sees the robot jump back and forth.
    """
    topics = dict.fromkeys(node.resolve_topic_name(topic_of(robot, source.topic)) for robot in robots)
    crowded = [topic for topic in topics if node.count_publishers(topic) > 1]
    if not crowded:
        return ""
    publishers = node.get_publishers_info_by_topic(crowded[0])
    names = sorted(map(endpoint_name, publishers))
    others = f" and {len(crowded) - 1} topics more" if len(crowded) > 1 else ""
    return (
        f"{crowded[0]}{others} has {len(publishers)} publishers ({', '.join(names[:4])}), but the policy takes their "
        "messages for those of one sensor; stop all but one, or give each another topic"
    )
