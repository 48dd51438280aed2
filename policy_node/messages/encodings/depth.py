# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Depth: millimetres in 16 bits, or metres as floating point numbers (REP 118)."""

from __future__ import annotations

import numpy as np

from policy_node.messages.encodings import DEPTH, Encoding

IMAGE_ENCODINGS = (
    Encoding("16UC1", np.dtype(np.uint16), 1, DEPTH, is_default=True),
    Encoding("32FC1", np.dtype(np.float32), 1, DEPTH, is_default=True),
)
