# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Colours and grey of 8 bits."""

from __future__ import annotations

import numpy as np

from policy_node.messages.encodings import Encoding

_UINT8 = np.dtype(np.uint8)

IMAGE_ENCODINGS = (
    Encoding("rgb8", _UINT8, 3, "RGB", is_default=True),
    Encoding("bgr8", _UINT8, 3, "BGR"),
    Encoding("rgba8", _UINT8, 4, "RGBA", is_default=True),
    Encoding("bgra8", _UINT8, 4, "BGRA"),
    Encoding("mono8", _UINT8, 1, "GRAY", is_default=True),
)
