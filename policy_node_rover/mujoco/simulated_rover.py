# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Connect simulated rovers to ROS topics: sensors, commands, resets, episode status and the overview image."""

from __future__ import annotations

import array
import math
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Twist
from nav_msgs.msg import Odometry
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.duration import Duration
from rclpy.event_handler import QoSSubscriptionEventType
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, LivelinessPolicy, QoSProfile, ReliabilityPolicy
from rclpy.task import Future
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Float64MultiArray, Int32, Int64
from std_srvs.srv import Trigger

from policy_node.ros.middleware import middleware, reports_deadlines
from policy_node.ros.rclpy_internals import poll_event, poll_topic
from policy_node_rover.arena.description import ROVER
from policy_node_rover.frames import PosePublisher, camera_frame, camera_info
from policy_node_rover.mujoco.arena import Arena
from policy_node_rover.mujoco.rendering import Renderer
from policy_node_rover.mujoco.scripted_driver import scripted_command

COMMAND_TIMEOUT_S = 0.5
# Publishers that offer this deadline are noticed when they stop, before the timeout.
COMMAND_DEADLINE_S = 0.25
OVERVIEW_PERIOD_S = 0.25
OVERVIEW_WIDTH_PX = 480
PRESSES_PERIOD_S = 1.0
DISTURBANCE_S = 0.5


# With a depth of 1, Fast DDS requests the acknowledgement of a sample at once, otherwise only every 3 s.
RELIABLE_QOS = QoSProfile(depth=1)


class DeadlineMonitor:
    """Detect publishers of a topic that miss their deadline or die, without an executor.

    This is a second subscription beside the one that takes the commands: a subscription that requests a deadline gets
    nothing from publishers that offer none, such as teleoperation or `ros2 topic pub`. Those, and publishers that offer
    a longer deadline or liveliness lease than `deadline_s`, are not monitored. Without these events in the middleware,
    as with rmw_zenoh_cpp, nothing is monitored; the process logs it once.
    """

    def __init__(self, node: Node, message_type: Any, topic: str, deadline_s: float) -> None:
        deadline = Duration(seconds=deadline_s)
        qos = QoSProfile(
            depth=1,
            reliability=ReliabilityPolicy.BEST_EFFORT,
            deadline=deadline,
            liveliness=LivelinessPolicy.AUTOMATIC,
            liveliness_lease_duration=deadline,
        )
        self._is_commanded = False
        subscription, self._take = poll_topic(node, message_type, topic, qos, raw=True)
        kinds = QoSSubscriptionEventType
        self._missed = poll_event(subscription, kinds.RCL_SUBSCRIPTION_REQUESTED_DEADLINE_MISSED)
        self._changed = poll_event(subscription, kinds.RCL_SUBSCRIPTION_LIVELINESS_CHANGED)
        if not reports_deadlines() or self._missed is None or self._changed is None:
            node.get_logger().warning(
                f"{middleware()} reports no missed deadlines: rovers stop {COMMAND_TIMEOUT_S:g} s after their last "
                "command",
                once=True,
            )

    def publisher_is_lost(self) -> bool:
        """Return once for each silence whether a publisher missed its deadline or died since its newest command."""
        if self._take() is not None:
            self._is_commanded = True
        missed = self._missed() if self._missed is not None else None
        changed = self._changed() if self._changed is not None else None
        has_event = (missed is not None and missed.total_count_change > 0) or (
            changed is not None and changed.not_alive_count_change > 0
        )
        lost = self._is_commanded and has_event
        # Deadline events repeat; a publisher that is not monitored may command in the meantime.
        self._is_commanded = self._is_commanded and not lost
        return lost


class Disturbance:
    """Push a rover off its way: for a share of the time it drives at random, for `DISTURBANCE_S` at a time."""

    def __init__(self, share: float, seed: int | None) -> None:
        self._share = share
        self._rng = np.random.default_rng(seed)
        self._left_s = 0.0
        self._command: tuple[float, float] | None = None

    def after(self, duration_s: float) -> tuple[float, float] | None:
        """Return the command instead of the one that was sent, for the next `duration_s`; None for that one."""
        self._left_s -= duration_s
        if self._left_s < 0.0:
            self._left_s += DISTURBANCE_S
            low = (-ROVER.max_reverse_m_s, -ROVER.max_angular_rad_s)
            drawn = self._rng.uniform(low, (ROVER.max_linear_m_s, ROVER.max_angular_rad_s)).tolist()
            self._command = (drawn[0], drawn[1]) if self._rng.random() < self._share else None
        return self._command


