# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""A policy that cannot be loaded as configured is refused with the parameter to correct."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from policy_node.config.schema import ConfigurationError, parse_configuration
from policy_node.ros.deployment import load_configured

ONNX = Path(__file__).parents[1] / "data" / "point_mass.onnx"


def refusal(file: Path, **changes: Any) -> str:
    """Return why a policy is refused; `__` stands for a dot."""
    parameters = {
        "robots": ["robot"],
        "control_rate_hz": 10.0,
        "policy.path": str(file),
        "policy.trusted": True,
        "observations.keys": ["joints"],
        "observations.joints.topic": "joints",
        "observations.joints.type": "std_msgs/msg/Float32MultiArray",
        "action.topic": "cmd_vel",
        "action.type": "geometry_msgs/msg/Twist",
        "action.fields": ["linear.x", "angular.z"],
        "action.safe_command": [0.0, 0.0],
    }
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    with pytest.raises(ConfigurationError) as caught:
        load_configured(parse_configuration({**parameters, **changes}))
    return str(caught.value)


def test_a_missing_shape_is_named_by_the_configured_key(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(3, 2)), tmp_path / "policy.pt")
    assert refusal(tmp_path / "policy.pt").startswith("observations.joints.shape: policy file")


@pytest.mark.parametrize(
    ("changes", "starts"),
    [
        ({"policy__low": [-1.0, -1.0, -1.0]}, "policy.low: the bounds do not fit policy file"),
        ({"policy__vecnormalize": "v.pkl"}, "policy.vecnormalize: policy file"),
        ({"policy__memory": ["h"]}, "policy.memory: the memory 'h' is not written as"),
        ({"policy__activation": "elu"}, "policy.activation does not apply to an ONNX file"),
        ({"observations__joints__shape": [7]}, "observations.joints.shape: policy file"),
        ({"policy__path": "missing.onnx"}, "policy.path: policy file"),
    ],
)
def test_the_parameter_of_a_fault_is_named(changes: dict[str, Any], starts: str) -> None:
    assert refusal(ONNX, **changes).startswith(starts)
