# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Colours and grey of 8 and 16 bits.

8UC1 counts as grey, and 8UC3 as BGR, which is how OpenCV stores the images that publishers name so.
"""

from __future__ import annotations

import numpy as np

from policy_node.messages.encodings import Encoding

_UINT8, _UINT16 = np.dtype(np.uint8), np.dtype(np.uint16)

IMAGE_ENCODINGS = (
    Encoding("rgb8", _UINT8, 3, "RGB", is_default=True),
    Encoding("bgr8", _UINT8, 3, "BGR"),
    Encoding("rgba8", _UINT8, 4, "RGBA", is_default=True),
    Encoding("bgra8", _UINT8, 4, "BGRA"),
    Encoding("mono8", _UINT8, 1, "GRAY", is_default=True),
    Encoding("8UC1", _UINT8, 1, "GRAY"),
    Encoding("8UC3", _UINT8, 3, "BGR"),
    Encoding("rgb16", _UINT16, 3, "RGB", is_default=True),
    Encoding("bgr16", _UINT16, 3, "BGR"),
    Encoding("rgba16", _UINT16, 4, "RGBA", is_default=True),
    Encoding("bgra16", _UINT16, 4, "BGRA"),
    Encoding("mono16", _UINT16, 1, "GRAY"),
)
