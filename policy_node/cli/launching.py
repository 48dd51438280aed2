# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""What the launch files share: arguments with their descriptions, how they are read, and the process of the node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from launch import LaunchContext
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

# Default and description; None: the argument must be given.
_SHARED: dict[str, tuple[str | None, str]] = {
    "params_file": (None, "ROS parameter file (YAML) of the deployment, see config/rover.yaml"),
    "namespace": ("", "Namespace of the node, and of all relative topics"),
    "use_sim_time": ("false", "Follow /clock instead of the system's clock"),
    "autostart": ("true", "Configure and activate by itself; otherwise wait for lifecycle transitions"),
    "malloc": ("true", "Let glibc keep memory instead of giving it back after each large message: quicker ticks"),
    "log_level": ("info", "Least severe messages logged: debug, info, warn, error"),
}


def shared_arguments(*names: str) -> list[DeclareLaunchArgument]:
    """Declare arguments that mean the same in every launch file."""
    return [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ((name, _SHARED[name]) for name in names)
    ]


def node_process(**changes: Any) -> Node:
    """Return the action that runs the policy node, with whatever else `launch_ros.actions.Node` takes."""
    return Node(
        package="policy_node",
        executable="policy_node",
        # Loading a policy cannot be interrupted; nothing moves meanwhile.
        sigterm_timeout="30",
        output="screen",
        emulate_tty=True,
        **changes,
    )


def text(context: LaunchContext, name: str) -> str:
    """Return the value of a launch argument as it was given."""
    return LaunchConfiguration(name).perform(context).strip()


def require_parameter_file(context: LaunchContext) -> None:
    """Raise a RuntimeError where the parameter file is missing, of which launch would only warn."""
    given = text(context, "params_file")
    if not Path(given).is_file():
        raise RuntimeError(f"params_file:={given}: there is no such file; give the path of a ROS parameter file (YAML)")


def truth(context: LaunchContext, name: str) -> bool:
    """Return the value of a launch argument that is true or false, as launch's conditions read it.

    Raises
    ------
    RuntimeError
        When it is anything else.
    """
    given = text(context, name)
    if given.lower() not in ("true", "1", "false", "0"):
        raise RuntimeError(f"{name}:={given}: give true or false")
    return given.lower() in ("true", "1")


def whole_number(context: LaunchContext, name: str, lowest: int, highest: int) -> int:
    """Return the value of a launch argument that is a whole number; a RuntimeError says which ones are allowed."""
    given = text(context, name)
    if not given.isdecimal() or not lowest <= int(given) <= highest:
        raise RuntimeError(f"{name}:={given}: give a whole number from {lowest} to {highest}")
    return int(given)


def listed(context: LaunchContext, name: str, kind: type, example: str) -> list[Any]:
    """Return the value of a launch argument that is a list such as the example; empty where nothing is given.

    Raises
    ------
    RuntimeError
        When it is no list, an empty one, or one of anything else than `kind`.
    """
    given = text(context, name)
    if not given:
        return []
    try:
        values = yaml.safe_load(given)
    except yaml.YAMLError:
        values = None
    if not isinstance(values, list) or not values or not all(type(value) is kind for value in values):
        raise RuntimeError(f"{name}:={given}: give a list such as {example}, without spaces")
    return values
