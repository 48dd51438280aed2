# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Valid commands of every type, which replays read from bags."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np

from policy_node.config.specs import ArraySpec
from policy_node.messages.codecs import ReadingDecoder
from policy_node.messages.command_fields import command_type
from policy_node.messages.commands import CommandChoices
from policy_node.messages.fields import message_class
from policy_node.messages.reading import UnusableReading
from policy_node.messages.vectors import VectorReader
from policy_node_bench.fuzz.case import Case

_NUMBERS = ("Bool", "Float32", "Float64", *(f"{sign}Int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)))
# What names the components of a command, by type.
COMMANDS: dict[str, dict[str, tuple[str, ...]]] = {
    "geometry_msgs/msg/Twist": {"fields": ("linear.x", "angular.z")},
    "geometry_msgs/msg/TwistStamped": {"fields": ("angular.z", "linear.x")},
    "geometry_msgs/msg/Pose": {"fields": ("position.x", "orientation.z")},
    "geometry_msgs/msg/PoseStamped": {"fields": ("position.x", "orientation.z")},
    "ackermann_msgs/msg/AckermannDrive": {"fields": ("speed", "steering_angle")},
    "ackermann_msgs/msg/AckermannDriveStamped": {"fields": ("speed", "steering_angle")},
    "sensor_msgs/msg/JointState": {"joints": ("ccc", "a")},
    "trajectory_msgs/msg/JointTrajectory": {"joints": ("ccc", "a")},
    "std_msgs/msg/Float32MultiArray": {},
    "std_msgs/msg/Float64MultiArray": {},
    **{f"std_msgs/msg/{name}": {} for name in _NUMBERS},
    # Types without a record.
    "geometry_msgs/msg/PoseArray": {"fields": ("poses[1].position.x", "poses[0].orientation.w")},
    "nav_msgs/msg/Odometry": {"fields": ("twist.covariance[35]", "twist.twist.linear.x")},
}


def _case(name: str, named: dict[str, tuple[str, ...]]) -> Case:
    package, _, short = name.split("/")
    components = 1 if package == "std_msgs" and short in _NUMBERS else 2
    message_type, kind = message_class(name), command_type(name)
    choices = CommandChoices(components, named.get("fields", ()), named.get("joints", ()), time_from_start_s=0.5)
    command = np.array([1.0, 2.0][:components])
    spec = ArraySpec("command", (components,), np.float64, -np.inf, np.inf)
    source = kind.source(message_type, choices)

    def read(message: Any) -> list[float] | None:
        try:
            return source.numbers(message).tolist()
        except UnusableReading:
            return None

    def make() -> ReadingDecoder:
        return ReadingDecoder(
            message_type, "seen", VectorReader(message_type, kind.source(message_type, choices), spec)
        )

    messages = [kind.make(message_type, choices)(command, 12_000_000_345)]
    return Case(f"command_{short}", messages, (components,), read, "float64", make=make)


COMMAND_CASES = tuple(
    _case(name, named) for name, named in COMMANDS.items() if importlib.util.find_spec(name.split("/")[0])
)
