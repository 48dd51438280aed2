# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Message types to arrays and back, with really serialised messages and with damaged ones."""

import math
import warnings
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Time
from geometry_msgs.msg import (
    Point,
    PointStamped,
    Quaternion,
    Twist,
    TwistStamped,
    TwistWithCovarianceStamped,
    Vector3,
    Wrench,
    WrenchStamped,
)
from hypothesis import given
from hypothesis import strategies as st
from nav_msgs.msg import Odometry
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage, Image, Imu, JointState, LaserScan, Range
from std_msgs.msg import Bool, Float32MultiArray, Float64MultiArray, Header, Int32, UInt8MultiArray
from trajectory_msgs.msg import JointTrajectory

from policy_node.config.specs import ArraySpec
from policy_node.messages.codecs import MessageTypeError, command_encoder, reading_decoder
from policy_node.messages.fields import is_zero
from policy_node.messages.patched import fleet_encoder
from policy_node.messages.reading import UnusableReading

HEIGHT, WIDTH = 5, 7
IMAGE, COMPRESSED_IMAGE, JOINT_STATE = (
    f"sensor_msgs/msg/{name}" for name in ("Image", "CompressedImage", "JointState")
)
JOINT_TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
# Types without a record as commands.
PATHS = "geometry_msgs/msg/TwistWithCovarianceStamped"
JOY = "sensor_msgs/msg/Joy"
TWIST = "geometry_msgs/msg/Twist"
FLOAT64_ARRAY = "std_msgs/msg/Float64MultiArray"
MARK = 77  # in every number of `out` before decoding


def spec_of(shape: tuple[int, ...], dtype: str = "uint8") -> ArraySpec:
    return ArraySpec("seen", shape, dtype, 0, 1)


def decode(type_name: str, message: Any, shape: tuple[int, ...], dtype: str = "uint8", **choices: Any) -> np.ndarray:
    decoder = reading_decoder(type_name, spec_of(shape, dtype), topic="seen", **choices)
    raw = message if isinstance(message, bytes) else serialize_message(message)
    out = np.full(shape, MARK, dtype)
    try:
        decoder.decode(raw, out)
    except UnusableReading as error:
        assert str(error).startswith("seen: ")
        assert np.all(out == np.full(shape, MARK, dtype)), "an unusable reading must leave the row alone"
        raise
    return out


def colours(height: int = HEIGHT, width: int = WIDTH, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (height, width, channels), np.uint8)


def image(
    pixels: np.ndarray, encoding: str, padding: int = 0, frame: str = "camera", big_endian: bool = False
) -> Image:
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(len(pixels), -1)
    padded = np.concatenate([rows, np.full((len(rows), padding), 201, np.uint8)], axis=1)
    return Image(
        header=Header(frame_id=frame),
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=int(big_endian),
        step=padded.shape[1],
        data=padded.tobytes(),
    )


# Images


@pytest.mark.parametrize("padding", [0, 1, 3, 16])
@pytest.mark.parametrize("frame", ["", "cam", "camera", "rover_0/front_camera"])
def test_an_image_of_the_wanted_encoding_is_copied(padding: int, frame: str) -> None:
    pixels = colours()
    assert np.array_equal(decode(IMAGE, image(pixels, "rgb8", padding, frame), pixels.shape), pixels)


def test_an_encoding_ends_at_its_first_nul() -> None:
    raw = serialize_message(image(colours(), "mono16"))
    assert np.array_equal(decode(IMAGE, raw.replace(b"mono16", b"rgb8\0x"), (HEIGHT, WIDTH, 3)), colours())


@pytest.mark.parametrize("wanted", ["rgb8", "bgr8", "rgba8", "bgra8", "mono8"])
@pytest.mark.parametrize("found", ["rgb8", "bgr8", "rgba8", "bgra8", "mono8"])
def test_colours_convert_into_one_another(found: str, wanted: str) -> None:
    planes_of = {"mono8": "y", "rgb8": "rgb", "bgr8": "bgr", "rgba8": "rgba", "bgra8": "bgra"}
    pixels = colours(channels=len(planes_of[found]))
    planes = dict(zip(planes_of[found], np.moveaxis(pixels.astype(float), 2, 0), strict=True))
    if found == "mono8":
        planes |= dict.fromkeys("rgb", planes["y"])
    else:
        planes["y"] = 0.299 * planes["r"] + 0.587 * planes["g"] + 0.114 * planes["b"]
    planes.setdefault("a", np.full((HEIGHT, WIDTH), 255.0))
    expected = np.stack([planes[name] for name in planes_of[wanted]], axis=2)
    got = decode(IMAGE, image(pixels, found, padding=2), expected.shape, encoding=wanted)
    assert np.abs(got - expected).max() <= (1 if wanted == "mono8" != found else 0)


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("padding", [0, 1, 6])
@pytest.mark.parametrize(("encoding", "dtype"), [("16UC1", "uint16"), ("32FC1", "float32")])
@pytest.mark.parametrize("resized", [False, True])
def test_depth_of_either_byte_order(encoding: str, dtype: str, padding: int, big_endian: bool, resized: bool) -> None:
    depth = (np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH, 1) * 257 + 3).astype(dtype)
    stored = depth.astype(depth.dtype.newbyteorder(">" if big_endian else "<"))
    message = image(stored, encoding, padding, big_endian=big_endian)
    expected = depth if not resized else cv2.resize(depth, (4, 3), interpolation=cv2.INTER_AREA)[..., None]
    assert np.array_equal(decode(IMAGE, message, expected.shape, dtype), expected)


@pytest.mark.parametrize("size", [(3, 4), (10, 21), (5, 3), (64, 64)])
@pytest.mark.parametrize("wanted", ["rgb8", "bgr8", "rgba8", "mono8"])
def test_another_size_is_converted_then_resized_by_area(wanted: str, size: tuple[int, int]) -> None:
    pixels = colours(20, 33)
    code = {"bgr8": cv2.COLOR_RGB2BGR, "rgba8": cv2.COLOR_RGB2RGBA, "mono8": cv2.COLOR_RGB2GRAY}.get(wanted)
    converted = pixels if code is None else cv2.cvtColor(pixels, code)
    expected = np.atleast_3d(cv2.resize(converted, size[::-1], interpolation=cv2.INTER_AREA))
    message = image(pixels, "rgb8", padding=5)
    assert np.array_equal(decode(IMAGE, message, expected.shape, encoding=wanted), expected)


@pytest.mark.parametrize(
    ("found", "dtype", "shape", "wanted"),
    [
        ("nv24", "uint8", (HEIGHT, WIDTH, 3), "rgb8"),
        ("", "uint8", (HEIGHT, WIDTH, 3), "rgb8"),
        ("RGB8", "uint8", (HEIGHT, WIDTH, 3), "rgb8"),
        ("16UC1", "uint8", (HEIGHT, WIDTH, 3), "rgb8"),
        ("rgb8", "uint16", (HEIGHT, WIDTH, 1), "16UC1"),
        ("mono16", "float32", (HEIGHT, WIDTH, 1), "32FC1"),
    ],
)
def test_an_encoding_that_does_not_convert_is_named(
    found: str, dtype: str, shape: tuple[int, ...], wanted: str
) -> None:
    with pytest.raises(UnusableReading, match=f"encoding '{found}'.*allowed.*{wanted}"):
        decode(IMAGE, image(colours(HEIGHT, WIDTH, 6), found), shape, dtype)


