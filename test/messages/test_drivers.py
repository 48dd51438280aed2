# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Messages as the drivers of cameras, lidars and grippers lay them out, which no test here would make up."""

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pytest
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage, Image, LaserScan, PointCloud2, PointField

from policy_node.config.specs import ArraySpec
from policy_node.messages.codecs import ReadingDecoder, reading_decoder
from policy_node.messages.encodings import IMAGE_ENCODINGS, Encoding
from policy_node.messages.reading import UnusableReading
from policy_node_bench.fuzz.case import byteswapped

DATATYPES = {"i1": 1, "u1": 2, "i2": 3, "u2": 4, "i4": 5, "u4": 6, "f4": 7, "f8": 8}
RNG = np.random.default_rng(9)


def decoder_of(message_type: type, shape: tuple[int, ...], dtype: str = "float32", **choices: Any) -> ReadingDecoder:
    high = np.iinfo(dtype).max if dtype.startswith("u") else 100.0
    spec = ArraySpec("seen", shape, dtype, 0 if dtype.startswith("u") else -100, high)
    return reading_decoder(f"sensor_msgs/msg/{message_type.__name__}", spec, topic="seen", **choices)


def decode(message: Any, shape: tuple[int, ...], dtype: str = "float32", **choices: Any) -> np.ndarray:
    """Return what a message of either byte order gives, read twice, as the second one may be read in another way."""
    decoder, raw = decoder_of(type(message), shape, dtype, **choices), serialize_message(message)
    found = []
    for each in (raw, raw, byteswapped(type(message), raw)):
        out = np.full(shape, 77, dtype)
        decoder.decode(each, out)
        found.append(out)
    assert all(np.array_equal(out, found[0]) for out in found)
    return found[0]


# Clouds


@dataclass(frozen=True)
class Cloud:
    """How a driver lays out its points: name, type and place of each field, and the size of a point."""

    fields: tuple[tuple[str, str, int], ...]
    step: int
    height: int = 1
    count: int = 1

    def message(self, points: np.ndarray, big: bool = False, padding: int = 0) -> PointCloud2:
        """Return a cloud of points `[n, 3]`; what lies in other fields and in the gaps is noise."""
        width = len(points) // self.height
        order = ">" if big else "<"
        dtype = np.dtype(
            {
                "names": [name for name, _, _ in self.fields],
                "formats": [order + kind for _, kind, _ in self.fields],
                "offsets": [place for _, _, place in self.fields],
                "itemsize": self.step,
            }
        )
        data = RNG.integers(0, 256, (self.height, width * self.step + padding), np.uint8)
        rows = np.ndarray((self.height, width), dtype, data, strides=(data.shape[1], self.step))
        for column, name in enumerate("xyz"):
            rows[name] = points[:, column].reshape(self.height, width)
        if "ring" in dtype.names:
            rows["ring"] = np.arange(len(points)).reshape(self.height, width) % 16
        fields = [
            PointField(name=name, offset=place, datatype=DATATYPES[kind], count=self.count)
            for name, kind, place in self.fields
        ]
        return PointCloud2(
            height=self.height,
            width=width,
            fields=fields,
            is_bigendian=big,
            point_step=self.step,
            row_step=data.shape[1],
            data=data.tobytes(),
            is_dense=False,
        )


XYZ = (("x", "f4", 0), ("y", "f4", 4), ("z", "f4", 8))
CLOUDS = {
    # The time lies at no multiple of its size.
    "velodyne": Cloud((*XYZ, ("intensity", "f4", 12), ("ring", "u2", 16), ("time", "f4", 18)), 22),
    "ouster": Cloud(
        (
            *XYZ,
            *(("intensity", "f4", 16), ("t", "u4", 20), ("reflectivity", "u2", 24), ("ring", "u2", 26)),
            *(("ambient", "u2", 28), ("range", "u4", 32)),
        ),
        48,
        height=4,
    ),
    "livox": Cloud((*XYZ, ("intensity", "f4", 12), ("tag", "u1", 16), ("line", "u1", 17), ("timestamp", "f8", 18)), 26),
    "hesai": Cloud((*XYZ, ("intensity", "f4", 16), ("timestamp", "f8", 24), ("ring", "u2", 32)), 48),
    # Colours in the bits of a float, which may be those of NaN.
    "realsense": Cloud((*XYZ, ("rgb", "f4", 16)), 20, height=2),
    # Fields from the back to the front, integers of a radar, and no count of elements.
    "radar": Cloud((("v", "i2", 14), ("z", "i2", 12), ("y", "f8", 4), ("x", "i4", 0)), 17, count=0),
}
NUMBERS = np.array([[3, 0, 1], [-4, 2, 0], [7, -1, 2], [1, 1, 1], [-2, -2, -1], [6, 5, 4], [9, 9, 9], [2, 8, 3.0]])


@pytest.mark.both_distributions
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("driver", CLOUDS)
def test_points_are_read_from_the_layout_of_a_driver(driver: str, padding: int, big: bool) -> None:
    cloud = CLOUDS[driver]
    message = cloud.message(NUMBERS, big, padding)
    assert np.array_equal(decode(message, (10, 3)), np.vstack([NUMBERS, np.zeros((2, 3))]))
    if any(name == "ring" for name, _, _ in cloud.fields):
        rings = decode(message, (8, 3), fields=["ring", "x", "mask"])
        assert rings.T.tolist() == [list(range(8)), NUMBERS[:, 0].tolist(), [1.0] * 8]


