# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Every parser of raw messages."""

from __future__ import annotations

from policy_node_bench.fuzz.command_cases import COMMAND_CASES
from policy_node_bench.fuzz.image_cases import IMAGE_CASES
from policy_node_bench.fuzz.reading_cases import READING_CASES

CASES = (*READING_CASES, *IMAGE_CASES, *COMMAND_CASES)