@pytest.mark.parametrize(
    "changes",
    [
        {"height": 0},
        {"width": 0},
        {"step": 0},
        {"step": 3 * WIDTH - 1},
        {"step": 3 * WIDTH + 1},
        {"step": 2**32 - 1},
        {"height": 2**32 - 1},
        {"width": 2**32 - 1},
        {"height": HEIGHT + 1},
        {"height": HEIGHT - 1},
        {"width": WIDTH + 1},
        {"height": 2**31, "width": 2**31, "step": 2**31},
        {"data": b""},
        {"height": 0, "width": 0, "step": 0, "data": b""},
    ],
)
def test_sizes_that_contradict_each_other_are_unusable(changes: dict[str, Any]) -> None:
    message = image(colours(), "rgb8")
    for name, value in changes.items():
        setattr(message, name, value)
    with pytest.raises(UnusableReading, match="contradict each other"):
        decode(IMAGE, message, (HEIGHT, WIDTH, 3))


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("padding", [0, 1])
def test_pixels_without_a_distance_become_bounds_and_zero(padding: int, big_endian: bool) -> None:
    depth = np.full((HEIGHT, WIDTH, 1), 0.5, ">f4" if big_endian else "<f4")
    depth[0, :4, 0] = math.inf, -math.inf, math.nan, 0.25
    got = decode(IMAGE, image(depth, "32FC1", padding, big_endian=big_endian), depth.shape, "float32")
    assert got[0, :, 0].tolist() == [1, 0, 0, 0.25, 0.5, 0.5, 0.5]
    assert np.all(got[1:] == 0.5)


def test_pixels_that_were_not_measured_play_no_part_when_neighbours_are_averaged() -> None:
    depth = np.full((4, 6, 1), 0.5, np.float32)
    depth[:2, :2, 0] = [[math.nan, 0.25], [0.25, math.nan]]
    depth[2:, :2] = math.nan
    depth[:2, 4:, 0] = [[math.inf, math.inf], [0.5, 0.5]]
    got = decode(IMAGE, image(depth, "32FC1"), (2, 3, 1), "float32")
    assert got[..., 0].tolist() == [[0.25, 0.5, 0.75], [0, 0.5, 0.5]]


@pytest.mark.parametrize("shape", [(HEIGHT, WIDTH, 1), (2, 3, 1)])
def test_depth_of_which_nothing_was_measured_is_unusable(shape: tuple[int, ...]) -> None:
    with pytest.raises(UnusableReading, match="no pixel was measured"):
        decode(IMAGE, image(np.full((HEIGHT, WIDTH, 1), math.nan, np.float32), "32FC1"), shape, "float32")


@pytest.mark.parametrize(
    ("value", "low", "high", "text"),
    [
        (math.inf, 0.0, math.inf, r"holds \+inf, but the observation has no upper bound.*16UC1"),
        (-math.inf, -math.inf, 5.0, "holds -inf, but the observation has no lower bound"),
        (math.nan, 0.5, 5.0, "which becomes 0, but the observation is 0.5 to 5; train"),
    ],
)
def test_depth_that_the_observation_cannot_say_is_unusable(value: float, low: float, high: float, text: str) -> None:
    spec = ArraySpec("seen", (HEIGHT, WIDTH, 1), "float32", low, high)
    decoder = reading_decoder(IMAGE, spec, topic="seen")
    depth = np.ones((HEIGHT, WIDTH, 1), np.float32)
    depth[3, 2] = value
    out = np.full(spec.shape, MARK, np.float32)
    with pytest.raises(UnusableReading, match=text):
        decoder.decode(serialize_message(image(depth, "32FC1")), out)
    assert np.all(out == MARK)


def test_only_compressed_images_are_worth_other_threads() -> None:
    assert reading_decoder(COMPRESSED_IMAGE, spec_of((5, 7, 3)), topic="seen").parallel
    assert not reading_decoder(IMAGE, spec_of((5, 7, 3)), topic="seen").parallel
    assert not reading_decoder(TWIST, spec_of((6,), "float32"), topic="seen").parallel


def smooth(channels: int, dtype: str = "uint8") -> np.ndarray:
    ramp = np.linspace(0, 200, 12)[:, None, None] + np.linspace(0, 50, 17)[None, :, None]
    return (ramp * (1 + np.arange(channels)) / channels).astype(dtype)


def compressed(pixels: np.ndarray, extension: str) -> CompressedImage:
    encoded, data = cv2.imencode(extension, pixels)
    assert encoded
    return CompressedImage(header=Header(frame_id="camera"), format=extension[1:], data=data.tobytes())


@pytest.mark.parametrize(("extension", "tolerance"), [(".png", 0), (".jpg", 8)])
@pytest.mark.parametrize(("wanted", "channels"), [("rgb8", 3), ("bgr8", 3), ("rgba8", 4), ("mono8", 1)])
def test_compressed_colour_images(extension: str, tolerance: int, wanted: str, channels: int) -> None:
    bgr = smooth(3)
    code = {"rgb8": cv2.COLOR_BGR2RGB, "rgba8": cv2.COLOR_BGR2RGBA, "mono8": cv2.COLOR_BGR2GRAY}.get(wanted)
    expected = np.atleast_3d(bgr if code is None else cv2.cvtColor(bgr, code))
    got = decode(COMPRESSED_IMAGE, compressed(bgr, extension), (12, 17, channels), encoding=wanted)
    assert np.abs(got.astype(int) - expected).max() <= tolerance


@pytest.mark.both_distributions
def test_compressed_grey_transparent_and_depth_images() -> None:
    grey, bgra, depth = smooth(1), smooth(4), smooth(1, "uint16") * 100
    assert np.array_equal(decode(COMPRESSED_IMAGE, compressed(grey, ".png"), (12, 17, 1)), grey)
    assert np.array_equal(decode(COMPRESSED_IMAGE, compressed(grey, ".png"), (12, 17, 3)), np.repeat(grey, 3, 2))
    assert np.array_equal(decode(COMPRESSED_IMAGE, compressed(bgra, ".png"), (12, 17, 3)), bgra[..., 2::-1])
    assert np.array_equal(decode(COMPRESSED_IMAGE, compressed(depth, ".png"), (12, 17, 1), "uint16"), depth)
    small = decode(COMPRESSED_IMAGE, compressed(grey, ".png"), (4, 5, 1))
    assert np.array_equal(small[..., 0], cv2.resize(grey, (5, 4), interpolation=cv2.INTER_AREA))


@pytest.mark.parametrize("extension", [".png", ".jpg"])
def test_a_compressed_image_cut_anywhere_is_unusable(extension: str) -> None:
    message = compressed(smooth(3), extension)
    data = bytes(message.data)
    for length in range(0, len(data) - 1, 7):
        message.data = data[:length]
        with pytest.raises(UnusableReading):
            decode(COMPRESSED_IMAGE, message, (12, 17, 3))


