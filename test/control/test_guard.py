# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""What the guard lets through and what is remembered of it, robot by robot, on plain arrays."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from policy_node.config.schema import Configuration, parse_configuration
from policy_node.control.fleet_memory import NEVER_NS, FleetMemory
from policy_node.control.guard import Guard
from policy_node.control.tick import Actions, FleetCommands, Observed, Sent
from policy_node.engines.inference import Inferred
from policy_node.sensing.synchroniser import RobotState

READY, STALE, FAULT, STOPPED = RobotState.READY, RobotState.STALE, RobotState.FAULT, RobotState.STOPPED
NAN = np.nan
NOW_NS = 10**18
SECOND_NS = 10**9
MAX_AGE_S = 0.25
HOLD_S = 0.5
# The robots of these tests: ready, stale, with a faulty action, stopped by an operator, and ready once more.
STATES = (READY, STALE, READY, STOPPED, READY)
ROBOTS = len(STATES)
WANTED = np.array([[1.0, 10.0], [2.0, 20.0], [3.0, NAN], [4.0, 40.0], [5.0, 50.0]])
SAFE = -np.arange(1.0, 2 * ROBOTS + 1).reshape(ROBOTS, 2)
LAST = 100.0 + np.arange(2.0 * ROBOTS).reshape(ROBOTS, 2)


def configuration(**action: Any) -> Configuration:
    topic = {"topic": "joints", "type": "std_msgs/msg/Float64MultiArray"}
    return parse_configuration(
        {
            "control_rate_hz": 20.0,
            "robots": [f"robot_{robot}" for robot in range(ROBOTS)],
            "policy": {"path": "unused"},
            "observations": {"keys": ["joints"], "joints": topic},
            "synchronisation": {"max_age_s": MAX_AGE_S},
            "action": {**topic, "topic": "command", "safe_command": [0.0, 0.0], **action},
        }
    )


def observed(states: Sequence[RobotState] = STATES, now_ns: int = NOW_NS, **changes: Any) -> Observed:
    ready = np.array([state is READY for state in states])
    plain = Observed(
        now_ns=now_ns,
        previous_ns=now_ns - SECOND_NS // 20,
        started_s=time.perf_counter(),
        states=tuple(states),
        reasons=tuple("" if state is READY else f"is {state.name}" for state in states),
        ages_s=np.where(ready, 0.125, NAN),
        ready=ready,
        fresh_start=np.zeros(ROBOTS, bool),
        stopped=np.array([state is STOPPED for state in states]),
        unseen_gap=np.zeros(ROBOTS, bool),
        samples=((),) * ROBOTS,
        positions=(None,) * ROBOTS,
        before=("",) * ROBOTS,
        stages_s={},
    )
    return plain._replace(**changes)


def actions(wanted: np.ndarray = WANTED, failure: str = "", **changes: Any) -> Actions:
    nothing = np.zeros(ROBOTS, bool)
    inferred = Inferred(wanted, nothing, nothing)._replace(**changes)
    return Actions(inferred, np.full((ROBOTS, 2), 7.0), failure, 0.0)


def remembering(of: Configuration, driven_ns: int = NOW_NS) -> FleetMemory:
    memory = FleetMemory(of, 2)
    memory.last_commands = LAST.copy()
    memory.last_driven_ns[:] = driven_ns
    return memory


def decide(of: Configuration, clock: Any = None, driven_ns: int = NOW_NS, **changes: Any) -> FleetCommands:
    safe = changes.pop("safe", SAFE)
    acted = changes.pop("actions", actions())
    return Guard(of)(acted, observed(**changes), safe, remembering(of, driven_ns), clock)


@pytest.mark.parametrize("when_stale", ["stop", "hold", "silent"])
def test_only_ready_robots_with_finite_actions_get_them(when_stale: str) -> None:
    decided = decide(configuration(when_stale=when_stale, hold_s=HOLD_S if when_stale == "hold" else 0.0))
    assert decided.states == (READY, STALE, FAULT, STOPPED, READY)
    assert decided.reasons == ("", "is STALE", "its action is not finite", "is STOPPED", "")
    assert decided.ready.tolist() == [True, False, False, False, True]
    assert decided.faulty.tolist() == [False, False, True, False, False]
    stale = LAST[1] if when_stale == "hold" else SAFE[1]
    np.testing.assert_array_equal(decided.commands, [WANTED[0], stale, SAFE[2], SAFE[3], WANTED[4]])
    assert decided.held.tolist() == [False, when_stale == "hold", False, False, False]
    # `silent` is about data: faults and stops are stopped.
    assert decided.publish.tolist() == [True, when_stale != "silent", True, True, True]
    assert decided.max_age_s == MAX_AGE_S and 0.0 <= decided.guard_s < 60.0


