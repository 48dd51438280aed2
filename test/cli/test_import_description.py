# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""`policy_export import` writes the parameter file of a trainer's description."""

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from policy_node.cli.import_description import main
from policy_node.config.parameter_file import read_parameter_file
from policy_node.config.schema import parse_configuration


def write_policy(path: Path, metadata: dict[str, str]) -> Path:
    """Write an ONNX file that gives the action unchanged, with metadata."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["robots", 2]) for name in ("obs", "actions")]
    graph = helper.make_graph([helper.make_node("Identity", ["obs"], ["actions"])], "policy", ports[:1], ports[1:])
    model = helper.make_model(graph)
    helper.set_model_props(model, metadata)
    onnx.save(model, str(path))
    return path


def test_the_parameter_file_of_a_policy_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metadata = {
        "joint_names": "hip,knee",
        "default_joint_pos": "0.1,-1.5",
        "observation_names": "joint_pos",
        "action_scale": "0.25",
    }
    source = write_policy(tmp_path / "policy.onnx", metadata)
    output = tmp_path / "new" / "parameters.yaml"
    assert main([str(source), "--output", str(output)]) == 0
    shown = capsys.readouterr().out
    assert f"{output}: from metadata of an ONNX file" in shown and "missing: nothing" in shown
    configuration = parse_configuration(read_parameter_file(output))
    assert (configuration.policy.path, configuration.action.offset) == (str(source), (0.1, -1.5))


def test_what_is_missing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_policy(tmp_path / "policy.onnx", {"dof_names": '["hip", "knee"]'})
    assert main([str(source), "--output", str(tmp_path / "parameters.yaml")]) == 0
    assert "missing: observations.obs.terms, action.scale, action.offset" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("output", "error"), [("policy.onnx/x", "cannot be written"), ("x", "has no description inside, nor beside it")]
)
def test_errors_end_with_status_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], output: str, error: str
) -> None:
    metadata = {"joint_names": "hip,knee"} if "/" in output else {}
    source = write_policy(tmp_path / "policy.onnx", metadata)
    assert main([str(source), "--output", str(tmp_path / output)]) == 1
    assert error in capsys.readouterr().err
