# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Numbers read from where they lie are those of the deserialiser, whatever a message holds."""

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import JointState, PointCloud2
from std_msgs.msg import Float32MultiArray, Header

from policy_node.config.specs import ArraySpec
from policy_node.messages.codecs import reading_decoder
from policy_node.messages.layouts import find_layout
from policy_node.messages.reading import UnusableReading
from policy_node.messages.vectors import MAX_LAYOUTS, VectorReader
from policy_node_bench.fuzz.case import Case, byteswapped, check
from policy_node_bench.fuzz.cases import CASES

VECTORS = [case for case in CASES if isinstance(case.decoder()._read, VectorReader)]
# Types with booleans are left to the deserialiser, as are numbers of several types and those that a name finds.
NOT_LEARNED = {
    *("bool", "battery", "stamp", "element_of_a_bounded_sequence", "hazards", "contacts"),
    *("command_Bool", "command_JointTrajectory"),
}
SIGNALLING_NAN = struct.unpack("<d", (0x7FF0000000000001).to_bytes(8, "little"))[0]
NUMBERS = st.floats() | st.sampled_from([SIGNALLING_NAN, -0.0, 5e-324, 3.5e38, 1e200, -np.inf])


def known_shapes(decoder: Any) -> int:
    return sum(map(len, decoder._read._layouts.values()))


@pytest.mark.both_distributions
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_valid_messages_of_both_byte_orders_give_what_the_typed_ones_give(case: Case) -> None:
    decoder = case.decoder()
    message_type = decoder.message_type
    for message, big_endian in zip(case.messages, case.seeds()[len(case.messages) :], strict=True):
        # As texts: they may hold NaN.
        assert repr(deserialize_message(big_endian, message_type)) == repr(message)
    # Once to learn the shapes, once to use them.
    accepted = [[check(case, decoder, raw) for raw in case.seeds()] for _ in range(2)]
    assert any(accepted[0]) and accepted[0] == accepted[1]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_padding_that_no_option_counts_changes_nothing(case: Case) -> None:
    # As rmw_cyclonedds_cpp sends it.
    decoder = case.decoder()
    for _ in range(2):
        for raw in case.seeds():
            unpadded, padded = np.zeros(case.shape, case.dtype), np.zeros(case.shape, case.dtype)
            try:
                decoder.decode(raw, unpadded)
            except UnusableReading:
                continue
            decoder.decode(raw + bytes(-len(raw) % 4), padded)
            assert padded.tobytes() == unpadded.tobytes()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("encapsulation", range(6, 12))
def test_xcdr2_is_refused_with_the_remedy(case: Case, encapsulation: int) -> None:
    raw = case.seeds()[0]
    decoder, out = case.decoder(), np.zeros(case.shape, case.dtype)
    # Before and after its shape is known.
    for _ in range(2):
        with pytest.raises(UnusableReading, match=r"in XCDR2.* but ROS 2 uses XCDR1; set the data representation"):
            decoder.decode(bytes([0, encapsulation]) + raw[2:], out)
        decoder.decode(raw, out)


@pytest.mark.parametrize("case", VECTORS, ids=lambda case: case.name)
def test_a_shape_is_learned_from_its_first_message(case: Case) -> None:
    decoder = case.decoder()
    raw = case.seeds()[0]
    out = np.zeros(case.shape, case.dtype)
    for _ in range(3):
        decoder.decode(raw, out)
    assert known_shapes(decoder) == (case.name not in NOT_LEARNED)


@given(case=st.sampled_from(VECTORS), data=st.data())
def test_any_numbers_in_a_known_shape_give_what_the_typed_message_gives(case: Case, data: st.DataObject) -> None:
    seed = data.draw(st.sampled_from(case.seeds()))
    decoder = case.decoder()
    check(case, decoder, seed)
    raw = bytearray(seed)
    layout = find_layout(decoder.message_type, seed)
    for place in layout.places.values() if layout is not None else ():
        if place.count and place.dtype.kind == "f":
            values = data.draw(st.lists(NUMBERS, min_size=place.count, max_size=place.count))
            with np.errstate(over="ignore", invalid="ignore"):
                numbers = np.array(values).astype(place.dtype).tobytes()
            raw[place.offset : place.offset + len(numbers)] = numbers
    check(case, decoder, bytes(raw))


