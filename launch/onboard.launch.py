# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The policy on the computer of one robot, or of a few: see doc/onboard.md."""

from typing import Any

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch_ros.actions import Node

from policy_node.cli.launching import (
    listed,
    node_process,
    require_parameter_file,
    shared_arguments,
    text,
    truth,
    whole_number,
)
from policy_node.cli.process_environment import memory_environment, transport_environment


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            *shared_arguments("params_file"),
            DeclareLaunchArgument(
                "robots",
                default_value="",
                description="Namespaces of the robots, such as [rover_0]; empty: `robots` of the parameter file",
            ),
            DeclareLaunchArgument(
                "device",
                default_value="",
                description="Where the policy runs: cpu, cuda, cuda:i; empty: policy.device of the parameter file",
            ),
            DeclareLaunchArgument(
                "priority",
                default_value="",
                description="Real-time priority of the tick, 1 to 99, 0 for none; empty: realtime.priority of the "
                "parameter file",
            ),
            DeclareLaunchArgument(
                "cpus",
                default_value="",
                description="CPUs that the tick may run on, such as [2,3]; empty: realtime.cpus of the parameter file",
            ),
            DeclareLaunchArgument(
                "record",
                default_value="",
                description="Folder into which the run is recorded; empty: record.path of the parameter file",
            ),
            DeclareLaunchArgument(
                "respawn",
                default_value="false",
                description="Start the node again whenever its process ends; robots then move again by themselves, "
                "unless autostart is false",
            ),
            DeclareLaunchArgument(
                "respawn_delay_s", default_value="5", description="Whole seconds until the node is started again"
            ),
            DeclareLaunchArgument(
                "rmw",
                default_value="",
                description="ROS middleware, such as rmw_fastrtps_cpp; empty: that of the environment",
            ),
            *shared_arguments("namespace", "use_sim_time", "autostart", "malloc", "log_level"),
            OpaqueFunction(function=require_parameter_file),
            OpaqueFunction(function=start_node),
        ]
    )


def start_node(context: LaunchContext) -> list[Node]:
    """Return the node with those parameters that an argument overrides."""
    environment = transport_environment()
    if truth(context, "malloc"):
        environment |= memory_environment()
    if text(context, "rmw"):
        environment["RMW_IMPLEMENTATION"] = text(context, "rmw")
    parameters: dict[str, Any] = {name: truth(context, name) for name in ("use_sim_time", "autostart")}
    if robots := listed(context, "robots", str, "[rover_0,rover_1]"):
        parameters["robots"] = robots
    if cpus := listed(context, "cpus", int, "[2,3]"):
        parameters["realtime.cpus"] = cpus
    if text(context, "priority"):
        parameters["realtime.priority"] = whole_number(context, "priority", 0, 99)
    parameters |= {
        name: text(context, argument)
        for argument, name in (("device", "policy.device"), ("record", "record.path"))
        if text(context, argument)
    }
    return [
        node_process(
            namespace=text(context, "namespace"),
            # The last value of a parameter holds: arguments override the file.
            parameters=[text(context, "params_file"), parameters],
            ros_arguments=["--log-level", text(context, "log_level")],
            additional_env=environment,
            respawn=truth(context, "respawn"),
            respawn_delay=float(whole_number(context, "respawn_delay_s", 0, 3600)),
        )
    ]
