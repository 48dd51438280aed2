# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Elements of arrays and sequences in observations, such as ``motor_state[0].q``, read from serialised messages."""

import struct
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import Point, Pose, PoseArray, PoseWithCovarianceStamped, Transform, Vector3
from hypothesis import given
from hypothesis import strategies as st
from rcl_interfaces.msg import FloatingPointRange, ParameterDescriptor
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import BatteryState, JointState, LaserScan, MultiDOFJointState
from std_msgs.msg import Float32MultiArray, Header, MultiArrayDimension, MultiArrayLayout
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from policy_node.config.specs import ArraySpec
from policy_node.messages.codecs import ReadingDecoder, command_encoder, reading_decoder, reading_size
from policy_node.messages.examples import example_message
from policy_node.messages.fields import MessageTypeError, message_class
from policy_node.messages.reading import UnusableReading
from policy_node.messages.types.numbers import FieldSource
from policy_node.messages.vectors import VectorReader
from policy_node_bench.fuzz.case import byteswapped

TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
POSES = "geometry_msgs/msg/PoseArray"
NUMBERS = st.floats() | st.sampled_from([-0.0, 5e-324, 3.5e38, 1e200, -np.inf])


def decoder_of(type_name: str, *paths: str, size: int = 0, dtype: str = "float64") -> ReadingDecoder:
    spec = ArraySpec("seen", (size or len(paths),), dtype, -np.inf, np.inf)
    return reading_decoder(type_name, spec, topic="seen", fields=paths)


def decoded(decoder: ReadingDecoder, message: Any, size: int, dtype: str = "float64") -> list[list[float]]:
    """Return what both byte orders give, each deserialised first and then read from where the numbers lie."""
    raw = serialize_message(message)
    found = []
    for each in (raw, byteswapped(type(message), raw)):
        for _ in range(3):
            out = np.zeros(size, dtype)
            decoder.decode(each, out)
            found.append(out.tolist())
    return found


def poses_of(*numbers: float) -> PoseArray:
    return PoseArray(header=Header(frame_id="map"), poses=[Pose(position=Point(x=number)) for number in numbers])


COVARIANCE = PoseWithCovarianceStamped()
COVARIANCE.pose.covariance = np.arange(36.0)
TRANSFORMS = MultiDOFJointState(
    joint_names=["a", "b"], transforms=[Transform(translation=Vector3(x=x, y=-x)) for x in (1.0, 2.0)]
)
POINTS = JointTrajectory(
    joint_names=["a", "bb"],
    points=[JointTrajectoryPoint(positions=[1.0, 2.0]), JointTrajectoryPoint(positions=[3.0, 4.0, 5.0])],
)
LAYOUT = MultiArrayLayout(dim=[MultiArrayDimension(label="rows", size=2, stride=6), MultiArrayDimension(size=3)])


@pytest.mark.both_distributions
@pytest.mark.parametrize(
    ("message", "paths", "expected"),
    [
        (COVARIANCE, ["pose.covariance[35]", "pose.covariance[0]"], [35.0, 0.0]),
        (COVARIANCE, ["pose.covariance[7:10]", "pose.pose.orientation.w"], [7.0, 8.0, 9.0, 1.0]),
        (TRANSFORMS, ["transforms[1].translation.x", "transforms[0].translation"], [2.0, 1.0, -1.0, 0.0]),
        (POINTS, ["points[1].positions[2]", "points[0].positions"], [5.0, 1.0, 2.0]),
        (POINTS, ["points[0:2].positions[1]"], [2.0, 4.0]),
        (BatteryState(cell_voltage=[4.0, 4.25, 4.5]), ["cell_voltage[2]", "voltage"], [4.5, 0.0]),
        (Float32MultiArray(layout=LAYOUT, data=[1.5]), ["layout.dim[1].size", "data[0]"], [3.0, 1.5]),
        (
            ParameterDescriptor(floating_point_range=[FloatingPointRange(from_value=1.0, step=0.5)]),
            ["floating_point_range[0].step", "floating_point_range[0].from_value"],
            [0.5, 1.0],
        ),
        (LaserScan(ranges=[1.0, 2.0, 3.0]), ["ranges[2]"], [3.0]),
    ],
)
def test_elements_are_read_by_their_index(message: Any, paths: list[str], expected: list[float]) -> None:
    name = f"{type(message).__module__.split('.')[0]}/msg/{type(message).__name__}"
    found = decoded(decoder_of(name, *paths, size=len(expected)), message, len(expected))
    assert found == [expected] * 6
    assert reading_size(name, fields=paths) in (None, len(expected))


def test_one_path_may_stand_for_all_elements() -> None:
    spec = ArraySpec("seen", (2,), "float32", -9, 9)
    decoder = reading_decoder(POSES, spec, topic="seen", field="poses[1:3].position.x")
    assert decoded(decoder, poses_of(1.0, 2.0, 3.0), 2, "float32") == [[2.0, 3.0]] * 6


def test_elements_are_read_from_where_they_lie() -> None:
    source = FieldSource(JointState, ["velocity[0]", "position[2]"])
    reader = VectorReader(JointState, source, ArraySpec("seen", (2,), "float64", -9, 9))
    message = JointState(name=["a", "b", "c"], position=[1.0, 2.0, 3.0], velocity=[4.0, 5.0, 6.0])
    out = np.zeros(2)
    reader(serialize_message(message), out)
    assert [len(layouts) for layouts in reader._layouts.values()] == [1]
    message.position[2] = -7.0
    reader._message_type = None  # nothing is deserialised any more
    reader(serialize_message(message), out)
    assert out.tolist() == [4.0, -7.0]


