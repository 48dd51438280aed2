# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Write the configuration of ros_gz_bridge's `parameter_bridge` for the topics of the SDF models in `sdf.py`."""

from __future__ import annotations

from collections.abc import Sequence

import yaml

from policy_node.messages.types.contacts import CONTACTS


def enable_topic(robot: str) -> str:
    """Return the ROS topic that disables a rover's drive, so that it discards its command, and enables it."""
    return f"{robot}/enable"


def bridge_file(robots: Sequence[str]) -> str:
    """Return the configuration (YAML): the clock, and each rover's camera, contacts, odometry and commands."""
    entries = [_entry("/clock", "/clock", "rosgraph_msgs/msg/Clock", "Clock")]
    for robot in robots:
        entries += [
            _entry(f"{robot}/camera/image_raw", f"/{robot}/camera", "sensor_msgs/msg/Image", "Image"),
            _entry(f"{robot}/bumper", f"/{robot}/bumper_contacts", CONTACTS, "Contacts", queue=10),
            _entry(f"{robot}/odom", f"/model/{robot}/odometry", "nav_msgs/msg/Odometry", "Odometry"),
            _entry(f"{robot}/cmd_vel", f"/model/{robot}/cmd_vel", "geometry_msgs/msg/Twist", "Twist", "ROS_TO_GZ"),
            _entry(
                enable_topic(robot), f"/model/{robot}/enable", "std_msgs/msg/Bool", "Boolean", "ROS_TO_GZ", queue=10
            ),
        ]
    return yaml.safe_dump(entries, sort_keys=False)


def _entry(
    ros_topic: str, gz_topic: str, ros_type: str, gz_type: str, direction: str = "GZ_TO_ROS", queue: int = 1
) -> dict[str, str | int]:
    """Return an entry; a queue of 1 keeps the newest message, which is enough except for contacts and events."""
    return {
        "ros_topic_name": ros_topic,
        "gz_topic_name": gz_topic,
        "ros_type_name": ros_type,
        "gz_type_name": f"gz.msgs.{gz_type}",
        "direction": direction,
        "subscriber_queue": queue,
        "publisher_queue": queue,
    }
