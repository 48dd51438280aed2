# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Run the simulation and the node as processes, take the reports of the node, and measure the fleet."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import Float64MultiArray, Int32

from policy_node.cli.child_process import Child, ToolError
from policy_node.cli.process_environment import memory_environment, transport_environment
from policy_node.ros.rclpy_internals import poll_topic
from policy_node_rover.demo.report import Frame, Recording

NODE_NAME = "policy_node"
START_TIMEOUT_S = 120.0
POLL_PERIOD_S = 0.25
SENSOR_RATE_HZ = 30.0
# Period of the node's reports.
REPORT_PERIOD_S = 1.0
# At this number every second frame is dropped, and the period of frames doubles.
MAX_FRAMES = 160


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
        self._diagnostics = messages_of(node, DiagnosticArray, "/diagnostics", qos)
        self._timing = messages_of(node, Float64MultiArray, f"{NODE_NAME}/timing", qos)

    def poll(self) -> bool:
        """Take all messages; return whether the node has reported."""
        reported = False
        for message in iter(self._diagnostics, None):
            parts = {status.name: {pair.key: pair.value for pair in status.values} for status in message.status}
            # Before the node is active it reports its lifecycle only.
            if "ticks" in (control := parts.get(f"{NODE_NAME}: control", {})):
                self.control, reported = control, True
                self.reported_s = message.header.stamp.sec + message.header.stamp.nanosec / 1e9
            for robot, values in self.robot_values.items():
                self.robot_values[robot] = parts.get(f"{NODE_NAME}: {robot}", values)
        for message in iter(self._timing, None):
            self.timing_ms.append(np.array(message.data).reshape([dimension.size for dimension in message.layout.dim]))
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
    """Run `rover_sim` with its options and the node with its arguments for ROS while the context lasts.

    Their log files are written into a folder. `children` has the processes: ``simulation`` and ``node``. After the
    context, `failures` names those that ended with an error.
    """

    def __init__(self, simulation: Sequence[str], node: Sequence[str], folder: Path) -> None:
        transport, memory = transport_environment(), memory_environment()
        self._commands = {
            "simulation": ("rover_sim", ["-m", "policy_node_rover.mujoco.rover_sim", *simulation], transport),
            "node": ("policy_node", ["-m", "policy_node.ros.main", "--ros-args", *node], {**transport, **memory}),
        }
        self._folder = folder
        self._stack = ExitStack()
        self.children: dict[str, Child] = {}
        self.failures: list[str] = []

    def __enter__(self) -> FleetProcesses:
        """Start the processes."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            # The node is stopped before the simulation, so that its safe commands reach the rovers.
            for role, (name, arguments, environment) in self._commands.items():
                self.children[role] = Child(name, arguments, self._folder / f"{name}.log", environment)
                stack.callback(self._stop, self.children[role])
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop the processes."""
        self._stack.close()

    def _stop(self, child: Child) -> None:
        if (status := child.stop()) != 0:
            self.failures.append(f"{child.name} ended with status {status}, see {child.log}")

    def check(self) -> None:
        """Raise ToolError when a process has ended."""
        for child in self.children.values():
            child.check()

    def wait_until_driving(self, monitor: NodeMonitor, stopping: Callable[[], bool]) -> bool:
        """Wait until the node drives all robots; False when it is to stop before.

        ToolError is raised when a process ends, the node cannot be configured, or it takes too long.
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


def messages_of(node: Node, message_type: type, topic: str, qos: QoSProfile, raw: bool = False) -> Callable[[], Any]:
    """Subscribe a topic; the function returned takes its next message, None if there is none."""
    _, take = poll_topic(node, message_type, topic, qos, raw)
    return lambda: None if (taken := take()) is None else taken[0]


class Counters(NamedTuple):
    """Counters at a report; `reported_s` is the node's stamp, `time_s` the time at which the CPU times were read."""

    reported_s: float
    time_s: float
    ticks: int
    missed: int
    presses: tuple[int, ...]
    cpu_s: dict[str, float]


