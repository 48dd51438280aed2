# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Describe the frames and the camera of the rovers as ROS messages, by REP 103 and 105.

Below `ROBOT/odom`, the middle of its arena, is `ROBOT/base_link`, and below that `ROBOT/bumper` and `ROBOT/camera` (x
forward, y left, z up). `ROBOT/camera_optical` has the axes of the image: x right, y down, z forward.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

from geometry_msgs.msg import Quaternion, Transform, TransformStamped, Vector3
from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from policy_node.messages.fields import MessageTypeError, message_class
from policy_node_rover.arena.description import BUMPER_POSITION_M, CAMERA_POSITION_M, ROVER, Vector

TF_TYPE = "tf2_msgs/msg/TFMessage"
# Of tf2: a listener that is slow for a moment loses no transform.
TF_QUEUE = 100
# Turns the axes of a body into those of an image.
_OPTICAL = (-0.5, 0.5, -0.5, 0.5)


def camera_frame(robot: str) -> str:
    """Return the frame of a rover's images."""
    return f"{robot}/camera_optical"


def camera_info(robot: str) -> CameraInfo:
    """Return the intrinsics of a rover's camera, without a stamp.

    The coordinates of a pixel are those of its centre, so the axis is half a pixel before the middle of the image.
    """
    size = ROVER.camera_size_px
    focal = size / 2 / math.tan(math.radians(ROVER.camera_field_of_view_deg) / 2)
    centre = (size - 1) / 2
    return CameraInfo(
        header=Header(frame_id=camera_frame(robot)),
        height=size,
        width=size,
        distortion_model="plumb_bob",
        d=[0.0] * 5,
        k=[focal, 0.0, centre, 0.0, focal, centre, 0.0, 0.0, 1.0],
        r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        p=[focal, 0.0, centre, 0.0, 0.0, focal, centre, 0.0, 0.0, 0.0, 1.0, 0.0],
    )


def fixed_transforms(robot: str) -> list[TransformStamped]:
    """Return the transforms from the base of a rover to its sensors."""
    level = (0.0, 0.0, 0.0, 1.0)
    return [
        _transform(f"{robot}/base_link", f"{robot}/bumper", BUMPER_POSITION_M, level),
        _transform(f"{robot}/base_link", f"{robot}/camera", CAMERA_POSITION_M, level),
        _transform(f"{robot}/camera", camera_frame(robot), (0.0, 0.0, 0.0), _OPTICAL),
    ]


def _transform(
    parent: str, child: str, position_m: Vector, orientation: tuple[float, float, float, float]
) -> TransformStamped:
    x_m, y_m, z_m = position_m
    qx, qy, qz, qw = orientation
    return TransformStamped(
        header=Header(frame_id=parent),
        child_frame_id=child,
        transform=Transform(translation=Vector3(x=x_m, y=y_m, z=z_m), rotation=Quaternion(x=qx, y=qy, z=qz, w=qw)),
    )


def publish_fixed_transforms(node: Node, robots: Sequence[str]) -> None:
    """Publish the poses of the sensors of rovers on `/tf_static`; the node keeps the publisher.

    Without tf2_msgs, which PyPI does not offer, neither `/tf_static` nor `/tf` is published, and this is logged.
    """
    try:
        message_type = message_class(TF_TYPE)
    except MessageTypeError as error:
        node.get_logger().info(f"/tf and /tf_static are not published: {error}")
        return
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    transforms = [transform for robot in robots for transform in fixed_transforms(robot)]
    node.create_publisher(message_type, "/tf_static", latched).publish(message_type(transforms=transforms))


class PosePublisher:
    """Publishes the poses of rovers on `/tf`, while there is a subscriber."""

    def __init__(self, node: Node) -> None:
        self._publisher: Publisher | None = None
        with contextlib.suppress(MessageTypeError):
            self._type = message_class(TF_TYPE)
            self._publisher = node.create_publisher(self._type, "/tf", QoSProfile(depth=TF_QUEUE))

    def publish(self, odometry: Odometry) -> None:
        """Publish a pose with its stamp and frames."""
        if self._publisher is None or not self._publisher.get_subscription_count():
            return
        position, moving = odometry.pose.pose.position, TransformStamped(header=odometry.header)
        moving.child_frame_id = odometry.child_frame_id
        moving.transform.translation = Vector3(x=position.x, y=position.y, z=position.z)
        moving.transform.rotation = odometry.pose.pose.orientation
        self._publisher.publish(self._type(transforms=[moving]))
