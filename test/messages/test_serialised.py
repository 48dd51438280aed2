# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Patched messages are, bit by bit, the serialised typed commands."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import Twist
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rclpy.serialization import deserialize_message, serialize_message

from policy_node.messages.codecs import command_encoder
from policy_node.messages.commands import COMMAND_TYPES
from policy_node.messages.patched import PatchedMessages, TypedMessages, find_template, fleet_encoder

pytestmark = pytest.mark.both_distributions

VELOCITY_FIELDS = [f"{part}.{axis}" for part in ("linear", "angular") for axis in "xyz"]
POSE_FIELDS = [*(f"position.{axis}" for axis in "xyz"), *(f"orientation.{axis}" for axis in "xyzw")]
# As long as a name may be in bytes: what follows it is aligned anew for each length.
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
STAMPS_NS = st.integers(0, 2**31 * 10**9 - 1)
FINITE = st.floats(allow_nan=False, allow_infinity=False)


def said(messages: Sequence[bytes], message_type: Any) -> list[tuple[int, str]]:
    """Return length and content of messages; the gaps before aligned values hold what was in the memory before."""
    return [(len(message), repr(deserialize_message(message, message_type))) for message in messages]


@st.composite
def encoders(draw: st.DrawFn) -> Any:
    """Draw a command type with its fields or joints, frame and other choices."""
    # Booleans and integers below 32 bits have no template, see below.
    short = ("Bool", "Int8", "Int16")
    kinds = [kind for kind in COMMAND_TYPES.values() if not kind.name.endswith(short) and "ackermann" not in kind.name]
    kind = draw(st.sampled_from(kinds))
    choices: dict[str, Any] = {"time_from_start_s": draw(st.floats(1e-3, 3600.0)), "frame_id": draw(NAMES)}
    components = draw(st.integers(1, 40))
    if kind.named_by == "fields":
        fields = VELOCITY_FIELDS if "Twist" in kind.name else POSE_FIELDS
        choices["fields"] = draw(st.permutations(fields))[: draw(st.integers(1, 6))]
        components = len(choices["fields"])
    elif "Array" not in kind.name and not kind.named_by:
        components = 1
    elif kind.named_by == "joints":
        choices["joints"] = draw(st.lists(NAMES.filter(bool), min_size=1, max_size=12, unique=True))
        components = len(choices["joints"])
    if kind.has_field:
        choices["field"] = draw(st.sampled_from(["position", "velocity", "effort"]))
    return command_encoder(kind.name, components, **choices)


@settings(deadline=None)
@given(encoders(), st.data())
def test_every_command_type_is_patched_bit_by_bit(encoder: Any, data: st.DataObject) -> None:
    robots = data.draw(st.integers(1, 3), "robots")
    patched = fleet_encoder(encoder, robots)
    assert isinstance(patched, PatchedMessages)
    typed = TypedMessages(encoder)
    # The messages are used again: nothing of the commands before may stay.
    for _ in range(2):
        commands = data.draw(arrays(np.float64, (robots, encoder.components), elements=FINITE), "commands")
        chosen = data.draw(st.lists(st.integers(0, robots - 1), unique=True), "chosen")
        stamp_ns = data.draw(STAMPS_NS, "stamp")
        messages, expected = patched(commands, chosen, stamp_ns), typed(commands, chosen, stamp_ns)
        assert said(messages, encoder.message_type) == said(expected, encoder.message_type)


@pytest.mark.parametrize("value", [-0.0, 5e-324, -2.2250738585072014e-308, 1.7976931348623157e308])
def test_signed_zeros_and_the_ends_of_the_range_keep_their_bits(value: float) -> None:
    encoder = command_encoder("geometry_msgs/msg/Twist", 2, fields=["linear.x", "angular.z"], time_from_start_s=0.1)
    commands = np.full((1, 2), value)
    # This type has no gaps.
    assert fleet_encoder(encoder, 1)(commands, [0], 0) == TypedMessages(encoder)(commands, [0], 0)


def test_what_stands_in_gaps_between_values_is_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    # Four bytes of encapsulation, three lengths of four bytes, and a gap of four before the first float64.
    gap = slice(16, 20)
    rng = random.Random(1)

    def with_noise(message: Any) -> bytes:
        serialised = bytearray(serialize_message(message))
        serialised[gap] = rng.randbytes(4)
        return bytes(serialised)

    monkeypatch.setattr("policy_node.messages.patched.serialise", with_noise)
    encoder = command_encoder("std_msgs/msg/Float64MultiArray", 3, time_from_start_s=0.1)
    layout = find_template(encoder)
    assert layout is not None and layout.offsets == (20, 28, 36)


class Doubling:
    """An encoder whose messages hold something else than the numbers of the command."""

    message_type = Twist
    components = points = 1
    dtypes = (np.dtype(np.float64),)

    def __call__(self, command: np.ndarray, stamp_ns: int) -> Twist:
        message = Twist()
        message.linear.x = 2.0 * float(command[0])
        return message


class Twice:
    """An encoder that writes its number to two places."""

    message_type = Twist
    components = points = 1
    dtypes = (np.dtype(np.float64),)

    def __call__(self, command: np.ndarray, stamp_ns: int) -> Twist:
        message = Twist()
        message.linear.x = message.angular.z = float(command[0])
        return message


@pytest.mark.parametrize("encoder", [Doubling(), Twice()])
def test_messages_of_an_unknown_layout_are_serialised_one_by_one(encoder: Any) -> None:
    assert find_template(encoder) is None
    # A Twist has no gaps.
    commands = np.array([[1.5], [-0.25]])
    messages = fleet_encoder(encoder, 2)(commands, [1, 0], 0)
    assert messages == [serialize_message(encoder(row, 0)) for row in commands[[1, 0]]]


def test_numbers_that_are_too_short_to_be_found_are_written_by_the_typed_message() -> None:
    for name in ("Bool", "Int8", "UInt8", "Int16", "UInt16"):
        encoder = command_encoder(f"std_msgs/msg/{name}", 1, time_from_start_s=0.1)
        assert find_template(encoder) is None
        messages = fleet_encoder(encoder, 2)(np.ones((2, 1)), [1], 0)
        assert said(messages, encoder.message_type) == said(
            [serialize_message(encoder(np.ones(1), 0))], encoder.message_type
        )


def test_rows_without_a_command_are_no_error() -> None:
    encoder = command_encoder("sensor_msgs/msg/Joy", 2, fields=["axes[0]", "buttons[0]"], time_from_start_s=0.1)
    encode = fleet_encoder(encoder, 2)
    assert isinstance(encode, PatchedMessages)
    (message,) = encode(np.array([[np.nan, np.nan], [0.5, 2.6]]), [1], 0)
    assert said([message], encoder.message_type) == said(
        [serialize_message(encoder(np.array([0.5, 2.6]), 0))], encoder.message_type
    )
