# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Sensors of every kind, of several robots: each sample reaches its robot, by the rule of its kind."""

from dataclasses import replace
from typing import Any

import pytest

from policy_node.config.schema import parse_configuration
from policy_node.sensing.fleet_samples import RING_LENGTH, FleetSamples
from policy_node.sensing.samples import Sample
from policy_node.sensing.synchroniser import RobotState

READY, WAITING, STALE = RobotState.READY, RobotState.WAITING, RobotState.STALE
MS = 10**6
NOW = 10**18
BEFORE = NOW - 50 * MS
# In the order of the sensors, which is not that of the configuration.
LEFT, RIGHT, GOAL, BUMPER, POSITION = range(5)


JOINTS: dict[str, Any] = {"type": "sensor_msgs/msg/JointState", "field": "effort"}
PARAMETERS = {
    "control_rate_hz": 20.0,
    "robots": ["a", "b", "c"],
    "policy": {"path": "unused"},
    "observations": {
        "keys": ["bumper", "goal", "left", "right"],
        "bumper": {**JOINTS, "topic": "bumper", "when_silent": "zeros"},
        "goal": {**JOINTS, "topic": "goal", "max_age_s": 5.0},
        "left": {**JOINTS, "topic": "left"},
        "right": {**JOINTS, "topic": "right", "depth": 2 * RING_LENGTH},
    },
    "synchronisation": {"slop_s": 0.02, "max_age_s": 0.1},
    "action": {
        "topic": "command",
        "type": "trajectory_msgs/msg/JointTrajectory",
        "joints": ["arm"],
        "safe_position_topic": "joint_states",
    },
}


@pytest.fixture
def fleet() -> FleetSamples:
    """Return the samples of three robots with five sensors."""
    return FleetSamples(parse_configuration(PARAMETERS))


def add_all(fleet: FleetSamples, robot: int) -> None:
    for sensor, age_ns in ((LEFT, 10 * MS), (RIGHT, 20 * MS), (GOAL, 4000 * MS), (BUMPER, 15 * MS)):
        fleet.add(robot, sensor, NOW - age_ns, (robot, sensor))


def test_sensors_are_in_the_order_of_their_kinds(fleet: FleetSamples) -> None:
    assert fleet.names[:POSITION] == ("left", "right", "goal", "bumper") and len(fleet.names) == 5
    assert [sources[0].name for sources in fleet.observed] == list(fleet.names[:POSITION])


def test_each_robot_gets_its_own_samples_in_the_order_of_the_sensors(fleet: FleetSamples) -> None:
    for robot in (0, 2):
        add_all(fleet, robot)
    first, second, third = fleet.select(NOW, BEFORE)
    for robot, selection in ((0, first), (2, third)):
        assert selection.state is READY and selection.reason == ""
        # The newest goal counts whatever its age; only the synchronised ones are in the age.
        assert selection.age_ns == 20 * MS
        ages_ns = (10, 20, 4000, 15)
        assert selection.samples == tuple(Sample(NOW - age * MS, (robot, sensor)) for sensor, age in enumerate(ages_ns))
    assert second.state is WAITING and second.reason == "no message on left, right"


@pytest.mark.parametrize(("missing", "reason"), [(GOAL, "no message on goal"), (RIGHT, "no message on right")])
def test_a_missing_sensor_of_one_robot_lets_that_robot_wait(fleet: FleetSamples, missing: int, reason: str) -> None:
    for robot in range(3):
        for sensor in (LEFT, RIGHT, GOAL, BUMPER):
            if (robot, sensor) != (1, missing):
                fleet.add(robot, sensor, NOW, None)
    selections = fleet.select(NOW, BEFORE)
    assert [selection.state for selection in selections] == [READY, WAITING, READY]
    assert selections[1].reason == reason


