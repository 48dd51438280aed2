# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Who commands which robot: every node says so on one topic; of two that command the same robot the later yields."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

# One for all nodes, whatever their namespaces.
TOPIC = "/policy_node/claims"
HEARTBEAT_S = 1.0
# A claim that was not repeated for so long has ended; its node may have died.
EXPIRY_S = 3.0
# So long after it was made a node has heard the claims of the others.
DISCOVERY_S = 0.5
FOREIGN_PERIOD_S = 5.0
# How long the end waits until the others have heard that this node's claim has ended.
ACKNOWLEDGE_S = 0.2
# The newest claims of so many nodes are heard at once.
MOST_NODES = 100


@dataclass(frozen=True)
class Claim:
    """What one node says that it commands.

    Attributes
    ----------
    owner
        Full name of the node.
    identity
        Different for any two nodes, also of the same name.
    activated_ns
        When it began to command, on the system's clock; 0 while it commands nothing.
    topics
        Full names of the command topics.
    """

    owner: str
    identity: str
    activated_ns: int
    topics: frozenset[str]

    def precedes(self, other: Claim) -> bool:
        """Whether this node commands the robots that both want."""
        return (self.activated_ns, self.identity) < (other.activated_ns, other.identity)

    def message(self) -> DiagnosticArray:
        """Return the claim as it is sent."""
        values = [KeyValue(key="activated_ns", value=str(self.activated_ns))]
        values += [KeyValue(key="command_topic", value=topic) for topic in sorted(self.topics)]
        return DiagnosticArray(
            status=[DiagnosticStatus(name=self.owner, hardware_id=self.identity, message="claim", values=values)]
        )

    @staticmethod
    def parse(message: DiagnosticArray) -> Claim | None:
        """Return the claim in a message, None when there is none that can be read."""
        if len(message.status) != 1:
            return None
        (status,) = message.status
        stamps = [pair.value for pair in status.values if pair.key == "activated_ns"]
        # A stamp has 19 digits; numbers of any length would take any time to read.
        if len(stamps) != 1 or not (stamps[0].isascii() and stamps[0].isdigit() and len(stamps[0]) < 20):
            return None
        topics = frozenset(pair.value for pair in status.values if pair.key == "command_topic")
        return Claim(status.name, status.hardware_id, int(stamps[0]), topics)


