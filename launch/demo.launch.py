# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Start the simulated rovers, and the policy node that drives them."""

from launch import LaunchDescription

from policy_node.cli.launch_description import launch_description
from policy_node_rover.launch import DEMO_ARGUMENTS, demo


def generate_launch_description() -> LaunchDescription:
    return launch_description(DEMO_ARGUMENTS, demo)
