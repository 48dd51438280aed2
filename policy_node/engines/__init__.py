# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""What runs a policy: `choose_engine` measures the engines that act as the policy does, and takes the fastest."""

from __future__ import annotations

from policy_node.engines.builders import EngineError
from policy_node.engines.choice import (
    EngineChoice,
    EngineSettings,
    choose_engine,
    own_engine,
    without_engine,
)
from policy_node.engines.chunks import chunk_size, in_chunks

__all__ = [
    "EngineChoice",
    "EngineError",
    "EngineSettings",
    "choose_engine",
    "chunk_size",
    "in_chunks",
    "own_engine",
    "without_engine",
]
