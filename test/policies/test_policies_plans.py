# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Files of every format whose action has a horizon: plans `[robots, horizon, components]`."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from policy_node.config.specs import ArraySpec, DiscreteSpec
from policy_node.policies import PolicyError, PolicyInterface, load_policy
from policy_node.policies.description import spec_from_json, spec_to_json

OBSERVATIONS, HORIZON, COMPONENTS = 3, 5, 2
WEIGHTS = np.random.default_rng(0).normal(size=(OBSERVATIONS, HORIZON * COMPONENTS)).astype(np.float32)


class Planner(torch.nn.Module):
    """Plans a product of the observations."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(torch.from_numpy(WEIGHTS))

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        return (observation @ self.weights).reshape(-1, 5, 2)


def write_torchscript(file: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(Planner()).save(str(file.with_suffix(".ts")))
    return file.with_suffix(".ts")


def write_exported(file: Path) -> Path:
    robots = torch.export.Dim("robots", min=1)
    program = torch.export.export(Planner(), (torch.zeros(3, OBSERVATIONS),), dynamic_shapes=({0: robots},))
    torch.export.save(program, file.with_suffix(".pt2"))
    return file.with_suffix(".pt2")


def write_onnx(file: Path, shape: tuple[int, ...] = (HORIZON, COMPONENTS), to: int = TensorProto.FLOAT) -> Path:
    constants = {"weights": WEIGHTS, "shape": np.array([-1, *shape])}
    nodes = [
        helper.make_node("MatMul", ["observation", "weights"], ["product"]),
        helper.make_node("Reshape", ["product", "shape"], ["shaped"]),
        helper.make_node("Cast", ["shaped"], ["actions"], to=to),
    ]
    graph = helper.make_graph(
        nodes,
        "plans",
        [helper.make_tensor_value_info("observation", TensorProto.FLOAT, ["robots", OBSERVATIONS])],
        [helper.make_tensor_value_info("actions", to, ["robots", *shape])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(file.with_suffix(".onnx")))
    return file.with_suffix(".onnx")


@pytest.mark.parametrize("write", [write_torchscript, write_exported, write_onnx])
@pytest.mark.parametrize("declared", [0, HORIZON])
def test_a_horizon_is_seen_and_may_be_declared(write: Callable[[Path], Path], declared: int, tmp_path: Path) -> None:
    interface = PolicyInterface(horizon=declared, shapes={"observation": (OBSERVATIONS,)}, high=1.0)
    policy = load_policy(write(tmp_path / "plans"), trusted=True, interface=interface)
    assert policy.spec.horizon == HORIZON
    assert isinstance(policy.spec.action, ArraySpec) and policy.spec.action.shape == (COMPONENTS,)
    observations = torch.from_numpy(np.random.default_rng(1).normal(size=(4, OBSERVATIONS)).astype(np.float32))
    observations[2] = torch.nan
    actions, _ = policy(observations)
    expected = np.minimum((observations.numpy() @ WEIGHTS).reshape(4, HORIZON, COMPONENTS), 1.0)
    np.testing.assert_allclose(actions.numpy(), expected, rtol=1e-5, atol=1e-6)
    assert np.isnan(actions[2].numpy()).all()
    # Descriptions in files keep it.
    again = spec_from_json(spec_to_json(policy.spec), policy.spec.sha256)
    assert again.horizon == HORIZON


def test_a_horizon_that_is_declared_must_be_that_of_the_action(tmp_path: Path) -> None:
    file = write_onnx(tmp_path / "plans")
    with pytest.raises(PolicyError, match=r"'actions' is \[5, 2\] for one robot, no 4 future actions; correct horizon"):
        load_policy(file, interface=PolicyInterface(horizon=4))
    flat = write_onnx(tmp_path / "flat", (HORIZON * COMPONENTS,))
    with pytest.raises(PolicyError, match=r"'actions' is \[10\] for one robot, no 5 future actions"):
        load_policy(flat, interface=PolicyInterface(horizon=5))
    assert load_policy(flat).spec.horizon == 0


def test_one_action_with_an_axis_is_no_plan_unless_that_is_declared(tmp_path: Path) -> None:
    file = write_onnx(tmp_path / "one", (1, HORIZON * COMPONENTS))
    assert load_policy(file).spec.horizon == 0
    policy = load_policy(file, interface=PolicyInterface(horizon=1))
    assert policy.spec.horizon == 1 and policy.spec.action.shape == (HORIZON * COMPONENTS,)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("shape", "to"), [((HORIZON, COMPONENTS), TensorProto.FLOAT), ((HORIZON * COMPONENTS,), TensorProto.INT64)]
)
def test_choices_are_planned_from_logits_and_from_indices(shape: tuple[int, ...], to: int, tmp_path: Path) -> None:
    policy = load_policy(write_onnx(tmp_path / "choices", shape, to), interface=PolicyInterface(discrete=COMPONENTS))
    assert policy.spec.horizon == shape[0] and isinstance(policy.spec.action, DiscreteSpec)
    observations = torch.ones(2, OBSERVATIONS)
    actions, _ = policy(observations)
    product = (observations.numpy() @ WEIGHTS).reshape(2, *shape)
    indices = product.astype(int)
    expected = product.argmax(axis=2) if len(shape) == 2 else np.where((indices >= 0) & (indices < 2), indices, -1)
    np.testing.assert_array_equal(actions.numpy(), expected)
