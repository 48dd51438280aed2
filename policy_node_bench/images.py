# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""`policy_bench images`: what each conversion of an image costs beside OpenCV's calls alone."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import cv2
import numpy as np
import torch
from rclpy.serialization import serialize_message
from rich.console import Console
from rich.table import Table
from sensor_msgs.msg import CompressedImage, Image

from policy_node.cli.options import number
from policy_node.config.specs import ArraySpec
from policy_node.messages.codecs import reading_decoder
from policy_node.report.figures import machine
from policy_node_bench.command import Command, Figures, image_size, option
from policy_node_bench.tables import image_rows


@dataclass(frozen=True, kw_only=True)
class ImagesOptions:
    """The options of `policy_bench images`."""

    size: tuple[int, int] = option("640x480", "size of the images as published", type=image_size, metavar="WxH")
    policy: tuple[int, int] = option("84x84", "size of those that are resized", type=image_size, metavar="WxH")
    runs: int = option(200, "runs of each conversion; the median counts", type=number(int, 3))


@dataclass(frozen=True)
class Conversion:
    """One conversion: a message, what the policy takes, and OpenCV's calls for it; None where OpenCV has none."""

    name: str
    message: Any
    shape: tuple[int, ...]
    opencv: Callable[[], Any] | None
    dtype: str = "uint8"
    choices: Mapping[str, Any] = field(default_factory=dict)


