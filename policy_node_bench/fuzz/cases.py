# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Valid messages for every parser of raw messages, and the check of a parser against the typed deserialiser."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import (
    PointStamped,
    PoseStamped,
    PoseWithCovarianceStamped,
    Quaternion,
    Twist,
    TwistStamped,
    Vector3,
    Wrench,
    WrenchStamped,
)
from nav_msgs.msg import OccupancyGrid, Odometry
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import (
    BatteryState,
    CompressedImage,
    Image,
    Imu,
    JointState,
    LaserScan,
    PointCloud2,
    PointField,
    Range,
)
from std_msgs.msg import Bool, Float32MultiArray, Float64MultiArray, Header, Int32, MultiArrayDimension, UInt8MultiArray

from policy_node.config.parameters import ReadingChoices
from policy_node.config.specs import ArraySpec
from policy_node.messages.cdr import body_end
from policy_node.messages.codecs import ReadingDecoder, reading_decoder
from policy_node.messages.fields import NUMBERS, MessageClass, elements_of, message_of
from policy_node.messages.reading import UnusableReading
from policy_node.messages.types.images import CompressedImageReader, RawImageReader

# Fills the row before decoding.
MARK = 0x5A


@dataclass(frozen=True)
class Case:
    """A parser with valid messages of one type and their expected values."""

    name: str
    messages: Sequence[Any]
    shape: tuple[int, ...]
    # Reads the values from a typed message, without the parser: numbers, an image, or None if it cannot be used.
    read: Callable[[Any], list[float] | np.ndarray | None]
    dtype: str = "float32"
    choices: dict[str, Any] = field(default_factory=dict)  # further arguments of `reading_decoder`

    @property
    def type_name(self) -> str:
        """Type of the messages, such as `sensor_msgs/msg/Imu`."""
        message_type = type(self.messages[0])
        return f"{message_type.__module__.partition('.')[0]}/msg/{message_type.__name__}"

    def decoder(self) -> ReadingDecoder:
        """Return a parser that has parsed no message yet."""
        spec = ArraySpec("seen", self.shape, self.dtype, 0, 1)
        return reading_decoder(self.type_name, spec, topic="seen", **self.choices)

    def seeds(self) -> list[bytes]:
        """Return the valid messages, serialised in both byte orders."""
        raws = [serialize_message(message) for message in self.messages]
        return [*raws, *(byteswapped(type(message), raw) for message, raw in zip(self.messages, raws, strict=True))]

    def expected(self, message: Any) -> list[float] | np.ndarray | None:
        """Return the values of a typed message, or None if it cannot be used."""
        values = self.read(message)
        if not isinstance(values, list):
            return values
        limit = float(np.finfo(self.dtype).max)
        fits = (len(values),) == self.shape and all(abs(float(value)) <= limit for value in values)
        return values if fits else None


class ProblemError(AssertionError):
    """A parser returned a wrong result."""


def check(case: Case, decoder: ReadingDecoder, raw: bytes) -> bool:
    """Parse a message, compare the result with the typed message and return whether the parser accepted it.

    Raises ProblemError if the parser raises an unexpected exception, writes to the row of a message that it
    rejects, accepts a message that the deserialiser rejects, gives other values, or rejects a usable message.
    """
    out = np.zeros(case.shape, case.dtype)
    out.view(np.uint8)[:] = MARK
    untouched = out.tobytes()
    stamp_ns, reason = None, ""
    try:
        stamp_ns = decoder.stamp_ns(raw)
        decoder.decode(raw, out)
    except UnusableReading as error:
        reason = str(error)
        if out.tobytes() != untouched:
            raise ProblemError(f"rejected ({reason}), but the row was changed") from error
    except Exception as error:
        raise ProblemError(f"{type(error).__name__}: {error}") from error
    message = typed(raw, decoder.message_type)
    expected = None if message is None else case.expected(message)
    if not reason and expected is None:
        raise ProblemError(
            "accepted, but the deserialiser rejects it"
            if message is None
            else f"accepted, but the typed message cannot be used: {message}"
        )
    if reason and expected is not None and not (raw[3] & 3 and "Image" in case.type_name):
        # If the encapsulation of an image names padding, the deserialiser may drop data; the parser does not.
        raise ProblemError(f"rejected ({reason}), but the typed message can be used")
    if not reason:
        _compare(message, expected, out, stamp_ns)
    return not reason


