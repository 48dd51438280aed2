# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Publish the commands: one topic per robot, or several."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import numpy as np
from rclpy.clock import Clock
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, HistoryPolicy, LivelinessPolicy, QoSProfile, ReliabilityPolicy

from policy_node.config.schema import Configuration, topic_of
from policy_node.control.between import BetweenTicks
from policy_node.control.realtime import apply_realtime
from policy_node.control.tick import SentCommands
from policy_node.messages.codecs import CommandEncoder
from policy_node.messages.patched import fleet_encoder
from policy_node.ros.command_rate import CommandRate
from policy_node.ros.process import raise_if_interrupted
from policy_node.ros.rclpy_internals import NO_EVENTS, Send, direct_send

# Longest wait at shutdown for the arrival of the safe commands.
ACKNOWLEDGE_S = 0.5
# Announcing that the process lives costs a message every two thirds of the lease, whatever the number of robots.
LEASE_MIN_S = 0.1


def command_qos(deadline_s: float) -> QoSProfile:
    """Return what command topics offer: reliable, newest only, with a deadline and a lease of liveliness.

    Liveliness is that of the process; a tick that hangs shows as a missed deadline. MANUAL_BY_TOPIC resets a timer on
    every publish and cost 25 % more CPU. Subscribers that request neither deadline nor lease are compatible.
    """
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=1,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.VOLATILE,
        deadline=Duration(seconds=deadline_s),
        liveliness=LivelinessPolicy.AUTOMATIC,
        liveliness_lease_duration=Duration(seconds=max(deadline_s, LEASE_MIN_S)),
    )


class Delivery(NamedTuple):
    """The result of sending commands.

    Attributes
    ----------
    sent
        `[robots]` bool: robots that were sent a command.
    late
        Indices of the robots whose command was too old when its turn came.
    error
        The first error of a publisher; None when there was none.
    """

    sent: np.ndarray
    late: list[int]
    error: Exception | None


def _trajectories(commands: np.ndarray, following: np.ndarray) -> np.ndarray:
    """Return commands `[robots, components]` and those that follow, `[robots, points * components]`."""
    first = commands[:, None]
    further = np.where(np.isfinite(following), following, first)
    return np.concatenate([first, further], axis=1).reshape(len(commands), -1)


