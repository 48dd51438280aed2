# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""A process ends on a signal at any time, and when the middleware hangs."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from node_harness import PATIENCE_S, RECOVERY_S

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