def test_limits_of_the_synchronised_and_of_a_sensor_itself(fleet: FleetSamples) -> None:
    for robot, (right_ms, goal_ms) in enumerate(((30, 5000), (30, 5001), (31, 5000))):
        fleet.add(robot, LEFT, NOW - 10 * MS, None)
        fleet.add(robot, RIGHT, NOW - right_ms * MS, None)
        fleet.add(robot, GOAL, NOW - goal_ms * MS, None)
        fleet.add(robot, BUMPER, NOW - 10 * MS, None)
    good, old, apart = fleet.select(NOW, BEFORE)
    assert good.state is READY
    assert old.state is STALE and old.reason == "goal: is 5.001 s old, its max_age_s allows 5.000 s"
    assert apart.state is STALE and apart.reason == (
        "right and left: stamps are 0.021 s apart, synchronisation.slop_s allows 0.020 s"
    )
    for robot, age_ms in enumerate((100, 101, 100)):
        fleet.forget([robot])
        for sensor in (LEFT, RIGHT, GOAL, BUMPER):
            fleet.add(robot, sensor, NOW - age_ms * MS, None)
    assert [selection.state for selection in fleet.select(NOW, BEFORE)] == [READY, STALE, READY]


def test_silence_is_a_reading_where_the_sensor_has_a_publisher(fleet: FleetSamples) -> None:
    for robot in range(3):
        for sensor in (LEFT, RIGHT, GOAL):
            fleet.add(robot, sensor, NOW, None)
    fleet.set_present(1, BUMPER, True)
    selections = fleet.select(NOW, BEFORE)
    assert [selection.state for selection in selections] == [WAITING, READY, WAITING]
    assert selections[1].samples[BUMPER] == Sample(NOW, None)
    assert selections[0].reason == "no message on bumper, and nobody publishes it"
    fleet.set_present(1, BUMPER, False)
    assert fleet.select(NOW, BEFORE)[1].state is WAITING


def test_unheard_sensors_are_named_by_robot(fleet: FleetSamples) -> None:
    fleet.set_present(0, BUMPER, True)
    # Presence says nothing of sensors whose silence is not a reading.
    fleet.set_present(0, GOAL, True)
    position = fleet.names[POSITION]
    assert fleet.unheard() == {
        "a": ["left", "right", "goal", position],
        "b": ["left", "right", "goal", "bumper", position],
        "c": ["left", "right", "goal", "bumper", position],
    }
    for sensor in range(5):
        fleet.add(1, sensor, NOW, None)
    fleet.add(2, LEFT, NOW, None)
    assert fleet.unheard()["c"] == ["right", "goal", "bumper", position] and "b" not in fleet.unheard()
    # What was heard stays heard.
    fleet.forget([1])
    assert "b" not in fleet.unheard()
    for robot in (0, 2):
        for sensor in range(5):
            if (robot, sensor) != (0, BUMPER):
                fleet.add(robot, sensor, NOW, None)
    assert fleet.unheard() == {}


def test_samples_of_some_robots_are_forgotten(fleet: FleetSamples) -> None:
    for robot in range(3):
        add_all(fleet, robot)
    fleet.forget([0, 2])
    assert [selection.state for selection in fleet.select(NOW, BEFORE)] == [WAITING, READY, WAITING]


@pytest.mark.parametrize(("sensor", "other", "depth"), [(LEFT, RIGHT, RING_LENGTH), (RIGHT, LEFT, 2 * RING_LENGTH)])
def test_samples_are_kept_as_deep_as_the_queue_of_their_sensor(
    fleet: FleetSamples, sensor: int, other: int, depth: int
) -> None:
    # All but the first sample are too far from the only one of the other sensor.
    first_ns = NOW - 90 * MS
    for robot in range(3):
        for each in (other, GOAL, BUMPER):
            fleet.add(robot, each, first_ns, None)
        for number in range(depth + (robot == 1)):
            fleet.add(robot, sensor, first_ns + (number and 30 * MS + number), None)
    assert [selection.state for selection in fleet.select(NOW, BEFORE)] == [READY, STALE, READY]


def test_the_reason_names_what_the_readings_of_one_sensor_of_a_robot_are_as_old_as(fleet: FleetSamples) -> None:
    fleet.name_oldest(1, GOAL, "map to base")
    for robot in range(3):
        add_all(fleet, robot)
    later = NOW + 1001 * MS
    for robot in range(3):
        for sensor in (LEFT, RIGHT, BUMPER):
            fleet.add(robot, sensor, later, None)
    reasons = [selection.reason for selection in fleet.select(later, later - 50 * MS)]
    old = "is 5.001 s old, its max_age_s allows 5.000 s"
    assert reasons == [f"goal: {old}", f"goal (map to base): {old}", f"goal: {old}"]


