# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The rover arena as a ROS 2 process: camera, touch and odometry of every rover out, velocity commands in.

Time advances in slots of about one physics time step. In every slot each rover takes its newest command and its physics
go on; the cameras take turns, so that a fleet's images are spread over the camera period instead of coming in a burst,
and each is published at once with the time of its own reading.
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

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Twist
from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.utilities import remove_ros_args
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Int32

from policy_node.options import number
from policy_node.ros.command_watch import CommandWatch
from policy_node.ros.process import ros_process
from policy_node.simulation.arena import Arena
from policy_node.simulation.description import ARENA, ROVER
from policy_node.simulation.mujoco_model import ArenaModel
from policy_node.simulation.rendering import KINDS, Renderer, RendererError, make_renderer
from policy_node.timing import SteadyClock

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


def _qos(
    reliability: ReliabilityPolicy, depth: int = 1, durability: DurabilityPolicy = DurabilityPolicy.VOLATILE
) -> QoSProfile:
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=reliability, durability=durability)


SENSOR_QOS = _qos(ReliabilityPolicy.BEST_EFFORT, depth=5)
RELIABLE_QOS = _qos(ReliabilityPolicy.RELIABLE)
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
    """

    def __init__(self, node: Node, name: str, arena: Arena, watched: bool) -> None:
        self.name = name
        self.arena = arena
        self._commanded_at_s = -math.inf
        self._presses_at_s = -math.inf
        self._published_presses = -1
        self._image_publisher = node.create_publisher(Image, f"{name}/camera/image_raw", SENSOR_QOS)
        self._touch_publisher = node.create_publisher(JointState, f"{name}/touch", SENSOR_QOS)
        self._odometry_publisher = node.create_publisher(Odometry, f"{name}/odom", RELIABLE_QOS)
        self._presses_publisher = node.create_publisher(Int32, f"{name}/presses", PRESSES_QOS)
        # No executor spins the node: the newest command is taken when the physics go on.
        self._commands = node.create_subscription(Twist, f"{name}/cmd_vel", _never_called, RELIABLE_QOS)
        self._watch = CommandWatch(node, Twist, f"{name}/cmd_vel", WATCHED_S) if watched else None
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
        taken = self._commands.handle.take_message(Twist, False)
        if taken is not None:
            command: Twist = taken[0]
            self._commanded_at_s = now_s
            linear, angular = command.linear.x, command.angular.z
            # A rover that is told nonsense stands still.
            valid = math.isfinite(linear) and math.isfinite(angular)
            self.arena.command(linear if valid else 0.0, angular if valid else 0.0)
        elif self._is_abandoned(now_s - self._commanded_at_s):
            self.arena.command(0.0, 0.0)
        self.arena.advance(duration_s)
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
        # The image last: whoever has it can count on the touch of the same moment.
        self._image_publisher.publish(self._image)


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
    rovers = [
        SimulatedRover(node, f"rover_{robot}", Arena(model, seed), watched=not options.clock)
        for robot, seed in enumerate(seeds)
    ]
    overview = Overview(node, [rover.arena for rover in rovers], renderer)
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
            rover.advance(slot_s, simulated_s if options.clock else time.monotonic())
            if (robot - slot) % slots == 0:
                rover.publish_sensors(renderer, stamp)
        overview.update(simulated_s, stamp)
        progress.update(simulated_s)
    presses = sum(rover.arena.presses for rover in rovers)
    node.get_logger().info(f"ended after {slot * slot_s:.1f} s with {presses} presses")


def _time(nanoseconds: int) -> Time:
    return Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)


def _never_called(message: object) -> None:
    raise AssertionError("commands are taken when the physics go on, never by an executor")


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
        default=30.0,
        help="rate of camera, touch and odometry in simulated time (default 30)",
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
    parser.add_argument("--clock", action="store_true", help="publish /clock and stamp with simulated time")
    parser.add_argument(
        "--duration-s",
        type=number(float, 0, 1e9),
        default=0.0,
        help="simulated seconds after which to end; 0: never (default)",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate until SIGINT, SIGTERM or the end of `--duration-s`."""
    arguments = sys.argv if arguments is None else ["rover_sim", *arguments]
    options = parse_options(remove_ros_args(arguments)[1:])
    with ros_process(arguments) as stopping:
        # Without an executor nothing would answer the services of parameters.
        node = Node("rover_sim", start_parameter_services=False)
        try:
            model = ArenaModel()
            with closing(make_renderer(model, options.renderer)) as renderer:
                simulate(node, options, renderer, model, stopping)
        except RendererError as error:
            node.get_logger().fatal(str(error))
            return 1
        finally:
            node.destroy_node()
    return 0


if __name__ == "__main__":
    sys.exit(main())
