# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The format `bundle`: a policy of Stable-Baselines3 as data only, with normalisation and golden vectors."""

from __future__ import annotations

from pathlib import Path

from policy_node.policies.contract import Policy
from policy_node.policies.formats import ExportSource, PolicyFile, PolicyFormat


def _load(file: PolicyFile) -> Policy:
    from policy_node.policies.bundle import load_bundle

    return load_bundle(file)


def _write(source: ExportSource, output: Path) -> None:
    from policy_node.policies.bundle import bundle_to_bytes

    output.write_bytes(bundle_to_bytes(source))


FORMAT = PolicyFormat(
    name="bundle",
    title="a bundle",
    description="Stable-Baselines3 as data only, with normalisation and golden vectors inside (`policy_export`)",
    suffixes=(".bundle",),
    load=_load,
    is_zip=True,
    runs_code=False,
    draws=True,
    write=_write,
)
