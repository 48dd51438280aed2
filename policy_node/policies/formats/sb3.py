# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The format `sb3`: files of ``model.save`` of Stable-Baselines3 and sb3-contrib."""

from __future__ import annotations

from policy_node.policies.archive import has_members
from policy_node.policies.formats import PolicyFormat, lazily

_read_sb3 = lazily("sb3", "read_sb3")


FORMAT = PolicyFormat(
    name="sb3",
    title="a .zip file of Stable-Baselines3",
    description="Stable-Baselines3, sb3-contrib",
    suffixes=(".zip",),
    load=lazily("sb3", "load_sb3"),
    matches=has_members("data", "policy.pth"),
    inspect=lazily("inspection", "inspect_sb3"),
    is_zip=True,
    without_trust="export it to a bundle with policy_export",
    takes_statistics=True,
    draws=True,
    read=lambda file: _read_sb3(file.content, file.path),
)
