# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""What an operator does at the terminal: the commands of `ros2` with the node."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from node_harness import PATIENCE_S

from policy_node.config.package_files import share_path

pytestmark = [
    pytest.mark.over_dds,
    pytest.mark.skipif(
        shutil.which("ros2") is None, reason="the command ros2 comes with a ROS 2 installation, not as a wheel"
    ),
]

NODE = "/policy_node"
# The graph is asked for directly: the daemon that ros2 starts would outlive the tests.
DIRECTLY = ("--no-daemon", "--spin-time", "1")


def ros2(*arguments: str) -> str:
    """Return all that a command says."""
    done = subprocess.run(["ros2", *arguments], capture_output=True, text=True, timeout=PATIENCE_S)
    return done.stdout + done.stderr


def say(expected: str, *arguments: str) -> str:
    """Run a command until it says what is expected, as the node may not be discovered yet; return all it says."""
    deadline_s = time.monotonic() + PATIENCE_S
    while expected not in (said := ros2(*arguments)):
        assert time.monotonic() < deadline_s, f"ros2 {' '.join(arguments)} never said {expected!r} but\n{said}"
    return said


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run the node with the configuration of the rovers, none of which is there."""
    log = (tmp_path_factory.mktemp("node") / "log").open("w")
    parameters = ("--params-file", str(share_path("config", "rover.yaml")), "-p", "policy.engine:=direct")
    process = subprocess.Popen(
        ["ros2", "run", "policy_node", "policy_node", "--ros-args", *parameters],
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    say("active", "lifecycle", "get", NODE, *DIRECTLY)
    yield
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(PATIENCE_S) in (0, -signal.SIGINT)
    log.close()


def test_the_node_shows_its_topics_services_and_transitions(node: None) -> None:
    info = say("/rover_3/cmd_vel", "node", "info", NODE, *DIRECTLY)
    assert "/rover_0/camera/image_raw: sensor_msgs/msg/Image" in info
    assert "/policy_node/stop: std_srvs/srv/Trigger" in info
    assert "/policy_node/change_state: lifecycle_msgs/srv/ChangeState" in info
    assert "deactivate" in say("deactivate", "lifecycle", "list", NODE, *DIRECTLY)


def test_commands_and_diagnostics_can_be_watched(node: None) -> None:
    assert "/diagnostics" in say("/rover_0/cmd_vel", "topic", "list", *DIRECTLY)
    info = say("Publisher count: 1", "topic", "info", "--verbose", "/rover_0/cmd_vel", *DIRECTLY)
    assert "Reliability: RELIABLE" in info and "geometry_msgs/msg/Twist" in info
    assert "linear:" in say(
        "angular:", "topic", "echo", "--once", "/rover_0/cmd_vel", "geometry_msgs/msg/Twist", *DIRECTLY
    )
    diagnostics = say(
        "policy_node: rover_0",
        *("topic", "echo", "--once", "/diagnostics", "diagnostic_msgs/msg/DiagnosticArray"),
        *DIRECTLY,
    )
    assert "WAITING" in diagnostics


def test_the_rate_of_the_commands_can_be_measured(node: None) -> None:
    with subprocess.Popen(
        ["timeout", str(PATIENCE_S), "ros2", "topic", "hz", "/rover_0/cmd_vel"],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as measuring:
        assert measuring.stdout is not None
        assert any("average rate" in line for line in measuring.stdout)
        os.killpg(measuring.pid, signal.SIGINT)


def test_operators_stop_and_resume_the_fleet(node: None) -> None:
    assert "success=True" in say("stopped", "service", "call", f"{NODE}/stop", "std_srvs/srv/Trigger")
    assert "success=True" in say("resum", "service", "call", f"{NODE}/resume", "std_srvs/srv/Trigger")


def test_every_parameter_describes_itself(node: None) -> None:
    listed = say("control_rate_hz", "param", "list", NODE, *DIRECTLY)
    assert "observations.touch.when_silent" in listed
    names = ("control_rate_hz", "policy.engine", "policy.threads", "policy.path")
    said = say("Hz", "param", "describe", NODE, *names, *DIRECTLY)
    rate, engine, threads, path = said.split("Parameter name: ")[1:]
    assert "Rate of the control tick. [Hz]" in rate
    assert "Min value: 0.1" in rate and "Max value: 1000.0" in rate
    assert "read at configure" in rate
    assert "one of 'auto', 'direct'" in engine
    assert "Min value: 1" in threads and "Step: 1" in threads
    assert "may be changed while the node is configured" in path


def test_parameters_are_got_and_those_read_at_configure_refused(node: None) -> None:
    assert "Double value is: 20.0" in say("20.0", "param", "get", NODE, "control_rate_hz", *DIRECTLY)
    assert "String values are: []" in say("[]", "param", "get", NODE, "action.joints", *DIRECTLY)
    refused = say("failed", "param", "set", NODE, "control_rate_hz", "10.0", *DIRECTLY)
    assert "deactivate and clean up the node" in refused


def test_a_node_is_stopped_changed_from_a_dump_and_started_again(node: None, tmp_path: Path) -> None:
    dump = yaml.safe_load(say("control_rate_hz", "param", "dump", NODE, *DIRECTLY))
    assert dump[NODE]["ros__parameters"]["action"]["joints"] == []
    for transition in ("deactivate", "cleanup"):
        say("successful", "lifecycle", "set", NODE, transition, *DIRECTLY)
    assert "out of range" in say("failed", "param", "set", NODE, "control_rate_hz", "5000.0", *DIRECTLY)
    parameters = {**dump[NODE]["ros__parameters"], "control_rate_hz": 10.0}
    file = tmp_path / "parameters.yaml"
    file.write_text(yaml.safe_dump({"/**": {"ros__parameters": parameters}}))
    say("Set parameter control_rate_hz successful", "param", "load", NODE, str(file), *DIRECTLY)
    for transition in ("configure", "activate"):
        say("successful", "lifecycle", "set", NODE, transition, *DIRECTLY)
    assert "active" in say("active", "lifecycle", "get", NODE, *DIRECTLY)
    assert "10.0" in say("10.0", "param", "get", NODE, "control_rate_hz", *DIRECTLY)
