# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Processes that are forked for tests begin as programs do in a new interpreter, but for the time of their imports."""

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from forked import PRELOADED, ForkedProcess
from node_harness import PATIENCE_S


def show_start(arguments: list[str]) -> int:
    """Print what a program finds at its start."""
    missing = [name for name in PRELOADED if name not in sys.modules and importlib.util.find_spec(name)]
    import rclpy

    print("missing", missing)
    print("threads", threading.active_count())
    print("rclpy", rclpy.ok())
    print("variable", os.environ.get("VARIABLE"))
    print("folder", os.getcwd())
    print("arguments", arguments, sys.argv[1:], file=sys.stderr)
    return 3


def sleep(arguments: list[str]) -> int:
    """Sleep until a signal comes."""
    print("sleeping", flush=True)
    time.sleep(PATIENCE_S)
    return 0


def test_a_forked_program_has_everything_imported_and_nothing_opened(
    monkeypatch: pytest.MonkeyPatch, tmp_path: str
) -> None:
    # The process that forks may have been started long before.
    ForkedProcess(show_start).communicate(PATIENCE_S)
    monkeypatch.setenv("VARIABLE", "1")
    monkeypatch.chdir(tmp_path)
    process = ForkedProcess(show_start, ["--option"])
    said, _ = process.communicate(PATIENCE_S)
    assert sorted(said.splitlines()) == [
        "arguments ['--option'] ['--option']",
        f"folder {tmp_path}",
        "missing []",
        "rclpy False",
        "threads 1",
        "variable 1",
    ]
    assert process.returncode == 3


def test_a_signal_ends_a_forked_program_as_any_other() -> None:
    for number, status in ((signal.SIGINT, 1), (signal.SIGTERM, -signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)):
        process = ForkedProcess(sleep)
        assert process.stdout is not None and process.stdout.readline() == "sleeping\n"
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        process.send_signal(number)
        said, _ = process.communicate(PATIENCE_S)
        assert process.returncode == status and ("KeyboardInterrupt" in said) == (number == signal.SIGINT)
