# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Contacts of Gazebo to touch cells, with messages made of the definitions of ros_gz_interfaces."""

import importlib.util
from typing import Any

import numpy as np
import pytest
from gazebo_contacts import STORE, contact, contacts_message
from hypothesis import given
from hypothesis import strategies as st

from policy_node.config.specs import ArraySpec
from policy_node.messages.codecs import MessageTypeError, reading_decoder, reading_size
from policy_node.messages.reading import UnusableReading
from policy_node.messages.types.contacts import CONTACTS, TouchSource

CELLS, LIMIT_N = 8, 5.0
TOUCH = ArraySpec("touch", (CELLS,), np.float32, 0.0, LIMIT_N)


def touch(*contacts: Any, spec: ArraySpec = TOUCH) -> np.ndarray:
    """Return the forces after a way through serialised bytes."""
    raw = STORE.serialize_cdr(contacts_message(*contacts), CONTACTS)
    return TouchSource(spec).numbers(STORE.deserialize_cdr(raw, CONTACTS))


def test_nothing_touched_is_zero() -> None:
    assert np.array_equal(touch(), np.zeros(CELLS))


@pytest.mark.parametrize("cell", range(CELLS))
def test_the_name_of_the_collision_tells_the_cell(cell: int) -> None:
    pressed = touch(contact(f"rover_12::base_link::touch_{cell}", [(0.0, 2.0, 0.0)], [(0.0, 1.0, 0.0)]))
    assert np.array_equal(pressed, 2.0 * np.eye(CELLS)[cell])


def test_only_the_force_along_the_normal_counts_whichever_body_it_points_to() -> None:
    aslant = (0.6, 0.8, 0.0)
    forces, normals = [(3.0, 0.0, 7.0), (-3.0, 0.0, 7.0)], [aslant, aslant]
    assert touch(contact("touch_2", forces, normals))[2] == pytest.approx(2 * 3.0 * 0.6)
    assert touch(contact("touch_2", [(0.0, 0.0, 4.0)], [(1.0, 0.0, 0.0)]))[2] == 0.0


def test_forces_on_a_cell_add_up_to_at_most_the_bound_of_the_observation() -> None:
    push = ([(2.0, 0.0, 0.0)], [(1.0, 0.0, 0.0)])
    pressed = touch(contact("a::touch_1", *push), contact("a::touch_1", *push), contact("a::touch_6", *push))
    assert pressed.tolist() == [0, 4, 0, 0, 0, 0, 2, 0]
    assert touch(*[contact("touch_1", *push)] * 3)[1] == LIMIT_N


def test_a_contact_without_forces_presses_as_hard_as_the_bound_allows() -> None:
    assert touch(contact("touch_5", points=3)).tolist() == [0, 0, 0, 0, 0, LIMIT_N, 0, 0]
    unbounded = ArraySpec("touch", (2,), np.float32, 0.0, np.inf)
    assert touch(contact("touch_1"), spec=unbounded).tolist() == [0, 1]


@pytest.mark.parametrize("collision", ["", "bumper", "touch_8", "touch_1::collision", "touch_99999999999999999999"])
def test_a_collision_that_is_no_cell_is_refused_with_the_remedy(collision: str) -> None:
    with pytest.raises(UnusableReading, match=r"is no cell of 8; let the names .* end with .* 0 to 7"):
        touch(contact(collision))


def test_forces_that_nobody_can_interpret_are_refused() -> None:
    with pytest.raises(UnusableReading, match="0 normals found for 1 wrenches"):
        touch(contact("touch_0", [(1.0, 0.0, 0.0)]))


@given(st.lists(st.tuples(st.integers(0, CELLS - 1), st.floats(-1e3, 1e3), st.floats(-np.pi, np.pi)), max_size=12))
def test_any_contacts_give_forces_within_the_bounds(pushes: list[tuple[int, float, float]]) -> None:
    contacts, expected = [], np.zeros(CELLS)
    for cell, force_n, bearing in pushes:
        normal = (float(np.cos(bearing)), float(np.sin(bearing)), 0.0)
        contacts.append(contact(f"touch_{cell}", [(force_n * normal[0], force_n * normal[1], 1.0)], [normal]))
        expected[cell] += abs(force_n)
    pressed = touch(*contacts)
    TOUCH.validate(pressed.astype(np.float32))
    assert pressed == pytest.approx(np.minimum(expected, LIMIT_N), abs=1e-9)


def test_how_many_cells_there_are_is_the_policys_to_say() -> None:
    assert reading_size(CONTACTS) is None


@pytest.mark.skipif(bool(importlib.util.find_spec("ros_gz_interfaces")), reason="ros_gz_interfaces is installed")
def test_the_missing_package_is_named() -> None:
    with pytest.raises(MessageTypeError, match=r"'touch': type '.*Contacts' cannot be imported .*ros_gz_interfaces"):
        reading_decoder(CONTACTS, TOUCH, topic="bumper")


@pytest.mark.skipif(not importlib.util.find_spec("ros_gz_interfaces"), reason="ros_gz_interfaces comes with ros_gz")
def test_a_message_of_the_installed_package_is_decoded() -> None:
    decoder = reading_decoder(CONTACTS, TOUCH, topic="bumper")
    pushed = contact("rover_0::base_link::touch_3", [(0.0, 2.0, 0.0)], [(0.0, 1.0, 0.0)])
    raw = bytes(STORE.serialize_cdr(contacts_message(pushed), CONTACTS))
    out = np.full(CELLS, 77, np.float32)
    decoder.decode(raw, out)
    assert out.tolist() == [0, 0, 0, 2, 0, 0, 0, 0]
    assert decoder.stamp_ns(raw) == 12_340_000_000
    with pytest.raises(UnusableReading):
        decoder.decode(raw[:-40], out)
    with pytest.raises(MessageTypeError, match="field"):
        reading_decoder(CONTACTS, TOUCH, topic="bumper", field="contacts")