@pytest.mark.parametrize("extension", [".png", ".jpg"])
def test_a_compressed_image_that_says_it_is_huge_is_refused_before_decoding(extension: str) -> None:
    message = compressed(smooth(3), extension)
    data = bytearray(message.data)
    size_at = 16 if extension == ".png" else data.index(b"\xff\xc0") + 5
    data[size_at : size_at + 4] = b"\x00\x00\xff\xff" if extension == ".png" else b"\xff\xff\xff\xff"
    if extension == ".png":
        data[20:24] = b"\x00\x00\xff\xff"
    message.data = bytes(data)
    with pytest.raises(UnusableReading, match="65535 × 65535 pixels"):
        decode(COMPRESSED_IMAGE, message, (12, 17, 3))


def test_a_png_with_a_valid_checksum_that_says_it_is_huge_is_refused_before_decoding() -> None:
    message = compressed(smooth(3), ".png")
    data = bytearray(message.data)
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    message.data = bytes(data)
    with pytest.raises(UnusableReading, match="60000 × 60000 pixels; 1 to 64000000"):
        decode(COMPRESSED_IMAGE, message, (12, 17, 3))


@pytest.mark.parametrize("length", [b"\xff\xff\xff\xff", b"\xff\xff\xff\xf4", b"\x7f\xff\xff\xff", b"\0\0\xff\xff"])
def test_a_png_whose_chunk_lengths_lie_is_refused_before_decoding(length: bytes) -> None:
    # OpenCV never returns from the first one.
    message = compressed(smooth(3), ".png")
    data = bytearray(message.data)
    data[33:37] = length
    message.data = bytes(data)
    with pytest.raises(UnusableReading, match="its end is missing"):
        decode(COMPRESSED_IMAGE, message, (12, 17, 3))


def test_an_animated_png_and_one_of_very_many_chunks_are_refused_before_decoding() -> None:
    message = compressed(smooth(3), ".png")
    data = bytes(message.data)

    def with_chunk(kind: bytes, content: bytes, count: int) -> CompressedImage:
        chunk = len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")
        return CompressedImage(data=data[:33] + chunk * count + data[33:])

    with pytest.raises(UnusableReading, match="animated"):
        decode(COMPRESSED_IMAGE, with_chunk(b"acTL", b"\0\0\0\2\0\0\0\0", 1), (12, 17, 3))
    with pytest.raises(UnusableReading, match="more than 16384 chunks"):
        decode(COMPRESSED_IMAGE, with_chunk(b"tEXt", b"", 20_000), (12, 17, 3))
    assert np.array_equal(decode(COMPRESSED_IMAGE, with_chunk(b"tEXt", b"a\0b", 3), (12, 17, 3)), smooth(3)[..., ::-1])


def test_a_jpeg_of_very_many_scans_is_refused_before_decoding() -> None:
    encoded, data = cv2.imencode(".jpg", smooth(3), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    assert encoded
    good = data.tobytes()
    assert decode(COMPRESSED_IMAGE, CompressedImage(data=good), (12, 17, 3)).shape == (12, 17, 3)
    # The last scan again and again: each would be one more pass over the image.
    start = good.rindex(b"\xff\xda")
    bomb = good[:start] + good[start:-2] * 1000 + good[-2:]
    with pytest.raises(UnusableReading, match="scans, at most 64 are allowed"):
        decode(COMPRESSED_IMAGE, CompressedImage(data=bomb), (12, 17, 3))


def test_the_header_decides_whatever_the_format_says() -> None:
    message = compressed(smooth(3), ".png")
    for text in ("jpeg", "rgb8; jpeg compressed bgr8", "", "\u00e9" * 40):
        message.format = text
        assert np.array_equal(decode(COMPRESSED_IMAGE, message, (12, 17, 3)), smooth(3)[..., ::-1])
    data = bytes(message.data)
    # A chunk before the header that says the size.
    message.data = data[:8] + b"\0\0\0\0tEXt" + zlib.crc32(b"tEXt").to_bytes(4, "big") + data[8:]
    with pytest.raises(UnusableReading, match="neither JPEG nor PNG"):
        decode(COMPRESSED_IMAGE, message, (12, 17, 3))


def test_compressed_data_of_another_kind_are_unusable() -> None:
    for data in (b"", b"GIF89a", b"\xff\xd8\xff", b"\xff\xd8\xff\xe0\x00\x00" * 400, b"\x89PNG\r\n\x1a\n"):
        with pytest.raises(UnusableReading, match=r"neither JPEG nor PNG|frame header"):
            decode(COMPRESSED_IMAGE, CompressedImage(data=data), (12, 17, 3))
    with pytest.raises(UnusableReading, match="encoding 'bgr16' cannot become '16UC1'"):
        decode(COMPRESSED_IMAGE, compressed(smooth(3, "uint16"), ".png"), (12, 17, 1), "uint16")


# Vectors

HEADER = Header(stamp=Time(sec=12, nanosec=345), frame_id="base")
TWIST_1_TO_6 = Twist(linear=Vector3(x=1.0, y=2.0, z=3.0), angular=Vector3(x=4.0, y=5.0, z=6.0))
IMU = Imu(
    header=HEADER,
    orientation=Quaternion(x=1.0, y=2.0, z=3.0, w=4.0),
    orientation_covariance=np.arange(100.0, 109.0),
    angular_velocity=Vector3(x=5.0, y=6.0, z=7.0),
    linear_acceleration=Vector3(x=8.0, y=9.0, z=10.0),
)
ODOMETRY = Odometry(header=HEADER, child_frame_id="base")
ODOMETRY.pose.pose.position.x, ODOMETRY.pose.pose.position.y, ODOMETRY.pose.pose.position.z = 1.0, 2.0, 3.0
ODOMETRY.pose.pose.orientation = Quaternion(x=4.0, y=5.0, z=6.0, w=7.0)
ODOMETRY.twist.twist = Twist(linear=Vector3(x=8.0, y=9.0, z=10.0), angular=Vector3(x=11.0, y=12.0, z=13.0))
JOINTS = JointState(
    header=HEADER, name=["a", "b", "ccc"], position=[1.0, 2.0, 3.0], velocity=[4.0, 5.0, 6.0], effort=[7.0, 8.0, 9.0]
)
SCAN = LaserScan(header=HEADER, range_min=0.5, range_max=8.0, ranges=[1.0, math.inf, -math.inf, 0.25, 9.0, 7.5])
VECTORS: list[tuple[str, Any, dict[str, Any], list[float]]] = [
    ("sensor_msgs/msg/Imu", IMU, {}, list(range(1, 11))),
    ("sensor_msgs/msg/Imu", IMU, {"field": "angular_velocity"}, [5, 6, 7]),
    ("sensor_msgs/msg/Imu", IMU, {"field": "orientation_covariance"}, list(range(100, 109))),
    ("nav_msgs/msg/Odometry", ODOMETRY, {}, list(range(1, 14))),
    ("nav_msgs/msg/Odometry", ODOMETRY, {"field": "pose.pose"}, list(range(1, 8))),
    ("nav_msgs/msg/Odometry", ODOMETRY, {"field": "pose"}, [*range(1, 8), *[0] * 36]),
    ("nav_msgs/msg/Odometry", ODOMETRY, {"field": "twist.twist.angular.z"}, [13]),
    (TWIST, TWIST_1_TO_6, {}, list(range(1, 7))),
    (TWIST, TWIST_1_TO_6, {"fields": ["angular.z", "linear.x"]}, [6, 1]),
    ("sensor_msgs/msg/Imu", IMU, {"fields": ["angular_velocity", "orientation.w"]}, [5, 6, 7, 4]),
    ("sensor_msgs/msg/LaserScan", SCAN, {"fields": ["range_min", "range_max"]}, [0.5, 8]),
    ("geometry_msgs/msg/TwistStamped", TwistStamped(header=HEADER, twist=TWIST_1_TO_6), {}, list(range(1, 7))),
    (
        "geometry_msgs/msg/WrenchStamped",
        WrenchStamped(header=HEADER, wrench=Wrench(force=TWIST_1_TO_6.linear, torque=TWIST_1_TO_6.angular)),
        {},
        list(range(1, 7)),
    ),
    (JOINT_STATE, JOINTS, {}, [1, 2, 3]),
    (JOINT_STATE, JOINTS, {"field": "velocity", "joints": ["ccc", "a"]}, [6, 4]),
    (JOINT_STATE, JOINTS, {"field": "effort", "joints": ["b"]}, [8]),
    ("sensor_msgs/msg/LaserScan", SCAN, {}, [1, 8, 0.5, 0.5, 8, 7.5]),
    ("sensor_msgs/msg/LaserScan", SCAN, {"field": "ranges"}, [1, 8, 0.5, 0.5, 8, 7.5]),
    ("sensor_msgs/msg/LaserScan", SCAN, {"field": "range_max"}, [8]),
    ("sensor_msgs/msg/Range", Range(min_range=0.5, max_range=4.0, range=2.5), {}, [2.5]),
    ("sensor_msgs/msg/Range", Range(min_range=0.5, max_range=4.0, range=math.inf), {}, [4]),
    ("std_msgs/msg/Float32MultiArray", Float32MultiArray(data=[1.5, -2.5]), {}, [1.5, -2.5]),
    (FLOAT64_ARRAY, Float64MultiArray(data=[1.5, -2.5, 3.0]), {}, [1.5, -2.5, 3]),
    ("std_msgs/msg/Bool", Bool(data=True), {}, [1]),
    ("std_msgs/msg/Int32", Int32(data=-9), {}, [-9]),
    ("std_msgs/msg/UInt8MultiArray", UInt8MultiArray(data=[3, 255]), {"field": "data"}, [3, 255]),
    ("geometry_msgs/msg/PointStamped", PointStamped(header=HEADER), {"field": "header.stamp"}, [12, 345]),
    (
        "geometry_msgs/msg/TwistWithCovarianceStamped",
        TwistWithCovarianceStamped(header=HEADER),
        {"field": "twist.covariance"},
        [0] * 36,
    ),
]


@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.both_distributions), "float64"])
@pytest.mark.parametrize(("type_name", "message", "choices", "expected"), VECTORS)
def test_vectors(type_name: str, message: Any, choices: dict[str, Any], expected: list[float], dtype: str) -> None:
    assert decode(type_name, message, (len(expected),), dtype, **choices).tolist() == expected


