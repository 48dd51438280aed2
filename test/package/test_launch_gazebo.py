# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The launch file for Gazebo: the processes that it starts, and the files that it writes for them."""

import importlib.util
import re
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from policy_node.cli.launching import IncludedFile, NodeProcess
from policy_node.config.package_files import share_path
from policy_node_rover.gazebo.bridge import bridge_file
from policy_node_rover.gazebo.sdf import rover_sdf, start_pose, world_sdf
from policy_node_rover.launch import GAZEBO_ARGUMENTS, GAZEBO_PACKAGES, gazebo

FILE = share_path("launch", "gazebo.launch.py")
ROVERS = str(share_path("config", "rover.yaml"))
NEEDS_LAUNCH = pytest.mark.skipif(
    importlib.util.find_spec("launch_ros") is None,
    reason="the launch system comes with a ROS 2 installation, not as a wheel",
)
# In place of ros_gz_sim's launch file: an executable that gets its arguments.
GZ_SIM = """
from launch import LaunchDescription
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

def generate_launch_description():
    return LaunchDescription([Node(package="ros_gz_sim", executable="gz", arguments=[LaunchConfiguration("gz_args")])])
"""


def decide(folder: Path, **values: str) -> tuple[IncludedFile, list[NodeProcess]]:
    """Return Gazebo's launch file and the processes around it."""
    defaults = {argument.name: argument.default or "" for argument in GAZEBO_ARGUMENTS}
    assert values.keys() <= defaults.keys()
    simulator, *processes = gazebo({**defaults, **values}, folder)
    assert isinstance(simulator, IncludedFile)
    return simulator, [process for process in processes if isinstance(process, NodeProcess)]


def of(processes: list[NodeProcess], executable: str) -> list[NodeProcess]:
    return [process for process in processes if process.executable == executable]


def value(process: NodeProcess, name: str) -> Any:
    (values,) = process.parameters
    assert isinstance(values, dict)
    return values[name]


def test_arenas_rovers_bridge_watch_and_node_are_for_the_given_number_of_robots(tmp_path: Path) -> None:
    simulator, processes = decide(tmp_path, robot_count="3", seed="5", headless="true", gz_args="-v 4")
    assert simulator.arguments == {
        "gz_args": f"-r -s --headless-rendering -v 4 {tmp_path / 'world.sdf'}",
        "on_exit_shutdown": "true",
    }
    assert (tmp_path / "world.sdf").read_text() == world_sdf(3, 5, with_rovers=False)
    spawners = of(processes, "create")
    for robot, spawner in enumerate(spawners):
        name = f"rover_{robot}"
        assert (value(spawner, "world"), value(spawner, "name")) == ("arenas", name)
        assert Path(value(spawner, "file")).read_text() == rover_sdf(name)
        pose = [value(spawner, axis) for axis in ("x", "y", "Y")]
        assert pose == pytest.approx(start_pose(robot, 3, 5), abs=1e-5)
    assert len(spawners) == 3
    bridge, watch, driver = (of(processes, name)[0] for name in ("parameter_bridge", "gazebo_watch", "policy_node"))
    # Without them nothing stops a rover whose commands cease.
    assert bridge.ends_launch and watch.ends_launch and not driver.ends_launch
    robots = ["rover_0", "rover_1", "rover_2"]
    (values,) = bridge.parameters
    assert isinstance(values, dict) and Path(values["config_file"]).read_text() == bridge_file(robots)
    assert {"--robots=3", "--seed=5", "--touch", "--frames", "--world=arenas"} <= set(watch.arguments)
    assert watch.parameters == ({"use_sim_time": True},)
    assert driver.parameters == (ROVERS, {"robots": robots, "use_sim_time": True})


def test_without_arguments_the_robots_are_those_of_the_parameter_file(tmp_path: Path) -> None:
    simulator, processes = decide(tmp_path)
    assert simulator.arguments["gz_args"].split() == ["-r", str(tmp_path / "world.sdf")]
    assert len(of(processes, "create")) == 4
    (driver,) = of(processes, "policy_node")
    assert driver.parameters == (ROVERS, {"use_sim_time": True})


def test_policy_and_autostart_override_the_parameter_file(tmp_path: Path) -> None:
    _, processes = decide(tmp_path, policy="/policies/other.bundle", autostart="false")
    (driver,) = of(processes, "policy_node")
    overrides = {"use_sim_time": True, "policy.path": "/policies/other.bundle", "autostart": False}
    assert driver.parameters == (ROVERS, overrides)


def test_ogre_1_renders_on_a_display_even_without_a_window(tmp_path: Path) -> None:
    simulator, _ = decide(tmp_path, headless="true", render_engine="ogre")
    world = tmp_path / "world.sdf"
    assert simulator.arguments["gz_args"].split() == ["-r", "-s", str(world)]
    assert [engine.text for engine in ElementTree.parse(world).iter("render_engine")] == ["ogre"]