def test_the_failure_of_the_policy_is_the_reason_of_every_robot_that_was_ready() -> None:
    decided = decide(configuration(), actions=actions(np.full((ROBOTS, 2), NAN), "the policy failed: out of memory"))
    assert decided.states == (FAULT, STALE, FAULT, STOPPED, FAULT)
    assert [reason for reason in decided.reasons if "policy failed" in reason] == [decided.reasons[0]] * 3
    np.testing.assert_array_equal(decided.commands, SAFE)


def test_one_number_that_is_not_finite_is_enough() -> None:
    for number in (np.inf, -np.inf, NAN):
        wanted = WANTED.copy()
        wanted[0, 0] = number
        assert decide(configuration(), actions=actions(wanted)).states[0] is FAULT


@pytest.mark.parametrize("when_stale", ["stop", "silent"])
def test_a_robot_without_a_safe_command_gets_nothing_but_the_policys(when_stale: str) -> None:
    safe = SAFE.copy()
    safe[:, 1] = NAN
    decided = decide(configuration(when_stale=when_stale), safe=safe)
    assert decided.publish.tolist() == [True, False, False, False, True]
    np.testing.assert_array_equal(decided.commands[[0, 4]], WANTED[[0, 4]])


def test_a_command_is_held_for_its_time_and_no_longer() -> None:
    of = configuration(when_stale="hold", hold_s=HOLD_S)
    hold_ns = round(HOLD_S * 1e9)
    assert decide(of, driven_ns=NOW_NS - hold_ns).held.tolist() == [False, True, False, False, False]
    assert not decide(of, driven_ns=NOW_NS - hold_ns - 1).held.any()
    assert not decide(of, driven_ns=NEVER_NS).held.any()


def test_the_safe_commands_that_are_given_stay_unchanged() -> None:
    safe = SAFE.copy()
    decide(configuration(when_stale="hold", hold_s=HOLD_S), safe=safe)
    np.testing.assert_array_equal(safe, SAFE)


