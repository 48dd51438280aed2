# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Images that may be several grey ones are not taken for one with an alpha channel without a word."""

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from gymnasium import spaces
from onnx import TensorProto, helper
from policy_conformance import load_trusted

from policy_node.config.schema import Configuration, ConfigurationError, parse_configuration
from policy_node.config.specs import ArraySpec, PolicySpec
from policy_node.control.pairing import match_observations, side_by_side
from policy_node.policies import Policy, load_policy
from policy_node_bench.harness.untrained import untrained_model

HINT = (
    r"^observations\.camera: the policy wants 4 channels, and images are converted to colours with alpha; name their "
    r"encoding, or, for 4 = 4 × 1, trained with VecFrameStack\(4\) on grey images, set `stack: 4`$"
)


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


def test_all_that_is_configured_is_shown_beside_what_the_policy_wants() -> None:
    vector = {"topic": "vector", "type": "std_msgs/msg/Float64MultiArray"}
    observations: dict[str, Any] = {
        "camera": {"topic": "camera", "type": "sensor_msgs/msg/Image", "stack": 2, "stack_order": "newest_first"},
        "joints": {
            "topic": "joints",
            "type": "sensor_msgs/msg/JointState",
            "field": "position",
            "joints": ["hip", "knee"],
            "history": 3,
        },
        "odometry": {"topic": "odom", "type": "nav_msgs/msg/Odometry", "fields": ["twist.twist.linear.x"]},
        "isaac": {**vector, "stack": 2, "stack_as": "isaac_lab", "stack_grouping": "by_time"},
        "parts": {"terms": ["a", "b"], "stack": 3, "a": {**vector, "stack": 2}, "b": {"kind": "step"}},
    }
    several = parse_configuration(
        {
            "robots": ["robot"],
            "control_rate_hz": 10.0,
            "policy": {"path": "model.zip"},
            "observations": {"keys": list(observations), **observations},
            "action": {**vector, "topic": "command", "safe_command": [0.0]},
        }
    )
    wanted = {"camera": ArraySpec("camera", (8, 9, 6), np.uint8, 0, 255), "x": ArraySpec("x", (2,), np.float32, -1, 1)}
    width = len(str(wanted["camera"]))
    assert width > max(len("policy wants"), len(str(wanted["x"])))
    spec = PolicySpec(wanted, ArraySpec("action", (2,), np.float32, -1, 1), "PPO", "")
    shown = side_by_side(several, SimpleNamespace(spec=spec))  # type: ignore[arg-type]
    rows = [
        ("key", "policy wants", "configured sensor"),
        ("camera", str(wanted["camera"]), "sensor_msgs/msg/Image on camera, stack 2, newest first"),
        ("x", str(wanted["x"]), "not configured"),
        (
            "joints",
            "not there",
            "sensor_msgs/msg/JointState on joints, field position, joints ['hip', 'knee'], history 3",
        ),
        ("odometry", "not there", "nav_msgs/msg/Odometry on odom, field ['twist.twist.linear.x']"),
        ("isaac", "not there", "std_msgs/msg/Float64MultiArray on vector, stack 2 as isaac_lab, grouped by_time"),
        ("parts", "not there", "terms a (stack 2), b, stack 3"),
    ]
    assert shown.splitlines() == [f"  {key:<8}  {spec:<{width}}  {sensor}" for key, spec, sensor in rows]
