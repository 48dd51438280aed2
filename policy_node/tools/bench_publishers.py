# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Synthetic robots for the benchmark: cameras and bumpers that publish serialised messages at absolute deadlines.

Messages are serialised once and only their stamp is patched, so that the robots leave the machine to what is measured.
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

from policy_node.ros.process import destroy_last_node, ros_process
from policy_node.timing import SteadyClock
from policy_node.tools.bench_robots import IMAGE_TOPIC, TOUCH_CELLS, TOUCH_TOPIC, robot_name

# The stamp follows the four bytes of encapsulation; serialize_message writes in the machine's byte order.
_STAMP = Struct("=iI")
_STAMP_START = 4
_STAMP_END = _STAMP_START + _STAMP.size


class StampedPublisher:
    """Publishes one message over and over, each time with a new stamp.

    Parameters
    ----------
    publisher
        Where to.
    message
        A message that begins with a std_msgs/Header.
    """

    def __init__(self, publisher: Publisher, message: Image | JointState) -> None:
        self._publisher = publisher
        raw = serialize_message(message)
        self._before, self._after = raw[:_STAMP_START], raw[_STAMP_END:]

    def publish(self, stamp_ns: int) -> None:
        """Publish the message with this stamp."""
        stamp = _STAMP.pack(*divmod(stamp_ns, 1_000_000_000))
        self._publisher.publish(b"".join((self._before, stamp, self._after)))


def readings(robot: int, width: int, height: int, channels: int = 3) -> dict[str, Image | JointState]:
    """Return what a robot publishes by topic: its touch, and `width` times `height` random pixels."""
    rng = np.random.default_rng(robot)
    image = Image(height=height, width=width, encoding="rgb8" if channels == 3 else "mono8", step=channels * width)
    image.data.frombytes(rng.bytes(height * image.step))
    touch = JointState(name=[f"touch_{cell}" for cell in range(TOUCH_CELLS)], effort=rng.random(TOUCH_CELLS).tolist())
    return {TOUCH_TOPIC: touch, IMAGE_TOPIC: image}


def make_publishers(node: Node, robot: int, width: int, height: int) -> list[StampedPublisher]:
    """Return the publishers of a robot's touch and camera."""
    return [
        StampedPublisher(
            node.create_publisher(type(message), f"{robot_name(robot)}/{topic}", qos_profile_sensor_data), message
        )
        for topic, message in readings(robot, width, height).items()
    ]


class Punctuality:
    """Notes when each robot's readings were due and how much later they had all been published."""

    def __init__(self) -> None:
        self._due_ns = array("q")
        self._delays_ms = array("d")

    def add(self, due_ns: int, delay_ms: float) -> None:
        """Note one robot's readings; NaN milliseconds when they were left out."""
        self._due_ns.append(due_ns)
        self._delays_ms.append(delay_ms)

    def save(self, file: Path) -> None:
        """Write `[readings, 2]` float64: due in seconds on the monotonic clock, delay in milliseconds."""
        np.save(file, np.column_stack([np.array(self._due_ns) / 1e9, np.array(self._delays_ms)]))


def publish_until_stopped(
    robots: Sequence[tuple[int, Sequence[StampedPublisher]]],
    period_ns: int,
    stopping: threading.Event,
    punctuality: Punctuality,
) -> None:
    """Publish the readings of every robot once per period, each robot at its own phase.

    Parameters
    ----------
    robots
        Phase within the period in nanoseconds, ascending, and the robot's publishers.
    period_ns
        Period of the sensors.
    stopping
        Ends the loop once it is set.
    punctuality
        Where to note what was published when.
    """
    # Periods count from the start of the monotonic clock, so that the processes share one grid.
    clock = SteadyClock()
    cycle_ns = clock.now_ns() // period_ns * period_ns + period_ns
    while not stopping.is_set():
        for phase_ns, publishers in robots:
            clock.wait_until(cycle_ns + phase_ns)
            stamp_ns = time.time_ns()
            for publisher in publishers:
                publisher.publish(stamp_ns)
            punctuality.add(cycle_ns + phase_ns, (clock.now_ns() - cycle_ns - phase_ns) / 1e6)
        # What could not be published in time is left out, as a camera drops frames.
        next_ns = max(cycle_ns + period_ns, clock.now_ns() // period_ns * period_ns)
        for left_out_ns in range(cycle_ns + period_ns, next_ns, period_ns):
            for phase_ns, _ in robots:
                punctuality.add(left_out_ns + phase_ns, math.nan)
        cycle_ns = next_ns


def main(arguments: Sequence[str] | None = None) -> int:
    """Publish the readings of every `--step`-th robot from `--first` on until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(description="Publishes the sensors of synthetic robots; policy_bench starts it.")
    parser.add_argument("--robots", type=int, required=True, help="robots of the whole fleet")
    parser.add_argument("--first", type=int, required=True, help="first robot of this process")
    parser.add_argument("--step", type=int, required=True, help="distance to this process's next robot")
    parser.add_argument("--width", type=int, required=True, help="pixels")
    parser.add_argument("--height", type=int, required=True, help="pixels")
    parser.add_argument("--rate-hz", type=float, required=True, help="rate of both sensors")
    parser.add_argument("--punctuality", type=Path, required=True, help="file for what was published when, .npy")
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
            punctuality.save(options.punctuality)
            destroy_last_node(node)
    return 0


if __name__ == "__main__":
    sys.exit(main())
