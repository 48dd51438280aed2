# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Read the code of a TorchScript module: what a call writes, and whether it branches on values.

A run on examples cannot show this: a module may change its memory at every hundredth call only.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch

# Operations whose result says nothing about the numbers in a tensor.
_SHAPES = {
    "aten::size",
    "aten::dim",
    "aten::len",
    "aten::numel",
    "aten::is_floating_point",
    "prim::Constant",
    "prim::dtype",
    "prim::device",
    "prim::is_cuda",
    "prim::layout",
}
# Operations from a tensor to a number, a text or a length that depends on the numbers in the tensor.
_READS = {
    "aten::Bool",
    "aten::Float",
    "aten::FloatImplicit",
    "aten::Int",
    "aten::IntImplicit",
    "aten::ScalarImplicit",
    "aten::allclose",
    "aten::equal",
    "aten::is_nonzero",
    "aten::item",
    "aten::masked_select",
    "aten::nonzero",
    "aten::str",
    "aten::tolist",
    "aten::unique_consecutive",
    "aten::_unique2",
}
# Calls of code that is not part of the graph.
_UNSEEN = {"prim::CallMethod", "prim::CallFunction", "prim::fork", "prim::PythonOp"}
_CONTAINERS = {"TupleType", "ListType", "DictType"}
_TAKES = {"prim::TupleUnpack", "prim::TupleIndex", "prim::ListUnpack", "prim::unchecked_cast"}


def code_of(module: Any) -> Any:
    """Return the inlined graph of what a TorchScript module computes in evaluation mode, without unreachable code."""
    graph = module.inlined_graph
    torch._C._jit_pass_constant_propagation(graph)
    torch._C._jit_pass_dce(graph)
    return graph


def written_attributes(graph: Any) -> list[str]:
    """Return the dotted names of the attributes that a call of a module may change, in the order of its code.

    Parameters
    ----------
    graph
        From `code_of`.

    Returns
    -------
    list of str
        Attributes that are replaced, or whose tensors and lists are changed in place, and objects whose code is not
        part of the graph. An empty name stands for a tensor that the code holds as a constant.
    """
    found: dict[str, None] = {}
    for node in _nodes(graph):
        if node.kind() == "prim::SetAttr":
            owner = _path(next(iter(node.inputs())))
            found[f"{owner}.{node.s('name')}".lstrip(".")] = None
            continue
        if node.kind() in _UNSEEN:
            found |= dict.fromkeys(map(_path, list(node.inputs())[:1]))
            continue
        for value in _written_values(node):
            found |= dict.fromkeys(_origins(value))
    return list(found)


def read_tensors(graph: Any) -> list[str]:
    """Return the dotted names of the attributes of type Tensor that a call reads."""
    values = [next(iter(node.outputs())) for node in _nodes(graph) if node.kind() == "prim::GetAttr"]
    return list(dict.fromkeys(_path(value) for value in values if str(value.type()) == "Tensor"))


def branches_on_values(graph: Any) -> str:
    """Return the operation by which a call reads numbers from tensors, such as ``aten::Bool``; empty without one."""
    for node in _nodes(graph):
        if node.kind() in _READS and any(_is_data(value, set()) for value in node.inputs()):
            return str(node.kind())
    return ""


def remove_prints(module: Any) -> None:
    """Remove the prints from the code of a module that has not run yet; they would flood the log."""
    for graph in _method_graphs(module):
        for node in [node for node in _nodes(graph) if node.kind() == "prim::Print"]:
            node.destroy()


def open_shapes(module: Any) -> bool:
    """Make the first length of constant shapes open in the code of a module for one robot that has not run yet.

    A shape without an axis for one robot gets one in front. Whether the module then does the same for each robot is
    left to a comparison.

    Returns
    -------
    bool
        Whether there were such shapes.
    """
    opened = False
    for graph in _method_graphs(module):
        for node in [node for node in _nodes(graph) if node.kind() in ("aten::view", "aten::reshape")]:
            shape = list(node.inputs())[1].node()
            lengths = (
                [value.toIValue() for value in shape.inputs()] if shape.kind() == "prim::ListConstruct" else [None]
            )
            if None in lengths or -1 in lengths:
                continue
            constant = graph.insertConstant([-1, *lengths[lengths[:1] == [1] :]])
            constant.node().moveBefore(node)
            node.replaceInput(1, constant)
            opened = True
    return opened


def _method_graphs(module: Any) -> Iterator[Any]:
    for part in module.modules():
        for name in part._c._method_names():
            yield part._c._get_method(name).graph


def _nodes(block: Any) -> Iterator[Any]:
    """Yield all nodes that run in evaluation mode, those of inner blocks after their owner."""
    for node in block.nodes():
        yield node
        blocks = list(node.blocks())
        if node.kind() == "prim::If":
            condition = next(iter(node.inputs())).node()
            if condition.kind() == "prim::GetAttr" and condition.s("name") == "training":
                blocks = blocks[1:]
        for inner in blocks:
            yield from _nodes(inner)


def _path(value: Any) -> str:
    """Return the dotted name of a module or attribute; empty for the module itself and for other values."""
    node = value.node()
    if node.kind() != "prim::GetAttr":
        return ""
    return f"{_path(next(iter(node.inputs())))}.{node.s('name')}".lstrip(".")


def _written_values(node: Any) -> list[Any]:
    """Return the inputs that an operation changes in place."""
    written = _written_places(node.schema())
    values = list(node.inputs())
    return [values[place] for place in written if place < len(values)]


@cache
def _written_places(schema: str) -> tuple[int, ...]:
    if "!" not in schema:
        return ()
    arguments = torch._C.parse_schema(schema).arguments
    return tuple(
        place
        for place, argument in enumerate(arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    )


@cache
def _gives_alias(schema: str) -> bool:
    """Return whether the result of an operation may share memory with its first input."""
    result = schema.rpartition("->")[2]
    return "(a" in result or "(*" in result


def _origins(value: Any) -> Iterator[str]:
    """Yield the attributes whose memory a value may share; an empty name for a constant."""
    waiting, seen = [value], set()
    while waiting:
        value = waiting.pop()
        if value.unique() in seen:
            continue
        seen.add(value.unique())
        node = value.node()
        kind, inputs = node.kind(), list(node.inputs())
        if kind == "prim::GetAttr":
            yield _path(value)
        elif kind == "prim::Constant":
            if str(value.type()) == "Tensor":
                yield ""
        elif list(node.blocks()):
            waiting += [inner for block in node.blocks() for inner in block.outputs()]
            waiting += inputs
        elif kind == "prim::Param":
            # What a round of a loop leaves to the next one begins with an input of the loop.
            loop = node.owningBlock().owningNode()
            waiting += [] if loop is None else loop.inputs()
        elif value.type().kind() in _CONTAINERS:
            # Its items may be those of any input.
            waiting += inputs
        elif kind in _TAKES or _gives_alias(node.schema()):
            waiting += inputs[:1]


def _is_data(value: Any, seen: set[int]) -> bool:
    """Return whether a value depends on the numbers in an input or attribute, not only on shapes and constants."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if value.unique() in seen:
            continue
        seen.add(value.unique())
        node = value.node()
        kind = node.kind()
        if kind in _SHAPES:
            continue
        if kind == "prim::Param":
            return True
        if kind == "prim::GetAttr":
            if str(value.type()) not in ("int", "float", "bool", "str", "Device"):
                return True
            continue
        if list(node.blocks()):
            waiting += [inner for block in node.blocks() for inner in block.outputs()]
        waiting += list(node.inputs())
    return False