def conversions(options: ImagesOptions) -> Iterator[Conversion]:
    """Yield every conversion that is measured."""
    (width, height), small = options.size, options.policy
    rng = np.random.default_rng(0)

    def noise(*shape: int, dtype: str = "uint8") -> np.ndarray:
        smooth = np.linspace(0, 150, height)[:, None] + np.linspace(0, 80, width)
        pixels = smooth.reshape(height, width, *[1] * (len(shape) - 2)) + rng.integers(0, 9, shape)
        return (pixels * (256 if dtype == "uint16" else 1)).astype(dtype)

    def image(pixels: np.ndarray, encoding: str) -> Image:
        return Image(height=height, width=width, encoding=encoding, step=pixels[0].nbytes, data=pixels.tobytes())

    rgb, rgb16, depth = (
        noise(height, width, 3),
        noise(height, width, 3, dtype="uint16"),
        noise(height, width, dtype="uint16"),
    )
    yuv, bayer, bayer16 = noise(height, width, 2), noise(height, width), depth
    nv12 = rng.integers(0, 256, (height * 3 // 2, width), np.uint8)
    whole, resized = (height, width, 3), (small[1], small[0], 3)
    scale = 255 / 65535

    def small_of(pixels: np.ndarray) -> np.ndarray:
        return cv2.resize(pixels, small, interpolation=cv2.INTER_AREA)

    yield Conversion("rgb8 as it is", image(rgb, "rgb8"), whole, lambda: rgb.copy())
    yield Conversion("rgb8, resized", image(rgb, "rgb8"), resized, lambda: small_of(rgb))
    for name, pixels, code in (
        ("bgr8", rgb, cv2.COLOR_BGR2RGB),
        ("yuv422", yuv, cv2.COLOR_YUV2RGB_UYVY),
        ("yuv422_yuy2", yuv, cv2.COLOR_YUV2RGB_YUY2),
        ("nv12", nv12, cv2.COLOR_YUV2RGB_NV12),
        ("bayer_rggb8", bayer, cv2.COLOR_BayerBG2RGB),
    ):
        convert = lambda pixels=pixels, code=code: cv2.cvtColor(pixels, code)  # noqa: E731
        yield Conversion(f"{name} to rgb8", image(pixels, name), whole, convert)
        both = lambda convert=convert: small_of(convert())  # noqa: E731
        yield Conversion(f"{name} to rgb8, resized", image(pixels, name), resized, both)
    yield Conversion(
        "bayer_rggb16 to rgb8",
        image(bayer16, "bayer_rggb16"),
        whole,
        lambda: cv2.convertScaleAbs(cv2.cvtColor(bayer16, cv2.COLOR_BayerBG2RGB), alpha=scale),
    )
    yield Conversion("rgb16 to rgb8", image(rgb16, "rgb16"), whole, lambda: cv2.convertScaleAbs(rgb16, alpha=scale))
    yield Conversion(
        "mono16 to mono8", image(depth, "mono16"), (height, width, 1), lambda: cv2.convertScaleAbs(depth, alpha=scale)
    )
    yield from _depths(depth, image, small, small_of)
    jpeg, png = (cv2.imencode(kind, rgb)[1] for kind in (".jpg", ".png"))
    for name, data in (("JPEG", jpeg), ("PNG", png)):
        decode = lambda data=data: cv2.cvtColor(_decoded(data), cv2.COLOR_BGR2RGB)  # noqa: E731
        yield Conversion(f"{name} to rgb8", CompressedImage(data=data.tobytes()), whole, decode)


def _decoded(data: np.ndarray) -> np.ndarray:
    pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    return pixels


def _depths(
    depth: np.ndarray,
    image: Callable[[np.ndarray, str], Image],
    small: tuple[int, int],
    small_of: Callable[[np.ndarray], np.ndarray],
) -> Iterator[Conversion]:
    """Yield the conversions of depth."""
    height, width = depth.shape
    whole, resized = (height, width, 1), (small[1], small[0], 1)
    # Holes of 8 × 8 pixels.
    blocks = np.random.default_rng(1).random((-(-height // 8), -(-width // 8))) < 0.1
    holes = np.where(np.kron(blocks, np.ones((8, 8), bool))[:height, :width], 0, depth).astype(np.uint16)

    def metres(pixels: np.ndarray) -> np.ndarray:
        return cv2.multiply(pixels, np.array([0.001]), dtype=cv2.CV_32F)

    def without_holes() -> np.ndarray:
        measured = cv2.compare(holes, np.zeros(1), cv2.CMP_NE)
        weights = small_of(cv2.multiply(measured, np.array([1 / 255]), dtype=cv2.CV_32F))
        return cv2.divide(small_of(metres(holes)), weights)

    yield Conversion("16UC1 to 32FC1", image(depth, "16UC1"), whole, lambda: metres(depth), "float32")
    yield Conversion(
        "16UC1 to 32FC1, resized", image(depth, "16UC1"), resized, lambda: small_of(metres(depth)), "float32"
    )
    yield Conversion("16UC1 with holes to 32FC1, resized", image(holes, "16UC1"), resized, without_holes, "float32")
    data = cv2.imencode(".png", holes)[1]
    for method, body, opencv in (
        ("png", data.tobytes(), lambda: metres(_decoded(data))),
        ("rvl", encode_rvl(holes), None),
    ):
        message = CompressedImage(format=f"16UC1; compressedDepth {method}", data=bytes(12) + body)
        yield Conversion(f"compressedDepth {method} to 32FC1", message, whole, opencv, "float32")


def encode_rvl(depth: np.ndarray) -> bytes:
    """Encode depth `[height, width]` uint16 in RVL."""
    nibbles: list[int] = []

    def put(number: int) -> None:
        while number > 7:
            nibbles.append(number & 7 | 8)
            number >>= 3
        nibbles.append(number)

    pixels = depth.ravel()
    edges = np.flatnonzero(np.diff(pixels != 0)) + 1
    runs = np.split(pixels, edges)
    if pixels[0]:
        put(0)
    before = 0
    for run in runs:
        put(len(run))
        for pixel in run[run != 0].tolist():
            put(2 * (pixel - before) if pixel >= before else 2 * (before - pixel) - 1)
            before = pixel
    if not runs[-1][0]:
        put(0)
    nibbles += [0] * (-len(nibbles) % 8)
    digits = np.array(nibbles, np.uint32).reshape(-1, 8)
    words = (digits << np.arange(28, -4, -4, dtype=np.uint32)).sum(axis=1).astype("<u4")
    return struct.pack("<II", depth.shape[1], depth.shape[0]) + words.tobytes()


def run_images(options: ImagesOptions, console: Console) -> dict[str, Any]:
    """Measure all conversions and return the figures."""
    cv2.setNumThreads(1)
    rows = [measure(conversion, options.runs) for conversion in conversions(options)]
    return {"options": asdict(options), "machine": machine(torch.device("cpu")), "rows": rows}


def measure(conversion: Conversion, runs: int) -> dict[str, Any]:
    """Return the median times of a conversion, in turns with OpenCV's alone."""
    kind = f"sensor_msgs/msg/{type(conversion.message).__name__}"
    high = 255 if conversion.dtype == "uint8" else 100
    spec = ArraySpec("image", conversion.shape, conversion.dtype, 0, high)
    decoder = reading_decoder(kind, spec, topic="image", **conversion.choices)
    raw, out = serialize_message(conversion.message), np.zeros(conversion.shape, conversion.dtype)
    mine, opencv = [], []
    for _ in range(runs):
        started_s = time.perf_counter()
        decoder.decode(raw, out)
        mine.append(time.perf_counter() - started_s)
        if conversion.opencv is not None:
            started_s = time.perf_counter()
            conversion.opencv()
            opencv.append(time.perf_counter() - started_s)
    row = {"name": conversion.name, "decode_us": float(np.median(mine)) * 1e6}
    return row if not opencv else row | {"opencv_us": float(np.median(opencv)) * 1e6}


def _show(figures: Figures) -> Table:
    head, *rows = image_rows(figures)
    table = Table(*head)
    for row in rows:
        table.add_row(*row)
    return table


COMMAND = Command(
    "images",
    "what each conversion of an image costs beside OpenCV's calls alone",
    "Decode images of every kind of encoding, in turns with OpenCV's calls for the same conversion alone.",
    ImagesOptions,
    run_images,
    lambda figures: [_show(figures)],
)
