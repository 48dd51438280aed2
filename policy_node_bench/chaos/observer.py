# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Receive the commands of the robots, their missed deadlines, and the diagnostics of the node."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.duration import Duration
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_msgs.msg import Float64MultiArray

from policy_node.cli.child_process import ToolError
from policy_node.ros.middleware import reports_deadlines
from policy_node.ros.rclpy_internals import poll_topic
from policy_node.sensing.synchroniser import RobotState
from policy_node_bench.chaos.robot import system_time_offset_ns
from policy_node_bench.harness.robots import COMMAND_TOPIC, robot_name

# Commands of this time are queued if the machine is busy.
_QUEUE_S = 30.0


class Observer:
    """Receive commands and diagnostics. Times are seconds since `begin_ns` on the monotonic clock."""

    def __init__(self, robots: int, rate_hz: float, begin_ns: int, node_name: str) -> None:
        self._begin_ns = begin_ns
        self._prefix = f"{node_name}: "
        # Newest values of each status of each node, by name.
        self.statuses: dict[str, dict[str, str]] = {}
        self._indices = {robot_name(robot): robot for robot in range(robots)}
        self._node = rclpy.create_node("policy_chaos")
        qos = QoSProfile(depth=max(10, round(_QUEUE_S * rate_hz)), reliability=ReliabilityPolicy.RELIABLE)
        self._commands = [
            poll_topic(self._node, Float64MultiArray, f"{name}/{COMMAND_TOPIC}", qos)[1] for name in self._indices
        ]
        _, self._diagnostics = poll_topic(self._node, DiagnosticArray, "/diagnostics", QoSProfile(depth=100))

    def close(self) -> None:
        """Leave ROS."""
        self._node.destroy_node()

    def now_s(self) -> float:
        """Return the current time of the run."""
        return (time.monotonic_ns() - self._begin_ns) / 1e9

    def commands(self) -> Iterator[tuple[int, float, np.ndarray]]:
        """Yield every command that has arrived: robot, time when it was sent, values.

        The middleware stamps it in the node's process when it is sent, on the system clock.
        """
        offset_ns = -system_time_offset_ns() - self._begin_ns
        for robot, take in enumerate(self._commands):
            for message, info in iter(take, None):
                yield robot, (info["source_timestamp"] + offset_ns) / 1e9, np.array(message.data)

    def reports(self) -> Iterator[list[int]]:
        """Yield for every report of diagnostics that has arrived the robots that the policy does not drive."""
        for message, _ in iter(self._diagnostics, None):
            robots = {self._indices.get(status.name.removeprefix(self._prefix)): status for status in message.status}
            for status in message.status:
                self.statuses[status.name] = {pair.key: pair.value for pair in status.values}
            yield [robot for robot, status in robots.items() if robot is not None and not _is_ready(status)]

    def value(self, status: str, key: str) -> str:
        """Return a value in the newest status of a name; empty without any."""
        return self.statuses.get(status, {}).get(key, "")


@contextmanager
def observed_deadlines(robots: int, deadline_s: float) -> Iterator[tuple[np.ndarray, Callable[[float], None]]]:
    """Subscribe to the commands as the robots do.

    Yields the time of the first missed deadline of each robot, `[robots]` in seconds on the monotonic clock, else
    infinity, and a function that processes events for some seconds. No deadline is missed where the middleware reports
    none.
    """
    missed_s = np.full(robots, np.inf)

    def on_missed(robot: int, event: object) -> None:
        missed_s[robot] = min(missed_s[robot], time.monotonic())

    def on_incompatible(robot: int, event: object) -> None:
        raise ToolError(f"the command topic of {robot_name(robot)} offers a longer deadline than the robots request")

    def spin(seconds: float) -> None:
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            executor.spin_once(timeout_sec=0.01)

    node, executor = rclpy.create_node("policy_chaos_deadlines"), SingleThreadedExecutor()
    executor.add_node(node)
    qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, deadline=Duration(seconds=deadline_s))
    for robot in range(robots):
        callbacks = SubscriptionEventCallbacks(
            deadline=partial(on_missed, robot) if reports_deadlines() else None,
            incompatible_qos=partial(on_incompatible, robot),
        )
        topic = f"{robot_name(robot)}/{COMMAND_TOPIC}"
        node.create_subscription(Float64MultiArray, topic, _ignore, qos, event_callbacks=callbacks)
    try:
        yield missed_s, spin
    finally:
        executor.shutdown()
        node.destroy_node()


def _ignore(message: object) -> None:
    """Ignore a message: its deadline alone is of interest."""


def _is_ready(status: Any) -> bool:
    return any(pair.key == "state" and pair.value == RobotState.READY.name for pair in status.values)
