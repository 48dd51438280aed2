# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Valid images of every encoding, plain and compressed, for what policies take."""

from __future__ import annotations

import struct

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage, Image

from policy_node.messages.encodings import IMAGE_ENCODINGS, Encoding
from policy_node_bench.fuzz.case import HEADER, Case, again

_RNG = np.random.default_rng(3)
_PIXELS = _RNG.integers(0, 256, (5, 7, 3), np.uint8)
_RAMP = np.linspace(0, 200, 12)[:, None, None] + np.linspace(0, 50, 17)[None, :, None]
_DEPTH = (_RAMP + 1.0).astype(np.float32)
_MILLIMETRES = (_DEPTH * 100 * (_DEPTH % 5 > 1)).astype(np.uint16)
_HOLES = np.where(_DEPTH % 7 < 1, np.nan, _DEPTH).astype(np.float32)
_RGB = _RAMP.astype(np.uint8).repeat(3, 2)
_RGB16 = (_RAMP * 99).astype(np.uint16).repeat(3, 2)
# Even, as colours of YUV belong to pairs of pixels.
_HEIGHT, _WIDTH = 6, 8


def raw_image(pixels: np.ndarray, encoding: str, padding: int = 0, height: int = 0, big_endian: bool = False) -> Image:
    """Return an image of the pixels, with padding at the end of each row."""
    stored = pixels.byteswap() if big_endian else pixels
    rows = np.ascontiguousarray(stored).view(np.uint8).reshape(len(pixels), -1)
    padded = np.concatenate([rows, np.full((len(rows), padding), 201, np.uint8)], axis=1)
    size = {"height": height or pixels.shape[0], "width": pixels.shape[1], "step": padded.shape[1]}
    return Image(header=HEADER, encoding=encoding, is_bigendian=int(big_endian), data=padded.tobytes(), **size)


def _random_image(encoding: Encoding, big_endian: bool) -> Image:
    rows = _HEIGHT + _HEIGHT // 2 if encoding.has_chroma_rows else _HEIGHT
    shape = (rows, _WIDTH, encoding.channels)
    if encoding.dtype.kind == "f":
        pixels = _RNG.uniform(0.1, 9.0, shape).astype(encoding.dtype)
    else:
        pixels = _RNG.integers(0, np.iinfo(encoding.dtype).max, shape, encoding.dtype, endpoint=True)
    return raw_image(pixels, encoding.name, 2 * encoding.dtype.itemsize, _HEIGHT, big_endian)


def _all_to(wanted: Encoding) -> Case:
    """Return a case with an image of every encoding that becomes the wanted one, in both byte orders of its pixels."""
    images = [
        _random_image(found, big_endian)
        for found in IMAGE_ENCODINGS.values()
        if found.code_to(wanted) is not None
        for big_endian in (False, True)[: found.dtype.itemsize]
    ]
    shape = (_HEIGHT, _WIDTH, wanted.channels)
    return again(f"images_to_{wanted.name}", images, shape, wanted.dtype.name, encoding=wanted.name)


def _encoded(pixels: np.ndarray, extension: str, encoding: str) -> CompressedImage:
    _, data = cv2.imencode(extension, pixels)
    kind = extension[1:]
    return CompressedImage(header=HEADER, format=f"{encoding}; {kind} compressed {encoding}", data=data.tobytes())


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


_OPAQUE = np.concatenate([_RGB, 255 - _RGB[..., :1]], axis=2)
_OPAQUE16 = np.concatenate([_RGB16, _RGB16[..., :1]], axis=2)
_PNGS = [
    _encoded(_RGB, ".png", "bgr8"),
    _encoded(_RGB16, ".png", "bgr16"),
    _encoded(_OPAQUE, ".png", "bgra8"),
    _encoded(_OPAQUE16, ".png", "bgra16"),
    _encoded(_RGB[..., :1], ".png", "mono8"),
    _encoded(_RGB16[..., :1], ".png", "mono16"),
]

IMAGE_CASES = (
    *(_all_to(wanted) for wanted in IMAGE_ENCODINGS.values() if wanted.is_default),
    again("image_bgr8", [raw_image(_PIXELS, "bgr8", 3), raw_image(_PIXELS, "rgb8")], (5, 7, 3), "uint8"),
    again("image_resized", [raw_image(_PIXELS, "rgb8", 1)], (3, 4, 1), "uint8"),
    again("image_nearest", [raw_image(_PIXELS, "rgb8", 1)], (3, 4, 3), "uint8", resize="nearest"),
    again("image_depth", [raw_image(_DEPTH, "32FC1", 1), raw_image(_HOLES, "32FC1")], (3, 4, 1)),
    again("image_mm", [raw_image(_MILLIMETRES, "16UC1")], (3, 4, 1), hole_value=[0.5]),
    again("image_crop", [_random_image(IMAGE_ENCODINGS["yuv422"], False)], (4, 6, 1), "uint8", resize="crop"),
    again("image_pad", [_random_image(IMAGE_ENCODINGS["bayer_rggb16"], True)], (3, 5, 3), "uint8", resize="pad"),
    again("image_png", _PNGS, (12, 17, 3), "uint8"),
    again("image_png16", _PNGS, (12, 17, 1), "uint16", encoding="mono16"),
    again(
        "image_jpeg",
        [_encoded(_RGB, ".jpg", "bgr8"), _encoded(_RAMP.astype(np.uint8), ".jpg", "mono8")],
        (6, 8, 1),
        "uint8",
    ),
    again(
        "depth_png",
        [_compressed_depth(_MILLIMETRES, "16UC1"), _encoded(_MILLIMETRES, ".png", "16UC1")],
        (3, 4, 1),
        "uint16",
    ),
    again(
        "depth_metres",
        [_compressed_depth(_MILLIMETRES, "32FC1", is_rvl) for is_rvl in (True, False)],
        (12, 17, 1),
        hole_value=[0.5],
    ),
    again("depth_rvl", [_compressed_depth(_MILLIMETRES, "16UC1", is_rvl=True)], (12, 17, 1), "uint16"),
)
