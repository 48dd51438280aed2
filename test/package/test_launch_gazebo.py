# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The launch file for Gazebo: what it would start, expanded without starting anything."""

import importlib.util
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

pytest.importorskip("launch_ros", reason="the launch system comes with a ROS 2 installation, not as a wheel")

from launch import LaunchContext
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import AnyLaunchDescriptionSource
from launch.logging import launch_config
from launch.substitutions import TextSubstitution
from launch.utilities import perform_substitutions
from launch_ros.actions import Node
from node_harness import PATIENCE_S

from policy_node.config.package_files import share_path
from policy_node.config.parameter_file import parse_parameters, read_parameter_file
from policy_node_rover.gazebo.bridge import bridge_file
from policy_node_rover.gazebo.sdf import rover_sdf, start_pose, world_sdf

FILE = Path(__file__).resolve().parents[2] / "launch" / "gazebo.launch.py"

Expand = Callable[..., tuple[dict[str, str], list[Node]]]


@pytest.fixture
def expand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Expand:
    """Return a function that expands the launch file: Gazebo's own arguments, and the nodes."""
    monkeypatch.setattr(launch_config, "_log_dir", str(tmp_path))

    def expanded(**arguments: str) -> tuple[dict[str, str], list[Node]]:
        context = LaunchContext()
        context.launch_configurations.update(arguments)
        description = AnyLaunchDescriptionSource(str(FILE)).get_launch_description(context)
        for entity in description.entities:
            if isinstance(entity, DeclareLaunchArgument):
                entity.execute(context)
        # The check for the packages of ros_gz comes before the one that starts the fleet.
        *_, start = (entity for entity in description.entities if isinstance(entity, OpaqueFunction))
        gazebo, *nodes = start.execute(context)
        assert isinstance(gazebo, IncludeLaunchDescription)
        for node in nodes:
            node._perform_substitutions(context)
        return {
            name: perform_substitutions(context, [value]) if not isinstance(value, str) else value
            for name, value in gazebo.launch_arguments
        }, nodes

    return expanded


def of(nodes: list[Node], executable: str) -> list[Node]:
    return [node for node in nodes if node.node_executable == executable]


def command_line(node: Node) -> list[str]:
    """Return the arguments of a node, without its executable, which may not be installed, and without those for ROS."""
    texts = [part for part in node.cmd if all(isinstance(piece, TextSubstitution) for piece in part)]
    return [perform_substitutions(LaunchContext(), part) for part in texts]


def parameters(node: Node) -> dict[str, Any]:
    """Return the parameters that a node is given, of which the last value holds."""
    found: dict[str, Any] = {}
    for path, _ in node._Node__expanded_parameter_arguments:
        # A tag of Python's that launch writes, and ROS passes over.
        found |= parse_parameters(Path(path).read_text().replace("!!python/tuple", ""), path)
    return found


def option(line: list[str], name: str) -> str:
    return line[line.index(name) + 1]


def test_arenas_rovers_bridge_watch_and_node_are_for_as_many_robots_as_asked_for(
    expand: Expand, tmp_path: Path
) -> None:
    gazebo, nodes = expand(robots="3", seed="5", headless="true", gz_args="-v 4")
    files = tmp_path / "gazebo"
    assert gazebo == {
        "gz_args": f"-r -s --headless-rendering -v 4 {files / 'world.sdf'}",
        "on_exit_shutdown": "true",
    }
    assert (files / "world.sdf").read_text() == world_sdf(3, 5, with_rovers=False)
    spawned = [command_line(node) for node in of(nodes, "create")]
    for robot, line in enumerate(spawned):
        name = f"rover_{robot}"
        assert (option(line, "-world"), option(line, "-name")) == ("arenas", name)
        assert Path(option(line, "-file")).read_text() == rover_sdf(name)
        place = [float(option(line, axis)) for axis in ("-x", "-y", "-Y")]
        assert place == pytest.approx(start_pose(robot, 3, 5), abs=1e-5)
    assert len(spawned) == 3
    (bridge,), (watch,), (driver,) = (of(nodes, name) for name in ("parameter_bridge", "gazebo_watch", "policy_node"))
    robots = ["rover_0", "rover_1", "rover_2"]
    assert Path(parameters(bridge)["config_file"]).read_text() == bridge_file(robots)
    assert {"--robots=3", "--seed=5", "--touch", "--world=arenas"} <= set(command_line(watch))
    assert parameters(watch)["use_sim_time"] is True
    configured = read_parameter_file(share_path("config", "rover.yaml"))
    assert parameters(driver) == configured | {"robots": robots, "use_sim_time": True, "autostart": True}


