# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Claim robots on a topic that all nodes share; if two nodes claim one robot, the later node yields."""

from __future__ import annotations

import math
import re
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription

from policy_node.ros.graph import endpoint_name
from policy_node.ros.process import raise_if_interrupted, this_process
from policy_node.ros.rclpy_internals import NO_EVENTS, direct_take

HEARTBEAT_S = 1.0
# A claim that was not repeated for this time has ended; its node may have died.
EXPIRY_S = 3.0
# Time after its creation in which a node hears the claims of the others; 1.5 s were seen where processes that were
# killed had left locks in the shared memory. Loading a policy mostly takes longer.
DISCOVERY_S = 2.0
# Listening time after the process was suspended.
LISTEN_S = 0.5
FOREIGN_PERIOD_S = 5.0
# Listening time after claiming, in case two nodes claim simultaneously.
CROSSING_S = 0.1
# Longest further wait for the claims of nodes that are known but were not heard yet, as on a busy machine.
UNHEARD_S = 10.0
# Period of the subscriptions meanwhile: Fast DDS may never tell a publisher of one (doc/development.md).
RENEWAL_S = 2.0
# Most of them until the end: a publisher may be silent for another reason.
MOST_RENEWALS = 20
# Longest wait at the end for the others to hear that this node's claim has ended.
ACKNOWLEDGE_S = 0.2
# After an acknowledgement, until the topic is closed: Fast DDS may deadlock in a node that still sends it
# (doc/development.md).
SETTLE_S = 0.02
# Most nodes whose newest claims are heard at once, and most nodes with robots of this one that are kept.
MOST_NODES = 100
LONGEST_NAME = 512
# Most lines that are logged in a period, however often the claims of others change.
MOST_LINES = 20
LINES_PERIOD_S = 20.0


@dataclass(frozen=True)
class Claim:
    """The robots that one node commands."""

    #: Full name of the node.
    owner: str
    #: Different for any two nodes, also of the same name.
    identity: str
    #: When it began to command, on the system's clock; 0 while it commands nothing.
    activated_ns: int
    #: Full names of the command topics.
    topics: frozenset[str]

    def precedes(self, other: Claim) -> bool:
        """Whether this claim wins the robots that both claim."""
        return (self.activated_ns, self.identity) < (other.activated_ns, other.identity)

    @property
    def process(self) -> str:
        """The computer and the process of the node, as far as the identity tells them."""
        # The identity is not trusted, and this text goes to the log.
        found = re.fullmatch(r"([\w.-]{1,255}):(\d{1,10}):[0-9a-f]{32}", self.identity, re.A)
        return "another node of this name" + (f" on {found[1]}, PID {found[2]}" if found else "")

    def message(self) -> DiagnosticArray:
        """Return the claim as a message."""
        values = [KeyValue(key="activated_ns", value=str(self.activated_ns))]
        values += [KeyValue(key="command_topic", value=topic) for topic in sorted(self.topics)]
        return DiagnosticArray(
            status=[DiagnosticStatus(name=self.owner, hardware_id=self.identity, message="claim", values=values)]
        )

    @staticmethod
    def parse(message: DiagnosticArray) -> Claim | None:
        """Return the claim in a message; None when it has no valid one."""
        if len(message.status) != 1:
            return None
        (status,) = message.status
        stamps = [pair.value for pair in status.values if pair.key == "activated_ns"]
        # A stamp has 19 digits; reading much longer numbers would take long.
        if len(stamps) != 1 or not re.fullmatch("[0-9]{1,19}", stamps[0]):
            return None
        # Names go to the log and to diagnostics. Matching a very long one would hold the GIL, which the tick needs.
        if max(len(status.name), len(status.hardware_id)) > LONGEST_NAME:
            return None
        if not re.fullmatch(r"(/\w+)+", status.name, re.A):
            return None
        topics = frozenset(pair.value for pair in status.values if pair.key == "command_topic")
        return Claim(status.name, status.hardware_id, int(stamps[0]), topics)


