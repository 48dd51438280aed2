# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The present position as the safe command."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sensor_msgs.msg import JointState
from test_pipeline import (
    FAULT,
    FRAMES,
    LATENCY_NS,
    OLD_NS,
    PERIOD_NS,
    READY,
    REJECTED,
    STALE,
    STOPPED,
    WAITING,
    Rig,
    decode,
)

from policy_node.config.schema import ConfigurationError
from policy_node.control.pairing import match_observations
from policy_node.control.pipeline import Pipeline
from policy_node.control.tick import FleetTick, Sent
from policy_node.messages.cdr import serialise
from policy_node.messages.reading import MissingJointsError

ARM = {
    "type": "sensor_msgs/msg/JointState",
    "fields": [],
    "joints": ["shoulder", "elbow"],
    "safe_command": [],
    "safe_position_topic": "joint_states",
}
RNG = np.random.default_rng(0)


class Arms(Rig):
    """Robots whose position can be sent like any reading."""

    def __init__(
        self, folder: Path, robots: int = 1, synchronisation: dict[str, float] | None = None, **action: Any
    ) -> None:
        action = {**ARM, **action}
        super().__init__(folder, FRAMES["vector"], robots=robots, action=action, synchronisation=synchronisation)

    def new_pipeline(self) -> Pipeline:
        layouts = match_observations(self.configuration, self.policy)
        decoders = {**dict.fromkeys(self.frames, decode), "action.safe_position": decode_position}
        return Pipeline(self.configuration, self.policy, layouts, decoders)

    def at(self, *position: float, robot: int = 0, age_ns: int = LATENCY_NS) -> None:
        self.add(robot, "action.safe_position", np.array(position), age_ns)

    def overrule(self, robot: int = 0) -> None:
        """Run a tick during which safe commands are sent."""
        self.send(robot, self.draw(RNG))
        self.now_ns += PERIOD_NS
        observed = self.pipeline.observe(self.now_ns)
        decided = self.pipeline.guard(self.pipeline.act(observed), observed)
        nothing = Sent.without(decided, dict.fromkeys(range(len(self.stacks)), (FAULT, "the tick took too long")))
        self.pipeline.commit(decided, nothing._replace(commands=self.pipeline.safe_commands.copy(), overruled=True))

    def drive(self, gap: str = "", robot: int = 0) -> FleetTick:
        self.send(robot, self.draw(RNG), gap)
        return self.step()


def test_a_robot_is_driven_once_its_position_is_known(tmp_path):
    rig = Arms(tmp_path)
    assert np.isnan(rig.pipeline.safe_commands).all()
    result = rig.drive()
    assert result.states == (WAITING,)
    assert result.reasons == ("no message on action.safe_position",)
    assert result.publish.tolist() == [False]
    assert result.unheard == {"robot_0": ["action.safe_position"]}
    rig.at(0.5, -1.0)
    assert rig.drive().states == (READY,)
    assert rig.pipeline.safe_commands.tolist() == [[0.5, -1.0]]


@pytest.mark.parametrize("stopped", [False, True])
def test_a_stopped_robot_stays_where_it_was_stopped(tmp_path, stopped):
    rig = Arms(tmp_path)
    for number in range(3):
        rig.at(0.1 * number, 1.0)
        rig.drive()
    if stopped:
        rig.pipeline.stop()
    for number in range(3):
        # It sags, and its command does not follow.
        rig.at(0.7 - 0.1 * number, 2.0)
        result = rig.drive("" if stopped else "silent")
        assert result.states == ((STOPPED if stopped else STALE),)
        assert result.publish.tolist() == [True]
        assert result.commands.tolist() == [[0.7, 2.0]]
    rig.pipeline.stop(())
    rig.at(0.4, 2.0)
    assert rig.drive().states == (READY,)
    rig.at(0.3, 2.0)
    assert rig.drive("silent").commands.tolist() == [[0.3, 2.0]]


def test_a_robot_whose_position_is_lost_is_left_alone(tmp_path):
    rig = Arms(tmp_path)
    rig.at(0.5, -1.0)
    assert rig.drive().publish.tolist() == [True]
    # Its readings are good, but what it was last commanded is a target, not where it is.
    result = rig.drive()
    assert result.states == (STALE,)
    assert result.reasons[0].startswith("action.safe_position: is 0.060 s old, synchronisation.max_age_s allows 0.040")
    assert not result.publish.any() and np.isnan(rig.pipeline.safe_commands).all()
    assert not rig.drive("silent").publish.any()
    rig.at(0.25, 1.0)
    assert rig.drive("silent").commands.tolist() == [[0.25, 1.0]]


