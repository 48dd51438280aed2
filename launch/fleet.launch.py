# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Start several policy nodes that share a fleet, on one computer or on several: see doc/fleet.md."""

from launch import LaunchDescription

from policy_node.cli.launch_description import launch_description
from policy_node.cli.launching import FLEET_ARGUMENTS, fleet


def generate_launch_description() -> LaunchDescription:
    return launch_description(FLEET_ARGUMENTS, fleet)
