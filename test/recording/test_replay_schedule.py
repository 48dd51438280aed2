# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""When a replay ticks, which recorded command belongs to a tick, and how reasons are counted."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_node.config.parameter_file import parse_override, parse_parameters
from policy_node.recording.replay.report import Commands, match_recorded, without_numbers
from policy_node.recording.replay.schedule import LONGEST_SILENCE_NS, Arrival, ticks_at_rate, ticks_on_clock

PERIOD_NS = 50_000_000
START_NS = 1_700_000_000_000_000_000

TIMES = st.lists(st.integers(0, 20 * PERIOD_NS), min_size=1, max_size=60).map(sorted)


def arrivals_at(times_ns: list[int]) -> list[Arrival]:
    return [Arrival(START_NS + time_ns, f"/topic_{index}", b"") for index, time_ns in enumerate(times_ns)]


@given(TIMES)
def test_ticks_are_one_period_apart_and_take_everything_in_order(times_ns: list[int]) -> None:
    arrivals = arrivals_at(times_ns)
    ticks = list(ticks_at_rate(arrivals, PERIOD_NS))
    assert [tick.time_ns for tick in ticks] == [
        arrivals[0].time_ns + (index + 1) * PERIOD_NS for index in range(len(ticks))
    ]
    assert [arrival for tick in ticks for arrival in tick.arrivals] == arrivals
    for position, tick in enumerate(ticks):
        begin_ns = tick.time_ns - PERIOD_NS - (position == 0)
        assert all(begin_ns < arrival.time_ns <= tick.time_ns for arrival in tick.arrivals)
    # The last tick is the first at which everything has arrived.
    assert ticks[-1].time_ns - PERIOD_NS < max(arrivals[0].time_ns + 1, arrivals[-1].time_ns) <= ticks[-1].time_ns


@given(st.lists(st.integers(0, 20 * PERIOD_NS), min_size=1, max_size=60))
def test_arrivals_out_of_order_keep_their_order(times_ns: list[int]) -> None:
    arrivals = arrivals_at(times_ns)
    ticks = list(ticks_at_rate(arrivals, PERIOD_NS))
    assert [arrival for tick in ticks for arrival in tick.arrivals] == arrivals
    assert all(after.time_ns - before.time_ns == PERIOD_NS for before, after in pairwise(ticks))


@given(st.integers(2 * LONGEST_SILENCE_NS, 400 * 24 * 3600 * 10**9))
def test_long_silences_are_skipped(silence_ns: int) -> None:
    arrivals = arrivals_at([0, silence_ns])
    ticks = list(ticks_at_rate(arrivals, PERIOD_NS))
    assert len(ticks) <= LONGEST_SILENCE_NS // PERIOD_NS + 2
    assert ticks[-1].time_ns == arrivals[1].time_ns + PERIOD_NS
    assert ticks[-1].arrivals == arrivals[1:]


def test_a_bag_without_messages_has_no_ticks() -> None:
    assert list(ticks_at_rate([], PERIOD_NS)) == []
    assert list(ticks_on_clock([], PERIOD_NS)) == []


@given(st.lists(st.integers(0, 20 * PERIOD_NS), min_size=1, max_size=60).map(sorted))
def test_ticks_on_a_clock_follow_its_times(clock_ns: list[int]) -> None:
    events: list[Arrival | int] = []
    for index, now_ns in enumerate(clock_ns):
        events += [now_ns, Arrival(7, f"/topic_{index}", b"")]
    ticks = list(ticks_on_clock(events, PERIOD_NS))
    times_ns = [tick.time_ns for tick in ticks]
    assert set(times_ns) <= set(clock_ns)
    # None before the first deadline, and never more ticks than deadlines.
    assert all(time_ns - clock_ns[0] >= PERIOD_NS for time_ns in times_ns)
    for count, time_ns in enumerate(times_ns, start=1):
        assert count <= (time_ns - clock_ns[0]) // PERIOD_NS
    for tick in ticks:
        # Messages arrive at a time of the clock, never after the tick that takes them.
        assert all(arrival.time_ns in clock_ns and arrival.time_ns <= tick.time_ns for arrival in tick.arrivals)


