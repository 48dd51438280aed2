# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Requests of operators and other nodes to the pipeline: stop, resume, reset, yield robots."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_pipeline import FAULT, FRAMES, PERIOD_NS, READY, SAFE, STALE, STOPPED, WAITING, Rig

from policy_node.control.tick import FleetTick

RNG = np.random.default_rng(0)


def drive(rig: Rig) -> FleetTick:
    """Run one tick with good readings of every robot."""
    for robot in range(len(rig.stacks)):
        rig.send(robot, rig.draw(RNG))
    return rig.step()


@pytest.mark.parametrize("when_stale", ["stop", "hold", "silent"])
def test_a_stopped_fleet_gets_the_safe_command_until_it_is_resumed(tmp_path, when_stale):
    rig = Rig(tmp_path, FRAMES["vector"], action={"when_stale": when_stale, "hold_s": 60.0})
    assert drive(rig).states == (READY,) * 3
    rig.pipeline.stop()
    for interruption in (lambda: None, rig.pipeline.reset, lambda: rig.pipeline.adopt(rig.new_pipeline())):
        interruption()
        result = drive(rig)
        assert result.states == (STOPPED,) * 3
        assert all("operator" in reason for reason in result.reasons)
        assert result.publish.all()
        assert result.commands.tolist() == [SAFE] * 3
    assert rig.step().states == (STOPPED,) * 3  # without readings, too
    rig.pipeline.stop(())
    assert drive(rig).states == (READY,) * 3


def test_an_episode_begins_when_the_fleet_is_resumed(tmp_path):
    rig = Rig(tmp_path, FRAMES["vector"], stack=3)
    for stopped in (False, False, True, False, False):
        rig.pipeline.stop(None if stopped else ())
        fleet = [rig.draw(RNG) for _ in range(3)]
        for robot, readings in enumerate(fleet):
            rig.send(robot, readings)
        rig.assert_expected(rig.step(), fleet)


def test_a_hold_does_not_outlast_a_stop(tmp_path):
    rig = Rig(tmp_path, FRAMES["vector"], action={"when_stale": "hold", "hold_s": 60.0})
    drive(rig)
    rig.pipeline.stop()
    drive(rig)
    rig.pipeline.stop(())
    result = rig.step()
    assert result.states == (STALE,) * 3
    assert result.commands.tolist() == [SAFE] * 3


def test_nothing_is_sent_to_robots_that_another_node_commands(tmp_path):
    rig = Rig(tmp_path, FRAMES["vector"])
    drive(rig)
    rig.pipeline.yield_robots({1: "/other/policy_node"})
    for stopped in (False, True):
        if stopped:
            rig.pipeline.stop()
        result = drive(rig)
        assert result.states[1] is STOPPED
        assert "/other/policy_node" in result.reasons[1]
        assert result.publish.tolist() == [True, False, True]
        # Threads that send safe commands leave that robot alone, too.
        assert np.isnan(rig.pipeline.safe_commands[1]).all()
        assert rig.pipeline.safe_commands[[0, 2]].tolist() == [SAFE] * 2
    rig.pipeline.stop(())
    rig.pipeline.yield_robots({})
    assert rig.pipeline.safe_commands.tolist() == [SAFE] * 3
    result = drive(rig)
    assert result.states == (READY,) * 3
    assert result.publish.all()


def test_one_robot_is_reset_and_the_others_drive_on(tmp_path):
    rig = Rig(tmp_path, FRAMES["vector"], stack=3)
    for tick in range(5):
        if tick == 3:
            rig.pipeline.reset([1])
            rig.running[1] = False
        fleet = [rig.draw(RNG) for _ in range(3)]
        for robot, readings in enumerate(fleet):
            rig.send(robot, readings)
        result = rig.step()
        assert result.states == (READY,) * 3
        rig.assert_expected(result, fleet)
    rig.pipeline.reset([2])
    assert rig.pipeline.step(rig.now_ns + 1).states == (READY, READY, WAITING)


