# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""ONNX files for one robot: their robots axis is opened, or robots run one after another, with the same actions."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from policy_conformance import load_trusted

from policy_node.policies import Policy, PolicyInterface
from policy_node.policies.onnx_batch import branches_on_values


def write(
    file: Path, nodes: Sequence[Any], shape: Sequence[int] = (1, 2, 3), memory: Sequence[int] = (), **constants: Any
) -> Path:
    """Write a model from `x` (and `h`) to `action` (and `h_out`)."""
    rng = np.random.default_rng(0)
    given = {
        "w": rng.normal(size=(6, 4)).astype(np.float32),
        **{name: np.array(value, np.int64) for name, value in constants.items()},
    }
    used = {name for node in nodes for name in node.input}
    values = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    results = [helper.make_tensor_value_info("action", TensorProto.FLOAT, None)]
    if memory:
        values.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, memory))
        results.append(helper.make_tensor_value_info("h_out", TensorProto.FLOAT, memory))
    tensors = [numpy_helper.from_array(value, name) for name, value in given.items() if name in used]
    graph = helper.make_graph(nodes, "policy", values, results, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)
    return file


def node(kind: str, inputs: str, output: str, **attributes: Any) -> Any:
    return helper.make_node(kind, inputs.split(), output.split(), **attributes)


def load_saying(file: Path, **interface: Any) -> tuple[Policy, str]:
    """Return the policy and the warnings of its loading."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        policy = load_trusted(file, interface=PolicyInterface(**interface))
    return policy, "\n".join(str(warning.message) for warning in caught)


def assert_equal_alone(policy: Policy, steps: int = 4) -> None:
    together, alone = policy.initial_state(5), [policy.initial_state(1) for _ in range(5)]
    for _ in range(steps):
        observations = torch.randn(5, *policy.spec.observations["observation"].shape)
        actions, together = policy(observations, together)
        for row in range(5):
            expected, alone[row] = policy(observations[row, None], alone[row])
            torch.testing.assert_close(actions[row, None], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        ([node("Reshape", "x s", "f"), node("MatMul", "f w", "action")], {"s": [1, 6]}),
        ([node("Reshape", "x s", "f"), node("MatMul", "f w", "action")], {"s": [1, -1]}),
        ([node("Reshape", "x s", "f"), node("MatMul", "f w", "action")], {"s": [-1, 6]}),
        ([node("Flatten", "x", "f"), node("MatMul", "f w", "action")], {}),
        # The robots are merged with the second axis in between.
        (
            [
                node("Reshape", "x s", "m"),
                node("Softmax", "m", "n", axis=-1),
                node("Reshape", "n t", "f"),
                node("MatMul", "f w", "action"),
            ],
            {"s": [2, 3], "t": [1, 6]},
        ),
        # The robots axis moves to the second place and back.
        (
            [
                node("Transpose", "x", "p", perm=[1, 0, 2]),
                node("Reshape", "p s", "q"),
                node("Transpose", "q", "r", perm=[1, 0, 2]),
                node("Reshape", "r t", "f"),
                node("MatMul", "f w", "action"),
            ],
            {"s": [2, 1, 3], "t": [1, 6]},
        ),
    ],
)
def test_the_robots_axis_is_opened_through_reshapes(tmp_path, nodes, constants):
    policy, said = load_saying(write(tmp_path / "policy.onnx", nodes, **constants))
    assert policy.how_it_runs == "one batch, opened"
    assert said == ""
    assert_equal_alone(policy)


def test_memory_with_robots_on_another_axis_is_opened(tmp_path):
    nodes = [
        node("Reshape", "x s", "f"),
        node("MatMul", "f w", "m"),
        node("Add", "m h", "h_out"),
        node("ReduceSum", "h_out a", "action", keepdims=0),
    ]
    file = write(tmp_path / "policy.onnx", nodes, memory=(2, 1, 4), s=[1, 6], a=[0])
    policy, said = load_saying(file, memory=(("h", "h_out"),))
    assert (policy.how_it_runs, said) == ("one batch, opened", "")
    assert policy.spec.memory["h"].shape == (2, 4)
    assert_equal_alone(policy)


def test_a_model_that_would_mix_robots_runs_one_after_another(tmp_path):
    nodes = [
        node("Reshape", "x s", "f"),
        node("ReduceMean", "f", "m", keepdims=0),
        node("Sub", "f m", "d"),
        node("MatMul", "d w", "action"),
    ]
    policy, said = load_saying(write(tmp_path / "policy.onnx", nodes, s=[1, 6]))
    assert "is run robot after robot: it was exported for a batch of 1, and opened for several robots it acts" in said
    assert_equal_alone(policy)


def test_a_model_that_branches_on_numbers_runs_one_after_another(tmp_path):
    branches = {
        f"{name}_branch": helper.make_graph(
            [node("Identity" if name == "then" else "Neg", "f", name)],
            name,
            [],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)],
        )
        for name in ("then", "else")
    }
    nodes = [
        node("Reshape", "x s", "f"),
        node("ReduceSum", "f", "m", keepdims=0),
        node("Greater", "m z", "c"),
        node("If", "c", "action", **branches),
    ]
    file = write(tmp_path / "policy.onnx", nodes, s=[1, 6], z=0)
    model = onnx.load(file)
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.array(0, np.float32), "z"))
    assert branches_on_values(model) == "If"
    onnx.save(model, file)
    policy, said = load_saying(file)
    assert "is run robot after robot: its 'If' depends on numbers in its inputs" in said
    assert_equal_alone(policy)
