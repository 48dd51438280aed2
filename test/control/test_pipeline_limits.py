# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Limits of commands over several ticks: from the present command to that of the policy."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from test_pipeline import FRAMES, PERIOD_NS, READY, SAFE, STALE, Rig

PERIOD_S = PERIOD_NS / 1e9
MAX_RATE = [2.0, 8.0]
# Four steps from the safe command to the policy's.
RAMP_S = 4 * PERIOD_S


class Limited:
    """One robot with a limited command, and the command of its policy for readings that stay the same."""

    def __init__(self, folder: Any, **action: Any) -> None:
        self.rig = Rig(folder, FRAMES["vector"], robots=1, action=action)
        self.readings = self.rig.draw(np.random.default_rng(4))
        self.wanted = self.rig.expected(0, self.readings)
        self.state = READY

    def ticks(self, count: int, gap: str = "") -> np.ndarray:
        """Run ticks and return the sent commands, `[ticks, components]`, NaN where none was sent."""
        sent = []
        for _ in range(count):
            self.rig.send(0, self.readings, gap)
            self.tick = result = self.rig.step()
            self.state = result.states[0]
            sent.append(result.commands[0] if result.publish[0] else np.full(2, np.nan))
        return np.array(sent)

    def lose(self) -> None:
        """Run a tick whose command does not leave."""
        self.rig.send(0, self.readings)
        self.rig.now_ns += PERIOD_NS
        self.rig.pipeline.step(self.rig.now_ns, not_sent={0: (STALE, "it came too late")})

    def ramp(self, start: np.ndarray | list[float]) -> np.ndarray:
        """Return the ramp of five commands from a command to the policy's."""
        return np.asarray(start) + (self.wanted - start) * np.linspace(0.0, 1.0, 5)[:, None]

    def slewed(self, start: np.ndarray | list[float], count: int) -> np.ndarray:
        """Return commands that approach the policy's at the largest rate."""
        sent, change = [np.asarray(start, float)], np.array(MAX_RATE) * PERIOD_S
        for _ in range(count):
            sent.append(np.clip(self.wanted, sent[-1] - change, sent[-1] + change))
        return np.array(sent[1:])


def interruptions() -> dict[str, Callable[[Limited], object]]:
    """Return the events that end an episode, each with a safe command as the last one."""

    def operator(limited: Limited) -> None:
        limited.rig.pipeline.stop()
        assert limited.ticks(1).tolist() == [SAFE]
        limited.rig.pipeline.stop(())

    return {
        "activation": lambda limited: limited.rig.pipeline.reset(),
        "no readings": lambda limited: limited.ticks(2, "silent"),
        "readings that cannot be used": lambda limited: limited.ticks(1, "damaged"),
        "an operator's stop": operator,
        "a command that did not leave": lambda limited: limited.lose(),
        "a reset of the robot": lambda limited: limited.rig.pipeline.reset([0]),
        "another node": lambda limited: (
            limited.rig.pipeline.yield_robots({0: "/other"}),
            limited.ticks(1),
            limited.rig.pipeline.yield_robots({}),
        ),
    }


@pytest.mark.parametrize("interruption", interruptions())
@pytest.mark.parametrize("when_stale", ["stop", "silent"])
def test_the_command_ramps_from_the_safe_one_to_the_policys(tmp_path, when_stale, interruption):
    limited = Limited(tmp_path, ramp_s=RAMP_S, when_stale=when_stale)
    np.testing.assert_allclose(limited.ticks(7), [*limited.ramp(SAFE), limited.wanted, limited.wanted], atol=1e-5)
    interruptions()[interruption](limited)
    np.testing.assert_allclose(limited.ticks(6), [*limited.ramp(SAFE), limited.wanted], atol=1e-5)
    # The first is the safe one itself, the fifth the policy's.
    assert limited.tick.slowed.tolist() == [8]


@pytest.mark.parametrize("interruption", interruptions())
@pytest.mark.parametrize("when_stale", ["stop", "silent"])
def test_only_safe_commands_change_faster_than_the_rate_limit(tmp_path, when_stale, interruption):
    limited = Limited(tmp_path, max_rate=MAX_RATE, when_stale=when_stale)
    np.testing.assert_allclose(limited.ticks(9), limited.slewed(SAFE, 9), atol=1e-5)
    np.testing.assert_allclose(limited.ticks(1), [limited.wanted], atol=1e-5)
    interruptions()[interruption](limited)
    np.testing.assert_allclose(limited.ticks(9), limited.slewed(SAFE, 9), atol=1e-5)


