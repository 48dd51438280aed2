# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The format `onnx`: ONNX files of any trainer, run with onnxruntime."""

from __future__ import annotations

from policy_node.policies.formats import PolicyFormat, lazily

# Number of the graph among the fields of ONNX's ModelProto.
_GRAPH = 7
# More than ModelProto has: 26 in 2026.
_FIELDS = 100
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def _matches(content: bytes) -> bool:
    """Return whether a content is a protobuf message with a graph: its fields, but not their parts, are read."""
    position, has_graph = 0, False
    while position < len(content):
        tag, position = _varint(content, position)
        number, kind = tag >> 3, tag & 7
        if not number or kind not in (_VARINT, _FIXED64, _BYTES, _FIXED32):
            return False
        length = {_FIXED64: 8, _FIXED32: 4}.get(kind, 0)
        if kind in (_VARINT, _BYTES):
            value, position = _varint(content, position)
            length = value if kind == _BYTES else 0
        position += length
        has_graph |= (number, kind) == (_GRAPH, _BYTES) and length > 0
    return has_graph and position == len(content)


def _may_begin_with(head: bytes) -> bool:
    """Return whether some bytes begin with a field of ModelProto."""
    tag, _ = _varint(head, 0)
    return tag >> 3 in range(1, _FIELDS) and tag & 7 in (_VARINT, _BYTES)


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """Return a number of protobuf and the position behind it; 0 and a position behind the end where it is none."""
    value = 0
    for index, byte in enumerate(content[position : position + 10]):
        value |= (byte & 127) << 7 * index
        if byte < 128:
            return value, position + index + 1
    return 0, len(content) + 1


FORMAT = PolicyFormat(
    name="onnx",
    title="an ONNX file",
    description="any trainer",
    suffixes=(".onnx",),
    load=lazily("onnx", "load_onnx"),
    matches=_matches,
    may_begin_with=_may_begin_with,
    inspect=lazily("inspection", "inspect_onnx"),
    requires=("onnx", "onnxruntime", "onnxscript"),
    runs_code=False,
    write=lazily("onnx", "write_onnx"),
)
