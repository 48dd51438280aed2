# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Images, plain and compressed."""

from __future__ import annotations

import struct

import cv2
import numpy as np

from policy_node.config.specs import ArraySpec
from policy_node.messages.cdr import FRAME_START, ONE_UINT32, THREE_UINT32, TWO_UINT32, body_end, skip_string
from policy_node.messages.encodings import ENCODINGS
from policy_node.messages.images import Converter, wanted_encoding
from policy_node.messages.reading import UnusableReading
from policy_node.messages.types import MessageType

# What IMREAD_UNCHANGED gives, by dtype and channels.
_DECODED = {("uint8", 1): "mono8", ("uint8", 3): "bgr8", ("uint8", 4): "bgra8", ("uint16", 1): "16UC1"}
MAX_COMPRESSED_PIXELS = 64_000_000
_MAX_JPEG_SEGMENTS = 256
# A progressive JPEG has about ten; each costs a pass over the whole image, and can be a few bytes long.
_MAX_JPEG_SCANS = 64
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# A chunk: its length, its kind, the data, a checksum. Images of 64 megapixels have a few thousand.
_PNG_CHUNK = struct.Struct(">I4s")
_PNG_CHECKSUM_SIZE = 4
_MAX_PNG_CHUNKS = 16384
_PNG_ANIMATION = (b"acTL", b"fcTL", b"fdAT")
_JPEG_SIGNATURE = b"\xff\xd8\xff"
_JPEG_SCAN = b"\xff\xda"
# The markers SOF0 to SOF15, without DHT, JPG and DAC, which lie between them.
_JPEG_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


class RawImageReader:
    """Reads sensor_msgs/msg/Image.

    Parameters
    ----------
    spec
        One frame, `[height, width, channels]`.
    encoding
        The encoding that the policy wants, a key of `ENCODINGS`; empty for the first that fits `spec`.

    Raises
    ------
    MessageTypeError
        If the encoding does not give what `spec` asks for.
    """

    parallel = False

    def __init__(self, spec: ArraySpec, encoding: str) -> None:
        self._converter = Converter(wanted_encoding(spec, encoding, tuple(ENCODINGS)), spec)

    def __call__(self, raw: bytes, out: np.ndarray) -> None:
        """Read `raw` into `out`; raises `UnusableReading`."""
        end = body_end(raw)
        order = raw[1]
        try:
            offset = skip_string(raw, FRAME_START)
            height, width, name_length = THREE_UINT32[order].unpack_from(raw, offset)
            name_end = offset + 12 + name_length
            # is_bigendian is the byte at name_end.
            step, count = TWO_UINT32[order].unpack_from(raw, (name_end + 4) & ~3)
        except struct.error as error:
            raise UnusableReading("the message is cut within its first fields") from error
        # As the deserialiser has it, a string ends at its first NUL.
        name = raw[offset + 12 : name_end].partition(b"\0")[0].decode(errors="replace")
        encoding = ENCODINGS.get(name)
        if encoding is None:
            raise UnusableReading(f"encoding '{name[:40]}' is not known; allowed: {', '.join(ENCODINGS)}")
        dtype, channels = encoding.dtype, encoding.channels
        row_size = width * channels * dtype.itemsize
        if height == 0 or width == 0 or step < row_size or count != step * height:
            raise UnusableReading(
                f"{width} × {height} pixels of {name}, step {step} and {count} bytes of data contradict each other; "
                f"step must be at least {row_size}, the data step × height bytes, and none of them 0"
            )
        start = ((name_end + 4) & ~3) + 8
        if start + count > end:
            raise UnusableReading(f"the message is cut: {count} bytes of data announced, {end - start} found")
        strides = (step, channels * dtype.itemsize, dtype.itemsize)
        stored = dtype.newbyteorder(">" if raw[name_end] else "<")
        self._converter(np.ndarray((height, width, channels), stored, raw, start, strides), name, out)