@pytest.mark.parametrize(("type_name", "message", "choices", "expected"), VECTORS)
def test_a_vector_of_another_length_is_refused(
    type_name: str, message: Any, choices: dict[str, Any], expected: list[float]
) -> None:
    # At once where the type says how many numbers there are, else with the message.
    with pytest.raises((MessageTypeError, UnusableReading), match=str(len(expected))):
        decode(type_name, message, (len(expected) + 1,), "float32", **choices)


@pytest.mark.parametrize(
    ("type_name", "choices", "size"),
    [
        ("sensor_msgs/msg/Imu", {}, 10),
        ("sensor_msgs/msg/Imu", {"field": "orientation"}, 4),
        ("geometry_msgs/msg/WrenchStamped", {}, 6),
        (TWIST, {}, 6),
        (TWIST, {"fields": ["linear", "angular.z"]}, 4),
        ("geometry_msgs/msg/TwistStamped", {}, 6),
        ("nav_msgs/msg/Odometry", {}, 13),
        ("sensor_msgs/msg/Range", {}, 1),
        ("std_msgs/msg/Bool", {}, 1),
        ("std_msgs/msg/Int32", {}, 1),
        (JOINT_STATE, {"joints": ["a", "b"]}, 2),
    ],
)
def test_a_size_known_from_the_type_is_checked_before_the_first_message(
    type_name: str, choices: dict[str, Any], size: int
) -> None:
    reading_decoder(type_name, spec_of((size,), "float32"), topic="seen", **choices)
    with pytest.raises(MessageTypeError, match=rf"topic 'seen' of {type_name}.*'seen'.*{size} numbers"):
        reading_decoder(type_name, spec_of((size + 1,), "float32"), topic="seen", **choices)


def test_integers_keep_their_kind_and_must_fit() -> None:
    assert decode("std_msgs/msg/Int32", Int32(data=-9), (1,), "int64").tolist() == [-9]
    assert decode("std_msgs/msg/Bool", Bool(data=True), (1,), "bool").tolist() == [True]
    assert decode("std_msgs/msg/Bool", Bool(data=True), (1,), "uint8").tolist() == [1]
    with pytest.raises(UnusableReading, match="data is 300, which is not a finite int8"):
        decode("std_msgs/msg/Int32", Int32(data=300), (1,), "int8")
    for type_name, dtype in ((TWIST, "int64"), ("std_msgs/msg/Int32", "uint8"), (FLOAT64_ARRAY, "uint8")):
        with pytest.raises(MessageTypeError, match=f"observation is {dtype}.*would lose"):
            reading_decoder(type_name, spec_of((6,) if type_name == TWIST else (1,), dtype), topic="seen")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
def test_a_number_that_is_not_finite_is_named(value: float) -> None:
    twist = Twist(angular=Vector3(y=value))
    with pytest.raises(UnusableReading, match=r"seen: angular\.y is"):
        decode(TWIST, twist, (6,), "float32")
    effort = JointState(name=["a", "b", "c"], effort=[1.0, value, 2.0])
    with pytest.raises(UnusableReading, match="effort of joint 'b' is"):
        decode(JOINT_STATE, effort, (2,), "float32", field="effort", joints=["c", "b"])
    with pytest.raises(UnusableReading, match=r"effort\[1\] is"):
        decode(JOINT_STATE, effort, (3,), "float32", field="effort")
    odometry = Odometry()
    odometry.pose.covariance[5] = value
    with pytest.raises(UnusableReading, match=r"pose\.covariance\[5\] is"):
        decode("nav_msgs/msg/Odometry", odometry, (43,), "float32", field="pose")


