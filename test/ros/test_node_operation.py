# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The operator's services in every state of the node, and the end of the node: always with safe robots."""

import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from moody import EXHAUST, HANG, RAISE, SAFE, MoodyFleet, moody_parameters, save_moody
from node_harness import Diagnostics, LifecycleClient, NodeProcess, Peer, command_values
from std_msgs.msg import String
from std_srvs.srv import Trigger

ROBOTS = ("robot_0", "robot_1")
OPERATIONS = ("stop", "resume", "reset")

StartNode = Callable[..., NodeProcess]


@pytest.fixture(scope="module")
def moody(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_moody(tmp_path_factory.mktemp("moody") / "moody.pt")


class Operator(LifecycleClient):
    """Requests transitions, stop, resume and reset."""

    def ask(self, name: str) -> str:
        """Call one of the services and return its answer."""
        response: Trigger.Response = self._peer.call(Trigger, f"{self._name}/{name}", Trigger.Request())
        assert response.success
        return response.message


def test_a_stop_holds_through_all_states_until_it_is_resumed(moody: Path, peer: Peer, start_node: StartNode) -> None:
    process = start_node(moody_parameters(moody, ROBOTS, autostart=False))
    operator = Operator(peer, process.full_name)
    fleet = MoodyFleet(peer, ROBOTS)
    assert "nothing to resume" in operator.ask("resume")
    assert "no robot is driven now" in operator.ask("reset")
    reset = peer.node.create_publisher(String, f"{process.full_name}/reset", 10)
    peer.spin_until(reset.get_subscription_count, "the node's subscription")
    reset.publish(String(data="robot_0"))
    process.wait_for("~/reset: found 'robot_0', but the node is not active; activation starts fresh")
    assert "stopped; no robot is driven now" in operator.ask("stop")
    for _ in range(2):
        assert operator.change("configure") and operator.change("activate")
        for _ in range(2):
            # Safe commands at every tick, although all readings are good.
            fleet.clear()
            fleet.live(lambda: len(fleet.commands["robot_0"]) > 10, "commands")
            assert all(fleet.is_safe(robot) for robot in ROBOTS)
            assert {tuple(command_values(command)) for command in fleet.commands["robot_1"]} == {SAFE}
            assert operator.change("deactivate") and operator.change("activate")
        assert operator.change("deactivate") and operator.change("cleanup")
    process.wait_for(r"2 robots stay stopped until ~/resume is called")
    assert "resumed; no robot is driven now" in operator.ask("resume")
    assert operator.change("configure") and operator.change("activate")
    fleet.live(fleet.is_driven, "commands of the policy")

    diagnostics = Diagnostics(peer)
    assert operator.ask("stop") == "stopped; 2 of 2 robots got their safe command, until ~/resume is called"
    # No command of the policy follows it.
    peer.spin_until(fleet.is_safe, "safe commands")
    fleet.clear()
    fleet.live(lambda: diagnostics.values("policy_node: robot_1").get("state") == "STOPPED", "the state in diagnostics")
    assert {tuple(command_values(command)) for command in fleet.commands["robot_1"]} == {SAFE}
    assert "already stopped; 2 of 2" in operator.ask("stop")
    assert operator.ask("resume") == "resumed; the policy drives each of the 2 robots whose data are good"
    fleet.live(fleet.is_driven, "commands of the policy")
    assert process.send(signal.SIGINT) == 0


def test_an_operator_stops_robots_while_the_tick_hangs(moody: Path, peer: Peer, start_node: StartNode) -> None:
    # The watchdog would act long after the operator.
    parameters = moody_parameters(moody, ROBOTS, watchdog__timeout_s=60.0, synchronisation__max_age_s=60.0)
    process = start_node(parameters)
    operator = Operator(peer, process.full_name)
    fleet = MoodyFleet(peer, ROBOTS)
    fleet.live(fleet.is_driven, "commands of the policy")
    fleet.send(moods={"robot_0": (HANG, 5.0)})
    fleet.wait_for_silence()
    assert "stopped; 2 of 2 robots got their safe command" in operator.ask("stop")
    peer.spin_until(lambda: all(fleet.commands.values()), "safe commands")
    assert fleet.is_safe()
    # The command of the tick that hung is not sent.
    fleet.live(lambda: fleet.commands["robot_1"], "the command of the tick")
    for robot in ROBOTS:
        assert {tuple(command_values(command)) for command in fleet.commands[robot]} == {SAFE}
    operator.ask("resume")
    fleet.live(fleet.is_driven, "commands of the policy")


def test_one_robot_is_stopped_by_name(moody: Path, peer: Peer, start_node: StartNode) -> None:
    parameters = moody_parameters(moody, ROBOTS, watchdog__timeout_s=60.0, synchronisation__max_age_s=60.0)
    process = start_node({**parameters, "autostart": False})
    operator = Operator(peer, process.full_name)
    fleet = MoodyFleet(peer, ROBOTS)
    publishers = {name: peer.node.create_publisher(String, f"{process.full_name}/{name}", 10) for name in OPERATIONS}

    def send(operation: str, robot: str) -> None:
        peer.spin_until(publishers[operation].get_subscription_count, "the node's subscription")
        publishers[operation].publish(String(data=robot))

    def expect(driven: str, safe: str) -> None:
        for _ in range(2):
            fleet.clear()
            fleet.live(lambda: len(fleet.commands[driven]) > 5 and len(fleet.commands[safe]) > 5, "commands")
        assert all(command_values(command)[0] > 0.0 for command in fleet.commands[driven])
        assert {tuple(command_values(command)) for command in fleet.commands[safe]} == {SAFE}

    # A stop of one robot holds over transitions, as one of all does.
    send("stop", "/robot_1")
    process.wait_for("~/stop: robot_1 is stopped: it will not be driven after activation, until it is resumed")
    send("stop", "robot_9")
    process.wait_for("~/stop: found 'robot_9', which is no robot of this node; driven are robot_0, robot_1")
    assert operator.change("configure") and operator.change("activate")
    process.wait_for("1 of 2 robots stay stopped until ~/resume is called")
    fleet.live(lambda: fleet.is_driven("robot_0"), "commands of the policy")
    expect(driven="robot_0", safe="robot_1")
    send("resume", "robot_1")
    fleet.live(fleet.is_driven, "commands of the policy")

    # Also while the tick hangs; the command of the tick that hung goes to the other robot only.
    fleet.send(moods={"robot_0": (HANG, 3.0)})
    fleet.wait_for_silence()
    send("stop", "robot_0")
    peer.spin_until(lambda: fleet.commands["robot_0"], "the safe command")
    assert not fleet.commands["robot_1"]
    fleet.live(lambda: fleet.commands["robot_1"], "the command of the tick")
    assert {tuple(command_values(command)) for command in fleet.commands["robot_0"]} == {SAFE}
    assert all(command_values(command)[0] > 0.0 for command in fleet.commands["robot_1"])

    # Of all robots that are stopped, one is resumed.
    operator.ask("stop")
    send("resume", "robot_0")
    fleet.live(lambda: fleet.is_driven("robot_0"), "commands of the policy")
    expect(driven="robot_0", safe="robot_1")
    assert operator.ask("resume") == "resumed; the policy drives each of the 2 robots whose data are good"
    fleet.live(fleet.is_driven, "commands of the policy")


def test_an_operator_stops_robots_while_a_policy_loads(
    moody: Path, peer: Peer, start_node: StartNode, tmp_path: Path
) -> None:
    process = start_node(moody_parameters(moody, ROBOTS))
    operator = Operator(peer, process.full_name)
    fleet = MoodyFleet(peer, ROBOTS)
    fleet.live(fleet.is_driven, "commands of the policy")
    end = operator.begin_to_set(policy__path=str(save_moody(tmp_path / "another.pt")))
    operator.ask("stop")
    peer.spin_until(fleet.is_safe, "safe commands")
    assert end() == ""
    fleet.clear()
    fleet.live(lambda: len(fleet.commands["robot_0"]) > 10, "commands after the swap")
    assert {tuple(command_values(command)) for command in fleet.commands["robot_0"]} == {SAFE}
    operator.ask("resume")
    fleet.live(fleet.is_driven, "commands of the policy")


def test_limits_are_changed_while_the_robots_are_driven(
    moody: Path, peer: Peer, start_node: StartNode, tmp_path: Path
) -> None:
    # Long enough for a pause of a busy machine.
    process = start_node(moody_parameters(moody, ROBOTS, autostart=False, synchronisation__max_age_s=5.0))
    operator = Operator(peer, process.full_name)
    fleet = MoodyFleet(peer, ROBOTS)
    refused = operator.set(control_rate_hz=20)
    assert refused == "control_rate_hz: found 20 (int), but it must be a double; write 20.0"
    assert operator.change("configure") and operator.change("activate")
    fleet.live(fleet.is_driven, "commands of the policy")

    def values() -> list[tuple[float, float]]:
        fleet.clear()
        fleet.live(lambda: len(fleet.commands["robot_0"]) > 5, "commands")
        return [tuple(command_values(command)) for command in fleet.commands["robot_0"]]

    def is_at(*command: float) -> bool:
        return tuple(fleet.newest("robot_0")) == command

    # The policy commands the number of the reading.
    assert operator.set(action__high=[0.5, 0.25]) == ""
    fleet.live(lambda: is_at(0.5, 0.25), "commands at the bounds")
    assert set(values()) == {(0.5, 0.25)}
    # All parameters are checked together; what is refused changes nothing.
    assert "action.low: found [1.0], but the upper bounds are [0.5, 0.25]" in operator.set(action__low=[1.0])
    assert "a command has 2 components; give 1 or 2" in operator.set(action__high=[1.0, 1.0, 1.0])
    assert "action.max_rate: found (0.0,)" in operator.set(action__max_rate=[0.0])
    assert "action.high: found" in operator.set(action__high=[1])
    assert "may be set meanwhile" in operator.set_atomically(action__high=[0.75], action__ramp_s=1.0)
    assert "no topic is synchronised" in operator.set(observations__touch__max_age_s=1.0)
    assert set(values()) == {(0.5, 0.25)} and operator.get("action.high") == [[0.5, 0.25]]
    assert operator.set_atomically(action__low=[1.0, 2.0], action__high=None) == ""
    fleet.live(lambda: fleet.newest("robot_0")[0] > 1.0, "commands beyond the former bound")
    assert operator.set_atomically(action__low=[-1.0], action__high=[1000.0], action__max_rate=[1.0]) == ""
    before = fleet.number
    fleet.number = 900
    steps = np.diff([first for first, _ in values()])
    assert before < 900 and steps.max() == pytest.approx(0.05)

    # Readings are sent just before they are used, but longer than a millisecond.
    assert operator.set(synchronisation__max_age_s=0.001) == ""
    fleet.live(fleet.is_safe, "safe commands")
    assert operator.set(synchronisation__max_age_s=5.0) == ""
    fleet.live(fleet.is_driven, "commands of the policy")

    # They hold for another policy, and after deactivation.
    assert operator.set(action__high=[0.5], action__max_rate=None) == ""
    assert operator.set(policy__path=str(save_moody(tmp_path / "another.pt"))) == ""
    fleet.live(lambda: is_at(0.5, 0.5), "commands at the bounds")
    assert operator.change("deactivate") and operator.set(action__high=[0.25]) == "" and operator.change("activate")
    fleet.live(fleet.is_driven, "commands of the policy")
    assert set(values()) == {(0.25, 0.25)}


@pytest.mark.both_distributions
def test_robots_are_reset_by_name(moody: Path, peer: Peer, start_node: StartNode) -> None:
    process = start_node(moody_parameters(moody, ROBOTS))
    operator = Operator(peer, process.full_name)
    fleet = MoodyFleet(peer, ROBOTS)
    reset = peer.node.create_publisher(String, f"{process.full_name}/reset", 10)
    fleet.live(fleet.is_driven, "commands of the policy")
    peer.spin_until(reset.get_subscription_count, "the node's subscription")
    assert operator.ask("reset") == "reset; histories and memories of 2 robots restart"
    fleet.live(fleet.is_driven, "commands of the policy")
    for _ in range(3):
        reset.publish(String(data="nobody"))
    process.wait_for("~/reset: found 'nobody', which is no robot of this node; driven are robot_0, robot_1")
    reset.publish(String(data="robot_1"))
    process.wait_for("~/reset: history and memory of robot_1 restart")
    assert process.text.count("found 'nobody'") == 1
    # Without new readings only the robot that was reset is WAITING.
    fleet.live(fleet.is_driven, "commands of the policy")


@pytest.mark.parametrize(
    "when_stale", ["stop", *(pytest.param(name, marks=pytest.mark.slow) for name in ("hold", "silent"))]
)
def test_out_of_memory_ends_the_loop_and_the_node_can_be_configured_again(
    when_stale: str, moody: Path, peer: Peer, start_node: StartNode
) -> None:
    process = start_node(moody_parameters(moody, ROBOTS, action__when_stale=when_stale))
    operator = Operator(peer, process.full_name)
    diagnostics = Diagnostics(peer)
    fleet = MoodyFleet(peer, ROBOTS)
    fleet.live(fleet.is_driven, "commands of the policy")

    # An ordinary error of the policy: safe commands while it lasts.
    fleet.drive(
        lambda: "a reading asked for it" in diagnostics.values("policy_node: robot_1").get("reason", ""),
        "the fault in diagnostics",
        [],
        lambda: fleet.send(moods={"robot_0": (RAISE, 0.0)}),
    )
    assert fleet.is_safe()
    fleet.live(fleet.is_driven, "commands of the policy")

    diagnostics.arrays.clear()
    fleet.send(moods={"robot_0": (EXHAUST, 0.0)})
    peer.spin_until(fleet.is_safe, "safe commands")
    process.wait_for("the control loop ended: .*can't allocate memory.*every robot got the safe command")
    peer.spin_until(lambda: operator.state() == "unconfigured", "the node to be unconfigured")

    def reports_error() -> bool:
        statuses = [status for array in diagnostics.arrays for status in array.status]
        return any(status.level == DiagnosticStatus.ERROR and "memory" in status.message for status in statuses)

    peer.spin_until(reports_error, "the error in diagnostics")
    fleet.clear()
    assert not peer.spin_for(0.5, lambda: any(fleet.commands.values())), "a command without a loop"
    assert operator.change("configure") and operator.change("activate")
    fleet.live(fleet.is_driven, "commands of the policy")
    assert process.send(signal.SIGTERM) == 0


@pytest.mark.parametrize(
    "end",
    ["SIGTERM", *(pytest.param(end, marks=pytest.mark.slow) for end in ("SIGINT", "deactivate", "active_shutdown"))],
)
def test_robots_are_safe_when_the_loop_is_ended_while_it_hangs(
    end: str, moody: Path, peer: Peer, start_node: StartNode
) -> None:
    parameters = moody_parameters(moody, ROBOTS, watchdog__timeout_s=60.0, synchronisation__max_age_s=60.0)
    process = start_node(parameters)
    operator = Operator(peer, process.full_name)
    fleet = MoodyFleet(peer, ROBOTS)
    fleet.live(fleet.is_driven, "commands of the policy")
    fleet.send(moods={"robot_1": (HANG, 3.0)})
    fleet.wait_for_silence()
    if end.startswith("SIG"):
        assert process.send(signal.Signals[end]) == 0
    else:
        operator.change(end)
    peer.spin_until(fleet.is_safe, "safe commands")
    # Where the node stays alive, the tick that hangs returns.
    peer.spin_for(3.0 if process.alive else 0.5)
    for robot in ROBOTS:
        assert [tuple(command_values(command)) for command in fleet.commands[robot]] == [SAFE]
