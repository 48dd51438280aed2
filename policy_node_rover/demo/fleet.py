# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Run the simulation and the node as processes, and take what the node reports."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.subscription import Subscription
from std_msgs.msg import Float64MultiArray

from policy_node.cli.child_process import Child, ToolError
from policy_node.cli.process_environment import memory_environment, transport_environment

NODE_NAME = "policy_node"
START_TIMEOUT_S = 120.0
POLL_PERIOD_S = 0.25
SENSOR_RATE_HZ = 30.0


class NodeMonitor:
    """Take the reports of the node by polling, without an executor.

    Attributes
    ----------
    control
        Latest diagnostics of the node's control loop; `reported_s` is their stamp.
    robot_values
        Latest diagnostics by robot.
    timing_ms
        Timing of ticks, float64 [ticks, 2 + robots] each: lateness, duration, age of each robot's data at its command.
    """

    def __init__(self, node: Node, robots: Sequence[str]) -> None:
        self.robots = tuple(robots)
        self.control: dict[str, str] = {}
        self.reported_s = 0.0
        self.robot_values: dict[str, dict[str, str]] = {robot: {} for robot in robots}
        self.timing_ms: list[np.ndarray] = []
        qos = QoSProfile(depth=20)
        self._diagnostics = node.create_subscription(DiagnosticArray, "/diagnostics", no_callback, qos)
        self._timing = node.create_subscription(Float64MultiArray, f"{NODE_NAME}/timing", no_callback, qos)

    def poll(self) -> bool:
        """Take all messages; return whether the node has reported."""
        reported = False
        while (message := take(self._diagnostics)) is not None:
            reported |= self._add_diagnostics(message)
        while (message := take(self._timing)) is not None:
            self.timing_ms.append(np.array(message.data).reshape([dimension.size for dimension in message.layout.dim]))
        return reported

    def _add_diagnostics(self, message: DiagnosticArray) -> bool:
        reported = False
        for status in message.status:
            owner, _, part = status.name.rpartition(": ")
            if owner != NODE_NAME:
                continue
            values = {pair.key: pair.value for pair in status.values}
            if part == "control":
                self.control = values
                self.reported_s = message.header.stamp.sec + message.header.stamp.nanosec / 1e9
                reported = True
            elif part in self.robot_values:
                self.robot_values[part] = values
        return reported

    def not_ready(self) -> list[str]:
        """Return the robots that the node does not drive, with their states."""
        return [
            f"{robot}: {values.get('state', 'no diagnostics')}"
            + (f", {values['reason']}" if values.get("reason") else "")
            for robot, values in self.robot_values.items()
            if values.get("state") != "READY"
        ]


class FleetProcesses:
    """Run `rover_sim` and the node while the context lasts.

    Parameters
    ----------
    simulation, node
        Options of `rover_sim`, and arguments of the node for ROS.
    folder
        Folder of the log files.

    Attributes
    ----------
    children
        The processes: ``simulation`` and ``node``.
    failures
        After the context: the processes that ended with an error.
    """

    def __init__(self, simulation: Sequence[str], node: Sequence[str], folder: Path) -> None:
        self._simulation = ["-m", "policy_node_rover.mujoco.rover_sim", *simulation]
        self._node = ["-m", "policy_node.ros.node", "--ros-args", *node]
        self._folder = folder
        self._stack = ExitStack()
        self.children: dict[str, Child] = {}
        self.failures: list[str] = []

    def __enter__(self) -> FleetProcesses:
        """Start the processes."""
        self._folder.mkdir(parents=True, exist_ok=True)
        transport, memory = transport_environment(), memory_environment()
        with ExitStack() as stack:
            log = self._folder / "rover_sim.log"
            self.children["simulation"] = Child("rover_sim", self._simulation, log, transport)
            stack.callback(self._stop, "simulation")
            log = self._folder / "policy_node.log"
            self.children["node"] = Child("policy_node", self._node, log, {**transport, **memory})
            # Stopped before the simulation, so that its safe commands reach the rovers.
            stack.callback(self._stop, "node")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop the processes."""
        self._stack.close()

    def _stop(self, role: str) -> None:
        child = self.children[role]
        if (status := child.stop()) != 0:
            self.failures.append(f"{child.name} ended with status {status}, see {child.log}")

    def check(self) -> None:
        """Raise ToolError when a process has ended."""
        for child in self.children.values():
            child.check()

    def wait_until_driving(self, monitor: NodeMonitor, stopping: Callable[[], bool]) -> bool:
        """Wait until the node drives all robots; False when it is to stop before.

        Raises
        ------
        ToolError
            When a process ends, the node cannot be configured, or it takes too long.
        """
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not stopping():
            if monitor.poll() and not monitor.not_ready():
                return True
            self.check()
            if "configure failed" in (log := self.children["node"].tail()):
                raise ToolError(f"the node cannot drive:\n{log}")
            if time.monotonic() > deadline_s:
                states = "; ".join(monitor.not_ready()) if monitor.control else "the node has published nothing"
                logs = "\n".join(f"--- {child.log}\n{child.tail()}" for child in self.children.values())
                raise ToolError(f"the rovers do not drive after {START_TIMEOUT_S:g} s: {states}\n{logs}")
            time.sleep(POLL_PERIOD_S)
        return False


def take(subscription: Subscription) -> Any:
    """Return the next message of a subscription; None if there is none."""
    taken = subscription.handle.take_message(subscription.msg_type, subscription.raw)
    return None if taken is None else taken[0]


def no_callback(message: object) -> None:
    """Stand in for the callback of a subscription that is polled."""
    raise AssertionError("policy_demo polls its subscriptions and must not be spun by an executor")
