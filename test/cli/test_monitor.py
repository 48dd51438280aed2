# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The terminal view of running nodes, `policy_monitor`."""

import io
import json
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from node_harness import PATIENCE_S, NodeProcess, Peer, ScriptedFleet, parameters_of
from rich.console import Console

from policy_node.cli.monitor import SILENT_S, DiagnosticsView, as_table, parse_options

ROBOTS = ("robot_0", "robot_1", "robot_10")


def start_monitor(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "policy_node.cli.monitor", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_it_shows_every_robot_of_a_running_node(
    model: Callable[..., tuple[Path, Any]], peer: Peer, start_node: Callable[..., NodeProcess]
) -> None:
    start_node(parameters_of(model()[0], ROBOTS, {"synchronisation.max_age_s": 5.0}), name="fleet")
    fleet = ScriptedFleet(peer, ROBOTS)
    fleet.drive(lambda: all(fleet.commands.values()), "commands")
    wait_s = str(PATIENCE_S)
    monitors = [start_monitor("--once", "--timeout-s", wait_s, *more) for more in ([], ["--json", "--node", "/fleet"])]
    # The third robot sends no more readings.
    fleet.drive(lambda: all(monitor.poll() is not None for monitor in monitors), "the monitors", ROBOTS[:2])
    (table, _), (text, _) = (monitor.communicate() for monitor in monitors)
    assert [monitor.returncode for monitor in monitors] == [0, 0]

    (name, node), *others = json.loads(text).items()
    assert name == "/fleet" and not others
    assert node["values"]["control_rate_hz"] == 20.0 and isinstance(node["values"]["ticks"], int)
    assert len(node["values"]["policy_sha256"]) == 64
    assert set(node["robots"]) == set(ROBOTS)
    assert node["robots"]["robot_0"]["values"]["state"] == "READY"

    assert "/fleet" in table and "20.0 Hz" in table and "lateness" in table
    places = [table.index(f"{robot} ") for robot in ROBOTS]
    assert places == sorted(places)
    assert "READY" in table and "driven %" in table
    assert 0.0 <= node["robots"]["robot_0"]["values"]["driven_percent"] <= 100.0


def test_it_shows_a_node_that_is_not_active(peer: Peer, start_node: Callable[..., NodeProcess]) -> None:
    process = start_node(parameters_of("nothing.zip", ROBOTS, {}), name="fleet")
    process.wait_for("configure failed")
    monitors = [
        start_monitor("--once", "--timeout-s", str(PATIENCE_S), "--node", "/fleet", *more) for more in ([], ["--json"])
    ]
    (table, _), (text, _) = (monitor.communicate(timeout=PATIENCE_S) for monitor in monitors)
    assert [monitor.returncode for monitor in monitors] == [0, 0]
    assert table.startswith("/fleet ERROR unconfigured: configure failed:\npolicy.path: ") and "nothing.zip" in table
    # No figures, and no robots.
    assert "missed" not in table and "state" not in table
    node = json.loads(text)["/fleet"]
    assert node["level"] == "ERROR" and node["robots"] == {}
    assert node["values"] == {"lifecycle_state": "unconfigured", "process": f"{platform.node()}:{process.pid}"}


def test_two_nodes_of_one_name_are_told_apart(peer: Peer) -> None:
    view = DiagnosticsView(peer.node, "")
    publisher = peer.node.create_publisher(DiagnosticArray, "/diagnostics", 10)
    peer.spin_until(publisher.get_subscription_count, "the monitor's subscription")

    def report(process: str, robot: str) -> None:
        values = [KeyValue(key="process", value=process)]
        control = DiagnosticStatus(name="fleet: control", values=[KeyValue(key="lifecycle_state", value="active")])
        state = DiagnosticStatus(name=f"fleet: {robot}", values=[KeyValue(key="state", value="READY")])
        control.values += values
        state.values += values
        publisher.publish(DiagnosticArray(status=[control, state]))

    def shown() -> dict[str, list[str]]:
        view.take()
        return {name: list(node.robots) for name, node in view.nodes.items()}

    report("here:1", "left")
    peer.spin_until(lambda: shown() == {"fleet": ["left"]}, "the first node")
    report("there:1", "right")
    both = {"fleet (here:1)": ["left"], "fleet (there:1)": ["right"]}
    peer.spin_until(lambda: shown() == both, "both nodes")
    # One that is silent was started again in another process.
    for node in view.nodes.values():
        node.heard_s -= 2 * SILENT_S
    report("there:1", "right")
    peer.spin_until(lambda: shown() == {"fleet": ["right"]}, "the second node alone")


def test_problems_of_sensors_and_commands_are_shown(peer: Peer) -> None:
    view = DiagnosticsView(peer.node, "")
    publisher = peer.node.create_publisher(DiagnosticArray, "/diagnostics", 10)
    peer.spin_until(publisher.get_subscription_count, "the monitor's subscription")
    problems = {
        "commands_unheard": "/left/cmd_vel is subscribed as geometry_msgs/msg/TwistStamped by /base",
        "image_offset": "image: stamps on camera are 10.02 s behind the clock of this computer, constant (left)",
        "image_repeated": "image: at 50% of the ticks within 5.0 s no new image came on camera (left)",
    }
    values = {"lifecycle_state": "active", **problems}
    pairs = [KeyValue(key=key, value=value) for key, value in values.items()]
    publisher.publish(DiagnosticArray(status=[DiagnosticStatus(name="fleet: control", values=pairs)]))

    def shown() -> str:
        view.take()
        console = Console(file=io.StringIO(), width=200)
        console.print(as_table(view))
        return console.file.getvalue()

    peer.spin_until(lambda: all(problem in shown() for problem in problems.values()), "the problems")


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_it_reports_that_no_node_publishes(more: list[str]) -> None:
    monitor = start_monitor("--once", "--timeout-s", "1", "--node", "/nobody", *more)
    output, errors = monitor.communicate(timeout=PATIENCE_S)
    assert monitor.returncode == 1
    first, why = errors.splitlines()
    assert first == "waiting for /diagnostics, at most 1 s …"
    assert "/nobody does not publish on /diagnostics" in why
    assert output == ("{}\n" if more else "")
    assert "Traceback" not in errors


def test_a_wrong_option_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_options(["--timeout-s", "never"])
    assert "--timeout-s: found 'never', allowed is a number from 0.1 to 3600" in capsys.readouterr().err
