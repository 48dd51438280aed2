# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The launch files, where a ROS 2 installation brings the launch system."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("launch_ros", reason="the launch system comes with a ROS 2 installation, not as a wheel")

from geometry_msgs.msg import Twist
from launch import LaunchContext
from launch.actions import DeclareLaunchArgument
from launch.launch_description_sources import AnyLaunchDescriptionSource

LAUNCH_FILES = sorted((Path(__file__).resolve().parents[1] / "launch").glob("*.launch.py"))


@pytest.mark.parametrize("file", LAUNCH_FILES, ids=lambda file: file.name)
def test_every_argument_is_described(file: Path) -> None:
    description = AnyLaunchDescriptionSource(str(file)).get_launch_description(LaunchContext())
    arguments = [entity for entity in description.entities if isinstance(entity, DeclareLaunchArgument)]
    assert arguments
    assert all(argument.description for argument in arguments)


@pytest.fixture
def demo() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        ["ros2", "launch", "policy_node", "demo.launch.py", "robots:=2", "renderer:=raycast"], start_new_session=True
    )
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_the_demonstration_drives_the_number_of_robots_asked_for(demo: subprocess.Popen[bytes], peer: Any) -> None:
    """Both processes run, the policy drives the second of two rovers, and all end cleanly on SIGINT."""
    commands: list[Twist] = []
    peer.node.create_subscription(Twist, "rover_1/cmd_vel", commands.append, 1)
    peer.spin_until(
        lambda: any(command.linear.x or command.angular.z for command in commands) or demo.poll() is not None,
        "a command that moves rover_1",
    )
    assert demo.poll() is None, "the launch ended by itself"
    assert not peer.node.get_publishers_info_by_topic("/rover_2/cmd_vel")
    demo.send_signal(signal.SIGINT)
    assert demo.wait(timeout=60) == 0
