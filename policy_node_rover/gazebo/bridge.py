# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Write the configuration of ros_gz_bridge's `parameter_bridge` for the topics of the SDF models in `sdf.py`."""

from __future__ import annotations

from collections.abc import Sequence

import yaml

from policy_node.messages.types.contacts import CONTACTS

CAMERA_INFO = "sensor_msgs/msg/CameraInfo"


def enable_topic(robot: str) -> str:
    """Return the ROS topic that disables a rover's drive, so that it discards its command, and enables it."""
    return f"{robot}/enable"


def bridge_file(robots: Sequence[str]) -> str:
    """Return the configuration (YAML): the clock, and each rover's camera, contacts, odometry, pose and commands."""
    # A queue of 1 keeps the newest message, which is enough except for contacts, events and the poses of all rovers.
    entries = [("/clock", "/clock", "rosgraph_msgs/msg/Clock", "Clock", "GZ_TO_ROS", 1)]
    for robot in robots:
        model = f"/model/{robot}"
        entries += [
            (f"{robot}/camera/image_raw", f"/{robot}/camera", "sensor_msgs/msg/Image", "Image", "GZ_TO_ROS", 1),
            (f"{robot}/camera/camera_info", f"/{robot}/camera_info", CAMERA_INFO, "CameraInfo", "GZ_TO_ROS", 1),
            (f"{robot}/bumper", f"/{robot}/bumper_contacts", CONTACTS, "Contacts", "GZ_TO_ROS", 10),
            (f"{robot}/odom", f"{model}/odometry", "nav_msgs/msg/Odometry", "Odometry", "GZ_TO_ROS", 1),
            ("/tf", f"{model}/tf", "tf2_msgs/msg/TFMessage", "Pose_V", "GZ_TO_ROS", 100),
            (f"{robot}/cmd_vel", f"{model}/cmd_vel", "geometry_msgs/msg/Twist", "Twist", "ROS_TO_GZ", 1),
            (enable_topic(robot), f"{model}/enable", "std_msgs/msg/Bool", "Boolean", "ROS_TO_GZ", 10),
        ]
    keys = ("ros_topic_name", "gz_topic_name", "ros_type_name", "gz_type_name", "direction")
    return yaml.safe_dump(
        [
            dict(zip(keys, (ros_topic, gz_topic, ros_type, f"gz.msgs.{gz_type}", direction), strict=True))
            | {"subscriber_queue": queue, "publisher_queue": queue}
            for ros_topic, gz_topic, ros_type, gz_type, direction, queue in entries
        ],
        sort_keys=False,
    )