class SimulatedRover:
    """One rover in its arena with its topics. Messages are taken between physics steps.

    Another thread must spin the node, for its services. `monitor_deadlines` stops the rover when a publisher of
    commands misses its deadline, which is in wall time; `sensor_qos` is for camera and touch; `poses` publishes its
    pose. After a reset the rover stands still and is silent for `reset_pause_s`. With `scripted`, `drive` sends the
    commands of the scripted driver. `disturbance` changes how the rover drives, not what is sent.
    """

    def __init__(
        self,
        node: Node,
        name: str,
        arena: Arena,
        monitor_deadlines: bool,
        sensor_qos: QoSProfile,
        poses: PosePublisher,
        reset_pause_s: float = 0.0,
        scripted: bool = False,
        disturbance: Disturbance | None = None,
    ) -> None:
        self.name = name
        self.arena = arena
        self._node = node
        self._reset_pause_ns = round(reset_pause_s * 1e9)
        self._pause_ns = 0
        # Seed of the latest reset, negative without one.
        self._seed = -1
        self._command = (0.0, 0.0)
        self._commanded_at_s = -math.inf
        self._presses_at_s = -math.inf
        self._published_presses = -1

        def publisher(message_type: type, topic: str, qos: QoSProfile = RELIABLE_QOS) -> Publisher:
            return node.create_publisher(message_type, f"{name}/{topic}", qos)

        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._image_publisher = publisher(Image, "camera/image_raw", sensor_qos)
        self._camera_publisher = publisher(CameraInfo, "camera/camera_info", sensor_qos)
        self._touch_publisher = publisher(JointState, "touch", sensor_qos)
        self._odometry_publisher = publisher(Odometry, "odom")
        self._beacon_publisher = publisher(Float64MultiArray, "beacon")
        self._presses_publisher = publisher(Int32, "presses", latched)
        self._episode_publisher = publisher(Float64MultiArray, "episode")
        self.observation_publishers = (self._image_publisher, self._touch_publisher)
        ground_truth = (self._camera_publisher, self._odometry_publisher, self._beacon_publisher)
        status = (self._presses_publisher, self._episode_publisher)
        self.publishers = (*self.observation_publishers, *ground_truth, *status)
        command_topic = f"{name}/cmd_vel"
        self._commands, self._take_command = poll_topic(node, Twist, command_topic, RELIABLE_QOS)
        self._driver = publisher(Twist, "cmd_vel") if scripted else None
        self._disturbance = disturbance
        self._deadlines = DeadlineMonitor(node, Twist, command_topic, COMMAND_DEADLINE_S) if monitor_deadlines else None
        _, self._take_reset = poll_topic(node, Int64, f"{name}/reset", QoSProfile(depth=10))
        # Requests wait for the simulation, which must see those of all rovers meanwhile.
        group = ReentrantCallbackGroup()
        node.create_service(Trigger, f"{name}/reset", self._on_reset_request, callback_group=group)
        # Requests of the service that have not been seen, and those that have not been answered.
        self._requests: deque[Future[None]] = deque()
        self._unanswered: list[Future[None]] = []
        size = ROVER.camera_size_px
        self._image = Image(height=size, width=size, encoding="rgb8", step=3 * size)
        self._image.header.frame_id = camera_frame(name)
        self._camera = camera_info(name)
        self._poses = poses
        self._touch = JointState(name=[f"touch_{cell}" for cell in range(ROVER.touch_cells)])
        self._touch.header.frame_id = f"{name}/bumper"
        self._odometry = Odometry(child_frame_id=f"{name}/base_link")
        self._odometry.header.frame_id = f"{name}/odom"

    def update(self, duration_s: float, now_s: float) -> None:
        """Take the newest command, whose age is measured with `now_s`, simulate, and publish presses."""
        if self.take_command():
            self._commanded_at_s = now_s
        elif self._has_lost_its_commander(now_s - self._commanded_at_s):
            self._set_command(0.0, 0.0)
        presses = self.arena.presses
        self.simulate(duration_s)
        self.publish_presses(now_s)
        if self.arena.presses > presses:
            self._publish_episode()

    @property
    def is_paused(self) -> bool:
        """Whether the rover stands still after a reset."""
        return self._pause_ns > 0

    def simulate(self, duration_s: float) -> None:
        """Simulate with the present command, or stand still in the pause after a reset."""
        if not self.is_paused:
            if self._disturbance is not None:
                self.arena.command(*(self._disturbance.after(duration_s) or self._command))
            self.arena.advance(duration_s)
            return
        self._pause_ns -= round(duration_s * 1e9)
        # Commands in the pause belong to the episode before.
        self._set_command(0.0, 0.0)

    def drive(self) -> None:
        """Send the command of the scripted driver, if it drives this rover."""
        if self._driver is not None:
            command = Twist()
            command.linear.x, command.angular.z = scripted_command(self.arena)
            self._driver.publish(command)

    def take_command(self) -> bool:
        """Apply the newest command; return whether there was one. A command that is not finite stops the rover."""
        taken = self._take_command()
        if taken is None:
            return False
        linear, angular = taken[0].linear.x, taken[0].angular.z
        valid = math.isfinite(linear) and math.isfinite(angular)
        self._set_command(linear if valid else 0.0, angular if valid else 0.0)
        return True

    def _set_command(self, linear_m_s: float, angular_rad_s: float) -> None:
        self._command = (linear_m_s, angular_rad_s)
        self.arena.command(linear_m_s, angular_rad_s)

    def take_resets(self) -> bool:
        """Reset the arena if requested by topic or service; return whether it was.

        A negative seed, as that of the service, continues the random sequence of the arena.
        """
        seeds: list[int] = []
        for message, _ in iter(self._take_reset, None):
            seeds.append(message.data)
        while self._requests:
            seeds.append(-1)
            self._unanswered.append(self._requests.popleft())
        for seed in seeds:
            self._seed = seed
            self.arena.reset(seed if seed >= 0 else None)
            self._pause_ns = self._reset_pause_ns
            # Publish the zero of the new episode.
            self._published_presses = -1
        return bool(seeds)

    def answer_resets(self) -> None:
        """Answer the requests of the reset service: later stamps belong to the new episode."""
        if not self._unanswered:
            return
        for answered in self._unanswered:
            answered.set_result(None)
        self._unanswered.clear()
        if self._node.executor is not None:
            self._node.executor.wake()

    async def _on_reset_request(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Hand a request over to the simulation, and answer it when that has reset the rover."""
        answered: Future[None] = Future(executor=self._node.executor)
        self._requests.append(answered)
        await answered
        response.success, response.message = True, "a new episode"
        return response

    def publish_presses(self, now_s: float) -> None:
        """Publish the number of presses when it has changed, and periodically."""
        if self.arena.presses != self._published_presses or now_s - self._presses_at_s >= PRESSES_PERIOD_S:
            self._published_presses, self._presses_at_s = self.arena.presses, now_s
            self._presses_publisher.publish(Int32(data=self.arena.presses))

    def _has_lost_its_commander(self, silence_s: float) -> bool:
        """Return whether commands ceased: after the timeout, or before it when a deadline was missed."""
        if silence_s > COMMAND_TIMEOUT_S or self._deadlines is None:
            return silence_s > COMMAND_TIMEOUT_S
        # The middleware counts from the arrival of the command, which was a little before it was taken.
        return silence_s > 0.8 * COMMAND_DEADLINE_S and self._deadlines.publisher_is_lost()

    def publish_sensors(self, renderer: Renderer, stamp: Time) -> None:
        """Read and publish all sensors with one stamp."""
        self._image.header.stamp = self._touch.header.stamp = self._odometry.header.stamp = stamp
        # The setter takes an array.array as it is; other sequences are checked element by element.
        self._image.data = array.array("B", renderer.camera(self.arena).tobytes())
        self._touch.effort = array.array("d", self.arena.touch_n.tolist())
        self._touch_publisher.publish(self._touch)
        x, y, yaw = self.arena.pose
        pose, twist = self._odometry.pose.pose, self._odometry.twist.twist
        pose.position.x, pose.position.y = x, y
        pose.orientation.z, pose.orientation.w = math.sin(yaw / 2), math.cos(yaw / 2)
        twist.linear.x, twist.angular.z = self.arena.velocity
        self._odometry_publisher.publish(self._odometry)
        self._poses.publish(self._odometry)
        if self._beacon_publisher.get_subscription_count():
            # Ground truth for rewards: distance in metres, bearing in radians.
            self._beacon_publisher.publish(Float64MultiArray(data=self.arena.beacon_polar))
        self._publish_episode()
        if self._camera_publisher.get_subscription_count():
            self._camera.header.stamp = stamp
            self._camera_publisher.publish(self._camera)
        # The image last: a subscriber that receives it can rely on the touch of the same stamp.
        self._image_publisher.publish(self._image)

    def _publish_episode(self) -> None:
        """Publish the status of the episode: seed, time in s, presses, collisions, and the last command."""
        if self._episode_publisher.get_subscription_count():
            arena = self.arena
            values = (self._seed, arena.time_s, arena.presses, arena.collisions, *self._command)
            self._episode_publisher.publish(Float64MultiArray(data=[float(value) for value in values]))

    @property
    def is_commanded(self) -> bool:
        """Whether the command topic has a publisher."""
        return self._commands.get_publisher_count() > 0

    def commanders(self) -> frozenset[bytes]:
        """Return the ids of the publishers of the command topic."""
        endpoints = self._node.get_publishers_info_by_topic(self._commands.topic_name)
        return frozenset(bytes(endpoint.endpoint_gid) for endpoint in endpoints)


class Overview:
    """Publish all arenas from above in one image, one tile at a time, while there is a subscriber.

    The arenas form a square grid row by row. Tiles of ray casting are smaller, as its time grows with the pixels.
    """

    def __init__(self, node: Node, arenas: Sequence[Arena], renderer: Renderer) -> None:
        # Reliable: best effort would lose fragments of nearly every image.
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
        """Render the tiles that are due at the simulated time; publish after the last one."""
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
