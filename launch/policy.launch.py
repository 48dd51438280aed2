# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Start the policy node, configured by a parameter file."""

from launch import LaunchDescription

from policy_node.cli.launch_description import launch_description
from policy_node.cli.launching import POLICY_ARGUMENTS, policy


def generate_launch_description() -> LaunchDescription:
    return launch_description(POLICY_ARGUMENTS, policy)