def test_infinity_in_single_precision_is_found_for_a_policy_of_double_precision() -> None:
    with pytest.raises(UnusableReading, match=r"data\[1\] is inf"):
        decode("std_msgs/msg/Float32MultiArray", Float32MultiArray(data=[0.0, math.inf]), (2,), "float64")


def test_joints_are_found_by_name_whatever_their_order() -> None:
    decoder = reading_decoder(JOINT_STATE, spec_of((2,), "float64"), topic="seen", joints=["right", "left"])
    out = np.zeros(2)
    for names, expected in (
        (["left", "right", "x"], [2, 1]),
        (["right", "x", "left"], [1, 3]),
        (["x", "left", "right"], [3, 2]),
    ):
        decoder.decode(serialize_message(JointState(name=names, position=[1.0, 2.0, 3.0])), out)
        assert out.tolist() == expected


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (JointState(name=["a", "c"], position=[1.0, 2.0]), "joint 'b' occurs 0 times, not once; joints found: a, c"),
        (JointState(name=["b", "a", "b"], position=[1.0, 2.0, 3.0]), "joint 'b' occurs 2 times"),
        (JointState(name=["a", "b"]), "0 values of position for 2 joints"),
        (JointState(name=["a", "b"], position=[1.0]), "1 values of position for 2 joints"),
        (JointState(position=[1.0, 2.0]), "2 values of position for 0 joints"),
        (JointState(), "joints found: none"),
    ],
)
def test_a_joint_state_that_lacks_what_is_chosen_is_unusable(message: JointState, reason: str) -> None:
    with pytest.raises(UnusableReading, match=reason):
        decode(JOINT_STATE, message, (2,), "float32", joints=["a", "b"])


@pytest.mark.parametrize(
    ("names", "remedy"),
    [(["a", "b", "c"], "; choose them in `joints`, in the order of training; found are a, b, c"), ([], "")],
)
def test_joints_that_a_message_names_can_be_chosen(names: list[str], remedy: str) -> None:
    with pytest.raises(UnusableReading, match=f"3 numbers found, the policy takes 2{remedy}$"):
        decode(JOINT_STATE, JointState(name=names, position=[1.0, 2.0, 3.0]), (2,), "float32")


@pytest.mark.parametrize(("count", "hint"), [(4, r"; 12 = 3 × 4: .*`stack: 3`"), (5, ""), (0, ""), (12, None)])
def test_a_vector_of_a_third_of_the_numbers_proposes_a_stack(count: int, hint: str | None) -> None:
    message = JointState(position=[1.0] * count)
    if hint is None:
        assert decode(JOINT_STATE, message, (12,), "float32").tolist() == [1.0] * 12
        return
    with pytest.raises(UnusableReading, match=f"{count} numbers found, the policy takes 12{hint}$"):
        decode(JOINT_STATE, message, (12,), "float32")


@pytest.mark.parametrize("limits", [(0.0, 0.0), (5.0, 1.0), (0.0, math.inf), (math.nan, 5.0), (0.0, math.nan)])
def test_distances_without_usable_limits_are_unusable(limits: tuple[float, float]) -> None:
    scan = LaserScan(range_min=limits[0], range_max=limits[1], ranges=[1.0])
    with pytest.raises(UnusableReading, match="range_min and range_max are"):
        decode("sensor_msgs/msg/LaserScan", scan, (1,), "float32")


def test_a_beam_that_is_not_a_number_becomes_the_largest_distance() -> None:
    scan = LaserScan(range_min=0.0, range_max=5.0, ranges=[1.0, 2.0, math.nan])
    assert decode("sensor_msgs/msg/LaserScan", scan, (3,), "float32").tolist() == [1.0, 2.0, 5.0]
    scan.ranges = [math.nan] * 3
    with pytest.raises(UnusableReading, match="NaN only: no distance was measured"):
        decode("sensor_msgs/msg/LaserScan", scan, (3,), "float32")
    with pytest.raises(UnusableReading, match="NaN only"):
        decode("sensor_msgs/msg/Range", Range(min_range=0.5, max_range=4.0, range=math.nan), (1,), "float32")


