# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Images, plain and compressed, converted to the encoding and size that a policy wants."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import cv2
import numpy as np

from policy_node.config.specs import ArraySpec
from policy_node.messages.cdr import FRAME_START, ONE_UINT32, THREE_UINT32, TWO_UINT32, body_end, skip_string
from policy_node.messages.encodings import IMAGE_ENCODINGS, KEEP
from policy_node.messages.fields import MessageTypeError
from policy_node.messages.reading import UnusableReading, stack_hint
from policy_node.messages.types import MessageType

_LEAST_WEIGHT = 1e-3  # of measured pixels within one that is averaged; less is rounding
# Encodings that IMREAD_UNCHANGED decodes a JPEG or PNG to, by dtype and channels.
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


class Converter:
    """Converts pixels to the wanted encoding and size.

    Colours convert into one another, and to and from grey, as OpenCV does it; depth stays what it is. Another size is
    resized with INTER_AREA. The result is that of conversion first and resizing second.

    Depth in metres (32FC1) may have pixels without a distance, as defined by REP 117 and REP 118. Beyond the largest
    measurable one (+inf) becomes the upper bound of the observation, too near (-inf) its lower bound. No measurement
    (NaN) becomes 0, as in 16UC1, and is left out when neighbours are averaged.
    """

    def __init__(self, encoding: str, spec: ArraySpec) -> None:
        self._wanted = encoding
        self._size, self._channels = spec.shape[:2], spec.shape[2]
        self._low, self._high = float(np.min(spec.low)), float(np.max(spec.high))
        codes = {name: found.code_to(IMAGE_ENCODINGS[encoding]) for name, found in IMAGE_ENCODINGS.items()}
        self._codes = {name: code for name, code in codes.items() if code is not None}
        self._mosaics = {name for name, found in IMAGE_ENCODINGS.items() if found.is_mosaic}

    def __call__(self, pixels: np.ndarray, encoding: str, out: np.ndarray) -> None:
        """Convert `pixels` `[height, width, channels]` of any strides and byte order into `out`, or leave it alone."""
        if encoding not in self._codes:
            raise UnusableReading(
                f"encoding '{encoding}' cannot become '{self._wanted}'; allowed: {', '.join(self._codes)}"
            )
        code = self._codes[encoding]
        if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
            pixels = self._filled(pixels)
        elif pixels.shape[:2] != self._size or code != KEEP:
            pixels = self._convert(pixels, code, encoding in self._mosaics)
        if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
            raise UnusableReading("the image holds distances that are too large to be averaged")
        np.copyto(out, pixels.reshape(out.shape))

    def _filled(self, depth: np.ndarray) -> np.ndarray:
        """Return depth of the wanted size in which every pixel has a distance."""
        depth = depth.astype(np.float32)
        for sign, bound, name in ((1, self._high, "upper"), (-1, self._low, "lower")):
            beyond = np.isinf(depth) & (np.sign(depth) == sign)
            if beyond.any():
                if not np.isfinite(np.float32(bound)):
                    raise UnusableReading(
                        f"the image holds {'+' if sign > 0 else '-'}inf, but the observation has no {name} bound that "
                        "could stand for it; train the policy with a bounded observation space, or publish 16UC1"
                    )
                depth[beyond] = bound
        measured = ~np.isnan(depth)
        if measured.all():
            return depth if depth.shape[:2] == self._size else self._convert(depth, KEEP)
        if not measured.any():
            raise UnusableReading("the image holds NaN only: no pixel was measured")
        if not self._low <= 0.0 <= self._high:
            raise UnusableReading(
                f"the image holds NaN, which becomes 0, but the observation is {self._low:g} to {self._high:g}; "
                "train the policy with an observation space that holds 0, or fill the gaps before"
            )
        depth[~measured] = 0.0
        if depth.shape[:2] == self._size:
            return depth
        weights = self._convert(measured.astype(np.float32), KEEP)
        sums = self._convert(depth, KEEP)
        return np.divide(sums, weights, out=np.zeros_like(sums), where=weights > _LEAST_WEIGHT)

    def _convert(self, pixels: np.ndarray, code: int, is_mosaic: bool = False) -> np.ndarray:
        # OpenCV wants native byte order and rows of whole elements.
        if not pixels.dtype.isnative or pixels.strides[0] % pixels.itemsize:
            pixels = pixels.astype(pixels.dtype.newbyteorder("="))
        height, width = pixels.shape[:2]
        try:
            # Grey is rounded, so it comes before resizing; other colours are only copied and reordered.
            if code != KEEP and (self._channels == 1 or is_mosaic):
                pixels, code = cv2.cvtColor(pixels, code), KEEP
            if (height, width) != self._size:
                pixels = cv2.resize(pixels, self._size[::-1], interpolation=cv2.INTER_AREA)
            return pixels if code == KEEP else cv2.cvtColor(pixels, code)
        except cv2.error as error:
            raise UnusableReading(f"the image of {width} × {height} cannot be converted: {error.err}") from error


def wanted_encoding(spec: ArraySpec, encoding: str, allowed: Sequence[str]) -> str:
    """Return `encoding`, or if that is empty the default of the allowed ones that fit `spec` (else the first of them).

    Raises MessageTypeError if the encoding does not fit `spec`, or none does.
    """
    kinds = {name: (found.dtype, found.channels) for name, found in IMAGE_ENCODINGS.items() if name in allowed}
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


class RawImageReader:
    """Reads sensor_msgs/msg/Image into `[height, width, channels]`; its errors are those of `wanted_encoding`."""

    parallel = False

    def __init__(self, spec: ArraySpec, encoding: str) -> None:
        self._converter = Converter(wanted_encoding(spec, encoding, tuple(IMAGE_ENCODINGS)), spec)
        self._encodings = dict(IMAGE_ENCODINGS)

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
        encoding = self._encodings.get(name)
        if encoding is None:
            raise UnusableReading(f"encoding '{name[:40]}' is not known; allowed: {', '.join(self._encodings)}")
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
    """Reads sensor_msgs/msg/CompressedImage that holds a JPEG or PNG of at most 64 megapixels; never 32FC1."""

    parallel = True

    def __init__(self, spec: ArraySpec, encoding: str) -> None:
        decoded = [IMAGE_ENCODINGS[name] for name in _DECODED.values()]
        allowed = [
            name
            for name, wanted in IMAGE_ENCODINGS.items()
            if any(found.code_to(wanted) is not None for found in decoded)
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


MESSAGE_TYPES = (
    MessageType(
        "sensor_msgs/msg/Image",
        "pixels `[height, width, channels]`",
        "one per pixel and channel",
        make=lambda message_type, spec, choices: RawImageReader(spec, choices.encoding),
        takes=frozenset({"encoding"}),
        is_image=True,
    ),
    MessageType(
        "sensor_msgs/msg/CompressedImage",
        "pixels `[height, width, channels]` of a JPEG or PNG",
        "one per pixel and channel",
        make=lambda message_type, spec, choices: CompressedImageReader(spec, choices.encoding),
        takes=frozenset({"encoding"}),
        is_image=True,
    ),
)
