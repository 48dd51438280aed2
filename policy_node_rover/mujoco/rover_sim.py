# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The rover arena as a ROS 2 process: camera, touch and odometry of every rover out, velocity commands in.

Time advances in slots of about one physics time step. In every slot each rover takes its newest command and its physics
go on; the cameras take turns, so that a fleet's images are spread over the camera period instead of coming in a burst,
and each is published at once with the time of its own reading.

In lockstep time stands still until every rover has its command: the sensors of all rovers are delivered with the stamp
of a tick before the clock tells that time, and physics go on by one control period when all commands are there.
"""

from __future__ import annotations

import argparse
import array
import math
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Twist
from nav_msgs.msg import Odometry
from rclpy.duration import Duration
from rclpy.impl.rcutils_logger import RcutilsLogger
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.utilities import remove_ros_args
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64MultiArray, Int32, Int64
from std_srvs.srv import Trigger

from policy_node.cli.options import number
from policy_node.control.timing import SteadyClock
from policy_node.ros.process import destroy_last_node, ros_process
from policy_node_rover.arena.arena import Arena
from policy_node_rover.arena.description import ARENA, ROVER
from policy_node_rover.mujoco.command_watch import CommandWatch
from policy_node_rover.mujoco.model import ArenaModel
from policy_node_rover.mujoco.rendering import KINDS, Renderer, RendererError, make_renderer

COMMAND_TIMEOUT_S = 0.5
# Whoever offers to command more often than this, and stops, is believed to be gone without waiting for the timeout.
WATCHED_S = 0.25
OVERVIEW_PERIOD_S = 0.25
OVERVIEW_WIDTH_PX = 480
PRESSES_PERIOD_S = 1.0
REPORT_PERIOD_S = 10.0
# A delay up to this long is caught up; a longer one is time lost, and the simulation then runs slower than asked for.
CATCH_UP_S = 0.1
# Below this part of the asked-for speed the simulation warns.
SLOW = 0.9
DEFAULT_RATE_HZ = 30.0
# That of the demonstration.
CONTROL_RATE_HZ = 20.0
# How long a time on /clock, which mostly is subscribed with best effort, may stay without commands in lockstep before
# it is sent again.
RESEND_CLOCK_S = 0.25
# How often lockstep says for whom it waits.
WAITING_PERIOD_S = 5.0
# Lockstep looks for commands this often at first, and the more seldom the longer it waits.
SHORTEST_LOOK_S = 0.0001
LONGEST_LOOK_S = 0.002


def _qos(
    reliability: ReliabilityPolicy, depth: int = 1, durability: DurabilityPolicy = DurabilityPolicy.VOLATILE
) -> QoSProfile:
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=reliability, durability=durability)


SENSOR_QOS = _qos(ReliabilityPolicy.BEST_EFFORT, depth=5)
RELIABLE_QOS = _qos(ReliabilityPolicy.RELIABLE)
RESET_QOS = _qos(ReliabilityPolicy.RELIABLE, depth=10)
PRESSES_QOS = _qos(ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class SimulatedRover:
    """One rover in its arena with its topics.

    Parameters
    ----------
    node
        Owner of publishers and subscriptions.
    name
        Namespace of the rover's topics.
    arena
        Its physics.
    watched
        Whether commands that offer a deadline stop the rover when they miss it; it is one of real time.
    sensor_qos
        With which camera and touch are published.
    reset_pause_s
        How long the rover rests, and is silent, after a reset.
    """

    def __init__(
        self, node: Node, name: str, arena: Arena, watched: bool, sensor_qos: QoSProfile, reset_pause_s: float = 0.0
    ) -> None:
        self.name = name
        self.arena = arena
        self._node = node
        self._reset_pause_ns = round(reset_pause_s * 1e9)
        self._rest_ns = 0
        # That of the latest reset, negative without one.
        self._seed = -1
        self._command = (0.0, 0.0)
        self._commanded_at_s = -math.inf
        self._presses_at_s = -math.inf
        self._published_presses = -1
        self._image_publisher = node.create_publisher(Image, f"{name}/camera/image_raw", sensor_qos)
        self._touch_publisher = node.create_publisher(JointState, f"{name}/touch", sensor_qos)
        self._odometry_publisher = node.create_publisher(Odometry, f"{name}/odom", RELIABLE_QOS)
        self._beacon_publisher = node.create_publisher(Float64MultiArray, f"{name}/beacon", RELIABLE_QOS)
        self._presses_publisher = node.create_publisher(Int32, f"{name}/presses", PRESSES_QOS)
        self._episode_publisher = node.create_publisher(Float64MultiArray, f"{name}/episode", RELIABLE_QOS)
        # No executor spins the node: the newest command is taken when the physics go on.
        self._commands = node.create_subscription(Twist, f"{name}/cmd_vel", _never_called, RELIABLE_QOS)
        self._watch = CommandWatch(node, Twist, f"{name}/cmd_vel", WATCHED_S) if watched else None
        self._resets = node.create_subscription(Int64, f"{name}/reset", _never_called, RESET_QOS)
        self._reset_service = node.create_service(Trigger, f"{name}/reset", _never_served)
        # Requests of the service that were granted and not yet answered.
        self._granted: list[Any] = []
        size = ROVER.camera_size_px
        self._image = Image(height=size, width=size, encoding="rgb8", step=3 * size)
        self._image.header.frame_id = f"{name}/camera"
        self._touch = JointState(name=[f"touch_{cell}" for cell in range(ROVER.touch_cells)])
        self._touch.header.frame_id = f"{name}/bumper"
        self._odometry = Odometry(child_frame_id=f"{name}/base_link")
        self._odometry.header.frame_id = f"{name}/odom"

    def advance(self, duration_s: float, now_s: float) -> None:
        """Drive on with the newest command, or stop when it is too old, and tell of a press.

        Parameters
        ----------
        duration_s
            How long to simulate.
        now_s
            The present time on the clock by which commands grow old.
        """
        if self.take_command():
            self._commanded_at_s = now_s
        elif self._is_abandoned(now_s - self._commanded_at_s):
            self._obey(0.0, 0.0)
        presses = self.arena.presses
        self.go_on(duration_s)
        self.publish_presses(now_s)
        if self.arena.presses > presses:
            self._publish_episode()

    @property
    def rests(self) -> bool:
        """Whether the rover is silent and stands still, as it was reset a little while ago."""
        return self._rest_ns > 0

    def go_on(self, duration_s: float) -> None:
        """Let the physics go on with the present command, or the rover rest."""
        if not self.rests:
            self.arena.advance(duration_s)
            return
        self._rest_ns -= round(duration_s * 1e9)
        # What is commanded meanwhile was for the episode before.
        self._obey(0.0, 0.0)

    def take_command(self) -> bool:
        """Obey the newest command; return whether there is one."""
        taken = self._commands.handle.take_message(Twist, False)
        if taken is None:
            return False
        command: Twist = taken[0]
        linear, angular = command.linear.x, command.angular.z
        # A rover that is told nonsense stands still.
        valid = math.isfinite(linear) and math.isfinite(angular)
        self._obey(linear if valid else 0.0, angular if valid else 0.0)
        return True

    def _obey(self, linear_m_s: float, angular_rad_s: float) -> None:
        self._command = (linear_m_s, angular_rad_s)
        self.arena.command(linear_m_s, angular_rad_s)

    def take_resets(self) -> bool:
        """Begin an episode anew if somebody asked for it, and return whether that is so; see `answer_resets`."""
        asked = False
        while (taken := self._resets.handle.take_message(Int64, False)) is not None:
            self._begin_anew(taken[0].data)
            asked = True
        while True:
            request, header = self._reset_service.handle.service_take_request(Trigger.Request)
            if request is None:
                break
            self._begin_anew(-1)
            self._granted.append(header)
            asked = True
        if asked:
            # The number of the new episode is told, too.
            self._published_presses = -1
        return asked

    def _begin_anew(self, seed: int) -> None:
        """Begin an episode of a seed, or of one that the rover draws where that is negative, after the pause."""
        self.arena.reset(seed if seed >= 0 else None)
        self._seed = seed
        self._rest_ns = self._reset_pause_ns

    def answer_resets(self) -> None:
        """Answer those who asked through the service: whatever is stamped from now on is of the new episode."""
        for header in self._granted:
            self._reset_service.send_response(Trigger.Response(success=True, message="a new episode"), header)
        self._granted.clear()

    def publish_presses(self, now_s: float) -> None:
        """Tell how often the beacon was pressed, when that has changed and now and then."""
        if self.arena.presses != self._published_presses or now_s - self._presses_at_s >= PRESSES_PERIOD_S:
            self._published_presses, self._presses_at_s = self.arena.presses, now_s
            self._presses_publisher.publish(Int32(data=self.arena.presses))

    def _is_abandoned(self, silence_s: float) -> bool:
        """Whether nobody commands: the timeout holds for all, the watch only hears of those who offer a deadline."""
        if silence_s > COMMAND_TIMEOUT_S or self._watch is None:
            return silence_s > COMMAND_TIMEOUT_S
        # The middleware counts from the arrival of the command, which was a little before it was taken.
        return silence_s > 0.8 * WATCHED_S and self._watch.is_broken()

    def publish_sensors(self, renderer: Renderer, stamp: Time) -> None:
        """Read and publish all sensors with one stamp."""
        self._image.header.stamp = self._touch.header.stamp = self._odometry.header.stamp = stamp
        # From an array.array the setter takes the bytes as they are; of anything else it checks every element.
        self._image.data = array.array("B", renderer.camera(self.arena).tobytes())
        self._touch.effort = array.array("d", self.arena.touch_n.tolist())
        self._touch_publisher.publish(self._touch)
        x, y, yaw = self.arena.pose
        pose, twist = self._odometry.pose.pose, self._odometry.twist.twist
        pose.position.x, pose.position.y = x, y
        pose.orientation.z, pose.orientation.w = math.sin(yaw / 2), math.cos(yaw / 2)
        twist.linear.x, twist.angular.z = self.arena.velocity
        self._odometry_publisher.publish(self._odometry)
        if self._beacon_publisher.get_subscription_count():
            # For rewards: distance in metres, bearing in radians. No sensor of the rover tells it.
            self._beacon_publisher.publish(Float64MultiArray(data=self.arena.beacon_polar))
        self._publish_episode()
        # The image last: whoever has it can count on the touch of the same moment.
        self._image_publisher.publish(self._image)

    def _publish_episode(self) -> None:
        """Tell whoever judges the episode how it goes: seed, time in s, presses, collisions, and the last command."""
        if self._episode_publisher.get_subscription_count():
            arena = self.arena
            values = (self._seed, arena.time_s, arena.presses, arena.collisions, *self._command)
            self._episode_publisher.publish(Float64MultiArray(data=[float(value) for value in values]))

    @property
    def sensor_publishers(self) -> tuple[Publisher, Publisher]:
        """Those of what a policy observes."""
        return self._image_publisher, self._touch_publisher

    @property
    def publishers(self) -> tuple[Publisher, ...]:
        """Those of everything that is read of the rover."""
        told = (self._odometry_publisher, self._beacon_publisher, self._presses_publisher, self._episode_publisher)
        return (*self.sensor_publishers, *told)

    @property
    def is_commanded(self) -> bool:
        """Whether anybody publishes its commands."""
        return self._commands.get_publisher_count() > 0

    def commanders(self) -> frozenset[bytes]:
        """Return what identifies each publisher of its commands."""
        endpoints = self._node.get_publishers_info_by_topic(self._commands.topic_name)
        return frozenset(bytes(endpoint.endpoint_gid) for endpoint in endpoints)


class Overview:
    """All arenas from above in one image, drawn a tile at a time and only while somebody subscribes.

    Parameters
    ----------
    node
        Owner of the publisher.
    arenas
        From left to right, then downwards.
    renderer
        Draws the tiles; ray casting gets smaller ones, as its effort grows with the pixels.
    """

    def __init__(self, node: Node, arenas: Sequence[Arena], renderer: Renderer) -> None:
        # Reliable: an image of many fragments would hardly ever arrive complete otherwise.
        self._publisher = node.create_publisher(Image, "overview/image_raw", RELIABLE_QOS)
        self._arenas = arenas
        self._renderer = renderer
        self._columns = math.ceil(math.sqrt(len(arenas)))
        rows = math.ceil(len(arenas) / self._columns)
        width_px = OVERVIEW_WIDTH_PX if renderer.kind == "egl" else OVERVIEW_WIDTH_PX // 2
        self._tile_px = width_px // max(2, self._columns)
        self._canvas = np.zeros((rows * self._tile_px, self._columns * self._tile_px, 3), np.uint8)
        self._next_tile = 0
        self._next_at_s = 0.0
        height, width, _ = self._canvas.shape
        self._image = Image(height=height, width=width, encoding="rgb8", step=3 * width)

    def update(self, time_s: float, stamp: Time) -> None:
        """Draw the tiles that are due at the simulated time; publish when the last one is done."""
        if self._publisher.get_subscription_count() == 0:
            self._next_tile, self._next_at_s = 0, time_s
            return
        while self._next_at_s <= time_s:
            self._next_at_s += OVERVIEW_PERIOD_S / len(self._arenas)
            row, column = divmod(self._next_tile, self._columns)
            top, left = row * self._tile_px, column * self._tile_px
            tile = self._renderer.overhead(self._arenas[self._next_tile], self._tile_px)
            self._canvas[top : top + self._tile_px, left : left + self._tile_px] = tile
            self._next_tile = (self._next_tile + 1) % len(self._arenas)
            if self._next_tile == 0:
                self._image.header.stamp = stamp
                self._image.data = array.array("B", self._canvas.tobytes())
                self._publisher.publish(self._image)


class ProgressLog:
    """Says at times how the simulation is doing."""

    def __init__(self, node: Node, rovers: Sequence[SimulatedRover], speed: float) -> None:
        self._logger = node.get_logger()
        self._rovers = rovers
        self._speed = speed
        self._at_s = time.monotonic()
        self._simulated_s = 0.0

    def update(self, simulated_s: float) -> None:
        """Log presses and speed when it is time to; warn when the simulation is slower than asked for."""
        now_s = time.monotonic()
        elapsed_s = now_s - self._at_s
        if elapsed_s < REPORT_PERIOD_S:
            return
        factor = (simulated_s - self._simulated_s) / elapsed_s
        self._at_s, self._simulated_s = now_s, simulated_s
        text = f"{sum(rover.arena.presses for rover in self._rovers)} presses, real-time factor {factor:.2f}"
        if factor < SLOW * self._speed:
            self._logger.warning(
                f"{text}: cannot keep up with --speed {self._speed:g}; lower --robots or --rate-hz, or free a processor"
            )
        else:
            self._logger.info(text)


def simulate(
    node: Node, options: argparse.Namespace, renderer: Renderer, model: ArenaModel, stopping: threading.Event
) -> None:
    """Run the fleet until it is told to stop or its duration is over.

    Parameters
    ----------
    node
        Owner of all topics; nobody needs to spin it.
    options
        From the command line.
    renderer, model
        Shared by all rovers.
    stopping
        Set to end the simulation after the present slot.
    """
    seeds = [None if options.seed is None else options.seed + robot for robot in range(options.robots)]
    # With a depth of 1 Fast DDS asks for the acknowledgement of a reading at once, otherwise only every 3 s.
    sensor_qos = RELIABLE_QOS if options.lockstep else SENSOR_QOS
    rovers = [
        SimulatedRover(node, f"rover_{robot}", Arena(model, seed), not options.clock, sensor_qos, options.reset_pause_s)
        for robot, seed in enumerate(seeds)
    ]
    overview = Overview(node, [rover.arena for rover in rovers], renderer)
    if options.lockstep:
        Lockstep(node, rovers, renderer, overview, options.rate_hz, stopping).run(options.duration_s)
    else:
        _simulate_on_time(node, options, renderer, rovers, overview, stopping)


def _simulate_on_time(
    node: Node,
    options: argparse.Namespace,
    renderer: Renderer,
    rovers: Sequence[SimulatedRover],
    overview: Overview,
    stopping: threading.Event,
) -> None:
    """Run the fleet at a speed, whatever commands come."""
    clock_publisher = node.create_publisher(Clock, "/clock", RELIABLE_QOS) if options.clock else None
    progress = ProgressLog(node, rovers, options.speed)
    # As many slots in a camera period as make a slot about one physics time step.
    slots = max(1, round(1.0 / options.rate_hz / ARENA.timestep_s))
    slot_s = 1.0 / options.rate_hz / slots
    steady = SteadyClock()
    deadline_ns = steady.now_ns()
    node.get_logger().info(
        f"{options.robots} rovers, sensors at {options.rate_hz:g} Hz, images by {renderer.kind}, "
        + (f"{options.speed:g} times real time" if options.speed else "as fast as possible")
        + (", simulated time on /clock" if options.clock else "")
    )
    slot, last_slot = 0, round(options.duration_s / slot_s) if options.duration_s else math.inf
    while not stopping.is_set() and slot < last_slot:
        if options.speed:
            deadline_ns += round(slot_s / options.speed * 1e9)
            deadline_ns = max(deadline_ns, steady.now_ns() - round(CATCH_UP_S * 1e9))
            steady.wait_until(deadline_ns)
        slot += 1
        simulated_s = slot * slot_s
        stamp = _time(round(simulated_s * 1e9))
        if clock_publisher is not None:
            clock_publisher.publish(Clock(clock=stamp))
        for robot, rover in enumerate(rovers):
            # Arenas do not touch each other: each one's time is the moment at which its physics go on.
            if clock_publisher is None:
                stamp = _time(time.time_ns())
            if rover.take_resets():
                rover.answer_resets()
            rover.advance(slot_s, simulated_s if options.clock else time.monotonic())
            if (robot - slot) % slots == 0 and not rover.rests:
                rover.publish_sensors(renderer, stamp)
        overview.update(simulated_s, stamp)
        progress.update(simulated_s)
    _log_end(node.get_logger(), rovers, slot * slot_s)


def _log_end(logger: RcutilsLogger, rovers: Sequence[SimulatedRover], simulated_s: float) -> None:
    presses = sum(rover.arena.presses for rover in rovers)
    logger.info(f"ended after {simulated_s:.1f} s with {presses} presses")


class Lockstep:
    """Simulated time that waits for the commands of every tick, so that a drive depends on nothing but its seed.

    A tick: the sensors of all rovers are published with the time of the tick; when whoever subscribes them reliably has
    them, `/clock` tells that time; when every rover has its command, physics go on by one period. While a rover has no
    commander, time stands still. A commander that has only just come has its first tick one period after the first time
    that it sees: until every rover got a command, times go on with rovers that stand still, and physics begin with the
    next one.

    Parameters
    ----------
    node
        Owner of the clock's topic.
    rovers, renderer, overview
        What is simulated.
    rate_hz
        The control rate.
    stopping
        Set to end every wait.
    """

    def __init__(
        self,
        node: Node,
        rovers: Sequence[SimulatedRover],
        renderer: Renderer,
        overview: Overview,
        rate_hz: float,
        stopping: threading.Event,
    ) -> None:
        self._logger = node.get_logger()
        self._rovers = rovers
        self._renderer = renderer
        self._overview = overview
        self._rate_hz = rate_hz
        self._stopping = stopping
        self._clock = node.create_publisher(Clock, "/clock", RELIABLE_QOS)
        self._progress = ProgressLog(node, rovers, speed=0.0)
        # Who publishes the commands of each rover, since all of them got one; None: not since there is somebody new.
        self._commanders: list[frozenset[bytes]] | None = None

    def run(self, duration_s: float) -> None:
        """Simulate until told to stop, or for a duration, 0 being none."""
        self._logger.info(
            f"{len(self._rovers)} rovers in lockstep at {self._rate_hz:g} Hz, images by {self._renderer.kind}, "
            f"simulated time on /clock"
        )
        # As the node rounds its period, so that its deadlines are these times.
        period_ns = round(1e9 / self._rate_hz)
        time_ns = steps = 0
        while not self._stopping.is_set() and not (duration_s and steps >= round(duration_s * self._rate_hz)):
            time_ns += period_ns
            if not (self._wait_for_all() and self._publish(self._rovers, time_ns)):
                break
            # What a commander sent besides, as when it is told to stop, is none of this tick.
            self._take_commands(self._rovers)
            self._clock.publish(Clock(clock=_time(time_ns)))
            if self._wait_for_commands(time_ns):
                for rover in self._rovers:
                    rover.go_on(1.0 / self._rate_hz)
                steps += 1
            self._overview.update(time_ns / 1e9, _time(time_ns))
            self._progress.update(steps / self._rate_hz)
        for rover in self._rovers:
            rover.answer_resets()
        _log_end(self._logger, self._rovers, steps / self._rate_hz)

    def _publish(self, rovers: Sequence[SimulatedRover], time_ns: int) -> bool:
        """Publish what is read of those rovers that do not rest, and wait until it has arrived; False: told to stop."""
        rovers = [rover for rover in rovers if not rover.rests]
        for rover in rovers:
            rover.publish_presses(time_ns / 1e9)
            rover.publish_sensors(self._renderer, _time(time_ns))
        for rover in rovers:
            for publisher in rover.publishers:
                while not publisher.wait_for_all_acked(Duration(seconds=RESEND_CLOCK_S)):
                    if self._stopping.is_set():
                        return False
                    self._say(f"waits until {publisher.topic_name} has arrived where it is subscribed reliably")
        return True

    def _wait_for_all(self) -> bool:
        """Wait until every rover is observed and commanded; False: told to stop."""
        if self._commanders is not None:
            return True
        while not self._stopping.is_set():
            missing = [
                f"a subscriber of {publisher.topic_name}"
                for rover in self._rovers
                for publisher in rover.sensor_publishers
                if not publisher.get_subscription_count()
            ]
            missing += [f"a publisher of {rover.name}/cmd_vel" for rover in self._rovers if not rover.is_commanded]
            if not missing:
                return True
            self._say(f"waits for {', '.join(missing)}")
            self._stopping.wait(LONGEST_LOOK_S)
        return False

    def _wait_for_commands(self, time_ns: int) -> bool:
        """Wait until every rover got a command; False when time is to go on without, or when told to stop."""
        waiting = list(self._rovers)
        began_s = time.monotonic()
        resend_s = began_s + RESEND_CLOCK_S
        while not self._stopping.is_set():
            # While times go on without physics, whoever asks could not tell to which time its new readings belong.
            is_driven = self._commanders is not None
            begun_anew = [rover for rover in self._rovers if is_driven and rover.take_resets()]
            if begun_anew:
                if not self._publish(begun_anew, time_ns):
                    return False
                for rover in begun_anew:
                    rover.answer_resets()
            waiting = self._take_commands(waiting)
            if not waiting:
                if self._commanders is not None:
                    return True
                # These may answer any of the times so far.
                self._stopping.wait(RESEND_CLOCK_S)
                self._commanders = [rover.commanders() for rover in self._rovers]
                return False
            now_s = time.monotonic()
            if now_s >= resend_s:
                if self._has_new_commander():
                    self._commanders = None
                    return False
                resend_s = now_s + RESEND_CLOCK_S
                self._clock.publish(Clock(clock=_time(time_ns)))
            if now_s - began_s > WAITING_PERIOD_S:
                self._say(
                    f"waits for commands of {', '.join(rover.name for rover in waiting)}; does whoever commands them "
                    f"follow /clock (use_sim_time) at {self._rate_hz:g} Hz?"
                )
            time.sleep(min(LONGEST_LOOK_S, max(SHORTEST_LOOK_S, (now_s - began_s) / 10)))
        return False

    def _has_new_commander(self) -> bool:
        """Whether a rover has lost its commander or got another one, which may have seen no time yet."""
        before, self._commanders = self._commanders, [rover.commanders() for rover in self._rovers]
        if before is None:
            return True
        return any(not now or now - then for now, then in zip(self._commanders, before, strict=True))

    @staticmethod
    def _take_commands(rovers: Sequence[SimulatedRover]) -> list[SimulatedRover]:
        """Obey the commands that are there, and return the rovers without."""
        return [rover for rover in rovers if not rover.take_command()]

    def _say(self, text: str) -> None:
        self._logger.info(text, throttle_duration_sec=WAITING_PERIOD_S)


def _time(nanoseconds: int) -> Time:
    return Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)


def _never_called(message: object) -> None:
    raise AssertionError("commands are taken when the physics go on, never by an executor")


def _never_served(request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
    raise AssertionError("requests are taken when the physics go on, never by an executor")


def parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the options of `rover_sim`, without those for ROS.

    Raises
    ------
    SystemExit
        When an option is unknown or not allowed; the message says what is.
    """
    parser = argparse.ArgumentParser(prog="rover_sim", description="Simulated rovers in walled arenas on ROS 2 topics.")
    parser.add_argument(
        "--robots",
        type=number(int, 1, 256),
        default=4,
        help="how many rovers, named rover_0, rover_1, … (default 4)",
    )
    # 30 Hz: at a control rate of 20 Hz images are 17 ms old on average, and 16 rovers take 40 % of a core.
    parser.add_argument(
        "--rate-hz",
        type=number(float, 1, 100),
        help="rate of camera, touch and odometry in simulated time (default 30); with --lockstep the control rate "
        "(default 20)",
    )
    parser.add_argument(
        "--seed",
        type=number(int, 0, 2**31),
        help="layout of rover_0; the others follow (default: another one at each start)",
    )
    parser.add_argument("--renderer", choices=KINDS, default="auto", help="auto: EGL where it works, else ray casting")
    parser.add_argument(
        "--speed",
        type=number(float, 0, 1000),
        default=1.0,
        help="simulated seconds per second; 0: as fast as possible (default 1)",
    )
    parser.add_argument(
        "--clock",
        action="store_true",
        help="publish /clock and stamp with simulated time, as with the parameter use_sim_time",
    )
    parser.add_argument(
        "--lockstep",
        action="store_true",
        help="let time wait for the commands of all rovers at every control period; with --clock, whatever the --speed",
    )
    parser.add_argument(
        "--reset-pause-s",
        type=number(float, 0, 60),
        default=0.0,
        help="simulated seconds for which a rover that was reset stands still and is silent, so that whoever drives "
        "it begins anew as well, as after any gap in the readings (default 0)",
    )
    parser.add_argument(
        "--duration-s",
        type=number(float, 0, 1e9),
        default=0.0,
        help="simulated seconds after which to end; 0: never (default)",
    )
    options = parser.parse_args(arguments)
    options.clock |= options.lockstep
    if options.rate_hz is None:
        options.rate_hz = CONTROL_RATE_HZ if options.lockstep else DEFAULT_RATE_HZ
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate until SIGINT, SIGTERM or the end of `--duration-s`."""
    arguments = sys.argv if arguments is None else ["rover_sim", *arguments]
    options = parse_options(remove_ros_args(arguments)[1:])
    with ros_process(arguments) as stopping:
        # Without an executor nothing would answer the services of parameters.
        node = Node("rover_sim", start_parameter_services=False)
        options.clock |= node.get_parameter("use_sim_time").value
        try:
            model = ArenaModel()
            with closing(make_renderer(model, options.renderer)) as renderer:
                simulate(node, options, renderer, model, stopping)
        except RendererError as error:
            node.get_logger().fatal(str(error))
            return 1
        finally:
            destroy_last_node(node)
    return 0


if __name__ == "__main__":
    sys.exit(main())
