# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""What starts the node on a robot: the systemd unit with its environment file, and the Dockerfile."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from policy_node.cli.launching import ONBOARD_ARGUMENTS

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
UNIT = (DEPLOY / "policy_node.service").read_text()
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze comes with systemd")
@pytest.mark.parametrize("user", [False, True], ids=["system", "user"])
def test_systemd_understands_the_unit(user: bool, tmp_path: Path) -> None:
    """As it is, and, without its line `User=`, as a unit of a user."""
    unit = tmp_path / "policy_node.service"
    unit.write_text(re.sub(r"^User=.*\n", "", UNIT, flags=re.MULTILINE) if user else UNIT)
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    arguments = ["--user"] if user else []
    done = subprocess.run(
        ["systemd-analyze", *arguments, "verify", str(unit)],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert unit.name not in done.stderr


def test_the_unit_starts_the_launch_file_with_what_the_environment_file_says(tmp_path: Path) -> None:
    """The command line of the unit really runs, with a `ros2` that shows what it is given."""
    (tmp_path / "ros2").write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    (tmp_path / "ros2").chmod(0o755)
    (tmp_path / "setup.bash").write_text(f'export PATH="{tmp_path}:$PATH"\n')
    entries = re.findall(r'^([A-Z_]+)="?(.*?)"?$', (DEPLOY / "environment").read_text(), re.MULTILINE)
    environment = {**os.environ, **dict(entries), "ROS_SETUP": str(tmp_path / "setup.bash")}
    command = re.search(r"^ExecStart=/bin/bash -c '(.*)'$", UNIT, re.MULTILINE)
    assert command
    said = subprocess.run(
        ["/bin/bash", "-c", command[1].replace("$$", "$")], capture_output=True, text=True, check=True, env=environment
    ).stdout.splitlines()
    assert said == [
        "launch",
        "policy_node",
        "onboard.launch.py",
        f"params_file:={dict(entries)['PARAMS_FILE']}",
        *dict(entries)["LAUNCH_ARGUMENTS"].split(),
    ]


@pytest.mark.parametrize("text", [(DEPLOY / "environment").read_text(), DOCKERFILE], ids=["environment", "Dockerfile"])
def test_arguments_for_the_launch_file_exist(text: str) -> None:
    used = set(re.findall(r"\b(\w+):=", text))
    assert used
    assert used <= {argument.name for argument in ONBOARD_ARGUMENTS}


def test_the_image_gets_all_that_is_installed() -> None:
    """Everything that setup.py installs goes into the build's context, which begins empty."""
    sent = re.findall(r"^!(.+)$", (DEPLOY / "Dockerfile.dockerignore").read_text(), re.MULTILINE)
    assert all((ROOT / name).exists() for name in sent)
    folders = re.search(r"for folder in \((.+?)\)", (ROOT / "setup.py").read_text())
    assert folders
    installed = {name.split("/")[0] for name in re.findall(r'"([\w/]+)"', folders[1])}
    packages = {"policy_node", "policy_node_bench", "policy_node_rover"}
    assert installed | packages | {"resource", "package.xml", "setup.py", "setup.cfg"} <= set(sent)
