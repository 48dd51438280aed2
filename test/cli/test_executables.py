# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Every executable shows its help, with its document, also without the packages that it needs to run."""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXECUTABLES = dict(re.findall(r'"(\w+) = ([\w.]+\.executables:\w+)"', (ROOT / "setup.py").read_text()))
COMMANDS = [
    *(name for name in EXECUTABLES),
    *("policy_node init", "policy_node check", "policy_node simulate", "policy_bench fleet", "policy_train train"),
    "policy_ctl stop",
]
# Forks a process for each command: importing PyTorch again each time would take long.
HELP = """
import os, sys
from importlib.machinery import PathFinder

MISSING = ("mujoco", "rosbags", "psutil", "tensorboard", "sb3_contrib", "onnx", "onnxruntime", "aiohttp")

class Fewer(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        package = name.partition(".")[0]
        is_ros = package.startswith("rcl") or package.endswith(("_msgs", "_interfaces", "_srvs"))
        return None if package in MISSING or is_ros else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Fewer
import cv2, stable_baselines3, policy_node.policies

from importlib import import_module

for line in sys.argv[1:]:
    target, *words = line.split()
    module, name = target.split(":")
    sys.stdout.flush()
    child = os.fork()
    if not child:
        print(f"== {line}", flush=True)
        os.dup2(1, 2)
        sys.argv = [name, *words, "--help"]
        try:
            status = getattr(import_module(module), name)()
        except SystemExit as error:
            status = error.code
        sys.stdout.flush()
        os._exit(status or 0)
    _, status = os.waitpid(child, 0)
    print(f"status {os.waitstatus_to_exitcode(status)}")
"""


def check_help(commands: Sequence[str]) -> None:
    """Check the output of commands with `--help`, in an environment with fewer packages."""
    lines = [" ".join([EXECUTABLES[name], *words]) for name, *words in map(str.split, commands)]
    run = subprocess.run([sys.executable, "-c", HELP, *lines], capture_output=True, text=True, check=True)
    shown = dict(zip(commands, run.stdout.split("== ")[1:], strict=True))
    for command, text in shown.items():
        assert f"usage: {command}" in text and text.endswith("status 0\n"), text
        documents = re.findall(r"(?:doc/\w+|README)\.md", " ".join(text.split()))
        # The commands of a command are found through it.
        assert documents or command in ("policy_bench fleet", "policy_train train", "policy_ctl stop")
        assert all((ROOT / document).is_file() for document in documents)


def test_help_works_without_ros_and_names_its_document() -> None:
    check_help(["policy_node", "policy_ctl"])


@pytest.mark.slow
def test_help_of_every_executable_works_without_extras_and_names_its_document() -> None:
    check_help(COMMANDS)


def test_a_missing_package_is_named_when_a_command_is_run() -> None:
    script = HELP.replace(', "--help"]', "]")
    line = EXECUTABLES["policy_ctl"] + " status"
    run = subprocess.run([sys.executable, "-c", script, line], capture_output=True, text=True, check=True)
    assert "policy_ctl needs rclpy, which is not installed; source a ROS 2 installation" in run.stdout
    assert run.stdout.endswith("status 1\n")