@given(
    first=st.lists(st.lists(NUMBERS, max_size=4), max_size=4),
    names=st.lists(st.text(max_size=5), max_size=3),
    others=st.lists(st.lists(st.lists(NUMBERS, max_size=4), max_size=4), max_size=3),
)
def test_any_message_gives_what_its_elements_are_or_is_refused(
    first: list[list[float]], names: list[str], others: list[list[list[float]]]
) -> None:
    paths = ["points[2].positions[1]", "points[0].positions[0]"]
    decoder = decoder_of(TRAJECTORY, *paths)
    for positions in (first, *others, first):
        points = [JointTrajectoryPoint(positions=each) for each in positions]
        raw = serialize_message(JointTrajectory(joint_names=[*names, "x"], points=points))
        for each in (raw, byteswapped(JointTrajectory, raw)):
            typed = deserialize_message(each, JointTrajectory)
            try:
                wanted = [typed.points[2].positions[1], typed.points[0].positions[0]]
            except IndexError:
                wanted = []
            out = np.full(2, 77.0)
            if wanted and np.isfinite(wanted).all():
                decoder.decode(each, out)
                assert struct.pack("2d", *out) == struct.pack("2d", *wanted)
            else:
                with pytest.raises(
                    UnusableReading, match=r"is missing: (points|positions) has|is not a finite|is -?inf"
                ):
                    decoder.decode(each, out)
                assert out.tolist() == [77.0, 77.0]


def test_a_sequence_that_is_too_short_is_refused_with_the_reason() -> None:
    decoder = decoder_of(POSES, "poses[1].position.x")
    out = np.zeros(1)
    decoder.decode(serialize_message(poses_of(1.0, 2.0)), out)
    for count in (0, 1):
        with pytest.raises(UnusableReading) as refused:
            decoder.decode(serialize_message(poses_of(*[5.0] * count)), out)
        assert str(refused.value) == f"seen: 'poses[1].position.x' is missing: poses has {count} elements"
    assert out.tolist() == [2.0]


def test_an_element_that_is_not_finite_is_named() -> None:
    decoder = decoder_of(POSES, "poses[0].position.x", "poses[1].position.x")
    with pytest.raises(UnusableReading, match=r"poses\[1\]\.position\.x is nan, which is not a finite float64"):
        decoder.decode(serialize_message(poses_of(1.0, np.nan)), np.zeros(2))


@pytest.mark.parametrize(
    ("type_name", "path", "text"),
    [
        (
            "geometry_msgs/msg/PoseWithCovariance",
            "covariance[36]",
            r"covariance is double\[36\], which has no element 36",
        ),
        (
            "rcl_interfaces/msg/ParameterDescriptor",
            "floating_point_range[1].step",
            r"floating_point_range is sequence<rcl_interfaces/FloatingPointRange, 1>, which has no element 1",
        ),
        (POSES, "poses[4096].position.x", "which has no element 4096"),
        (
            POSES,
            "poses.position.x",
            r"poses has elements \(sequence<geometry_msgs/Pose>\); name one, as in 'poses\[0\]'",
        ),
        (POSES, "poses[0]x", r"has no field 'poses\[0\]x': the message has header"),
        (POSES, "poses[-1].position.x", r"has no field 'poses\[-1\]\.position\.x'"),
        (POSES, "poses[0][1]", r"has no field 'poses\[0\]\[1\]'"),
        (POSES, "poses[0].position.w", r"poses\[0\]\.position has x \(double\)"),
        (POSES, "header[0].stamp", "header is std_msgs/Header, which has no element 0"),
        (POSES, "header.stamp.sec[0]", "sec is int32, which has no element 0"),
        (TRAJECTORY, "joint_names[0]", r"field 'joint_names\[0\]' is string, not numbers"),
        ("sensor_msgs/msg/JointState", "position[2]", "allowed: position, velocity, effort; name joints in `joints`"),
    ],
)
def test_paths_to_nothing_are_refused_before_the_first_message(type_name: str, path: str, text: str) -> None:
    with pytest.raises(MessageTypeError, match=text):
        reading_decoder(type_name, ArraySpec("seen", (1,), "float32", 0, 1), topic="seen", field=path)


def test_a_command_cannot_have_more_elements_than_its_sequence() -> None:
    with pytest.raises(MessageTypeError, match="which has no element 1"):
        command_encoder(
            "rcl_interfaces/msg/ParameterDescriptor",
            1,
            fields=["floating_point_range[1].step"],
            time_from_start_s=0.1,
        )


@pytest.mark.parametrize("path", ["poses[2].position.x", "poses[0:3].orientation.w"])
def test_simulated_robots_have_the_elements_that_are_read(path: str) -> None:
    spec = ArraySpec("seen", (3 if ":" in path else 1,), "float64", -1, 1)
    decoder = reading_decoder(POSES, spec, topic="seen", field=path)
    paths = ["poses[2].position.x"]
    message = example_message(message_class(POSES), spec, np.random.default_rng(0), paths=paths)
    out = np.zeros(spec.shape)
    decoder.decode(serialize_message(message), out)
    assert out.all()
