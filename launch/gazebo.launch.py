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

from policy_node.launching import node_process, shared_arguments, text, truth, whole_number
from policy_node.process_environment import memory_environment, transport_environment
from policy_node.simulation.bridge import bridge_file
from policy_node.simulation.sdf import RENDER_ENGINES, rover_sdf, start_pose, world_sdf

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
                default_value=PathJoinSubstitution([FindPackageShare("policy_node"), "config", "gazebo.yaml"]),
                description="ROS parameter file (YAML) of the policy; `robots` overrides the one in it",
            ),
            DeclareLaunchArgument(
                "policy", default_value="", description="Policy that drives; empty: policy.path of the parameter file"
            ),
            *shared_arguments("autostart", "malloc", "log_level"),
            OpaqueFunction(function=require_gazebo),
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
    count = whole_number(context, "robots", 1, 256)
    seed = whole_number(context, "seed", 0, 2**31)
    engine = text(context, "render_engine")
    robots = [f"rover_{robot}" for robot in range(count)]
    # The log of the launch is where what it was made of is looked for.
    folder = Path(launch_config.log_dir) / "gazebo"
    folder.mkdir(parents=True, exist_ok=True)

    own_world = text(context, "world")
    world_file = own_file("world", own_world) if own_world else folder / "world.sdf"
    if not own_world:
        world_file.write_text(world_sdf(count, seed, engine, with_rovers=False), encoding="utf-8")
    world_name = name_of_world(world_file)
    own_model = text(context, "model")
    template = own_file("model", own_model).read_text(encoding="utf-8") if own_model else ""
    models = {}
    for robot in robots:
        models[robot] = folder / f"{robot}.sdf"
        sdf = template.replace("{robot}", robot) if own_model else rover_sdf(robot, engine)
        models[robot].write_text(sdf, encoding="utf-8")
    bridge = folder / "bridge.yaml"
    bridge.write_text(bridge_file(robots), encoding="utf-8")

    options = ["-r"]
    if truth(context, "headless"):
        # Ogre 1 draws on a display only, which may be a virtual one.
        options += ["-s", "--headless-rendering"] if engine == "ogre2" else ["-s"]
    gazebo = IncludeLaunchDescription(
        PathJoinSubstitution([FindPackageShare("ros_gz_sim"), "launch", "gz_sim.launch.py"]),
        launch_arguments={
            "gz_args": " ".join([*options, text(context, "gz_args"), shlex.quote(str(world_file))]),
            "on_exit_shutdown": "true",
        }.items(),
    )
    simulated = {"parameters": [{"use_sim_time": True}], "output": "screen"}
    spawn = [
        Node(
            package="ros_gz_sim",
            executable="create",
            name=f"create_{robot}",
            arguments=["-world", world_name, "-name", robot, "-file", str(models[robot]), *place],
            output="screen",
        )
        for robot, place in zip(robots, places(count, seed, bool(own_world)), strict=True)
    ]
    connect = Node(
        package="ros_gz_bridge",
        executable="parameter_bridge",
        name="gazebo_bridge",
        parameters=[{"config_file": str(bridge)}],
        additional_env=transport_environment(),
        output="screen",
    )
    watch = Node(
        package="policy_node",
        executable="gazebo_watch",
        arguments=[f"--robots={count}", f"--seed={seed}", *([] if own_world else [f"--world={world_name}"])],
        emulate_tty=True,
        **simulated,
    )
    policy = text(context, "policy")
    environment = transport_environment() | (memory_environment() if truth(context, "malloc") else {})
    drive = node_process(
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
        additional_env=environment,
    )
    return [gazebo, *spawn, connect, watch, drive]


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


def places(count: int, seed: int, in_own_world: bool) -> list[list[str]]:
    """Return where each rover starts, as arguments of `create`."""
    columns = math.ceil(math.sqrt(count))
    poses = [
        (robot % columns * SPACING_M, -(robot // columns) * SPACING_M, 0.0)
        if in_own_world
        else start_pose(robot, count, seed)
        for robot in range(count)
    ]
    return [["-x", f"{x_m:.6f}", "-y", f"{y_m:.6f}", "-Y", f"{yaw_rad:.6f}"] for x_m, y_m, yaw_rad in poses]
