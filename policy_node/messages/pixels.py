# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Convert the pixels of images to the encoding and size that a policy wants."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from policy_node.config.parameters import CHOICES, ReadingChoices
from policy_node.config.specs import ArraySpec
from policy_node.messages.encodings import DEPTH, IMAGE_ENCODINGS, KEEP, Encoding
from policy_node.messages.fields import MessageTypeError
from policy_node.messages.reading import UnusableReading

_LEAST_WEIGHT = 1e-3  # of measured pixels within one that is averaged; less is rounding
# Metres in a unit of depth, by the dtype of the policy's depth (REP 118).
_UNITS_M = {"uint16": 0.001, "float32": 1.0}
_LARGEST_MM = 65535


class _Conversion(NamedTuple):
    """How images of one encoding become those that the policy wants.

    Attributes
    ----------
    code
        Of OpenCV, or `KEEP`.
    scale
        Factor of the stored numbers.
    is_copied
        Whether images of the right size are only copied.
    has_chroma_rows
        See `Encoding`.
    """

    code: int
    scale: float
    is_mosaic: bool
    is_copied: bool
    has_chroma_rows: bool


class Converter:
    """Converts pixels to the wanted encoding and size.

    Colours convert into one another, and to and from grey, as OpenCV does it; colours of 8 and 16 bits by a factor of
    257, as cv_bridge does it. Depth converts between millimetres and metres. The result is that of conversion first and
    resizing (INTER_AREA, unless chosen otherwise) second.

    Pixels without a distance, 0 in 16UC1 and 0 or NaN in 32FC1, are left out when neighbours are averaged, and become
    0. As defined by REP 117 and REP 118, beyond the largest measurable distance (+inf) becomes the upper bound of the
    observation, too near (-inf) its lower bound. With `hole_value` all of these get that value.

    Attributes
    ----------
    notices
        What an operator should know about the images so far, each once.
    """

    def __init__(self, encoding: str, spec: ArraySpec, choices: ReadingChoices | None = None) -> None:
        choices = choices or ReadingChoices()
        self._name, wanted = encoding, IMAGE_ENCODINGS[encoding]
        self._size, self._channels = spec.shape[:2], spec.shape[2]
        self._low, self._high = float(np.min(spec.low)), float(np.max(spec.high))
        self._resize = choices.resize
        self._is_depth, self._is_integer = wanted.colour == DEPTH, wanted.dtype.kind == "u"
        self._hole = _hole_value(choices, spec, self._is_depth)
        self._conversions = {
            name: self._conversion(found, wanted, code, choices)
            for name, found in IMAGE_ENCODINGS.items()
            if (code := found.code_to(wanted)) is not None
        }
        self._noted_size: tuple[int, ...] = ()
        self.notices: list[str] = []

    def _conversion(self, found: Encoding, wanted: Encoding, code: int, choices: ReadingChoices) -> _Conversion:
        """Return the conversion of one encoding."""
        if self._is_depth:
            stored_m = choices.depth_scale if found.dtype.kind == "u" else 1.0
            scale = stored_m / _UNITS_M[wanted.dtype.name]
            is_copied = found.dtype.kind == "u" and found.dtype == wanted.dtype and self._hole is None
        else:
            scale = 1.0 if found.dtype == wanted.dtype else np.iinfo(wanted.dtype).max / np.iinfo(found.dtype).max
            is_copied = code == KEEP
        is_copied = is_copied and scale == 1.0
        return _Conversion(code, scale, found.is_mosaic, is_copied, found.has_chroma_rows)

    def copies(self, pixels: np.ndarray, encoding: str) -> bool:
        """Return whether such pixels are only copied, byte by byte."""
        conversion = self._conversions.get(encoding)
        # A distance must have been measured somewhere.
        if conversion is None or not conversion.is_copied or self._is_depth or pixels.shape[:2] != self._size:
            return False
        return pixels.dtype.isnative

    def __call__(self, pixels: np.ndarray, encoding: str, out: np.ndarray) -> None:
        """Convert `pixels` `[height, width, channels]` of any strides and byte order into `out`, or leave it alone."""
        conversion = self._conversions.get(encoding)
        if conversion is None:
            raise UnusableReading(
                f"encoding '{encoding}' cannot become '{self._name}'; allowed: {', '.join(self._conversions)}"
            )
        if not (conversion.is_copied and pixels.shape[:2] == self._size):
            height, width = pixels.shape[:2]
            try:
                if self._is_depth:
                    pixels = self._depth(pixels, conversion.scale)
                else:
                    pixels = self._colours(pixels, conversion, out)
            except cv2.error as error:
                raise UnusableReading(f"the image of {width} × {height} cannot be converted: {error.err}") from error
        elif self._is_depth:
            self._check_measured(pixels == 0)
        # OpenCV may have written there already.
        if pixels is not out:
            np.copyto(out, pixels.reshape(out.shape))

    def _colours(self, pixels: np.ndarray, conversion: _Conversion, out: np.ndarray) -> np.ndarray:
        """Return colours of the wanted encoding and size; it is `out` where the last step could write there."""
        pixels, code = _readable(pixels), conversion.code
        height, width = pixels.shape[:2]
        if conversion.has_chroma_rows:
            height = height * 2 // 3
        if (height, width) == self._size and conversion.scale == 1.0:
            # The only step, which fails before it writes anything.
            cv2.cvtColor(pixels, code, out)
            return out
        if conversion.is_mosaic:
            pixels, code = cv2.cvtColor(pixels, code), KEEP
        pixels = self._cropped(pixels)
        # Grey is rounded, so it comes before resizing; other colours are only copied and reordered.
        if code != KEEP and self._channels == 1:
            pixels, code = cv2.cvtColor(pixels, code), KEEP
        if conversion.scale < 1.0:
            if code == KEEP and pixels.shape[:2] == self._size:
                cv2.convertScaleAbs(pixels, out, alpha=conversion.scale)
                return out
            pixels = cv2.convertScaleAbs(pixels, alpha=conversion.scale)
        elif conversion.scale > 1.0:
            pixels = np.multiply(pixels, int(conversion.scale), dtype=np.uint16)
        pixels = self._resized(pixels)
        return self._padded(pixels if code == KEEP else cv2.cvtColor(pixels, code), 0.0)

    def _depth(self, pixels: np.ndarray, scale: float) -> np.ndarray:
        """Return depth of the wanted encoding and size, in which every pixel has a value."""
        pixels = self._cropped(_readable(pixels))
        if self._resize == "nearest":
            pixels = self._resized(pixels)
        is_averaged = pixels.shape[:2] != self._inner_size(*pixels.shape[:2])
        with np.errstate(invalid="ignore", over="ignore"):
            depth, holes = self._measured(pixels, scale, is_averaged)
            if holes is not None:
                depth = np.where(holes, np.float32(0.0), depth)
                if is_averaged:
                    weights, sums = self._resized((~holes).astype(np.float32)), self._resized(depth)
                    holes = weights <= _LEAST_WEIGHT
                    depth = np.divide(sums, weights, out=np.zeros_like(sums), where=~holes)
                if self._hole is not None:
                    depth = np.where(holes, np.float32(self._hole), depth)
            elif is_averaged:
                depth = self._resized(depth)
        if depth.dtype.kind == "f":
            if not np.isfinite(depth).all():
                raise UnusableReading("the image holds distances that are too large to be averaged")
            if self._is_integer:
                depth = np.clip(np.rint(depth), 0.0, _LARGEST_MM).astype(np.uint16)
        return self._padded(depth, self._hole or 0.0)

    def _measured(self, pixels: np.ndarray, scale: float, is_averaged: bool) -> tuple[np.ndarray, np.ndarray | None]:
        """Return depth in the wanted unit, and where it has no distance; None where that changes nothing."""
        is_marked = is_averaged or self._hole is not None
        depth = pixels if scale == 1.0 else pixels * np.float32(scale)
        zero = pixels == 0
        if pixels.dtype.kind == "u":
            self._check_measured(zero)
            return depth, zero if is_marked and zero.any() else None
        unmeasured = ~np.isfinite(pixels)
        if unmeasured.any():
            nan = np.isnan(pixels)
            self._check_nan(nan)
            if self._hole is None:
                depth, unmeasured = self._with_bounds(depth), nan
        self._check_measured(unmeasured | zero)
        if is_marked:
            unmeasured |= zero
        return depth, unmeasured if unmeasured.any() else None

    def _with_bounds(self, depth: np.ndarray) -> np.ndarray:
        """Return depth with the bounds of the observation for what is too far and too near."""
        depth = depth.astype(np.float32)
        for infinity, bound, name in ((np.inf, self._high, "upper"), (-np.inf, self._low, "lower")):
            beyond = depth == infinity
            if beyond.any():
                if not np.isfinite(np.float32(bound)):
                    raise UnusableReading(
                        f"the image holds {infinity:+}, but the observation has no {name} bound that could stand for "
                        "it; set hole_value, train the policy with a bounded observation space, or publish 16UC1"
                    )
                depth[beyond] = bound
        return depth

    def _check_measured(self, holes: np.ndarray) -> None:
        """Raise UnusableReading if no pixel has a distance, as of a camera that is covered or not ready."""
        if self._hole is None and holes.all():
            raise UnusableReading(
                "the image has no distance, only 0: no pixel was measured; look at the camera, or set hole_value, such "
                "as [0.0], if the policy was trained with such images"
            )

    def _check_nan(self, nan: np.ndarray) -> None:
        """Raise UnusableReading if all is NaN, or nothing can stand for it."""
        if nan.all():
            raise UnusableReading("the image holds NaN only: no pixel was measured")
        if self._hole is None and nan.any() and not self._low <= 0.0 <= self._high:
            raise UnusableReading(
                f"the image holds NaN, which becomes 0, but the observation is {self._low:g} to {self._high:g}; "
                "train the policy with an observation space that holds 0, set hole_value, or fill the gaps before"
            )

    def _inner_size(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width that an image of a size is resized to: with `pad` the largest of its aspect."""
        wanted_height, wanted_width = self._size
        if self._resize != "pad":
            return wanted_height, wanted_width
        if width * wanted_height > height * wanted_width:
            return max(1, round(height * wanted_width / width)), wanted_width
        return wanted_height, max(1, round(width * wanted_height / height))

    def _cropped(self, pixels: np.ndarray) -> np.ndarray:
        """Return with `crop` the middle of an image, of the wanted aspect."""
        if self._resize != "crop":
            return pixels
        (height, width), (wanted_height, wanted_width) = pixels.shape[:2], self._size
        if width * wanted_height > height * wanted_width:
            kept = max(1, round(height * wanted_width / wanted_height))
            first = (width - kept) // 2
            return pixels[:, first : first + kept]
        kept = max(1, round(width * wanted_height / wanted_width))
        first = (height - kept) // 2
        return pixels[first : first + kept]

    def _resized(self, pixels: np.ndarray) -> np.ndarray:
        """Return an image of the wanted size, without padding."""
        height, width = pixels.shape[:2]
        size = self._inner_size(height, width)
        if (height, width) == size:
            return pixels
        if (height, width) != self._noted_size:
            self._note_aspect(height, width)
        return cv2.resize(
            pixels, size[::-1], interpolation=cv2.INTER_NEAREST if self._resize == "nearest" else cv2.INTER_AREA
        )

    def _note_aspect(self, height: int, width: int) -> None:
        """Note that images of a size change their aspect by a pixel or more."""
        self._noted_size = height, width
        wanted_height, wanted_width = self._size
        if self._resize in ("area", "nearest") and abs(width * wanted_height / height - wanted_width) >= 1.0:
            self.note(
                f"images of {width} × {height} are resized to {wanted_width} × {wanted_height}, which changes their "
                "aspect; set `resize` to crop or pad if the policy was trained so"
            )

    def note(self, text: str) -> None:
        """Add a notice, unless it is there."""
        if text not in self.notices:
            self.notices.append(text)

    def _padded(self, pixels: np.ndarray, value: float) -> np.ndarray:
        """Return with `pad` an image of the wanted size with a value around it."""
        if self._resize != "pad" or pixels.shape[:2] == self._size:
            return pixels
        (height, width), (wanted_height, wanted_width) = pixels.shape[:2], self._size
        top, left = (wanted_height - height) // 2, (wanted_width - width) // 2
        rest = wanted_height - height - top, wanted_width - width - left
        return cv2.copyMakeBorder(pixels, top, rest[0], left, rest[1], cv2.BORDER_CONSTANT, value=(value,) * 4)


def _readable(pixels: np.ndarray) -> np.ndarray:
    """Return pixels as OpenCV wants them: of native byte order, and in rows of whole elements."""
    if pixels.dtype.isnative and not pixels.strides[0] % pixels.itemsize:
        return pixels
    return pixels.astype(pixels.dtype.newbyteorder("="))


def _hole_value(choices: ReadingChoices, spec: ArraySpec, is_depth: bool) -> float | None:
    """Return the value of pixels without a distance; None where it is not chosen."""
    if not is_depth:
        for name in ("hole_value", "depth_scale"):
            if getattr(choices, name) != CHOICES[name]:
                raise MessageTypeError(f"{name}: given for {spec}, which is no depth; remove it")
        return None
    if not choices.hole_value:
        return None
    if len(choices.hole_value) != 1:
        raise MessageTypeError(f"hole_value: found {list(choices.hole_value)}; give one number, or none")
    value = choices.hole_value[0]
    if not np.min(spec.low) <= value <= np.max(spec.high):
        raise MessageTypeError(f"hole_value: found {value:g}, but the observation is {spec}; give a number within")
    return value
