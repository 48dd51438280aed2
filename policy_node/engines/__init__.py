# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Engines run a policy: `choose_engine` takes the fastest of those that act as the policy does.

One module of `backends` builds each engine. This subpackage knows the contract of a policy, but no file format.
"""

from __future__ import annotations

from policy_node.engines.backends import EngineError, EngineSettings
from policy_node.engines.choice import EngineChoice, choose_engine, without_engine
from policy_node.engines.wrapped import chunk_size, in_chunks

__all__ = [
    "EngineChoice",
    "EngineError",
    "EngineSettings",
    "choose_engine",
    "chunk_size",
    "in_chunks",
    "without_engine",
]
