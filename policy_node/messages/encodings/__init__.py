# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Image encodings: one module per family, found by a registry.

To add an encoding, add a module with `IMAGE_ENCODINGS`, one `Encoding` or a tuple of them, or add a record to the
family's module. If a JPEG or PNG can give it, add it to `_DECODED` of `policy_node.messages.types.images`. Another
distribution names its records in the entry points `policy_node.image_encodings`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from policy_node.config.catalogue import IMAGE_ENCODINGS as FOUND
from policy_node.config.catalogue import Catalogue

# Beside OpenCV's codes: no conversion.
KEEP = -1
# Beside OpenCV's colour spaces: distances. Some cameras publish them as mono16.
DEPTH = "DEPTH"
# Dtypes of colours that convert into one another.
_SCALED = {np.dtype(np.uint8), np.dtype(np.uint16)}


@dataclass(frozen=True, eq=False)
class Encoding:
    """How the pixels of an image are stored, and what they can become.

    Attributes
    ----------
    name
        As in `sensor_msgs/msg/Image.encoding`, such as ``rgb8``.
    dtype, channels
        Dtype and number of channels of the stored pixels.
    colour
        OpenCV's name of the colour space, such as ``RGB``, or `DEPTH`; empty for mosaics. Colours of 8 and 16 bits
        convert into one another, as cv_bridge does it; depth converts between millimetres and metres (REP 118).
    codes
        For mosaics (Bayer, YUV): OpenCV's code of the conversion to each colour space of the same dtype. Their images
        are converted before they are resized, and no policy takes them.
    is_default
        Whether an observation of this dtype and number of channels has this encoding if its parameter `encoding` is
        empty. The order of the modules then has no influence on it. Set it for one encoding of each dtype and count.
    has_chroma_rows
        Whether half as many rows with the colour of 2 × 2 pixels follow the rows of the image, as in NV12.
    """

    name: str
    dtype: np.dtype
    channels: int
    colour: str = ""
    codes: Mapping[str, int] | None = None
    is_default: bool = False
    has_chroma_rows: bool = False

    @property
    def is_mosaic(self) -> bool:
        """Whether neighbouring pixels hold different parts of a colour."""
        return self.codes is not None

    def code_to(self, wanted: Encoding) -> int | None:
        """Return OpenCV's code of the conversion to another encoding; `KEEP` if none is needed, None if none exists.

        Where the dtypes differ, the pixels are scaled afterwards.
        """
        if wanted.name == self.name:
            return KEEP
        if wanted.is_mosaic or not wanted.colour:
            return None
        same_dtype = wanted.dtype == self.dtype
        if not (same_dtype or wanted.colour == DEPTH or {self.dtype, wanted.dtype} == _SCALED):
            return None
        if self.codes is not None:
            return self.codes.get(wanted.colour)
        if wanted.colour == self.colour or (same_dtype and {self.colour, wanted.colour} == {DEPTH, "GRAY"}):
            return KEEP
        return getattr(cv2, f"COLOR_{self.colour}2{wanted.colour}", None)


IMAGE_ENCODINGS: Catalogue[Encoding] = FOUND
