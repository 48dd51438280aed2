# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Synthetic robots whose readings change now and then, and which note when their commands follow."""

from __future__ import annotations

import json
import struct
import sys
import time

import numpy as np
from geometry_msgs.msg import Twist
from rclpy.node import Node
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import JointState

from policy_node.control.timing import SteadyClock
from policy_node.ros.process import destroy_last_node, ros_process
from policy_node.ros.rclpy_internals import poll_topic
from policy_node_bench.chunks.policies import READING
from policy_node_bench.harness.publishers import StampedMessage
from policy_node_bench.harness.robots import COMMAND_TOPIC, robot_name

STATE_TOPIC = "state"
# A reading and the command that follows it are one of these.
LEVELS = (0.25, 0.75)
# Least and greatest time between two changes of a robot's reading.
CHANGES_S = (1.5, 2.5)
# Commands are looked at so often in one period of the readings, which bounds the error of a reaction.
LOOKS = 8
# `linear.x` of a serialised Twist.
_FIRST = struct.Struct("=d")
_FIRST_START = 4


def _message(level: float) -> StampedMessage:
    numbers = [level, *[0.0] * (READING - 1)]
    return StampedMessage(JointState(name=[f"state_{index}" for index in range(READING)], position=numbers))


def main(robots: int, rate_hz: float, file: str) -> None:
    """Publish the readings of all robots until SIGINT or SIGTERM.

    For each change `[changes, 2]` is then written to `file`: its time in seconds on the monotonic clock, and the
    milliseconds until a command followed it, NaN if none did before the next one.
    """
    rng = np.random.default_rng(0)
    with ros_process() as stopping:
        node = Node("policy_bench_robots")
        names = [robot_name(robot) for robot in range(robots)]
        publishers = [
            node.create_publisher(JointState, f"{name}/{STATE_TOPIC}", qos_profile_sensor_data) for name in names
        ]
        listeners = [
            poll_topic(node, Twist, f"{name}/{COMMAND_TOPIC}", QoSProfile(depth=1), raw=True)[1] for name in names
        ]
        messages = [_message(level) for level in LEVELS]
        period_ns = round(1e9 / rate_hz)
        clock = SteadyClock(stopping)
        now_ns = clock.now_ns()
        levels = np.zeros(robots, int)
        next_ns = now_ns + rng.uniform(*CHANGES_S, robots) * 1e9
        # When a reading changed whose command has not followed yet; 0: no such change.
        waiting_ns = np.zeros(robots, np.int64)
        noted: list[tuple[float, float]] = []
        cycle = 0
        while clock.wait_until(now_ns + cycle * period_ns // LOOKS):
            if cycle % LOOKS == 0:
                stamp_ns, published_ns = time.time_ns(), clock.now_ns()
                for robot, publisher in enumerate(publishers):
                    if published_ns >= next_ns[robot]:
                        if waiting_ns[robot]:
                            noted.append((waiting_ns[robot] / 1e9, np.nan))
                        levels[robot] = 1 - levels[robot]
                        waiting_ns[robot] = published_ns
                        next_ns[robot] = published_ns + rng.uniform(*CHANGES_S) * 1e9
                    publisher.publish(messages[levels[robot]](stamp_ns))
            for robot in np.flatnonzero(waiting_ns).tolist():
                taken = listeners[robot]()
                if taken is None:
                    continue
                command = _FIRST.unpack_from(taken[0], _FIRST_START)[0]
                if abs(command - LEVELS[levels[robot]]) < abs(command - LEVELS[1 - levels[robot]]):
                    noted.append((waiting_ns[robot] / 1e9, (clock.now_ns() - waiting_ns[robot]) / 1e6))
                    waiting_ns[robot] = 0
            cycle += 1
        np.save(file, np.array(noted, np.float64).reshape(-1, 2))
        destroy_last_node(node)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
