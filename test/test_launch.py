# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The launch files, where a ROS 2 installation brings the launch system."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("launch_ros", reason="the launch system comes with a ROS 2 installation, not as a wheel")

from geometry_msgs.msg import Twist
from launch import LaunchContext
from launch.actions import DeclareLaunchArgument
from launch.launch_description_sources import AnyLaunchDescriptionSource
from node_harness import PATIENCE_S, LifecycleClient

from policy_node.process_environment import MALLOC_VARIABLES, profile_variable
from policy_node.share import share_path

LAUNCH_FILES = sorted((Path(__file__).resolve().parents[1] / "launch").glob("*.launch.py"))


@pytest.mark.parametrize("file", LAUNCH_FILES, ids=lambda file: file.name)
def test_every_argument_is_described(file: Path) -> None:
    description = AnyLaunchDescriptionSource(str(file)).get_launch_description(LaunchContext())
    arguments = [entity for entity in description.entities if isinstance(entity, DeclareLaunchArgument)]
    assert arguments
    assert all(argument.description for argument in arguments)


@pytest.fixture
def launch() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Return a function that starts `ros2 launch policy_node`; all ends with the test."""
    processes = []

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(["ros2", "launch", "policy_node", *arguments], start_new_session=True)
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_the_demonstration_drives_the_number_of_robots_asked_for(launch: Callable[..., Any], peer: Any) -> None:
    """Both processes run, the policy drives the second of two rovers, and all end cleanly on SIGINT."""
    demo = launch("demo.launch.py", "robots:=2", "renderer:=raycast")
    commands: list[Twist] = []
    peer.node.create_subscription(Twist, "rover_1/cmd_vel", commands.append, 1)
    peer.spin_until(
        lambda: any(command.linear.x or command.angular.z for command in commands) or demo.poll() is not None,
        "a command that moves rover_1",
    )
    assert demo.poll() is None, "the launch ended by itself"
    assert not peer.node.get_publishers_info_by_topic("/rover_2/cmd_vel")
    demo.send_signal(signal.SIGINT)
    assert demo.wait(timeout=60) == 0


FLEET = ("fleet.launch.py", f"params_file:={share_path('config', 'rover.yaml')}")


def end(launched: subprocess.Popen[bytes]) -> None:
    launched.send_signal(signal.SIGINT)
    assert launched.wait(timeout=60) == 0


def environments(launched: subprocess.Popen[bytes], peer: Any, count: int) -> list[dict[str, str]]:
    """Return the environment of each process that a launch file has started, as soon as there are enough."""
    process = psutil.Process(launched.pid)
    peer.spin_until(lambda: len(process.children()) == count, f"{count} processes")
    return [child.environ() for child in process.children()]


def test_two_shards_drive_the_rovers(launch: Callable[..., Any], peer: Any) -> None:
    moved: set[str] = set()
    rovers = [f"rover_{rover}" for rover in range(4)]

    def note(rover: str, command: Twist) -> None:
        if command.linear.x or command.angular.z:
            moved.add(rover)

    for rover in rovers:
        peer.node.create_subscription(Twist, f"{rover}/cmd_vel", lambda command, rover=rover: note(rover, command), 1)
    simulation = launch("rover_sim.launch.py", "robots:=4", "renderer:=raycast")
    fleet = launch(*FLEET, "shards:=2", "devices:=[cpu]")
    peer.spin_until(lambda: moved == set(rovers) or fleet.poll() is not None, "commands that move every rover")
    owners = [
        [info.node_name for info in peer.node.get_publishers_info_by_topic(f"/{rover}/cmd_vel")] for rover in rovers
    ]
    assert owners == [["policy_node_0"], ["policy_node_0"], ["policy_node_1"], ["policy_node_1"]]
    assert LifecycleClient(peer, "/policy_node_1").get("shard", "policy.device") == ["1/2", "cpu"]
    for environment in environments(fleet, peer, 2):
        assert environment[profile_variable()] == str(share_path("config", "fastdds.xml"))
        assert MALLOC_VARIABLES.items() <= environment.items()
    end(fleet)
    end(simulation)


def test_one_shard_runs_alone_with_the_environment_that_is_asked_for(
    launch: Callable[..., Any], peer: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own = tmp_path / "own.xml"
    own.write_text(share_path("config", "fastdds.xml").read_text())
    monkeypatch.setenv(profile_variable(), str(own))
    options = ("malloc:=false", "autostart:=false", "namespace:=north", "discovery_server:=127.0.0.1:11811")
    fleet = launch(*FLEET, "shards:=3", "index:=2", "devices:=[cuda:0,cuda:1]", *options)
    (environment,) = environments(fleet, peer, 1)
    assert environment[profile_variable()] == str(own)
    assert environment["ROS_DISCOVERY_SERVER"] == "127.0.0.1:11811"
    assert not MALLOC_VARIABLES.keys() & environment.keys()
    (process,) = psutil.Process(fleet.pid).children()
    assert {"__node:=policy_node_2", "__ns:=/north"} <= set(process.cmdline())
    end(fleet)


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("shards:=none", "shards:=none: give a whole number from 1 to 1000"),
        ("index:=2", "index:=2: give a whole number from 0 to 1"),
        ("autostart:=maybe", "autostart:=maybe: give true or false"),
    ],
)
def test_arguments_that_cannot_be_are_refused(argument: str, said: str) -> None:
    done = subprocess.run(
        ["ros2", "launch", "policy_node", *FLEET, argument], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 1
    assert said in done.stdout + done.stderr
