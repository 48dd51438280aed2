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


def test_of_equal_stamps_the_last_arrival_counts() -> None:
    arrivals = arm()
    for message in "ab":
        arrivals.append(NOW, message)
    assert newest(arrivals) == (NOW, "b")


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