def test_a_jump_back_of_the_clock_restarts_the_schedule() -> None:
    events = [0, PERIOD_NS, 2 * PERIOD_NS, Arrival(0, "/old", b""), PERIOD_NS // 2, 2 * PERIOD_NS]
    ticks = list(ticks_on_clock(events, PERIOD_NS))
    assert [(tick.time_ns, tick.restarts) for tick in ticks] == [
        (PERIOD_NS, False),
        (2 * PERIOD_NS, False),
        (2 * PERIOD_NS, True),
    ]
    assert ticks[-1].arrivals == []


@given(TIMES, TIMES)
def test_the_command_of_a_tick_is_the_next_one_within_a_period(ticks_ns: list[int], recorded_ns: list[int]) -> None:
    times_ns = np.unique(np.array(ticks_ns, np.int64) // PERIOD_NS) * PERIOD_NS
    recorded = Commands(np.array(recorded_ns, np.int64), np.zeros((len(recorded_ns), 1)))
    matched = match_recorded(times_ns, recorded, PERIOD_NS)
    for time_ns, index in zip(times_ns.tolist(), matched.tolist(), strict=True):
        fitting = [position for position, at in enumerate(recorded_ns) if time_ns <= at < time_ns + PERIOD_NS]
        assert index == (fitting[0] if fitting else -1)
    used = matched[matched >= 0]
    assert len(np.unique(used)) == len(used)


def test_without_recorded_commands_nothing_matches() -> None:
    nothing = Commands(np.zeros(0, np.int64), np.zeros((0, 2)))
    assert match_recorded(np.array([0, PERIOD_NS]), nothing, PERIOD_NS).tolist() == [-1, -1]


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_reasons_that_differ_only_in_numbers_are_merged(one: float, other: float) -> None:
    reasons = {without_numbers(f"touch_3: is {age:.3f} s old, max_age_s allows 0.200 s") for age in (one, other)}
    assert reasons == {"touch_3: is # s old, max_age_s allows # s"}


@pytest.mark.parametrize(
    "reason, text",
    [
        ("image of rover_12 is 3 by 4 pixels", "image of rover_12 is # by # pixels"),
        ("element [7] is -1.5e-3", "element [#] is #"),
        ("no message on camera/image_raw", "no message on camera/image_raw"),
    ],
)
def test_names_keep_their_digits(reason: str, text: str) -> None:
    assert without_numbers(reason) == text


@pytest.mark.parametrize(
    "pattern, fits",
    [
        ("/**", True),
        ("policy_node", True),
        ("/policy_node", True),
        ("/*", True),
        ("/**/policy_node", True),
        ("/ns/policy_node", False),
        ("/*/policy_node", False),
    ],
)
def test_sections_apply_to_matching_nodes(pattern: str, fits: bool) -> None:
    sections = {pattern: {"a": 1}, "/other": {"b": 2}, "/another": {}}
    text = "\n".join(f"{name}: {{ros__parameters: {parameters}}}" for name, parameters in sections.items())
    if fits:
        assert parse_parameters(text, "file") == {"a": 1}
    else:
        with pytest.raises(ValueError, match="no section is for the node /policy_node; found"):
            parse_parameters(text, "file")


def test_later_sections_replace_earlier_ones_and_namespaces_may_be_nested() -> None:
    text = "/**: {ros__parameters: {a: 1, b: {c: 1e-3}}}\nfleet: {policy_node: {ros__parameters: {a: 2}}}"
    assert parse_parameters(text, "file", "/fleet/policy_node") == {"a": 2, "b.c": 0.001}


def test_a_single_section_applies_under_any_name() -> None:
    assert parse_parameters("my_node: {ros__parameters: {a: [x, y]}}", "file") == {"a": ["x", "y"]}


@pytest.mark.parametrize("text", ["", "a", "{", "- 1", "a: {b: 1}", "/**: &a {ros__parameters: *a}", "[" * 5000])
def test_invalid_parameter_files_are_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=r"my\.yaml"):
        parse_parameters(text, "my.yaml")


def test_an_override_is_a_name_and_yaml() -> None:
    assert parse_override("robots:=[a, b]") == ("robots", ["a", "b"])
    assert parse_override("policy.path:=/x:=y") == ("policy.path", "/x:=y")
    for text in ("robots", ":=1", "a:=["):
        with pytest.raises(ValueError, match="found"):
            parse_override(text)