def _compare(message: Any, expected: Any, out: np.ndarray, stamp_ns: int | None) -> None:
    """Raise ProblemError if values or stamp differ from those of the typed message."""
    with np.errstate(all="ignore"):
        wanted = np.asarray(expected).astype(out.dtype)
    if wanted.tobytes() != out.tobytes():
        raise ProblemError(f"gives {out.tolist()}, the typed message {wanted.tolist()}")
    if stamp_ns is not None:
        stamp = message.header.stamp
        if stamp_ns != stamp.sec * 1_000_000_000 + stamp.nanosec:
            raise ProblemError(f"stamp {stamp_ns}, the typed message has {stamp}")


def typed(raw: bytes, message_type: MessageClass) -> Any | None:
    """Deserialise a message; None if it is invalid or known to crash the deserialiser."""
    try:
        body_end(raw)
    except UnusableReading:
        return None
    try:
        return deserialize_message(raw, message_type)
    except Exception:  # depends on the middleware
        return None


def byteswapped(message_type: MessageClass, raw: bytes) -> bytes:
    """Convert a serialised message from little-endian to big-endian."""
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


def _fields(*paths: str) -> Callable[[Any], list[float]]:
    def read(message: Any) -> list[float]:
        values = (attrgetter(path)(message) for path in paths)
        return [number for value in values for number in (value if hasattr(value, "__len__") else [value])]

    return read


def _xyz(path: str, names: str = "xyz") -> list[str]:
    return [f"{path}.{name}" for name in names]


def _joint_efforts(*joints: str) -> Callable[[JointState], list[float] | None]:
    def read(message: JointState) -> list[float] | None:
        if len(message.effort) != len(message.name) or any(message.name.count(joint) != 1 for joint in joints):
            return None
        return [message.effort[message.name.index(joint)] for joint in joints]

    return read


def _distances(values: str, lowest: str, highest: str) -> Callable[[Any], list[float] | None]:
    def read(message: Any) -> list[float] | None:
        low, high = getattr(message, lowest), getattr(message, highest)
        if not -np.inf < low < high < np.inf:
            return None
        distances = _fields(values)(message)
        if distances and all(value != value for value in distances):
            return None
        return [high if value != value else min(max(value, low), high) for value in distances]

    return read


def _again(name: str, messages: Sequence[Any], shape: tuple[int, ...], dtype: str = "float32", **choices: Any) -> Case:
    """Return a case whose expected values are those of a parser that reads the message as serialised again."""
    case = Case(name, messages, shape, lambda message: None, dtype, choices)
    decoder = case.decoder()

    def read(message: Any) -> np.ndarray | None:
        out = np.zeros(shape, dtype)
        try:
            decoder.decode(serialize_message(message), out)
        except UnusableReading:
            return None
        return out

    return replace(case, read=read)


def _image_case(
    name: str,
    reader_type: type[RawImageReader | CompressedImageReader],
    messages: Sequence[Image | CompressedImage],
    shape: tuple[int, ...],
    dtype: str = "uint8",
) -> Case:
    reader = reader_type(ArraySpec("seen", shape, dtype, 0, 1), ReadingChoices())

    def read(message: Image | CompressedImage) -> np.ndarray | None:
        out = np.zeros(shape, dtype)
        try:
            reader(serialize_message(message), out)
        except UnusableReading:
            return None
        return out

    return Case(name, messages, shape, read, dtype)


def _raw_image(pixels: np.ndarray, encoding: str, padding: int, height: int = 0) -> Image:
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(len(pixels), -1)
    padded = np.concatenate([rows, np.full((len(rows), padding), 201, np.uint8)], axis=1)
    size = {"height": height or pixels.shape[0], "width": pixels.shape[1], "step": padded.shape[1]}
    return Image(header=HEADER, encoding=encoding, data=padded.tobytes(), **size)


def _encoded(pixels: np.ndarray, extension: str) -> CompressedImage:
    _, data = cv2.imencode(extension, pixels)
    return CompressedImage(header=HEADER, format=extension[1:], data=data.tobytes())


def _compressed_depth(pixels: np.ndarray, encoding: str, is_rvl: bool = False) -> CompressedImage:
    """Return compressed depth; in RVL a run of zeros and one of equal pixels."""
    header = struct.pack("<iff", 0, 10100.0, -1009.0)
    if is_rvl:
        height, width = pixels.shape[:2]
        # 8 zeros, then 196 others, the first 1000 more than none.
        nibbles = [0x8, 0x1, 0xC, 0x8, 0x3, *(0x8, 0xA, 0xF, 0x3), *[0] * 195]
        nibbles += [0] * (-len(nibbles) % 8)
        words = [int("".join(f"{part:x}" for part in nibbles[at : at + 8]), 16) for at in range(0, len(nibbles), 8)]
        data = struct.pack(f"<II{len(words)}I", width, height, *words)
    else:
        data = cv2.imencode(".png", pixels)[1].tobytes()
    method = "rvl" if is_rvl else "png"
    return CompressedImage(header=HEADER, format=f"{encoding}; compressedDepth {method}", data=header + data)


