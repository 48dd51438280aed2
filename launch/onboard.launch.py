# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Start the policy node on the computer of one robot or a few: see doc/onboard.md."""

from launch import LaunchDescription

from policy_node.cli.launch_description import launch_description
from policy_node.cli.launching import ONBOARD_ARGUMENTS, onboard


def generate_launch_description() -> LaunchDescription:
    return launch_description(ONBOARD_ARGUMENTS, onboard)
