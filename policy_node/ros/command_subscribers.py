# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Find robots whose commands nobody can get: no subscriber, one of another type, or one with an incompatible QoS."""

from __future__ import annotations

from collections.abc import Mapping

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, LivelinessPolicy, QoSProfile

from policy_node.config.parameters import CommandConfiguration
from policy_node.config.schema import Configuration, topic_of
from policy_node.ros.graph import endpoint_name
from policy_node.ros.publishers import command_qos

# Looks after which type and QoS of as many subscribers as before are read again, which costs much more than counting.
READ_AGAIN = 10
# Middlewares may round durations.
_ROUNDING_NS = 1000


class CommandSubscribers:
    """Looks at the subscribers of the command topics, some robots at a time.

    A problem counts when two looks in a row find it, as the graph is known only a while after a process has started.

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
        # Full names of the command topics, by robot.
        self._topics = [
            [node.resolve_topic_name(topic_of(robot, command.topic)) for command in configuration.commands]
            for robot in configuration.robots
        ]
        # Problems of the last look, which count once they are found again.
        self._suspected: set[int] = set()
        # By topic: number of its subscribers when they were read, looks since then, and the problem that was found.
        self._read: dict[str, tuple[int, int, str]] = {}
        self.problems: dict[int, str] = {}

    def look(self, robots: range, owners: Mapping[int, str]) -> None:
        """Look at the subscribers of some robots, by their index; other nodes answer for the robots in `owners`."""
        elsewhere: dict[str, str] = {}
        for robot in robots:
            problem = "" if robot in owners else self._problem(robot, elsewhere)
            if problem and robot in self._suspected:
                self.problems[robot] = problem
            elif not problem:
                self.problems.pop(robot, None)
            (self._suspected.add if problem else self._suspected.discard)(robot)

    def _problem(self, robot: int, elsewhere: dict[str, str]) -> str:
        for command, name in zip(self._configuration.commands, self._topics[robot], strict=True):
            count = self._node.count_subscribers(name)
            if count == 0:
                self._read.pop(name, None)
                # The same for all robots, and slow to find.
                if command.key not in elsewhere:
                    elsewhere[command.key] = self._subscribed_elsewhere(command)
                return f"nobody subscribes to {name}{elsewhere[command.key]}"
            before, looks, problem = self._read.get(name, (0, 0, ""))
            if count != before or looks >= READ_AGAIN:
                looks, problem = 0, why_unheard(self._node, name, command.type, command.prefix, self._qos)
            self._read[name] = (count, looks + 1, problem)
            if problem:
                return problem
        return ""

    def _subscribed_elsewhere(self, command: CommandConfiguration) -> str:
        """Return topics of the same name and type that others subscribe, outside the namespaces of the robots."""
        own = {name for names in self._topics for name in names}
        ending = f"/{command.topic.lstrip('/')}"
        others = [
            name
            for name, types in self._node.get_topic_names_and_types()
            if name not in own and name.endswith(ending) and command.type in types
            if self._node.count_subscribers(name) and not self._node.count_publishers(name)
        ]
        return f", but {', '.join(sorted(others)[:3])} is subscribed; check the robot's namespace" if others else ""


def why_unheard(node: Node, name: str, type_name: str, prefix: str, qos: QoSProfile) -> str:
    """Return why a subscriber of a command topic gets no commands; empty if all get them.

    Parameters
    ----------
    node
        Node that reads the graph.
    name
        Full name of the robot's topic.
    type_name, qos
        Type and offered QoS of the commands.
    prefix
        Beginning of the names of the topic's parameters, such as `action`.
    """
    for each in node.get_subscriptions_info_by_topic(name):
        who = endpoint_name(each)
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