def test_safe_commands_ignore_the_limits(tmp_path):
    limited = Limited(tmp_path, max_rate=[0.1], ramp_s=10.0, low=[0.3], high=[0.4])
    limited.ticks(3)
    assert limited.ticks(1, "silent").tolist() == [SAFE]


def test_the_command_ramps_from_the_held_one(tmp_path):
    limited = Limited(tmp_path, ramp_s=RAMP_S, when_stale="hold", hold_s=1.0)
    (*_, half) = limited.ticks(3)
    np.testing.assert_allclose(limited.ticks(2, "silent"), [half] * 2)
    assert limited.state is STALE
    np.testing.assert_allclose(limited.ticks(5), limited.ramp(half), atol=1e-5)


def test_after_a_pause_of_the_process_a_ramp_starts_at_the_safe_command(tmp_path):
    """The robot's timeout has stopped it, although its last command was the policy's."""
    limited = Limited(tmp_path, max_rate=MAX_RATE, ramp_s=RAMP_S)
    limited.ticks(20)
    limited.rig.now_ns += 10**9
    np.testing.assert_allclose(limited.ticks(1), [SAFE], atol=1e-5)


def test_a_robot_that_begins_a_ramp_leaves_those_of_others(tmp_path):
    rig = Rig(tmp_path, FRAMES["vector"], robots=3, action={"ramp_s": RAMP_S})
    readings = rig.draw(np.random.default_rng(4))
    wanted = rig.expected(0, readings)
    sent = []
    for number in range(14):
        for robot in range(3):
            # The others are on their ramp when it is lost, and at its end when it returns.
            rig.send(robot, readings, "silent" if robot == 1 and number in (1, 2, 3, 4, 5, 6) else "")
        sent.append(rig.step().commands)
    ramp = np.asarray(SAFE) + (wanted - SAFE) * np.linspace(0.0, 1.0, 5)[:, None]
    for robot in (0, 2):
        np.testing.assert_allclose([commands[robot] for commands in sent], [*ramp, *[wanted] * 9], atol=1e-5)
    np.testing.assert_allclose([commands[1] for commands in sent[6:]], [SAFE, *ramp, wanted, wanted], atol=1e-5)


def test_ramp_and_rate_act_together(tmp_path):
    limited = Limited(tmp_path, max_rate=[1e9], ramp_s=RAMP_S)
    np.testing.assert_allclose(limited.ticks(5), limited.ramp(SAFE), atol=1e-5)


def test_limits_are_counted_by_robot_where_they_act(tmp_path):
    rig = Rig(tmp_path, FRAMES["vector"], robots=3, action={"high": [1e-3], "low": [-1e-3]})
    readings = rig.draw(np.random.default_rng(4))
    for tick in range(4):
        for robot in range(3 if tick < 2 else 2):
            rig.send(robot, readings)
        result = rig.step()
    assert result.bounded.tolist() == [4, 4, 2]
    assert result.slowed.tolist() == [0, 0, 0]
    assert result.bounded.dtype == result.slowed.dtype == np.int64


def test_limits_are_changed_between_two_ticks(tmp_path: Any) -> None:
    limited = Limited(tmp_path)
    assert limited.ticks(1)[0] == pytest.approx(limited.wanted)
    pipeline, configuration = limited.rig.pipeline, limited.rig.configuration
    bounded = replace(configuration, action=replace(configuration.action, low=(-0.01,), high=(0.01,)))
    pipeline.change_limits(bounded)
    assert limited.ticks(1)[0].tolist() == np.clip(limited.wanted.astype(float), -0.01, 0.01).tolist()
    # From the command that was really sent.
    pipeline.change_limits(replace(configuration, action=replace(configuration.action, max_rate=(1.0,))))
    sent = limited.ticks(2)
    assert np.abs(np.diff(sent, axis=0)).max() <= PERIOD_S + 1e-9
    assert np.abs(sent[0]).max() <= 0.01 + PERIOD_S + 1e-9
    pipeline.change_limits(configuration)
    assert limited.ticks(1)[0] == pytest.approx(limited.wanted)
    # A tick without new readings finds them 60 ms old.
    assert limited.ticks(1, "silent").tolist() == [SAFE]
    patient = replace(configuration.synchronisation, max_age_s=0.1)
    pipeline.change_limits(replace(configuration, synchronisation=patient))
    limited.ticks(1)
    assert limited.ticks(1, "silent")[0] == pytest.approx(limited.wanted)
    pipeline.change_limits(configuration)
    assert limited.ticks(1, "silent").tolist() == [SAFE]
