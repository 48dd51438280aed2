# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Rovers in Gazebo, and one policy that drives them all: see doc/gazebo.md."""

import math
import os
import shlex
from pathlib import Path
from xml.etree import ElementTree

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.logging import launch_config
from launch.substitutions import PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from policy_node.cli.launching import node_process, require_parameter_file, shared_arguments, text, truth, whole_number
from policy_node.cli.process_environment import memory_environment, transport_environment
from policy_node_rover.gazebo.bridge import bridge_file
from policy_node_rover.gazebo.sdf import RENDER_ENGINES, rover_sdf, start_pose, world_sdf

NEEDED = ("ros_gz_sim", "ros_gz_bridge", "ros_gz_interfaces")
SPACING_M = 1.0


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            DeclareLaunchArgument("robots", default_value="4", description="Number of rovers: rover_0, rover_1, …"),
            DeclareLaunchArgument(
                "headless",
                default_value="false",
                description="Without Gazebo's window; ogre2 then draws without a display, through EGL",
            ),
            DeclareLaunchArgument(
                "world",
                default_value="",
                description="World (SDF file) of your own, in which the robots start on a square grid, 1 m apart; "
                "empty: an arena with a beacon for each rover",
            ),
            DeclareLaunchArgument(
                "model",
                default_value="",
                description="Robot (SDF file) of your own, with the topics of doc/gazebo.md, in which {robot} stands "
                "for the robot's name; empty: the rover",
            ),
            DeclareLaunchArgument("seed", default_value="0", description="Seed of the arenas' layouts"),
            DeclareLaunchArgument(
                "render_engine",
                default_value=RENDER_ENGINES[0],
                choices=RENDER_ENGINES,
                description="What draws the cameras' images of the generated world; ogre needs a display, such as "
                "that of Xvfb",
            ),
            DeclareLaunchArgument(
                "gz_args", default_value="", description="More arguments for Gazebo's command line, such as '-v 4'"
            ),
            DeclareLaunchArgument(
                "params_file",
                default_value=PathJoinSubstitution([FindPackageShare("policy_node"), "config", "rover.yaml"]),
                description="ROS parameter file (YAML) of the policy; `robots` overrides the one in it",
            ),
            DeclareLaunchArgument(
                "policy", default_value="", description="Policy that drives; empty: policy.path of the parameter file"
            ),
            *shared_arguments("autostart", "malloc", "log_level"),
            OpaqueFunction(function=require_gazebo),
            OpaqueFunction(function=require_parameter_file),
            OpaqueFunction(function=start_fleet),
        ]
    )


def require_gazebo(context: LaunchContext) -> None:
    """Raise a RuntimeError that says what to install where the packages of ros_gz are missing."""
    missing = []
    for package in NEEDED:
        try:
            get_package_share_directory(package)
        except PackageNotFoundError:
            missing.append(package)
    if missing:
        distribution = os.environ.get("ROS_DISTRO", "DISTRO")
        raise RuntimeError(
            f"{', '.join(missing)}: not found; install Gazebo for ROS, as with `sudo apt install "
            f"ros-{distribution}-ros-gz`, and source ROS again; rover_sim.launch.py simulates the rovers without it"
        )


def start_fleet(context: LaunchContext) -> list[IncludeLaunchDescription | Node]:
    """Write the files of this fleet, and return everything that uses them."""
    robots = [f"rover_{robot}" for robot in range(whole_number(context, "robots", 1, 256))]
    # The log of the launch is where what it was made of is looked for.
    folder = Path(launch_config.log_dir) / "gazebo"
    folder.mkdir(parents=True, exist_ok=True)
    world = world_file(context, folder, len(robots))
    models = model_files(context, folder, robots)
    bridge = folder / "bridge.yaml"
    bridge.write_text(bridge_file(robots), encoding="utf-8")
    return [
        simulation(context, world),
        *spawned(context, world, models),
        Node(
            package="ros_gz_bridge",
            executable="parameter_bridge",
            name="gazebo_bridge",
            parameters=[{"config_file": str(bridge)}],
            additional_env=transport_environment(),
            output="screen",
        ),
        watch(context, world, len(robots)),
        driver(context, robots),
    ]


def world_file(context: LaunchContext, folder: Path, robots: int) -> Path:
    """Return the file of the user's world, or write that of the arenas."""
    if text(context, "world"):
        return own_file("world", text(context, "world"))
    file = folder / "world.sdf"
    world = world_sdf(robots, seed_of(context), text(context, "render_engine"), with_rovers=False)
    file.write_text(world, encoding="utf-8")
    return file


