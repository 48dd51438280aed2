# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""A process ends on a signal at any time, and when the middleware hangs."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from node_harness import PATIENCE_S, RECOVERY_S, LifecycleClient, NodeProcess, Peer, ScriptedFleet, parameters_of

from policy_node.config import files
from policy_node.config.parameters import CLAIMS_TOPIC
from policy_node.control.memory_reserve import RESERVE_BYTES
from policy_node.ros.main import main

# The lock is held for a moment at the beginning and at the end of every `wait`.
SCRIPT = """
import signal, sys
from policy_node.ros.process import ros_process
with ros_process() as stopping:
    with stopping._cond:
        signal.raise_signal(int(sys.argv[1]))
    stopping.wait()
print("ended")
"""


@pytest.mark.both_distributions
@pytest.mark.parametrize("signal_number", [2, 15], ids=["SIGINT", "SIGTERM"])
def test_a_signal_ends_a_wait(signal_number: int) -> None:
    command = [sys.executable, "-c", SCRIPT, str(signal_number)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert ended.stdout == "ended\n" and ended.returncode == 0, ended.stderr


# Other signals, those with another handler, and those of a forked process do not end the wait.
OTHERS = """
import os, signal
from policy_node.ros.process import ros_process
with ros_process() as stopping:
    signal.signal(signal.SIGUSR1, lambda number, frame: None)
    signal.raise_signal(signal.SIGUSR1)
    child = os.fork()
    if not child:
        signal.raise_signal(signal.SIGTERM)
        os._exit(0)
    os.waitpid(child, 0)
    handler = signal.signal(signal.SIGINT, lambda number, frame: None)
    signal.raise_signal(signal.SIGINT)
    assert not stopping.wait(0.3)
    signal.signal(signal.SIGINT, handler)
    signal.raise_signal(signal.SIGINT)
    assert stopping.wait(10)
print("ended")
"""


def test_only_its_own_signals_end_a_process() -> None:
    ended = subprocess.run([sys.executable, "-c", OTHERS], capture_output=True, text=True, timeout=PATIENCE_S)
    assert ended.stdout == "ended\n" and ended.returncode == 0, ended.stderr


# Locks the mutex in each shared-memory port of this process, as a process does that is killed while it writes to the
# port, and destroys the node some time later.
LOCKED = """
import mmap, struct, sys, time
import rclpy
from policy_node.ros import process
WAITING_MS, MUTEX = 0x11C, 0x5170  # where a port of Fast DDS has its two times and its mutex
process.DESTROY_S = 3.0
with process.open_ros():
    node = rclpy.create_node("ends")
    time.sleep(0.5)
    with open("/proc/self/maps") as maps:
        ports = {line.split()[-1] for line in maps if "/dev/shm/fast" in line and "_port" in line}
    for port in ports:
        with open(port, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
            if struct.unpack_from("<II", memory, WAITING_MS) != (1000, 333):
                sys.exit(77)
            struct.pack_into("<I", memory, MUTEX, 2)
    if not ports:
        sys.exit(77)
    time.sleep(float(sys.argv[1]))
    process.destroy_last_node(node)
print("ended")
"""


def destroyed_after_a_kill(delay_s: float) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LOCKED, str(delay_s)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    if ended.returncode == 77:
        pytest.skip("no shared memory, or another layout of its ports")
    return ended


def test_a_node_is_destroyed_after_the_middleware_recovered_from_a_killed_process() -> None:
    ended = destroyed_after_a_kill(RECOVERY_S)
    assert ended.stdout == "ended\n" and ended.returncode == 0, ended.stderr


def test_a_process_ends_when_the_middleware_hangs_after_another_was_killed() -> None:
    # Mostly it hangs; it crashes or ends in order where another thread of Fast DDS comes first.
    ended = destroyed_after_a_kill(0.0)
    assert ended.returncode in (0, 1, -signal.SIGSEGV), ended.stderr
    assert ended.returncode != 1 or "in destroy_last_node" in ended.stderr


# Destroys a lifecycle node and counts the threads of its participant.
LIFECYCLE = """
from pathlib import Path
from rclpy.lifecycle import LifecycleNode
from policy_node.ros import process
def event_threads():
    return sum(comm.read_text().startswith("dds.ev") for comm in Path("/proc/self/task").glob("*/comm"))
with process.open_ros():
    node = LifecycleNode("ends")
    print(event_threads())
    process.destroy_last_node(node)
    print(event_threads())
"""


@pytest.mark.both_distributions
def test_the_end_of_the_last_node_is_guarded_also_for_a_lifecycle_node() -> None:
    command = [sys.executable, "-c", LIFECYCLE]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert ended.stdout == "1\n0\n" and ended.returncode == 0, ended.stderr


# Runs the node in the same process after some statements, as the `wrapper` of a `NodeProcess`.
WITH = """
import ctypes, signal, sys
from rclpy.publisher import Publisher
from policy_node.ros import process
process.DESTROY_S, process.STILL_CHECKS = 3.0, 3
{}
program, sys.argv = sys.argv[3], ["policy_node", *sys.argv[4:]]
exec(program)
"""
# `PyDLL` keeps the GIL, as rclpy does.
HANGING_COMMANDS = WITH.format(
    """
destroy = Publisher.destroy
Publisher.destroy = lambda self: ctypes.PyDLL(None).pause() if "cmd_vel" in self.topic_name else destroy(self)
"""
)
# A file in a folder `dead` is never found, as on a network file system whose server is gone.
DEAD_MOUNT = WITH.format(
    """
import os, time
from policy_node.config import files
stat = os.stat
os.stat = lambda path, *rest, **more: time.sleep(1000) if "/dead/" in str(path) else stat(path, *rest, **more)
files.STALL_S = float(os.environ.get("STALL_S", "1000"))
"""
)
# The thread that gets SIGUSR2 stands still.
STOPPABLE_THREADS = WITH.format(
    """
libc = ctypes.CDLL(None)
libc.signal(signal.SIGUSR2, ctypes.cast(libc.pause, ctypes.c_void_p))
"""
)


@pytest.fixture
def driving(
    model: Callable[..., tuple[Path, Any]], peer: Peer, start_node: Callable[..., NodeProcess]
) -> Callable[[str], tuple[NodeProcess, ScriptedFleet]]:
    """Return a function that gives a node with some statements in its process, and the robot that it drives."""

    def drive(program: str) -> tuple[NodeProcess, ScriptedFleet]:
        process = start_node(parameters_of(model()[0], ["robot"], {}), wrapper=[sys.executable, "-c", program])
        fleet = ScriptedFleet(peer, ["robot"])
        fleet.drive(lambda: any(command.linear.x for command in fleet.commands["robot"]), "the robot to be driven")
        return process, fleet

    return drive


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_ends_a_configure_that_waits_for_a_file(
    number: signal.Signals, peer: Peer, start_node: Callable[..., NodeProcess]
) -> None:
    parameters = parameters_of(Path("/dead/policy.onnx"), ["robot"], {})
    process = start_node(parameters, wrapper=[sys.executable, "-c", DEAD_MOUNT])
    # The claims are announced just before the policy is loaded.
    peer.spin_until(lambda: peer.node.count_publishers(CLAIMS_TOPIC), "configure")
    assert process.send(number) == 0
    assert "configure was interrupted by a signal" in process.text


@pytest.mark.parametrize("kind", ["pipe", "large", "dead"])
def test_a_parameter_file_that_cannot_be_read_is_refused_with_its_remedy(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"{kind}.yaml"
    path.touch()
    answered = threading.Event()
    if kind == "pipe":
        path.unlink()
        os.mkfifo(path)
    elif kind == "large":
        os.truncate(path, 2**40)
    else:
        monkeypatch.setattr(files, "STALL_S", 0.05)
        stat = os.stat
        wait = lambda file, **options: answered.wait() if file == str(path) else stat(file, **options)  # noqa: E731
        monkeypatch.setattr(os, "stat", wait)
    try:
        assert main(["--ros-args", "--params-file", str(path)]) == 1
    finally:
        answered.set()
    remedy = "mount it again" if kind == "dead" else "give --params-file the path of a YAML file"
    error = capsys.readouterr().err
    assert f"policy_node cannot start: --params-file {path}: it" in error and f"\n{remedy}" in error


def test_a_swap_to_a_file_system_that_does_not_answer_is_refused_and_the_next_one_is_served(
    model: Callable[..., tuple[Path, Any]],
    peer: Peer,
    driving: Callable[[str], tuple[NodeProcess, ScriptedFleet]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STALL_S", "0.5")
    process, fleet = driving(DEAD_MOUNT)
    operator = LifecycleClient(peer, process.full_name)
    refused = operator.set(policy__path="/dead/policy.onnx")
    assert "'/dead/policy.onnx' cannot be read: its file system did not answer for 0.5 s" in refused
    fleet.clear()
    fleet.drive(lambda: any(command.linear.x for command in fleet.commands["robot"]), "the robot to be driven")
    assert operator.set(policy__path=str(model(seed=5)[0])) == ""


def test_a_node_that_gets_no_more_memory_ends_with_safe_commands(
    driving: Callable[[str], tuple[NodeProcess, ScriptedFleet]],
) -> None:
    process, fleet = driving(WITH.format("import resource"))
    fleet.clear()
    fleet.drive(lambda: len(fleet.commands["robot"]) > 10, "commands")
    # Small pieces can still be had, but no longer as much as the node wants to keep in reserve.
    size = int(Path(f"/proc/{process.pid}/statm").read_text().split()[0]) * resource.getpagesize()
    resource.prlimit(process.pid, resource.RLIMIT_AS, (size + RESERVE_BYTES // 2,) * 2)
    fleet.drive(lambda: not process.alive, "the end of the process")
    process.end()
    assert process.status == 1
    assert "the memory is exhausted: this process gets no more" in process.text
    assert not fleet.commands["robot"][-1].linear.x


@pytest.mark.slow
@pytest.mark.both_distributions
def test_a_cleanup_that_hangs_in_the_middleware_ends_the_process(
    peer: Peer, driving: Callable[[str], tuple[NodeProcess, ScriptedFleet]]
) -> None:
    process, fleet = driving(HANGING_COMMANDS)
    operator = LifecycleClient(peer, process.full_name)
    assert operator.change("deactivate")
    peer.spin_until(lambda: not fleet.commands["robot"][-1].linear.x, "the safe command")
    operator.begin_to_change("cleanup")
    peer.spin_until(lambda: not process.alive, "the end of the process")
    process.end()
    assert process.status == 1
    assert "in _cleanup" in process.text, "the stack says where it hung"


@pytest.mark.slow
@pytest.mark.both_distributions
def test_a_node_whose_middleware_stands_still_ends_with_safe_commands(
    driving: Callable[[str], tuple[NodeProcess, ScriptedFleet]],
) -> None:
    process, fleet = driving(STOPPABLE_THREADS)
    threads = Path(f"/proc/{process.pid}/task").iterdir()
    event_threads = [thread for thread in threads if (thread / "comm").read_text().startswith("dds.ev")]
    for thread in event_threads:
        assert ctypes.CDLL(None).tgkill(process.pid, int(thread.name), signal.SIGUSR2) == 0
    fleet.drive(lambda: not process.alive, "the end of the process")
    process.end()
    assert process.status == 1
    assert "Fast DDS stands still" in process.text and "every robot got the safe command" in process.text
    assert not fleet.commands["robot"][-1].linear.x
