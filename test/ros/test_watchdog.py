# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""A tick that hangs: robots get their safe commands, no outdated ones afterwards, and the policy then drives again."""

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from moody import HANG, SAFE, MoodyFleet, moody_parameters, save_moody
from node_harness import PATIENCE_S, Diagnostics, NodeProcess, Peer, command_values
from rclpy.logging import get_logger

from policy_node.ros import watchdog as watchdog_module
from policy_node.ros.watchdog import Watchdog

pytestmark = pytest.mark.timing

ROBOTS = ("robot_0", "robot_1")

StartNode = Callable[..., NodeProcess]


@pytest.mark.parametrize(
    "when_stale", ["stop", *(pytest.param(choice, marks=pytest.mark.slow) for choice in ("hold", "silent"))]
)
def test_robots_are_safe_while_a_tick_hangs_and_are_driven_afterwards(
    when_stale: str, peer: Peer, start_node: StartNode, tmp_path: Path
) -> None:
    parameters = moody_parameters(
        save_moody(tmp_path / "moody.pt"),
        ROBOTS,
        watchdog__timeout_s=0.25,
        # All the readings would still be good, and the last command could still be held, when the tick returns.
        synchronisation__max_age_s=60.0,
        action__when_stale=when_stale,
        action__hold_s=60.0,
    )
    process = start_node(parameters)
    diagnostics = Diagnostics(peer)
    fleet = MoodyFleet(peer, ROBOTS)
    fleet.live(fleet.is_driven, "commands of the policy")
    hanging = fleet.number + 1
    fleet.send(moods={"robot_0": (HANG, 4.0)})
    # Repeatedly, also for robots with constant readings.
    fleet.drive(fleet.is_safe, "safe commands", [], fleet.send)
    fleet.clear()
    fleet.drive(
        lambda: (
            len(fleet.commands["robot_1"]) >= 10 and diagnostics.values("policy_node: robot_1").get("state") == "FAULT"
        ),
        "safe commands and diagnostics while the tick hangs",
        [],
        fleet.send,
    )
    assert "the tick hangs" in diagnostics.values("policy_node: robot_1")["reason"]
    assert diagnostics.newest["policy_node: control"].level == DiagnosticStatus.ERROR
    sent_while_hanging = fleet.number
    process.wait_for(r"the tick hangs: it takes longer than watchdog\.timeout_s, 0\.250 s.*raise watchdog\.timeout_s")
    fleet.live(fleet.is_driven, "commands of the policy")
    process.wait_for(r"the tick returned after \d+\.\d s")
    assert process.text.count("the tick hangs:") == 1
    for robot in ROBOTS:
        values = [tuple(command_values(command)) for command in fleet.commands[robot]]
        driven = [value for value in values if value != SAFE]
        # Neither the command of the tick that hung was sent, nor an older one repeated.
        assert driven[0][0] > hanging and driven[0][0] > sent_while_hanging - 20
        assert values[: values.index(driven[0])] == [SAFE] * values.index(driven[0])
    assert process.send(signal.SIGINT) == 0


class Acts:
    """Counts the calls of the watchdog."""

    def __init__(self) -> None:
        self.count = 0
        self.acted = threading.Event()
        self.error: Exception | None = None

    def __call__(self) -> None:
        self.count += 1
        self.acted.set()
        if self.error is not None:
            raise self.error


@pytest.fixture
def acts() -> Acts:
    return Acts()


def make_watchdog(acts: Acts, timeout_s: float) -> Watchdog:
    watchdog = Watchdog(timeout_s, 0.01, acts, get_logger("watchdog"))
    watchdog.start()
    return watchdog


def test_nothing_is_done_between_ticks_and_while_ticks_are_short(acts: Acts) -> None:
    # Longer than a short tick takes on a busy machine, and shorter than all of them together.
    watchdog = make_watchdog(acts, timeout_s=0.5)
    assert not acts.acted.wait(1.0)
    for _ in range(120):
        watchdog.begin_tick()
        assert not acts.acted.wait(0.005)
        watchdog.end_tick()
    assert watchdog.hanging_since_s is None
    watchdog.end()


def test_it_keeps_acting_while_a_tick_hangs_although_acting_fails(acts: Acts) -> None:
    watchdog = make_watchdog(acts, timeout_s=0.05)
    acts.error = RuntimeError("the publisher is gone")
    watchdog.begin_tick()
    for _ in range(3):
        assert acts.acted.wait(PATIENCE_S)
        acts.acted.clear()
    assert watchdog.hanging_since_s is not None
    watchdog.end_tick()
    assert watchdog.hanging_since_s is None
    watchdog.end()
    count = acts.count
    acts.acted.clear()
    assert not acts.acted.wait(0.2) and acts.count == count


def test_ticks_that_hang_again_and_again_are_logged_once_a_minute(
    acts: Acts, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog_module, "LONG_S", PATIENCE_S)
    watchdog = make_watchdog(acts, timeout_s=0.05)

    def hang(minimum_s: float = 0.0) -> None:
        acts.acted.clear()
        watchdog.begin_tick()
        began_s = time.monotonic()
        while time.monotonic() - began_s < minimum_s or not acts.acted.is_set():
            assert acts.acted.wait(PATIENCE_S)
            time.sleep(0.01)
        watchdog.end_tick()
        # Longer than the watchdog needs to see the end of the tick.
        time.sleep(0.1)

    for _ in range(4):
        hang()
    assert capfd.readouterr().err.count("the tick hangs") == 1
    # One that hangs for long is logged, whenever that is.
    monkeypatch.setattr(watchdog_module, "LONG_S", 0.2)
    hang(0.4)
    said = capfd.readouterr().err
    assert said.count("the tick hangs") == 1 and said.count("the tick returned after") == 1
    assert "other ticks hung since the last such line" in said
    monkeypatch.setattr(watchdog_module, "REPEAT_S", 0.0)
    hang()
    assert capfd.readouterr().err.count("the tick hangs") == 1
    watchdog.end()


def test_a_long_tick_with_an_excuse_is_a_single_warning(acts: Acts, capfd: pytest.CaptureFixture[str]) -> None:
    watchdog = Watchdog(0.05, 0.01, acts, get_logger("watchdog"), slow_tick_reason=lambda: "somebody thinks")
    watchdog.start()
    for _ in range(3):
        acts.acted.clear()
        watchdog.begin_tick()
        assert acts.acted.wait(PATIENCE_S)
        watchdog.end_tick()
        # Usually longer than the watchdog needs to see the end of the tick; otherwise one excuse is missing.
        acts.acted.wait(0.1)
    watchdog.end()
    said = capfd.readouterr().err
    assert said.count("somebody thinks") == 1
    assert "the tick" not in said