def test_world_and_robot_can_be_the_users_own(tmp_path: Path) -> None:
    world, model = tmp_path / "my world.sdf", tmp_path / "robot.sdf"
    world.write_text('<sdf version="1.9"><world name="warehouse"/></sdf>')
    model.write_text('<sdf version="1.9"><model name="{robot}"><topic>/{robot}/camera</topic></model></sdf>')
    simulator, processes = decide(tmp_path, robot_count="3", world=str(world), model=str(model))
    assert simulator.arguments["gz_args"].endswith(f"'{world}'")
    spawners = of(processes, "create")
    assert [value(spawner, "world") for spawner in spawners] == ["warehouse"] * 3
    assert Path(value(spawners[1], "file")).read_text() == model.read_text().replace("{robot}", "rover_1")
    poses = [tuple(value(spawner, axis) for axis in ("x", "y", "Y")) for spawner in spawners]
    assert poses == [(0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, -1.0, 0.0)]
    (watch,) = of(processes, "gazebo_watch")
    assert not any(argument.startswith("--world") for argument in watch.arguments), "that world has no beacons"
    assert "--frames" not in watch.arguments, "the sensors of that robot are elsewhere"


@pytest.mark.parametrize("distribution", ["humble", "iron"])
def test_create_gets_options_where_it_takes_no_parameters(
    tmp_path: Path, distribution: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    _, processes = decide(tmp_path, robot_count="1")
    (newer,) = of(processes, "create")
    monkeypatch.setenv("ROS_DISTRO", distribution)
    _, processes = decide(tmp_path, robot_count="1")
    (older,) = of(processes, "create")
    (values,) = newer.parameters
    assert isinstance(values, dict) and not newer.arguments and not older.parameters
    pairs = dict(zip(older.arguments[::2], older.arguments[1::2], strict=True))
    assert pairs == {f"-{name}": str(given) for name, given in values.items()}


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"robot_count": "0"}, "robot_count:=0: give a whole number from 1 to 256"),
        ({"seed": "any"}, "seed:=any: give a whole number from 0 to 2147483648"),
        ({"headless": "maybe"}, "headless:=maybe: give true or false"),
        ({"params_file": "missing.yaml"}, "params_file:=missing.yaml: there is no such file"),
        ({"world": "/nowhere.sdf"}, "world:=/nowhere.sdf: there is no such file"),
        ({"model": "/nowhere.sdf"}, "model:=/nowhere.sdf: there is no such file"),
        ({"model": str(share_path("config", "fastdds.xml"))}, "found no {robot}, so that 4 robots would share"),
        ({"world": ROVERS}, "this is no XML"),
        ({"world": str(share_path("config", "fastdds.xml"))}, "found no <world name=…> in <sdf>"),
    ],
)
def test_invalid_arguments_are_refused(tmp_path: Path, values: dict[str, str], error: str) -> None:
    with pytest.raises(ValueError, match=re.escape(error)):
        decide(tmp_path, **values)


@NEEDS_LAUNCH
def test_the_launch_file_starts_these_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from launch.logging import launch_config
    from launch_expansion import LaunchedNode, expand

    packages = tmp_path / "share" / "ament_index" / "resource_index" / "packages"
    packages.mkdir(parents=True)
    for package in GAZEBO_PACKAGES:
        (packages / package).touch()
    launch_file = tmp_path / "share" / "ros_gz_sim" / "launch" / "gz_sim.launch.py"
    launch_file.parent.mkdir(parents=True)
    launch_file.write_text(GZ_SIM)
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(launch_config, "_log_dir", str(tmp_path))

    def started(**arguments: str) -> dict[str, LaunchedNode]:
        return {node.executable: node for node in expand(FILE, **arguments)}

    nodes = started(headless="true")
    create = nodes["create"].parameters()
    assert (create["world"], create["name"]) == ("arenas", "rover_3") and isinstance(create["Y"], float)
    assert nodes.keys() == {"gz", "create", "parameter_bridge", "gazebo_watch", "policy_node"}
    world = tmp_path / "gazebo" / "world.sdf"
    assert nodes["gz"].command_line[0] == f"-r -s --headless-rendering {world}"
    assert world.read_text() == world_sdf(4, 0, with_rovers=False)
    parameters = nodes["policy_node"].parameters()
    assert "autostart" not in parameters and parameters["use_sim_time"] is True

    waiting = tmp_path / "waiting.yaml"
    waiting.write_text(Path(ROVERS).read_text().replace("parameters:\n", "parameters:\n    autostart: false\n", 1))
    assert started(params_file=str(waiting))["policy_node"].parameters()["autostart"] is False
    overridden: dict[str, Any] = started(params_file=str(waiting), autostart="true")["policy_node"].parameters()
    assert overridden["autostart"] is True


@NEEDS_LAUNCH
@pytest.mark.skipif(bool(importlib.util.find_spec("ros_gz_interfaces")), reason="ros_gz is installed")
def test_without_ros_gz_the_launch_says_what_to_install() -> None:
    done = subprocess.run(["ros2", "launch", "policy_node", FILE.name], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "ros_gz_sim, ros_gz_bridge, ros_gz_interfaces: not found" in done.stdout + done.stderr
    assert "-ros-gz`" in done.stdout + done.stderr