def test_commands_whose_readings_became_too_old_during_the_tick_are_replaced() -> None:
    ages_s = np.array([0.125, NAN, 0.125, NAN, 0.0625])
    decided = decide(configuration(), clock=lambda: NOW_NS + SECOND_NS // 8, ages_s=ages_s)
    assert decided.states[0] is READY and decided.states[4] is READY
    decided = decide(configuration(), clock=lambda: NOW_NS + SECOND_NS // 8 + 1000, ages_s=ages_s)
    assert decided.states == (STALE, STALE, FAULT, STOPPED, READY)
    assert decided.ready.tolist() == [False, False, False, False, True]
    assert decided.reasons[0] == (
        "its readings became too old while the tick took 0.125 s: they are 0.250 s old, "
        "synchronisation.max_age_s allows 0.250 s"
    )
    np.testing.assert_array_equal(decided.commands[0], SAFE[0])
    # Time that stands still makes nothing older.
    assert decide(configuration(), clock=None, ages_s=ages_s + 1.0).states[0] is READY


def test_a_clock_that_was_set_back_is_replaced_by_the_time_that_passed() -> None:
    for started_s, state in ((time.perf_counter() - 0.2, STALE), (time.perf_counter(), READY)):
        decided = decide(configuration(), clock=lambda: NOW_NS - SECOND_NS, started_s=started_s)
        assert decided.states[0] is state
    # A clock that stands still was not set back.
    assert decide(configuration(), clock=lambda: NOW_NS, started_s=time.perf_counter() - 0.2).states[0] is READY
    assert (
        "the tick took 0.2"
        in decide(configuration(), clock=lambda: NOW_NS - SECOND_NS, started_s=time.perf_counter() - 0.2).reasons[0]
    )


def test_commands_of_the_policy_expire_with_their_readings() -> None:
    decided = decide(configuration(), started_s=100.0, ages_s=np.array([0.125, NAN, 0.125, NAN, 0.0]))
    assert decided.expires_s.tolist() == [100.125, np.inf, np.inf, np.inf, 100.25]


# What is remembered.


def sent_as_decided(decided: FleetCommands, but: Sequence[int] = ()) -> Sent:
    return Sent.without(decided, dict.fromkeys(but, (STALE, "late")))


def test_what_was_sent_is_remembered() -> None:
    of = configuration()
    decided, memory = decide(of), remembering(of, NOW_NS - SECOND_NS)
    sent = sent_as_decided(decided)
    np.testing.assert_array_equal(sent.commands, [WANTED[0], SAFE[1], SAFE[2], SAFE[3], WANTED[4]])
    memory.commit(decided, sent)
    np.testing.assert_array_equal(memory.last_commands, sent.commands)
    assert memory.fresh_start.tolist() == [False, True, True, True, False]
    # Stale data may be held; faults and stops may not.
    assert memory.last_driven_ns.tolist() == [NOW_NS, NOW_NS - SECOND_NS, NEVER_NS, NEVER_NS, NOW_NS]
    assert memory.take_events() == ("",) * ROBOTS


def test_a_command_that_did_not_leave_is_not_remembered() -> None:
    of = configuration()
    decided, memory = decide(of), remembering(of, NOW_NS - SECOND_NS)
    memory.commit(decided, sent_as_decided(decided, but=[0, 1]))
    assert np.isnan(memory.last_commands[:2]).all() and np.isfinite(memory.last_commands[2:]).all()
    assert memory.fresh_start.tolist() == [True, True, True, True, False]
    assert memory.last_driven_ns.tolist() == [NEVER_NS, NEVER_NS, NEVER_NS, NEVER_NS, NOW_NS]
    assert memory.take_events() == ("",) * ROBOTS


def test_a_robot_that_got_its_safe_command_instead_is_overruled() -> None:
    of = configuration()
    decided, memory = decide(of), remembering(of)
    sent = sent_as_decided(decided, but=[0, 1])
    commands = sent.commands.copy()
    commands[0] = SAFE[0]
    sent = sent._replace(commands=commands)
    assert sent.replaced.tolist() == [True, False, False, False, False]
    memory.commit(decided, sent)
    np.testing.assert_array_equal(memory.last_commands[0], SAFE[0])
    assert memory.take_events() == ("overruled", "", "", "", "")
    assert memory.take_events() == ("",) * ROBOTS


def test_limits_are_counted_where_the_command_left() -> None:
    of = configuration()
    memory = remembering(of)
    flags = np.array([True, True, True, True, False]), np.array([True, False, False, False, True])
    acted = actions(bounded=flags[0], slowed=flags[1])
    for but in ([], [], [0]):
        decided = decide(of, actions=acted)
        memory.commit(decided, sent_as_decided(decided, but=but))
    assert memory.bounded.tolist() == [2, 0, 0, 0, 0] and memory.slowed.tolist() == [2, 0, 0, 0, 3]


def test_some_robots_are_restarted_forgotten_or_overruled() -> None:
    memory = remembering(configuration())
    memory.fresh_start[:] = False
    before = memory.last_commands
    memory.restart([0])
    memory.forget([1])
    memory.overrule([2, 3], SAFE[[2, 3]])
    assert memory.fresh_start.tolist() == [True, True, True, True, False]
    assert memory.last_driven_ns.tolist() == [NEVER_NS] * 4 + [NOW_NS]
    np.testing.assert_array_equal(memory.last_commands, [LAST[0], [NAN, NAN], SAFE[2], SAFE[3], LAST[4]])
    assert memory.take_events() == ("", "reset", "overruled", "overruled", "")
    # Other threads may read the commands of before.
    np.testing.assert_array_equal(before, LAST)


def test_a_ramp_begins_at_the_current_command_and_lasts_its_time() -> None:
    of = configuration(ramp_s=0.5)
    memory = FleetMemory(of, 2)
    fresh = np.array([True, False, True, False, False])
    acted = actions()
    start, passed = memory.ramp(observed(fresh_start=fresh), acted.current)
    np.testing.assert_array_equal(start[fresh], acted.current[fresh])
    # One that never began has passed.
    assert passed.tolist() == [0.0, 1.0, 0.0, 1.0, 1.0]
    decided = decide(of, fresh_start=fresh)
    memory.commit(decided, sent_as_decided(decided))
    moved = acted.current + 1.0
    for elapsed_s, share in ((0.125, 0.25), (0.5, 1.0), (2.0, 1.0)):
        later = observed(now_ns=NOW_NS + round(elapsed_s * 1e9))
        start, passed = memory.ramp(later, moved)
        # The first robot was driven; the third had no finite action, so that its ramp has not begun.
        np.testing.assert_array_equal(start[0], acted.current[0])
        assert passed.tolist() == [share, 1.0, 1.0, 1.0, 1.0]
    again = observed(now_ns=NOW_NS + 10**8, fresh_start=fresh)
    start, passed = memory.ramp(again, moved)
    np.testing.assert_array_equal(start[0], moved[0])
    assert passed[0] == 0.0


def test_without_a_ramp_it_has_always_passed() -> None:
    memory = FleetMemory(configuration(), 2)
    start, passed = memory.ramp(observed(fresh_start=np.ones(ROBOTS, bool)), LAST)
    assert start is LAST and passed.tolist() == [1.0] * ROBOTS


def test_a_new_fleet_has_sent_nothing_and_starts_its_episodes() -> None:
    memory = FleetMemory(configuration(), 2)
    assert np.isnan(memory.last_commands).all() and memory.last_commands.shape == (ROBOTS, 2)
    assert memory.fresh_start.all() and memory.last_driven_ns.tolist() == [NEVER_NS] * ROBOTS
    assert not memory.bounded.any() and not memory.slowed.any() and memory.take_events() == ("",) * ROBOTS
    # Snapshots of ticks share them.
    for shared in (memory.nobody, memory.bounded, memory.slowed):
        with pytest.raises(ValueError, match="read-only"):
            shared[0] = 1