def test_a_command_that_did_not_leave_ends_the_episode_of_its_robot(tmp_path):
    rig = Rig(tmp_path, FRAMES["vector"], stack=3)
    for tick in range(6):
        fleet = [rig.draw(RNG) for _ in range(3)]
        for robot, readings in enumerate(fleet):
            rig.send(robot, readings)
        rig.now_ns += PERIOD_NS
        result = rig.pipeline.step(rig.now_ns, not_sent={1: (STALE, "it came too late")} if tick == 3 else None)
        assert result.driven.tolist() == [True, tick != 3, True]
        if tick == 3:
            assert (result.states[1], result.reasons[1]) == (STALE, "it came too late")
            assert np.isnan(result.sent[1]).all() and not np.isnan(result.sent[[0, 2]]).any()
            rig.running[1] = False
            for robot in (0, 2):
                np.testing.assert_allclose(result.commands[robot], rig.expected(robot, fleet[robot]), atol=1e-5)
        else:
            rig.assert_expected(result, fleet)
    with pytest.raises(ValueError, match="read-only"):
        result.sent[0] = 0.0


def test_a_command_that_did_not_leave_is_not_held(tmp_path):
    rig = Rig(tmp_path, FRAMES["vector"], action={"when_stale": "hold", "hold_s": 60.0})
    driven = drive(rig).commands
    for robot in range(3):
        rig.send(robot, rig.draw(RNG))
    rig.now_ns += PERIOD_NS
    rig.pipeline.step(rig.now_ns, not_sent={1: (STALE, "it came too late")})
    result = rig.step()
    assert result.states == (STALE,) * 3
    assert result.commands[1].tolist() == SAFE
    assert not np.array_equal(result.commands[0], SAFE) and not np.array_equal(result.commands[0], driven[0])


def test_safe_commands_are_never_changed_in_place(tmp_path):
    rig = Rig(tmp_path, FRAMES["vector"])
    before = rig.pipeline.safe_commands
    rig.pipeline.yield_robots({0: "/other"})
    assert before.tolist() == [SAFE] * 3
    assert rig.pipeline.safe_commands is not before


MAX_CHANGE = 3.0 * PERIOD_NS / 1e9


@pytest.fixture(scope="module")
def limited(tmp_path_factory) -> Iterator[Rig]:
    yield Rig(tmp_path_factory.mktemp("limited"), FRAMES["vector"], robots=2, action={"max_rate": [3.0]})


gaps = st.sampled_from(["", "", "", "silent", "old", "future", "damaged", "crash", "NaN"])
requests = st.sampled_from(["", "", "", "stop", "resume", "yield", "keep", "reset", "reset one", "adopt"])


@given(st.lists(st.tuples(requests, gaps, gaps), min_size=1, max_size=20))
def test_any_sequence_of_events_gives_every_robot_the_command_of_its_state(limited, ticks):
    """Another node sometimes commands the second robot; consecutive commands of a robot are limited."""
    rig = limited
    rig.pipeline = rig.new_pipeline()
    stopped, yielded, before = False, False, np.full((2, 2), np.nan)
    for request, *of_robots in ticks:
        if request in ("stop", "resume"):
            stopped = request == "stop"
            rig.pipeline.stop(None if stopped else ())
        elif request in ("yield", "keep"):
            yielded = request == "yield"
            rig.pipeline.yield_robots({1: "/other"} if yielded else {})
        elif request == "adopt":
            rig.pipeline.adopt(rig.new_pipeline())
        elif request:
            rig.pipeline.reset([0] if request == "reset one" else None)
            before[: 1 if request == "reset one" else 2] = np.nan
        for robot, gap in enumerate(of_robots):
            rig.send(robot, rig.draw(RNG), gap)
        result = rig.step()
        for robot, (state, gap) in enumerate(zip(result.states, of_robots, strict=True)):
            leaves = robot == 1 and yielded
            assert (state is STOPPED) is (stopped or leaves)
            assert state in (STOPPED, READY) or gap
            assert state not in (READY, FAULT) or gap in ("", "NaN")
            assert bool(result.reasons[robot]) is (state is not READY)
            assert result.publish[robot] is np.bool_(not leaves)
            assert np.isnan(rig.pipeline.safe_commands[robot]).all() == leaves
            command = result.commands[robot]
            if state is READY:
                # Without earlier commands the ramp starts at the safe command.
                last = np.where(np.isnan(before[robot]), SAFE, before[robot])
                assert (np.abs(command - last) <= MAX_CHANGE + 1e-9).all()
            elif not leaves:
                assert command.tolist() == SAFE
            before[robot] = command if result.publish[robot] else np.nan
