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
        OpenCV's name of the colour space, such as ``RGB``; empty for depth and mosaics. Colours of one dtype convert
        into one another.
    codes
        For mosaics (Bayer, YUV): OpenCV's code of the conversion to each colour space of the same dtype. Their images
        are converted before they are resized.
    is_default
        Whether an observation of this dtype and number of channels has this encoding if its parameter `encoding` is
        empty. The order of the modules then has no influence on it. Set it for one encoding of each dtype and count.
    """

    name: str
    dtype: np.dtype
    channels: int
    colour: str = ""
    codes: Mapping[str, int] | None = None
    is_default: bool = False

    @property
    def is_mosaic(self) -> bool:
        """Whether neighbouring pixels hold different parts of a colour."""
        return self.codes is not None

    def code_to(self, wanted: Encoding) -> int | None:
        """Return OpenCV's code of the conversion to another encoding; `KEEP` if none is needed, None if none exists."""
        if wanted.name == self.name:
            return KEEP
        if wanted.dtype != self.dtype or not wanted.colour:
            return None
        if self.codes is not None:
            return self.codes.get(wanted.colour)
        return KEEP if wanted.colour == self.colour else getattr(cv2, f"COLOR_{self.colour}2{wanted.colour}", None)


IMAGE_ENCODINGS: Catalogue[Encoding] = FOUND
