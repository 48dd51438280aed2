# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Turn the processes of a launch file into a launch description; only this module imports the launch system."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from ament_index_python.packages import get_packages_with_prefixes
from launch import Action, LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, GroupAction, IncludeLaunchDescription, OpaqueFunction, Shutdown
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from policy_node.cli.launching import Argument, IncludedFile, NodeProcess, check_known

# Launch does not end a process whose start has begun and not ended yet.
START_S = 1.0


def launch_description(
    arguments: Sequence[Argument], decide: Callable[[Mapping[str, str]], Sequence[NodeProcess | IncludedFile]]
) -> LaunchDescription:
    """Return the description of a launch file, which starts what `decide` returns for the values of its arguments."""

    def start(context: LaunchContext) -> list[Node | IncludeLaunchDescription]:
        if _is_on_command_line(context):
            check_known(context.argv, arguments)
        given = {argument.name: _value(LaunchConfiguration(argument.name).perform(context)) for argument in arguments}
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


def _is_on_command_line(context: LaunchContext) -> bool:
    """Whether the command line names this launch file, and not one that includes it and may have other arguments."""
    file = Path(context.get_locals_as_dict().get("current_launch_file_path", ""))
    # A path, or `ros2 launch PACKAGE FILE`. The files in XML and YAML include the one in Python.
    return any(
        Path(word).stem == file.stem and (before == "policy_node" or Path(word).absolute().parent == file.parent)
        for before, word in pairwise(sys.argv)
    )


def _value(written: str) -> str:
    """Return the value of an argument. The command line of launch refuses empty ones, so a pair of quotes is one."""
    value = written.strip()
    return "" if value in ("''", '""') else value


class _Failure(Action):
    """Ends the launch with an error once the other processes of the launch have started."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def get_asyncio_future(self) -> asyncio.Future[None]:
        return asyncio.ensure_future(self._fail())

    async def _fail(self) -> None:
        await asyncio.sleep(START_S)
        raise self._error


class _Node(Node):
    """A node whose failure to start ends the launch in order.

    An exception would make launch forget, and leave behind, the processes that the same launch file has just started.
    """

    def execute(self, context: LaunchContext) -> list[LaunchDescriptionEntity] | None:
        try:
            return super().execute(context)
        except Exception as error:
            return [_Failure(error)]


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
    if process.ends_launch:
        options["on_exit"] = Shutdown(reason=f"{process.executable} has ended, without which the robots must not drive")
    return _Node(
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
