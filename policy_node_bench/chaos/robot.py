# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The processes of the robots under test: publish camera and touch, with faults on request."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String

from policy_node.control.timing import SteadyClock
from policy_node_bench.chaos.policy import (
    IMAGE_SHAPE,
    POSITION_JOINTS,
    TOUCH_JOINTS,
    Reading,
    Request,
    image_bytes,
    position_numbers,
    touch_numbers,
)
from policy_node_bench.harness.publishers import StampedMessage
from policy_node_bench.harness.robots import IMAGE_TOPIC, TOUCH_TOPIC, robot_name

FLOOD_HZ = 1000.0
SLOW_HZ = 1.0
# Number of readings that request the policy to block; a tick uses at least one of them.
BLOCKING_READINGS = 3
# A robot reports that the machine delayed it if it publishes later than its period and this.
SLIP_S = 0.05
# Longest delay of a change of behaviour.
_POLL_NS = 20_000_000
# Readings of two clocks within this time are of one moment.
_ADJACENT_NS = 100_000
POSITION_TOPIC = "joint_states"
# Readings with the fault `delayed` grow older by a step from one to the next, then begin again.
DELAY_STEPS = 30
DELAY_STEP_S = 0.002
_ANY = Reading(1, 1)
# Joints of incomplete messages. A robot keeps the newest value of the others, which are the time: as old as it says.
_HALF = [0, 4, 5]
_SHORT = [0, 3, 4, 5]
# Faults that readings request of the policy.
_REQUESTS = {"policy_nan": Request.NAN, "policy_blocks": Request.BLOCK, "policy_raises": Request.RAISE}
# Discovery of a robot costs CPU time in all processes, so its node has few topics and services.
_LIGHT: dict[str, Any] = {"enable_rosout": False, "start_parameter_services": False}


def system_time_offset_ns() -> int:
    """Return the system clock minus the monotonic clock, from readings between which this process was not paused."""
    while True:
        before_ns, system_ns, after_ns = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        if after_ns - before_ns < _ADJACENT_NS:
            return system_ns - before_ns


@dataclass(frozen=True)
class Behaviour:
    """How a robot publishes."""

    fault: str = ""  # kind of the fault; empty for none
    stamp_offset_s: float = 0.0
    zero_stamps: bool = False
    delay_s: float = 0.0  # for `delayed`: least age of the readings when they are published
    # For `policy_blocks`: time for which the policy blocks, and end of the readings that request it.
    block_s: float = 0.0
    until_ns: float = math.inf

    def at(self, now_ns: int) -> Behaviour:
        """Return the behaviour at a time; without a fault after its end."""
        return self if now_ns < self.until_ns else Behaviour()

    def stamp_ns(self, now_ns: int, age_s: float) -> int:
        """Return the stamp of a reading of this age at a time of the monotonic clock."""
        # Stamp and content are of one moment, also if this process is paused here.
        offset_ns = system_time_offset_ns() + round((self.stamp_offset_s - age_s) * 1e9)
        return 0 if self.zero_stamps else now_ns + offset_ns

    def age_s(self, number: int) -> float:
        """Return the age of the reading with a number when it is published."""
        return self.delay_s + number % DELAY_STEPS * DELAY_STEP_S if self.delay_s else 0.0


class Published(NamedTuple):
    """A robot's message to the campaign: time of the first reading of a behaviour since the begin of the run."""

    behaviour: Behaviour
    time_us: int


class MixedPositions(NamedTuple):
    """A message of the campaign: whether other messages come between the positions of a robot."""

    robot: int
    is_active: bool


class Slipped(NamedTuple):
    """A robot's message to the campaign: the machine delayed its publishing between these times, in seconds."""

    start_s: float
    end_s: float


@dataclass(frozen=True)
class RobotOptions:
    """Arguments of a robot's process."""

    robot: int
    begin_ns: int  # begin of the run, on the monotonic clock
    rate_hz: float  # rate of both sensors
    phase: float  # phase of the readings, as a part of their period
    log: Path  # file for the output
    niceness: int  # of the process
    behaviour: Behaviour = Behaviour()  # at the start


