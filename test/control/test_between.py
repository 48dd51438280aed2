# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Commands between two ticks, on plain arrays."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from policy_node.control.between import BetweenTicks

BOTH = np.ones(2, bool)


def rest(between: BetweenTicks) -> list[np.ndarray]:
    """Return the commands that are left until the next tick."""
    found = []
    while not between.is_done:
        found.append(between.next()[0])
    return found


def test_a_command_of_the_policy_is_approached_in_equal_steps() -> None:
    between = BetweenTicks(2, 1, 4, is_linear=True)
    assert between.is_done
    # Nothing was sent before: it is sent at once.
    first = between.begin(np.array([[1.0], [10.0]]), BOTH, BOTH, None)
    assert first.tolist() == [[1.0], [10.0]] and len(rest(between)) == 3
    first = between.begin(np.array([[2.0], [6.0]]), BOTH, BOTH, None)
    way = [first, *rest(between)]
    assert [step[:, 0].tolist() for step in way] == [[1.25, 9.0], [1.5, 8.0], [1.75, 7.0], [2.0, 6.0]]


def test_a_safe_command_is_sent_at_once_and_repeated() -> None:
    between = BetweenTicks(2, 1, 4, is_linear=True)
    between.begin(np.array([[1.0], [10.0]]), BOTH, BOTH, None)
    rest(between)
    first = between.begin(np.array([[0.0], [6.0]]), BOTH, np.array([False, True]), None)
    way = [first, *rest(between)]
    assert [step[:, 0].tolist() for step in way] == [[0.0, 9.0], [0.0, 8.0], [0.0, 7.0], [0.0, 6.0]]
    # The way back begins there.
    assert between.begin(np.array([[4.0], [6.0]]), BOTH, BOTH, None)[0, 0] == 1.0


def test_a_late_tick_begins_where_the_way_has_got_to() -> None:
    between = BetweenTicks(1, 1, 4, is_linear=True)
    one = np.ones(1, bool)
    between.begin(np.array([[0.0]]), one, one, None)
    rest(between)
    between.begin(np.array([[8.0]]), one, one, None)
    assert between.next()[0].tolist() == [[4.0]]
    assert between.begin(np.array([[8.0]]), one, one, None).tolist() == [[5.0]]


def test_held_commands_are_repeated() -> None:
    between = BetweenTicks(1, 1, 3, is_linear=False)
    one = np.ones(1, bool)
    between.begin(np.array([[0.0]]), one, one, None)
    first = between.begin(np.array([[8.0]]), one, one, None)
    assert [step.tolist() for step in [first, *rest(between)]] == [[[8.0]]] * 3


def test_the_way_of_a_robot_that_is_made_safe_ends_at_once() -> None:
    between = BetweenTicks(2, 1, 4, is_linear=True)
    between.begin(np.array([[1.0], [10.0]]), BOTH, BOTH, None)
    safe = np.array([[-1.0], [np.nan]])
    between.end(np.array([True, False]), safe)
    _, publish = between.next()
    assert publish.tolist() == [False, True]
    between.end(np.array([False, True]))
    assert between.is_done
    # Its next way begins at the safe command; without one the command is sent at once.
    first = between.begin(np.array([[3.0], [2.0]]), BOTH, BOTH, None)
    np.testing.assert_array_equal(first[1], [2.0])
    assert first[0, 0] == 0.0


def test_a_robot_that_is_made_safe_before_the_first_tick_begins_its_way_there() -> None:
    between = BetweenTicks(2, 1, 4, is_linear=True)
    between.end(np.array([True, False]), np.array([[-1.0], [np.nan]]))
    assert between.is_done
    assert between.begin(np.array([[3.0], [2.0]]), BOTH, BOTH, None).tolist() == [[0.0], [2.0]]


def test_robots_that_get_nothing_keep_no_way() -> None:
    between = BetweenTicks(2, 1, 2, is_linear=True)
    between.begin(np.array([[1.0], [10.0]]), np.array([True, False]), BOTH, None)
    between.next()
    first = between.begin(np.array([[2.0], [20.0]]), BOTH, BOTH, None)
    assert first[:, 0].tolist() == [1.5, 20.0]


def test_the_command_of_the_tick_is_reached_without_rounding() -> None:
    between = BetweenTicks(1, 1, 4, is_linear=True)
    one = np.ones(1, bool)
    for command in (-4.9, 0.1):
        assert -4.9 + (0.1 - -4.9) != 0.1
        between.begin(np.array([[command]]), one, one, None)
        found = rest(between)
    assert found[-1].tolist() == [[0.1]]


def test_when_commands_become_too_old_is_that_of_the_newest_tick() -> None:
    between = BetweenTicks(2, 1, 2, is_linear=True)
    assert between.until_s is None
    for until_s in (np.array([1.0, np.inf]), None):
        between.begin(np.zeros((2, 1)), BOTH, BOTH, until_s)
        assert between.until_s is until_s


BOUNDED = st.floats(-5.0, 5.0, width=32)


@given(arrays(np.float64, (6, 3), elements=BOUNDED), st.integers(2, 25))
def test_bounds_hold_between_ticks_and_no_step_is_larger_than_its_share(commands: np.ndarray, steps: int) -> None:
    between = BetweenTicks(1, 3, steps, is_linear=True)
    one = np.ones(1, bool)
    sent = []
    for command in commands:
        sent.append(between.begin(command[None], one, one, None)[0])
        sent += [row[0] for row in rest(between)]
        # Each tick's command is reached exactly.
        np.testing.assert_array_equal(sent[-1], command)
    found = np.array(sent)
    assert (np.abs(found) <= 5.0).all()
    change = np.abs(np.diff(commands, axis=0)).max(initial=0.0)
    assert np.abs(np.diff(found, axis=0)).max(initial=0.0) <= change / steps + 1e-9


@pytest.mark.parametrize("steps", [2, 10])
def test_as_many_commands_are_left_as_fit_into_a_period(steps: int) -> None:
    between = BetweenTicks(1, 1, steps, is_linear=True)
    between.begin(np.zeros((1, 1)), np.ones(1, bool), np.ones(1, bool), None)
    assert len(rest(between)) == steps - 1
