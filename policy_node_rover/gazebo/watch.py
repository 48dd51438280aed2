# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""What the rovers of Gazebo lack beside those of `rover_sim` (`gazebo_watch`).

Gazebo's drive follows the last command for ever, so this process stops a rover whose commands cease. Gazebo's contacts
end with the touch, where the foam of the bumper springs back slowly: its readings are made here, of the contacts. Nor
does a beacon of Gazebo know that it was pressed: presses are counted here, too, and Gazebo is told to stand the beacon
somewhere else.
"""

from __future__ import annotations

import argparse
import array
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
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
from policy_node_rover.arena.foam import Foam
from policy_node_rover.arena.layout import draw_beacon, draw_layout
from policy_node_rover.gazebo.bridge import enable_topic
from policy_node_rover.gazebo.sdf import grid_origin_m

CELL_FORCES = ArraySpec("touch", (ROVER.touch_cells,), np.float32, 0.0, ROVER.touch_limit_n)
# The contacts of this many physics steps may wait: a brief one between two that last must not be missed.
CONTACTS_QUEUE = 10
COMMAND_TIMEOUT_S = 0.5
CHECK_PERIOD_S = 0.1
# A beacon that was not touched for so long can be pressed again.
REARM_S = 0.25
MOVE_TIMEOUT_MS = 5000
WARNING_PERIOD_S = 10.0


class CommandTimeout:
    """Stops a rover of Gazebo when nobody commands it any more.

    Parameters
    ----------
    node
        Its clock counts: simulated time where that is used.
    robot
        Namespace of the rover.
    """

    def __init__(self, node: Node, robot: str) -> None:
        self._clock = node.get_clock()
        self._commanded_at_ns: int | None = None
        # Gazebo's drive stands still while it is disabled. Publishing commands would be a second voice on their topic.
        self._publisher = node.create_publisher(Bool, enable_topic(robot), 10)
        self._subscription = node.create_subscription(Twist, f"{robot}/cmd_vel", self._note, 1)

    def check(self) -> None:
        """Let the drive forget a command that is too old."""
        if self._commanded_at_ns is None:
            return
        silence_s = (self._clock.now().nanoseconds - self._commanded_at_ns) / 1e9
        # Simulated time that jumps back began anew: nobody knows how old the command is.
        if not 0.0 <= silence_s <= COMMAND_TIMEOUT_S:
            for enabled in (False, True):
                self._publisher.publish(Bool(data=enabled))
            self._commanded_at_ns = None

    def _note(self, command: Twist) -> None:
        self._commanded_at_ns = self._clock.now().nanoseconds


class Bumper:
    """Tells what the touch cells of a rover of Gazebo feel, as `rover_sim` does: with each image, and its stamp.

    While contacts cannot be read it tells nothing, so that whoever needs the touch knows that it has none.

    Parameters
    ----------
    node
        Owner of the topics.
    robot
        Namespace of the rover.
    """

    def __init__(self, node: Node, robot: str) -> None:
        self._node = node
        self._source = TouchSource(CELL_FORCES)
        self._foam = Foam()
        self._is_readable = True
        self._touch = JointState(name=[cell.name for cell in TOUCH_CELLS])
        self._touch.header.frame_id = f"{robot}/bumper"
        self._publisher = node.create_publisher(JointState, f"{robot}/touch", qos_profile_sensor_data)
        # Gazebo draws an image after the step that it shows, so the contacts of that step are there before.
        self._images = node.create_subscription(Image, f"{robot}/camera/image_raw", self.tell, 1)

    def touch(self, message: Any) -> None:
        """Take a message of the rover's contact sensor."""
        # A robot of the user's own may have another bumper, whose contacts nobody wants to have read here.
        if not self._publisher.get_subscription_count():
            return
        try:
            self._foam.press(self._source.numbers(message), nanoseconds(message.header.stamp))
            self._is_readable = True
        except UnusableReading as error:
            self._is_readable = False
            self._node.get_logger().warning(
                f"{self._publisher.topic_name} falls silent: {error}", throttle_duration_sec=WARNING_PERIOD_S
            )

    def tell(self, image: Image) -> None:
        """Tell what is felt at the time of an image of the rover's camera."""
        if not self._is_readable:
            return
        self._touch.header.stamp = image.header.stamp
        self._touch.effort = array.array("d", self._foam.reading_n(nanoseconds(image.header.stamp)).tolist())
        self._publisher.publish(self._touch)


