# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Start programs of the package without importing them again: each is forked from a process that has imported all."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import IO, Any

CONTEXT = get_context("forkserver")
# What the programs import, at once or when they load a policy. Imports only: neither ROS nor a device may be opened
# before the fork, because threads do not survive it.
PRELOADED = [
    "pytest",
    "policy_node.ros.main",
    "policy_node_rover.gazebo.watch",
    "policy_node_rover.mujoco.rover_sim",
    "policy_node.cli.monitor",
    "onnxruntime",
    "rosbags.rosbag2",
    "rosbags.typesys",
    "sb3_contrib",
    "stable_baselines3",
]
CONTEXT.set_forkserver_preload(PRELOADED)


class ForkedProcess:
    """A program in a forked process; has the part of `subprocess.Popen` that tests use.

    Parameters
    ----------
    main
        Runs the program with its arguments and returns its exit status. A function of an importable module.
    arguments
        Command line without the name of the program.
    capture
        Whether `stdout` gives what the program writes, instead of its going where this process writes.
    """

    def __init__(
        self, main: Callable[[list[str]], int | None], arguments: Sequence[str] = (), capture: bool = True
    ) -> None:
        self.args = list(arguments)
        self.stdout: IO[str] | None = None
        if capture:
            reader, output = os.pipe()
            self.stdout = os.fdopen(reader, encoding="utf-8")
        else:
            output = os.dup(1)
        # A connection is how a file descriptor travels to the fork server.
        with Connection(output, readable=False) as connection:
            # The server keeps the environment and the folder that it was started with.
            inherited = (dict(os.environ), os.getcwd())
            self._process = CONTEXT.Process(target=_run, args=(connection, *inherited, main, self.args))
            self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit status, negative for a signal; None while the process runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the exit status, None while the process runs."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the process has ended and return its exit status."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """Wait until the process has ended and return its captured output."""
        assert self.stdout is not None
        text: list[str] = []
        stdout = self.stdout
        reader = threading.Thread(target=lambda: text.append("" if stdout.closed else stdout.read()))
        reader.start()
        reader.join(timeout)
        if reader.is_alive():
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        stdout.close()
        self.wait(timeout)
        return text[0], None

    def send_signal(self, number: int) -> None:
        """Send a signal to the process, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _run(
    output: Connection, environment: dict[str, str], folder: str, main: Callable[..., Any], arguments: list[str]
) -> None:
    for stream in (sys.stdout, sys.stderr):
        os.dup2(output.fileno(), stream.fileno())
    output.close()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = [main.__module__, *arguments]
    sys.exit(main(arguments))


def node(arguments: Sequence[str]) -> int:
    """Run the node."""
    from policy_node.ros.main import main

    return main(arguments)


def node_alone(arguments: Sequence[str]) -> int:
    """Run the node without waiting for others that command its robots, and without losing them after a pause."""
    from policy_node.ros import ownership as claims

    claims.DISCOVERY_S, claims.EXPIRY_S = 0.0, math.inf
    return node(arguments)