LACKS_JOINTS = MissingJointsError("joint 'shoulder' occurs 0 times, not once; joints found: gripper")
OTHER_JOINTS = serialise(JointState(name=["gripper"], position=[0.1]))


def decode_position(message: object, out: np.ndarray) -> None:
    """Read a position, or a message without the arm's joints."""
    decode(LACKS_JOINTS if message is OTHER_JOINTS else message, out)


@pytest.mark.parametrize(
    "other", [OTHER_JOINTS, ZeroDivisionError("in the decoder"), np.zeros(3)], ids=["joints", "error", "size"]
)
@pytest.mark.parametrize("age_ns", [0, LATENCY_NS, OLD_NS, 10**15, -(10**15)])
def test_messages_that_cannot_be_used_do_not_displace_the_position(tmp_path, other, age_ns):
    rig = Arms(tmp_path, synchronisation={"max_age_s": 0.12})
    rig.at(0.5, -1.0)
    rig.drive()
    rig.at(0.75, -1.0)
    for _ in range(9):
        rig.add(0, "action.safe_position", other, age_ns)
    assert rig.drive().states == (READY,)
    assert rig.pipeline.safe_commands.tolist() == [[0.75, -1.0]]
    rig.add(0, "action.safe_position", other, age_ns)
    rig.pipeline.stop()
    assert rig.drive().commands.tolist() == [[0.75, -1.0]]


def test_messages_of_other_joints_are_no_fault(tmp_path):
    rig = Arms(tmp_path)
    rig.add(0, "action.safe_position", OTHER_JOINTS)
    for _ in range(2):
        result = rig.drive()
        assert result.states == (WAITING,)
        assert result.reasons == (f"action.safe_position: {LACKS_JOINTS}",)
        assert result.rejected.tolist() == [0]


@pytest.mark.parametrize("other", [OTHER_JOINTS, np.zeros(3)], ids=["joints", "size"])
def test_a_position_gets_no_younger_by_messages_that_cannot_be_used(tmp_path, other):
    rig = Arms(tmp_path, synchronisation={"max_age_s": 0.12})
    rig.at(0.5, -1.0)
    states = []
    for _ in range(4):
        states.append(rig.drive().states[0])
        rig.add(0, "action.safe_position", other)
    assert states == [READY, READY, READY, STALE if other is OTHER_JOINTS else REJECTED]


def test_a_position_in_the_future_does_not_stay_usable_for_longer(tmp_path):
    rig = Arms(tmp_path, synchronisation={"max_age_s": 0.12})
    states, stamp_ns = [], rig.now_ns + PERIOD_NS + 100_000_000
    for _ in range(5):
        rig.add(0, "action.safe_position", np.array([0.5, -1.0]), rig.now_ns + PERIOD_NS - stamp_ns)
        states.append(rig.drive().states[0])
    # Sent again with the same stamp, it is as old as when it was first seen.
    assert states == [READY, READY, READY, STALE, STALE]


def test_a_robot_keeps_its_position_when_the_clock_is_set_back(tmp_path):
    rig = Arms(tmp_path)
    rig.at(0.5, -1.0)
    rig.drive()
    rig.now_ns -= 10**9
    for _ in range(2):
        result = rig.step()
        assert result.publish.tolist() == [True]
        assert result.commands.tolist() == [[0.5, -1.0]]


@pytest.mark.parametrize(
    ("gap", "state", "reason"),
    [
        ("old", STALE, "action.safe_position: is 0.045 s old"),
        ("future", REJECTED, "action.safe_position: stamp lies more than 0.040 s in the future"),
        ("damaged", REJECTED, "action.safe_position: found float64 [3]"),
    ],
)
def test_a_robot_with_an_unusable_position_is_not_driven_at_first(tmp_path, gap, state, reason):
    rig = Arms(tmp_path)
    rig.at(*[0.0] * (3 if gap == "damaged" else 2), age_ns={"old": OLD_NS, "future": -(10**9)}.get(gap, LATENCY_NS))
    result = rig.drive()
    assert result.states == (state,)
    assert result.reasons[0].startswith(reason)
    assert not result.publish.any()
    assert result.rejected.tolist() == [int(state is REJECTED)]