def test_the_largest_age_of_a_transform_is_told_by_its_name() -> None:
    configuration = parse_configuration(PARAMETERS)
    goal = {"max_age_s": float("inf"), "transform_max_age_s": 0.5}
    observations = [replace(each, **goal) if each.key == "goal" else each for each in configuration.observations]
    fleet = FleetSamples(replace(configuration, observations=tuple(observations)))
    add_all(fleet, 0)
    reason = fleet.select(NOW, BEFORE)[0].reason
    assert reason == "goal: is 4.000 s old, its transform_max_age_s allows 0.500 s"


def test_other_limits_count_for_every_sensor_of_every_robot(fleet: FleetSamples) -> None:
    configuration = parse_configuration(PARAMETERS)
    shorter = replace(
        configuration,
        synchronisation=replace(configuration.synchronisation, max_age_s=0.015),
        observations=tuple(
            replace(each, max_age_s=3.0) if each.key == "goal" else each for each in configuration.observations
        ),
    )
    for robot in range(3):
        add_all(fleet, robot)
        fleet.add(robot, POSITION, NOW - 15 * MS, robot)
    fleet.add(1, RIGHT, NOW, None)
    fleet.add(1, LEFT, NOW, None)
    fleet.change_limits(shorter)
    reasons = [selection.reason for selection in fleet.select(NOW, BEFORE)]
    assert reasons[0] == "right: is 0.020 s old, synchronisation.max_age_s allows 0.015 s"
    assert reasons[1] == "goal: is 4.000 s old, its max_age_s allows 3.000 s"
    assert [position.max_age_ns for position in fleet.positions] == [15 * MS] * 3
    fleet.change_limits(configuration)
    assert [selection.state for selection in fleet.select(NOW, BEFORE)] == [READY] * 3


def test_as_many_messages_of_the_safe_position_are_kept_as_samples_of_a_sensor(fleet: FleetSamples) -> None:
    tried = []

    def decode(message: int) -> None:
        tried.append(message)
        raise ValueError

    position = fleet.positions[1]
    assert position.newest_usable(NOW, decode, lambda *_: "") == (WAITING, f"no message on {fleet.names[POSITION]}")
    for number in range(RING_LENGTH + 1):
        for robot in range(3):
            fleet.add(robot, POSITION, NOW, (robot, number))
    position.newest_usable(NOW, decode, lambda *_: "")
    assert tried == [(1, number) for number in range(RING_LENGTH, 0, -1)]


def test_what_does_not_age_is_used_forever_and_survives_a_reset() -> None:
    configuration = parse_configuration(
        {
            "control_rate_hz": 20.0,
            "robots": ["a"],
            "policy": {"path": "unused"},
            "observations": {
                "keys": ["goal", "touch"],
                "goal": {**JOINTS, "topic": "goal", "max_age_s": float("inf")},
                "touch": {**JOINTS, "topic": "touch"},
            },
            "synchronisation": {"slop_s": 0.02, "max_age_s": 0.1},
            "action": {"topic": "cmd_vel", "type": "geometry_msgs/msg/Twist", "fields": ["linear.x"]},
        }
    )
    fleet = FleetSamples(configuration)
    fleet.add(0, 1, NOW, "goal")
    later = NOW + 10**16
    fleet.add(0, 0, later, "touch")
    assert fleet.select(later, later - 50 * MS)[0].samples == (Sample(later, "touch"), Sample(NOW, "goal"))
    fleet.forget([0])
    assert fleet.select(later, later - 50 * MS)[0].reason == "no message on touch"
    # A simulation begins again, with times before that of the goal.
    fleet.add(0, 0, 5 * MS, "touch")
    assert fleet.select(5 * MS, 0)[0].samples == (Sample(5 * MS, "touch"), Sample(NOW, "goal"))
    fleet.change_limits(configuration)
    selected = fleet.select(6 * MS, 5 * MS)
    # It is not refused for its time.
    assert selected[0].state is READY and not selected.unusual
