# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Measure a running fleet from one report of the node to another, and record its images."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from rclpy.subscription import Subscription
from sensor_msgs.msg import Image
from std_msgs.msg import Int32

from policy_node_rover.demo.fleet import (
    POLL_PERIOD_S,
    SENSOR_RATE_HZ,
    START_TIMEOUT_S,
    FleetProcesses,
    NodeMonitor,
    no_callback,
    take,
)
from policy_node_rover.demo.report import Frame, Recording

# Period of the node's reports.
REPORT_PERIOD_S = 1.0
# At this number every second frame is dropped, and the period of frames doubles.
MAX_FRAMES = 160


class RawFrame(NamedTuple):
    """Serialised images at one moment; None before the first one."""

    time_s: float
    cameras: list[bytes | None]
    overview: bytes | None
    presses: list[int]


@dataclass(frozen=True)
class Counters:
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

        def subscribe(message_type: type, topic: str, qos: QoSProfile, raw: bool = False) -> Subscription:
            return node.create_subscription(message_type, topic, no_callback, qos, raw=raw)

        self._presses = [subscribe(Int32, f"{robot}/presses", latched) for robot in robots]
        self._cameras = [subscribe(Image, f"{robot}/camera/image_raw", newest_image, raw=True) for robot in robots]
        self._overview = subscribe(Image, "overview/image_raw", newest, raw=True)
        self._raw_cameras: list[bytes | None] = [None] * len(self.robots)
        self._raw_overview: bytes | None = None

    def poll(self) -> bool:
        """Take all messages; return whether the node has reported."""
        reported = super().poll()
        for robot, subscription in enumerate(self._presses):
            if (message := take(subscription)) is not None:
                self.presses[robot] = message.data
        for robot, subscription in enumerate(self._cameras):
            self._raw_cameras[robot] = take(subscription) or self._raw_cameras[robot]
        self._raw_overview = take(self._overview) or self._raw_overview
        return reported

    def frame(self, time_s: float) -> RawFrame:
        """Return the present images."""
        return RawFrame(time_s, list(self._raw_cameras), self._raw_overview, list(self.presses))


class Measurement:
    """Count and record from one report of the node to another."""

    def __init__(self, monitor: FleetMonitor, fleet: FleetProcesses) -> None:
        self._monitor = monitor
        self._fleet = fleet
        self._start: Counters | None = None
        self._end: Counters | None = None
        self._frames: list[RawFrame] = []

    def run(self, duration_s: float, show: Callable[[float], None], stopping: Callable[[], bool]) -> None:
        """Measure from the latest report to the one nearest to the end of the duration.

        Raises
        ------
        ToolError
            When a process ends, or the node does not report any more.
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
