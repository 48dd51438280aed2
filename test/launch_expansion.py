# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Expand launch files without starting a process, and resolve the parameters of their nodes as ROS does."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import rclpy
from launch import Action, LaunchContext, LaunchDescriptionEntity
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import AnyLaunchDescriptionSource
from launch.utilities import normalize_to_list_of_substitutions, perform_substitutions
from launch_ros.actions import Node
from rclpy.context import Context


class LaunchedNode:
    """A node that a launch file would start."""

    def __init__(self, action: Node, context: LaunchContext) -> None:
        action._perform_substitutions(context)
        context.extend_locals({"ros_specific_arguments": {"name": "", "ns": ""}})
        self.action = action
        self.executable = perform_substitutions(context, normalize_to_list_of_substitutions(action.node_executable))
        self.name = action.node_name.rpartition("/")[2] if action.is_node_name_fully_specified() else self.executable
        # Without the path of the executable, whose package may not be installed.
        self.command_line = [perform_substitutions(context, word) for word in action.cmd[1:]]

    def option(self, name: str) -> str:
        """Return the value that follows an option of the command line."""
        return self.command_line[self.command_line.index(name) + 1]

    def parameters(self) -> dict[str, Any]:
        """Return the parameters that ROS gives the node."""
        pairs = zip(self.command_line, self.command_line[1:], strict=False)
        options = [word for pair in pairs if pair[0] in ("-p", "--params-file") for word in pair]
        context = Context()
        rclpy.init(args=["--ros-args", *options], context=context)
        node = rclpy.create_node(
            self.name,
            context=context,
            automatically_declare_parameters_from_overrides=True,
            start_parameter_services=False,
        )
        found = {name: parameter.value for name, parameter in node.get_parameters_by_prefix("").items()}
        node.destroy_node()
        context.shutdown()
        return found


def expand(file: Path, *before: Action, context: LaunchContext | None = None, **arguments: str) -> list[LaunchedNode]:
    """Return the nodes that a launch file starts.

    Parameters
    ----------
    file
        Launch file.
    *before
        Actions of a launch file that includes it.
    context
        Context of that launch file; None: a new one.
    **arguments
        Launch arguments.
    """
    include = IncludeLaunchDescription(AnyLaunchDescriptionSource(str(file)), launch_arguments=arguments.items())
    entities = [*before, include]
    context = context or LaunchContext()
    return [node for entity in entities for node in _expand(entity, context)]


def _expand(entity: LaunchDescriptionEntity, context: LaunchContext) -> Iterator[LaunchedNode]:
    if not isinstance(entity, Node):
        for child in entity.visit(context) or []:
            yield from _expand(child, context)
    elif entity.condition is None or entity.condition.evaluate(context):
        yield LaunchedNode(entity, context)


def declared_arguments(file: Path) -> dict[str, tuple[str | None, str]]:
    """Return default and description of each argument of a launch file and those that it includes."""
    context = LaunchContext()
    description = AnyLaunchDescriptionSource(str(file)).get_launch_description(context)
    return {
        argument.name: (
            None if argument.default_value is None else perform_substitutions(context, argument.default_value),
            argument.description,
        )
        for argument in description.get_launch_arguments()
    }
