# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Limits of commands: bounds, largest change, and no effect within them."""

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from test_command_mapping import ARRAY, CPU, action_configuration

from policy_node.config.schema import ConfigurationError
from policy_node.control.command_mapping import CommandLimiter

PERIOD_S = 0.05
ROUNDING = 1e-9

numbers = st.floats(-4.0, 4.0)
any_numbers = st.one_of(numbers, st.sampled_from([np.nan, np.inf, -np.inf, 1e30]))


class Case(NamedTuple):
    """A limiter and its inputs; `low`, `high` and `max_rate` per component, infinite where there is none."""

    limiter: CommandLimiter
    low: np.ndarray
    high: np.ndarray
    max_change: np.ndarray
    ramps: bool
    commands: np.ndarray
    previous: np.ndarray
    start: np.ndarray
    ramp: np.ndarray

    def limited(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the commands `[robots, components]` and both flags `[robots]`."""
        given = (self.commands, self.previous, self.start, self.ramp)
        result = self.limiter(*map(torch.from_numpy, given)).numpy()
        return result[:, :-2], result[:, -2] != 0.0, result[:, -1] != 0.0


def limiter_of(components: int, **limits: Any) -> CommandLimiter:
    return CommandLimiter(action_configuration(ARRAY, **limits), components, PERIOD_S, CPU)


@st.composite
def cases(draw):
    robots, components = draw(st.integers(1, 3)), draw(st.integers(1, 3))

    def given_or_none(values: st.SearchStrategy[float]) -> tuple[float, ...]:
        """None, one number for all components or one for each."""
        count = draw(st.sampled_from([0, 1, components]))
        return tuple(draw(values) for _ in range(count))

    low, span = given_or_none(st.floats(-2.0, 1.0)), given_or_none(st.floats(0.0, 2.0))
    lowest = np.broadcast_to(low or (-1.0,), components)
    high = tuple((lowest + np.broadcast_to(span, components)).tolist()) if span else ()
    max_rate = given_or_none(st.floats(0.01, 20.0))
    ramp_s = draw(st.sampled_from([0.0, 1.0]))

    def rows(values: st.SearchStrategy[float]) -> np.ndarray:
        return draw(arrays(np.float64, (robots, components), elements=values))

    return Case(
        limiter_of(components, low=low, high=high, max_rate=max_rate, ramp_s=ramp_s),
        np.broadcast_to(low or (-np.inf,), components),
        np.broadcast_to(high or (np.inf,), components),
        np.broadcast_to(max_rate or (np.inf,), components) * PERIOD_S,
        ramp_s > 0.0,
        rows(any_numbers).astype(draw(st.sampled_from([np.float32, np.float64]))),
        rows(st.one_of(numbers, st.just(np.nan))),
        rows(st.one_of(numbers, st.just(np.nan))),
        draw(arrays(np.float64, robots, elements=st.floats(0.0, 1.0))),
    )


@given(cases())
def test_no_command_lies_beyond_a_bound_or_changes_faster_than_allowed(case):
    result, _, _ = case.limited()
    usable = np.isfinite(case.commands)
    assert (np.isfinite(result) == usable).all()
    within = (result >= case.low) & (result <= case.high)
    assert within[usable].all()
    # Where the last command lay beyond a bound, the bound counts.
    change = np.abs(result - np.clip(case.previous, case.low, case.high))
    assert (change <= case.max_change + ROUNDING)[usable & np.isfinite(case.previous)].all()


@given(cases())
def test_a_flag_is_set_exactly_where_a_limit_acted(case):
    result, bounded, slowed = case.limited()
    usable = np.isfinite(case.commands)
    wanted = np.where(usable, case.commands, 0.0).astype(np.float64)
    clipped = np.clip(wanted, case.low, case.high)
    assert bounded.tolist() == (usable & (clipped != wanted)).any(axis=1).tolist()
    assert slowed.tolist() == (usable & (result != clipped)).any(axis=1).tolist()


@given(cases())
def test_a_component_equals_a_direct_calculation(case):
    result, _, _ = case.limited()
    for robot, component in np.ndindex(result.shape):
        low, high, change = case.low[component], case.high[component], case.max_change[component]
        expected = float(case.commands[robot, component])
        if not np.isfinite(expected):
            continue
        expected = min(max(expected, low), high)
        start, previous = case.start[robot, component], case.previous[robot, component]
        if case.ramps and not np.isnan(start):
            begin = min(max(start, low), high)
            expected = begin + (expected - begin) * case.ramp[robot]
        if not np.isnan(previous):
            previous = min(max(previous, low), high)
            expected = min(max(expected, previous - change), previous + change)
        assert abs(result[robot, component] - expected) <= ROUNDING


@given(numbers, numbers, st.floats(0.5, 50.0))
def test_commands_reach_those_of_the_policy_and_then_no_limit_acts(start, wanted, rate):
    limiter = limiter_of(1, max_rate=(rate,))
    ones = torch.ones(1, dtype=torch.float64)
    sent, ticks = torch.tensor([[start]], dtype=torch.float64), 0
    while True:
        result = limiter(torch.tensor([[wanted]]), sent, sent, ones)
        sent, slowed = result[:, :1], bool(result[0, 2])
        if not slowed:
            break
        ticks += 1
    assert sent.item() == torch.tensor(wanted).item()
    assert ticks <= abs(start - wanted) / (rate * PERIOD_S) + 1


@pytest.mark.parametrize("limits", [{}, {"ramp_s": 0.5}, {"max_rate": (1.0,)}, {"low": (-1.0,)}, {"high": (1.0, 2.0)}])
def test_a_limiter_is_needed_where_anything_is_limited(limits):
    assert limiter_of(2, **limits).is_needed is bool(limits)


NOTHING = torch.full((1, 2), torch.nan, dtype=torch.float64)
ZEROS, ONE = torch.zeros((1, 2), dtype=torch.float64), torch.ones(1, dtype=torch.float64)


@pytest.mark.parametrize("captured", [False, True])
def test_limits_are_changed_in_place(captured):
    limiter = CommandLimiter(action_configuration(ARRAY, low=(-1.0,), max_rate=(1.0,)), 2, PERIOD_S, CPU, captured)
    places = [tensor.data_ptr() for tensor in (limiter._low, limiter._high, limiter._max_change)]
    wanted = torch.tensor([[-3.0, 3.0]])
    assert limiter(wanted, NOTHING, NOTHING, ONE)[0, :2].tolist() == [-1.0, 3.0]
    limiter.change(action_configuration(ARRAY, high=(0.5, 2.0), max_rate=(10.0, 20.0)))
    assert limiter(wanted, NOTHING, NOTHING, ONE)[0, :2].tolist() == [-3.0, 2.0]
    assert limiter(wanted, ZEROS, NOTHING, ONE)[0, :2].tolist() == [-10.0 * PERIOD_S, 20.0 * PERIOD_S]
    limiter.change(action_configuration(ARRAY))
    assert limiter(wanted, ZEROS, NOTHING, ONE).tolist() == [[-3.0, 3.0, 0.0, 0.0]]
    assert limiter.is_needed is captured
    assert places == [tensor.data_ptr() for tensor in (limiter._low, limiter._high, limiter._max_change)]


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"high": (1.0, 2.0, 3.0)}, "action.high: found 3 numbers, but a command has 2 components"),
        ({"max_rate": (1.0,)}, "action.max_rate: found .1.0., but this policy was captured as a CUDA graph without"),
    ],
)
def test_limits_that_do_not_fit_change_nothing(limits, reason):
    limiter = CommandLimiter(action_configuration(ARRAY, low=(-1.0,)), 2, PERIOD_S, CPU, captured=True)
    changed = action_configuration(ARRAY, **{"low": (-2.0,), **limits})
    for refuse in (limiter.check, limiter.change):
        with pytest.raises(ConfigurationError, match=reason):
            refuse(changed)
    assert limiter(torch.full((1, 2), -3.0), ZEROS, NOTHING, ONE)[0, :2].tolist() == [-1.0, -1.0]


def test_a_rate_has_one_number_or_one_for_each_component():
    with pytest.raises(ConfigurationError, match=r"action.max_rate: found 2 numbers, but a command has 3 components"):
        limiter_of(3, max_rate=(1.0, 2.0))


def test_a_bound_in_float64_holds_for_actions_in_float32():
    """The nearest float32 of 0.1 is larger than 0.1."""
    nothing = torch.full((1, 1), torch.nan, dtype=torch.float64)
    result = limiter_of(1, high=(0.1,))(torch.tensor([[0.1]]), nothing, nothing, torch.ones(1, dtype=torch.float64))
    assert result.tolist() == [[0.1, 1.0, 0.0]]