def test_a_window_is_there_unless_headless_and_the_policy_can_be_another(expand: Expand, tmp_path: Path) -> None:
    gazebo, nodes = expand(policy="/policies/other.bundle", autostart="false")
    assert gazebo["gz_args"].split() == ["-r", str(tmp_path / "gazebo" / "world.sdf")]
    assert len(of(nodes, "create")) == 4
    (driver,) = of(nodes, "policy_node")
    assert parameters(driver)["policy.path"] == "/policies/other.bundle"
    assert parameters(driver)["autostart"] is False


def test_ogre_1_draws_on_a_display_even_without_a_window(expand: Expand, tmp_path: Path) -> None:
    gazebo, _ = expand(headless="true", render_engine="ogre")
    world = tmp_path / "gazebo" / "world.sdf"
    assert gazebo["gz_args"].split() == ["-r", "-s", str(world)]
    assert [engine.text for engine in ElementTree.parse(world).iter("render_engine")] == ["ogre"]


def test_world_and_robot_can_be_the_users_own(expand: Expand, tmp_path: Path) -> None:
    world, model = tmp_path / "my world.sdf", tmp_path / "robot.sdf"
    world.write_text('<sdf version="1.9"><world name="warehouse"/></sdf>')
    model.write_text('<sdf version="1.9"><model name="{robot}"><topic>/{robot}/camera</topic></model></sdf>')
    gazebo, nodes = expand(robots="3", world=str(world), model=str(model))
    assert gazebo["gz_args"].endswith(f"'{world}'")
    lines = [command_line(node) for node in of(nodes, "create")]
    assert [option(line, "-world") for line in lines] == ["warehouse"] * 3
    assert Path(option(lines[1], "-file")).read_text() == model.read_text().replace("{robot}", "rover_1")
    places = [tuple(float(option(line, axis)) for axis in ("-x", "-y", "-Y")) for line in lines]
    assert places == [(0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, -1.0, 0.0)]
    (watch,) = of(nodes, "gazebo_watch")
    assert not any(part.startswith("--world") for part in command_line(watch)), "nobody knows of beacons there"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"robots": "0"}, "robots:=0: give a whole number from 1 to 256"),
        ({"headless": "maybe"}, "headless:=maybe: give true or false"),
        ({"world": "/nowhere.sdf"}, "world:=/nowhere.sdf: there is no such file"),
        ({"model": "/nowhere.sdf"}, "model:=/nowhere.sdf: there is no such file"),
        ({"model": str(share_path("config", "fastdds.xml"))}, "found no {robot}, so that 4 robots would share"),
        ({"world": str(share_path("config", "rover.yaml"))}, "this is no XML"),
        ({"world": str(share_path("config", "fastdds.xml"))}, "found no <world name=…> in <sdf>"),
    ],
)
def test_arguments_that_cannot_be_are_refused(expand: Expand, arguments: dict[str, str], said: str) -> None:
    with pytest.raises(RuntimeError, match=said):
        expand(**arguments)


@pytest.mark.skipif(bool(importlib.util.find_spec("ros_gz_interfaces")), reason="ros_gz is installed")
def test_without_ros_gz_the_launch_says_what_to_install() -> None:
    done = subprocess.run(
        ["ros2", "launch", "policy_node", FILE.name], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 1
    assert "ros_gz_sim, ros_gz_bridge, ros_gz_interfaces: not found" in done.stdout + done.stderr
    assert "-ros-gz`" in done.stdout + done.stderr
