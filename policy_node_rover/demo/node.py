# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The node as the demonstration runs it: its command line, and what it reports."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.subscription import Subscription
from std_msgs.msg import Float64MultiArray

from policy_node.cli.child_process import Child, ToolError
from policy_node.config.package_files import share_path

NODE_NAME = "policy_node"
START_TIMEOUT_S = 120.0
LOOK_PERIOD_S = 0.25
# How often the rovers of the demonstration sense.
SENSOR_RATE_HZ = 30.0


def node_arguments(robots: Sequence[str], model: Path | None) -> list[str]:
    """Return the arguments of Python with which the node drives rovers.

    Parameters
    ----------
    robots
        Namespaces.
    model
        The policy to run; None: the one that `config/rover.yaml` names.
    """
    overrides = [f"robots:=[{', '.join(robots)}]"]
    if model is not None:
        # Whoever names a file of one's own trusts it.
        overrides += [f"policy.path:={model.resolve()}", "policy.trusted:=true"]
    return [
        *("-m", "policy_node.ros.node", "--ros-args", "--params-file", str(share_path("config", "rover.yaml"))),
        *(argument for override in overrides for argument in ("-p", override)),
    ]


class NodeMonitor:
    """Takes what the node reports, when it is asked to; nothing is done in between.

    Parameters
    ----------
    node
        Owner of the subscriptions; nobody needs to spin it.
    robots
        Namespaces.

    Attributes
    ----------
    control
        The node's latest diagnostics about its control loop.
    reported_s
        When it sent them.
    robot_values
        Its latest diagnostics by robot.
    timing_ms
        What it told of ticks, float64 [ticks, 2 + robots] each: lateness, duration of the tick, age of each robot's
        data at its command.
    """

    def __init__(self, node: Node, robots: Sequence[str]) -> None:
        self.robots = tuple(robots)
        self.control: dict[str, str] = {}
        self.reported_s = 0.0
        self.robot_values: dict[str, dict[str, str]] = {robot: {} for robot in robots}
        self.timing_ms: list[np.ndarray] = []
        queue = QoSProfile(depth=20)
        self._diagnostics = node.create_subscription(DiagnosticArray, "/diagnostics", never_called, queue)
        self._timing = node.create_subscription(Float64MultiArray, f"{NODE_NAME}/timing", never_called, queue)

    def take(self) -> bool:
        """Take everything that has arrived; return whether the node has reported."""
        reported = False
        while (message := take(self._diagnostics)) is not None:
            reported |= self._note_diagnostics(message)
        while (message := take(self._timing)) is not None:
            self.timing_ms.append(np.array(message.data).reshape([dimension.size for dimension in message.layout.dim]))
        return reported

    def _note_diagnostics(self, message: DiagnosticArray) -> bool:
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
        """Return the robots that the node does not drive, with what it says of them."""
        return [
            f"{robot}: {values.get('state', 'not heard of')}"
            + (f", {values['reason']}" if values.get("reason") else "")
            for robot, values in self.robot_values.items()
            if values.get("state") != "READY"
        ]


def wait_until_driving(monitor: NodeMonitor, children: Mapping[str, Child], stopping: Callable[[], bool]) -> None:
    """Wait until the node drives all robots, or until told to stop.

    Parameters
    ----------
    monitor
        Of the node.
    children
        The processes of the node, under ``node``, and of the simulation.
    stopping
        Whether to end early.

    Raises
    ------
    ToolError
        When a process ends, the node cannot drive, or it takes too long.
    """
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while not stopping():
        if monitor.take() and not monitor.not_ready():
            return
        for child in children.values():
            child.check()
        if "configure failed" in (log := children["node"].tail()):
            raise ToolError(f"the node cannot drive:\n{log}")
        if time.monotonic() > deadline_s:
            said = "; ".join(monitor.not_ready()) if monitor.control else "the node has published nothing"
            logs = "\n".join(f"--- {child.log}\n{child.tail()}" for child in children.values())
            raise ToolError(f"the rovers do not drive after {START_TIMEOUT_S:g} s: {said}\n{logs}")
        time.sleep(LOOK_PERIOD_S)


def take(subscription: Subscription) -> Any:
    """Return the next message of a subscription; None: there is none."""
    taken = subscription.handle.take_message(subscription.msg_type, subscription.raw)
    return None if taken is None else taken[0]


def never_called(message: object) -> None:
    """Stand for the callback of a subscription that is taken from."""
    raise AssertionError("messages are taken when somebody looks, never by an executor")