class CompressedImageReader:
    """Reads sensor_msgs/msg/CompressedImage that holds a JPEG or PNG of at most 64 megapixels.

    The parameters and errors are those of `RawImageReader`; 32FC1 is not available.
    """

    parallel = True

    def __init__(self, spec: ArraySpec, encoding: str) -> None:
        decoded = [ENCODINGS[name] for name in _DECODED.values()]
        allowed = [
            name for name, wanted in ENCODINGS.items() if any(found.code_to(wanted) is not None for found in decoded)
        ]
        self._converter = Converter(wanted_encoding(spec, encoding, allowed), spec)

    def __call__(self, raw: bytes, out: np.ndarray) -> None:
        """Read `raw` into `out`; raises `UnusableReading`."""
        end = body_end(raw)
        try:
            # `format` is free text; the data say themselves what they are.
            offset = skip_string(raw, skip_string(raw, FRAME_START))
            (count,) = ONE_UINT32[raw[1]].unpack_from(raw, offset)
        except struct.error as error:
            raise UnusableReading("the message is cut within its first fields") from error
        start = offset + 4
        if start + count > end:
            raise UnusableReading(f"the message is cut: {count} bytes of data announced, {end - start} found")
        data = raw[start : start + count]
        height, width = _compressed_size(data)
        if not 0 < height * width <= MAX_COMPRESSED_PIXELS:
            raise UnusableReading(
                f"the compressed image has {width} × {height} pixels; 1 to {MAX_COMPRESSED_PIXELS} in all are allowed"
            )
        try:
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error as error:
            raise UnusableReading(f"the compressed image cannot be decoded: {error.err}") from error
        if pixels is None:
            raise UnusableReading("the compressed image cannot be decoded: it is cut or damaged")
        pixels = np.atleast_3d(pixels)
        kind = (pixels.dtype.name, pixels.shape[2])
        if kind not in _DECODED:
            raise UnusableReading(
                f"the compressed image has {kind[1]} channels of {kind[0]}; "
                "1, 3 or 4 of uint8, or 1 of uint16 are allowed"
            )
        self._converter(pixels, _DECODED[kind], out)


def _compressed_size(data: bytes) -> tuple[int, int]:
    """Return height and width that a PNG or JPEG says in its header, and check that its end is there."""
    if data.startswith(_PNG_SIGNATURE) and data[12:16] == b"IHDR" and len(data) >= 24:
        complete = _png_is_complete(data)
        width, height = struct.unpack_from(">II", data, 16)
    elif data.startswith(_JPEG_SIGNATURE):
        frame = _jpeg_frame(data)
        # Some decoders fill what is missing of a JPEG with grey and say nothing.
        complete = data.rfind(b"\xff\xd9", frame) >= 0
        if len(data) < frame + 5:
            raise UnusableReading("the JPEG is cut within its frame header")
        scans = data.count(_JPEG_SCAN)
        if scans > _MAX_JPEG_SCANS:
            raise UnusableReading(f"the JPEG has {scans} scans, at most {_MAX_JPEG_SCANS} are allowed")
        height, width = struct.unpack_from(">HH", data, frame + 1)
    else:
        raise UnusableReading(f"the data start with {data[:8].hex(' ')!r}, which is neither JPEG nor PNG")
    if not complete:
        raise UnusableReading("the compressed image is cut: its end is missing")
    return height, width


def _png_is_complete(data: bytes) -> bool:
    """Whether all chunks of a PNG are there; OpenCV never returns from some whose lengths lie."""
    offset = len(_PNG_SIGNATURE)
    for _ in range(_MAX_PNG_CHUNKS):
        if offset + _PNG_CHUNK.size > len(data):
            return False
        length, kind = _PNG_CHUNK.unpack_from(data, offset)
        if kind in _PNG_ANIMATION:
            raise UnusableReading("the PNG is animated; publish single images")
        offset += _PNG_CHUNK.size + length + _PNG_CHECKSUM_SIZE
        if kind == b"IEND":
            return offset <= len(data)
    raise UnusableReading(f"the PNG has more than {_MAX_PNG_CHUNKS} chunks")


def _jpeg_frame(data: bytes) -> int:
    """Return where the frame parameters of a JPEG start: one byte of precision, then height and width."""
    offset = 2
    for _ in range(_MAX_JPEG_SEGMENTS):
        while data[offset : offset + 2] == b"\xff\xff":
            offset += 1
        segment = data[offset : offset + 4]
        if len(segment) < 4 or segment[0] != 0xFF:
            break
        if segment[1] in _JPEG_FRAME_MARKERS:
            return offset + 4
        offset += 2 + int.from_bytes(segment[2:], "big")
    raise UnusableReading("the JPEG is damaged: it has no frame header")


def _image_type(name: str, gives: str, reader: type[RawImageReader] | type[CompressedImageReader]) -> MessageType:
    return MessageType(
        name,
        gives,
        "one per pixel and channel",
        make=lambda message_type, spec, choices: reader(spec, choices.encoding),
        takes=frozenset({"encoding"}),
        is_image=True,
    )


MESSAGE_TYPES = (
    _image_type("sensor_msgs/msg/Image", "pixels `[height, width, channels]`", RawImageReader),
    _image_type(
        "sensor_msgs/msg/CompressedImage", "pixels `[height, width, channels]` of a JPEG or PNG", CompressedImageReader
    ),
)
