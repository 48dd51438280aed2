# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The parameter files that README and documentation show are read by ROS, which is stricter than YAML."""

import re
import textwrap
from pathlib import Path

import pytest
import rclpy
from rclpy.context import Context

ROOT = Path(__file__).parents[2]
FILES = (
    "README.md",
    "doc/getting_started.md",
    "doc/configuration.md",
    "doc/gazebo.md",
    "doc/onboard.md",
    *(
        f"config/{name}.yaml"
        for name in (
            "rover",
            "quadruped",
            "turtlebot3",
            "turtlebot4",
            "arm_wrist_camera",
            "twist_mux",
            "lidar_goal",
            "depth_camera",
            "arm_gripper",
            "quadruped_gains",
        )
    ),
)


@pytest.mark.parametrize("file", FILES)
def test_ros_reads_the_parameter_files_that_we_show(file: str, tmp_path: Path) -> None:
    text = (ROOT / file).read_text()
    if file.endswith(".md"):
        blocks = [textwrap.dedent(block) for block in re.findall(r" *```yaml\n(.*?)```", text, re.DOTALL)]
    else:
        blocks = [text]
    shown = [block for block in blocks if "ros__parameters" in block]
    assert shown
    for block in shown:
        (tmp_path / "parameters.yaml").write_text(block)
        context = Context()
        rclpy.init(args=["--ros-args", "--params-file", str(tmp_path / "parameters.yaml")], context=context)
        rclpy.shutdown(context=context)
