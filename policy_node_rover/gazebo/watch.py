# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Complete the rovers of Gazebo (`gazebo_watch`): command timeout, touch readings, and presses of the beacons.

Gazebo's drive follows the last command for ever, so this process stops a rover whose commands cease. Gazebo's contacts
end with the touch, so the touch readings, which decay slowly, are computed here. A contact with the beacon is counted
as a press, and Gazebo is asked to move the beacon.
"""

from __future__ import annotations

import argparse
import array
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Twist
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Bool, Int32

from policy_node.cli.options import number
from policy_node.config.specs import ArraySpec
from policy_node.messages.fields import MessageTypeError, message_class
from policy_node.messages.reading import UnusableReading
from policy_node.messages.types.contacts import CONTACTS, TouchSource, normal_force_n
from policy_node.ros.process import destroy_last_node, ros_process
from policy_node_rover.arena.description import ARENA, ROVER, TOUCH_CELLS
from policy_node_rover.arena.layout import draw_distant_beacon, draw_layout
from policy_node_rover.arena.touch_sensor import TouchSensor
from policy_node_rover.frames import publish_fixed_transforms
from policy_node_rover.gazebo.bridge import enable_topic
from policy_node_rover.gazebo.sdf import grid_origin_m

CELL_FORCES = ArraySpec("touch", (ROVER.touch_cells,), np.float32, 0.0, ROVER.touch_limit_n)
# Messages of this many physics steps can wait, so that a brief contact is not lost.
CONTACTS_QUEUE = 10
COMMAND_TIMEOUT_S = 0.5
CHECK_PERIOD_S = 0.1
# The next contact with a beacon counts as a press after this time without one.
REARM_S = 0.25
MOVE_TIMEOUT_MS = 5000
WARNING_PERIOD_S = 10.0


class CommandTimeout:
    """Stop a rover when its commands cease, measured with the node's clock."""

    def __init__(self, node: Node, robot: str) -> None:
        self._clock = node.get_clock()
        self._commanded_at_ns: int | None = None
        # Disabling the drive discards its command; a zero command would make a second publisher on the command topic.
        self._publisher = node.create_publisher(Bool, enable_topic(robot), 10)
        self._subscription = node.create_subscription(Twist, f"{robot}/cmd_vel", self._on_command, 1)

    def check(self) -> None:
        """Stop the rover if its last command is too old, or simulated time has jumped back."""
        if self._commanded_at_ns is None:
            return
        silence_s = (self._clock.now().nanoseconds - self._commanded_at_ns) / 1e9
        if not 0.0 <= silence_s <= COMMAND_TIMEOUT_S:
            for enabled in (False, True):
                self._publisher.publish(Bool(data=enabled))
            self._commanded_at_ns = None

    def _on_command(self, command: Twist) -> None:
        self._commanded_at_ns = self._clock.now().nanoseconds


class Bumper:
    """Publish the touch readings of a rover with each image and its stamp, as `rover_sim` does.

    While contacts cannot be decoded nothing is published, so that subscribers notice the missing readings.
    """

    def __init__(self, node: Node, robot: str) -> None:
        self._node = node
        self._source = TouchSource(CELL_FORCES)
        self._sensor = TouchSensor()
        self._is_readable = True
        self._touch = JointState(name=[cell.name for cell in TOUCH_CELLS])
        self._touch.header.frame_id = f"{robot}/bumper"
        self._publisher = node.create_publisher(JointState, f"{robot}/touch", qos_profile_sensor_data)
        # Gazebo renders an image after its physics step, so the contacts of that step have arrived before.
        self._images = node.create_subscription(Image, f"{robot}/camera/image_raw", self.on_image, 1)

    def on_contacts(self, message: Any) -> None:
        """Add the contacts of a message of the contact sensor."""
        # Without a subscriber, the contacts may be those of another bumper, which cannot be decoded here.
        if not self._publisher.get_subscription_count():
            return
        try:
            self._sensor.add_contact(self._source.numbers(message), nanoseconds(message.header.stamp))
            self._is_readable = True
        except UnusableReading as error:
            self._is_readable = False
            self._node.get_logger().warning(
                f"{self._publisher.topic_name} is not published: {error}", throttle_duration_sec=WARNING_PERIOD_S
            )

    def on_image(self, image: Image) -> None:
        """Publish the readings at the stamp of an image."""
        if not self._is_readable:
            return
        self._touch.header.stamp = image.header.stamp
        self._touch.effort = array.array("d", self._sensor.read(nanoseconds(image.header.stamp)).tolist())
        self._publisher.publish(self._touch)


