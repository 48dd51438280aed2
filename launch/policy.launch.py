# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""One policy for a fleet: the node alone, configured by a parameter file."""

from launch import LaunchDescription
from launch.actions import GroupAction, OpaqueFunction, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.parameter_descriptions import ParameterValue

from policy_node.cli.launching import node_process, require_parameter_file, shared_arguments
from policy_node.cli.process_environment import memory_environment, transport_environment


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            *shared_arguments("params_file", "use_sim_time", "namespace", "autostart", "malloc", "log_level"),
            OpaqueFunction(function=require_parameter_file),
            # The group keeps these variables from whatever else a launch file starts that includes this one.
            GroupAction(
                [
                    *(
                        SetEnvironmentVariable(name, value, condition=IfCondition(LaunchConfiguration("malloc")))
                        for name, value in memory_environment().items()
                    ),
                    node_process(
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
                    ),
                ]
            ),
        ]
    )
