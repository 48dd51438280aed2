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
from launch.utilities import perform_substitutions
from node_harness import PATIENCE_S, LifecycleClient, kill

from policy_node.process_environment import MALLOC_VARIABLES, profile_variable
from policy_node.share import share_path

ROOT = Path(__file__).resolve().parents[1]
LAUNCH_FILES = sorted((ROOT / "launch").glob("*.launch.*"))
UNIT = ROOT / "deploy" / "policy_node.service"
# One launch file in the three languages of the launch system.
POLICY_FILES = ("policy.launch.py", "policy.launch.xml", "policy.launch.yaml")


def declared_arguments(file: Path) -> dict[str, tuple[str | None, str]]:
    """Return default and description of each argument of a launch file."""
    context = LaunchContext()
    description = AnyLaunchDescriptionSource(str(file)).get_launch_description(context)
    return {
        argument.name: (
            None if argument.default_value is None else perform_substitutions(context, argument.default_value),
            argument.description,
        )
        for argument in description.entities
        if isinstance(argument, DeclareLaunchArgument)
    }


@pytest.mark.parametrize("file", LAUNCH_FILES, ids=lambda file: file.name)
def test_every_argument_is_described(file: Path) -> None:
    shown = subprocess.run(
        ["ros2", "launch", "policy_node", file.name, "--show-args"],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
    ).stdout
    arguments = declared_arguments(file)
    assert arguments
    for name, (_, description) in arguments.items():
        # What launch writes for arguments without one.
        assert description != "no description given"
        assert f"'{name}':" in shown and description in shown


def test_the_policy_has_the_same_arguments_in_every_language() -> None:
    first, *others = (declared_arguments(share_path("launch", name)) for name in POLICY_FILES)
    assert others == [first, first]


@pytest.fixture
def launch() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Return a function that starts `ros2 launch` with a file of a package or a path; all ends with the test."""
    processes = []

    def start(*arguments: str, package: str | None = "policy_node") -> subprocess.Popen[bytes]:
        file = [package] if package else []
        process = subprocess.Popen(["ros2", "launch", *file, *arguments], start_new_session=True)
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

    def have_begun() -> bool:
        # Before its first thread a child may still be a copy of launch, which loses a SIGINT that comes this early.
        return sum(child.num_threads() > 1 for child in process.children()) == count

    peer.spin_until(have_begun, f"{count} processes")
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


@pytest.mark.parametrize("included", POLICY_FILES)
def test_somebody_elses_launch_file_starts_the_policy(
    included: str, launch: Callable[..., Any], peer: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Arguments arrive, what the environment sets already stays, and nothing leaks to the includer's own processes."""
    monkeypatch.setenv("MALLOC_TOP_PAD_", "4096")
    file = tmp_path / "robot.launch.xml"
    file.write_text(f"""<launch>
        <include file="$(find-pkg-share policy_node)/launch/{included}">
            <arg name="params_file" value="{share_path("config", "rover.yaml")}"/>
            <arg name="namespace" value="north"/>
            <arg name="use_sim_time" value="true"/>
            <arg name="autostart" value="false"/>
        </include>
        <executable cmd="sleep 600" name="other"/>
    </launch>""")
    launched = launch(str(file), package=None)
    client = LifecycleClient(peer, "/north/policy_node")
    assert client.get("use_sim_time", "autostart", "control_rate_hz") == [True, False, 20.0]
    assert client.state() == "unconfigured"
    (node,) = (each for each in psutil.Process(launched.pid).children() if "__ns:=/north" in each.cmdline())
    (other,) = (each for each in psutil.Process(launched.pid).children() if each.name() == "sleep")
    expected = {**MALLOC_VARIABLES, "MALLOC_TOP_PAD_": "4096"}
    environment = node.environ()
    assert expected.items() <= environment.items()
    assert environment[profile_variable()] == str(share_path("config", "fastdds.xml"))
    assert other.environ()["MALLOC_TOP_PAD_"] == "4096"
    assert not {"MALLOC_TRIM_THRESHOLD_", profile_variable()} & other.environ().keys()
    end(launched)