def model_files(context: LaunchContext, folder: Path, robots: list[str]) -> dict[str, Path]:
    """Write the model of each robot."""
    own = text(context, "model")
    template = own_file("model", own).read_text(encoding="utf-8") if own else ""
    if own and len(robots) > 1 and "{robot}" not in template:
        raise RuntimeError(
            f"model:={own}: found no {{robot}}, so that {len(robots)} robots would share their topics; write {{robot}} "
            f"in place of the robot's name, as in <topic>/{{robot}}/camera</topic>"
        )
    files = {robot: folder / f"{robot}.sdf" for robot in robots}
    for robot, file in files.items():
        model = template.replace("{robot}", robot) if own else rover_sdf(robot, text(context, "render_engine"))
        file.write_text(model, encoding="utf-8")
    return files


def simulation(context: LaunchContext, world: Path) -> IncludeLaunchDescription:
    """Return what starts Gazebo."""
    options = ["-r"]
    if truth(context, "headless"):
        # Ogre 1 draws on a display only, which may be a virtual one.
        options += ["-s", "--headless-rendering"] if text(context, "render_engine") == "ogre2" else ["-s"]
    return IncludeLaunchDescription(
        PathJoinSubstitution([FindPackageShare("ros_gz_sim"), "launch", "gz_sim.launch.py"]),
        launch_arguments={
            "gz_args": " ".join([*options, text(context, "gz_args"), shlex.quote(str(world))]),
            "on_exit_shutdown": "true",
        }.items(),
    )


def spawned(context: LaunchContext, world: Path, models: dict[str, Path]) -> list[Node]:
    """Return what puts each robot into the world: at its start in its arena, or on a grid in a world of the user's."""
    name, count, columns = name_of_world(world), len(models), math.ceil(math.sqrt(len(models)))
    nodes = []
    for index, (robot, model) in enumerate(models.items()):
        if text(context, "world"):
            x_m, y_m, yaw_rad = index % columns * SPACING_M, -(index // columns) * SPACING_M, 0.0
        else:
            x_m, y_m, yaw_rad = start_pose(index, count, seed_of(context))
        place = ["-x", f"{x_m:.6f}", "-y", f"{y_m:.6f}", "-Y", f"{yaw_rad:.6f}"]
        nodes.append(
            Node(
                package="ros_gz_sim",
                executable="create",
                name=f"create_{robot}",
                arguments=["-world", name, "-name", robot, "-file", str(model), *place],
                output="screen",
            )
        )
    return nodes


def watch(context: LaunchContext, world: Path, robots: int) -> Node:
    """Return what stops robots that nobody commands, tells their touch, and looks after the beacons of the arenas."""
    arenas = [] if text(context, "world") else [f"--world={name_of_world(world)}"]
    return Node(
        package="policy_node",
        executable="gazebo_watch",
        arguments=[f"--robots={robots}", f"--seed={seed_of(context)}", "--touch", *arenas],
        parameters=[{"use_sim_time": True}],
        additional_env=transport_environment(),
        output="screen",
        emulate_tty=True,
    )


def driver(context: LaunchContext, robots: list[str]) -> Node:
    """Return the policy node."""
    policy = text(context, "policy")
    return node_process(
        # The last value of a parameter holds: arguments override the file.
        parameters=[
            text(context, "params_file"),
            {
                "robots": robots,
                "use_sim_time": True,
                "autostart": truth(context, "autostart"),
                **({"policy.path": policy} if policy else {}),
            },
        ],
        ros_arguments=["--log-level", text(context, "log_level")],
        additional_env=transport_environment() | (memory_environment() if truth(context, "malloc") else {}),
    )


def seed_of(context: LaunchContext) -> int:
    return whole_number(context, "seed", 0, 2**31)


def own_file(name: str, path: str) -> Path:
    """Return the path of a file that a launch argument names; a RuntimeError says that it is not there."""
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise RuntimeError(f"{name}:={path}: there is no such file; give the path of an SDF file")
    return file


def name_of_world(file: Path) -> str:
    """Return the name of the world in an SDF file; a RuntimeError says what is wrong with it."""
    try:
        world = ElementTree.parse(file).getroot().find("world")
    except ElementTree.ParseError as error:
        raise RuntimeError(f"world:={file}: this is no XML ({error}); give an SDF file") from error
    if world is None or not world.get("name"):
        raise RuntimeError(f"world:={file}: found no <world name=…> in <sdf>; give an SDF file of a world")
    return world.attrib["name"]
