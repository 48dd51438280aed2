# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Commands between two ticks: in one process, with steps that are sent when the test says so."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import Twist
from loop_rig import LoopRig, save_echo
from node_harness import PATIENCE_S, Peer, command_values
from rclpy.serialization import deserialize_message

from policy_node.ros import command_rate
from policy_node.ros.command_rate import CommandRate
from policy_node.sensing.synchroniser import RobotState

SAFE = (-0.125, -0.25)


class RateRig(LoopRig):
    """Sends a step when the test says so; `got` are the commands of each robot in the order of sending."""

    def __init__(self, *arguments: Any, **changes: Any) -> None:
        super().__init__(*arguments, **changes)
        self.publishers._rate = SimpleNamespace(begin=lambda: None, end=lambda: None)  # type: ignore[assignment]
        self.got: dict[int, list[tuple[float, ...]]] = {robot: [] for robot in self.readings}
        for robot, send in enumerate(list(self.publishers._senders)):
            self.publishers._senders[robot] = self._noting(robot, send)

    def _noting(self, robot: int, send: Callable[[bytes], None]) -> Callable[[bytes], None]:
        def noting(message: bytes) -> None:
            send(message)
            self.got[robot].append(tuple(command_values(deserialize_message(message, Twist)).tolist()))

        return noting

    def steps(self) -> int:
        """Send all steps until the next tick, and return their number."""
        count = 0
        while self.publishers._send_between():
            count += 1
        return count

    def take(self, robot: int) -> list[tuple[float, ...]]:
        """Return the commands of a robot since the last call."""
        found, self.got[robot] = self.got[robot], []
        return found


MakeRig = Callable[..., RateRig]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_echo(tmp_path_factory.mktemp("policy") / "echo.pt")


@pytest.fixture
def make_rig(peer: Peer, policy: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeRig]:
    made: list[RateRig] = []

    def make(**changes: Any) -> RateRig:
        made.append(RateRig(peer, policy, monkeypatch, robots=2, action__publish_rate_hz=64.0, **changes))
        return made[-1]

    yield make
    for rig in made:
        rig.destroy()


