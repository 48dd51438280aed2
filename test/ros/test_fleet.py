# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""A fleet shared by several nodes: on one computer, and on two that a network connects."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from node_harness import PATIENCE_S, ScriptedFleet, end, parameters_of

from policy_node.cli.process_environment import transport_environment
from policy_node.config.package_files import share_path

ROBOTS = ("robot_0", "robot_1", "robot_2", "robot_3", "robot_4")
ROVERS = ("rover_0", "rover_1", "rover_2", "rover_3")
ADDRESSES = ("10.213.48.1", "10.213.48.2")
SERVER_PORT = 11811


@pytest.mark.both_distributions
def test_shards_command_every_robot_once_and_do_not_need_each_other(
    start_node: Callable[..., Any], peer: Any, model: Callable[..., Any]
) -> None:
    fleet = ScriptedFleet(peer, ROBOTS)
    shards = [
        start_node(parameters_of(model()[0], ROBOTS, {"shard": f"{shard}/2"}), name=f"shard_{shard}")
        for shard in range(2)
    ]
    fleet.drive(lambda: all(fleet.commands.values()), "commands to every robot")

    def owners() -> dict[str, list[str]]:
        return {
            robot: [info.node_name for info in peer.node.get_publishers_info_by_topic(f"/{robot}/cmd_vel")]
            for robot in ROBOTS
        }

    # Names of nodes come after their topics.
    names = {"shard_0", "shard_1"}
    peer.spin_until(lambda: all(len(found) == 1 and found[0] in names for found in owners().values()), "one owner each")
    parts = [[robot for robot in ROBOTS if owners()[robot] == [f"shard_{shard}"]] for shard in range(2)]
    assert sorted(parts[0] + parts[1]) == list(ROBOTS)
    assert sorted(map(len, parts)) == [2, 3]

    shards[1].send(signal.SIGKILL)
    peer.spin_for(0.2)  # messages in flight
    fleet.clear()
    fleet.drive(lambda: all(len(fleet.commands[robot]) > 5 for robot in parts[0]), "commands of the other shard")
    assert not any(fleet.commands[robot] for robot in parts[1])


class Host:
    """A separate network and shared memory, like those of another computer."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "sh", "-c", "mount -t tmpfs none /dev/shm && echo ready && sleep infinity"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._holder.stdout is not None and self._holder.stderr is not None
        if self._holder.stdout.readline() != "ready\n":
            pytest.skip(f"no network namespace can be made here: {self._holder.stderr.read().strip()}")

    @property
    def pid(self) -> int:
        """Process that keeps it."""
        return self._holder.pid

    def command(self, *arguments: str) -> list[str]:
        """Return a command that runs another one there."""
        return ["nsenter", "--target", str(self.pid), "--net", "--mount", *arguments]

    def run(self, *arguments: str) -> None:
        """Run a command there to its end."""
        run(*self.command(*arguments))

    def end(self) -> None:
        """Remove it, and end its processes."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._holder.communicate()


def run(*arguments: str) -> None:
    """Run a command that sets up a network; where it is not permitted the test is skipped."""
    done = subprocess.run(arguments, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no network namespaces can be joined here: {' '.join(arguments)}: {done.stderr.strip()}")


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    """Return two hosts with a cable between them, at ADDRESSES."""
    missing = [program for program in ("unshare", "nsenter", "ip") if not shutil.which(program)]
    if missing:
        pytest.skip(f"no network namespaces without {', '.join(missing)}")
    made: list[Host] = []
    try:
        made.append(Host())
        made.append(Host())
        ends = [part for host in made for part in ("netns", str(host.pid))]
        run("ip", "link", "add", "cable", *ends[:2], "type", "veth", "peer", "name", "cable", *ends[2:])
        for host, address in zip(made, ADDRESSES, strict=True):
            host.run("ip", "address", "add", f"{address}/24", "dev", "cable")
            host.run("ip", "link", "set", "lo", "up")
            host.run("ip", "link", "set", "cable", "up")
        yield made
    finally:
        for host in made:
            host.end()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Return a function that starts a process on a host; all of them end with the test, their logs are shown."""
    started: list[tuple[str, subprocess.Popen[bytes], Path]] = []

    def start_there(host: Host, name: str, arguments: list[str], environment: Mapping[str, str]) -> None:
        log = tmp_path / f"{name}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                host.command(*arguments),
                env=dict(environment),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        started.append((name, process, log))

    yield start_there
    for name, process, log in reversed(started):
        end(process)
        # The program fastdds is a script that leaves the server behind.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        print(f"--- {name}\n{log.read_text(errors='replace')}")


@pytest.mark.slow
@pytest.mark.over_dds
@pytest.mark.parametrize("discovery", ["multicast", "server"])
def test_shards_on_two_hosts_drive_one_fleet(hosts: list[Host], start: Callable[..., None], discovery: str) -> None:
    """The simulation and a shard on one host, the other shard on the second, joined by a network alone."""
    environment = {**os.environ, **transport_environment(), "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"}
    if discovery == "server":
        program = shutil.which("fastdds", path=f"{Path(sys.prefix) / 'bin'}:{os.environ['PATH']}")
        if program is None:
            pytest.skip("no Fast DDS discovery server: the program fastdds is not there")
        for host in hosts:
            host.run("ip", "link", "set", "cable", "multicast", "off")
        address = ["-l", ADDRESSES[0], "-p", str(SERVER_PORT)]
        # The program is a script for the first Python of the path.
        path = {"PATH": f"{Path(sys.prefix) / 'bin'}:{os.environ['PATH']}"}
        start(hosts[0], "server", [program, "discovery", "-i", "0", *address], environment | path)
        environment["ROS_DISCOVERY_SERVER"] = f"{ADDRESSES[0]}:{SERVER_PORT}"
    python = [sys.executable, "-m"]
    simulation = ["policy_node_rover.mujoco.rover_sim", "--robots", str(len(ROVERS)), "--renderer", "raycast"]
    start(hosts[0], "simulation", [*python, *simulation], environment)
    for shard, host in enumerate(hosts):
        ros = ["--ros-args", "--params-file", str(share_path("config", "rover.yaml")), "-p", f"shard:='{shard}/2'"]
        start(
            host, f"shard_{shard}", [*python, "policy_node.ros.main", *ros, "-r", f"__node:=shard_{shard}"], environment
        )
    observer = [sys.executable, str(Path(__file__).parents[1] / "fleet_observer.py"), *ROVERS]
    observed = subprocess.run(
        hosts[0].command(*observer), env=environment, stdout=subprocess.PIPE, text=True, timeout=2 * PATIENCE_S
    )
    assert observed.returncode == 0
    owners = json.loads(observed.stdout)
    assert owners == {
        "rover_0": ["shard_0"],
        "rover_1": ["shard_0"],
        "rover_2": ["shard_1"],
        "rover_3": ["shard_1"],
    }
