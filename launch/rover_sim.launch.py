# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Start the simulated rovers alone."""

from launch import LaunchDescription

from policy_node.cli.launch_description import launch_description
from policy_node_rover.launch import ROVER_SIM_ARGUMENTS, rover_sim


def generate_launch_description() -> LaunchDescription:
    return launch_description(ROVER_SIM_ARGUMENTS, rover_sim)
