# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The safe command of each robot: the same for all, or where each was stopped."""

from typing import Any

import numpy as np

from policy_node.control.safe_commands import MeasuredPositions, SafeCommands
from policy_node.messages.reading import UnusableReading
from policy_node.sensing.arrivals import Arrivals
from policy_node.sensing.staging import Rejections
from policy_node.sensing.synchroniser import RobotState

NAN = np.nan
MAX_AGE_NS = 1000
ROBOTS = 3


class Rig:
    """The positions of three robots; a message is the position, or what is wrong with it."""

    def __init__(self) -> None:
        self.decoded: list[Any] = []
        self.arrivals = [Arrivals(4, f"position_{robot}", MAX_AGE_NS) for robot in range(ROBOTS)]
        self.rejections = Rejections(ROBOTS)
        self.safe = MeasuredPositions(2, self.arrivals, self._decode, self.rejections)

    def _decode(self, message: Any, out: np.ndarray) -> None:
        self.decoded.append(message)
        if isinstance(message, str):
            raise UnusableReading(message)
        out[:] = message

    def add(self, *messages: Any, stamp_ns: int = 0) -> None:
        """Add a message of each robot; None: it sends none."""
        for arrivals, message in zip(self.arrivals, messages, strict=True):
            if message is not None:
                arrivals.append(stamp_ns, message)


def test_all_robots_have_the_same_command_or_none() -> None:
    safe = SafeCommands(ROBOTS, 2, np.array([1.0, 2.0]))
    assert safe.commands.tolist() == [[1.0, 2.0]] * ROBOTS and safe.commands.dtype == np.float64
    assert safe.readings == (None,) * ROBOTS and not safe.update(0)
    nothing = SafeCommands(ROBOTS, 2, None)
    assert nothing.commands.shape == (ROBOTS, 2) and np.isnan(nothing.commands).all()


def test_robots_of_other_nodes_have_none_until_they_are_given_back() -> None:
    safe = SafeCommands(ROBOTS, 2, np.array([1.0, 2.0]))
    before = safe.commands
    safe.yield_robots({0: "/other", 2: "/other"})
    np.testing.assert_array_equal(safe.commands, [[NAN, NAN], [1.0, 2.0], [NAN, NAN]])
    # Any thread may still read the commands of before.
    assert before.tolist() == [[1.0, 2.0]] * ROBOTS
    safe.yield_robots({1: "/other"})
    np.testing.assert_array_equal(safe.commands, [[1.0, 2.0], [NAN, NAN], [1.0, 2.0]])


