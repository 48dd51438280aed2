# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""What an operator sees of a node that is not active, that fails, and that logs for debugging."""

import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import TwistStamped
from moody import EXHAUST, MoodyFleet, moody_parameters, save_moody
from node_harness import PATIENCE_S, Diagnostics, LifecycleClient, NodeProcess, Peer, ScriptedFleet, parameters_of
from std_srvs.srv import Trigger

Model = Callable[..., tuple[Path, Any]]
StartNode = Callable[..., NodeProcess]

CONTROL = "policy_node: control"


def test_diagnostics_show_every_state_of_the_lifecycle(model: Model, peer: Peer, start_node: StartNode) -> None:
    diagnostics = Diagnostics(peer)
    process = start_node(parameters_of("nothing.zip", ["robot"], {"autostart": False}))
    operator = LifecycleClient(peer, process.full_name)

    def wait_for(state: str) -> DiagnosticStatus:
        diagnostics.newest.clear()
        peer.spin_until(lambda: diagnostics.values(CONTROL).get("lifecycle_state") == state, f"{state} in diagnostics")
        return diagnostics.newest[CONTROL]

    status = wait_for("unconfigured")
    assert (status.level, status.message) == (DiagnosticStatus.WARN, "unconfigured: no robot is driven")
    assert not operator.change("configure")
    # Once a second, until it is configured.
    for _ in range(2):
        status = wait_for("unconfigured")
        assert status.level == DiagnosticStatus.ERROR
        assert status.message.startswith("unconfigured: configure failed:\npolicy.path: ")
        assert "nothing.zip" in status.message
    assert operator.set(policy__path=str(model()[0])) == ""
    diagnostics.arrays.clear()
    assert operator.change("configure")
    assert wait_for("inactive").level == DiagnosticStatus.WARN
    states = [pair.value for array in diagnostics.arrays for pair in array.status[0].values]
    assert "configuring" in states
    assert operator.change("activate")
    assert "ticks" in {pair.key for pair in wait_for("active").values}
    assert operator.change("deactivate")
    assert wait_for("inactive").message == "inactive: no robot is driven"
    assert operator.change("cleanup")
    assert wait_for("unconfigured").level == DiagnosticStatus.WARN
    assert operator.change("unconfigured_shutdown")
    wait_for("finalized")
    assert process.send(signal.SIGINT) == 0


def test_a_failed_configure_ends_the_process_where_that_is_wanted(start_node: StartNode) -> None:
    process = start_node(parameters_of("nothing.zip", ["robot"], {"exit_on_failure": True}))
    process.wait_for("configure failed:.*exit_on_failure is true: the process ends with status 1")
    assert process.send(signal.SIGCONT) == 1
    assert process.text.count("exit_on_failure is true") == 1
    assert "The node stays alive" not in process.text and "Traceback" not in process.text


def test_a_loop_that_ends_makes_the_robot_safe_and_ends_the_process(
    peer: Peer, start_node: StartNode, tmp_path: Path
) -> None:
    process = start_node(moody_parameters(save_moody(tmp_path / "moody.pt"), ["robot"]))
    operator = LifecycleClient(peer, process.full_name)
    fleet = MoodyFleet(peer, ["robot"])
    diagnostics = Diagnostics(peer)
    fleet.live(fleet.is_driven, "commands of the policy")
    # Also while the node drives.
    assert "exit_on_failure: found 1" in operator.set(exit_on_failure=1)
    assert operator.set(exit_on_failure=True) == ""
    fleet.send(moods={"robot": (EXHAUST, 0.0)})
    peer.spin_until(lambda: not process.alive, "the end of the process", PATIENCE_S)
    assert process.status == 1
    assert fleet.is_safe()
    statuses = [status for array in diagnostics.arrays for status in array.status if status.name == CONTROL]
    assert any(status.level == DiagnosticStatus.ERROR and "memory" in status.message for status in statuses)
    # That of TorchScript is part of the error.
    assert "Traceback (most recent call last)" not in process.text


def test_the_log_level_is_that_of_the_node_alone(peer: Peer, start_node: StartNode, tmp_path: Path) -> None:
    process = start_node(moody_parameters(save_moody(tmp_path / "moody.pt"), ["robot"], log_level="debug"))
    operator = LifecycleClient(peer, process.full_name)
    fleet = MoodyFleet(peer, ["robot"])
    account = (
        r"\[policy_node\]: tick at \d+\.\d+ s: \d[^\n]* ms late, took \d[^\n]* ms .take \d[^\n]*, publish [\d.]+.; "
        r"robot READY, age \d+ ms, sent \["
    )
    fleet.live(lambda: re.search(account, process.text), "the account of a tick")
    debugging = [line for line in process.text.splitlines() if "[DEBUG]" in line]
    assert debugging and all("[policy_node]" in line for line in debugging)

    assert "log_level: found 'loud'" in operator.set(log_level="loud")
    assert operator.set(log_level="warn") == ""
    peer.call(Trigger, f"{process.full_name}/stop", Trigger.Request())
    assert operator.change("deactivate")
    assert process.send(signal.SIGINT) == 0
    _, warning, after = process.text.partition("~/stop: stopped; ")
    assert warning and not re.search(r"\[(DEBUG|INFO)\]", after)


def test_commands_that_nobody_gets_are_named_in_log_and_diagnostics(
    model: Model, peer: Peer, start_node: StartNode
) -> None:
    robots = ["heard", "stamped", "unheard"]
    process = start_node(parameters_of(model()[0], robots, {"synchronisation.max_age_s": 5.0}))
    diagnostics = Diagnostics(peer)
    ScriptedFleet(peer, robots[:1])
    subscriber = peer.node.get_fully_qualified_name()
    peer.node.create_subscription(TwistStamped, "/stamped/cmd_vel", print, 1)
    found = (
        f"/stamped/cmd_vel is subscribed as geometry_msgs/msg/TwistStamped by {subscriber}, action.type is "
        "geometry_msgs/msg/Twist"
    )

    def unheard(robot: str) -> str:
        return diagnostics.values(f"policy_node: {robot}").get("commands_unheard", "")

    peer.spin_until(
        lambda: unheard("stamped") == found and unheard("unheard") == "nobody subscribes to /unheard/cmd_vel",
        "both findings",
    )
    process.wait_for(f"commands are not heard: {found}; so it is with unheard")
    peer.spin_until(lambda: "commands_unheard" in diagnostics.values(CONTROL), "the finding of the node")
    assert diagnostics.newest[CONTROL].level == DiagnosticStatus.WARN
    assert unheard("heard") == ""
