# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Convert images to the encoding and size that a policy wants."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from policy_node.config.specs import ArraySpec
from policy_node.messages.encodings import ENCODINGS, KEEP
from policy_node.messages.fields import MessageTypeError
from policy_node.messages.reading import UnusableReading

_LEAST_WEIGHT = 1e-3  # of measured pixels within one that is averaged; less is rounding


class Converter:
    """Converts pixels to the wanted encoding and size.

    Colours convert into one another, and to and from grey, as OpenCV does it; depth stays what it is. Another size is
    resized with INTER_AREA. The result is that of conversion first and resizing second.

    Depth in metres (32FC1) may have pixels without a distance, as defined by REP 117 and REP 118. Beyond the largest
    measurable one (+inf) becomes the upper bound of the observation, too near (-inf) its lower bound. No measurement
    (NaN) becomes 0, as in 16UC1, and is left out when neighbours are averaged.

    Parameters
    ----------
    encoding
        The wanted encoding, a key of `ENCODINGS`.
    spec
        One frame, `[height, width, channels]`.
    """

    def __init__(self, encoding: str, spec: ArraySpec) -> None:
        self._wanted = encoding
        self._size, self._channels = spec.shape[:2], spec.shape[2]
        self._low, self._high = float(np.min(spec.low)), float(np.max(spec.high))
        codes = {name: found.code_to(ENCODINGS[encoding]) for name, found in ENCODINGS.items()}
        self._codes = {name: code for name, code in codes.items() if code is not None}
        self._mosaics = {name for name, found in ENCODINGS.items() if found.is_mosaic}

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
    """Return `encoding`, or where that is empty the first allowed one that fits `spec`.

    Raises
    ------
    MessageTypeError
        If the encoding does not fit `spec`, or none does.
    """
    kinds = {name: (ENCODINGS[name].dtype, ENCODINGS[name].channels) for name in ENCODINGS if name in allowed}
    listed = ", ".join(f"{name} ({dtype} × {channels})" for name, (dtype, channels) in kinds.items())
    wanted = (spec.dtype, spec.shape[2]) if len(spec.shape) == 3 else None
    fitting = [name for name, kind in kinds.items() if kind == wanted]
    if 0 in spec.shape or not fitting:
        raise MessageTypeError(
            f"an image cannot give {spec.dtype} {list(spec.shape)}; allowed are [height, width, channels] of {listed}; "
            "train the policy on such images, or feed this observation from another type"
        )
    if encoding and encoding not in fitting:
        raise MessageTypeError(
            f"encoding '{encoding}' does not give the observation's {spec.dtype} {list(spec.shape)}; "
            f"allowed here: {', '.join(fitting)}; of all: {listed}"
        )
    return encoding or fitting[0]
