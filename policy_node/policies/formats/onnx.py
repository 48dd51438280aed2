# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The format `onnx`: ONNX files of any trainer, run with onnxruntime."""

from __future__ import annotations

from policy_node.policies.formats import PolicyFormat, lazily

FORMAT = PolicyFormat(
    name="onnx",
    title="an ONNX file",
    description="any trainer",
    suffixes=(".onnx",),
    load=lazily("onnx", "load_onnx"),
    requires=("onnx", "onnxruntime", "onnxscript"),
    runs_code=False,
    write=lazily("onnx", "write_onnx"),
)