def test_a_robot_stops_at_its_position_after_a_held_command(tmp_path):
    rig = Arms(tmp_path, when_stale="hold", hold_s=0.1)
    rig.at(0.0, 0.0)
    driven = rig.drive().commands.tolist()
    sent = []
    for number in range(1, 5):
        rig.at(0.1 * number, 0.0)
        sent.append(rig.drive("silent").commands.tolist())
    assert sent == [driven, driven, [[0.1 * 3, 0.0]], [[0.1 * 3, 0.0]]]


def test_silent_sends_nothing_but_follows_the_position(tmp_path):
    rig = Arms(tmp_path, when_stale="silent")
    rig.at(0.0, 0.0)
    rig.drive()
    for number in range(1, 4):
        rig.at(0.1 * number, 0.0)
        assert not rig.drive("silent").publish.any()
        assert rig.pipeline.safe_commands.tolist() == [[0.1 * number, 0.0]]
    rig.pipeline.stop()
    rig.at(9.0, 0.0)
    assert rig.drive().commands.tolist() == [[9.0, 0.0]]


@pytest.mark.parametrize("robots", [None, [0]])
def test_a_reset_forgets_the_position(tmp_path, robots):
    rig = Arms(tmp_path)
    rig.at(0.5, -1.0)
    rig.drive()
    rig.pipeline.reset(robots)
    result = rig.drive()
    assert result.states == (WAITING,)
    assert not result.publish.any()
    rig.at(7.0, 8.0)
    assert rig.drive("silent").commands.tolist() == [[7.0, 8.0]]


@pytest.mark.parametrize("when_stale", ["stop", "hold", "silent"])
def test_an_overruled_robot_stays_at_its_safe_command(tmp_path, when_stale):
    rig = Arms(tmp_path, when_stale=when_stale, hold_s=60.0)
    rig.at(0.5, -1.0)
    rig.overrule()
    assert rig.pipeline.safe_commands.tolist() == [[0.5, -1.0]]
    # Neither earlier positions are used nor is the last command held.
    result = rig.step()
    assert result.states == (WAITING,)
    assert result.publish.tolist() == [when_stale != "silent"]
    assert result.commands.tolist() == [[0.5, -1.0]]
    rig.at(0.5, -1.0)
    assert rig.drive().states == (READY,)


def test_an_overruled_robot_without_a_position_is_left_alone(tmp_path):
    rig = Arms(tmp_path, robots=2)
    rig.at(0.5, -1.0, robot=1)
    rig.overrule(robot=1)
    assert rig.step().publish.tolist() == [False, True]
    rig.at(2.0, 3.0)
    assert rig.drive("silent").commands.tolist() == [[2.0, 3.0], [0.5, -1.0]]


def test_the_position_of_a_robot_that_another_node_commands_is_followed(tmp_path):
    rig = Arms(tmp_path, robots=2)
    for robot in range(2):
        rig.at(0.5, robot, robot=robot)
    rig.drive()
    rig.pipeline.yield_robots({1: "/other"})
    for position in (1.0, 2.0), (3.0, 4.0):
        rig.at(0.5, 0.0, robot=0)
        rig.at(*position, robot=1)
        assert rig.drive().publish.tolist() == [True, False]
    rig.pipeline.yield_robots({})
    rig.at(5.0, 6.0, robot=1)
    assert rig.drive().commands[1].tolist() == [5.0, 6.0]


def test_the_ramp_begins_where_the_robot_is(tmp_path):
    rig = Arms(tmp_path, ramp_s=1.0)
    rig.at(0.5, -1.0)
    assert rig.drive().commands.tolist() == [[0.5, -1.0]]
    assert rig.drive().commands.tolist() != [[0.5, -1.0]]


def test_each_component_needs_its_joint(tmp_path):
    action = {"type": "std_msgs/msg/Float64MultiArray", "joints": [], "safe_position_joints": ["a", "b", "c"]}
    with pytest.raises(ConfigurationError, match=r"safe_position_joints: found 3, but a command has 2 components"):
        Arms(tmp_path, **action)
