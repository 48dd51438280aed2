# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The format `skrl`: training checkpoints of skrl, read as tensors only."""

from __future__ import annotations

from policy_node.policies.checkpoints import has_names
from policy_node.policies.formats import PolicyFormat, lazily

_read = lazily("checkpoints.skrl", "read_skrl")
_inspect = lazily("inspection", "inspect_checkpoint")

FORMAT = PolicyFormat(
    name="skrl",
    title="a training checkpoint of skrl",
    description="weights of skrl, `agent_*.pt`",
    suffixes=(),
    load=lambda file: _read(file).build(file),
    matches=has_names((b"policy", b"log_std_parameter"), (b"policy", b"policy_layer."), (b"policy", b"_preprocessor")),
    inspect=lambda file: _inspect(_read, file),
    runs_code=False,
    read=_read,
)