def test_a_signalling_nan_is_replaced_or_refused_without_a_warning() -> None:
    raw = serialize_message(LaserScan(range_min=0.0, range_max=5.0, ranges=[1.0, 2.5]))
    signalling = raw.replace(np.float32(2.5).tobytes(), (0x7F800001).to_bytes(4, "little"))
    array = serialize_message(Float32MultiArray(data=[2.5]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode("sensor_msgs/msg/LaserScan", signalling, (2,), "float32").tolist() == [1.0, 5.0]
        with pytest.raises(UnusableReading, match=r"data\[0\] is nan"):
            signalling = array.replace(np.float32(2.5).tobytes(), (0x7F800001).to_bytes(4, "little"))
            decode("std_msgs/msg/Float32MultiArray", signalling, (1,), "float32")


# What is refused before the first message


@pytest.mark.parametrize(
    ("type_name", "shape", "dtype", "choices", "text"),
    [
        ("Image", (5, 7, 3), "uint8", {}, "not the name of a message type.*sensor_msgs/msg/Image"),
        ("sensor_msgs/Image", (5, 7, 3), "uint8", {}, "not the name of a message type"),
        ("../msg/Image", (5, 7, 3), "uint8", {}, "not the name of a message type"),
        ("no_such_msgs/msg/Image", (5, 7, 3), "uint8", {}, "cannot be imported.*install"),
        ("sensor_msgs/msg/Imgae", (5, 7, 3), "uint8", {}, "has no message type 'Imgae'"),
        (IMAGE, (5, 7, 3), "float32", {}, r"cannot give float32 \[5, 7, 3\].*rgb8 \(uint8 × 3\).*train"),
        (IMAGE, (5, 7, 2), "uint8", {}, r"cannot give uint8 \[5, 7, 2\]"),
        (IMAGE, (5, 7), "uint8", {}, r"cannot give uint8 \[5, 7\]"),
        (IMAGE, (0, 7, 3), "uint8", {}, r"cannot give uint8 \[0, 7, 3\]"),
        (IMAGE, (5, 7, 3), "uint8", {"encoding": "mono8"}, "encoding 'mono8'.*allowed here: rgb8, bgr8, 8UC3;"),
        (IMAGE, (5, 7, 3), "uint8", {"encoding": "yuv"}, "encoding 'yuv'.*of all: rgb8.*32FC1"),
        (IMAGE, (5, 7, 3), "uint8", {"field": "data"}, "field: 'data' is given.*remove"),
        (COMPRESSED_IMAGE, (5, 7, 3), "float32", {}, r"cannot give float32 \[5, 7, 3\]"),
        (IMAGE, (5, 7, 1), "uint8", {"encoding": "bayer_rggb8"}, "encoding 'bayer_rggb8'.*allowed here: mono8, 8UC1;"),
        (IMAGE, (5, 7, 3), "uint8", {"hole_value": [0.0]}, "hole_value: given for .*which is no depth; remove it"),
        (IMAGE, (5, 7, 1), "float32", {"hole_value": [0.0, 1.0]}, r"hole_value: found \[0.0, 1.0\]; give one"),
        (IMAGE, (5, 7, 1), "float32", {"hole_value": [2.0]}, "hole_value: found 2, but the observation is"),
        (JOINT_STATE, (2,), "float32", {"resize": "crop"}, "resize: 'crop' is given"),
        (JOINT_STATE, (2,), "float32", {"field": "torque"}, "'torque'.*position, velocity, effort"),
        (JOINT_STATE, (2,), "float32", {"joints": ["a", "a"]}, "a named more than once"),
        (JOINT_STATE, (2,), "float32", {"fields": ["position"]}, "fields: .*is given"),
        (IMAGE, (5, 7, 3), "uint8", {"fields": ["data"]}, "fields: .*is given"),
        (JOINT_STATE, (2,), "float32", {"encoding": "rgb8"}, "encoding: 'rgb8' is given"),
        (JOINT_STATE, (2, 1), "float32", {}, r"observation is float32 \[2, 1\].*a vector of float64"),
        ("sensor_msgs/msg/Imu", (3,), "float32", {"joints": ["a"]}, "joints.*is given"),
        (
            "sensor_msgs/msg/Imu",
            (3,),
            "float32",
            {"field": "angular_velocty"},
            "no field 'angular_velocty'.*angular_velocity",
        ),
        ("sensor_msgs/msg/Imu", (3,), "float32", {"field": "orientation.x.y"}, "orientation.x has nothing below it"),
        ("sensor_msgs/msg/Imu", (3,), "float32", {"field": "orientation."}, r"orientation has x \(double\), y"),
        ("sensor_msgs/msg/Imu", (3,), "float32", {"field": "header"}, "'header.frame_id' is string, not numbers"),
        ("nav_msgs/msg/Path", (3,), "float32", {"field": "poses"}, "'poses' is sequence.*, not numbers"),
        # A policy that was trained with frames joined.
        (IMAGE, (5, 7, 12), "uint8", {}, r"12 = 4 × 3: trained with VecFrameStack\(4\)\? set `stack: 4`"),
        (IMAGE, (5, 7, 5), "uint8", {}, r"5 = 5 × 1: trained with VecFrameStack\(5\)\? set `stack: 5`"),
        (IMAGE, (5, 7, 12), "uint8", {"encoding": "mono8"}, r"12 = 12 × 1: trained .* set `stack: 12`"),
        (IMAGE, (5, 7, 4), "uint8", {"encoding": "mono8"}, r"4 = 4 × 1: trained .* set `stack: 4`"),
        (IMAGE, (5, 7, 4), "uint8", {"encoding": "rgb8"}, r"of all: [^=]*$"),
        ("sensor_msgs/msg/Imu", (30,), "float32", {}, r"30 = 3 × 10: trained with VecFrameStack\(3\)\? set `stack: 3`"),
        ("sensor_msgs/msg/Imu", (31,), "float32", {}, "or another type$"),
        ("nav_msgs/msg/Path", (3,), "float32", {}, r"`field` is missing.*header \(std_msgs/Header\), poses"),
    ],
)
def test_what_cannot_work_is_refused_with_a_remedy(
    type_name: str, shape: tuple[int, ...], dtype: str, choices: dict[str, Any], text: str
) -> None:
    with pytest.raises(MessageTypeError, match=f"topic 'seen' of {type_name} cannot give observation 'seen'.*{text}"):
        reading_decoder(type_name, spec_of(shape, dtype), topic="seen", **choices)


# Stamps and hostile messages


@pytest.mark.both_distributions
@given(seconds=st.integers(-(2**31), 2**31 - 1), nanoseconds=st.integers(0, 2**32 - 1), frame=st.text(max_size=9))
def test_stamps_of_serialised_messages(seconds: int, nanoseconds: int, frame: str) -> None:
    header = Header(stamp=Time(sec=seconds, nanosec=nanoseconds), frame_id=frame.replace("\0", ""))
    for type_name, message in ((JOINT_STATE, JointState(header=header)), (IMAGE, Image(header=header))):
        shape, dtype = ((5, 7, 3), "uint8") if type_name == IMAGE else ((1,), "float32")
        decoder = reading_decoder(type_name, spec_of(shape, dtype), topic="seen")
        raw = serialize_message(message)
        assert decoder.stamp_ns(raw) == seconds * 10**9 + nanoseconds
        big_endian = b"\0\0\0\0" + seconds.to_bytes(4, "big", signed=True) + nanoseconds.to_bytes(4, "big") + raw[12:]
        assert decoder.stamp_ns(big_endian) == seconds * 10**9 + nanoseconds
        assert decoder.stamp_ns(raw[:11]) is None


def test_types_without_a_header_have_no_stamp() -> None:
    decoder = reading_decoder(TWIST, spec_of((6,), "float32"), topic="seen")
    assert decoder.message_type is Twist
    assert decoder.stamp_ns(serialize_message(TWIST_1_TO_6)) is None


SEEDS: list[tuple[str, Any, tuple[int, ...], str, dict[str, Any]]] = [
    (IMAGE, image(colours(), "bgr8", padding=3), (HEIGHT, WIDTH, 3), "uint8", {}),
    (IMAGE, image(smooth(1, "uint16"), "16UC1"), (3, 4, 1), "uint16", {}),
    (IMAGE, image(smooth(1, "float32"), "32FC1", 1), (3, 4, 1), "float32", {}),
    (COMPRESSED_IMAGE, compressed(smooth(3), ".png"), (12, 17, 3), "uint8", {}),
    (COMPRESSED_IMAGE, compressed(smooth(3), ".jpg"), (12, 17, 3), "uint8", {}),
    (JOINT_STATE, JOINTS, (2,), "float32", {"joints": ["ccc", "a"]}),
    ("sensor_msgs/msg/LaserScan", SCAN, (6,), "float32", {}),
    (FLOAT64_ARRAY, Float64MultiArray(data=[1.0, 2.0]), (2,), "float32", {}),
    ("std_msgs/msg/Bool", Bool(data=True), (1,), "float32", {}),
    (TWIST, TWIST_1_TO_6, (6,), "float32", {}),
]
RAW_SEEDS = [(name, serialize_message(message), *rest) for name, message, *rest in SEEDS]
EXTREMES = st.sampled_from(
    [b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\0\0\0\0", b"\1\0\0\0", b"\0\0\1\0"]
)


@st.composite
def damaged_messages(draw: st.DrawFn) -> tuple[str, bytes, tuple[int, ...], str, dict[str, Any]]:
    name, raw, *rest = draw(st.sampled_from(RAW_SEEDS))
    damaged = bytearray(raw)
    # Most of what can be wrong is told in the first bytes.
    for _ in range(draw(st.integers(0, 3))):
        position = draw(st.integers(0, min(len(raw), 96) - 1) | st.integers(0, len(raw) - 1))
        if draw(st.booleans()):
            position -= position % 4
            damaged[position : position + 4] = draw(EXTREMES)
        else:
            damaged[position] = draw(st.integers(0, 255))
    length = draw(st.just(len(damaged)) | st.integers(0, len(damaged)))
    return (name, bytes(damaged[:length]), *rest)


def check_hostile(name: str, raw: bytes, shape: tuple[int, ...], dtype: str, choices: dict[str, Any]) -> None:
    decoder = reading_decoder(name, spec_of(shape, dtype), topic="seen", **choices)
    assert isinstance(decoder.stamp_ns(raw), int | None)
    try:
        out = decode(name, raw, shape, dtype, **choices)
    except UnusableReading:
        return
    assert np.all(np.isfinite(out))
    message = deserialize_message(raw, decoder.message_type)
    if name == IMAGE:
        assert message.step * message.height == len(message.data)


@given(damaged_messages())
def test_damaged_messages_are_decoded_or_unusable(
    case: tuple[str, bytes, tuple[int, ...], str, dict[str, Any]],
) -> None:
    check_hostile(*case)


@given(
    st.sampled_from(RAW_SEEDS),
    st.binary(max_size=120) | st.binary(max_size=120).map(lambda tail: b"\0\1\0\0" + tail),
)
def test_random_bytes_are_decoded_or_unusable(case: Any, raw: bytes) -> None:
    name, _, *rest = case
    check_hostile(name, raw, *rest)


@pytest.mark.both_distributions
@pytest.mark.parametrize("index", range(len(RAW_SEEDS)))
def test_every_shortened_message_is_decoded_or_unusable(index: int) -> None:
    name, raw, *rest = RAW_SEEDS[index]
    assert decode(name, raw, rest[0], rest[1], **rest[2]).shape == rest[0]
    for length in range(0, len(raw), 1 if len(raw) < 200 else 5):
        check_hostile(name, raw[:length], *rest)


@pytest.mark.both_distributions
def test_padding_beyond_the_start_is_refused_before_deserialising() -> None:
    # Fast DDS reads beyond such a message and takes the process with it.
    for raw in (
        b"",
        b"\0\1\0\0",
        b"\0\1\0\3",
        b"\0\1\0\3\0",
        b"\0\1\0\1\0",
        b"\0\7\0\0" + bytes(48),
        b"\1\1\0\0" + bytes(48),
    ):
        with pytest.raises(UnusableReading, match=r"not a CDR message|is in XCDR2|is empty"):
            decode(TWIST, raw, (6,), "float32")


def test_a_message_of_zeros_is_known() -> None:
    assert is_zero(Twist()) and not is_zero(Twist(angular=Vector3(y=1e-9)))
    # Neither its header nor its names count.
    assert is_zero(JointState(header=HEADER, name=["a"], position=[0.0])) and not is_zero(JointState(name=["a"]))
    assert not is_zero(SCAN) and is_zero(Bool()) and not is_zero(PointStamped(header=HEADER, point=Point(x=1.0)))


# Commands


def encode(type_name: str, command: list[float], stamp_ns: int = 0, **choices: Any) -> Any:
    encoder = command_encoder(type_name, len(command), **{"time_from_start_s": 0.05, **choices})
    encoder(np.full(len(command), 99.0), 10**18)  # the message is used again
    message = encoder(np.array(command), stamp_ns)
    return deserialize_message(serialize_message(message), encoder.message_type)


@pytest.mark.both_distributions
def test_velocity_commands() -> None:
    expected = Twist(linear=Vector3(x=0.25), angular=Vector3(z=-1.5))
    fields = ["angular.z", "linear.x"]
    assert encode(TWIST, [-1.5, 0.25], fields=fields) == expected
    stamped = encode("geometry_msgs/msg/TwistStamped", [-1.5, 0.25], 12 * 10**9 + 345, fields=fields, frame_id="base")
    assert stamped == TwistStamped(header=HEADER, twist=expected)


@pytest.mark.both_distributions
def test_array_commands() -> None:
    assert encode(FLOAT64_ARRAY, [1.0, -2.5, 3.0]) == Float64MultiArray(data=[1.0, -2.5, 3.0])


@pytest.mark.both_distributions
@pytest.mark.parametrize("field", ["position", "velocity", "effort"])
def test_joint_state_commands(field: str) -> None:
    got = encode(JOINT_STATE, [1.0, -2.5], 12 * 10**9 + 345, joints=["b", "a"], field=field, frame_id="base")
    assert got == JointState(header=HEADER, name=["b", "a"], **{field: [1.0, -2.5]})


@pytest.mark.both_distributions
def test_joint_trajectory_commands() -> None:
    joints = ["b", "a"]
    got = encode("trajectory_msgs/msg/JointTrajectory", [1.0, -2.5], 12 * 10**9, joints=joints, time_from_start_s=1.05)
    assert got.joint_names == joints
    assert got.header.stamp == Time()  # from the arrival on
    (point,) = got.points
    assert list(point.positions) == [1.0, -2.5]
    assert (point.time_from_start.sec, point.time_from_start.nanosec) == (1, 50_000_000)


@pytest.mark.both_distributions
def test_joint_trajectory_commands_of_several_points() -> None:
    choices: dict[str, Any] = {"joints": ["b", "a"], "points": 3}
    encoder = command_encoder("trajectory_msgs/msg/JointTrajectory", 2, time_from_start_s=0.6, **choices)
    encode = fleet_encoder(encoder, 2)

    def points(commands: np.ndarray) -> list[tuple[list[float], int, int]]:
        found = deserialize_message(encode(commands, [1], 0)[0], JointTrajectory).points
        return [(list(each.positions), each.time_from_start.sec, each.time_from_start.nanosec) for each in found]

    planned = points(np.array([[0.0] * 6, [1.0, -2.5, 1.5, -2.0, 1.75, 3.0]]))
    assert planned == [([1.0, -2.5], 0, 600_000_000), ([1.5, -2.0], 1, 200_000_000), ([1.75, 3.0], 1, 800_000_000)]
    # One command is repeated, such as a safe one.
    assert [found[0] for found in points(np.array([[0.0, 0.0], [1.0, -2.5]]))] == [[1.0, -2.5]] * 3
    with pytest.raises(MessageTypeError, match="points: 3 is given"):
        command_encoder("sensor_msgs/msg/JointState", 2, time_from_start_s=0.6, **choices)


@pytest.mark.both_distributions
def test_commands_of_poses() -> None:
    got = encode("geometry_msgs/msg/PoseStamped", [0.5, -1.0], 12 * 10**9 + 345, fields=["position.x", "position.z"])
    assert (got.pose.position.x, got.pose.position.y, got.pose.position.z) == (0.5, 0.0, -1.0)
    # The orientation is the identity where no component gives it.
    assert got.pose.orientation == Quaternion(w=1.0)
    assert (got.header.stamp.sec, got.header.stamp.nanosec) == (12, 345)


@pytest.mark.both_distributions
def test_commands_of_one_number_and_of_single_precision() -> None:
    assert encode("std_msgs/msg/Float32MultiArray", [0.1, -1e300]).data.tolist() == [
        float(np.float32(0.1)),
        float(np.finfo(np.float32).min),
    ]
    assert [encode("std_msgs/msg/Bool", [value]).data for value in (0.49, 0.5, -1.0)] == [False, True, False]
    assert [encode("std_msgs/msg/UInt8", [value]).data for value in (-3.0, 2.6, 1e300)] == [0, 3, 255]
    assert encode("std_msgs/msg/Int64", [1e300]).data == 2**63 - 1024
    assert encode("std_msgs/msg/Int64", [-1e300]).data == -(2**63)


@pytest.mark.both_distributions
def test_commands_of_cars() -> None:
    pytest.importorskip("ackermann_msgs", reason="it comes with a ROS 2 installation, not as a wheel")
    fields = ["speed", "steering_angle"]
    choices: dict[str, Any] = {"fields": fields, "constants": ["drive.acceleration=0.5"], "frame_id": "base"}
    got = encode("ackermann_msgs/msg/AckermannDriveStamped", [1.5, -0.25], 12 * 10**9 + 345, **choices)
    assert (got.drive.speed, got.drive.steering_angle, got.drive.acceleration) == (1.5, -0.25, 0.5)
    assert got.header == HEADER
    got = encode("ackermann_msgs/msg/AckermannDrive", [1.5, -0.25], fields=fields)
    assert (got.speed, got.steering_angle, got.jerk) == (1.5, -0.25, 0.0)


@pytest.mark.both_distributions
def test_a_type_without_a_record_is_written_by_paths_with_constants() -> None:
    covariance = [float(index) for index in range(36)]
    constants = ["twist.covariance[0:36]=7.0", "header.frame_id=base", f"twist.covariance={covariance}"]
    fields = ["twist.twist.angular.z", "twist.twist.linear.x"]
    got = encode(PATHS, [0.5, -2.0], 10**9, fields=fields, constants=constants)
    assert (got.twist.twist.angular.z, got.twist.twist.linear.x) == (0.5, -2.0)
    assert got.twist.covariance.tolist() == covariance
    assert (got.header.frame_id, got.header.stamp.sec) == ("base", 1)
    # Elements of arrays; sequences grow, of numbers and of messages.
    got = encode(PATHS, [0.5, -2.0], fields=["twist.covariance[35]", "twist.covariance[7]"])
    assert np.flatnonzero(got.twist.covariance).tolist() == [7, 35]
    got = encode(JOY, [0.5, 3.4], fields=["axes[2]", "buttons[1]"], constants=["axes[0:2]=0.25"])
    assert (got.axes.tolist(), got.buttons.tolist()) == ([0.25, 0.25, 0.5], [0, 3])
    points = "trajectory_msgs/msg/MultiDOFJointTrajectory"
    fields = ["points[1].transforms[0].translation.x"]
    got = encode(points, [0.5], fields=fields, constants=["joint_names=[base]"])
    assert (len(got.points), got.joint_names) == (2, ["base"])
    assert got.points[1].transforms[0].translation.x == 0.5


@pytest.mark.both_distributions
def test_joint_commands_have_constant_efforts() -> None:
    got = encode(JOINT_STATE, [1.0, -2.5], joints=["b", "a"], constants=["effort=[0.5, 0.25]"])
    assert (list(got.position), list(got.effort)) == ([1.0, -2.5], [0.5, 0.25])


@pytest.mark.parametrize(
    ("type_name", "choices", "text"),
    [
        (TWIST, {}, r"fields: 0 named \(none\).*2 components.*linear.x, angular.z"),
        (TWIST, {"fields": ["linear.x"]}, r"fields: 1 named \(linear.x\)"),
        (TWIST, {"fields": ["linear.x", "linear.x"]}, "linear.x named more than once"),
        (TWIST, {"fields": ["linear.x", "angular.w"]}, r"no field 'angular.w': angular has x \(double\)"),
        (TWIST, {"fields": ["linear.x", "angular"]}, "'angular' is not a number"),
        (TWIST, {"fields": ["linear.x", ""]}, "has no field ''"),
        (TWIST, {"fields": ["linear.x", "linear.y"], "joints": ["a"]}, "joints.*remove"),
        (FLOAT64_ARRAY, {"fields": ["data"]}, "fields.*remove"),
        (FLOAT64_ARRAY, {"joints": ["a", "b"]}, "joints.*remove"),
        (JOINT_STATE, {"joints": ["a"]}, "joints: 1 named"),
        (JOINT_STATE, {"joints": ["a", "a"]}, "a named more than once"),
        (JOINT_STATE, {"joints": ["a", "b"], "field": "torque"}, "'torque'.*position, velocity, effort"),
        ("trajectory_msgs/msg/JointTrajectory", {}, "joints: 0 named"),
        ("trajectory_msgs/msg/JointTrajectory", {"joints": ["a", "b"], "field": "effort"}, "field: 'effort'"),
        (
            "trajectory_msgs/msg/JointTrajectory",
            {"joints": ["a", "b"], "time_from_start_s": 0.0},
            "time_from_start_s is 0",
        ),
        ("std_msgs/msg/Bool", {}, "the command has 2 components, the message one number"),
        ("sensor_msgs/msg/Imu", {}, r"fields: 0 named \(none\)"),
        ("nonsense", {"fields": ["a", "b"]}, "is not the name of a message type"),
        (JOINT_TRAJECTORY, {"joints": ["a", "b"], "constants": ["points=[]"]}, "constants.*no meaning"),
        (
            JOINT_STATE,
            {"joints": ["a", "b"], "constants": ["position=[1.0, 2.0]"]},
            "position follows from the command",
        ),
        (TWIST, {"fields": ["linear.x", "linear.y"], "constants": ["linear.x=1.0"]}, "linear.x is a component"),
        (TWIST, {"fields": ["linear.x", "linear.y"], "constants": ["linear.z"]}, "path=value"),
        (TWIST, {"fields": ["linear.x", "linear.y"], "constants": ["linear.z=[1"]}, "cannot be read as YAML"),
        (TWIST, {"fields": ["linear.x", "linear.y"], "constants": ["linear.z=fast"]}, "'linear.z' is double"),
        (
            TWIST,
            {"fields": ["linear.x", "linear.y"], "constants": ["angular=1.0"]},
            "'angular' is geometry_msgs/Vector3",
        ),
        (PATHS, {"fields": ["twist.covariance[0]", "twist.covariance[36]"]}, "has no element 36"),
        (PATHS, {"fields": ["twist.covariance[0]", "twist.twist[0].linear.x"]}, "has no element 0"),
        (PATHS, {"fields": ["twist.covariance[0]", "twist.covariance"]}, r"name its elements, such as .*\[0:12\]"),
        (PATHS, {"fields": ["twist.covariance[0]", "header.frame_id"]}, "'header.frame_id' is not a number"),
        (JOY, {"fields": ["axes[0]", "axes[4096]"]}, "has no element 4096"),
    ],
)
def test_commands_that_cannot_work_are_refused(type_name: str, choices: dict[str, Any], text: str) -> None:
    with pytest.raises(MessageTypeError, match=f"{type_name}.*{text}"):
        command_encoder(type_name, 2, **{"time_from_start_s": 0.05, **choices})
