# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The format `rl_games`: training checkpoints of rl_games, read as tensors only."""

from __future__ import annotations

from policy_node.policies.checkpoints import has_names
from policy_node.policies.formats import PolicyFormat, lazily

_read = lazily("checkpoints.rl_games", "read_rl_games")
_inspect = lazily("inspection", "inspect_checkpoint")

FORMAT = PolicyFormat(
    name="rl_games",
    title="a training checkpoint of rl_games",
    description="weights of PPO of rl_games",
    suffixes=(".pth",),
    load=lambda file: _read(file).build(file),
    matches=has_names((b"a2c_network.",), (b"sac_network.",)),
    inspect=lambda file: _inspect(_read, file),
    runs_code=False,
    read=_read,
)
