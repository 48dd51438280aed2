# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""One policy for a fleet that several nodes share, on one computer or on several: see doc/fleet.md."""

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

ALL = "all"


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "params_file",
                description="ROS parameter file (YAML) of the whole fleet, for nodes of any name (/**:), see "
                "config/rover.yaml",
            ),
            DeclareLaunchArgument(
                "shards", default_value="2", description="Number of parts of `robots`, one node for each"
            ),
            DeclareLaunchArgument(
                "index",
                default_value=ALL,
                description="The one shard to start here, from 0 to shards - 1, when the others run on other "
                "computers; all: all of them",
            ),
            DeclareLaunchArgument(
                "devices",
                default_value="",
                description="Device of each shard, such as [cuda:0,cuda:1]; a shorter list is used again from its "
                "start; empty: policy.device of the parameter file",
            ),
            DeclareLaunchArgument(
                "discovery_server",
                default_value="",
                description="ADDRESS:PORT of a Fast DDS discovery server, several separated by semicolons; empty: "
                "nodes find each other by themselves",
            ),
            *shared_arguments("namespace", "use_sim_time", "autostart", "malloc", "log_level"),
            OpaqueFunction(function=require_parameter_file),
            OpaqueFunction(function=start_shards),
        ]
    )


def start_shards(context: LaunchContext) -> list[Node]:
    """Return the nodes of the shards that belong here."""
    count = whole_number(context, "shards", 1, 1000)
    shards = range(count) if text(context, "index") == ALL else [whole_number(context, "index", 0, count - 1)]
    devices = listed(context, "devices", str, "[cuda:0,cuda:1]")
    server = text(context, "discovery_server")
    environment = transport_environment()
    if truth(context, "malloc"):
        environment |= memory_environment()
    if server:
        environment["ROS_DISCOVERY_SERVER"] = server
    # The last value of a parameter holds: arguments override the file.
    parameters = {name: truth(context, name) for name in ("use_sim_time", "autostart")}
    return [
        node_process(
            name=f"policy_node_{shard}",
            namespace=text(context, "namespace"),
            parameters=[
                text(context, "params_file"),
                {
                    **parameters,
                    "shard": f"{shard}/{count}",
                    **({"policy.device": devices[shard % len(devices)]} if devices else {}),
                },
            ],
            ros_arguments=["--log-level", text(context, "log_level")],
            additional_env=environment,
        )
        for shard in shards
    ]
