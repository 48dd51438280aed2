# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The touch sensor: readings from stamped contacts equal those of a simulation step by step."""

import math

import numpy as np
import pytest

from policy_node_rover.arena.description import ARENA, ROVER
from policy_node_rover.arena.touch_sensor import TouchSensor, decay, reading_n

STEP_NS = round(ARENA.timestep_s * 1e9)
LIMIT_N = ROVER.touch_limit_n


def force_on(cell: int, force_n: float = LIMIT_N) -> np.ndarray:
    return force_n * np.eye(ROVER.touch_cells)[cell]


def test_a_reading_rises_at_once_and_decays_to_zero() -> None:
    sensor = TouchSensor()
    sensor.add_contact(force_on(3), stamp_ns=10**9)
    assert np.array_equal(sensor.read(10**9), force_on(3).astype(np.float32))
    recovered_ns = 10**9 + round(ROVER.touch_recovery_s * 1e9)
    assert sensor.read(recovered_ns)[3] == pytest.approx(LIMIT_N / math.e)
    for at_ns in range(recovered_ns, 4 * 10**9, 10**8):
        reading = sensor.read(at_ns)
        assert reading[3] == 0.0 or reading[3] >= ROVER.touch_threshold_n
    assert not reading.any()


def test_a_weak_force_does_not_replace_a_stronger_decayed_one() -> None:
    sensor = TouchSensor()
    sensor.add_contact(force_on(0), 0)
    sensor.add_contact(force_on(0, 0.5), STEP_NS)
    assert sensor.read(STEP_NS)[0] == pytest.approx(LIMIT_N * decay(ARENA.timestep_s))


def test_contacts_count_at_their_stamps() -> None:
    ordered, mixed = TouchSensor(), TouchSensor()
    for step in (1, 2, 6):
        ordered.add_contact(force_on(step), step * STEP_NS)
    for step in (6, 2, 1):
        mixed.add_contact(force_on(step), step * STEP_NS)
    assert not mixed.read(0).any(), "later contacts do not count"
    for step in (3, 7, 10):
        assert np.array_equal(ordered.read(step * STEP_NS), mixed.read(step * STEP_NS))
    assert np.count_nonzero(mixed.read(10 * STEP_NS)) == 3


def test_readings_equal_a_simulation_step_by_step() -> None:
    rng = np.random.default_rng(4)
    sensor = TouchSensor()
    felt_n = np.zeros(ROVER.touch_cells)
    for step in range(1, 600):
        forces_n = rng.uniform(0.0, LIMIT_N, ROVER.touch_cells) * (rng.random(ROVER.touch_cells) < 0.02)
        np.maximum(forces_n, felt_n * decay(ARENA.timestep_s), out=felt_n)
        # As in Gazebo, there are messages only during a contact.
        if forces_n.any():
            sensor.add_contact(forces_n, step * STEP_NS)
        if step % 3 == 0:
            np.testing.assert_allclose(sensor.read(step * STEP_NS), reading_n(felt_n), rtol=1e-5)


def test_a_jump_back_in_time_resets_the_sensor() -> None:
    sensor = TouchSensor()
    sensor.add_contact(force_on(1), 5 * 10**9)
    sensor.add_contact(force_on(2), 9 * 10**9)
    assert sensor.read(5 * 10**9).any()
    assert not sensor.read(STEP_NS).any()
    assert not sensor.read(10 * 10**9).any(), "pending contacts are discarded, too"
    sensor.add_contact(force_on(4), 11 * 10**9)
    assert sensor.read(11 * 10**9)[4] == LIMIT_N