class Beacon:
    """Counts how often a rover presses its beacon, and lets it stand somewhere else after each press.

    Parameters
    ----------
    node
        Owner of the topics.
    robot
        Number of the rover, of its arena and of the beacon.
    options
        From the command line.

    Attributes
    ----------
    presses
        How often it was pressed.
    """

    def __init__(self, node: Node, robot: int, options: argparse.Namespace) -> None:
        self.name = f"beacon_{robot}"
        self.presses = 0
        self._node = node
        self._world = options.world
        self._origin_m = grid_origin_m(robot, options.robots)
        self._rng = np.random.default_rng(options.seed + robot)
        self._layout = draw_layout(self._rng)
        self._place_m = self._layout.beacon
        self._touched_at_ns: int | None = None
        self._moves: list[subprocess.Popen[str]] = []
        qos = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._publisher = node.create_publisher(Int32, f"rover_{robot}/presses", qos)
        self._publisher.publish(Int32(data=0))

    def check(self) -> None:
        """Say when Gazebo did not move the beacon."""
        for move in [move for move in self._moves if move.poll() is not None]:
            self._moves.remove(move)
            said = move.communicate()[0].strip()
            if "true" not in said:
                self._node.get_logger().warning(f"{self.name} stays where it is, Gazebo says: {said}")

    @property
    def moving(self) -> bool:
        """Whether Gazebo has not answered yet where the beacon shall stand."""
        return bool(self._moves)

    def touch(self, message: Any) -> None:
        """Take a message of the rover's bumper."""
        try:
            forces_n = [
                normal_force_n(contact)
                for contact in message.contacts
                if contact.collision2.name.partition("::")[0] == self.name
            ]
        except UnusableReading as error:
            # It must not end the process, which stops rovers.
            self._node.get_logger().warning(
                f"{self.name}: contacts not counted, {error}", throttle_duration_sec=WARNING_PERIOD_S
            )
            return
        # Fortress tells no forces.
        if not any(force_n is None or force_n > ARENA.press_force_n for force_n in forces_n):
            return
        now_ns = self._node.get_clock().now().nanoseconds
        is_new = self._touched_at_ns is None or not 0 <= now_ns - self._touched_at_ns <= REARM_S * 1e9
        # A rover that bounces off a beacon that has not gone yet presses it once.
        if is_new and not self.moving:
            self.presses += 1
            self._publisher.publish(Int32(data=self.presses))
            self._node.get_logger().info(f"{self.name} pressed, {self.presses} in all")
            self._stand_elsewhere()
        self._touched_at_ns = now_ns

    def _stand_elsewhere(self) -> None:
        """Draw a place away from where the rover is, which touches the present one, and let Gazebo go there."""
        while True:
            drawn = draw_beacon(self._rng, self._layout.obstacles)
            if drawn is not None and np.hypot(*np.subtract(drawn, self._place_m)) >= ARENA.beacon_distance_m:
                break
        self._place_m = drawn
        x_m, y_m = np.add(drawn, self._origin_m)
        request = f'name: "{self.name}", position: {{x: {x_m:.4f}, y: {y_m:.4f}}}, orientation: {{w: 1}}'
        command = [*service_command(), "-s", f"/world/{self._world}/set_pose", "--req", request]
        # It takes a moment, in which commands must not go unheard.
        self._moves.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))


def nanoseconds(stamp: Time) -> int:
    """Return a stamp as nanoseconds."""
    return stamp.sec * 10**9 + stamp.nanosec


def service_command() -> list[str]:
    """Return how Gazebo's service that sets a pose is called here, without its name and request.

    Raises
    ------
    SystemExit
        When Gazebo's command line is not there.
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
        description="Stops rovers of Gazebo whose commands cease, tells their touch, counts presses of their beacons, "
        "and moves these.",
    )
    parser.add_argument("--robots", type=number(int, 1, 256), default=4, help="how many rovers there are (default 4)")
    parser.add_argument("--seed", type=number(int, 0, 2**31), default=0, help="of the arenas' layouts (default 0)")
    parser.add_argument(
        "--touch", action="store_true", help="tell on rover_0/touch and so on what the foam of the bumpers feels"
    )
    parser.add_argument("--world", default="", help="name of the world of arenas; empty: none, beacons are not watched")
    return parser.parse_args(arguments)


def subscribe_to_contacts(node: Node, robots: int, bumpers: Sequence[Bumper], beacons: Sequence[Beacon]) -> None:
    """Let each rover's bumper and beacon hear of the rover's contacts, those of them that are watched.

    Raises
    ------
    SystemExit
        When the type of the contacts is not installed.
    """
    try:
        contacts_type = message_class(CONTACTS)
    except MessageTypeError as error:
        raise SystemExit(f"gazebo_watch: {error}") from error
    for robot in range(robots):
        listeners = [watched[robot].touch for watched in (bumpers, beacons) if watched]
        node.create_subscription(contacts_type, f"rover_{robot}/bumper", partial(tell_all, listeners), CONTACTS_QUEUE)


def tell_all(listeners: Sequence[Callable[[Any], None]], message: Any) -> None:
    """Hand a message to each of those who listen."""
    for listener in listeners:
        listener(message)


def main(arguments: Sequence[str] | None = None) -> int:
    """Watch until SIGINT or SIGTERM."""
    arguments = sys.argv if arguments is None else ["gazebo_watch", *arguments]
    options = parse_options(remove_ros_args(list(arguments))[1:])
    bumpers: list[Bumper] = []
    beacons: list[Beacon] = []
    with ros_process(arguments) as stopping:
        node = Node("gazebo_watch")
        timeouts = [CommandTimeout(node, f"rover_{robot}") for robot in range(options.robots)]
        if options.touch:
            bumpers = [Bumper(node, f"rover_{robot}") for robot in range(options.robots)]
        if options.world:
            service_command()
            beacons = [Beacon(node, robot, options) for robot in range(options.robots)]
        if bumpers or beacons:
            subscribe_to_contacts(node, options.robots, bumpers, beacons)

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
