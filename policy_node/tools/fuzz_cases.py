# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""What the parsers of raw messages are fuzzed with, and what a plain reading of the typed message says instead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import (
    PointStamped,
    PoseWithCovarianceStamped,
    Quaternion,
    Twist,
    TwistStamped,
    Vector3,
    Wrench,
    WrenchStamped,
)
from nav_msgs.msg import Odometry
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import BatteryState, CompressedImage, Image, Imu, JointState, LaserScan, Range
from std_msgs.msg import Bool, Float32MultiArray, Float64MultiArray, Header, Int32, UInt8MultiArray

from policy_node.messages.reading import UnusableReading
from policy_node.messages.types.images import CompressedImageReader, RawImageReader
from policy_node.ros.cdr import body_end
from policy_node.ros.fields import NUMBERS, MessageClass, elements_of, message_of
from policy_node.ros.messages import ReadingDecoder, reading_decoder
from policy_node.specs import ArraySpec

# In every byte of the row before decoding.
MARK = 0x5A

# What a message gives, `[n]` or `[height, width, channels]`; None when it cannot be used.
Expect = Callable[[Any], Any]


@dataclass(frozen=True)
class Case:
    """One parser with valid messages, and what they give.

    Attributes
    ----------
    name
        For reports.
    type_name, shape, dtype, choices
        As `reading_decoder` takes them.
    messages
        Valid ones.
    expect
        The numbers of a typed message, read without the parser.
    """

    name: str
    type_name: str
    shape: tuple[int, ...]
    dtype: str
    messages: Sequence[Any]
    expect: Expect
    choices: dict[str, Any] = field(default_factory=dict)

    def decoder(self) -> ReadingDecoder:
        """Return a parser that has seen no message."""
        spec = ArraySpec("seen", self.shape, self.dtype, 0, 1)
        return reading_decoder(self.type_name, spec, topic="seen", **self.choices)

    def seeds(self) -> list[bytes]:
        """Return the valid messages, serialised in both byte orders."""
        raws = [serialize_message(message) for message in self.messages]
        return [*raws, *(byteswapped(type(message), raw) for message, raw in zip(self.messages, raws, strict=True))]


class ProblemError(AssertionError):
    """A parser did what it must not do."""


def check(case: Case, decoder: ReadingDecoder, raw: bytes) -> bool:
    """Let a parser read a message, compare with the typed one, and return whether it was accepted.

    Raises
    ------
    ProblemError
        When the parser raises something unforeseen, spoils a row that it refuses to fill, accepts what the deserialiser
        rejects, gives other numbers, or refuses usable ones.
    """
    out = np.frombuffer(bytearray([MARK]) * (np.dtype(case.dtype).itemsize * int(np.prod(case.shape))), case.dtype)
    out = out.reshape(case.shape)
    untouched = out.tobytes()
    try:
        stamp_ns = decoder.stamp_ns(raw)
        decoder.decode(raw, out)
        accepted, reason = True, ""
    except UnusableReading as error:
        accepted, reason = False, str(error)
    except Exception as error:
        raise ProblemError(f"{type(error).__name__}: {error}") from error
    if not accepted and out.tobytes() != untouched:
        raise ProblemError(f"refused ({reason}), but the row was changed")
    message = typed(raw, decoder.message_type)
    if message is None:
        if accepted:
            raise ProblemError("accepted, but the deserialiser rejects it")
        return False
    expected = case.expect(message)
    if expected is None:
        if accepted:
            raise ProblemError(f"accepted, but the typed message cannot be used: {message}")
        return False
    if not accepted and raw[3] & 3 and "Image" in case.type_name:
        # Which data the deserialiser takes for padding depends on what comes before; the parser takes none for data.
        return False
    if not accepted:
        raise ProblemError(f"refused ({reason}), but the typed message can be used")
    with np.errstate(all="ignore"):
        wanted = np.asarray(expected).astype(case.dtype)
    if wanted.tobytes() != out.tobytes():
        raise ProblemError(f"gives {out.tolist()}, the typed message {wanted.tolist()}")
    if stamp_ns is not None:
        stamp = message.header.stamp
        if stamp_ns != stamp.sec * 1_000_000_000 + stamp.nanosec:
            raise ProblemError(f"stamp {stamp_ns}, the typed message has {stamp}")
    return True


