# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The configuration of ros_gz_bridge: it connects the topics of the SDF models with those of the node."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from policy_node.config.package_files import share_path
from policy_node.config.parameter_file import parse_parameters, read_parameter_file
from policy_node.config.schema import Configuration, parse_configuration
from policy_node.messages.types.contacts import CONTACTS
from policy_node_rover.gazebo.bridge import bridge_file, enable_topic
from policy_node_rover.gazebo.sdf import rover_sdf, world_sdf

ROBOTS = ["rover_0", "rover_1", "rover_2"]

# Pairs that `parameter_bridge` converts, by ros_gz_bridge's mappings.py: versions 0.244.16 (Humble), 1.0.5 (Jazzy) and
# 2.1.1 (Kilted) have them all; that of Humble also takes these names for its ignition.msgs.
BRIDGEABLE = {
    ("rosgraph_msgs/msg/Clock", "gz.msgs.Clock"),
    ("sensor_msgs/msg/Image", "gz.msgs.Image"),
    ("ros_gz_interfaces/msg/Contacts", "gz.msgs.Contacts"),
    ("nav_msgs/msg/Odometry", "gz.msgs.Odometry"),
    ("sensor_msgs/msg/CameraInfo", "gz.msgs.CameraInfo"),
    ("tf2_msgs/msg/TFMessage", "gz.msgs.Pose_V"),
    ("geometry_msgs/msg/Twist", "gz.msgs.Twist"),
    ("std_msgs/msg/Bool", "gz.msgs.Boolean"),
}
# Published by `gazebo_watch`.
FROM_GAZEBO_WATCH = {"touch": "sensor_msgs/msg/JointState"}
# Topics of Gazebo without use in ROS.
UNUSED = ("wheel_odometry", "wheel_tf")


@pytest.fixture(scope="module")
def entries() -> list[dict[str, str]]:
    return yaml.safe_load(bridge_file(ROBOTS))


@pytest.fixture(scope="module")
def configuration() -> Configuration:
    return parse_configuration(read_parameter_file(share_path("config", "rover.yaml")) | {"robots": ROBOTS})


@pytest.fixture(scope="module")
def direct() -> Configuration:
    """Return the documented configuration of a policy that reads Gazebo's contacts."""
    text = (Path(__file__).parents[2] / "doc" / "gazebo.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    return parse_configuration(parse_parameters(shown, "doc/gazebo.md") | {"robots": ROBOTS})


def topics_of_the_models() -> dict[str, str]:
    """Return the topics of the SDF models with the type of their sensor, or the tag of their element."""
    carried = {}
    for root in [ElementTree.fromstring(rover_sdf(robot)) for robot in ROBOTS]:
        for sensor in root.iter("sensor"):
            for topic in sensor.iter("topic"):
                carried[str(topic.text)] = sensor.attrib["type"]
        for system in root.iter("plugin"):
            for element in system:
                if element.tag.endswith("topic"):
                    carried[str(element.text)] = element.tag
        # The default of Gazebo's cameras.
        carried.update({f"{topic}_info": "info" for topic, kind in list(carried.items()) if kind == "camera"})
    return {topic: kind for topic, kind in carried.items() if not topic.endswith(UNUSED)}


def test_the_bridge_has_the_topics_of_the_models_and_the_clock(entries: list[dict[str, str]]) -> None:
    kinds = {
        "camera": ("gz.msgs.Image", "GZ_TO_ROS"),
        "contact": ("gz.msgs.Contacts", "GZ_TO_ROS"),
        "info": ("gz.msgs.CameraInfo", "GZ_TO_ROS"),
        "tf_topic": ("gz.msgs.Pose_V", "GZ_TO_ROS"),
        "odom_topic": ("gz.msgs.Odometry", "GZ_TO_ROS"),
        "topic": ("gz.msgs.Twist", "ROS_TO_GZ"),
    }
    named = {topic: kinds[kind] for topic, kind in topics_of_the_models().items()}
    assert len(named) == 6 * len(ROBOTS)
    bridged = {entry["gz_topic_name"]: (entry["gz_type_name"], entry["direction"]) for entry in entries}
    # Gazebo refuses to publish a topic twice in one bridge.
    assert len(bridged) == len(entries)
    by_default = {f"/model/{robot}/enable": ("gz.msgs.Boolean", "ROS_TO_GZ") for robot in ROBOTS}
    assert bridged == named | by_default | {"/clock": ("gz.msgs.Clock", "GZ_TO_ROS")}


def test_a_world_without_rovers_has_no_topics() -> None:
    without = ElementTree.fromstring(world_sdf(2, seed=0, with_rovers=False))
    assert not [element for element in without.iter() if element.tag.endswith("topic")]


def test_ros_gz_bridge_converts_every_pair_of_types(entries: list[dict[str, str]]) -> None:
    assert {(entry["ros_type_name"], entry["gz_type_name"]) for entry in entries} == BRIDGEABLE


def of_each_robot(topics: dict[str, str]) -> dict[str, str]:
    return {f"{robot}/{topic}": type_name for robot in ROBOTS for topic, type_name in topics.items()}


def test_the_topics_of_the_node_are_bridged(entries: list[dict[str, str]], configuration: Configuration) -> None:
    from_gazebo = {
        entry["ros_topic_name"]: entry["ros_type_name"] for entry in entries if entry["direction"] == "GZ_TO_ROS"
    }
    to_gazebo = {
        entry["ros_topic_name"]: entry["ros_type_name"] for entry in entries if entry["direction"] == "ROS_TO_GZ"
    }
    read = of_each_robot({source.topic: source.type for source in configuration.sources})
    assert read.items() <= (from_gazebo | of_each_robot(FROM_GAZEBO_WATCH)).items()
    # `gazebo_watch` computes the touch from these.
    contacts = of_each_robot({"bumper": CONTACTS})
    assert contacts.items() <= from_gazebo.items()
    others = {*of_each_robot({"odom": "", "camera/camera_info": ""}), "/clock", "/tf"}
    assert from_gazebo.keys() - read.keys() - contacts.keys() == others
    written = of_each_robot({configuration.action.topic: configuration.action.type})
    assert to_gazebo == written | {enable_topic(robot): "std_msgs/msg/Bool" for robot in ROBOTS}


def test_a_node_that_reads_contacts_has_their_topic(entries: list[dict[str, str]], direct: Configuration) -> None:
    bridged = {entry["ros_topic_name"]: entry["ros_type_name"] for entry in entries}
    read = of_each_robot({source.topic: source.type for source in direct.sources})
    assert CONTACTS in read.values()
    assert read.items() <= bridged.items()
    assert [source.topic for source in direct.sources if source.may_be_silent] == ["bumper"]