class Claims:
    """Claims this node's robots, and hears the claims of other nodes.

    Claims are heard from the creation, so that the later of two nodes yields from its first tick.

    Parameters
    ----------
    node
        Owner of topic and timer.
    topics
        Full names of the command topics by the robot's name.
    claims_topic
        Topic of the claims, the same for all nodes.
    stopping
        Set when the process is to end, which ends `begin`.
    """

    def __init__(
        self,
        node: Node,
        topics: Mapping[str, Sequence[str]],
        claims_topic: str,
        stopping: threading.Event | None = None,
    ) -> None:
        self._node = node
        self._logger = node.get_logger()
        self._stopping = stopping or threading.Event()
        self._robots = tuple(topics)
        # Index of the robot and name of each topic.
        self._topics = tuple((robot, topic) for robot, names in enumerate(topics.values()) for topic in names)
        own_topics = frozenset(topic for _, topic in self._topics)
        self._own = Claim(node.get_fully_qualified_name(), f"{this_process()}:{uuid.uuid4().hex}", 0, own_topics)
        self._created_s = self._claimed_s = _now_s()
        # Time from which the claim holds.
        self._holds_from_s = self._created_s
        # Identity -> newest claim of each other node with robots of this one, and when it was heard.
        self._heard: dict[str, tuple[Claim, float]] = {}
        # Name and identity of each node that was heard, also of those without robots of this one.
        self._claimants = {(self._own.owner, self._own.identity)}
        # The robots of the last report, by the name of the other node and whether that comes first.
        self._conflicts: dict[tuple[str, bool], list[int]] = {}
        self._foreign: set[tuple[str, str]] = set()
        self._namesakes: set[str] = set()
        self._logged_s = deque([-math.inf] * MOST_LINES, maxlen=MOST_LINES)
        self._on_change: Callable[[Mapping[int, str]], None] | None = None
        self._publisher = node.create_publisher(DiagnosticArray, claims_topic, _qos(1), event_callbacks=NO_EVENTS)
        self._claims_topic = node.resolve_topic_name(claims_topic)
        self._subscriptions: list[Subscription] = []
        self._subscribe()
        # Real time: simulated time may stand still.
        self._timer = node.create_timer(HEARTBEAT_S, self._beat, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._searched_s = self._created_s
        # Tells the others that this node's publishers belong to a policy_node.
        self._publisher.publish(self._own.message())

    def begin(self, on_change: Callable[[Mapping[int, str]], None]) -> None:
        """Claim the robots.

        Parameters
        ----------
        on_change
            Called at every change, from here and later from the executor, with the names of the nodes that come first
            by the index of the robot that they command.

        Raises
        ------
        Interrupted
            When `stopping` is set meanwhile.
        """
        self._listen(self._created_s + DISCOVERY_S - _now_s())
        self._await_claims()
        self._on_change = on_change
        self._claim(time.time_ns())
        self._listen(CROSSING_S)
        self._settle()

    def _listen(self, duration_s: float) -> None:
        """Wait while the middleware receives claims; raises Interrupted."""
        self._stopping.wait(max(0.0, duration_s))
        raise_if_interrupted(self._stopping)

    def _await_claims(self) -> None:
        """Wait until every node that publishes claims was heard, for UNHEARD_S at most."""
        if self._take is None:
            # The executor hears claims only after this.
            return
        end_s, renewal_s = _now_s() + UNHEARD_S, _now_s() + RENEWAL_S
        while unheard := self._unheard_nodes():
            if _now_s() >= renewal_s:
                renewal_s += RENEWAL_S
                self._subscribe()
            if _now_s() >= end_s:
                self._logger.warning(
                    f"{', '.join(unheard)}: not heard on {self._claims_topic} within {UNHEARD_S:g} s; should it "
                    "command robots of this node, both do until its claim arrives; if it is a policy_node, give it "
                    "more CPU time"
                )
                return
            self._listen(CROSSING_S)

    def _subscribe(self) -> None:
        """Subscribe the claims, once more after the first time; earlier subscriptions stay until the end."""
        if len(self._subscriptions) > MOST_RENEWALS:
            return
        subscription = self._node.create_subscription(
            DiagnosticArray, self._claims_topic, self._on_message, _qos(MOST_NODES)
        )
        self._subscriptions.append(subscription)
        self._take = direct_take(subscription, self._logger)

    def _unheard_nodes(self) -> list[str]:
        """Return the full names of nodes that publish claims of which none has arrived."""
        self._take_claims()
        publishers = Counter(map(endpoint_name, self._node.get_publishers_info_by_topic(self._claims_topic)))
        return sorted(publishers - Counter(owner for owner, _ in self._claimants))

    def end(self) -> None:
        """End the claim."""
        if self._on_change is not None:
            self._on_change = None
            self._conflicts = {}
            self._claim(0)

    @property
    def holds(self) -> bool:
        """Whether the claim is valid for the other nodes; may be called from any thread.

        A claim that was not repeated in time, as the process was paused, has ended for them: they may drive the robots.
        """
        return self._holds_from_s <= _now_s() < self._claimed_s + EXPIRY_S

    def destroy(self) -> None:
        """Close the topic."""
        self.end()
        self._publisher.wait_for_all_acked(Duration(seconds=ACKNOWLEDGE_S))
        time.sleep(SETTLE_S)
        self._node.destroy_timer(self._timer)
        self._node.destroy_publisher(self._publisher)
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)

    @property
    def conflicts(self) -> dict[str, str]:
        """The other nodes that command a robot, by the name of each robot that several nodes command."""
        owners: dict[str, str] = {}
        for (owner, first), robots in self._conflicts.items():
            for robot in robots:
                name = self._robots[robot]
                text = f"{owner} ({'drives it' if first else 'yields'})"
                owners[name] = f"{owners[name]}, {text}" if name in owners else text
        return owners

    @property
    def yielded_robots(self) -> tuple[str, ...]:
        """Names of the robots that other nodes drive."""
        return tuple(self._robots[robot] for (_, first), robots in self._conflicts.items() if first for robot in robots)

    def _claim(self, activated_ns: int) -> None:
        self._own = replace(self._own, activated_ns=activated_ns)
        self._claimed_s = _now_s()
        self._publisher.publish(self._own.message())

    def _beat(self) -> None:
        now_s = _now_s()
        if now_s - self._searched_s >= FOREIGN_PERIOD_S:
            self._searched_s = now_s
            self._name_foreign_publishers()
            if self._take is not None and self._unheard_nodes():
                self._subscribe()
        if self._on_change is not None:
            silent_s = now_s - self._claimed_s
            if silent_s >= EXPIRY_S:
                self._renew(now_s, silent_s)
            self._claim(self._own.activated_ns)
            self._settle()

    def _renew(self, now_s: float, silent_s: float) -> None:
        """Claim again, as the latest, after a pause in which this node neither published nor heard claims."""
        self._holds_from_s = now_s + LISTEN_S
        self._own = replace(self._own, activated_ns=time.time_ns())
        self._heard = {identity: (claim, now_s) for identity, (claim, _) in self._heard.items()}
        self._logger.error(
            f"this node did not repeat its claim of the robots for {silent_s:.1f} s: others may have taken over, so it "
            f"commands none until it has listened; if it was not paused, give it more CPU time"
        )

    def _on_message(self, message: DiagnosticArray) -> None:
        self._note(message)
        self._settle()

    def _note(self, message: DiagnosticArray) -> None:
        claim = Claim.parse(message)
        if claim is None or claim.identity == self._own.identity:
            return
        if len(self._claimants) < MOST_NODES:
            self._claimants.add((claim.owner, claim.identity))
        if claim.owner == self._own.owner:
            claim = replace(claim, owner=f"{claim.owner} ({claim.process})")
            self._warn_of_namesake(claim)
        # Only topics of this node are of interest.
        shared = claim.topics & self._own.topics
        if not shared:
            self._heard.pop(claim.identity, None)
            return
        now_s = _now_s()
        if claim.identity not in self._heard and len(self._heard) >= MOST_NODES:
            self._heard = {identity: heard for identity, heard in self._heard.items() if now_s - heard[1] < EXPIRY_S}
            if len(self._heard) >= MOST_NODES:
                return
        self._heard[claim.identity] = (replace(claim, topics=shared), now_s)

    def _take_claims(self) -> None:
        """Note the claims that the executor has not handled yet."""
        if self._take is not None:
            for message, _ in islice(iter(self._take, None), MOST_NODES):
                self._note(message)

    def _warn_of_namesake(self, claim: Claim) -> None:
        """Warn once of another node with the name of this one: services and parameters reach either of them."""
        if claim.identity not in self._namesakes and len(self._namesakes) < MOST_NODES and self._may_log():
            self._namesakes.add(claim.identity)
            self._logger.warning(
                f"there is {claim.process}: services and parameters of {self._own.owner} reach either of the two; "
                "stop one, or give it another name (-r __node:=NAME) or namespace (-r __ns:=/NAMESPACE)"
            )

    def _settle(self) -> None:
        """Find the nodes that command the same robots; report them when they have changed."""
        if self._on_change is None:
            return
        # The executor may have been blocked, such as by an activation: claims that arrived meanwhile have not expired.
        self._take_claims()
        oldest_s = _now_s() - EXPIRY_S
        rivals = [claim for claim, heard_s in self._heard.values() if claim.activated_ns and heard_s > oldest_s]
        conflicts: dict[tuple[str, bool], list[int]] = {}
        owners: dict[int, Claim] = {}
        for rival in rivals:
            first = rival.precedes(self._own)
            for robot, topic in self._topics:
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
        self._log(before)

    def _log(self, before: Mapping[tuple[str, bool], list[int]]) -> None:
        for (owner, first), robots in self._conflicts.items():
            if before.get((owner, first)) != robots and self._may_log():
                what = "this node leaves them alone" if first else "it came later and leaves them to this node"
                self._logger.error(
                    f"{owner} commands {self._named(robots)}, too: {what}; stop one of the two, or give each its shard"
                )
        for (owner, first), robots in before.items():
            gone = [robot for robot in robots if robot not in self._conflicts.get((owner, first), ())]
            if gone and self._may_log():
                then = "; this node drives them again" if first else ""
                self._logger.warning(f"{owner} no longer commands {self._named(gone)}{then}")

    def _may_log(self) -> bool:
        """Whether the limit of log lines permits another one: frequent changes must not flood the log."""
        now_s = _now_s()
        if now_s - self._logged_s[0] < LINES_PERIOD_S:
            return False
        self._logged_s.append(now_s)
        return True

    def _named(self, robots: Collection[int]) -> str:
        return ", ".join(self._robots[robot] for robot in robots)

    def _name_foreign_publishers(self) -> None:
        """Warn once of each node that publishes on a command topic and is not a policy_node, such as teleoperation."""
        # A node that has just started may not have claimed yet.
        known = {self._own.owner, *(claim.owner for claim, _ in self._heard.values())}
        for robot, topic in self._topics:
            # Counting is cheap, and mostly finds this node alone.
            if self._node.count_publishers(topic) < 2:
                continue
            for endpoint in self._node.get_publishers_info_by_topic(topic):
                name = endpoint_name(endpoint)
                if name not in known and (name, topic) not in self._foreign:
                    self._foreign.add((name, topic))
                    self._logger.warning(
                        f"{name} publishes on {topic}, too: {self._robots[robot]} obeys both; stop one of the two, or "
                        f"put a multiplexer between them and the robot"
                    )


def _now_s() -> float:
    """Return the time since boot, including sleep."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _qos(depth: int) -> QoSProfile:
    """Return the QoS with which later nodes hear the newest claim of each node."""
    return QoSProfile(depth=depth, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
