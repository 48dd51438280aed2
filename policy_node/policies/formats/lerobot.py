# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The format `lerobot`: folders of LeRobot's `save_pretrained`, whose configuration and processors are data."""

from __future__ import annotations

from policy_node.policies.folder import lists
from policy_node.policies.formats import PolicyFormat, lazily

_read = lazily("lerobot", "read_lerobot")

FORMAT = PolicyFormat(
    name="lerobot",
    title="a folder of LeRobot",
    description="ACT, Diffusion and SmolVLA of LeRobot: the folder of `save_pretrained`, with its processors",
    suffixes=(),
    load=lambda file: _read(file).build(file),
    matches=lists("config.json", "model.safetensors"),
    inspect=lazily("lerobot", "inspect_lerobot"),
    requires=("lerobot",),
    runs_code=False,
    read=_read,
)
