# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Decide which processes the launch files of the rovers start, without the launch system."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from policy_node.cli.launching import (
    AUTOSTART,
    FASTDDS_PROFILE,
    LOG_LEVEL,
    MALLOC,
    Argument,
    IncludedFile,
    NodeProcess,
    parameter_file,
    policy_process,
    transport,
    truth,
    whole_number,
)
from policy_node.config.package_files import share_path
from policy_node.config.parameter_file import read_parameter_file
from policy_node_rover.gazebo.bridge import bridge_file
from policy_node_rover.gazebo.sdf import RENDER_ENGINES, rover_sdf, start_pose, world_sdf

# Packages of gazebo.launch.py that package.xml does not name, as no robot needs a simulator.
GAZEBO_PACKAGES = ("ros_gz_sim", "ros_gz_bridge", "ros_gz_interfaces")
MAX_ROVERS = 256
GRID_SPACING_M = 1.0

SEED = Argument("seed", "Seed of the arenas' layouts", "0")
ROVER_SIM_OPTIONS = (
    Argument("rate_hz", "Rate of camera, touch and odometry in simulated time [Hz]", "30.0"),
    Argument("speed", "Simulated seconds per second; 0: as fast as possible", "1.0"),
    Argument(
        "renderer",
        "Renderer of the images; auto: EGL where it works, else ray casting",
        "auto",
        ("auto", "egl", "raycast"),
    ),
    SEED,
)
ROVER_SIM_ARGUMENTS = (
    Argument("robot_count", "Number of rovers: rover_0, rover_1, …", "4"),
    *ROVER_SIM_OPTIONS,
    Argument("use_sim_time", "Publish /clock and stamp messages with simulated time; empty: use_sim_time of ROS"),
    FASTDDS_PROFILE,
)
# The parameter file of the example, and the number of its robots.
ROVERS_ARGUMENTS = (
    Argument("params_file", "ROS parameter file (YAML) of the policy node", str(share_path("config", "rover.yaml"))),
    Argument("robot_count", "Number of rovers: rover_0, rover_1, …; empty: robots of the parameter file"),
)
DEMO_ARGUMENTS = (
    *ROVERS_ARGUMENTS,
    *ROVER_SIM_OPTIONS,
    Argument(
        "use_sim_time",
        "Run all nodes on simulated time, published on /clock; empty: use_sim_time of the parameter file",
    ),
    AUTOSTART,
    MALLOC,
    FASTDDS_PROFILE,
    LOG_LEVEL,
)
GAZEBO_ARGUMENTS = (
    *ROVERS_ARGUMENTS,
    Argument("policy", "Policy that drives the robots; empty: policy.path of the parameter file"),
    Argument("headless", "Start Gazebo without its window; ogre2 then renders without a display, through EGL", "false"),
    Argument(
        "world",
        "World (SDF file) to use, in which the robots start on a square grid with a spacing of 1 m; empty: an arena "
        "with a beacon for each rover",
    ),
    Argument(
        "model",
        "Robot (SDF file) to use, with the topics of doc/gazebo.md and {robot} in place of the robot's name; empty: "
        "the rover",
    ),
    SEED,
    Argument(
        "render_engine",
        "Renderer of the camera images in the generated world; ogre needs a display, such as that of Xvfb",
        RENDER_ENGINES[0],
        RENDER_ENGINES,
    ),
    Argument("gz_args", "More arguments of Gazebo's command line, such as '-v 4'"),
    AUTOSTART,
    MALLOC,
    FASTDDS_PROFILE,
    LOG_LEVEL,
)


def rover_sim(given: Mapping[str, str]) -> list[NodeProcess]:
    """Return the simulated rovers of rover_sim.launch.py."""
    simulated = truth(given, "use_sim_time") if given["use_sim_time"] else None
    return [_rover_sim(given, whole_number(given, "robot_count", 1, MAX_ROVERS), simulated)]


def demo(given: Mapping[str, str]) -> list[NodeProcess]:
    """Return the simulated rovers and the policy node of demo.launch.py."""
    rovers, overrides = _rovers(given)
    in_file = read_parameter_file(parameter_file(given)).get("use_sim_time")
    simulated = truth(given, "use_sim_time") if given["use_sim_time"] else in_file
    simulation = replace(_rover_sim(given, len(rovers), simulated), ends_launch=True)
    return [simulation, policy_process(given, overrides)]


def _rover_sim(given: Mapping[str, str], robots: int, simulated: bool | None) -> NodeProcess:
    options = {"robots": robots, **{name: given[name] for name in ("rate_hz", "speed", "renderer", "seed")}}
    return NodeProcess(
        "rover_sim",
        parameters=() if simulated is None else ({"use_sim_time": simulated},),
        arguments=tuple(f"--{name.replace('_', '-')}={value}" for name, value in options.items()),
        environment=transport(given),
    )


def _rovers(given: Mapping[str, str]) -> tuple[list[str], dict[str, Any]]:
    """Return the names of the rovers, and the parameters that they override.

    ValueError is raised when the parameter file names others than the simulation has.
    """
    if given["robot_count"]:
        rovers = [f"rover_{rover}" for rover in range(whole_number(given, "robot_count", 1, MAX_ROVERS))]
        return rovers, {"robots": rovers}
    found = read_parameter_file(parameter_file(given)).get("robots")
    count = len(found) if isinstance(found, list) else 0
    rovers = [f"rover_{rover}" for rover in range(count)]
    if found != rovers or not 1 <= count <= MAX_ROVERS:
        raise ValueError(
            f"params_file:={given['params_file']}: found robots: {found}, but the simulation has [rover_0, rover_1, "
            f"…]; give robot_count:= with their number, which overrides the file"
        )
    return rovers, {}