class FleetMonitor(NodeMonitor):
    """Take what simulation and node publish by polling; images stay serialised, which costs the least."""

    def __init__(self, node: Node, robots: Sequence[str]) -> None:
        super().__init__(node, robots)
        self.presses = [0] * len(self.robots)
        newest = QoSProfile(depth=1)
        newest_image = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)

        self._presses = [messages_of(node, Int32, f"{robot}/presses", latched) for robot in robots]
        self._cameras = [
            messages_of(node, Image, f"{robot}/camera/image_raw", newest_image, raw=True) for robot in robots
        ]
        self._overview = messages_of(node, Image, "overview/image_raw", newest, raw=True)
        self._raw_cameras: list[bytes | None] = [None] * len(self.robots)
        self._raw_overview: bytes | None = None

    def poll(self) -> bool:
        """Take all messages; return whether the node has reported."""
        reported = super().poll()
        for robot, take in enumerate(self._presses):
            if (message := take()) is not None:
                self.presses[robot] = message.data
        for robot, take in enumerate(self._cameras):
            self._raw_cameras[robot] = take() or self._raw_cameras[robot]
        self._raw_overview = self._overview() or self._raw_overview
        return reported

    def frame(self, time_s: float) -> Frame[bytes]:
        """Return the present images, serialised."""
        return Frame(time_s, list(self._raw_cameras), self._raw_overview, list(self.presses))


class Measurement:
    """Count and record from one report of the node to another."""

    def __init__(self, monitor: FleetMonitor, fleet: FleetProcesses) -> None:
        self._monitor = monitor
        self._fleet = fleet
        self._start: Counters | None = None
        self._end: Counters | None = None
        self._frames: list[Frame[bytes]] = []

    def run(self, duration_s: float, show: Callable[[float], None], stopping: Callable[[], bool]) -> None:
        """Measure from the latest report to the one nearest to the end of the duration.

        ToolError is raised when a process ends, or the node does not report any more.
        """
        monitor = self._monitor
        monitor.timing_ms.clear()
        self._start = self._counters()
        start_s = self._start.time_s
        next_poll_s, frame_period_s, next_frame_s = start_s, POLL_PERIOD_S, 0.0
        while not stopping():
            next_poll_s += POLL_PERIOD_S
            time.sleep(max(0.0, next_poll_s - time.monotonic()))
            reported = monitor.poll()
            elapsed_s = time.monotonic() - start_s
            if elapsed_s >= next_frame_s:
                next_frame_s += frame_period_s
                self._frames.append(monitor.frame(elapsed_s))
                if len(self._frames) >= MAX_FRAMES:
                    del self._frames[1::2]
                    frame_period_s *= 2
            if reported:
                self._end = self._counters()
            self._fleet.check()
            show(elapsed_s)
            if reported and elapsed_s >= duration_s - REPORT_PERIOD_S / 2:
                return
            if time.monotonic() - (self._end or self._start).time_s > START_TIMEOUT_S:
                raise self._fleet.children["node"].error(f"has not reported for {START_TIMEOUT_S:g} s")

    def recording(self, seed: int) -> Recording | None:
        """Return the recording with decoded images; None if nothing was measured."""
        start, end, monitor = self._start, self._end, self._monitor
        if start is None or end is None:
            return None

        def new_presses(presses: Sequence[int]) -> list[int]:
            return [now - before for now, before in zip(presses, start.presses, strict=True)]

        frames = [
            Frame(raw.time_s, list(map(_decode, raw.cameras)), _decode(raw.overview), new_presses(raw.presses))
            for raw in self._frames
            if raw.overview is not None or any(camera is not None for camera in raw.cameras)
        ]
        control = monitor.control
        return Recording(
            robots=monitor.robots,
            elapsed_s=end.reported_s - start.reported_s,
            ticks=end.ticks - start.ticks,
            missed_ticks=end.missed - start.missed,
            presses=tuple(new_presses(end.presses)),
            timing_ms=np.concatenate([*monitor.timing_ms, np.empty((0, 2 + len(monitor.robots)))]),
            cpu_percent={
                role: round((end.cpu_s[role] - start.cpu_s[role]) / (end.time_s - start.time_s) * 100, 1)
                for role in start.cpu_s
            },
            about={
                "control_rate_hz": float(control.get("control_rate_hz", "nan")),
                "sensor_rate_hz": SENSOR_RATE_HZ,
                "rmw": control.get("rmw"),
                "device": control.get("device"),
                "engine": control.get("engine"),
                "policy": Path(control.get("policy", "")).name,
                "policy_sha256": control.get("policy_sha256"),
                "seed": seed,
                "processors": os.cpu_count(),
            },
            frames=frames,
        )

    def _counters(self) -> Counters:
        monitor = self._monitor
        own = psutil.Process().cpu_times()
        cpu_s = {role: child.cpu_s() for role, child in self._fleet.children.items()}
        return Counters(
            reported_s=monitor.reported_s,
            time_s=time.monotonic(),
            ticks=int(monitor.control["ticks"]),
            missed=int(monitor.control["missed_ticks"]),
            presses=tuple(monitor.presses),
            cpu_s=cpu_s | {"demo": own.user + own.system},
        )


def _decode(raw: bytes | None) -> np.ndarray | None:
    if raw is None:
        return None
    message: Image = deserialize_message(raw, Image)
    return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)