class CommandPublishers:
    """Publishes rows of commands.

    Parameters
    ----------
    node
        Owner of the publishers.
    configuration
        Robots and topic.
    encoders
        By command topic of a robot: turns the components of the topic into a message.
    stopping
        Ends the creation of topics, which raises `Interrupted`; None: nothing does.

    Attributes
    ----------
    without_safe_command
        Robots for which there was no safe command when the robots were last stopped.
    on_sent
        Called with the sent commands, from the sending thread, before anything else is sent; None: not called.
    """

    def __init__(
        self,
        node: Node,
        configuration: Configuration,
        encoders: Sequence[CommandEncoder],
        stopping: threading.Event | None = None,
    ) -> None:
        self._node = node
        self._robots = configuration.robots
        # Of each topic of a robot its components in a command, and its encoder.
        self._topics = [
            (columns, fleet_encoder(encoder, len(configuration.robots)))
            for columns, encoder in zip(configuration.columns, encoders, strict=True)
        ]
        self._clock: Clock = node.get_clock()
        # The encoder reuses its messages, and safe commands come from other threads.
        self._lock = threading.Lock()
        self._stopped = False
        self.without_safe_command: tuple[str, ...] = ()
        self.on_sent: Callable[[SentCommands], None] | None = None
        # Commands between two ticks; None: there are none.
        self._between: BetweenTicks | None = None
        self._rate: CommandRate | None = None
        # By topic.
        self._points = [encoder.points for encoder in encoders]
        self._set_rate(configuration, sum(encoder.components // encoder.points for encoder in encoders))
        # By robot, then by topic.
        self._publishers: list[Publisher] = []
        # `Publisher.publish` takes a lock and checks types, which costs 1 to 2 us more per robot and tick.
        self._senders: list[Send] = []
        qos = command_qos(configuration.action.deadline_s)
        try:
            for robot in configuration.robots:
                for command, encoder in zip(configuration.commands, encoders, strict=True):
                    raise_if_interrupted(stopping)
                    topic = topic_of(robot, command.topic)
                    publisher = node.create_publisher(encoder.message_type, topic, qos, event_callbacks=NO_EVENTS)
                    self._publishers.append(publisher)
                    self._senders.append(direct_send(publisher, node.get_logger()))
        except Exception:
            self.destroy()
            raise

    def _set_rate(self, configuration: Configuration, components: int) -> None:
        """Prepare the commands between two ticks."""
        action = configuration.action
        if not action.publish_rate_hz:
            return
        steps = round(action.publish_rate_hz / configuration.control_rate_hz)
        self._between = BetweenTicks(len(configuration.robots), components, steps, action.interpolation == "linear")
        realtime = configuration.realtime
        self._rate = CommandRate(configuration.period_ns, steps, self._send_between, lambda: apply_realtime(realtime))

    def _send_between(self) -> bool:
        """Send the next commands between two ticks; return False if there are none."""
        with self._lock:
            if self._stopped or self._between is None or self._between.is_done:
                return False
            commands, publish = self._between.next()
            # The tick after it says what failed.
            delivery = self._send(commands, publish, self._clock.now().nanoseconds, self._between.until_s, noted=False)
            self._between.end(publish & ~delivery.sent)
            return True

    def end_between(self, robots: Collection[int]) -> None:
        """Send these robots, by their index, nothing more before the next tick."""
        if self._between is not None and robots:
            with self._lock:
                ended = np.zeros(len(self._robots), bool)
                ended[list(robots)] = True
                self._between.end(ended)

    def publish(
        self,
        commands: np.ndarray,
        publish: np.ndarray,
        stamp_ns: int,
        until_s: np.ndarray | None = None,
        smooth: np.ndarray | None = None,
        following: np.ndarray | None = None,
    ) -> Delivery:
        """Send each robot its row of `commands` `[robots, components]` where `publish` `[robots]` is set.

        Of several topics, those whose components are NaN get nothing.

        Nothing is sent once the robots were stopped. A publisher that fails keeps no other robot from its command.

        Parameters
        ----------
        commands, publish, stamp_ns
            The commands, the robots that get theirs, and the stamp.
        until_s
            `[robots]` float64 on the clock of `time.perf_counter`: when each command becomes too old to be sent, for
            example because sending another one was held up; infinity, NaN, or no array: never.
        smooth
            `[robots]` bool: robots whose commands come from the policy, which may be interpolated. None: nothing is
            sent between the ticks.
        following
            `[robots, points - 1, components]` float64: the further points of trajectories; where they are not
            finite, or without an array, the command.
        """
        with self._lock:
            publish = publish & (not self._stopped)
            if self._between is None or self._rate is None or smooth is None:
                return self._send(commands, publish, stamp_ns, until_s, of_tick=True, following=following)
            first = self._between.begin(commands, publish, smooth, until_s)
            delivery = self._send(first, publish, stamp_ns, until_s, of_tick=True, recorded=commands)
            self._between.end(publish & ~delivery.sent)
            self._rate.begin()
            return delivery

    def _send(
        self,
        commands: np.ndarray,
        publish: np.ndarray,
        stamp_ns: int,
        until_s: np.ndarray | None = None,
        of_tick: bool = False,
        noted: bool = True,
        recorded: np.ndarray | None = None,
        following: np.ndarray | None = None,
    ) -> Delivery:
        """Send commands; note them, or `recorded` in their place, unless `noted` is False. The lock must be held."""
        first_error: Exception | None = None
        unsent: list[int] = []
        late: list[int] = []
        sent: dict[int, bytes] = {}
        topics = len(self._topics)
        for topic, (columns, encode) in enumerate(self._topics):
            chosen, part = publish, commands
            if topics > 1:
                part = commands[:, columns]
                chosen = publish & np.isfinite(part).all(axis=1)
            if following is not None and self._points[topic] > 1:
                part = _trajectories(part, following[:, :, columns])
            robots = np.flatnonzero(chosen).tolist()
            untils_s = [math.nan] * len(robots) if until_s is None else until_s[robots].tolist()
            for robot, message, robot_until_s in zip(robots, encode(part, robots, stamp_ns), untils_s, strict=True):
                if time.perf_counter() > robot_until_s:
                    late.append(robot)
                    continue
                index = robot * topics + topic
                try:
                    self._senders[index](message)
                    sent[index] = message
                except Exception as error:  # the other robots still get their commands
                    first_error = first_error or error
                    unsent.append(robot)
        if sent and noted and self.on_sent is not None:
            if recorded is not None:
                sent = self._serialised(recorded, sent, stamp_ns)
            self.on_sent(SentCommands(stamp_ns, sent, of_tick))
        was_sent = np.zeros(len(publish), bool)
        if topics == 1:
            was_sent[list(sent)] = True
        else:
            was_sent[[index // topics for index in sent]] = True
            # A robot has its command when all its topics have.
            was_sent[[*late, *unsent]] = False
            late = list(dict.fromkeys(late))
        return Delivery(was_sent, late, first_error)

    def _serialised(self, commands: np.ndarray, indices: Collection[int], stamp_ns: int) -> dict[int, bytes]:
        """Return the messages of commands on some topics, by their index."""
        topics, messages = len(self._topics), {}
        for topic, (columns, encode) in enumerate(self._topics):
            robots = [index // topics for index in indices if index % topics == topic]
            found = encode(commands[:, columns], robots, stamp_ns)
            messages.update({robot * topics + topic: each for robot, each in zip(robots, found, strict=True)})
        return messages

    def _have_command(self, commands: np.ndarray) -> np.ndarray:
        """Return which robots `[robots]` bool have a finite command for a topic."""
        return np.any([np.isfinite(commands[:, columns]).all(axis=1) for columns, _ in self._topics], axis=0)

    def send_safe(self, safe_commands: np.ndarray) -> Delivery:
        """Send every robot its safe command now, without blocking later commands; may be called from any thread.

        Parameters
        ----------
        safe_commands
            `[robots, components]` float64; a topic whose components are not finite gets nothing.
        """
        finite = self._have_command(safe_commands)
        with self._lock:
            if self._between is not None:
                self._between.end(finite, safe_commands)
            return self._send(safe_commands, finite & (not self._stopped), self._clock.now().nanoseconds)

    def resume(self) -> None:
        """Let commands through again after the robots were stopped."""
        with self._lock:
            self._stopped = False
            if self._between is not None:
                # The robots may have been moved meanwhile.
                self._between.end(np.ones(len(self._robots), bool))

    def stop(self, safe_commands: np.ndarray) -> None:
        """Send every robot its safe command, and nothing after it; wait a moment until it has arrived.

        May be called from any thread, also while the tick thread hangs: commands that it sends later are dropped.

        Parameters
        ----------
        safe_commands
            `[robots, components]` float64; a topic whose components are not finite gets nothing.

        Raises
        ------
        Exception
            The first error of a publisher, after every other robot got its command.
        """
        finite = self._have_command(safe_commands)
        without = np.flatnonzero(~np.isfinite(safe_commands).all(axis=1))
        with self._lock:
            self._stopped = True
            if self._between is not None:
                self._between.end(np.ones(len(finite), bool), safe_commands)
            self.without_safe_command = tuple(self._robots[robot] for robot in without)
            delivery = self._send(safe_commands, finite, self._clock.now().nanoseconds)
        if delivery.error is not None:
            raise delivery.error
        deadline_s = time.monotonic() + ACKNOWLEDGE_S
        topics = len(self._topics)
        for robot in np.flatnonzero(finite).tolist():
            for publisher in self._publishers[robot * topics : (robot + 1) * topics]:
                publisher.wait_for_all_acked(Duration(seconds=max(0.0, deadline_s - time.monotonic())))

    def destroy(self) -> None:
        """Remove the publishers from the node; nothing is sent any more."""
        if self._rate is not None:
            self._rate.end()
        with self._lock:
            self._stopped = True
            for publisher in self._publishers:
                self._node.destroy_publisher(publisher)
            self._publishers.clear()
            self._senders.clear()
