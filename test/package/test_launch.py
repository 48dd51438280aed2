# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The launch files, run and expanded by the launch system of a ROS 2 installation."""

import importlib.util
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from ament_index_python import get_package_share_directory
from geometry_msgs.msg import Twist
from node_harness import PATIENCE_S, LifecycleClient, kill

from policy_node.cli.process_environment import MALLOC_VARIABLES, profile_variable

# A module that is skipped as a whole would end the collection of all tests under the pytest plugin of launch_testing.
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("launch_ros") is None,
    reason="the launch system comes with a ROS 2 installation, not as a wheel",
)

ROOT = Path(__file__).resolve().parents[2]
LAUNCH_FILES = sorted((ROOT / "launch").glob("*.launch.*"))
UNIT = ROOT / "deploy" / "policy_node.service"
ROVERS = ROOT / "config" / "rover.yaml"
# One launch file in the three languages of the launch system.
POLICY_FILES = ("policy.launch.py", "policy.launch.xml", "policy.launch.yaml")
PARAMS_FILE = f"params_file:={ROVERS}"
# Launch files that start the policy node without a simulation.
NODE_FILES = (*POLICY_FILES, "onboard.launch.py", "fleet.launch.py")

Expand = Callable[..., list[Any]]


@pytest.fixture
def expand() -> Expand:
    """Return `launch_expansion.expand`."""
    from launch_expansion import expand

    return expand


@pytest.fixture
def waiting(tmp_path: Path) -> Path:
    """Return a parameter file with which the node waits for an operator, and follows /clock."""
    file = tmp_path / "waiting.yaml"
    lines = ROVERS.read_text().splitlines(keepends=True)
    place = lines.index("  ros__parameters:\n") + 1
    file.write_text("".join([*lines[:place], "    autostart: false\n", "    use_sim_time: true\n", *lines[place:]]))
    return file


def installed(*parts: str) -> Path:
    """Return a file of the package that `ros2 launch` runs, which `colcon test` need not import."""
    return Path(get_package_share_directory("policy_node"), *parts)


@pytest.mark.parametrize("file", LAUNCH_FILES, ids=lambda file: file.name)
def test_every_argument_is_described(file: Path) -> None:
    from launch_expansion import declared_arguments

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
    from launch_expansion import declared_arguments

    first, *others = (declared_arguments(ROOT / "launch" / name) for name in POLICY_FILES)
    assert others == [first, first]


def node_parameters(nodes: list[Any]) -> list[list[Any]]:
    """Return `autostart` and `use_sim_time` of each policy node."""
    found = [node.parameters() for node in nodes if node.executable == "policy_node"]
    return [[parameters.get("autostart"), parameters["use_sim_time"]] for parameters in found]


@pytest.mark.parametrize("name", [*NODE_FILES, "demo.launch.py"])
def test_the_parameter_file_holds_where_no_argument_is_given(name: str, expand: Expand, waiting: Path) -> None:
    nodes = expand(ROOT / "launch" / name, params_file=str(waiting), shards="2")
    assert node_parameters(nodes) == [[False, True]] * (2 if name == "fleet.launch.py" else 1)


@pytest.mark.parametrize("name", [*NODE_FILES, "demo.launch.py"])
def test_parameters_of_a_parent_launch_file_hold_where_no_argument_is_given(name: str, expand: Expand) -> None:
    from launch_ros.actions import SetParameter

    set_by_parent = [SetParameter("use_sim_time", True), SetParameter("autostart", False)]
    nodes = expand(ROOT / "launch" / name, *set_by_parent, params_file=str(ROVERS), shards="2")
    assert node_parameters(nodes) == [[False, True]] * (2 if name == "fleet.launch.py" else 1)


@pytest.mark.parametrize("name", [*NODE_FILES, "demo.launch.py"])
def test_arguments_override_the_parameter_file(name: str, expand: Expand, waiting: Path) -> None:
    nodes = expand(ROOT / "launch" / name, params_file=str(waiting), autostart="true", use_sim_time="false", shards="2")
    assert node_parameters(nodes) == [[True, False]] * (2 if name == "fleet.launch.py" else 1)


@pytest.mark.parametrize("name", POLICY_FILES)
def test_without_arguments_nothing_overrides_the_defaults_of_the_node(name: str, expand: Expand) -> None:
    (node,) = expand(ROOT / "launch" / name, params_file=str(ROVERS))
    assert node_parameters([node]) == [[None, False]]
    assert "--log-level" not in node.command_line


