# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Images that may be several grey ones are not taken for one with an alpha channel without a word."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from gymnasium import spaces
from onnx import TensorProto, helper
from policy_conformance import load_trusted

from policy_node.config.schema import Configuration, ConfigurationError, parse_configuration
from policy_node.control.pairing import match_observations
from policy_node.policies import Policy, load_policy
from policy_node_bench.harness.untrained import untrained_model

HINT = r"observations.camera: the policy wants 4 channels, .*4 = 4 × 1, trained with VecFrameStack\(4\).*`stack: 4`"


def configuration(**camera: Any) -> Configuration:
    entries = {"topic": "camera", "type": "sensor_msgs/msg/Image", **camera}
    return parse_configuration(
        {
            "robots": ["robot"],
            "control_rate_hz": 10.0,
            "policy.path": "model.zip",
            "observations.keys": ["camera"],
            **{f"observations.camera.{name}": value for name, value in entries.items()},
            "action.topic": "cmd_vel",
            "action.type": "geometry_msgs/msg/Twist",
            "action.fields": ["linear.x", "angular.z"],
            "action.safe_command": [0.0, 0.0],
        }
    )


def policy(folder: Path, shape: tuple[int, ...]) -> Policy:
    space = spaces.Dict({"camera": spaces.Box(0, 255, shape, np.uint8)})
    untrained_model(space, spaces.Box(-1.0, 1.0, (2,), np.float32)).save(folder / "model.zip")
    return load_trusted(folder / "model.zip")


@pytest.mark.parametrize("shape", [(36, 40, 4), (4, 36, 40)])
def test_four_channels_are_named(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.warns(UserWarning, match=HINT):
        match_observations(configuration(), policy(tmp_path, shape))


@pytest.mark.parametrize(
    ("shape", "camera"),
    [((36, 40, 4), {"encoding": "rgba8"}), ((36, 40, 4), {"stack": 4}), ((36, 40, 3), {}), ((4, 36, 40), {"stack": 4})],
)
def test_what_is_said_or_clear_needs_no_warning(tmp_path: Path, shape: tuple[int, ...], camera: dict[str, Any]) -> None:
    model = policy(tmp_path, shape)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        match_observations(configuration(**camera), model)


def test_an_input_that_may_be_memory_is_said_to_be_one(tmp_path: Path) -> None:
    """A recurrent ONNX file without `policy.memory`."""
    ports = {"camera": 4, "h_in": 8, "actions": 4, "h_out": 8}
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["robots", size]) for name, size in ports.items()]
    nodes = [helper.make_node("Tanh", ["camera"], ["actions"]), helper.make_node("Tanh", ["h_in"], ["h_out"])]
    model = helper.make_model(
        helper.make_graph(nodes, "recurrent", infos[:2], infos[2:]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.save(model, tmp_path / "policy.onnx")
    hint = r"'h_in' is missing, the policy needs it; if it is memory .*, give policy\.memory: \['h_in=h_out'\]"
    vector = configuration(type="std_msgs/msg/Float32MultiArray")
    with pytest.raises(ConfigurationError, match=hint):
        match_observations(vector, load_policy(tmp_path / "policy.onnx"), {"camera": None})
