# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Export a network to ONNX with as few operations as its numbers need.

After a pause each operation takes longer than a small network computes in it. onnxruntime removes some itself, but
neither reshapes that change nothing nor the factor that turns bytes into shares of 255.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from policy_node.engines.tracing import tracing

OPSET = 18
# Operations that may leave their first input as it is.
_MAY_BE_COPIES = frozenset({"Cast", "Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})


def export_lean(
    network: nn.Module,
    inputs: Sequence[torch.Tensor],
    input_names: Sequence[str] = (),
    output_names: Sequence[str] = (),
) -> bytes:
    """Return a network as an ONNX model for inputs of these shapes."""
    content = io.BytesIO()
    names: dict[str, Any] = {"input_names": list(input_names), "output_names": list(output_names)}
    with tracing():
        # The older of PyTorch's exporters: on these networks it takes 0.05 s, the other one 2 s.
        export: Any = torch.onnx.export  # its stubs know no file in memory
        export(network, tuple(inputs), content, dynamo=False, opset_version=OPSET, **names)
    return lean(content.getvalue())


def lean(content: bytes) -> bytes:
    """Return an ONNX model of fixed shapes without copies, and with factors of convolutions in their weights."""
    import onnx

    model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(content))
    if any(attribute.HasField("g") or attribute.graphs for node in model.graph.node for attribute in node.attribute):
        # The graphs inside may use any value.
        return content
    _remove_copies(model.graph)
    _fold_factors(model.graph)
    return model.SerializeToString()


def _uses(graph: Any) -> Counter[str]:
    """Return how often each value is used, also as an output."""
    uses = Counter(name for node in graph.node for name in node.input)
    uses.update(output.name for output in graph.output)
    return uses


def _replace_input(graph: Any, old: str, new: str) -> None:
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = new


def _remove_copies(graph: Any) -> None:
    """Remove operations whose result is their first input."""
    types = {info.name: info.type for info in (*graph.value_info, *graph.input, *graph.output)}
    made = {name: node for node in graph.node for name in node.output}
    outputs = {output.name for output in graph.output}
    uses = _uses(graph)
    for node in [node for node in graph.node if node.op_type in _MAY_BE_COPIES]:
        given, result = node.input[0], node.output[0]
        if given not in types or result not in types or not _are_equal(types[given], types[result]):
            continue
        if result not in outputs:
            _replace_input(graph, result, given)
            uses[given] += uses[result] - 1
        elif given in made and given not in outputs and uses[given] == 1:
            maker = made[given]
            maker.output[list(maker.output).index(given)] = result
            made[result] = maker
        else:
            continue
        graph.node.remove(node)


def _are_equal(one: Any, other: Any) -> bool:
    """Return whether two values have the same dtype and the same known shape."""
    known = all(axis.HasField("dim_value") for axis in one.tensor_type.shape.dim)
    return bool(known and one.tensor_type.HasField("shape") and one == other)


def _fold_factors(graph: Any) -> None:
    """Multiply the weights of convolutions by the factor of their input, where that is all that follows from it."""
    import onnx

    weights = {tensor.name: tensor for tensor in graph.initializer}
    constants = {
        node.output[0]: attribute.t
        for node in graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    }
    uses = _uses(graph)
    convolutions = {node.input[0]: node for node in graph.node if node.op_type == "Conv"}
    for node in [node for node in graph.node if node.op_type in ("Div", "Mul")]:
        follower, factor = convolutions.get(node.output[0]), {**weights, **constants}.get(node.input[1])
        if follower is None or factor is None or uses[node.output[0]] != 1:
            continue
        weight, number = weights.get(follower.input[1]), onnx.numpy_helper.to_array(factor).astype(np.float64)
        if weight is None or uses[weight.name] != 1 or number.size != 1:
            continue
        array = onnx.numpy_helper.to_array(weight)
        scaled = array / number.item() if node.op_type == "Div" else array * number.item()
        weight.CopyFrom(onnx.numpy_helper.from_array(scaled.astype(array.dtype), weight.name))
        follower.input[0] = node.input[0]
        graph.node.remove(node)
