# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Run and measure the processes of the demonstration and of the benchmarks."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

STOP_TIMEOUT_S = 15.0
LOG_LINES = 30


class ToolError(RuntimeError):
    """A tool cannot continue; the text says why."""


class Child:
    """A Python process whose output goes to a log file.

    Parameters
    ----------
    name
        Name in messages.
    arguments
        Command line of the Python interpreter.
    log
        File for its output.
    environment
        Variables added to those of this process.
    wrapper
        Command that runs the one after it in place of itself, as `nice` does.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        wrapper: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.log = log
        with log.open("w") as output:
            # In a new session: Ctrl-C in the terminal reaches only the tool, which ends its children in order.
            self._process = subprocess.Popen(
                [*wrapper, sys.executable, *arguments],
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._usage = psutil.Process(self._process.pid)

    @property
    def pid(self) -> int:
        """The process identifier."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status; None while the process runs."""
        return self._process.poll()

    def cpu_s(self) -> float:
        """Return the CPU time used so far, user and system, all threads."""
        # The clock of clock_getcpuclockid(3), because /proc counts in steps of 10 ms.
        return time.clock_gettime((~self._process.pid << 3) | 2)

    def thread_cpu_s(self) -> dict[int, tuple[str, float]]:
        """Return the name and the CPU time used so far of each thread, by its identifier."""
        return {thread: (name, run_s) for thread, (name, run_s, _) in self._threads().items()}

    def thread_wait_s(self) -> dict[int, float]:
        """Return the time so far in which each thread, by its identifier, was ready but waited for a CPU."""
        return {thread: wait_s for thread, (_, _, wait_s) in self._threads().items()}

    def _threads(self) -> dict[int, tuple[str, float, float]]:
        """Return name, CPU time and time of waiting for a CPU of each thread."""
        threads = {}
        for task in Path(f"/proc/{self._process.pid}/task").iterdir():
            # A thread may end at any moment.
            with contextlib.suppress(OSError):
                run_ns, wait_ns = map(int, (task / "schedstat").read_text().split()[:2])
                threads[int(task.name)] = ((task / "comm").read_text().strip(), run_ns / 1e9, wait_ns / 1e9)
        return threads

    def rss_mb(self) -> float:
        """Return the resident memory in 10^6 bytes."""
        return self._usage.memory_info().rss / 1e6

    def resources(self) -> tuple[float, int, int]:
        """Return the resident memory in 10^6 bytes, and the numbers of open file descriptors and of threads."""
        with self._usage.oneshot():
            return self.rss_mb(), self._usage.num_fds(), self._usage.num_threads()

    def check(self) -> None:
        """Raise ToolError when the process has ended."""
        if self.status is not None:
            raise self.error(f"ended by itself with status {self.status}")

    def error(self, what: str) -> ToolError:
        """Return an error with the end of the log."""
        return ToolError(f"{self.name} {what}:\n{self.tail() or '(it wrote nothing)'}")

    def tail(self) -> str:
        """Return the last lines of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_LINES:])

    def stop(self) -> int:
        """Terminate the process, kill it after a timeout, and return its exit status."""
        self._process.terminate()
        try:
            return self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def kill(self) -> None:
        """Kill the process (SIGKILL)."""
        self._process.kill()
        self._process.wait()
