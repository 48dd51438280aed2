# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Messages of one sensor on a topic that several publishers share."""

from typing import Any

import numpy as np

from policy_node.control.safe_commands import MeasuredPositions
from policy_node.messages.reading import MissingJointsError
from policy_node.sensing.arrivals import Arrivals, Problem
from policy_node.sensing.samples import Sample
from policy_node.sensing.staging import Rejections
from policy_node.sensing.synchroniser import RobotState

MS = 10**6
NOW = 10**18
MAX_AGE = 100 * MS
GRIPPER, BROKEN = "gripper", "broken"


def decode(message: Any) -> None:
    if message == GRIPPER:
        raise MissingJointsError("joint arm is missing")
    if message == BROKEN:
        raise ValueError(BROKEN)


def newest(arrivals: Arrivals, now_ns: int = NOW) -> Sample | Problem:
    return arrivals.newest_usable(now_ns, decode, lambda message, error: str(error))


def arm() -> Arrivals:
    return Arrivals(10, "joints", MAX_AGE)


def test_an_older_position_does_not_displace_a_newer_one() -> None:
    arrivals = arm()
    # Two publishers of different latency, in one tick.
    arrivals.append(NOW - 10 * MS, "fast")
    arrivals.append(NOW - 30 * MS, "slow")
    assert newest(arrivals) == (NOW - 10 * MS, "fast")
    # And in another one.
    arrivals.append(NOW - 20 * MS, "slow")
    assert newest(arrivals) == (NOW - 10 * MS, "fast")
    arrivals.append(NOW, "fast again")
    assert newest(arrivals) == (NOW, "fast again")


def test_an_older_position_counts_when_the_newer_one_has_grown_old_or_the_clock_was_set_back() -> None:
    arrivals = arm()
    arrivals.append(NOW, "first")
    assert newest(arrivals) == (NOW, "first")
    arrivals.append(NOW - 1, "older")
    later = newest(arrivals, NOW + MAX_AGE + 1)
    assert not isinstance(later, Sample) and later[0] is RobotState.STALE
    arrivals.append(NOW - 10**12, "after the clock was set back")
    assert newest(arrivals, NOW - 10**12) == (NOW - 10**12, "after the clock was set back")


def test_older_positions_do_not_wait_for_a_later_tick() -> None:
    arrivals = arm()
    arrivals.append(NOW, "newest")
    newest(arrivals)
    for age_ms in (50, 60):
        arrivals.append(NOW - age_ms * MS, "older")
    assert newest(arrivals) == (NOW, "newest")
    state, reason = newest(arrivals, NOW + 2 * MAX_AGE)
    assert state is RobotState.STALE and str(reason).startswith("joints: is 0.200 s old")


def test_of_equal_stamps_the_last_arrival_counts() -> None:
    for order in ("ab", "ba"):
        arrivals = arm()
        for message in order:
            arrivals.append(NOW, message)
        assert newest(arrivals) == (NOW, order[-1])


def test_the_age_of_the_arm_is_told_and_not_the_joints_of_the_gripper() -> None:
    arrivals = arm()
    arrivals.append(NOW, "arm")
    newest(arrivals)
    later = NOW + 2 * MAX_AGE
    arrivals.append(later, GRIPPER)
    state, reason = newest(arrivals, later)
    assert state is RobotState.STALE
    assert str(reason).startswith("joints: is 0.200 s old")
    arrivals.append(later, BROKEN)
    assert newest(arrivals, later) == (RobotState.REJECTED, BROKEN)


def test_limits_of_ages_are_inclusive() -> None:
    refused: list[str] = []
    for age_ns, usable in ((MAX_AGE, True), (MAX_AGE + 1, False), (-MAX_AGE, True), (-MAX_AGE - 1, False)):
        arrivals = arm()
        arrivals.append(NOW - age_ns, "arm")
        found = arrivals.newest_usable(NOW, decode, lambda message, error: refused.append(message) or "")
        assert isinstance(found, Sample) is usable
        assert usable or found[0] is (RobotState.STALE if age_ns > 0 else RobotState.REJECTED)
    # A stamp in the future is a fault of the message, its age is none.
    assert refused == ["arm"]


def test_a_position_from_the_future_ages_from_its_arrival_also_if_it_is_sent_again() -> None:
    arrivals = arm()
    arrivals.append(NOW + MAX_AGE // 2, "arm")
    assert newest(arrivals) == (NOW + MAX_AGE // 2, "arm")
    arrivals.append(NOW + MAX_AGE // 2, "sent again")
    assert newest(arrivals, NOW + MAX_AGE) == (NOW + MAX_AGE // 2, "sent again")
    assert newest(arrivals, NOW + MAX_AGE + 1)[0] is RobotState.STALE


def test_a_position_of_before_the_clock_was_set_back_gives_way_to_any_later_arrival() -> None:
    arrivals = arm()
    arrivals.append(NOW, "before")
    newest(arrivals)
    arrivals.append(NOW - 1, "late")
    assert newest(arrivals) == (NOW, "before")
    arrivals.append(NOW - 1, "after")
    assert newest(arrivals, NOW - 1) == (NOW - 1, "after")


def test_only_a_message_without_the_joints_before_any_usable_one_asks_for_the_others() -> None:
    arrivals, lacking = arm(), []
    arrivals.on_lacking = lacking.append
    arrivals.append(NOW, BROKEN)
    assert newest(arrivals)[0] is RobotState.REJECTED and not lacking
    arrivals.append(NOW, GRIPPER)
    assert newest(arrivals) == (RobotState.WAITING, "joints: joint arm is missing") and lacking == [GRIPPER]
    arrivals.append(NOW, "arm")
    newest(arrivals)
    arrivals.append(NOW, GRIPPER)
    assert newest(arrivals) == (NOW, "arm") and lacking == [GRIPPER]


def test_no_more_messages_are_kept_between_two_ticks_than_the_length() -> None:
    arrivals = Arrivals(2, "joints", MAX_AGE)
    for message in ("oldest", BROKEN, GRIPPER):
        arrivals.append(NOW, message)
    assert newest(arrivals)[0] is RobotState.WAITING
    # It is as long after a tick that sorted.
    for message in ("oldest", BROKEN, GRIPPER):
        arrivals.append(NOW, message)
    assert newest(arrivals)[0] is RobotState.WAITING


def test_a_position_is_decoded_once() -> None:
    decoded = []

    def write(message: float, into: np.ndarray) -> None:
        decoded.append(message)
        into[:] = message

    robots = [arm(), arm()]
    positions = MeasuredPositions(2, robots, write, Rejections(2))
    for robot, value in ((0, 1.0), (1, 2.0)):
        robots[robot].append(NOW, value)
    for tick in range(3):
        assert not positions.update(NOW + tick)
    assert decoded == [1.0, 2.0]
    assert positions.commands.tolist() == [[1.0, 1.0], [2.0, 2.0]]
    assert positions.readings == (Sample(NOW, 1.0), Sample(NOW, 2.0))
    # A forgotten robot is read again, also from the same message.
    positions.forget([1])
    assert np.isnan(positions.commands[1]).all()
    positions.update(NOW + 3)
    assert decoded == [1.0, 2.0, 2.0] and positions.commands[1].tolist() == [2.0, 2.0]
    # So is one whose position was too old, once a limit allows it.
    assert list(positions.update(NOW + MAX_AGE + 1)) == [0, 1]
    for arrivals in robots:
        arrivals.max_age_ns += 1
    assert not positions.update(NOW + MAX_AGE + 1)
    assert positions.commands.tolist() == [[1.0, 1.0], [2.0, 2.0]]
