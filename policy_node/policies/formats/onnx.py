# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The format `onnx`: ONNX files of any trainer, run with onnxruntime."""

from __future__ import annotations

from pathlib import Path

from policy_node.policies.contract import Policy
from policy_node.policies.formats import ExportSource, PolicyFile, PolicyFormat


def _load(file: PolicyFile) -> Policy:
    from policy_node.policies.onnx import load_onnx

    return load_onnx(file)


def _write(source: ExportSource, output: Path) -> None:
    from policy_node.policies.onnx import write_onnx

    write_onnx(source, output)


FORMAT = PolicyFormat(
    name="onnx",
    title="an ONNX file",
    description="any trainer",
    suffixes=(".onnx",),
    load=_load,
    requires=("onnx", "onnxruntime", "onnxscript"),
    runs_code=False,
    write=_write,
)
