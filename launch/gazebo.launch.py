# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Start rovers in Gazebo, and the policy node that drives them: see doc/gazebo.md."""

from collections.abc import Mapping
from pathlib import Path

from launch import LaunchDescription
from launch.logging import launch_config

from policy_node.cli.launch_description import launch_description, require_packages
from policy_node.cli.launching import IncludedFile, NodeProcess
from policy_node_rover.launch import GAZEBO_ARGUMENTS, GAZEBO_PACKAGES, gazebo


def generate_launch_description() -> LaunchDescription:
    return launch_description(GAZEBO_ARGUMENTS, start)


def start(given: Mapping[str, str]) -> list[NodeProcess | IncludedFile]:
    require_packages(GAZEBO_PACKAGES, "ros-gz", "; rover_sim.launch.py simulates the rovers without it")
    # The generated files stay beside the log of this launch.
    folder = Path(launch_config.log_dir) / "gazebo"
    folder.mkdir(parents=True, exist_ok=True)
    return gazebo(given, folder)