def gazebo(given: Mapping[str, str], folder: Path) -> list[NodeProcess | IncludedFile]:
    """Return Gazebo, the robots in it, the bridge, the watch and the policy node of gazebo.launch.py.

    The files of world, robots and bridge are written into an existing folder.
    """
    robots, overrides = _rovers(given)
    # Gazebo always publishes /clock.
    overrides |= {"use_sim_time": True, "policy.path": given["policy"]}
    world = _world(given, folder, len(robots))
    bridge = folder / "bridge.yaml"
    bridge.write_text(bridge_file(robots), encoding="utf-8")
    arenas = () if given["world"] else (f"--world={_world_name(world)}",)
    frames = () if given["model"] else ("--frames",)
    return [
        _simulator(given, world),
        *_spawners(given, world, _models(given, folder, robots)),
        NodeProcess(
            "parameter_bridge",
            "ros_gz_bridge",
            name="gazebo_bridge",
            parameters=({"config_file": str(bridge)},),
            environment=transport(given),
            ends_launch=True,
        ),
        # Stops robots without commands, publishes touch, and moves the beacons of the arenas.
        NodeProcess(
            "gazebo_watch",
            arguments=(f"--robots={len(robots)}", f"--seed={_seed(given)}", "--touch", *frames, *arenas),
            parameters=({"use_sim_time": True},),
            environment=transport(given),
            ends_launch=True,
        ),
        policy_process(given, overrides),
    ]


def _world(given: Mapping[str, str], folder: Path, robots: int) -> Path:
    """Return the file of the given world, or write a world of arenas."""
    if given["world"]:
        return _sdf_file("world", given["world"])
    file = folder / "world.sdf"
    file.write_text(world_sdf(robots, _seed(given), given["render_engine"], with_rovers=False), encoding="utf-8")
    return file


def _models(given: Mapping[str, str], folder: Path, robots: Sequence[str]) -> dict[str, Path]:
    """Write the SDF file of each robot."""
    template = _sdf_file("model", given["model"]).read_text(encoding="utf-8") if given["model"] else ""
    if template and len(robots) > 1 and "{robot}" not in template:
        raise ValueError(
            f"model:={given['model']}: found no {{robot}}, so that {len(robots)} robots would share their topics; "
            f"write {{robot}} in place of the robot's name, as in <topic>/{{robot}}/camera</topic>"
        )
    files = {robot: folder / f"{robot}.sdf" for robot in robots}
    for robot, file in files.items():
        model = template.replace("{robot}", robot) if template else rover_sdf(robot, given["render_engine"])
        file.write_text(model, encoding="utf-8")
    return files


def _simulator(given: Mapping[str, str], world: Path) -> IncludedFile:
    """Return the launch file of ros_gz_sim that starts Gazebo."""
    options = ["-r"]
    if truth(given, "headless"):
        # Ogre 1 renders on a display only, which may be a virtual one.
        options += ["-s", "--headless-rendering"] if given["render_engine"] == "ogre2" else ["-s"]
    arguments = [*options, *([given["gz_args"]] if given["gz_args"] else []), shlex.quote(str(world))]
    return IncludedFile("ros_gz_sim", "gz_sim.launch.py", {"gz_args": " ".join(arguments), "on_exit_shutdown": "true"})


def _spawners(given: Mapping[str, str], world: Path, models: Mapping[str, Path]) -> list[NodeProcess]:
    """Return the processes that put the robots into the world: at their start in the arena, or on a grid."""
    name, count, columns = _world_name(world), len(models), math.ceil(math.sqrt(len(models)))
    spawners = []
    for index, (robot, model) in enumerate(models.items()):
        if given["world"]:
            x_m, y_m, yaw_rad = index % columns * GRID_SPACING_M, -(index // columns) * GRID_SPACING_M, 0.0
        else:
            x_m, y_m, yaw_rad = start_pose(index, count, _seed(given))
        values: dict[str, Any] = {"world": name, "name": robot, "file": str(model)}
        values |= {axis: round(float(place), 6) for axis, place in (("x", x_m), ("y", y_m), ("Y", yaw_rad))}
        spawners.append(_create(robot, values))
    return spawners


def _create(robot: str, values: Mapping[str, Any]) -> NodeProcess:
    """Return `create` of ros_gz, which takes parameters, and up to Iron only options of the same names."""
    if os.environ.get("ROS_DISTRO") in ("humble", "iron"):
        options = tuple(word for name, value in values.items() for word in (f"-{name}", str(value)))
        return NodeProcess("create", "ros_gz_sim", name=f"create_{robot}", arguments=options)
    return NodeProcess("create", "ros_gz_sim", name=f"create_{robot}", parameters=(dict(values),))


def _seed(given: Mapping[str, str]) -> int:
    return whole_number(given, "seed", 0, 2**31)


def _sdf_file(name: str, path: str) -> Path:
    """Return the absolute path of a file that a launch argument names; ValueError when it is missing."""
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise ValueError(f"{name}:={path}: there is no such file; give the path of an SDF file")
    return file


def _world_name(file: Path) -> str:
    """Return the name of the world in an SDF file; ValueError when it is no XML or has no named world."""
    try:
        world = ElementTree.parse(file).getroot().find("world")
    except ElementTree.ParseError as error:
        raise ValueError(f"world:={file}: this is no XML ({error}); give an SDF file") from error
    if world is None or not world.get("name"):
        raise ValueError(f"world:={file}: found no <world name=…> in <sdf>; give an SDF file of a world")
    return world.attrib["name"]
