# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The processes that the demonstration and the benchmark run and measure from outside."""

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
    """A tool cannot go on; the text says why."""


class Child:
    """A Python process whose output goes to a log file.

    Parameters
    ----------
    name
        For messages.
    arguments
        Of the Python interpreter.
    log
        File for its output.
    environment
        Variables that it gets beside those of this process.
    """

    def __init__(
        self, name: str, arguments: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.log = log
        with log.open("w") as output:
            # A session of its own: Ctrl-C in the terminal is for the tool, which ends its children in order.
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._usage = psutil.Process(self._process.pid)

    def cpu_s(self) -> float:
        """Return the CPU time used so far, user and system, all threads."""
        # What clock_getcpuclockid(3) returns; /proc counts in steps of 10 ms.
        return time.clock_gettime((~self._process.pid << 3) | 2)

    def thread_cpu_s(self) -> dict[int, tuple[str, float]]:
        """Return by thread its name and the CPU time that it has used so far."""
        times = {}
        for task in Path(f"/proc/{self._process.pid}/task").iterdir():
            # A thread may end at any moment.
            with contextlib.suppress(OSError):
                run_ns = int((task / "schedstat").read_text().split()[0])
                times[int(task.name)] = ((task / "comm").read_text().strip(), run_ns / 1e9)
        return times

    def thread_wait_s(self) -> dict[int, float]:
        """Return by thread how long it has been ready to run, but was kept from it, so far."""
        waits = {}
        for task in Path(f"/proc/{self._process.pid}/task").iterdir():
            with contextlib.suppress(OSError):
                waits[int(task.name)] = int((task / "schedstat").read_text().split()[1]) / 1e9
        return waits

    def rss_mb(self) -> float:
        """Return the resident memory in 10^6 bytes."""
        return self._usage.memory_info().rss / 1e6

    def resources(self) -> tuple[float, int, int]:
        """Return the resident memory in 10^6 bytes, and how many file descriptors and threads are open."""
        with self._usage.oneshot():
            return self.rss_mb(), self._usage.num_fds(), self._usage.num_threads()

    def check(self) -> None:
        """Raise ToolError when the process has ended."""
        status = self._process.poll()
        if status is not None:
            raise self.error(f"ended by itself with status {status}")

    def error(self, what: str) -> ToolError:
        """Return an error that says what the process did and shows the end of its log."""
        return ToolError(f"{self.name} {what}:\n{self.tail() or '(it wrote nothing)'}")

    def tail(self) -> str:
        """Return the last lines of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_LINES:])

    def stop(self) -> int:
        """End the process politely, or for good when it does not listen, and return its exit status."""
        self._process.terminate()
        try:
            return self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def kill(self) -> None:
        """End the process at once, without a chance to say good-bye (SIGKILL)."""
        self._process.kill()
        self._process.wait()
