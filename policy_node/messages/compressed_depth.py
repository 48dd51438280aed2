# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Decompress the depth images of compressed_depth_image_transport: PNG or RVL behind a header of 12 bytes.

The header names how metres (32FC1) were quantised into 16 bits, as `A / distance + B` with 0 for no distance.
RVL is the lossless code of Wilson, "Fast Lossless Depth Image Compression" (ISS 2017).
"""

from __future__ import annotations

from struct import Struct

import numpy as np

from policy_node.messages.reading import UnusableReading

# Format, which is 0 for quantised metres and says nothing for millimetres, then A and B.
HEADER = Struct("<iff")
RVL_SIZE = Struct("<II")
# Digits of three bits in a number of RVL; runs are as long as an image.
_MOST_DIGITS = 10
_LAST_DIGIT = 8
_LARGEST = 65535


def metres(quantised: np.ndarray, header: bytes) -> np.ndarray:
    """Return distances in metres, float32 of the shape of `quantised`; NaN where there is none."""
    _, a, b = HEADER.unpack_from(header)
    with np.errstate(all="ignore"):
        distances = np.float32(a) / (quantised.astype(np.float32) - np.float32(b))
    return np.where(quantised == 0, np.float32(np.nan), distances)


def rvl_size(data: bytes) -> tuple[int, int]:
    """Return height and width of an image in RVL."""
    if len(data) < RVL_SIZE.size:
        raise UnusableReading("the depth image in RVL is cut within its size")
    width, height = RVL_SIZE.unpack_from(data)
    return height, width


def decode_rvl(data: bytes, count: int) -> np.ndarray:
    """Return the `count` pixels uint16 of an image in RVL; `data` begins with its size.

    RVL alternates the length of a run of zeros, the length of a run of other pixels, and the differences of these from
    the pixel before, all as numbers of three-bit digits in nibbles whose highest bit says that more digits follow.
    """
    numbers = _numbers(data[RVL_SIZE.size :])
    tokens = numbers.data
    starts, lengths, places = [], [], []
    filled = at = 0
    while filled < count:
        if at + 1 >= len(tokens):
            raise UnusableReading("the depth image in RVL is cut")
        zeros, others = tokens[at], tokens[at + 1]
        at += 2
        if others:
            starts.append(at)
            lengths.append(others)
            places.append(filled + zeros)
        filled += zeros + others
        at += others
    if filled != count or at > len(tokens):
        raise UnusableReading("the depth image in RVL is damaged: its runs do not fill the image")
    pixels = np.zeros(count, np.uint16)
    if starts:
        within = np.arange(sum(lengths)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        zigzag = numbers[np.repeat(starts, lengths) + within]
        values = np.cumsum((zigzag >> 1) ^ -(zigzag & 1))
        if values.min() < 0 or values.max() > _LARGEST:
            raise UnusableReading("the depth image in RVL is damaged: a distance does not fit 16 bits")
        pixels[np.repeat(places, lengths) + within] = values
    return pixels


def _numbers(data: bytes) -> np.ndarray:
    """Return all numbers int64 in the nibbles of little-endian words, the highest nibble first."""
    octets = np.frombuffer(data, "<u4", len(data) // 4).astype(">u4").view(np.uint8)
    nibbles = np.empty(2 * len(octets), np.uint8)
    nibbles[::2], nibbles[1::2] = octets >> 4, octets & 15
    ends = np.flatnonzero(nibbles < _LAST_DIGIT)
    if not len(ends):
        return np.zeros(0, np.int64)
    starts = np.concatenate(([0], ends[:-1] + 1))
    digits = ends - starts
    if digits.max() >= _MOST_DIGITS:
        raise UnusableReading("the depth image in RVL is damaged: a number is too long")
    numbers = nibbles[starts].astype(np.int64) & 7
    for digit in range(1, int(digits.max()) + 1):
        longer = np.flatnonzero(digits >= digit)
        numbers[longer] |= (nibbles[starts[longer] + digit].astype(np.int64) & 7) << (3 * digit)
    return numbers
