# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""One policy for a fleet: the node alone, configured by a parameter file."""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, GroupAction, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from policy_node.process_environment import memory_environment, transport_environment


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "params_file", description="ROS parameter file (YAML) of the deployment, see config/rover.yaml"
            ),
            DeclareLaunchArgument(
                "use_sim_time", default_value="false", description="Follow /clock instead of the system's clock"
            ),
            DeclareLaunchArgument(
                "namespace", default_value="", description="Namespace of the node, and of all relative topics"
            ),
            DeclareLaunchArgument(
                "autostart",
                default_value="true",
                description="Configure and activate by itself; otherwise wait for lifecycle transitions",
            ),
            DeclareLaunchArgument(
                "malloc",
                default_value="true",
                description="Let glibc keep memory instead of giving it back after each large message: quicker ticks",
            ),
            DeclareLaunchArgument(
                "log_level", default_value="info", description="Least severe messages logged: debug, info, warn, error"
            ),
            # The group keeps these variables from whatever else a launch file starts that includes this one.
            GroupAction(
                [
                    *(
                        SetEnvironmentVariable(name, value, condition=IfCondition(LaunchConfiguration("malloc")))
                        for name, value in memory_environment().items()
                    ),
                    Node(
                        package="policy_node",
                        executable="policy_node",
                        namespace=LaunchConfiguration("namespace"),
                        # The last value of a parameter holds: arguments override the file.
                        parameters=[
                            LaunchConfiguration("params_file"),
                            {
                                "use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool),
                                "autostart": ParameterValue(LaunchConfiguration("autostart"), value_type=bool),
                            },
                        ],
                        ros_arguments=["--log-level", LaunchConfiguration("log_level")],
                        additional_env=transport_environment(),
                        # Loading a policy cannot be interrupted; nothing moves meanwhile.
                        sigterm_timeout="30",
                        output="screen",
                        emulate_tty=True,
                    ),
                ]
            ),
        ]
    )
