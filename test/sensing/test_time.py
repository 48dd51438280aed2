# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Clocks and stamps that cannot be relied on: no robot is driven on old readings, and every robot recovers by itself.

Each message carries the true time at which it was measured, which no clock of the test can change.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from test_pipeline import PERIOD_NS, READY, REJECTED, SAFE, STALE, WAITING, Rig

from policy_node.control.pairing import match_observations
from policy_node.control.pipeline import Pipeline
from policy_node.control.tick import FleetTick

SENSORS = ("camera", "touch")
FRAMES = {name: spaces.Box(-1.0, 1.0, (2,), np.float32) for name in SENSORS}
MAX_AGE_NS = 150_000_000
BEGIN_NS = 10**18
# A fault is over at the tick that sees the first good message; the clock of the node may cost one more.
RECOVERY_TICKS = 2


class Message(NamedTuple):
    """A reading of a robot, and when it was measured in truth."""

    robot: int
    measured_ns: int


class Fleet:
    """A pipeline whose decoder notes what each robot's last set was made of."""

    def __init__(self, rig: Rig) -> None:
        self._used: dict[int, list[int]] = {}
        layouts = match_observations(rig.configuration, rig.policy)
        self.pipeline = Pipeline(rig.configuration, rig.policy, layouts, dict.fromkeys(SENSORS, self._decode))
        self.robots = len(rig.configuration.robots)
        self.true_ns = BEGIN_NS
        # How far the node's clock is ahead of the true time.
        self.ahead_ns = 0
        self.oldest_used_ns: dict[int, int] = {}

    def _decode(self, message: Message, out: np.ndarray) -> None:
        self._used.setdefault(message.robot, []).append(message.measured_ns)
        out[...] = 0.5

    def send(self, robot: int, stamp_ns: int, age_ns: int = 0, sensors: tuple[str, ...] = SENSORS) -> None:
        """Send a reading of this instant, or one that is older, with any stamp."""
        for name in sensors:
            message = Message(robot, self.true_ns - age_ns)
            self.pipeline.add(robot, self.pipeline.keys.index(name), stamp_ns, message)

    def step(self) -> FleetTick:
        """Run the tick that is due now, then let a period pass."""
        self._used.clear()
        result = self.pipeline.step(self.true_ns + self.ahead_ns)
        self.oldest_used_ns = {
            robot: self.true_ns - min(self._used[robot])
            for robot in range(self.robots)
            if result.states[robot] is READY
        }
        self.true_ns += PERIOD_NS
        return result


@pytest.fixture(scope="module")
def rig(tmp_path_factory) -> Iterator[Rig]:
    folder: Path = tmp_path_factory.mktemp("time")
    types = {name: {"type": "sensor_msgs/msg/JointState"} for name in SENSORS}
    limits = {"max_age_s": MAX_AGE_NS / 1e9}
    yield Rig(folder, FRAMES, robots=2, observation=types, synchronisation=limits)


@pytest.fixture
def fleet(rig) -> Fleet:
    return Fleet(rig)


milliseconds = st.integers(-1000, 1000).map(lambda number: number * 1_000_000)


class Stream(NamedTuple):
    """What one robot publishes at one tick.

    Attributes
    ----------
    kind
        `good`; `silent`; `frozen`, the stamp of before; `zero`; `shifted`, by `shift_ns`; `half`, one sensor only.
    shift_ns
        How far the publisher's clock is ahead.
    """

    kind: str
    shift_ns: int


streams = st.builds(Stream, st.sampled_from(["good", "silent", "frozen", "zero", "shifted", "half"]), milliseconds)


@st.composite
def histories(draw):
    """Ticks of streams, a robot each; and at which tick the node's clock is set, by how much."""
    ticks = draw(st.lists(st.tuples(streams, streams), min_size=1, max_size=16))
    return ticks, draw(st.integers(0, len(ticks))), draw(st.sampled_from([0, 0, 1])) * draw(milliseconds)


@given(histories(), st.booleans())
def test_no_robot_is_driven_on_old_readings_and_every_robot_recovers(rig, history, together):
    """`together`: the publishers' clock is the node's, and is set with it."""
    ticks, set_at, set_by_ns = history
    fleet = Fleet(rig)
    # Setting the clock back by less than a period cannot be told from a tick that came early.
    limit_ns = MAX_AGE_NS + PERIOD_NS + (PERIOD_NS if -PERIOD_NS <= set_by_ns < 0 else 0)
    last_stamps = [0] * fleet.robots

    def now_of_publishers() -> int:
        return fleet.true_ns + (fleet.ahead_ns if together else 0)

    for number, robots in enumerate(ticks):
        if number == set_at:
            fleet.ahead_ns += set_by_ns
        for robot, (kind, shift_ns) in enumerate(robots):
            stamp_ns = {"frozen": last_stamps[robot], "zero": 0, "shifted": now_of_publishers() + shift_ns}.get(
                kind, now_of_publishers()
            )
            if kind != "silent":
                fleet.send(robot, stamp_ns, sensors=SENSORS[:1] if kind == "half" else SENSORS)
                last_stamps[robot] = stamp_ns
        fleet.step()
        assert all(age_ns <= limit_ns for age_ns in fleet.oldest_used_ns.values())
    if not together:
        fleet.ahead_ns = 0
    for _ in range(RECOVERY_TICKS):
        for robot in range(fleet.robots):
            fleet.send(robot, now_of_publishers())
        result = fleet.step()
    assert result.states == (READY,) * fleet.robots
    assert set(fleet.oldest_used_ns.values()) == {0}


