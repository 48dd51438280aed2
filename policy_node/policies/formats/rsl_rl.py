# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The format `rsl_rl`: training checkpoints of rsl_rl, read as tensors only."""

from __future__ import annotations

from policy_node.policies.checkpoints import has_names
from policy_node.policies.formats import PolicyFormat, lazily

_read = lazily("checkpoints.rsl_rl", "read_rsl_rl")
_inspect = lazily("inspection", "inspect_checkpoint")

FORMAT = PolicyFormat(
    name="rsl_rl",
    title="a training checkpoint of rsl_rl",
    description="weights of rsl_rl, `model_*.pt`",
    suffixes=(),
    load=lambda file: _read(file).build(file),
    matches=has_names((b"actor_state_dict",), (b"student_state_dict",), (b"model_state_dict",)),
    inspect=lambda file: _inspect(_read, file),
    runs_code=False,
    read=_read,
)
