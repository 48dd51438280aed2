# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Run the executables of the package; name a missing dependency in one line, and end quietly at Ctrl-C."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from functools import partial
from types import FrameType

from policy_node.cli.options import INTERRUPTED
from policy_node.cli.signal_handling import temporary_handler

# Packages that a plain installation may lack, and how to install them.
REMEDIES = {
    "rclpy": 'source a ROS 2 installation, or pip install ".[ros]" in the copy of policy_node',
    "rosbags": "pip install rosbags",
    **dict.fromkeys(("aiohttp", "youplot"), 'pip install ".[web]" in the copy of policy_node'),
    **dict.fromkeys(
        ("matplotlib", "mujoco", "PIL", "psutil", "sb3_contrib", "tensorboard"),
        'pip install ".[rover]" in the copy of policy_node',
    ),
}


def run(name: str, module: str) -> int:
    """Run the `main` of a module as the command `name` and return its exit status."""
    try:
        # A library that is interrupted while it loads may raise other errors, with long traces.
        with temporary_handler(_exit_at_once, signal.SIGINT):
            main = importlib.import_module(module).main
        return main()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in REMEDIES:
            raise
        print(f"{name} needs {missing}, which is not installed; {REMEDIES[missing]}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED


def _exit_at_once(number: int, frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)


policy_node = partial(run, "policy_node", "policy_node.ros.main")
policy_export = partial(run, "policy_export", "policy_node.cli.export")
policy_monitor = partial(run, "policy_monitor", "policy_node.cli.monitor")
policy_replay = partial(run, "policy_replay", "policy_node.cli.replay")