@given(st.integers(0, 2 * MAX_AGE_NS), st.integers(1, 6))
def test_a_stream_that_ends_drives_nobody_longer_than_its_last_message(rig, ahead_ns, length):
    """However far its clock was ahead."""
    fleet = Fleet(rig)
    for _ in range(length):
        fleet.send(0, fleet.true_ns + ahead_ns)
        assert (fleet.step().states[0] is READY) is (ahead_ns <= MAX_AGE_NS)
    for _ in range(10):
        ready = fleet.step().states[0] is READY
        assert not ready or fleet.oldest_used_ns[0] <= MAX_AGE_NS


@pytest.mark.parametrize("ahead_ns", [-PERIOD_NS, 0, 100_000_000])
def test_a_stamp_that_never_advances_drives_a_robot_no_longer_than_one_message(fleet, ahead_ns):
    stamp_ns = fleet.true_ns + ahead_ns
    states = []
    for _ in range(8):
        fleet.send(0, stamp_ns)
        states.append(fleet.step().states[0])
    # The first tick sees it at age 0, or older by what it was behind.
    driven = (MAX_AGE_NS + min(ahead_ns, 0)) // PERIOD_NS + 1
    assert states == [READY] * driven + [STALE] * (8 - driven)


@pytest.mark.parametrize("set_back_ns", [PERIOD_NS + 1, 120_000_000, 10**9, 10**17])
@pytest.mark.parametrize("alive", [False, True])
def test_a_clock_that_is_set_back_revives_no_dead_stream(fleet, set_back_ns, alive):
    for _ in range(4):
        fleet.send(0, fleet.true_ns)
        fleet.step()
    fleet.ahead_ns = -set_back_ns
    states = []
    for _ in range(6):
        if alive:
            fleet.send(0, fleet.true_ns + fleet.ahead_ns)
        result = fleet.step()
        states.append(result.states[0])
        if len(states) == 1:
            assert "the clock was set back by" in result.reasons[0]
            assert result.commands[0].tolist() == SAFE
    assert states == [STALE] + [READY if alive else WAITING] * 5


@pytest.mark.parametrize("restart_ns", [-(10**9), -60_000_000, 60_000_000, 10**9])
def test_a_publisher_that_returns_with_the_right_clock_is_followed_at_once(fleet, restart_ns):
    for _ in range(4):
        fleet.send(0, fleet.true_ns + restart_ns)
        fleet.step()
    fleet.send(0, fleet.true_ns)
    assert fleet.step().states[0] is READY
    assert fleet.oldest_used_ns[0] == 0


def test_stamps_from_the_future_are_counted_and_said(fleet):
    for _ in range(3):
        fleet.send(0, fleet.true_ns + 10**9)
        result = fleet.step()
        assert result.states == (REJECTED, WAITING)
        assert "camera, touch: stamp lies more than 0.150 s in the future" in result.reasons[0]
    assert result.rejected.tolist() == [6, 0]


def test_a_reason_that_changes_within_a_state_is_seen(fleet):
    fleet.send(0, fleet.true_ns - MAX_AGE_NS)
    fleet.step()
    old = fleet.step()
    fleet.send(0, 0)
    zero = fleet.step()
    assert old.states[0] is zero.states[0] is STALE
    assert "camera: is 0.200 s old" in old.reasons[0]
    assert "camera: its header stamp is zero" in zero.reasons[0]


def test_a_clock_that_is_set_back_during_the_tick_hides_no_age(fleet):
    fleet.send(0, fleet.true_ns - MAX_AGE_NS + 1000)
    result = fleet.pipeline.step(fleet.true_ns, lambda: fleet.true_ns - 10**9)
    # The inference took longer than the microsecond that was left.
    assert result.states[0] is STALE
    assert "too old while the tick took" in result.reasons[0]


def test_one_robot_with_a_wrong_clock_does_not_concern_the_others(fleet):
    for _ in range(3):
        fleet.send(0, fleet.true_ns)
        fleet.send(1, fleet.true_ns - 10**9)
        assert fleet.step().states == (READY, STALE)