def typed(raw: bytes, message_type: MessageClass) -> Any | None:
    """Deserialise a message; None when that is impossible, or known to end the process."""
    try:
        body_end(raw)
    except UnusableReading:
        return None
    try:
        return deserialize_message(raw, message_type)
    except Exception:  # the middleware chooses what it raises
        return None


def byteswapped(message_type: MessageClass, raw: bytes) -> bytes:
    """Turn a little-endian serialised message into the big-endian one."""
    swapped = bytearray(raw)
    swapped[1] = 0
    offset = 4

    def number(size: int) -> int:
        nonlocal offset
        offset += (4 - offset) % size
        swapped[offset : offset + size] = raw[offset : offset + size][::-1]
        offset += size
        return int.from_bytes(raw[offset - size : offset], "little")

    def visit(kind: str) -> None:
        nonlocal offset
        elements = elements_of(kind)
        if kind in NUMBERS:
            number(NUMBERS[kind].itemsize)
        elif kind == "string":
            length = number(4)
            offset += length
        elif elements is not None:
            for _ in range(number(4) if elements[1] is None else elements[1]):
                visit(elements[0])
        else:
            owner = message_of(kind)
            assert owner is not None, kind
            for part in owner.get_fields_and_field_types().values():
                visit(part)

    for kind in message_type.get_fields_and_field_types().values():
        visit(kind)
    return bytes(swapped)


def _usable(numbers: Sequence[float], count: int, dtype: str = "float32") -> Sequence[float] | None:
    values = [float(number) for number in numbers]
    limit = float(np.finfo(dtype).max)
    return numbers if len(values) == count and all(abs(value) <= limit for value in values) else None


def _fields(count: int, *paths: str, dtype: str = "float32") -> Expect:
    def expect(message: Any) -> Sequence[float] | None:
        numbers: list[float] = []
        for path in paths:
            value = message
            for part in path.split("."):
                value = getattr(value, part)
            numbers += list(value) if hasattr(value, "__len__") else [value]
        return _usable(numbers, count, dtype)

    return expect


def _xyz(path: str, names: str = "xyz") -> list[str]:
    return [f"{path}.{name}" for name in names]


def _joints(field_name: str, joints: Sequence[str]) -> Expect:
    def expect(message: JointState) -> Sequence[float] | None:
        values, names = getattr(message, field_name), message.name
        if len(values) != len(names) or any(names.count(joint) != 1 for joint in joints):
            return None
        return _usable([values[names.index(joint)] for joint in joints], len(joints))

    return expect


def _distances(values: str, lowest: str, highest: str, count: int) -> Expect:
    def expect(message: Any) -> Sequence[float] | None:
        low, high = getattr(message, lowest), getattr(message, highest)
        if not -np.inf < low < high < np.inf:
            return None
        found = getattr(message, values)
        found = list(found) if hasattr(found, "__len__") else [found]
        return _usable([value if value != value else min(max(value, low), high) for value in found], count)

    return expect


def _image(shape: tuple[int, ...], dtype: str, encoding: str = "") -> Expect:
    reader = RawImageReader(ArraySpec("seen", shape, dtype, 0, 1), encoding)

    def expect(message: Image) -> np.ndarray | None:
        out = np.zeros(shape, dtype)
        try:
            reader(serialize_message(message), out)
        except UnusableReading:
            return None
        return out

    return expect


def _compressed(shape: tuple[int, ...], dtype: str) -> Expect:
    reader = CompressedImageReader(ArraySpec("seen", shape, dtype, 0, 1), "")

    def expect(message: CompressedImage) -> np.ndarray | None:
        out = np.zeros(shape, dtype)
        try:
            reader(serialize_message(message), out)
        except UnusableReading:
            return None
        return out

    return expect


def _raw_image(pixels: np.ndarray, encoding: str, padding: int, big_endian: bool = False) -> Image:
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(len(pixels), -1)
    padded = np.concatenate([rows, np.full((len(rows), padding), 201, np.uint8)], axis=1)
    height, width = pixels.shape[:2]
    return Image(
        header=HEADER,
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=int(big_endian),
        step=padded.shape[1],
        data=padded.tobytes(),
    )


