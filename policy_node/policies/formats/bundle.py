# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The format `bundle`: policies that `policy_export` wrote as data, with normalisation and golden vectors."""

from __future__ import annotations

from policy_node.policies.archive import has_members
from policy_node.policies.formats import PolicyFormat, lazily

FORMAT = PolicyFormat(
    name="bundle",
    title="a bundle",
    description="data only, with normalisation and golden vectors inside (`policy_export`)",
    suffixes=(".bundle",),
    load=lazily("bundle", "load_bundle"),
    matches=has_members("policy.json", "weights.safetensors"),
    inspect=lazily("inspection", "inspect_bundle"),
    is_zip=True,
    runs_code=False,
    draws=True,
    requires=("safetensors",),
    write=lazily("bundle", "write_bundle"),
)
