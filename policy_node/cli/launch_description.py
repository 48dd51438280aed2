# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Turn the processes of a launch file into a launch description; only this module imports the launch system."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ament_index_python.packages import get_packages_with_prefixes
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, GroupAction, IncludeLaunchDescription, OpaqueFunction
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from policy_node.cli.launching import Argument, IncludedFile, NodeProcess


def launch_description(
    arguments: Sequence[Argument], decide: Callable[[Mapping[str, str]], Sequence[NodeProcess | IncludedFile]]
) -> LaunchDescription:
    """Return the description of a launch file, which starts what `decide` returns for the values of its arguments."""

    def start(context: LaunchContext) -> list[Node | IncludeLaunchDescription]:
        given = {argument.name: LaunchConfiguration(argument.name).perform(context).strip() for argument in arguments}
        return [_action(started) for started in decide(given)]

    declared = [
        DeclareLaunchArgument(
            argument.name,
            default_value=argument.default,
            description=argument.description,
            choices=argument.choices or None,
        )
        for argument in arguments
    ]
    # The group keeps the values from other launch files, which may have arguments of these names.
    return LaunchDescription([GroupAction([*declared, OpaqueFunction(function=start)])])


def require_packages(packages: Sequence[str], debian_package: str, alternative: str = "") -> None:
    """Check that ROS packages are installed on which package.xml does not depend.

    Raises
    ------
    RuntimeError
        When packages are missing; names their Debian package, given without `ros-DISTRO-`, and the alternative.
    """
    installed = get_packages_with_prefixes()
    missing = [package for package in packages if package not in installed]
    if missing:
        debian_package = f"ros-{os.environ.get('ROS_DISTRO', 'DISTRO')}-{debian_package}"
        raise RuntimeError(
            f"{', '.join(missing)}: not found; install with `sudo apt install {debian_package}` and source ROS again"
            f"{alternative}"
        )


def _action(started: NodeProcess | IncludedFile) -> Node | IncludeLaunchDescription:
    if isinstance(started, NodeProcess):
        return _node(started)
    return IncludeLaunchDescription(
        PathJoinSubstitution([FindPackageShare(started.package), "launch", started.file]),
        launch_arguments=started.arguments.items(),
    )


def _node(process: NodeProcess) -> Node:
    # A log file or a service gets no colour codes.
    has_terminal = sys.stdout.isatty()
    options: dict[str, Any] = {}
    if process.respawn_delay_s is not None:
        options |= {"respawn": True, "respawn_delay": float(process.respawn_delay_s)}
    if process.sigterm_timeout_s is not None:
        options["sigterm_timeout"] = str(process.sigterm_timeout_s)
    return Node(
        package=process.package,
        executable=process.executable,
        name=process.name or None,
        namespace=process.namespace or None,
        parameters=list(process.parameters),
        arguments=process.arguments,
        # Without a terminal to emulate, Python would keep back what it prints until its buffer is full.
        additional_env={**({} if has_terminal else {"PYTHONUNBUFFERED": "1"}), **process.environment},
        output="screen",
        emulate_tty=has_terminal,
        **options,
    )
