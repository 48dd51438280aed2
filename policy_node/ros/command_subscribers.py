# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Find robots whose commands nobody can get: no subscriber, one of another type, or one with an incompatible QoS."""

from __future__ import annotations

from collections.abc import Mapping

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, LivelinessPolicy, QoSProfile

from policy_node.config.schema import Configuration, topic_of
from policy_node.ros.publishers import command_qos

# Period in which the subscribers of every robot are looked at. A problem counts when it is found twice in a row, as the
# graph is known only a while after a process has started: within 4 s, and in the diagnostics a second later.
LOOK_PERIOD_S = 1.5
# Middlewares may round durations.
_ROUNDING_NS = 1000


class CommandSubscribers:
    """Looks at the subscribers of the command topics, some robots at a time.

    Parameters
    ----------
    node
        Node that reads the graph.
    configuration
        Robots and command topics.

    Attributes
    ----------
    problems
        Robot index -> why nobody gets its commands, or some subscriber does not, with what was found.
    """

    def __init__(self, node: Node, configuration: Configuration) -> None:
        self._node = node
        self._configuration = configuration
        self._qos = command_qos(configuration.action.deadline_s)
        # Problems of the last look, which count once they are found again.
        self._suspected: set[int] = set()
        self.problems: dict[int, str] = {}

    def look(self, robots: range, owners: Mapping[int, str]) -> None:
        """Look at the subscribers of some robots, by their index; other nodes answer for the robots in `owners`."""
        for robot in robots:
            problem = "" if robot in owners else self._problem(self._configuration.robots[robot])
            if problem and robot in self._suspected:
                self.problems[robot] = problem
            elif not problem:
                self.problems.pop(robot, None)
            (self._suspected.add if problem else self._suspected.discard)(robot)

    def _problem(self, robot: str) -> str:
        problems = (
            why_unheard(
                self._node, topic_of(robot, command.topic), command.topic, command.type, command.prefix, self._qos
            )
            for command in self._configuration.commands
        )
        return next(filter(None, problems), "")


def why_unheard(node: Node, topic: str, relative: str, type_name: str, prefix: str, qos: QoSProfile) -> str:
    """Return why a subscriber of a command topic gets no commands, or that there is none; empty if all get them.

    Parameters
    ----------
    node
        Node that reads the graph.
    topic, relative
        The robot's topic, and the same without the robot's namespace.
    type_name, qos
        Type and offered QoS of the commands.
    prefix
        Beginning of the names of the topic's parameters, such as `action`.
    """
    name = node.resolve_topic_name(topic)
    subscribers = node.get_subscriptions_info_by_topic(name)
    if not subscribers:
        ending = f"/{relative.lstrip('/')}"
        # Topics that carry the commands of other robots are no hint.
        others = [
            other
            for other, types in node.get_topic_names_and_types()
            if other.endswith(ending) and type_name in types
            if node.count_subscribers(other) and not node.count_publishers(other)
        ]
        found = f", but {', '.join(sorted(others)[:3])} is subscribed; check the robot's namespace" if others else ""
        return f"nobody subscribes to {name}{found}"
    for each in subscribers:
        who = f"{each.node_namespace.rstrip('/')}/{each.node_name}"
        if each.topic_type != type_name:
            return f"{name} is subscribed as {each.topic_type} by {who}, {prefix}.type is {type_name}"
        if reason := _why_incompatible(each.qos_profile, qos):
            return f"{name} is subscribed by {who} with an incompatible QoS: {reason}"
    return ""


def _why_incompatible(wanted: QoSProfile, offered: QoSProfile) -> str:
    """Return what a subscriber requests that commands do not offer; empty if they offer all. They are reliable."""
    if wanted.durability == DurabilityPolicy.TRANSIENT_LOCAL:
        return "it requests transient_local, commands are volatile; let it request volatile"
    if wanted.liveliness == LivelinessPolicy.MANUAL_BY_TOPIC:
        return "it requests manual liveliness, that of commands is automatic; let it request automatic liveliness"
    durations = {
        "deadline": (wanted.deadline, offered.deadline),
        "lease of liveliness": (wanted.liveliness_lease_duration, offered.liveliness_lease_duration),
    }
    for what, (requested, given) in durations.items():
        # 0 means that none is requested.
        if 0 < requested.nanoseconds < given.nanoseconds - _ROUNDING_NS:
            return (
                f"it requests a {what} of {requested.nanoseconds / 1e9:g} s, commands offer "
                f"{given.nanoseconds / 1e9:g} s; lower action.deadline_s, or let it request more"
            )
    return ""
