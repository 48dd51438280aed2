# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The simulated rovers alone."""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.conditions import IfCondition, UnlessCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from policy_node.cli.process_environment import transport_environment


def generate_launch_description() -> LaunchDescription:
    use_sim_time = LaunchConfiguration("use_sim_time")
    options = [
        ["--robots=", LaunchConfiguration("robots")],
        ["--rate-hz=", LaunchConfiguration("rate_hz")],
        ["--speed=", LaunchConfiguration("speed")],
        ["--renderer=", LaunchConfiguration("renderer")],
        ["--seed=", LaunchConfiguration("seed")],
    ]
    rover_sim = {
        "package": "policy_node",
        "executable": "rover_sim",
        "additional_env": transport_environment(),
        "output": "screen",
        "emulate_tty": True,
    }
    return LaunchDescription(
        [
            DeclareLaunchArgument("robots", default_value="4", description="Number of rovers: rover_0, rover_1, …"),
            DeclareLaunchArgument(
                "rate_hz",
                default_value="30.0",
                description="Rate of camera, touch and odometry, in simulated Hz",
            ),
            DeclareLaunchArgument(
                "speed", default_value="1.0", description="Simulated seconds per second; 0: as fast as possible"
            ),
            DeclareLaunchArgument(
                "renderer",
                default_value="auto",
                choices=["auto", "egl", "raycast"],
                description="How images are made; auto: EGL where it works, else ray casting",
            ),
            DeclareLaunchArgument("seed", default_value="0", description="Seed of the arenas' layouts"),
            DeclareLaunchArgument(
                "use_sim_time", default_value="false", description="Publish /clock and stamp with simulated time"
            ),
            Node(**rover_sim, arguments=options, condition=UnlessCondition(use_sim_time)),
            Node(**rover_sim, arguments=[*options, "--clock"], condition=IfCondition(use_sim_time)),
        ]
    )
