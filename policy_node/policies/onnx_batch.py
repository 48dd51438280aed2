# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Open the robots axis of an ONNX model that was exported for one robot."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper, shape_inference

ROBOTS = "robots"
# Stands for the number of robots while shapes are inferred; it divides no length of a network.
_MANY = 1_000_003
_SHAPES = ("Shape", "Size")


def branches_on_values(model: onnx.ModelProto) -> str:
    """Return the operation whose branch or number of rounds depends on the numbers in an input; empty without one."""
    producers = {name: node for node in model.graph.node for name in node.output}
    inputs = {value.name for value in model.graph.input}
    for node in model.graph.node:
        if node.op_type not in ("If", "Loop"):
            continue
        waiting, seen = list(node.input[: 1 if node.op_type == "If" else 2]), set()
        while waiting:
            name = waiting.pop()
            if name in inputs:
                return str(node.op_type)
            producer = producers.get(name)
            if name not in seen and producer is not None and producer.op_type not in _SHAPES:
                waiting += producer.input
            seen.add(name)
    return ""


def open_batch(model: onnx.ModelProto, axes: Mapping[str, int]) -> bytes | None:
    """Return a model for one robot as a model for any number of robots; None if its shapes do not allow it.

    Parameters
    ----------
    model
        With its weights inside. It is left as it was.
    axes
        Robots axis by input.

    Returns
    -------
    bytes or None
        The serialised model, with the symbol `ROBOTS` as length of these axes. Reshapes to a constant shape keep the
        robots apart. Whether it computes the same is left to a comparison.
    """
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    graph = opened.graph
    before = _shapes(model)
    given = {value.name for value in graph.input} - {tensor.name for tensor in graph.initializer}
    del graph.value_info[:]
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    for value in graph.input:
        if value.name in given:
            axis = axes.get(value.name, 0)
            if len(value.type.tensor_type.shape.dim) <= axis:
                return None
            value.type.tensor_type.shape.dim[axis].dim_value = _MANY
    try:
        for node in graph.node:
            if node.op_type == "Reshape":
                _open_reshape(opened, node, before)
    except ValueError:
        return None
    for value in graph.input:
        if value.name in given:
            value.type.tensor_type.shape.dim[axes.get(value.name, 0)].dim_param = ROBOTS
    return opened.SerializeToString()


def _open_reshape(model: onnx.ModelProto, node: Any, before: Mapping[str, tuple[int, ...]]) -> None:
    """Give a Reshape to a constant shape an open length where the robots are; raises ValueError if that is unknown."""
    if node.input[1] not in _constants(model):
        return
    many = _shapes(model).get(node.input[0])
    old, target = before.get(node.input[0]), before.get(node.output[0])
    if many is None or old is None or target is None:
        raise ValueError("a shape is unknown")
    axis = next((axis for axis, length in enumerate(many) if length % _MANY == 0 and length), None)
    if axis is None:
        return
    # Row by row, the robots lie between the lengths before and after their axis; so they must afterwards.
    lead = math.prod(old[:axis])
    fitting = [place for place in range(len(target)) if math.prod(target[:place]) == lead]
    if not fitting:
        raise ValueError("the robots are merged with another axis")
    own = [place for place in fitting if target[place] == 1] or fitting
    place = axis if axis in own else own[0]
    shape = [-1 if index == place else length for index, length in enumerate(target)]
    name = f"{node.output[0]}.open_shape"
    model.graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), name))
    node.input[1] = name


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the shapes that can be inferred and are fixed, by name."""
    inferred = shape_inference.infer_shapes(model, data_prop=True)
    found: dict[str, tuple[int, ...]] = {}
    for value in (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            found[value.name] = tuple(dim.dim_value for dim in dims)
    return found


def _constants(model: onnx.ModelProto) -> set[str]:
    """Return the names of the tensors that are constants."""
    nodes = (name for node in model.graph.node if node.op_type == "Constant" for name in node.output)
    return {*nodes, *(tensor.name for tensor in model.graph.initializer)}
