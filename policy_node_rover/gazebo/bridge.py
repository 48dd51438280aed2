# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The topics of a fleet in Gazebo beside those in ROS, as the configuration file of ros_gz_bridge's `parameter_bridge`.

Names and types are those of the SDF model in `sdf.py`; which types can be bridged is said in ros_gz_bridge's README.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import yaml

GZ_TO_ROS: Literal["GZ_TO_ROS"] = "GZ_TO_ROS"
ROS_TO_GZ: Literal["ROS_TO_GZ"] = "ROS_TO_GZ"


@dataclass(frozen=True)
class BridgedTopic:
    """One entry of the bridge's file, which has these very names; a relative ROS topic is in the bridge's namespace."""

    ros_topic_name: str
    gz_topic_name: str
    ros_type_name: str
    gz_type_name: str
    direction: Literal["GZ_TO_ROS", "ROS_TO_GZ"]
    subscriber_queue: int
    publisher_queue: int


def enable_topic(robot: str) -> str:
    """Return the ROS topic of what lets a rover's drive forget its command (false) and take new ones (true)."""
    return f"{robot}/enable"


def bridged_topics(robots: Sequence[str]) -> list[BridgedTopic]:
    """Return what is bridged: the clock, and of every rover camera, contacts, odometry and commands."""
    topics = [_topic("/clock", "/clock", "rosgraph_msgs/msg/Clock", "gz.msgs.Clock", GZ_TO_ROS)]
    for robot in robots:
        topics += [
            _topic(
                f"{robot}/camera/image_raw", f"/{robot}/camera", "sensor_msgs/msg/Image", "gz.msgs.Image", GZ_TO_ROS
            ),
            _topic(
                f"{robot}/bumper",
                f"/{robot}/bumper_contacts",
                "ros_gz_interfaces/msg/Contacts",
                "gz.msgs.Contacts",
                GZ_TO_ROS,
                queue=10,
            ),
            _topic(f"{robot}/odom", f"/model/{robot}/odometry", "nav_msgs/msg/Odometry", "gz.msgs.Odometry", GZ_TO_ROS),
            _topic(
                f"{robot}/cmd_vel", f"/model/{robot}/cmd_vel", "geometry_msgs/msg/Twist", "gz.msgs.Twist", ROS_TO_GZ
            ),
            _topic(
                enable_topic(robot),
                f"/model/{robot}/enable",
                "std_msgs/msg/Bool",
                "gz.msgs.Boolean",
                ROS_TO_GZ,
                queue=10,
            ),
        ]
    return topics


def bridge_file(robots: Sequence[str]) -> str:
    """Return the text of the bridge's configuration file (YAML) for rovers of these names."""
    return yaml.safe_dump([asdict(topic) for topic in bridged_topics(robots)], sort_keys=False)


def _topic(
    ros: str, gz: str, ros_type: str, gz_type: str, direction: Literal["GZ_TO_ROS", "ROS_TO_GZ"], queue: int = 1
) -> BridgedTopic:
    # Of commands and images only the newest counts: what waits in a queue grows old. Each contact counts.
    return BridgedTopic(ros, gz, ros_type, gz_type, direction, subscriber_queue=queue, publisher_queue=queue)