class Beacon:
    """Count the presses of the beacon with a rover's number, and move it after each one."""

    def __init__(self, node: Node, robot: int, options: argparse.Namespace) -> None:
        self.name = f"beacon_{robot}"
        self.presses = 0
        self._node = node
        self._world = options.world
        self._origin_m = grid_origin_m(robot, options.robots)
        self._rng = np.random.default_rng(options.seed + robot)
        self._layout = draw_layout(self._rng)
        self._position_m = self._layout.beacon
        self._contact_at_ns: int | None = None
        self._moves: list[subprocess.Popen[str]] = []
        qos = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._publisher = node.create_publisher(Int32, f"rover_{robot}/presses", qos)
        self._publisher.publish(Int32(data=0))

    def check(self) -> None:
        """Collect the answers of Gazebo, and warn if a move failed."""
        for move in [move for move in self._moves if move.poll() is not None]:
            self._moves.remove(move)
            output = move.communicate()[0].strip()
            if "true" not in output:
                self._node.get_logger().warning(f"{self.name} was not moved, Gazebo answered: {output}")

    @property
    def is_moving(self) -> bool:
        """Whether Gazebo has not answered the latest move yet."""
        return bool(self._moves)

    def on_contacts(self, message: Any) -> None:
        """Count a press if the contacts are a new one with this beacon."""
        try:
            forces_n = [
                normal_force_n(contact)
                for contact in message.contacts
                if contact.collision2.name.partition("::")[0] == self.name
            ]
        except UnusableReading as error:
            # It must not end this process, which stops rovers.
            self._node.get_logger().warning(
                f"{self.name}: contacts not counted: {error}", throttle_duration_sec=WARNING_PERIOD_S
            )
            return
        # Fortress reports no forces.
        if not any(force_n is None or force_n > ARENA.press_force_n for force_n in forces_n):
            return
        now_ns = self._node.get_clock().now().nanoseconds
        is_new = self._contact_at_ns is None or not 0 <= now_ns - self._contact_at_ns <= REARM_S * 1e9
        # While the beacon has not moved yet, a rover that bounces off it presses only once.
        if is_new and not self.is_moving:
            self.presses += 1
            self._publisher.publish(Int32(data=self.presses))
            self._node.get_logger().info(f"{self.name} pressed, {self.presses} in all")
            self._move()
        self._contact_at_ns = now_ns

    def _move(self) -> None:
        """Draw a position away from the present one, where the rover is, and ask Gazebo to move the beacon there."""
        self._position_m = draw_distant_beacon(self._rng, self._layout.obstacles, self._position_m)
        x_m, y_m = np.add(self._position_m, self._origin_m)
        request = f'name: "{self.name}", position: {{x: {x_m:.4f}, y: {y_m:.4f}}}, orientation: {{w: 1}}'
        command = [*service_command(), "-s", f"/world/{self._world}/set_pose", "--req", request]
        # A subprocess, as the service takes a moment in which the timeouts must be checked.
        self._moves.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))


def nanoseconds(stamp: Time) -> int:
    """Convert a stamp to nanoseconds."""
    return stamp.sec * 10**9 + stamp.nanosec


def service_command() -> list[str]:
    """Return the command that calls Gazebo's service to set a pose, without service name and request.

    SystemExit is raised when Gazebo's command line is not installed.
    """
    for program, package in (("gz", "gz.msgs"), ("ign", "ignition.msgs")):
        if shutil.which(program):
            types = ["--reqtype", f"{package}.Pose", "--reptype", f"{package}.Boolean"]
            return [program, "service", *types, "--timeout", str(MOVE_TIMEOUT_MS)]
    raise SystemExit("gazebo_watch: found neither `gz` nor `ign`, which move beacons; install and source Gazebo")


def parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the options of `gazebo_watch`, without those for ROS."""
    parser = argparse.ArgumentParser(
        prog="gazebo_watch",
        description="Stop rovers of Gazebo whose commands cease, publish their touch readings, count the presses of "
        "their beacons and move these.",
        epilog="Documentation: doc/gazebo.md",
    )
    parser.add_argument("--robots", type=number(int, 1, 256), default=4, help="number of rovers (default 4)")
    parser.add_argument("--seed", type=number(int, 0, 2**31), default=0, help="seed of the layouts (default 0)")
    parser.add_argument("--frames", action="store_true", help="publish the sensor frames on /tf_static")
    parser.add_argument("--touch", action="store_true", help="publish the touch readings on rover_0/touch and so on")
    parser.add_argument("--world", default="", help="name of the world of arenas; empty: do not watch beacons")
    return parser.parse_args(arguments)


def subscribe_to_contacts(node: Node, robots: int, watchers: Sequence[Sequence[Bumper] | Sequence[Beacon]]) -> None:
    """Subscribe to the contacts of each rover for its bumper and beacon, if they are watched.

    SystemExit is raised when the message type of the contacts is not installed.
    """
    try:
        contacts_type = message_class(CONTACTS)
    except MessageTypeError as error:
        raise SystemExit(f"gazebo_watch: {error}") from error

    def on_contacts(robot: int, message: Any) -> None:
        for watched in watchers:
            if watched:
                watched[robot].on_contacts(message)

    for robot in range(robots):
        node.create_subscription(contacts_type, f"rover_{robot}/bumper", partial(on_contacts, robot), CONTACTS_QUEUE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Watch until SIGINT or SIGTERM."""
    arguments = sys.argv if arguments is None else ["gazebo_watch", *arguments]
    options = parse_options(remove_ros_args(list(arguments))[1:])
    with ros_process(arguments) as stopping:
        node = Node("gazebo_watch")
        robots = range(options.robots)
        timeouts = [CommandTimeout(node, f"rover_{robot}") for robot in robots]
        if options.frames:
            # Gazebo publishes /tf.
            publish_fixed_transforms(node, [f"rover_{robot}" for robot in robots])
        bumpers = [Bumper(node, f"rover_{robot}") for robot in robots if options.touch]
        if options.world:
            service_command()
        beacons = [Beacon(node, robot, options) for robot in robots if options.world]
        if bumpers or beacons:
            subscribe_to_contacts(node, options.robots, (bumpers, beacons))

        def check() -> None:
            for timeout in timeouts:
                timeout.check()
            for beacon in beacons:
                beacon.check()

        node.create_timer(CHECK_PERIOD_S, check)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        while not stopping.is_set():
            executor.spin_once(timeout_sec=0.2)
        node.get_logger().info(f"{sum(beacon.presses for beacon in beacons)} presses")
        executor.shutdown()
        destroy_last_node(node)
    return 0


if __name__ == "__main__":
    sys.exit(main())
