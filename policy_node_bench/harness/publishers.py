# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Publish cameras and touch sensors of synthetic robots: serialised messages at absolute deadlines.

Messages are serialised once and only their stamp is replaced, so that the robots need little CPU time.
"""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from array import array
from collections.abc import Sequence
from struct import Struct

import numpy as np
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import qos_profile_sensor_data
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image, JointState

from policy_node.control.timing import SteadyClock
from policy_node.ros.process import destroy_last_node, ros_process
from policy_node_bench.harness.robots import IMAGE_TOPIC, TOUCH_CELLS, TOUCH_TOPIC, robot_name

# The stamp follows the four bytes of encapsulation; serialize_message writes in the machine's byte order.
_STAMP = Struct("=iI")
_STAMP_START = 4
_STAMP_END = _STAMP_START + _STAMP.size


class StampedMessage:
    """A serialised message with a header whose stamp is replaced without serialising again.

    `payload` are bytes that occur once in the message and are replaced as well, if there are any.
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


def readings(
    robot: int, width: int, height: int, channels: int = 3, numbers: int = TOUCH_CELLS
) -> dict[str, Image | JointState]:
    """Return a robot's messages by topic: `numbers` of touch, and an image of random pixels unless its width is 0."""
    rng = np.random.default_rng(robot)
    touch = JointState(name=[f"touch_{cell}" for cell in range(numbers)], effort=rng.random(numbers).tolist())
    if not width:
        return {TOUCH_TOPIC: touch}
    image = Image(height=height, width=width, encoding="rgb8" if channels == 3 else "mono8", step=channels * width)
    image.data.frombytes(rng.bytes(height * image.step))
    return {TOUCH_TOPIC: touch, IMAGE_TOPIC: image}


def make_publishers(
    node: Node, robot: int, width: int, height: int, numbers: int
) -> list[tuple[Publisher, StampedMessage]]:
    """Return publisher and message of a robot's touch and camera, see `readings`."""
    return [
        (
            node.create_publisher(type(message), f"{robot_name(robot)}/{topic}", qos_profile_sensor_data),
            StampedMessage(message),
        )
        for topic, message in readings(robot, width, height, numbers=numbers).items()
    ]


def publish_until_stopped(
    robots: Sequence[tuple[int, Sequence[tuple[Publisher, StampedMessage]]]], period_ns: int, stopping: threading.Event
) -> np.ndarray:
    """Publish the readings of every robot once per period until `stopping` is set.

    `robots` are the phase of each within the period in nanoseconds, ascending, its publishers and messages. Returns
    `[readings, 2]` float64: deadline in seconds on the monotonic clock, and delay in milliseconds until all messages of
    a robot were published, NaN if they were skipped.
    """
    deadlines_ns, delays_ms = array("q"), array("d")
    # Periods count from the start of the monotonic clock, so that the processes share one grid.
    clock = SteadyClock()
    cycle_ns = clock.now_ns() // period_ns * period_ns + period_ns
    while not stopping.is_set():
        for phase_ns, publishers in robots:
            clock.wait_until(cycle_ns + phase_ns)
            stamp_ns = time.time_ns()
            for publisher, message in publishers:
                publisher.publish(message(stamp_ns))
            deadlines_ns.append(cycle_ns + phase_ns)
            delays_ms.append((clock.now_ns() - cycle_ns - phase_ns) / 1e6)
        # Skip missed periods, as a camera drops frames.
        next_ns = max(cycle_ns + period_ns, clock.now_ns() // period_ns * period_ns)
        for skipped_ns in range(cycle_ns + period_ns, next_ns, period_ns):
            deadlines_ns.extend(skipped_ns + phase_ns for phase_ns, _ in robots)
            delays_ms.extend(math.nan for _ in robots)
        cycle_ns = next_ns
    return np.column_stack([np.array(deadlines_ns) / 1e9, np.array(delays_ms)])


def main(
    robots: int,
    first: int,
    step: int,
    width: int,
    height: int,
    rate_hz: float,
    file: str,
    numbers: int = TOUCH_CELLS,
) -> None:
    """Publish the readings of robot `first` and every `step`-th one after it until SIGINT or SIGTERM.

    Deadlines and delays are then written to `file`, see `publish_until_stopped`.
    """
    with ros_process() as stopping:
        node = Node(f"policy_bench_publishers_{first}")
        period_ns = round(1e9 / rate_hz)
        publishers = [
            (robot * period_ns // robots, make_publishers(node, robot, width, height, numbers))
            for robot in range(first, robots, step)
        ]
        try:
            np.save(file, publish_until_stopped(publishers, period_ns, stopping))
        finally:
            destroy_last_node(node)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
