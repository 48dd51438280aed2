# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Publish cameras and touch sensors of synthetic robots: serialised messages at absolute deadlines.

Messages are serialised once and only their stamp is replaced, so that the robots need little CPU time.
"""

from __future__ import annotations

import argparse
import math
import sys
import threading
import time
from array import array
from collections.abc import Sequence
from pathlib import Path
from struct import Struct

import numpy as np
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import qos_profile_sensor_data
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image, JointState

from policy_node.control.timing import SteadyClock
from policy_node.ros.process import ros_process
from policy_node_bench.harness.robots import IMAGE_TOPIC, TOUCH_CELLS, TOUCH_TOPIC, robot_name

# The stamp follows the four bytes of encapsulation; serialize_message writes in the machine's byte order.
_STAMP = Struct("=iI")
_STAMP_START = 4
_STAMP_END = _STAMP_START + _STAMP.size


class StampedMessage:
    """A serialised message whose stamp, and if needed whose payload, is replaced without serialising again.

    Parameters
    ----------
    message
        A message that begins with a std_msgs/Header.
    payload
        Bytes that occur once in the message and are replaced as well; empty to replace the stamp only.
    """

    def __init__(self, message: Image | JointState, payload: bytes = b"") -> None:
        raw = serialize_message(message)
        start = raw.index(payload, _STAMP_END) if payload else len(raw)
        self._head, self._middle = raw[:_STAMP_START], raw[_STAMP_END:start]
        self._tail = raw[start + len(payload) :]

    def __call__(self, stamp_ns: int, payload: bytes = b"") -> bytes:
        """Return the message with this stamp and payload."""
        stamp = _STAMP.pack(*divmod(stamp_ns, 1_000_000_000))
        return b"".join((self._head, stamp, self._middle, payload, self._tail))


def readings(robot: int, width: int, height: int, channels: int = 3) -> dict[str, Image | JointState]:
    """Return a robot's messages by topic: touch, and an image of random pixels."""
    rng = np.random.default_rng(robot)
    image = Image(height=height, width=width, encoding="rgb8" if channels == 3 else "mono8", step=channels * width)
    image.data.frombytes(rng.bytes(height * image.step))
    touch = JointState(name=[f"touch_{cell}" for cell in range(TOUCH_CELLS)], effort=rng.random(TOUCH_CELLS).tolist())
    return {TOUCH_TOPIC: touch, IMAGE_TOPIC: image}


def make_publishers(node: Node, robot: int, width: int, height: int) -> list[tuple[Publisher, StampedMessage]]:
    """Return publisher and message of a robot's touch and camera."""
    return [
        (
            node.create_publisher(type(message), f"{robot_name(robot)}/{topic}", qos_profile_sensor_data),
            StampedMessage(message),
        )
        for topic, message in readings(robot, width, height).items()
    ]


class Punctuality:
    """Record the deadline of each robot's readings and the delay until all are published."""

    def __init__(self) -> None:
        self._due_ns = array("q")
        self._delays_ms = array("d")

    def add(self, due_ns: int, delay_ms: float) -> None:
        """Record one robot's readings, with NaN as delay if they were skipped."""
        self._due_ns.append(due_ns)
        self._delays_ms.append(delay_ms)

    def save(self, file: Path) -> None:
        """Write `[readings, 2]` float64: deadline in seconds on the monotonic clock, delay in milliseconds."""
        np.save(file, np.column_stack([np.array(self._due_ns) / 1e9, np.array(self._delays_ms)]))


def publish_until_stopped(
    robots: Sequence[tuple[int, Sequence[tuple[Publisher, StampedMessage]]]],
    period_ns: int,
    stopping: threading.Event,
    punctuality: Punctuality,
) -> None:
    """Publish the readings of every robot once per period, each robot with its own phase.

    Parameters
    ----------
    robots
        Phase within the period in nanoseconds, ascending, with publishers and messages.
    period_ns
        Period of the sensors.
    stopping
        Ends the loop when it is set.
    punctuality
        Records deadlines and delays.
    """
    # Periods count from the start of the monotonic clock, so that the processes share one grid.
    clock = SteadyClock()
    cycle_ns = clock.now_ns() // period_ns * period_ns + period_ns
    while not stopping.is_set():
        for phase_ns, publishers in robots:
            clock.wait_until(cycle_ns + phase_ns)
            stamp_ns = time.time_ns()
            for publisher, message in publishers:
                publisher.publish(message(stamp_ns))
            punctuality.add(cycle_ns + phase_ns, (clock.now_ns() - cycle_ns - phase_ns) / 1e6)
        # Skip missed periods, as a camera drops frames.
        next_ns = max(cycle_ns + period_ns, clock.now_ns() // period_ns * period_ns)
        for skipped_ns in range(cycle_ns + period_ns, next_ns, period_ns):
            for phase_ns, _ in robots:
                punctuality.add(skipped_ns + phase_ns, math.nan)
        cycle_ns = next_ns


def main(arguments: Sequence[str] | None = None) -> int:
    """Publish the readings of every `--step`-th robot from `--first` on until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(description="Publish the sensors of synthetic robots; started by policy_bench.")
    parser.add_argument("--robots", type=int, required=True, help="robots of the whole fleet")
    parser.add_argument("--first", type=int, required=True, help="first robot of this process")
    parser.add_argument("--step", type=int, required=True, help="distance to this process's next robot")
    parser.add_argument("--width", type=int, required=True, help="pixels")
    parser.add_argument("--height", type=int, required=True, help="pixels")
    parser.add_argument("--rate-hz", type=float, required=True, help="rate of both sensors")
    parser.add_argument("--punctuality", type=Path, required=True, help="file for deadlines and delays, .npy")
    options = parser.parse_args(arguments)

    punctuality = Punctuality()
    with ros_process() as stopping:
        node = Node(f"policy_bench_publishers_{options.first}")
        period_ns = round(1e9 / options.rate_hz)
        robots = [
            (robot * period_ns // options.robots, make_publishers(node, robot, options.width, options.height))
            for robot in range(options.first, options.robots, options.step)
        ]
        try:
            publish_until_stopped(robots, period_ns, stopping, punctuality)
        finally:
            node.destroy_node()
            punctuality.save(options.punctuality)
    return 0


if __name__ == "__main__":
    sys.exit(main())
