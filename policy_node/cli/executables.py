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

from policy_node.cli.absent import import_without, is_of_ros
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
        missing = "rclpy" if is_of_ros(missing) else missing
        if missing not in REMEDIES:
            raise
        if {"-h", "--help"}.intersection(sys.argv[1:]):
            return _help(module)
        print(f"{name} needs {missing}, which is not installed; {REMEDIES[missing]}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED


def _help(name: str) -> int:
    """Show the help of a module whose packages are not all installed."""
    module = import_without(name, tuple(REMEDIES))
    parse = getattr(module, "parse_options", None) or module.make_parser().parse_args
    parse(sys.argv[1:])
    return 0


def _exit_at_once(number: int, frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)


# Commands of `policy_node`; without one it runs the node.
COMMANDS = {"check": "policy_node.cli.check", "init": "policy_node.cli.init", "simulate": "policy_node.cli.simulate"}


def policy_node() -> int:
    """Run the node, or a command of it."""
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if command not in COMMANDS:
        return run("policy_node", "policy_node.ros.main")
    # The parser of the command knows the first two words.
    del sys.argv[1]
    return run(f"policy_node {command}", COMMANDS[command])


policy_ctl = partial(run, "policy_ctl", "policy_node.cli.ctl")
policy_export = partial(run, "policy_export", "policy_node.cli.export")
policy_monitor = partial(run, "policy_monitor", "policy_node.cli.monitor")
policy_replay = partial(run, "policy_replay", "policy_node.cli.replay")