def test_a_position_is_the_newest_usable_one_and_read_once() -> None:
    rig = Rig()
    assert np.isnan(rig.safe.commands).all()
    rig.add((1.0, 2.0), None, (5.0, 6.0))
    assert rig.safe.update(10) == {1: (RobotState.WAITING, "no message on position_1")}
    np.testing.assert_array_equal(rig.safe.commands, [[1.0, 2.0], [NAN, NAN], [5.0, 6.0]])
    assert [sample and sample.message for sample in rig.safe.readings] == [(1.0, 2.0), None, (5.0, 6.0)]
    rig.add(None, (3.0, 4.0), "it is damaged", stamp_ns=20)
    assert not rig.safe.update(30)
    np.testing.assert_array_equal(rig.safe.commands, [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    assert not rig.safe.update(40)
    assert rig.decoded.count((1.0, 2.0)) == rig.decoded.count((3.0, 4.0)) == rig.decoded.count((5.0, 6.0)) == 1
    assert rig.rejections.count.tolist() == [0, 0, 1]


def test_without_a_usable_position_there_is_no_command_but_a_reason() -> None:
    rig = Rig()
    rig.add("it is damaged", (3.0, 4.0), "it is broken")
    assert rig.safe.update(10) == {
        0: (RobotState.REJECTED, "position_0: it is damaged"),
        2: (RobotState.REJECTED, "position_2: it is broken"),
    }
    assert rig.rejections.count.tolist() == [1, 0, 1]
    ((robot, (state, reason)),) = {k: v for k, v in rig.safe.update(MAX_AGE_NS + 1).items() if k == 1}.items()
    assert (robot, state) == (1, RobotState.STALE) and "position_1" in reason
    assert np.isnan(rig.safe.commands).all() and rig.safe.readings == (None,) * ROBOTS
    # It is read once more, if it is usable again.
    assert set(rig.safe.update(20)) == {0, 2}
    np.testing.assert_array_equal(rig.safe.commands[1], [3.0, 4.0])


def test_stopped_robots_stay_where_they_were_stopped() -> None:
    rig = Rig()
    rig.add((1.0, 2.0), (3.0, 4.0), None)
    rig.safe.update(10)
    rig.safe.freeze(np.array([True, False, False]))
    rig.add((7.0, 7.0), (8.0, 8.0), (9.0, 9.0), stamp_ns=20)
    assert not rig.safe.update(30)
    np.testing.assert_array_equal(rig.safe.commands, [[1.0, 2.0], [8.0, 8.0], [9.0, 9.0]])
    assert [sample is None for sample in rig.safe.readings] == [True, False, False]


def test_only_robots_with_a_position_stay_at_their_safe_command() -> None:
    rig = Rig()
    rig.add((1.0, 2.0), None, (5.0, 6.0))
    rig.safe.update(10)
    before = rig.safe.frozen
    rig.safe.freeze_known([0, 1])
    assert rig.safe.frozen.tolist() == [True, False, False] and not before.any()
    rig.add(*[(9.0, 9.0)] * ROBOTS, stamp_ns=20)
    rig.safe.update(30)
    np.testing.assert_array_equal(rig.safe.commands, [[1.0, 2.0], [9.0, 9.0], [9.0, 9.0]])
    # It adds to those that stay already.
    rig.safe.freeze_known([2])
    assert rig.safe.frozen.tolist() == [True, False, True]


def test_forgotten_positions_are_read_again() -> None:
    rig = Rig()
    rig.add((1.0, 2.0), (3.0, 4.0), (5.0, 6.0))
    rig.safe.update(10)
    rig.safe.freeze(np.ones(ROBOTS, bool))
    rig.safe.forget([0, 1])
    np.testing.assert_array_equal(rig.safe.commands, [[NAN, NAN], [NAN, NAN], [5.0, 6.0]])
    assert rig.safe.frozen.tolist() == [False, False, True]
    rig.arrivals[0].clear()
    assert set(rig.safe.update(20)) == {0}
    np.testing.assert_array_equal(rig.safe.commands, [[NAN, NAN], [3.0, 4.0], [5.0, 6.0]])


def test_robots_of_other_nodes_are_followed_but_get_no_command() -> None:
    rig = Rig()
    rig.safe.yield_robots({1: "/other"})
    rig.add((1.0, 2.0), (3.0, 4.0), (5.0, 6.0))
    assert not rig.safe.update(10)
    np.testing.assert_array_equal(rig.safe.commands, [[1.0, 2.0], [NAN, NAN], [5.0, 6.0]])
    rig.safe.yield_robots({})
    np.testing.assert_array_equal(rig.safe.commands, [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])


def test_only_a_position_that_was_sent_counts_as_sent() -> None:
    """Other topics of a robot may have got their safe command alone."""
    rig = Rig()
    both = MeasuredPositions(3, rig.arrivals, rig._decode, rig.rejections, np.array([1, 2]), np.array([0.0, NAN, NAN]))
    assert both.was_sent(np.array([[0.0, NAN, NAN], [NAN, 1.0, 2.0], [0.0, 1.0, 2.0]])).tolist() == [False, True, True]
    assert SafeCommands(ROBOTS, 2, None).was_sent(np.full((ROBOTS, 2), NAN)).all()