@given(st.data())
def test_joint_states_of_changing_shapes(data: st.DataObject) -> None:
    case = next(case for case in CASES if case.name == "joint_state_effort")
    decoder = case.decoder()
    names = st.lists(st.sampled_from(["a", "ccc", "b", "", "a\u00e9", "long_name"]), max_size=5)
    for _ in range(6):
        joints = data.draw(names | st.permutations(["a", "b", "ccc", "d"]))
        effort = data.draw(
            st.lists(NUMBERS, min_size=len(joints), max_size=len(joints)) | st.lists(NUMBERS, max_size=5)
        )
        header = Header(frame_id=data.draw(st.sampled_from(["", "r", "rover_1", "rover_10", "wide \u00e9"])))
        message = JointState(
            header=header, name=joints, effort=effort, position=data.draw(st.sampled_from([[], [1.0]]))
        )
        raw = serialize_message(message)
        check(case, decoder, raw)
        check(case, decoder, byteswapped(JointState, raw))


def test_exchanged_names_are_seen_although_all_lengths_stay() -> None:
    decoder = reading_decoder(
        "sensor_msgs/msg/JointState", ArraySpec("seen", (2,), "float64", 0, 1), topic="seen", joints=["left", "rite"]
    )
    out = np.zeros(2)
    for names, expected in ((["left", "rite"], [1, 2]), (["rite", "left"], [2, 1]), (["left", "rite"], [1, 2])) * 2:
        decoder.decode(serialize_message(JointState(name=names, position=[1.0, 2.0])), out)
        assert out.tolist() == expected
    with pytest.raises(UnusableReading, match="joint 'left' occurs 0 times"):
        decoder.decode(serialize_message(JointState(name=["lift", "rite"], position=[1.0, 2.0])), out)


def test_bytes_that_fill_gaps_play_no_part() -> None:
    case = next(case for case in CASES if case.name == "joint_state_effort")
    decoder = case.decoder()
    message = JointState(name=["a", "ccc"], effort=[1.0, 2.0])
    raw = serialize_message(message)
    check(case, decoder, raw)
    gap = raw.index(b"a\0") + 2
    for filling in (b"\0\0", b"\xff\xff", b"xy"):
        check(case, decoder, raw[:gap] + filling + raw[gap + 2 :])
    assert known_shapes(decoder) == 1


def test_frames_and_stamps_change_no_shape() -> None:
    case = next(case for case in CASES if case.name == "imu")
    decoder = case.decoder()
    message = case.messages[0]
    raw = serialize_message(message)
    check(case, decoder, raw)
    check(case, decoder, raw.replace(b"base", b"arm1"))
    assert known_shapes(decoder) == 1


def test_few_shapes_are_remembered() -> None:
    case = next(case for case in CASES if case.name == "joint_state_effort")
    decoder = case.decoder()
    for length in range(3 * MAX_LAYOUTS):
        raw = serialize_message(JointState(name=["a", "ccc", "x" * length], effort=[1.0, 2.0, 3.0]))
        assert check(case, decoder, raw)
    assert 0 < known_shapes(decoder) <= MAX_LAYOUTS


def test_a_known_shape_is_read_without_the_deserialiser(monkeypatch: pytest.MonkeyPatch) -> None:
    case = next(case for case in CASES if case.name == "odometry")
    decoder = case.decoder()
    raw = case.seeds()[0]
    check(case, decoder, raw)
    monkeypatch.setattr(VectorReader, "_deserialised", None)
    out = np.zeros(13)
    decoder.decode(raw, out)
    assert out[7:10].tolist() == [1, 2, 3]


def test_what_is_not_known_for_sure_has_no_layout() -> None:
    with_booleans = serialize_message(PointCloud2())
    assert find_layout(PointCloud2, with_booleans) is None
    raw = serialize_message(Float32MultiArray(data=[1.0] * 8))
    assert find_layout(Float32MultiArray, raw) is not None
    assert find_layout(Float32MultiArray, raw[:-8]) is None
    assert find_layout(Float32MultiArray, raw[:5]) is None
