# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The executables of the package: each says in one line what it lacks, and ends quietly at Ctrl-C while it loads."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from functools import partial
from types import FrameType

from policy_node.cli.options import INTERRUPTED
from policy_node.cli.signal_handling import handled

# What a plain installation may lack, with what brings it.
REMEDIES = {
    "rclpy": 'source a ROS 2 installation, or pip install ".[ros]" in the copy of policy_node',
    "rosbags": "pip install rosbags",
    **dict.fromkeys(
        ("matplotlib", "mujoco", "PIL", "psutil", "sb3_contrib", "tensorboard"),
        'pip install ".[rover]" in the copy of policy_node',
    ),
}


def run(name: str, module: str) -> int:
    """Run an executable.

    Parameters
    ----------
    name
        As the user calls it.
    module
        Has the `main` that runs it.

    Returns
    -------
    int
        The exit status.
    """
    try:
        # A library that is interrupted while it loads makes other errors of it, with long traces.
        with handled(_end_at_once, signal.SIGINT):
            main = importlib.import_module(module).main
        return main()
    except ModuleNotFoundError as error:
        lacking = (error.name or "").partition(".")[0]
        if lacking not in REMEDIES:
            raise
        print(f"{name} needs {lacking}, which is not installed; {REMEDIES[lacking]}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED


def _end_at_once(number: int, frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)


policy_node = partial(run, "policy_node", "policy_node.ros.node")
policy_export = partial(run, "policy_export", "policy_node.cli.export")
policy_monitor = partial(run, "policy_monitor", "policy_node.cli.monitor")
policy_replay = partial(run, "policy_replay", "policy_node.cli.replay")