HEADER = Header(stamp=Time(sec=12, nanosec=345), frame_id="base")
_ONE_TO_THREE, _FOUR_TO_SIX = Vector3(x=1.0, y=2.0, z=3.0), Vector3(x=4.0, y=-5.0, z=6.0)
_TURN = Quaternion(x=0.1, y=0.2, z=0.3, w=0.9)
_TWIST = Twist(linear=_ONE_TO_THREE, angular=_FOUR_TO_SIX)
_ODOMETRY = Odometry(header=HEADER, child_frame_id="base_link")
_ODOMETRY.pose.pose.orientation, _ODOMETRY.twist.twist = _TURN, _TWIST
_POSE = PoseWithCovarianceStamped(header=HEADER)
_POSE.pose.pose.orientation, _POSE.pose.covariance = _TURN, np.arange(36.0)
_POSE_STAMPED = PoseStamped(header=HEADER)
_POSE_STAMPED.pose.orientation.w = 1.0
_JOINTS = [
    JointState(header=HEADER, name=["a", "b", "ccc"], position=[1.0, 2.0, 3.0], effort=[7.0, 8.0, 9.0]),
    JointState(name=["ccc", "long_name", "b", "a"], position=[4.0, 3.0, 2.0, 1.0], effort=[1.0, 2.0, 3.0, 4.0]),
    JointState(header=HEADER, name=["a", "ccc"], velocity=[1.0], effort=[7.0, 8.0]),
]
_SCAN = LaserScan(header=HEADER, range_min=0.5, range_max=8.0, ranges=[1.0, np.inf, -np.inf, 0.25, 9.0, 7.5])
_PIXELS = np.random.default_rng(3).integers(0, 256, (5, 7, 3), np.uint8)
_RAMP = np.linspace(0, 200, 12)[:, None, None] + np.linspace(0, 50, 17)[None, :, None]
_DEPTH = (_RAMP + 1.0).astype(np.float32)
_MILLIMETRES = (_DEPTH * 100 * (_DEPTH % 5 > 1)).astype(np.uint16)
_NV12 = np.random.default_rng(5).integers(0, 256, (6, 6, 1), np.uint8)
_YUV = np.random.default_rng(6).integers(0, 256, (5, 8, 2), np.uint8)
_BAYER16 = np.random.default_rng(7).integers(0, 65536, (6, 8, 1), np.uint16)
_HOLES = np.where(_DEPTH % 7 < 1, np.nan, _DEPTH).astype(np.float32)

