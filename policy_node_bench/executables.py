# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The executable of the benchmarks, with its module."""

from __future__ import annotations

from functools import partial

from policy_node.cli.executables import run

policy_bench = partial(run, "policy_bench", "policy_node_bench.cli")