@pytest.mark.parametrize("file", POLICY_FILES)
def test_a_profile_and_memory_of_ones_own_stay(
    file: str, launch: Callable[..., Any], peer: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own = tmp_path / "own.xml"
    own.write_text(share_path("config", "fastdds.xml").read_text())
    monkeypatch.setenv(profile_variable(), str(own))
    launched = launch(file, FLEET[1], "malloc:=false", "autostart:=false")
    (environment,) = environments(launched, peer, 1)
    assert environment[profile_variable()] == str(own)
    assert not MALLOC_VARIABLES.keys() & environment.keys()
    end(launched)


def test_on_board_arguments_override_the_parameter_file(
    launch: Callable[..., Any], peer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RMW_IMPLEMENTATION", raising=False)
    options = ("robots:=[rover_7]", "device:=cpu", "priority:=20", "cpus:=[0]", "record:=runs", "autostart:=false")
    launched = launch(
        "onboard.launch.py", FLEET[1], *options, "rmw:=rmw_fastrtps_cpp", "respawn:=true", "respawn_delay_s:=0"
    )
    client = LifecycleClient(peer, "/policy_node")
    names = ("robots", "policy.device", "realtime.priority", "realtime.cpus", "record.path", "control_rate_hz")
    assert client.get(*names) == [["rover_7"], "cpu", 20, [0], "runs", 20.0]
    (process,) = psutil.Process(launched.pid).children()
    assert process.environ()["RMW_IMPLEMENTATION"] == "rmw_fastrtps_cpp"
    kill(process)
    peer.spin_until(
        lambda: any(each.pid != process.pid for each in psutil.Process(launched.pid).children()), "the node again"
    )
    end(launched)


def test_a_launch_ends_with_its_node_so_that_systemd_starts_both_again(launch: Callable[..., Any], peer: Any) -> None:
    launched = launch("onboard.launch.py", FLEET[1], "autostart:=false")
    environments(launched, peer, 1)
    (process,) = psutil.Process(launched.pid).children()
    kill(process)
    assert launched.wait(timeout=PATIENCE_S) == 0, "a failure: Restart=on-failure would do"
    assert "\nRestart=always\n" in UNIT.read_text()


def test_on_board_the_parameter_file_holds_where_no_argument_is_given(launch: Callable[..., Any], peer: Any) -> None:
    launched = launch("onboard.launch.py", FLEET[1], "autostart:=false")
    client = LifecycleClient(peer, "/policy_node")
    names = ("robots", "policy.device", "realtime.priority", "record.path")
    assert client.get(*names) == [[f"rover_{rover}" for rover in range(4)], "auto", 0, ""]
    end(launched)


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("priority:=high", "priority:=high: give a whole number from 0 to 99"),
        ("cpus:=2,3", "cpus:=2,3: give a list such as [2,3], without spaces"),
        ("cpus:=[two]", "cpus:=[two]: give a list such as [2,3], without spaces"),
        ("cpus:=0", "cpus:=0: give a list such as [2,3], without spaces"),
        ("robots:=rover_0", "robots:=rover_0: give a list such as [rover_0,rover_1], without spaces"),
        ("respawn:=often", "respawn:=often: give true or false"),
    ],
)
def test_on_board_arguments_that_cannot_be_are_refused(argument: str, said: str) -> None:
    done = subprocess.run(
        ["ros2", "launch", "policy_node", "onboard.launch.py", FLEET[1], argument],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 1
    assert said in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("shards:=none", "shards:=none: give a whole number from 1 to 1000"),
        ("index:=2", "index:=2: give a whole number from 0 to 1"),
        ("autostart:=maybe", "autostart:=maybe: give true or false"),
        ("devices:=cuda:0", "devices:=cuda:0: give a list such as [cuda:0,cuda:1], without spaces"),
    ],
)
def test_arguments_that_cannot_be_are_refused(argument: str, said: str) -> None:
    done = subprocess.run(
        ["ros2", "launch", "policy_node", *FLEET, argument], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 1
    assert said in done.stdout + done.stderr


@pytest.mark.parametrize("file", [*POLICY_FILES, "demo.launch.py", "fleet.launch.py", "onboard.launch.py"])
def test_a_parameter_file_that_is_missing_ends_the_launch(file: str) -> None:
    done = subprocess.run(
        ["ros2", "launch", "policy_node", file, "params_file:=missing.yaml"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 1
    said = "params_file:=missing.yaml: there is no such file" if file.endswith(".py") else "'missing.yaml'"
    assert said in done.stdout + done.stderr
