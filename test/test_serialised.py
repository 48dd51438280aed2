# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Patched messages are, byte by byte, those that the typed commands serialise to."""

from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import Twist
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rclpy.serialization import serialize_message

from policy_node.ros.messages import command_encoder
from policy_node.ros.serialised import PatchedMessages, TypedMessages, find_layout, fleet_encoder

VELOCITY_FIELDS = [f"{part}.{axis}" for part in ("linear", "angular") for axis in "xyz"]
# As long as a name may be in bytes: what follows it is aligned anew for each length.
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
STAMPS_NS = st.integers(0, 2**31 * 10**9 - 1)
FINITE = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def encoders(draw: st.DrawFn) -> Any:
    """Draw a command type with fields or joints, frame and other choices."""
    kind = draw(st.sampled_from(["Twist", "TwistStamped", "Float64MultiArray", "JointState", "JointTrajectory"]))
    choices: dict[str, Any] = {"time_from_start_s": draw(st.floats(1e-3, 3600.0))}
    if kind.startswith("Twist"):
        choices["fields"] = draw(st.permutations(VELOCITY_FIELDS))[: draw(st.integers(1, 6))]
        package, components = "geometry_msgs", len(choices["fields"])
    elif kind == "Float64MultiArray":
        package, components = "std_msgs", draw(st.integers(1, 40))
    else:
        choices["joints"] = draw(st.lists(NAMES.filter(bool), min_size=1, max_size=12, unique=True))
        package = "sensor_msgs" if kind == "JointState" else "trajectory_msgs"
        components = len(choices["joints"])
    if kind == "JointState":
        choices["field"] = draw(st.sampled_from(["position", "velocity", "effort"]))
    if kind != "Float64MultiArray":
        choices["frame_id"] = draw(NAMES)
    return command_encoder(f"{package}/msg/{kind}", components, **choices)


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
        assert patched(commands, chosen, stamp_ns) == typed(commands, chosen, stamp_ns)


@pytest.mark.parametrize("value", [-0.0, 5e-324, -2.2250738585072014e-308, 1.7976931348623157e308])
def test_signed_zeros_and_the_ends_of_the_range_keep_their_bits(value: float) -> None:
    encoder = command_encoder("geometry_msgs/msg/Twist", 2, fields=["linear.x", "angular.z"], time_from_start_s=0.1)
    commands = np.full((1, 2), value)
    assert fleet_encoder(encoder, 1)(commands, [0], 0) == TypedMessages(encoder)(commands, [0], 0)


class Doubling:
    """An encoder whose messages hold something else than the numbers of the command."""

    message_type = Twist
    components = 1

    def __call__(self, command: np.ndarray, stamp_ns: int) -> Twist:
        message = Twist()
        message.linear.x = 2.0 * float(command[0])
        return message


class Twice:
    """An encoder that writes its number to two places."""

    message_type = Twist
    components = 1

    def __call__(self, command: np.ndarray, stamp_ns: int) -> Twist:
        message = Twist()
        message.linear.x = message.angular.z = float(command[0])
        return message


@pytest.mark.parametrize("encoder", [Doubling(), Twice()])
def test_messages_of_an_unknown_layout_are_serialised_one_by_one(encoder: Any) -> None:
    assert find_layout(encoder) is None
    commands = np.array([[1.5], [-0.25]])
    messages = fleet_encoder(encoder, 2)(commands, [1, 0], 0)
    assert messages == [serialize_message(encoder(row, 0)) for row in commands[[1, 0]]]
