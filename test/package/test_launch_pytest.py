# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Launch files as a test of the launch system sees them: what the processes say, and how they end."""

import pytest

pytest.importorskip("launch_pytest", reason="launch_pytest comes with a ROS 2 installation, not as a wheel")
if pytest.version_tuple >= (8, 4):
    # Its fixtures rely on what pytest 8.4 has changed.
    pytest.skip("launch_pytest does not fit this version of pytest", allow_module_level=True)

import time
from collections.abc import Iterator
from typing import Any

import launch
import launch_pytest
from launch.actions import IncludeLaunchDescription, RegisterEventHandler
from launch.event_handlers import OnProcessExit, OnProcessIO
from launch.launch_description_sources import AnyLaunchDescriptionSource
from node_harness import PATIENCE_S

from policy_node.config.package_files import share_path

FILES = ("policy.launch.py", "policy.launch.xml", "policy.launch.yaml", "onboard.launch.py")


class Watched:
    """What the processes of a launch file have said so far, and how those that have ended did."""

    def __init__(self) -> None:
        self.said = ""
        self.exit_codes: list[int] = []

    def wait_for(self, text: str) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while text not in self.said:
            assert time.monotonic() < deadline_s and not self.exit_codes, f"never said {text!r}:\n{self.said}"
            time.sleep(0.05)

    def on_io(self, event: Any) -> None:
        self.said += event.text.decode()

    def on_exit(self, event: Any, context: launch.LaunchContext) -> None:
        self.exit_codes.append(event.returncode)


@pytest.fixture
def watched() -> Watched:
    return Watched()


@launch_pytest.fixture(params=FILES)
def description(request: pytest.FixtureRequest, watched: Watched) -> launch.LaunchDescription:
    """Include a launch file as somebody else's would."""
    return launch.LaunchDescription(
        [
            RegisterEventHandler(OnProcessIO(on_stdout=watched.on_io, on_stderr=watched.on_io)),
            RegisterEventHandler(OnProcessExit(on_exit=watched.on_exit)),
            IncludeLaunchDescription(
                AnyLaunchDescriptionSource(str(share_path("launch", request.param))),
                launch_arguments={"params_file": str(share_path("config", "rover.yaml"))}.items(),
            ),
            launch_pytest.actions.ReadyToTest(),
        ]
    )


@pytest.mark.launch(fixture=description)
def test_the_node_drives_and_ends_in_order_with_its_launch(watched: Watched) -> Iterator[None]:
    watched.wait_for("active: driving rover_0, rover_1, rover_2, rover_3")
    yield
    # Launch has ended by now.
    assert "every robot got the safe command" in watched.said
    assert watched.exit_codes == [0]
