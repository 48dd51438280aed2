# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Mosaics: Bayer patterns and YUV, where neighbouring pixels hold different parts of a colour.

The conversions are those of cv_bridge: OpenCV names a Bayer pattern by the second row and column, ROS by the first.
"""

from __future__ import annotations

import cv2
import numpy as np

from policy_node.messages.encodings import Encoding

_UINT8, _UINT16 = np.dtype(np.uint8), np.dtype(np.uint16)
_COLOURS = ("RGB", "BGR", "RGBA", "BGRA", "GRAY")
_BAYER = {"rggb": "BayerBG", "bggr": "BayerRG", "gbrg": "BayerGR", "grbg": "BayerGB"}


def _codes(pattern: str) -> dict[str, int]:
    """Return OpenCV's code to each colour space; `pattern` is that of its name."""
    return {colour: getattr(cv2, f"COLOR_{pattern.format(colour)}") for colour in _COLOURS}


IMAGE_ENCODINGS = (
    *(
        Encoding(f"bayer_{order}{dtype.itemsize * 8}", dtype, 1, codes=_codes(f"{name}2{{}}"))
        for dtype in (_UINT8, _UINT16)
        for order, name in _BAYER.items()
    ),
    *(
        Encoding(name, _UINT8, 2, codes=_codes(f"YUV2{{}}_{code}"))
        for name, code in (("yuv422", "UYVY"), ("uyvy", "UYVY"), ("yuv422_yuy2", "YUY2"), ("yuyv", "YUY2"))
    ),
    *(
        Encoding(name, _UINT8, 1, codes=_codes(f"YUV2{{}}_{name.upper()}"), has_chroma_rows=True)
        for name in ("nv12", "nv21")
    ),
)
