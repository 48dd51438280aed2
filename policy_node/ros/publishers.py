# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""One command topic per robot."""

from __future__ import annotations

import threading
import time

import numpy as np
from rclpy.clock import Clock
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from policy_node.configuration import Configuration
from policy_node.ros.messages import CommandEncoder
from policy_node.ros.subscriptions import topic_of

COMMAND_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)
# How long a shut-down waits until the safe commands have arrived.
ACKNOWLEDGE_S = 0.5


class CommandPublishers:
    """Publishes rows of commands.

    Parameters
    ----------
    node
        Owner of the publishers.
    configuration
        Robots and topic.
    encoder
        Turns a row into a message.
    safe_command
        `[components]` float64; None when the configuration names none, robots are then left alone.
    """

    def __init__(
        self, node: Node, configuration: Configuration, encoder: CommandEncoder, safe_command: np.ndarray | None
    ) -> None:
        self._node = node
        self._encoder = encoder
        self._safe_command = safe_command
        self._clock: Clock = node.get_clock()
        # The encoder reuses one message, and the safe command may come from another thread.
        self._lock = threading.Lock()
        self._stopped = False
        self._publishers: list[Publisher] = []
        try:
            for robot in configuration.robots:
                topic = topic_of(robot, configuration.action.topic)
                self._publishers.append(node.create_publisher(encoder.message_type, topic, COMMAND_QOS))
        except Exception:
            self.destroy()
            raise

    @property
    def has_safe_command(self) -> bool:
        """Whether the configuration names a safe command."""
        return self._safe_command is not None

    def publish(self, commands: np.ndarray, publish: np.ndarray, stamp_ns: int) -> None:
        """Send each robot its row of `commands` `[robots, components]` where `publish` `[robots]` is set.

        Nothing is sent once the robots were stopped.

        Raises
        ------
        Exception
            The first error of a publisher, after every other robot got its command.
        """
        with self._lock:
            if not self._stopped:
                self._send(commands, publish, stamp_ns)

    def _send(self, commands: np.ndarray, publish: np.ndarray, stamp_ns: int) -> None:
        first_error: Exception | None = None
        for robot in np.flatnonzero(publish):
            try:
                self._publishers[robot].publish(self._encoder(commands[robot], stamp_ns))
            except Exception as error:  # one robot's trouble is not the others'
                first_error = first_error or error
        if first_error is not None:
            raise first_error

    def resume(self) -> None:
        """Let commands through again after the robots were stopped."""
        with self._lock:
            self._stopped = False

    def stop(self) -> None:
        """Send every robot the safe command, if there is one, and nothing after it; wait a moment until it has arrived.

        May be called from any thread, also while the tick thread hangs: a command that it sends later goes nowhere.

        Raises
        ------
        Exception
            The first error of a publisher, after every other robot got its command.
        """
        with self._lock:
            self._stopped = True
            if self._safe_command is None:
                return
            count = len(self._publishers)
            commands = np.tile(self._safe_command, (count, 1))
            self._send(commands, np.ones(count, bool), self._clock.now().nanoseconds)
        deadline_s = time.monotonic() + ACKNOWLEDGE_S
        for publisher in self._publishers:
            publisher.wait_for_all_acked(Duration(seconds=max(0.0, deadline_s - time.monotonic())))

    def destroy(self) -> None:
        """Remove the publishers from the node."""
        for publisher in self._publishers:
            self._node.destroy_publisher(publisher)
        self._publishers.clear()