class Claims:
    """Claims this node's robots, and hears who else claims them.

    Claims are heard from the beginning, so that a node that comes later yields from its first tick.

    Parameters
    ----------
    node
        Owner of topic and timers.
    topics
        Full name of the command topic by the robot's name.
    """

    def __init__(self, node: Node, topics: Mapping[str, str]) -> None:
        self._node = node
        self._logger = node.get_logger()
        self._robots = tuple(topics)
        self._topics = tuple(topics.values())
        self._own = Claim(node.get_fully_qualified_name(), uuid.uuid4().hex, 0, frozenset(self._topics))
        self._born_s = time.monotonic()
        # By identity: the newest claim of every other node, and when it was heard.
        self._heard: dict[str, tuple[Claim, float]] = {}
        # What was said last: by the name of the other node and whether it comes first, the robots.
        self._conflicts: dict[tuple[str, bool], list[int]] = {}
        self._foreign: set[tuple[str, str]] = set()
        self._on_change: Callable[[Mapping[int, str]], None] | None = None
        self._publisher = node.create_publisher(DiagnosticArray, TOPIC, _qos(1))
        self._subscription = node.create_subscription(DiagnosticArray, TOPIC, self._on_message, _qos(MOST_NODES))
        # Real time: simulated time may stand still.
        clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._timers = [
            node.create_timer(HEARTBEAT_S, self._beat, clock=clock),
            node.create_timer(FOREIGN_PERIOD_S, self._name_foreign_publishers, clock=clock),
        ]
        # Others are to know that this node's publishers belong to a policy_node.
        self._publisher.publish(self._own.message())

    def begin(self, on_change: Callable[[Mapping[int, str]], None]) -> None:
        """Claim the robots.

        Parameters
        ----------
        on_change
            Called, from here and later from the executor, with the names of the nodes that come first by the index of
            the robot that they command; only when there are any, and whenever they change.
        """
        time.sleep(max(0.0, self._born_s + DISCOVERY_S - time.monotonic()))
        while (taken := self._subscription.handle.take_message(DiagnosticArray, False)) is not None:
            self._note(taken[0])
        self._on_change = on_change
        self._claim(time.time_ns())

    def end(self) -> None:
        """Claim nothing any more."""
        if self._on_change is not None:
            self._on_change = None
            self._conflicts.clear()
            self._claim(0)

    def destroy(self) -> None:
        """Close the topic."""
        self.end()
        self._publisher.wait_for_all_acked(Duration(seconds=ACKNOWLEDGE_S))
        for timer in self._timers:
            self._node.destroy_timer(timer)
        self._node.destroy_publisher(self._publisher)
        self._node.destroy_subscription(self._subscription)

    @property
    def conflicts(self) -> dict[str, str]:
        """By the name of each robot that several nodes command, which other ones do."""
        owners: dict[str, str] = {}
        for (owner, first), robots in self._conflicts.items():
            for robot in robots:
                name = self._robots[robot]
                text = f"{owner} ({'drives it' if first else 'yields'})"
                owners[name] = f"{owners[name]}, {text}" if name in owners else text
        return owners

    @property
    def left_to_others(self) -> tuple[str, ...]:
        """Names of the robots that other nodes drive."""
        return tuple(self._robots[robot] for (_, first), robots in self._conflicts.items() if first for robot in robots)

    def _claim(self, activated_ns: int) -> None:
        self._own = Claim(self._own.owner, self._own.identity, activated_ns, self._own.topics)
        self._publisher.publish(self._own.message())
        self._settle()

    def _beat(self) -> None:
        if self._on_change is not None:
            self._publisher.publish(self._own.message())
            self._settle()

    def _on_message(self, message: DiagnosticArray) -> None:
        self._note(message)
        self._settle()

    def _note(self, message: DiagnosticArray) -> None:
        claim = Claim.parse(message)
        if claim is not None and claim.identity != self._own.identity:
            self._heard[claim.identity] = (claim, time.monotonic())

    def _settle(self) -> None:
        """Find out who commands the same robots, and act and say so when that has changed."""
        if self._on_change is None:
            return
        oldest_s = time.monotonic() - EXPIRY_S
        rivals = [claim for claim, heard_s in self._heard.values() if claim.activated_ns and heard_s > oldest_s]
        conflicts: dict[tuple[str, bool], list[int]] = {}
        owners: dict[int, Claim] = {}
        for rival in rivals:
            first = rival.precedes(self._own)
            for robot, topic in enumerate(self._topics):
                if topic in rival.topics:
                    robots = conflicts.setdefault((rival.owner, first), [])
                    if robot not in robots:
                        robots.append(robot)
                    if first and (robot not in owners or rival.precedes(owners[robot])):
                        owners[robot] = rival
        if conflicts == self._conflicts:
            return
        before, self._conflicts = self._conflicts, conflicts
        self._on_change({robot: claim.owner for robot, claim in owners.items()})
        self._say(before)

    def _say(self, before: Mapping[tuple[str, bool], list[int]]) -> None:
        for (owner, first), robots in self._conflicts.items():
            if before.get((owner, first)) != robots:
                what = "this node leaves them alone" if first else "it came later and leaves them to this node"
                self._logger.error(
                    f"{owner} commands {self._named(robots)}, too: {what}; stop one of the two, or give each its shard"
                )
        for (owner, first), robots in before.items():
            gone = [robot for robot in robots if robot not in self._conflicts.get((owner, first), ())]
            if gone:
                then = "; this node drives them again" if first else ""
                self._logger.warning(f"{owner} no longer commands {self._named(gone)}{then}")

    def _named(self, robots: Collection[int]) -> str:
        return ", ".join(self._robots[robot] for robot in robots)

    def _name_foreign_publishers(self) -> None:
        """Warn, once each, of nodes that are no policy_node and publish on a command topic, such as teleoperation."""
        # A node that has only just started may have said nothing yet.
        known = {self._own.owner, *(claim.owner for claim, _ in self._heard.values())}
        for robot, topic in zip(self._robots, self._topics, strict=True):
            # Counting is cheap, and mostly there is nobody but this node.
            if self._node.count_publishers(topic) < 2:
                continue
            for endpoint in self._node.get_publishers_info_by_topic(topic):
                name = f"{endpoint.node_namespace.rstrip('/')}/{endpoint.node_name}"
                if name not in known and (name, topic) not in self._foreign:
                    self._foreign.add((name, topic))
                    self._logger.warning(
                        f"{name} publishes on {topic}, too: {robot} does what either says; stop one of the two, or put "
                        f"a multiplexer between them and the robot"
                    )


def _qos(depth: int) -> QoSProfile:
    """Return a QoS with which nodes that come later hear the newest claim of each node, too."""
    return QoSProfile(depth=depth, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
