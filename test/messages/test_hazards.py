# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Hazards of a Create 3, with messages made of the definitions of irobot_create_msgs, which need not be installed."""

import importlib.util
from importlib.metadata import entry_points
from typing import Any

import numpy as np
import pytest
from rclpy.serialization import serialize_message
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from policy_node.config.parameters import ReadingChoices
from policy_node.config.specs import ArraySpec
from policy_node.messages.adapters.hazards import BUMPER, HAZARDS, HazardSource
from policy_node.messages.codecs import MessageTypeError, reading_decoder
from policy_node.messages.fields import message_class
from policy_node.messages.types import MESSAGE_TYPES

STORE = get_typestore(Stores.ROS2_JAZZY)
DEFINITIONS = {
    "HazardDetection": "std_msgs/Header header\nuint8 BUMP=1\nuint8 CLIFF=2\nuint8 type\n",
    "HazardDetectionVector": "std_msgs/Header header\nirobot_create_msgs/HazardDetection[] detections\n",
}
for name, definition in DEFINITIONS.items():
    STORE.register(get_types_from_msg(definition, f"irobot_create_msgs/msg/{name}"))


def header(frame: str) -> Any:
    stamp = STORE.types["builtin_interfaces/msg/Time"](sec=0, nanosec=0)
    return STORE.types["std_msgs/msg/Header"](stamp=stamp, frame_id=frame)


def hazards(*frames: str, **choices: Any) -> list[int]:
    """Return the numbers after a way through serialised bytes."""
    detection = STORE.types["irobot_create_msgs/msg/HazardDetection"]
    message = STORE.types[HAZARDS](
        header=header("base_link"), detections=[detection(header=header(frame), type=1) for frame in frames]
    )
    raw = STORE.serialize_cdr(message, HAZARDS)
    source = HazardSource(None, ReadingChoices(**choices))
    assert source.size == len(choices.get("fields", BUMPER))
    return source.numbers(STORE.deserialize_cdr(raw, HAZARDS)).astype(int).tolist()


def test_each_part_of_the_bumper_is_a_number() -> None:
    assert hazards() == [0, 0, 0, 0, 0]
    assert hazards("bump_front_center", "cliff_side_left", "bump_left") == [1, 0, 1, 0, 0]
    assert hazards("cliff_side_left", fields=("cliff_side_right", "cliff_side_left")) == [0, 1]


def test_an_entry_point_of_this_distribution_adds_the_type() -> None:
    """It is found as those of other packages are; an older installation does not have it."""
    found = {point.value: point for point in entry_points(group="policy_node.message_types")}
    assert MESSAGE_TYPES[HAZARDS] is found["policy_node.messages.adapters.hazards:MESSAGE_TYPES"].load()


HAS_PACKAGE = importlib.util.find_spec("irobot_create_msgs") is not None


@pytest.mark.skipif(not HAS_PACKAGE, reason="irobot_create_msgs comes with a ROS 2 installation, not as a wheel")
def test_messages_of_the_installed_package_are_read() -> None:
    detection = message_class("irobot_create_msgs/msg/HazardDetection")(type=1)
    detection.header.frame_id = "bump_right"
    decoder = reading_decoder(HAZARDS, ArraySpec("bumper", (5,), np.float32, 0, 1), topic="hazard_detection")
    out = np.zeros(5, np.float32)
    for pressed in ([detection], [], [detection, detection]):
        decoder.decode(serialize_message(message_class(HAZARDS)(detections=pressed)), out)
        assert out.tolist() == [0.0, 0.0, 0.0, 0.0, float(bool(pressed))]


@pytest.mark.skipif(HAS_PACKAGE, reason="irobot_create_msgs is installed")
def test_without_its_package_the_type_is_refused_with_the_package_to_install() -> None:
    spec = ArraySpec("bumper", (5,), np.float32, 0, 1)
    with pytest.raises(MessageTypeError, match=r"irobot_create_msgs.*cannot be imported.*install and source"):
        reading_decoder(HAZARDS, spec, topic="hazard_detection")
