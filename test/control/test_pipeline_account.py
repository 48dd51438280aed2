# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The account that a tick gives of itself, and the inputs of single steps."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from test_pipeline import FRAMES, LATENCY_NS, PERIOD_NS, READY, REJECTED, SAFE, STALE, STOPPED, Rig, failing_rig
from test_safe_position import Arms

from policy_node.config.schema import ConfigurationError, limits_of
from policy_node.control.tick import FleetTick
from policy_node.sensing.synchroniser import Selection

RNG = np.random.default_rng(0)


def drive(rig: Rig, *gaps: str) -> FleetTick:
    """Run one tick in which the robots have readings, each with a gap."""
    for robot in range(len(rig.stacks)):
        rig.send(robot, rig.draw(RNG), gaps[robot] if gaps else "")
    return rig.step()


def test_a_tick_says_what_was_decided_and_sent_by_whom_and_within_which_limits(tmp_path: Any) -> None:
    rig = Rig(tmp_path, FRAMES["vector"])
    rig.pipeline.yield_robots({2: "/other"})
    for robot in range(3):
        rig.send(robot, rig.draw(RNG))
    rig.now_ns += PERIOD_NS
    tick = rig.pipeline.step(rig.now_ns, not_sent={1: (STALE, "late")})
    assert tick.time_ns == rig.now_ns
    assert np.isfinite(tick.commands[:2]).all() and np.isnan(tick.commands[2]).all()
    assert tick.publish.tolist() == [True, True, False] and tick.commanded.tolist() == [True, False, False]
    np.testing.assert_array_equal(tick.sent, [tick.commands[0], [np.nan] * 2, [np.nan] * 2])
    assert tick.driven.tolist() == [True, False, False]
    assert tick.reasons == ("", "late", "/other commands it")
    assert tick.fresh_start.tolist() == [True, True, False]
    assert [len(samples) for samples in tick.samples] == [1, 0, 0]
    assert tick.positions == (None,) * 3 and tick.before == ("",) * 3
    assert (tick.stopped, tick.owners) == (False, {2: "/other"})
    assert tick.policy_sha256 == rig.policy.spec.sha256 and len(tick.policy_sha256) == 64
    assert tick.rejected.tolist() == tick.bounded.tolist() == tick.slowed.tolist() == [0] * 3
    assert tick.unheard == {}
    assert json.loads(tick.limits) == json.loads(json.dumps(limits_of(rig.configuration)))


def test_the_times_of_the_stages_are_durations(tmp_path: Any) -> None:
    tick = drive(Rig(tmp_path, FRAMES["vector"]))
    assert all(0.0 <= duration_s < 60.0 for duration_s in tick.stages_s.values()) and len(tick.stages_s) == 4


def test_a_tick_knows_the_one_before(tmp_path: Any) -> None:
    rig = Rig(tmp_path, FRAMES["vector"])
    drive(rig)
    drive(rig)
    assert rig.pipeline.observed is not None
    assert rig.pipeline.observed.previous_ns == rig.now_ns - PERIOD_NS


def test_messages_that_are_refused_at_several_ticks_add_up(tmp_path: Any) -> None:
    rig = Rig(tmp_path, FRAMES["vector"])
    counts = []
    for gaps in (("future", "", ""), ("future", "", "future"), ("", "", "")):
        tick = drive(rig, *gaps)
        counts.append(tick.rejected.tolist())
        assert [state is REJECTED for state in tick.states] == [gap == "future" for gap in gaps]
    assert counts == [[1, 0, 0], [2, 0, 1], [2, 0, 1]]


def test_readings_that_are_given_are_not_chosen_once_more(tmp_path: Any) -> None:
    rig, other = Rig(tmp_path, FRAMES["vector"]), Rig(tmp_path, FRAMES["vector"])
    fleet = [rig.draw(RNG) for _ in range(3)]
    for robot in range(3):
        rig.send(robot, fleet[robot])
    expected = rig.step()
    # As in a recording: the samples are known, and the pipeline has none.
    selections = [Selection(READY, samples, LATENCY_NS, "") for samples in expected.samples]
    selections[1] = Selection(STALE, (), None, "it was old")
    tick = other.pipeline.step(rig.now_ns, selections=selections)
    assert tick.states == (READY, STALE, READY) and tick.reasons == ("", "it was old", "")
    np.testing.assert_array_equal(tick.commands, [expected.commands[0], SAFE, expected.commands[2]])


def test_the_device_that_failed_ends_the_tick(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = failing_rig(tmp_path)
    drive(rig)

    def fail(*given: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(rig.pipeline, "_inference", fail)
    with pytest.raises(RuntimeError, match="CUDA error"):
        drive(rig)


def test_all_or_some_robots_are_stopped(tmp_path: Any) -> None:
    rig = Rig(tmp_path, FRAMES["vector"])
    for stopped, whole in (([1], False), ([0, 2], False), ([0, 1, 2], True), (None, True), ([], False)):
        rig.pipeline.stop(stopped)
        tick = drive(rig)
        expected = range(3) if stopped is None else stopped
        assert [state is STOPPED for state in tick.states] == [robot in expected for robot in range(3)]
        assert tick.stopped is whole


def test_limits_that_do_not_fit_are_refused_before_they_are_used(tmp_path: Any) -> None:
    rig = Rig(tmp_path, FRAMES["vector"])
    before = drive(rig).limits
    of_action = rig.configuration.action
    with pytest.raises(ConfigurationError, match=r"action\.high: found 3 numbers"):
        rig.pipeline.check_limits(replace(rig.configuration, action=replace(of_action, high=(1.0, 2.0, 3.0))))
    changed = replace(rig.configuration, action=replace(of_action, high=(1.0, 2.0)))
    rig.pipeline.check_limits(changed)
    assert drive(rig).limits == before
    rig.pipeline.change_limits(changed)
    assert json.loads(drive(rig).limits) == json.loads(json.dumps(limits_of(changed)))


def test_a_pause_is_longer_where_older_readings_are_allowed(tmp_path: Any) -> None:
    rig = Rig(tmp_path, FRAMES["vector"])
    patient = replace(rig.configuration.synchronisation, max_age_s=0.2)
    for max_age_changes in (False, True):
        if max_age_changes:
            rig.pipeline.change_limits(replace(rig.configuration, synchronisation=patient))
        drive(rig)
        rig.now_ns += 3 * PERIOD_NS
        assert drive(rig).fresh_start.tolist() == [not max_age_changes] * 3


def test_a_stopped_robot_stays_although_the_command_of_another_did_not_leave(tmp_path: Any) -> None:
    rig = Arms(tmp_path, robots=3)
    for robot in range(3):
        rig.at(0.5, -1.0, robot=robot)
    for robot in (1, 2):
        rig.send(robot, rig.draw(RNG))
    rig.now_ns += PERIOD_NS
    tick = rig.pipeline.step(rig.now_ns, not_sent={1: (STALE, "late")})
    assert tick.publish.all() and tick.driven.tolist() == [False, False, True]
    assert [sample is not None for sample in tick.positions] == [True] * 3
    for robot in range(3):
        rig.at(0.75, -0.75, robot=robot)
    drive(rig)
    # The first one got its safe command, and holds it; the others did not.
    assert rig.pipeline.safe_commands.tolist() == [[0.5, -1.0], [0.75, -0.75], [0.75, -0.75]]
