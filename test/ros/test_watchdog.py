# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""A tick that hangs: robots get their safe commands, no outdated ones afterwards, and the policy then drives again."""

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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


class ScriptedWatchdog:
    """A watchdog whose waits take no time; `events` happen at their time while it waits.

    Attributes
    ----------
    account
        What the watchdog did: how long it waited, acted, or logged.
    lines
        The errors that it logged, whole.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        events: dict[float, Callable[[Watchdog], Any]],
        reason: str = "",
        end_s: float = 4.0,
    ) -> None:
        self.now_s = 0.0
        self.account: list[Any] = []
        self.lines: list[str] = []
        self.error: Exception | None = None
        self._events = dict(sorted(events.items()))
        self._end_s = end_s
        monkeypatch.setattr(watchdog_module, "time", SimpleNamespace(monotonic=lambda: self.now_s))

        def error(text: str, **throttle: Any) -> None:
            self.lines.append(text)
            self.account.append(("error", text.split(";")[0]))

        logger = SimpleNamespace(
            warning=lambda text, once=False: self.account.append(("warning", text, once)), error=error
        )
        self.watchdog = Watchdog(
            1.0,
            0.25,
            self._act,
            logger,
            lambda: self.account.append("prepare"),
            lambda: reason,  # type: ignore[arg-type]
        )
        self.watchdog._woken = SimpleNamespace(wait=self._wait, clear=lambda: None)  # type: ignore[assignment]

    def _act(self) -> None:
        self.account.append("act")
        if self.error is not None:
            raise self.error

    def _wait(self, duration_s: float) -> None:
        self.account.append(duration_s)
        end_s = self.now_s + duration_s
        while self._events and next(iter(self._events)) <= end_s:
            self.now_s = next(iter(self._events))
            self._events.pop(self.now_s)(self.watchdog)
        self.now_s = end_s
        self.watchdog._ended = end_s >= self._end_s

    def run(self) -> list[Any]:
        self.watchdog._run()
        return self.account


HANGS = ("error", "the tick hangs: it takes longer than watchdog.timeout_s, 1.000 s")
BEGIN, END = Watchdog.begin_tick, Watchdog.end_tick


def test_it_looks_again_when_the_current_tick_may_have_taken_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    events = {0.25: BEGIN, 0.5: END, 0.75: BEGIN, 1.25: END, 1.5: BEGIN, 1.625: END}
    # At 1.0 the second tick is 0.25 s old. At 1.75 and later none runs.
    assert ScriptedWatchdog(monkeypatch, events).run() == ["prepare", 1.0, 0.75, 1.0, 1.0, 1.0]


def test_it_acts_from_the_timeout_on_once_in_a_period_until_the_tick_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted = ScriptedWatchdog(monkeypatch, {0.5: BEGIN, 2.0: END, 3.875: BEGIN})
    acts = [HANGS, "act", 0.25, "act", 0.25, ("warning", "the tick returned after 1.5 s", False)]
    assert scripted.run() == ["prepare", 1.0, 0.5, *acts, 1.0, 1.0]


@pytest.mark.parametrize(("repeat_s", "logged"), [(1.1875, [HANGS]), (60.0, [])])
def test_a_tick_that_hangs_after_another_is_another_one_and_logged_if_the_last_line_is_old(
    monkeypatch: pytest.MonkeyPatch, repeat_s: float, logged: list[Any]
) -> None:
    monkeypatch.setattr(watchdog_module, "REPEAT_S", repeat_s)
    scripted = ScriptedWatchdog(monkeypatch, {0.0: BEGIN, 1.125: END, 1.1875: BEGIN, 5.0: END})
    account = scripted.run()
    # The second tick is 0.0625 s old when the end of the first one is seen.
    returned = ("warning", "the tick returned after 1.2 s", False)
    assert account[:7] == ["prepare", 1.0, HANGS, "act", 0.25, returned, 0.9375]
    # At 2.1875 the second tick hangs, 1.1875 s after the line about the first one.
    assert account[7:] == [*logged, *["act", 0.25] * 8]


def test_hanging_ticks_that_were_not_logged_are_counted_in_the_next_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog_module, "REPEAT_S", 3.5)
    # Each tick takes 1.0625 s and hangs from one second on; at 4.5 the last line is 3.5 s old.
    events = {0.0: BEGIN, 1.0625: END, 1.125: BEGIN, 2.1875: END, 2.25: BEGIN, 3.3125: END, 3.5: BEGIN, 9.0: END}
    scripted = ScriptedWatchdog(monkeypatch, events, end_s=5.0)
    scripted.run()
    first, second = scripted.lines
    assert first.endswith("raise watchdog.timeout_s")
    assert second.endswith("; 2 other ticks hung since the last such line")
    # They count once.
    scripted = ScriptedWatchdog(monkeypatch, {**events, 5.0: END, 5.0625: BEGIN, 10.0: END}, end_s=9.0)
    scripted.run()
    assert scripted.lines[:2] == [first, second] and scripted.lines[2] == first


def test_a_tick_that_hangs_for_long_is_logged_however_old_the_last_line_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog_module, "LONG_S", 2.0)
    scripted = ScriptedWatchdog(monkeypatch, {0.0: BEGIN, 1.125: END, 1.25: BEGIN, 9.0: END}, end_s=4.0)
    account = scripted.run()
    lines = [index for index, entry in enumerate(account) if entry == HANGS]
    waited_s = [sum(entry for entry in account[:index] if isinstance(entry, float)) for index in lines]
    # The second one hangs from 2.25 on, for long from 3.25 on.
    assert waited_s == [1.0, 3.25]


def test_it_does_not_act_after_its_end_although_a_tick_hangs(acts: Acts) -> None:
    watchdog = make_watchdog(acts, timeout_s=0.05)
    watchdog.begin_tick()
    assert acts.acted.wait(PATIENCE_S)
    watchdog.end()
    count = acts.count
    acts.acted.clear()
    assert not acts.acted.wait(0.1) and acts.count == count


def test_the_end_does_not_wait_for_an_act_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog_module, "END_S", 0.05)
    begun, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        begun.set()
        go_on.wait(PATIENCE_S)

    watchdog = Watchdog(0.05, 0.01, hang, get_logger("watchdog"))
    watchdog.start()
    watchdog.begin_tick()
    assert begun.wait(PATIENCE_S)
    ends = threading.Thread(target=watchdog.end)
    ends.start()
    ends.join(PATIENCE_S / 2)
    has_ended = not ends.is_alive()
    go_on.set()
    ends.join()
    assert has_ended


def test_a_failure_to_act_is_logged_and_the_next_attempt_made(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted = ScriptedWatchdog(monkeypatch, {0.0: BEGIN, 1.375: END})
    scripted.error = RuntimeError("the publisher is gone")
    failure = ("error", "the watchdog failed to send safe commands: RuntimeError: the publisher is gone")
    assert scripted.run()[2:9] == [HANGS, "act", failure, 0.25, "act", failure, 0.25]


def test_a_tick_with_an_excuse_is_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted = ScriptedWatchdog(monkeypatch, {0.0: BEGIN, 1.375: END}, reason="somebody thinks")
    assert scripted.run() == [
        "prepare",
        1.0,
        ("warning", "somebody thinks", True),
        "act",
        0.25,
        "act",
        0.25,
        1.0,
        1.0,
        1.0,
    ]


def test_a_tick_hangs_from_exactly_the_timeout_on(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted = ScriptedWatchdog(monkeypatch, {})
    watchdog = scripted.watchdog
    assert watchdog.hanging_since_s is None
    scripted.now_s = 2.0
    watchdog.begin_tick()
    scripted.now_s = 2.9375
    assert watchdog.hanging_since_s is None
    scripted.now_s = 3.0
    assert watchdog.hanging_since_s == 2.0
    watchdog.end_tick()
    assert watchdog.hanging_since_s is None
