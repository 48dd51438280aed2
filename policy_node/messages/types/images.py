# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Images, plain and compressed, converted to the encoding and size that a policy wants."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from policy_node.config.parameters import OF_IMAGES, ReadingChoices
from policy_node.config.specs import ArraySpec
from policy_node.messages.cdr import (
    BODY_START,
    FRAME_START,
    ONE_UINT32,
    THREE_UINT32,
    TWO_UINT32,
    body_end,
    skip_string,
)
from policy_node.messages.compressed_depth import HEADER, decode_rvl, metres, rvl_size
from policy_node.messages.encodings import IMAGE_ENCODINGS
from policy_node.messages.fields import MessageTypeError
from policy_node.messages.pixels import Converter
from policy_node.messages.reading import Copies, Copy, UnusableReading, stack_hint
from policy_node.messages.types import MessageType

# Encodings that IMREAD_UNCHANGED decodes a JPEG or PNG to, by dtype and channels.
_DECODED = {
    ("uint8", 1): "mono8",
    ("uint8", 3): "bgr8",
    ("uint8", 4): "bgra8",
    ("uint16", 1): "16UC1",
    ("uint16", 3): "bgr16",
    ("uint16", 4): "bgra16",
}
_COMPRESSED_DEPTH = "compressedDepth"
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


def wanted_encoding(spec: ArraySpec, encoding: str, allowed: Sequence[str]) -> str:
    """Return `encoding`, or if that is empty the default of the allowed ones that fit `spec` (else the first of them).

    Raises MessageTypeError if the encoding does not fit `spec`, or none does.
    """
    kinds = {
        name: (found.dtype, found.channels)
        for name, found in IMAGE_ENCODINGS.items()
        if name in allowed and not found.is_mosaic
    }
    listed = ", ".join(f"{name} ({dtype} × {channels})" for name, (dtype, channels) in kinds.items())
    wanted = (spec.dtype, spec.shape[2]) if len(spec.shape) == 3 else None
    fitting = [name for name, kind in kinds.items() if kind == wanted]
    if 0 in spec.shape or not fitting:
        raise MessageTypeError(
            f"an image cannot give {spec.dtype} {list(spec.shape)}; allowed are [height, width, channels] of {listed}; "
            f"train the policy on such images, or feed this observation from another type{_stack_hint(spec, encoding)}"
        )
    if encoding and encoding not in fitting:
        raise MessageTypeError(
            f"encoding '{encoding}' does not give the observation's {spec.dtype} {list(spec.shape)}; "
            f"allowed here: {', '.join(fitting)}; of all: {listed}{_stack_hint(spec, encoding)}"
        )
    return encoding or next((name for name in fitting if IMAGE_ENCODINGS[name].is_default), fitting[0])


def _stack_hint(spec: ArraySpec, encoding: str) -> str:
    """Return `stack_hint` of an image with several times the channels of an encoding, without one of RGB or grey."""
    if len(spec.shape) != 3:
        return ""
    known = IMAGE_ENCODINGS.get(encoding)
    hints = (stack_hint(spec.shape[2], channels) for channels in ((known.channels,) if known else (3, 1)))
    return next((hint for hint in hints if hint), "")


def compressed_encodings() -> list[str]:
    """Return the encodings that a CompressedImage is decoded to."""
    return [*_DECODED.values(), "mono16", "32FC1"]


class _Fields(NamedTuple):
    """What images have in common whose stamps and pixels alone differ.

    Attributes
    ----------
    size
        Bytes of the message; -1 for none.
    encapsulation, fields
        The bytes before the stamp, and those from there to the pixels.
    start, end
        Where the pixels lie; `end` is 0 where they are not only copied.
    """

    size: int = -1
    encapsulation: bytes = b""
    fields: bytes = b""
    start: int = 0
    end: int = 0


class RawImageReader:
    """Reads sensor_msgs/msg/Image into `[height, width, channels]`; its errors are those of `wanted_encoding`."""

    parallel = False

    def __init__(self, spec: ArraySpec, choices: ReadingChoices) -> None:
        self._converter = Converter(wanted_encoding(spec, choices.encoding, tuple(IMAGE_ENCODINGS)), spec, choices)
        self.notices = self._converter.notices
        self._encodings = dict(IMAGE_ENCODINGS)
        #: See `Copies`.
        self.copies = Copies(self._copy_to, spec.dtype)

    def __call__(self, raw: bytes, out: np.ndarray) -> None:
        """Read `raw` into `out`; raises `UnusableReading`."""
        pixels, name, _ = self._view(raw)
        self._converter(pixels, name, out)

    def _copy_to(self, out: np.ndarray) -> Copy:
        """Return a function that copies the pixels of images to `out` that are to be copied only.

        It compares the fields of each image with those of the last one, without the stamp.
        """
        target = out.reshape(-1).view(np.uint8).data
        known = _Fields()

        def copy(raw: bytes) -> bool:
            nonlocal known
            size, encapsulation, fields, start, end = known
            if not (len(raw) == size and raw.startswith(encapsulation) and raw.startswith(fields, FRAME_START)):
                known = self._fields(raw)
                start, end = known.start, known.end
            if not end:
                return False
            target[:] = memoryview(raw)[start:end]
            return True

        return copy

    def _fields(self, raw: bytes) -> _Fields:
        """Return what a message has in common with others of the same size and encoding."""
        try:
            pixels, name, start = self._view(raw)
        except UnusableReading:
            return _Fields()
        is_copied = pixels.flags.c_contiguous and self._converter.copies(pixels, name)
        end = start + pixels.nbytes if is_copied else 0
        return _Fields(len(raw), bytes(raw[:BODY_START]), bytes(raw[FRAME_START:start]), start, end)

    def _view(self, raw: bytes) -> tuple[np.ndarray, str, int]:
        """Return the stored pixels of a message `[rows, width, channels]`, their encoding, and where they start."""
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
        encoding = self._encodings.get(name)
        if encoding is None:
            raise UnusableReading(f"encoding '{name[:40]}' is not known; allowed: {', '.join(self._encodings)}")
        dtype, channels = encoding.dtype, encoding.channels
        row_size = width * channels * dtype.itemsize
        rows = height + height // 2 if encoding.has_chroma_rows else height
        if height == 0 or width == 0 or step < row_size or count != step * rows:
            raise UnusableReading(
                f"{width} × {height} pixels of {name}, step {step} and {count} bytes of data contradict each other; "
                f"step must be at least {row_size}, the data step × {'1.5 × ' if rows > height else ''}height bytes, "
                "and none of them 0"
            )
        start = ((name_end + 4) & ~3) + 8
        if start + count > end:
            raise UnusableReading(f"the message is cut: {count} bytes of data announced, {end - start} found")
        strides = (step, channels * dtype.itemsize, dtype.itemsize)
        stored = dtype.newbyteorder(">" if raw[name_end] else "<")
        return np.ndarray((rows, width, channels), stored, raw, start, strides), name, start