class ReadingMessages:
    """Make the serialised camera and touch messages of one robot; the seed is that of its random bytes."""

    def __init__(self, seed: int) -> None:
        height, width, channels = IMAGE_SHAPE
        pixels = image_bytes(_ANY)
        self._rng = np.random.default_rng(seed)
        image = Image(height=height, width=width, encoding="rgb8", step=width * channels, data=pixels)
        self._image = StampedMessage(image, pixels)
        image.height += 1
        self._contradiction = StampedMessage(image, pixels)
        self._touch = self._touch_of(list(range(len(TOUCH_JOINTS))))
        self._half_touch = self._touch_of(_HALF)
        self._gripper = StampedMessage(JointState(name=["gripper"], effort=[0.5]))
        self._short_touch = self._touch_of(_SHORT)

    @staticmethod
    def _touch_of(joints: list[int]) -> StampedMessage:
        numbers = touch_numbers(_ANY)[joints]
        names = [TOUCH_JOINTS[joint] for joint in joints]
        return StampedMessage(JointState(name=names, effort=numbers.tolist()), numbers.tobytes())

    def __call__(self, reading: Reading, stamp_ns: int, behaviour: Behaviour) -> tuple[bytes, bytes]:
        """Return camera and touch message of a reading, with the fault of the behaviour."""
        fault = behaviour.fault
        numbers = touch_numbers(reading, _REQUESTS.get(fault, Request.NOTHING), behaviour.block_s)
        if fault == "nan":
            numbers[2] = np.nan
        pixels = image_bytes(reading)
        image, touch = self._image(stamp_ns, pixels), self._touch(stamp_ns, numbers.tobytes())
        if fault == "random_bytes":
            # Keep the encapsulation with the byte order.
            return self._noise(image), self._noise(touch)
        if fault == "wrong_size":
            return self._contradiction(stamp_ns, pixels), self._short_touch(stamp_ns, numbers[_SHORT].tobytes())
        if fault == "partial":
            return image, self._half_touch(stamp_ns, numbers[_HALF].tobytes())
        if fault == "truncated_image":
            return image[: len(image) // 2], touch
        return image, touch

    def gripper(self, stamp_ns: int) -> bytes:
        """Return a touch message that has none of the joints that the policy observes."""
        return self._gripper(stamp_ns)

    def _noise(self, raw: bytes) -> bytes:
        return raw[:4] + self._rng.bytes(len(raw) - 4)


def robot_process(connection: Connection, options: RobotOptions) -> None:
    """Publish readings until the connection is closed; it receives changes of behaviour."""
    _begin(options)
    clock = SteadyClock()
    node = Node(f"policy_chaos_robot_{options.robot}_{os.getpid()}", **_LIGHT)
    name = robot_name(options.robot)
    camera = node.create_publisher(Image, f"{name}/{IMAGE_TOPIC}", qos_profile_sensor_data)
    touch = node.create_publisher(JointState, f"{name}/{TOUCH_TOPIC}", qos_profile_sensor_data)
    messages = ReadingMessages(options.robot)
    behaviour, is_new = options.behaviour, True
    deadline_ns = published_ns = clock.now_ns()
    count = 0
    while True:
        rate_hz = {"flooded": FLOOD_HZ, "slowed": SLOW_HZ}.get(behaviour.fault, options.rate_hz)
        period_ns = round(1e9 / rate_hz)
        # Each robot has a grid and keeps its phase in all faults.
        phase_ns = round(options.phase * period_ns)
        next_ns = (clock.now_ns() - phase_ns) // period_ns * period_ns + period_ns + phase_ns
        deadline_ns = published_ns + period_ns if behaviour.fault == "slowed" else max(deadline_ns + 1, next_ns)
        while (remaining_ns := deadline_ns - clock.now_ns()) > _POLL_NS and not connection.poll():
            clock.wait_until(deadline_ns - remaining_ns + _POLL_NS)
        if connection.poll():
            try:
                behaviour, is_new = connection.recv(), True
            except EOFError:
                break
            continue
        clock.wait_until(deadline_ns)
        now_ns = clock.now_ns()
        behaviour = behaviour.at(now_ns)
        # This includes delays within the last publishing.
        if now_ns - published_ns > period_ns + SLIP_S * 1e9 and not is_new:
            connection.send(Slipped(*((time_ns - options.begin_ns) / 1e9 for time_ns in (published_ns, now_ns))))
        published_ns = now_ns
        count += 1
        age_s = behaviour.age_s(count)
        reading = Reading(options.robot, (now_ns - options.begin_ns - round(age_s * 1e9)) // 1000)
        stamp_ns = behaviour.stamp_ns(now_ns, age_s)
        image_raw, touch_raw = messages(reading, stamp_ns, behaviour)
        touch.publish(touch_raw)
        if behaviour.fault == "alternating":
            touch.publish(messages.gripper(stamp_ns))
        if behaviour.fault != "camera_silent":
            camera.publish(image_raw)
        if is_new:
            connection.send(Published(behaviour, reading.time_us))
            is_new = False
            if behaviour.fault == "policy_blocks":
                # Later readings would make the policy block again, where it kept this process from publishing.
                behaviour = replace(behaviour, until_ns=now_ns + (BLOCKING_READINGS - 0.5) * period_ns)


def positions_process(connection: Connection, options: RobotOptions) -> None:
    """Publish the positions of all robots before `options.robot`, also of those whose process is killed.

    Receives `MixedPositions`.
    """
    _begin(options)
    clock, rng = SteadyClock(), np.random.default_rng(0)
    node = Node(f"policy_chaos_positions_{os.getpid()}", **_LIGHT)
    robots = range(options.robot)
    publishers: list[Publisher] = [
        node.create_publisher(JointState, f"{robot_name(robot)}/{POSITION_TOPIC}", qos_profile_sensor_data)
        for robot in robots
    ]
    numbers = position_numbers(_ANY)
    position = StampedMessage(JointState(name=POSITION_JOINTS, position=numbers.tolist()), numbers.tobytes())
    gripper = StampedMessage(JointState(name=["gripper"], position=[0.5]))
    mixed: set[int] = set()
    period_ns = round(1e9 / options.rate_hz)
    published_ns = deadline_ns = clock.now_ns()
    while True:
        deadline_ns = max(deadline_ns + period_ns, clock.now_ns())
        clock.wait_until(deadline_ns)
        try:
            while connection.poll():
                robot, is_active = connection.recv()
                (mixed.add if is_active else mixed.discard)(robot)
        except EOFError:
            return
        now_ns = clock.now_ns()
        stamp_ns = now_ns + system_time_offset_ns()
        if now_ns - published_ns > period_ns + SLIP_S * 1e9:
            connection.send(Slipped(*((time_ns - options.begin_ns) / 1e9 for time_ns in (published_ns, now_ns))))
        published_ns = now_ns
        for robot in robots:
            numbers = position_numbers(Reading(robot, (now_ns - options.begin_ns) // 1000))
            raw = position(stamp_ns, numbers.tobytes())
            publishers[robot].publish(raw)
            if robot in mixed:
                publishers[robot].publish(gripper(stamp_ns))
                publishers[robot].publish(raw[:4] + rng.bytes(len(raw) - 4))


def intruder_process(connection: Connection, options: RobotOptions) -> None:
    """Publish messages of another type on a robot's touch topic until the connection is closed."""
    _begin(options)
    node = Node(f"policy_chaos_intruder_{options.robot}_{os.getpid()}", **_LIGHT)
    publisher: Publisher = node.create_publisher(String, f"{robot_name(options.robot)}/{TOUCH_TOPIC}", 10)
    connection.send(Published(options.behaviour, (time.monotonic_ns() - options.begin_ns) // 1000))
    while not connection.poll(1.0 / options.rate_hz):
        publisher.publish(String(data="not a reading"))


def _lower_priority(niceness: int) -> None:
    """Raise the niceness of this process, and of its session, where Linux shares the CPUs by session (autogroup)."""
    os.setsid()
    os.nice(niceness)
    with suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(niceness))


def _begin(options: RobotOptions) -> None:
    """Redirect the output to the log, ignore signals, lower the priority and start ROS."""
    with options.log.open("a") as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
    # The campaign ends its robots in order after Ctrl-C.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    _lower_priority(options.niceness)
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