_SCAN_TURN = LaserScan(
    header=HEADER,
    angle_min=-0.5,
    angle_increment=0.25,
    range_min=0.5,
    range_max=8.0,
    ranges=[1.0, np.nan, 2.0, 9.0, 3.0],
)
_CLOUD = PointCloud2(
    header=HEADER,
    height=1,
    width=6,
    fields=[PointField(name=name, offset=4 * place, datatype=7, count=1) for place, name in enumerate("xyz")],
    point_step=16,
    row_step=96,
    data=np.random.default_rng(8).normal(size=(6, 4)).astype("<f4").tobytes(),
)
_GRID = OccupancyGrid(header=HEADER, data=[0, 100, -1, 50, -1, 1])
_GRID.info.height, _GRID.info.width = 2, 3
_ARRAY = Float32MultiArray(data=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
_ARRAY.layout.dim = [MultiArrayDimension(size=2, stride=6), MultiArrayDimension(size=3, stride=3)]
_IMU = Imu(header=HEADER, orientation=_TURN, angular_velocity=_ONE_TO_THREE, linear_acceleration=_FOUR_TO_SIX)
_RANGE = Range(header=HEADER, min_range=0.5, max_range=4.0, range=2.5)
_TWIST_STAMPED = TwistStamped(header=HEADER, twist=_TWIST)
_WRENCH = WrenchStamped(header=HEADER, wrench=Wrench(force=_ONE_TO_THREE, torque=_FOUR_TO_SIX))
_BATTERY = BatteryState(header=HEADER, voltage=12.5, cell_voltage=[4.0, 4.25, 4.25])
_RGB = _RAMP.astype(np.uint8).repeat(3, 2)
_IMU_PATHS = [*_xyz("orientation", "xyzw"), *_xyz("angular_velocity"), *_xyz("linear_acceleration")]
_POSE_PATHS = [*_xyz("pose.pose.position"), *_xyz("pose.pose.orientation", "xyzw")]
_ODOMETRY_PATHS = [*_POSE_PATHS, *_xyz("twist.twist.linear"), *_xyz("twist.twist.angular")]
_TURN_AND_SPEED = ["twist.angular.z", "twist.linear.x"]
_STAMP = ["header.stamp.sec", "header.stamp.nanosec"]

CASES = (
    Case(
        "joint_state_effort",
        _JOINTS,
        (2,),
        _joint_efforts("ccc", "a"),
        choices={"field": "effort", "joints": ["ccc", "a"]},
    ),
    Case("joint_state", _JOINTS[:1], (3,), _fields("position")),
    Case("laser_scan", [_SCAN], (6,), _distances("ranges", "range_min", "range_max")),
    Case("range", [_RANGE], (1,), _distances("range", "min_range", "max_range")),
    Case("imu", [_IMU], (10,), _fields(*_IMU_PATHS)),
    Case("odometry", [_ODOMETRY], (13,), _fields(*_ODOMETRY_PATHS), "float64"),
    Case("twist", [_TWIST], (6,), _fields(*_xyz("linear"), *_xyz("angular"))),
    Case("twist_stamped", [_TWIST_STAMPED], (2,), _fields(*_TURN_AND_SPEED), choices={"fields": _TURN_AND_SPEED}),
    Case("wrench", [_WRENCH], (6,), _fields(*_xyz("wrench.force"), *_xyz("wrench.torque")), "float64"),
    Case("float32_array", [Float32MultiArray(data=[1.5, -2.5])], (2,), _fields("data"), "float64"),
    Case("float64_array", [Float64MultiArray(data=[1.5, -2.5, 3.0])], (3,), _fields("data")),
    Case("covariance", [_POSE], (36,), _fields("pose.covariance"), choices={"field": "pose.covariance"}),
    Case("stamp", [PointStamped(header=HEADER)], (2,), _fields(*_STAMP), "float64", {"field": "header.stamp"}),
    Case("bool", [Bool(data=True)], (1,), _fields("data")),
    Case("int32", [Int32(data=-9)], (1,), _fields("data")),
    Case("bytes", [UInt8MultiArray(data=[3, 255])], (2,), _fields("data"), choices={"field": "data"}),
    Case("battery", [_BATTERY], (1,), _fields("voltage"), choices={"field": "voltage"}),
    _image_case(
        "image_bgr8", RawImageReader, [_raw_image(_PIXELS, "bgr8", 3), _raw_image(_PIXELS, "rgb8", 0)], (5, 7, 3)
    ),
    _image_case("image_resized", RawImageReader, [_raw_image(_PIXELS, "rgb8", 1)], (3, 4, 1)),
    _image_case(
        "image_depth",
        RawImageReader,
        [_raw_image(_DEPTH, "32FC1", 1), _raw_image(_HOLES, "32FC1", 0)],
        (3, 4, 1),
        "float32",
    ),
    _again("image_nv12", [_raw_image(_NV12, "nv12", 2, 4)], (4, 6, 3), "uint8"),
    _again("image_yuv422", [_raw_image(_YUV, "yuv422", 0)], (4, 6, 1), "uint8", resize="crop"),
    _again("image_bayer16", [_raw_image(_BAYER16, "bayer_rggb16", 0)], (3, 5, 3), "uint8", resize="pad"),
    _again("image_mm", [_raw_image(_MILLIMETRES, "16UC1", 0)], (3, 4, 1), hole_value=[0.5]),
    _again("depth_png", [_compressed_depth(_MILLIMETRES, "16UC1")], (3, 4, 1), "uint16"),
    _again("depth_rvl", [_compressed_depth(_MILLIMETRES, "32FC1", is_rvl=True)], (12, 17, 1), hole_value=[0.5]),
    _again("scan_rays", [_SCAN_TURN], (4,), rays=4),
    _again("pose_yaw", [_POSE_STAMPED], (4,), pose_as="position_yaw", base_frame="base"),
    _again("cloud", [_CLOUD], (4, 3)),
    _again("cloud_map", [_CLOUD], (3, 3), projection="map", bounds=[-2.0, 2.0, -2.0, 2.0]),
    _again("grid", [_GRID], (2, 3)),
    _again("array_layout", [_ARRAY], (2, 3)),
    _again("list_padded", [Float32MultiArray(data=[1.5, -2.5])], (4,), padding="zeros_and_count"),
    _image_case(
        "image_png",
        CompressedImageReader,
        [_encoded(_RGB, ".png"), _encoded((_RAMP * 99).astype(np.uint16), ".png")],
        (12, 17, 3),
    ),
    _image_case(
        "image_jpeg",
        CompressedImageReader,
        [_encoded(_RGB, ".jpg"), _encoded(_RAMP.astype(np.uint8), ".jpg")],
        (6, 8, 1),
    ),
)