def _encoded(pixels: np.ndarray, extension: str) -> CompressedImage:
    _, data = cv2.imencode(extension, pixels)
    return CompressedImage(header=HEADER, format=extension[1:], data=data.tobytes())


HEADER = Header(stamp=Time(sec=12, nanosec=345), frame_id="base")
_ONE_TO_THREE, _FOUR_TO_SIX = Vector3(x=1.0, y=2.0, z=3.0), Vector3(x=4.0, y=-5.0, z=6.0)
_TURN = Quaternion(x=0.1, y=0.2, z=0.3, w=0.9)
_TWIST = Twist(linear=_ONE_TO_THREE, angular=_FOUR_TO_SIX)
_ODOMETRY = Odometry(header=HEADER, child_frame_id="base_link")
_ODOMETRY.pose.pose.orientation, _ODOMETRY.twist.twist = _TURN, _TWIST
_POSE = PoseWithCovarianceStamped(header=HEADER)
_POSE.pose.pose.orientation, _POSE.pose.covariance = _TURN, np.arange(36.0)
_JOINTS = [
    JointState(header=HEADER, name=["a", "b", "ccc"], position=[1.0, 2.0, 3.0], effort=[7.0, 8.0, 9.0]),
    JointState(name=["ccc", "long_name", "b", "a"], position=[4.0, 3.0, 2.0, 1.0], effort=[1.0, 2.0, 3.0, 4.0]),
    JointState(header=HEADER, name=["a", "ccc"], velocity=[1.0], effort=[7.0, 8.0]),
]
_SCAN = LaserScan(header=HEADER, range_min=0.5, range_max=8.0, ranges=[1.0, np.inf, -np.inf, 0.25, 9.0, 7.5])
_PIXELS = np.random.default_rng(3).integers(0, 256, (5, 7, 3), np.uint8)
_RAMP = np.linspace(0, 200, 12)[:, None, None] + np.linspace(0, 50, 17)[None, :, None]
_DEPTH = (_RAMP + 1.0).astype(np.float32)
_HOLES = np.where(_DEPTH % 7 < 1, np.nan, _DEPTH).astype(np.float32)