@pytest.mark.parametrize("name", POLICY_FILES)
def test_arguments_stay_within_an_included_launch_file(name: str) -> None:
    from launch import LaunchContext
    from launch_expansion import expand

    context = LaunchContext()
    expand(ROOT / "launch" / name, context=context, params_file=str(ROVERS))
    assert not {"use_sim_time", "autostart", "namespace", "log_level"} & context.launch_configurations.keys()


def test_simulated_rovers_and_their_node_agree_on_the_time(expand: Expand, waiting: Path) -> None:
    demo = ROOT / "launch" / "demo.launch.py"
    for arguments, expected in (({}, True), ({"use_sim_time": "false"}, False)):
        nodes = expand(demo, params_file=str(waiting), **arguments)
        assert [node.parameters()["use_sim_time"] for node in nodes] == [expected, expected]


@pytest.mark.parametrize("name", NODE_FILES)
def test_a_launched_node_waits_where_the_parameter_file_says_so(
    name: str, launch: Callable[..., Any], peer: Any, waiting: Path
) -> None:
    # Others refuse the argument.
    shards = ["shards:=2"] if name == "fleet.launch.py" else []
    launched = launch(name, f"params_file:={waiting}", *shards)
    client = LifecycleClient(peer, "/policy_node_1" if shards else "/policy_node")
    assert client.get("use_sim_time", "autostart") == [True, False]
    assert client.state() == "unconfigured"
    end(launched)


@pytest.mark.parametrize("name", NODE_FILES)
def test_a_launched_node_waits_where_a_parent_launch_file_says_so(
    name: str, launch: Callable[..., Any], peer: Any, tmp_path: Path
) -> None:
    file = tmp_path / "parent.launch.xml"
    file.write_text(f"""<launch>
        <set_parameter name="use_sim_time" value="true"/>
        <set_parameter name="autostart" value="false"/>
        <include file="$(find-pkg-share policy_node)/launch/{name}">
            <arg name="params_file" value="{ROVERS}"/>
            <arg name="shards" value="2"/>
        </include>
    </launch>""")
    launched = launch(str(file), package=None)
    client = LifecycleClient(peer, "/policy_node_1" if name == "fleet.launch.py" else "/policy_node")
    assert client.get("use_sim_time", "autostart") == [True, False]
    assert client.state() == "unconfigured"
    end(launched)


