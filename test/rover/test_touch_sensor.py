# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The sensor of the bumper: heard of by stamps, it tells what it tells where it is simulated step by step."""

import math

import numpy as np
import pytest

from policy_node_rover.arena.description import ARENA, ROVER
from policy_node_rover.arena.touch_sensor import TouchSensor, decay, reading_n

STEP_NS = round(ARENA.timestep_s * 1e9)
LIMIT_N = ROVER.touch_limit_n


def force_on(cell: int, force_n: float = LIMIT_N) -> np.ndarray:
    return force_n * np.eye(ROVER.touch_cells)[cell]


def test_a_force_is_felt_at_once_and_fades_to_a_part_in_e_and_then_to_nothing() -> None:
    sensor = TouchSensor()
    sensor.add_contact(force_on(3), stamp_ns=10**9)
    assert np.array_equal(sensor.read(10**9), force_on(3).astype(np.float32))
    recovered_ns = 10**9 + round(ROVER.touch_recovery_s * 1e9)
    assert sensor.read(recovered_ns)[3] == pytest.approx(LIMIT_N / math.e)
    for at_ns in range(recovered_ns, 4 * 10**9, 10**8):
        told = sensor.read(at_ns)
        assert told[3] == 0.0 or told[3] >= ROVER.touch_threshold_n
    assert not told.any()


def test_a_weaker_force_does_not_hide_what_a_stronger_one_has_left() -> None:
    sensor = TouchSensor()
    sensor.add_contact(force_on(0), 0)
    sensor.add_contact(force_on(0, 0.5), STEP_NS)
    assert sensor.read(STEP_NS)[0] == pytest.approx(LIMIT_N * decay(ARENA.timestep_s))


def test_contacts_heard_of_late_or_early_count_at_their_own_time() -> None:
    ordered, mixed = TouchSensor(), TouchSensor()
    for step in (1, 2, 6):
        ordered.add_contact(force_on(step), step * STEP_NS)
    for step in (6, 2, 1):
        mixed.add_contact(force_on(step), step * STEP_NS)
    assert not mixed.read(0).any(), "nothing is felt before it happens"
    for step in (3, 7, 10):
        assert np.array_equal(ordered.read(step * STEP_NS), mixed.read(step * STEP_NS))
    assert np.count_nonzero(mixed.read(10 * STEP_NS)) == 3


def test_readings_are_those_of_a_simulation_step_by_step() -> None:
    rng = np.random.default_rng(4)
    sensor = TouchSensor()
    felt_n = np.zeros(ROVER.touch_cells)
    for step in range(1, 600):
        forces_n = rng.uniform(0.0, LIMIT_N, ROVER.touch_cells) * (rng.random(ROVER.touch_cells) < 0.02)
        np.maximum(forces_n, felt_n * decay(ARENA.timestep_s), out=felt_n)
        # As Gazebo does: nothing is heard of while there is no contact.
        if forces_n.any():
            sensor.add_contact(forces_n, step * STEP_NS)
        if step % 3 == 0:
            np.testing.assert_allclose(sensor.read(step * STEP_NS), reading_n(felt_n), rtol=1e-5)


def test_time_that_begins_anew_begins_with_nothing_felt() -> None:
    sensor = TouchSensor()
    sensor.add_contact(force_on(1), 5 * 10**9)
    sensor.add_contact(force_on(2), 9 * 10**9)
    assert sensor.read(5 * 10**9).any()
    assert not sensor.read(STEP_NS).any()
    assert not sensor.read(10 * 10**9).any(), "nor is what was still to come"
    sensor.add_contact(force_on(4), 11 * 10**9)
    assert sensor.read(11 * 10**9)[4] == LIMIT_N