CASES = (
    Case(
        "joint_state_effort",
        "sensor_msgs/msg/JointState",
        (2,),
        "float32",
        _JOINTS,
        _joints("effort", ["ccc", "a"]),
        {"field": "effort", "joints": ["ccc", "a"]},
    ),
    Case("joint_state", "sensor_msgs/msg/JointState", (3,), "float32", _JOINTS[:1], _fields(3, "position")),
    Case(
        "laser_scan",
        "sensor_msgs/msg/LaserScan",
        (6,),
        "float32",
        [_SCAN],
        _distances("ranges", "range_min", "range_max", 6),
    ),
    Case(
        "range",
        "sensor_msgs/msg/Range",
        (1,),
        "float32",
        [Range(header=HEADER, min_range=0.5, max_range=4.0, range=2.5)],
        _distances("range", "min_range", "max_range", 1),
    ),
    Case(
        "imu",
        "sensor_msgs/msg/Imu",
        (10,),
        "float32",
        [Imu(header=HEADER, orientation=_TURN, angular_velocity=_ONE_TO_THREE, linear_acceleration=_FOUR_TO_SIX)],
        _fields(10, *_xyz("orientation", "xyzw"), *_xyz("angular_velocity"), *_xyz("linear_acceleration")),
    ),
    Case(
        "odometry",
        "nav_msgs/msg/Odometry",
        (13,),
        "float64",
        [_ODOMETRY],
        _fields(
            13,
            *_xyz("pose.pose.position"),
            *_xyz("pose.pose.orientation", "xyzw"),
            *_xyz("twist.twist.linear"),
            *_xyz("twist.twist.angular"),
            dtype="float64",
        ),
    ),
    Case(
        "twist",
        "geometry_msgs/msg/Twist",
        (6,),
        "float32",
        [_TWIST],
        _fields(6, *_xyz("linear"), *_xyz("angular")),
    ),
    Case(
        "twist_stamped",
        "geometry_msgs/msg/TwistStamped",
        (2,),
        "float32",
        [TwistStamped(header=HEADER, twist=_TWIST)],
        _fields(2, "twist.angular.z", "twist.linear.x"),
        {"fields": ["twist.angular.z", "twist.linear.x"]},
    ),
    Case(
        "wrench",
        "geometry_msgs/msg/WrenchStamped",
        (6,),
        "float64",
        [WrenchStamped(header=HEADER, wrench=Wrench(force=_ONE_TO_THREE, torque=_FOUR_TO_SIX))],
        _fields(6, *_xyz("wrench.force"), *_xyz("wrench.torque"), dtype="float64"),
    ),
    Case(
        "float32_array",
        "std_msgs/msg/Float32MultiArray",
        (2,),
        "float64",
        [Float32MultiArray(data=[1.5, -2.5])],
        _fields(2, "data", dtype="float64"),
    ),
    Case(
        "float64_array",
        "std_msgs/msg/Float64MultiArray",
        (3,),
        "float32",
        [Float64MultiArray(data=[1.5, -2.5, 3.0])],
        _fields(3, "data"),
    ),
    Case(
        "covariance",
        "geometry_msgs/msg/PoseWithCovarianceStamped",
        (36,),
        "float32",
        [_POSE],
        _fields(36, "pose.covariance"),
        {"field": "pose.covariance"},
    ),
    Case(
        "stamp",
        "geometry_msgs/msg/PointStamped",
        (2,),
        "float64",
        [PointStamped(header=HEADER)],
        _fields(2, "header.stamp.sec", "header.stamp.nanosec", dtype="float64"),
        {"field": "header.stamp"},
    ),
    Case("bool", "std_msgs/msg/Bool", (1,), "float32", [Bool(data=True)], _fields(1, "data")),
    Case("int32", "std_msgs/msg/Int32", (1,), "float32", [Int32(data=-9)], _fields(1, "data")),
    Case(
        "bytes",
        "std_msgs/msg/UInt8MultiArray",
        (2,),
        "float32",
        [UInt8MultiArray(data=[3, 255])],
        _fields(2, "data"),
        {"field": "data"},
    ),
    Case(
        "battery",
        "sensor_msgs/msg/BatteryState",
        (1,),
        "float32",
        [BatteryState(header=HEADER, voltage=12.5, cell_voltage=[4.0, 4.25, 4.25])],
        _fields(1, "voltage"),
        {"field": "voltage"},
    ),
    Case(
        "image_bgr8",
        "sensor_msgs/msg/Image",
        (5, 7, 3),
        "uint8",
        [_raw_image(_PIXELS, "bgr8", 3), _raw_image(_PIXELS, "rgb8", 0)],
        _image((5, 7, 3), "uint8"),
    ),
    Case(
        "image_resized",
        "sensor_msgs/msg/Image",
        (3, 4, 1),
        "uint8",
        [_raw_image(_PIXELS, "rgb8", 1)],
        _image((3, 4, 1), "uint8"),
    ),
    Case(
        "image_depth",
        "sensor_msgs/msg/Image",
        (3, 4, 1),
        "float32",
        [_raw_image(_DEPTH, "32FC1", 1), _raw_image(_HOLES, "32FC1", 0)],
        _image((3, 4, 1), "float32"),
    ),
    Case(
        "image_png",
        "sensor_msgs/msg/CompressedImage",
        (12, 17, 3),
        "uint8",
        [_encoded(_RAMP.astype(np.uint8).repeat(3, 2), ".png"), _encoded((_RAMP * 99).astype(np.uint16), ".png")],
        _compressed((12, 17, 3), "uint8"),
    ),
    Case(
        "image_jpeg",
        "sensor_msgs/msg/CompressedImage",
        (6, 8, 1),
        "uint8",
        [_encoded(_RAMP.astype(np.uint8).repeat(3, 2), ".jpg"), _encoded(_RAMP.astype(np.uint8), ".jpg")],
        _compressed((6, 8, 1), "uint8"),
    ),
)