def test_commands_are_interpolated_and_the_recording_has_those_of_the_ticks(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.tick()
    assert rig.steps() == 3
    # Nothing was sent before the first.
    assert rig.take(0) == [(1.0, 10.0)] * 4
    rig.readings[0] = ((5.0, 2.0), 0.0)
    tick = rig.tick()
    assert rig.steps() == 3
    assert rig.take(0) == [(2.0, 8.0), (3.0, 6.0), (4.0, 4.0), (5.0, 2.0)]
    assert tick.sent[0].tolist() == [5.0, 2.0]
    assert rig.commands(0) == [(1.0, 10.0), (5.0, 2.0)]


@pytest.mark.parametrize("pause", ["stopped", "not heard"])
def test_after_a_pause_the_way_does_not_begin_at_the_last_command(make_rig: MakeRig, pause: str) -> None:
    rig = make_rig()
    rig.tick()
    rig.steps()
    rig.take(0)
    if pause == "stopped":
        rig.publishers.stop(np.array([SAFE] * 2))
        rig.publishers.resume()
        rig.take(0)
    else:
        rig.time.now_s += 5.0
    rig.readings[0] = ((5.0, 2.0), 0.0)
    assert rig.tick().states[0] is RobotState.READY
    rig.steps()
    assert rig.take(0) == [(5.0, 2.0)] * 4


def test_held_commands_are_repeated(make_rig: MakeRig) -> None:
    rig = make_rig(action__interpolation="hold")
    rig.tick()
    rig.take(0)
    rig.readings[0] = ((5.0, 2.0), 0.0)
    rig.tick()
    rig.steps()
    assert rig.take(0) == [(5.0, 2.0)] * 4


def test_a_robot_without_good_data_is_safe_at_once(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.tick()
    rig.steps()
    rig.take(0)
    rig.readings[0] = None
    rig.time.now_s += 0.3
    assert rig.tick().states[0] is RobotState.STALE
    rig.steps()
    assert rig.take(0) == [SAFE] * 4


def test_nothing_follows_a_stop_between_two_ticks(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.tick()
    assert rig.publishers._send_between()
    rig.take(0)
    rig.take(1)
    rig.loop.stop_robots([0])
    # The other robot goes on.
    assert rig.steps() == 2
    assert rig.take(0) == [SAFE] and rig.take(1) == [(2.0, 10.0)] * 2
    rig.tick()
    rig.loop.stop_robots()
    assert rig.steps() == 0
    # The way of a robot that is driven again begins at its safe command.
    rig.loop.resume_robots([0, 1])
    rig.take(0)
    rig.readings[0] = ((-0.125 + 4.0, -0.25), 0.0)
    rig.tick()
    rig.steps()
    assert rig.take(0) == [(-0.125 + step, -0.25) for step in (1.0, 2.0, 3.0, 4.0)]


def test_a_robot_without_a_safe_command_gets_nothing_after_a_stop(make_rig: MakeRig) -> None:
    array = {"action__type": "std_msgs/msg/Float64MultiArray", "action__fields": None, "action__safe_command": None}
    rig = make_rig(action__when_stale="silent", **array)
    rig._note = lambda commands: None  # type: ignore[method-assign]
    rig.publishers.on_sent = None
    counts = [0, 0]

    def counting(robot: int) -> Callable[[bytes], None]:
        def count(message: bytes) -> None:
            counts[robot] += 1

        return count

    rig.publishers._senders = [counting(robot) for robot in range(2)]
    rig.tick()
    assert rig.publishers._send_between() and counts == [2, 2]
    rig.loop.stop_robots([0])
    rig.steps()
    assert counts == [2, 4]
    rig.tick()
    rig.loop.yield_robots({1: "/other"})
    assert rig.steps() == 0 and counts == [2, 5]


def test_a_robot_is_left_to_another_node_at_once(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.tick()
    rig.take(0)
    rig.loop.yield_robots({0: "/other"})
    rig.steps()
    assert rig.take(0) == [SAFE]


def test_a_command_that_becomes_too_old_is_not_sent(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.readings[0] = ((1.0, 10.0), 0.1)
    rig.tick()
    rig.take(0)
    rig.time.now_s += 0.2
    rig.steps()
    assert rig.take(0) == []


def test_no_command_follows_the_end(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.tick()
    rig.take(0)
    rig.loop.stop()
    assert rig.steps() == 0
    assert rig.take(0) == [SAFE]


def test_simulated_time_has_no_commands_between_its_ticks(make_rig: MakeRig) -> None:
    rig = make_rig(simulated=True)
    rig.tick()
    assert rig.steps() == 0 and rig.take(0) == [(1.0, 10.0)]


class Rate:
    """A rate whose steps are due at once, in time that the test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, left: int = 1000) -> None:
        self.now_ns = 10**12
        #: For which the machine was suspended.
        self.suspended_ns = 0
        clocks = {
            "monotonic_ns": lambda: self.now_ns,
            "clock_gettime_ns": lambda clock: self.now_ns + self.suspended_ns,
            "CLOCK_BOOTTIME": None,
        }
        monkeypatch.setattr(command_rate, "time", SimpleNamespace(**clocks))
        self.left = left
        self.due_ns: list[int] = []
        self.sent = 0
        self.waits = threading.Semaphore(0)
        self.rate = CommandRate(10**9, 4, self._send)
        self.rate._clock = SimpleNamespace(wait_until=self._wait_until)  # type: ignore[assignment]

    def _wait_until(self, due_ns: int) -> bool:
        self.due_ns.append(due_ns - 10**12)
        return True

    def _send(self) -> bool:
        self.sent += 1
        self.waits.release()
        return self.sent < self.left


def test_the_steps_of_a_period_follow_its_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Rate(monkeypatch)
    steps.rate.begin()
    for _ in range(3):
        assert steps.waits.acquire(timeout=PATIENCE_S)
    steps.rate.end()
    assert steps.due_ns == [250_000_000, 500_000_000, 750_000_000] and steps.sent == 3


def test_nothing_is_sent_once_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Rate(monkeypatch, left=1)
    steps.rate.begin()
    assert steps.waits.acquire(timeout=PATIENCE_S)
    steps.rate.end()
    assert steps.sent == 1 and len(steps.due_ns) == 1


@pytest.mark.parametrize("clock", ["now_ns", "suspended_ns"])
def test_nothing_is_sent_after_a_pause(monkeypatch: pytest.MonkeyPatch, clock: str) -> None:
    paused = Rate(monkeypatch)
    waited = threading.Event()

    def pause(due_ns: int) -> bool:
        setattr(paused, clock, getattr(paused, clock) + 2 * 10**9)
        waited.set()
        return True

    paused.rate._clock = SimpleNamespace(wait_until=pause)  # type: ignore[assignment]
    paused.rate.begin()
    assert waited.wait(PATIENCE_S)
    paused.rate.end()
    assert paused.sent == 0