def test_rays_of_a_lidar_without_a_return_do_not_count() -> None:
    """Drivers publish them as NaN, or as points in the sensor itself, which no lidar can measure."""
    points = NUMBERS.copy()
    points[2], points[5] = 0.0, np.nan
    message = CLOUDS["ouster"].message(points)
    measured = np.delete(NUMBERS, [2, 5], axis=0)
    assert np.array_equal(decode(message, (8, 3)), np.vstack([measured, np.zeros((2, 3))]))
    assert decode(message, (1,), field="count").tolist() == [6.0]
    counts = decode(message, (2, 2), field="count", projection="map", bounds=[-10.0, 10.0, -10.0, 10.0])
    assert counts.sum() == 6
    with pytest.raises(UnusableReading, match="none of the 8 points of the cloud was measured"):
        decode(CLOUDS["ouster"].message(np.zeros((8, 3))), (8, 3))


# Images


def stored(encoding: Encoding, height: int, width: int) -> np.ndarray:
    rows = height * 3 // 2 if encoding.has_chroma_rows else height
    shape = (rows, width, encoding.channels)
    if encoding.dtype.kind == "f":
        return RNG.uniform(0.5, 9.0, shape).astype(encoding.dtype)
    return RNG.integers(1, np.iinfo(encoding.dtype).max, shape, encoding.dtype)


def image(pixels: np.ndarray, encoding: str, height: int, padding: int, big: bool) -> Image:
    rows = (pixels.byteswap() if big else pixels).reshape(len(pixels), -1).view(np.uint8)
    padded = np.concatenate([rows, np.full((len(rows), padding), 201, np.uint8)], axis=1)
    size = {"height": height, "width": pixels.shape[1], "step": padded.shape[1]}
    return Image(encoding=encoding, is_bigendian=int(big), data=padded.tobytes(), **size)


@pytest.mark.both_distributions
@pytest.mark.parametrize("size", [(6, 8), (3, 4)], ids=["as_it_is", "resized"])
@pytest.mark.parametrize("encoding", IMAGE_ENCODINGS.values(), ids=lambda encoding: encoding.name)
def test_no_step_and_no_byte_order_changes_an_image(encoding: Encoding, size: tuple[int, int]) -> None:
    """A step may be no multiple of the size of a pixel, nor of a number."""
    pixels = stored(encoding, 6, 8)
    if encoding.dtype.kind == "f":
        wanted, shape, dtype = "32FC1", (*size, 1), "float32"
    elif encoding.name in ("16UC1", "mono16"):
        wanted, shape, dtype = encoding.name, (*size, 1), "uint16"
    else:
        wanted, shape, dtype = "rgb8", (*size, 3), "uint8"
    expected = decode(image(pixels, encoding.name, 6, 0, False), shape, dtype, encoding=wanted)
    for padding in (1, 3, 16):
        for big in (False, True):
            message = image(pixels, encoding.name, 6, padding, big and encoding.dtype.itemsize > 1)
            assert np.array_equal(decode(message, shape, dtype, encoding=wanted), expected), (padding, big)


GREY = np.full((6, 8), 96, np.uint8)
DEPTH = RNG.integers(300, 4000, (6, 8), np.uint16)


@pytest.mark.parametrize(
    "text",
    [
        *("jpeg", "bgr8; jpeg compressed bgr8", "rgb8; jpeg compressed bgr8", "bayer_rggb8; jpeg compressed bgr8"),
        *("mono8; jpeg compressed ", "rgb8;jpeg compressed", "", "bgr8; png compressed bgr8", "bgra8; png compressed "),
    ],
)
def test_the_data_say_what_a_compressed_image_is_whatever_the_driver_writes_beside_it(text: str) -> None:
    pixels = GREY if "mono" in text else np.dstack([GREY] * (4 if "bgra" in text else 3))
    data = cv2.imencode(".png" if "png" in text else ".jpg", pixels)[1].tobytes()
    assert np.all(decode(CompressedImage(format=text, data=data), (6, 8, 3), "uint8") == 96)


@pytest.mark.parametrize(
    "text",
    ["16UC1; compressedDepth", "16UC1; compressedDepth png", "16UC1;compressedDepth png", "16UC1; png compressed "],
)
def test_depth_is_known_by_the_format_of_its_transport(text: str) -> None:
    data = cv2.imencode(".png", DEPTH)[1].tobytes()
    # The header says nothing of millimetres; its first number is that of a C++ enumeration, which nobody sets.
    header = bytes([0xCC] * 12) if "compressedDepth" in text else b""
    message = CompressedImage(format=text, data=header + data)
    assert np.array_equal(decode(message, (6, 8, 1), "uint16")[..., 0], DEPTH)
    assert np.allclose(decode(message, (6, 8, 1))[..., 0], DEPTH * 0.001)


# Scans


def test_a_lidar_whose_number_of_rays_changes_is_read_by_angle() -> None:
    """A spinning lidar with a motor of its own measures some rays more or less in each turn, and has gaps of +inf."""
    decoder = decoder_of(LaserScan, (12,), rays=12, angle_min=-math.pi, angle_max=math.pi * 10 / 12)
    for count in (719, 720, 721, 360, 719):
        increment = 2.0 * math.pi / count
        angles = -math.pi + increment * np.arange(count)
        # A wall two metres ahead, nothing elsewhere.
        ranges = np.where(np.abs(angles) < 1.2, 2.0 / np.cos(np.clip(angles, -1.2, 1.2)), np.inf)
        scan = LaserScan(angle_min=-math.pi, angle_max=math.pi - increment, angle_increment=increment)
        scan.range_min, scan.range_max, scan.ranges = 0.15, 12.0, ranges.tolist()
        out = np.zeros(12, np.float32)
        decoder.decode(serialize_message(scan), out)
        assert out[6] == pytest.approx(2.0, abs=1e-4)
        assert np.all(out[4:9] < 6.0) and np.all(out[[0, 1, 2, 3, 9, 10, 11]] == 12.0)
