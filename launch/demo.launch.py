# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The simulated rovers, and one policy that drives them all."""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution, PythonExpression
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from policy_node.cli.launching import node_process, require_parameter_file, shared_arguments
from policy_node.cli.process_environment import memory_environment, transport_environment


def generate_launch_description() -> LaunchDescription:
    share = FindPackageShare("policy_node")
    return LaunchDescription(
        [
            DeclareLaunchArgument("robots", default_value="4", description="Number of rovers: rover_0, rover_1, …"),
            DeclareLaunchArgument(
                "params_file",
                default_value=PathJoinSubstitution([share, "config", "rover.yaml"]),
                description="ROS parameter file (YAML) of the policy; `robots` overrides the one in it",
            ),
            DeclareLaunchArgument(
                "use_sim_time", default_value="false", description="Run all on simulated time, published on /clock"
            ),
            *shared_arguments("log_level"),
            OpaqueFunction(function=require_parameter_file),
            IncludeLaunchDescription(
                PathJoinSubstitution([share, "launch", "rover_sim.launch.py"]),
                launch_arguments={
                    "robots": LaunchConfiguration("robots"),
                    "use_sim_time": LaunchConfiguration("use_sim_time"),
                }.items(),
            ),
            node_process(
                parameters=[
                    LaunchConfiguration("params_file"),
                    {
                        "robots": ParameterValue(
                            PythonExpression(["[f'rover_{i}' for i in range(", LaunchConfiguration("robots"), ")]"])
                        ),
                        "use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool),
                    },
                ],
                ros_arguments=["--log-level", LaunchConfiguration("log_level")],
                additional_env={**transport_environment(), **memory_environment()},
            ),
        ]
    )
