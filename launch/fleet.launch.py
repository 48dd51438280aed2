# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""One policy for a fleet that several nodes share, on one computer or on several: see doc/fleet.md."""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from policy_node.process_environment import memory_environment, transport_environment

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
            DeclareLaunchArgument(
                "namespace", default_value="", description="Namespace of the nodes, and of all relative topics"
            ),
            DeclareLaunchArgument(
                "use_sim_time", default_value="false", description="Follow /clock instead of the system's clock"
            ),
            DeclareLaunchArgument(
                "autostart",
                default_value="true",
                description="Configure and activate by themselves; otherwise wait for lifecycle transitions",
            ),
            DeclareLaunchArgument(
                "malloc",
                default_value="true",
                description="Let glibc keep memory instead of giving it back after each large message: quicker ticks",
            ),
            DeclareLaunchArgument(
                "log_level", default_value="info", description="Least severe messages logged: debug, info, warn, error"
            ),
            OpaqueFunction(function=start_shards),
        ]
    )


def start_shards(context: LaunchContext) -> list[Node]:
    """Return the nodes of the shards that belong here."""

    def argument(name: str) -> str:
        return LaunchConfiguration(name).perform(context).strip()

    count = whole_number("shards", argument("shards"), 1, 1000)
    index = argument("index")
    shards = range(count) if index == ALL else [whole_number("index", index, 0, count - 1)]
    devices = [device.strip() for device in argument("devices").strip("[]").split(",") if device.strip()]
    server = argument("discovery_server")
    environment = transport_environment()
    if truth("malloc", argument("malloc")):
        environment |= memory_environment()
    if server:
        environment["ROS_DISCOVERY_SERVER"] = server
    # The last value of a parameter holds: arguments override the file.
    parameters = {name: truth(name, argument(name)) for name in ("use_sim_time", "autostart")}
    return [
        Node(
            package="policy_node",
            executable="policy_node",
            name=f"policy_node_{shard}",
            namespace=argument("namespace"),
            parameters=[
                argument("params_file"),
                {
                    **parameters,
                    "shard": f"{shard}/{count}",
                    **({"policy.device": devices[shard % len(devices)]} if devices else {}),
                },
            ],
            ros_arguments=["--log-level", argument("log_level")],
            additional_env=environment,
            # Loading a policy cannot be interrupted; nothing moves meanwhile.
            sigterm_timeout="30",
            output="screen",
            emulate_tty=True,
        )
        for shard in shards
    ]


def whole_number(name: str, text: str, lowest: int, highest: int) -> int:
    """Return the value of a launch argument; a RuntimeError says what is allowed."""
    if not text.isdecimal() or not lowest <= int(text) <= highest:
        raise RuntimeError(f"{name}:={text}: give a whole number from {lowest} to {highest}")
    return int(text)


def truth(name: str, text: str) -> bool:
    """Return the value of a launch argument that is true or false, as launch's conditions read it."""
    if text.lower() not in ("true", "1", "false", "0"):
        raise RuntimeError(f"{name}:={text}: give true or false")
    return text.lower() in ("true", "1")