@pytest.fixture
def launch() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Return a function that starts `ros2 launch` with a file of a package or a path; all ends with the test."""
    processes = []

    def start(*arguments: str, package: str | None = "policy_node", log: Any = None) -> subprocess.Popen[bytes]:
        command = ["ros2", "launch", *([package] if package else []), *arguments]
        process = subprocess.Popen(command, start_new_session=True, stdout=log, stderr=log)
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_the_demonstration_drives_the_number_of_robots_asked_for(launch: Callable[..., Any], peer: Any) -> None:
    """Both processes run, the policy drives the second of two rovers, and all end cleanly on SIGINT."""
    demo = launch("demo.launch.py", "robot_count:=2", "renderer:=raycast")
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
    simulation = launch("rover_sim.launch.py", "robot_count:=4", "renderer:=raycast")
    fleet = launch("fleet.launch.py", PARAMS_FILE, "shards:=2", "devices:=[cpu]")
    peer.spin_until(lambda: moved == set(rovers) or fleet.poll() is not None, "commands that move every rover")
    owners = [
        [info.node_name for info in peer.node.get_publishers_info_by_topic(f"/{rover}/cmd_vel")] for rover in rovers
    ]
    assert owners == [["policy_node_0"], ["policy_node_0"], ["policy_node_1"], ["policy_node_1"]]
    assert LifecycleClient(peer, "/policy_node_1").get("shard", "policy.device") == ["1/2", "cpu"]
    for environment in environments(fleet, peer, 2):
        assert installed("config", "fastdds.xml").samefile(environment[profile_variable()])
        assert MALLOC_VARIABLES.items() <= environment.items()
    end(fleet)
    end(simulation)


def test_one_shard_runs_alone_with_the_given_environment(
    launch: Callable[..., Any], peer: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own = tmp_path / "own.xml"
    own.write_text(installed("config", "fastdds.xml").read_text())
    monkeypatch.setenv(profile_variable(), str(own))
    options = ("malloc:=false", "autostart:=false", "namespace:=north", "discovery_server:=127.0.0.1:11811")
    shard = ("shards:=3", "index:=2", "devices:=[cuda:0,cuda:1]")
    fleet = launch("fleet.launch.py", PARAMS_FILE, *shard, *options)
    (environment,) = environments(fleet, peer, 1)
    assert environment[profile_variable()] == str(own)
    assert environment["ROS_DISCOVERY_SERVER"] == "127.0.0.1:11811"
    assert not MALLOC_VARIABLES.keys() & environment.keys()
    (process,) = psutil.Process(fleet.pid).children()
    assert {"__node:=policy_node_2", "__ns:=/north"} <= set(process.cmdline())
    end(fleet)


@pytest.mark.parametrize("included", POLICY_FILES)
def test_a_parent_launch_file_starts_the_policy(
    included: str, launch: Callable[..., Any], peer: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Arguments arrive, variables that are set stay, and nothing leaks to other processes of the parent."""
    monkeypatch.setenv("MALLOC_TOP_PAD_", "4096")
    file = tmp_path / "robot.launch.xml"
    file.write_text(f"""<launch>
        <include file="$(find-pkg-share policy_node)/launch/{included}">
            <arg name="params_file" value="{ROVERS}"/>
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
    assert installed("config", "fastdds.xml").samefile(environment[profile_variable()])
    assert other.environ()["MALLOC_TOP_PAD_"] == "4096"
    assert not {"MALLOC_TRIM_THRESHOLD_", profile_variable()} & other.environ().keys()
    end(launched)


@pytest.mark.parametrize("file", POLICY_FILES)
def test_an_empty_profile_leaves_the_transport_alone(
    file: str, launch: Callable[..., Any], peer: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On the command line, which refuses empty values, and from another launch file."""
    monkeypatch.delenv(profile_variable(), raising=False)
    parent = tmp_path / "parent.launch.xml"
    parent.write_text(f"""<launch>
        <include file="$(find-pkg-share policy_node)/launch/{file}">
            <arg name="params_file" value="{ROVERS}"/>
            <arg name="autostart" value="false"/>
            <arg name="fastdds_profile" value=""/>
        </include>
    </launch>""")
    for launched in (
        launch(file, PARAMS_FILE, "autostart:=false", "fastdds_profile:=''"),
        launch(str(parent), package=None),
    ):
        (environment,) = environments(launched, peer, 1)
        assert profile_variable() not in environment
        end(launched)


def test_the_number_of_rovers_is_not_taken_for_the_robots_of_another_node(expand: Expand) -> None:
    """Arguments of an included launch file stay set for those that the same parent includes later."""
    from launch import LaunchContext

    context = LaunchContext()
    expand(ROOT / "launch" / "demo.launch.py", context=context, robot_count="2")
    assert context.launch_configurations["robot_count"] == "2"
    (node,) = expand(ROOT / "launch" / "onboard.launch.py", context=context, params_file=str(ROVERS))
    assert node.parameters()["robots"] == [f"rover_{rover}" for rover in range(4)]


@pytest.fixture
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an installation of the package before all others, with the launch files and no executable."""
    share = tmp_path / "share" / "policy_node"
    shutil.copytree(ROOT / "launch", share / "launch")
    shutil.copytree(ROOT / "config", share / "config")
    packages = tmp_path / "share" / "ament_index" / "resource_index" / "packages"
    packages.mkdir(parents=True)
    (packages / "policy_node").touch()
    (tmp_path / "lib" / "policy_node").mkdir(parents=True)
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path), prepend=os.pathsep)
    return tmp_path


def executable(prefix: Path, name: str, package: str = "policy_node") -> None:
    """Install a program that waits for its end."""
    file = prefix / "lib" / package / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\necho $$ > {prefix}/{name}.pid\nexec sleep 600\n")
    file.chmod(0o755)


def running(prefix: Path) -> dict[str, int]:
    """Return the process id of each program of a prefix that runs."""
    started = {file.stem: file.read_text().strip() for file in prefix.glob("*.pid")}
    return {name: int(pid) for name, pid in started.items() if pid and psutil.pid_exists(int(pid))}


def test_a_launch_that_fails_leaves_no_process_behind(prefix: Path) -> None:
    executable(prefix, "rover_sim")
    assert "executable 'policy_node' not found" in refused("demo.launch.py")
    assert (prefix / "rover_sim.pid").exists() and not running(prefix)


def test_the_end_of_the_simulation_ends_the_demonstration(prefix: Path, launch: Callable[..., Any], peer: Any) -> None:
    for name in ("rover_sim", "policy_node"):
        executable(prefix, name)
    launched = launch("demo.launch.py")
    peer.spin_until(lambda: len(running(prefix)) == 2, "both processes")
    os.kill(running(prefix)["rover_sim"], signal.SIGKILL)
    assert launched.wait(timeout=PATIENCE_S) == 0
    assert not running(prefix)


@pytest.mark.parametrize("ended", ["gazebo_watch", "parameter_bridge"])
def test_without_its_watch_or_bridge_gazebo_ends(
    ended: str, prefix: Path, launch: Callable[..., Any], peer: Any
) -> None:
    from test_launch_gazebo import GZ_SIM

    from policy_node_rover.launch import GAZEBO_PACKAGES

    for name in ("policy_node", "gazebo_watch"):
        executable(prefix, name)
    for name, package in (("gz", "ros_gz_sim"), ("create", "ros_gz_sim"), ("parameter_bridge", "ros_gz_bridge")):
        executable(prefix, name, package)
    for package in GAZEBO_PACKAGES:
        (prefix / "share" / "ament_index" / "resource_index" / "packages" / package).touch()
        (prefix / "share" / package / "launch").mkdir(parents=True)
    (prefix / "share" / "ros_gz_sim" / "launch" / "gz_sim.launch.py").write_text(GZ_SIM)
    launched = launch("gazebo.launch.py", "robot_count:=1")
    peer.spin_until(lambda: len(running(prefix)) == 5, "all processes")
    os.kill(running(prefix)[ended], signal.SIGKILL)
    assert launched.wait(timeout=PATIENCE_S) == 0
    assert not running(prefix)


@pytest.mark.parametrize("file", POLICY_FILES)
def test_profile_and_memory_settings_of_the_user_stay(
    file: str, launch: Callable[..., Any], peer: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own = tmp_path / "own.xml"
    own.write_text(installed("config", "fastdds.xml").read_text())
    monkeypatch.setenv(profile_variable(), str(own))
    launched = launch(file, PARAMS_FILE, "malloc:=false", "autostart:=false")
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
        "onboard.launch.py", PARAMS_FILE, *options, "rmw:=rmw_fastrtps_cpp", "respawn:=true", "respawn_delay_s:=0"
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
    launched = launch("onboard.launch.py", PARAMS_FILE, "autostart:=false")
    environments(launched, peer, 1)
    (process,) = psutil.Process(launched.pid).children()
    kill(process)
    assert launched.wait(timeout=PATIENCE_S) == 0, "a failure: Restart=on-failure would do"
    assert "\nRestart=always\n" in UNIT.read_text()


def refused(*arguments: str) -> str:
    """Return the output of a launch that ends with an error; the first argument is a file, or its path."""
    package = [] if Path(arguments[0]).is_absolute() else ["policy_node"]
    done = subprocess.run(["ros2", "launch", *package, *arguments], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 1
    return done.stdout + done.stderr


def test_an_invalid_argument_ends_the_launch() -> None:
    said = refused("onboard.launch.py", PARAMS_FILE, "priority:=high")
    assert "priority:=high: give a whole number from 0 to 99" in said


@pytest.mark.parametrize(
    ("file", "argument"), [("demo.launch.py", "robots:=4"), ("policy.launch.xml", "robot_count:=4")]
)
def test_an_unknown_argument_ends_the_launch(file: str, argument: str) -> None:
    said = f"{argument}: there is no such argument; allowed are params_file, "
    assert said in refused(file, PARAMS_FILE, argument)
    assert said in refused(str(installed("launch", file)), PARAMS_FILE, argument)


def test_an_including_launch_file_has_arguments_of_its_own(tmp_path: Path) -> None:
    parent = tmp_path / "policy.launch.xml"
    file = installed("launch", "policy.launch.py")
    parent.write_text(
        f'<launch><arg name="mine" default="a"/><include file="{file}"><arg name="params_file" value="$(var mine)"/>'
        "</include></launch>"
    )
    assert "params_file:=missing.yaml: there is no such file" in refused(str(parent), "mine:=missing.yaml")


@pytest.mark.parametrize("file", [*POLICY_FILES, "demo.launch.py"])
def test_a_missing_parameter_file_ends_the_launch(file: str) -> None:
    assert "params_file:=missing.yaml: there is no such file" in refused(file, "params_file:=missing.yaml")


@pytest.mark.parametrize("file", [*POLICY_FILES, "fleet.launch.py"])
def test_missing_required_arguments_end_the_launch(file: str) -> None:
    assert "missing required argument 'params_file'" in refused(file)


@pytest.mark.parametrize("file", (*POLICY_FILES, "onboard.launch.py"))
def test_the_node_drives_and_ends_in_order_with_its_launch(
    file: str, launch: Callable[..., Any], ros: None, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with log.open("w") as output:
        launched = launch(file, PARAMS_FILE, log=output)
    deadline_s = time.monotonic() + PATIENCE_S
    while "active: rover_0, rover_1, rover_2, rover_3" not in log.read_text():
        assert time.monotonic() < deadline_s and launched.poll() is None, log.read_text()
        time.sleep(0.05)
    end(launched)
    assert "every robot got the safe command" in log.read_text()
    assert "process has finished cleanly" in log.read_text()
    # There is no terminal that could show colours.
    assert "\x1b[" not in log.read_text()