class CompressedImageReader:
    """Reads sensor_msgs/msg/CompressedImage of at most 64 megapixels: a JPEG or PNG, or depth in PNG or RVL.

    Data behind the header of compressed_depth_image_transport are known by the format, ``compressedDepth``; others say
    themselves what they are.
    """

    parallel = True

    def __init__(self, spec: ArraySpec, choices: ReadingChoices) -> None:
        decoded = [IMAGE_ENCODINGS[name] for name in compressed_encodings()]
        allowed = [
            name
            for name, wanted in IMAGE_ENCODINGS.items()
            if any(found.code_to(wanted) is not None for found in decoded)
        ]
        self._wanted = wanted_encoding(spec, choices.encoding, allowed)
        self._converter = Converter(self._wanted, spec, choices)
        self.notices = self._converter.notices

    def __call__(self, raw: bytes, out: np.ndarray) -> None:
        """Read `raw` into `out`; raises `UnusableReading`."""
        end = body_end(raw)
        try:
            format_start = skip_string(raw, FRAME_START)
            offset = skip_string(raw, format_start)
            (count,) = ONE_UINT32[raw[1]].unpack_from(raw, offset)
        except struct.error as error:
            raise UnusableReading("the message is cut within its first fields") from error
        start = offset + 4
        if start + count > end:
            raise UnusableReading(f"the message is cut: {count} bytes of data announced, {end - start} found")
        text = raw[format_start + 4 : offset].partition(b"\0")[0].decode(errors="replace")
        data, published = raw[start : start + count], text.partition(";")[0].strip()
        pixels, name = _depth(data, published) if _COMPRESSED_DEPTH in text else _picture(data, published)
        self._converter(pixels, name, out)
        found, wanted = IMAGE_ENCODINGS[name], IMAGE_ENCODINGS[self._wanted]
        if found.channels != wanted.channels:
            self._converter.note(f"compressed images of {name} are converted to the {wanted.name} of the policy")


def _depth(data: bytes, encoding: str) -> tuple[np.ndarray, str]:
    """Return the pixels `[height, width, 1]` of a compressed depth image, and their encoding."""
    header, data = data[: HEADER.size], data[HEADER.size :]
    if encoding not in ("16UC1", "32FC1"):
        raise UnusableReading(f"the format says compressed depth of '{encoding[:40]}'; 16UC1 and 32FC1 are allowed")
    if data.startswith(_PNG_SIGNATURE):
        pixels, found = _picture(data, encoding)
        if found != "16UC1":
            raise UnusableReading(f"the compressed depth is a PNG of {found}; one channel of 16 bits is allowed")
    else:
        size = rvl_size(data)
        _check_size(*size)
        pixels = decode_rvl(data, size[0] * size[1]).reshape(*size, 1)
    return (metres(pixels, header) if encoding == "32FC1" else pixels), encoding


def _picture(data: bytes, encoding: str) -> tuple[np.ndarray, str]:
    """Return the pixels `[height, width, channels]` of a JPEG or PNG, and their encoding."""
    _check_size(*_compressed_size(data))
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
            f"the compressed image has {kind[1]} channels of {kind[0]}; 1, 3 or 4 of uint8 or uint16 are allowed"
        )
    # One channel of 16 bits is depth, unless the publisher says that it is grey.
    return pixels, "mono16" if kind == ("uint16", 1) and encoding == "mono16" else _DECODED[kind]


def _check_size(height: int, width: int) -> None:
    if not 0 < height * width <= MAX_COMPRESSED_PIXELS:
        raise UnusableReading(
            f"the compressed image has {width} × {height} pixels; 1 to {MAX_COMPRESSED_PIXELS} in all are allowed"
        )


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


MESSAGE_TYPES = (
    MessageType(
        "sensor_msgs/msg/Image",
        "pixels `[height, width, channels]`",
        "one per pixel and channel",
        make=lambda message_type, spec, choices: RawImageReader(spec, choices),
        takes=OF_IMAGES,
        is_image=True,
        refuses="encodings that do not become the policy's (below), as their numbers mean something else; sizes that "
        "contradict each other; depth in which nothing was measured",
    ),
    MessageType(
        "sensor_msgs/msg/CompressedImage",
        "pixels `[height, width, channels]` of a JPEG, a PNG or compressed depth",
        "one per pixel and channel",
        make=lambda message_type, spec, choices: CompressedImageReader(spec, choices),
        takes=OF_IMAGES,
        is_image=True,
        refuses="as for Image; what is cut, other formats, more than 64 megapixels, animations",
    ),
)
