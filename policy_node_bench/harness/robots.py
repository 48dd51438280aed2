# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Describe the synthetic robots to the node: names, topics, parameters and policy."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from policy_node.cli.child_process import ToolError
from policy_node.cli.process_environment import MALLOC_VARIABLES
from policy_node.config.parameter_file import parse_yaml
from policy_node.config.schema import Configuration, ConfigurationError, flatten, parse_configuration

IMAGE_TOPIC = "camera/image_raw"
TOUCH_TOPIC = "touch"
COMMAND_TOPIC = "cmd_vel"
TOUCH_CELLS = 8
# Numbers that a legged robot publishes in place of camera and touch, and joints that its policy commands.
LEGGED_NUMBERS = 48
LEGGED_JOINTS = 12
# Units of its layers, as of many policies of Isaac Lab.
LEGGED_LAYERS = (512, 256, 128)
NO_MALLOC = "no_malloc"


class Settings(NamedTuple):
    """Further parameters of the node by dotted name, and environment variables of its process, empty to unset one."""

    parameters: Mapping[str, Any]
    environment: Mapping[str, str]

    def and_also(self, other: Settings) -> Settings:
        """Return both; the other takes precedence."""
        return Settings({**self.parameters, **other.parameters}, {**self.environment, **other.environment})


def parse_settings(text: str) -> Settings:
    """Parse `NAME:=VALUE` for a parameter, `NAME=VALUE` for a variable and `no_malloc`, separated by spaces."""
    parameters: dict[str, Any] = {}
    environment: dict[str, str] = {}
    for part in text.split():
        name, separator, value = part.partition("=")
        if part == NO_MALLOC:
            environment |= dict.fromkeys(MALLOC_VARIABLES, "")
        elif not separator or not name.rstrip(":"):
            raise argparse.ArgumentTypeError(
                f"found '{part}'; give NAME:=VALUE for a parameter, NAME=VALUE for a variable of the environment, or "
                f"{NO_MALLOC}"
            )
        elif name.endswith(":"):
            try:
                parameters[name[:-1]] = parse_yaml(value)
            except ValueError as error:
                raise argparse.ArgumentTypeError(f"found '{part}', whose value is not YAML") from error
        else:
            environment[name] = value
    return Settings(parameters, environment)


def checked_settings(text: str) -> str:
    """Return the text if `parse_settings` accepts it, as `type` of an argparse option."""
    parse_settings(text)
    return text


def robot_name(robot: int) -> str:
    """Return the namespace of a synthetic robot, which no real robot should have."""
    return f"policy_bench_robot_{robot}"


def robot_parameters(
    robots: int, rate_hz: float, model: str, *, device: str = "cpu", stack: int = 1, touch: bool = True
) -> dict[str, Any]:
    """Return the node's parameters by dotted name: camera, touch and velocity of every robot, as in config/rover.yaml.

    `stack` is the number of time steps of the camera; without `touch` the policy takes the camera only.
    """
    observations: dict[str, dict[str, Any]] = {
        "image": {"topic": IMAGE_TOPIC, "type": "sensor_msgs/msg/Image", "stack": stack}
    }
    if touch:
        observations["touch"] = {"topic": TOUCH_TOPIC, "type": "sensor_msgs/msg/JointState", "field": "effort"}
    return flatten(
        {
            "control_rate_hz": rate_hz,
            "robots": [robot_name(robot) for robot in range(robots)],
            "policy": {"path": model, "trusted": True, "device": device},
            "observations": {"keys": list(observations), **observations},
            "action": {
                "topic": COMMAND_TOPIC,
                "type": "geometry_msgs/msg/Twist",
                "fields": ["linear.x", "angular.z"],
                "when_stale": "stop",
            },
        }
    )


def legged_parameters(robots: int, rate_hz: float, model: str) -> dict[str, Any]:
    """Return the node's parameters by dotted name: one vector of every robot, and commands for its joints."""
    return flatten(
        {
            "control_rate_hz": rate_hz,
            "robots": [robot_name(robot) for robot in range(robots)],
            "policy": {"path": model},
            "observations": {
                "keys": ["state"],
                "state": {"topic": TOUCH_TOPIC, "type": "sensor_msgs/msg/JointState", "field": "effort"},
            },
            "action": {
                "topic": COMMAND_TOPIC,
                "type": "std_msgs/msg/Float64MultiArray",
                "safe_command": [0.0] * LEGGED_JOINTS,
                "when_stale": "stop",
            },
        }
    )


def check_parameters(parameters: Mapping[str, Any]) -> Configuration:
    """Return the configuration of these parameters.

    Raises ToolError if a parameter is not allowed.
    """
    try:
        return parse_configuration(parameters)
    except ConfigurationError as error:
        raise ToolError(f"--set, --versus: {error}") from error


def untrained_policy(
    folder: Path, image: tuple[int, int], channels: int = 3, *, stack: int = 1, touch: bool = True
) -> str:
    """Save an untrained policy for camera images of a width and height, and touch; return the path of its file."""
    from gymnasium import spaces

    from policy_node_bench.harness.untrained import untrained_model

    width, height = image
    observations: dict[str, spaces.Space] = {"image": spaces.Box(0, 255, (height, width, channels * stack), np.uint8)}
    if touch:
        observations["touch"] = spaces.Box(0.0, np.inf, (TOUCH_CELLS,), np.float32)
    path = folder / "untrained.zip"
    untrained_model(spaces.Dict(observations), spaces.Box(-1.0, 1.0, (2,), np.float32)).save(path)
    return str(path)


def untrained_legged_policy(folder: Path) -> str:
    """Export an untrained policy of legged robots, as their trainers do, to ONNX; return the path of its file."""
    import torch
    from torch import nn

    from policy_node.engines.tracing import tracing

    torch.manual_seed(1)
    layers: list[nn.Module] = []
    sizes = (LEGGED_NUMBERS, *LEGGED_LAYERS)
    for size, following in pairwise(sizes):
        layers += [nn.Linear(size, following), nn.ELU()]
    network = nn.Sequential(*layers, nn.Linear(sizes[-1], LEGGED_JOINTS)).eval()
    path = folder / "legged.onnx"
    axes = {"obs": {0: "robots"}, "actions": {0: "robots"}}
    names: dict[str, Any] = {"input_names": ["obs"], "output_names": ["actions"], "dynamic_axes": axes}
    export: Any = torch.onnx.export  # its stubs know no path as text
    with tracing():
        export(network, (torch.zeros(1, LEGGED_NUMBERS),), str(path), dynamo=False, **names)
    return str(path)
