# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Descriptions of trainers: ONNX metadata, deploy.yaml and LEAPP become parameters that the node takes."""

import copy
import json
import re
import threading
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from policy_node.config import files
from policy_node.config.parameter_file import parse_parameters
from policy_node.config.schema import Configuration, ConfigurationError, parse_configuration
from policy_node.policies import PolicyError
from policy_node.policies.described_parameters import FilledIn, described_parameters, fill_in, parameter_file
from policy_node.policies.descriptions import DESCRIPTIONS, find_description, read_description
from policy_node.ros.deployment import deploy

JOINTS = ("hip", "thigh", "calf")
POSE = (0.1, 0.9, -1.8)
MJLAB = {
    "run_path": "entity/project/run",
    "joint_names": "hip,thigh,calf",
    "joint_stiffness": "20.000,20.000,40.000",
    "joint_damping": "1.000,1.000,2.000",
    "default_joint_pos": "0.100,0.900,-1.800",
    "command_names": "twist",
    "observation_names": "base_lin_vel,base_ang_vel,projected_gravity,joint_pos,joint_vel,actions,command",
    "action_scale": "0.5",
}
DEPLOY: dict[str, Any] = {
    "joint_ids_map": [3, 4, 5, 0, 1, 2, 9, 10, 11, 6, 7, 8],
    "step_dt": 0.02,
    "stiffness": [float(motor) for motor in range(12)],
    "damping": [1.0] * 12,
    "default_joint_pos": [0.01 * joint for joint in range(12)],
    "commands": {"base_velocity": {"ranges": {"lin_vel_x": [-0.5, 1.0], "heading": None}}},
    "actions": {
        "JointPositionAction": {
            "clip": None,
            "joint_names": [".*"],
            "scale": [0.25] * 12,
            "offset": [0.01 * joint for joint in range(12)],
            "joint_ids": None,
        }
    },
    "observations": {
        "base_ang_vel": {"params": {}, "clip": None, "scale": [0.2] * 3, "history_length": 2},
        "projected_gravity": {"params": {}, "clip": None, "scale": [1.0] * 3, "history_length": 2},
        "velocity_commands": {"params": {}, "clip": [-1.0, 1.0], "scale": [1.0] * 3, "history_length": 2},
        "joint_pos_rel": {"params": {}, "clip": None, "scale": [1.0] * 12, "history_length": 2},
        "joint_vel_rel": {"params": {}, "clip": None, "scale": [0.05] * 12, "history_length": 2},
        "last_action": {"params": {}, "clip": None, "scale": [1.0] * 12, "history_length": 2},
    },
}
# The same with less to read.
SMALL: dict[str, Any] = {
    "joint_ids_map": ["hip", "knee"],
    "step_dt": 0.02,
    "stiffness": [1.0, 2.0],
    "default_joint_pos": [0.0, 1.0],
    "commands": {"base_velocity": {"ranges": {"lin_vel_x": [-0.5, 1.0]}}},
    "actions": {"JointPositionAction": {"clip": [[-1.0, 1.0]], "scale": [0.25], "joint_ids": [0, 1]}},
    "observations": {
        "joint_pos_rel": {"params": {"asset_cfg": {"joint_ids": [1]}}, "clip": [-1, 1], "scale": [2.0]},
        "gait_phase": {"params": {"period": 0.8}, "history_length": 2},
        "scale_first": True,
    },
}
LEAPP: dict[str, Any] = {
    "models": {
        "walk": {
            "inputs": [
                {"name": "robot_joint_pos", "kind": "state/joint/position", "element_names": [list(JOINTS)]},
                {
                    "name": "robot_root_quat_w",
                    "isaaclab_connection": "state:robot:root_link_quat_w",
                    "element_names": [["qw", "qx", "qy", "qz"]],
                },
                {"name": "last_action_in", "shape": [1, 3]},
                {
                    "name": "base_velocity",
                    "isaaclab_connection": "command:base_velocity",
                    "element_names": [["lin_vel_x", "ang_vel_z"]],
                },
            ],
            "outputs": [
                {"name": "last_action_out", "shape": [1, 3]},
                {"name": "target", "kind": "target/joint/position", "element_names": [list(JOINTS)]},
            ],
            "parameters": {"backend": "onnx", "model_path": "walk.onnx"},
        }
    },
    "pipeline": {
        "configs": {"frequency": 40},
        "feedback_flow": {"walk/last_action_out": ["walk/last_action_in"]},
        "inputs": {"walk": ["robot_joint_pos", "robot_root_quat_w", "base_velocity"]},
        "outputs": {"walk": ["target"]},
    },
}


def write_onnx(
    path: Path,
    inputs: Mapping[str, int],
    outputs: Mapping[str, int],
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a network; each output is the sum of the inputs times constants."""
    nodes = [helper.make_node("Concat", list(inputs), ["all"], axis=1)] if len(inputs) > 1 else []
    everything = "all" if len(inputs) > 1 else next(iter(inputs))
    weights = []
    for name, size in outputs.items():
        weight = np.linspace(-1.0, 1.0, sum(inputs.values()) * size, dtype=np.float32).reshape(-1, size)
        weights.append(numpy_helper.from_array(weight, f"weight_{name}"))
        nodes.append(helper.make_node("MatMul", [everything, f"weight_{name}"], [name]))
    taken, given_out = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["robots", size]) for name, size in sizes.items()]
        for sizes in (inputs, outputs)
    )
    graph = helper.make_graph(nodes, "policy", taken, given_out, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    helper.set_model_props(model, dict(metadata or {}))
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))
    return path


def write_deploy(folder: Path, content: Mapping[str, Any] = DEPLOY, inputs: int = 2 * 45) -> Path:
    """Write `params/deploy.yaml` and `exported/policy.onnx` as a trainer does."""
    write_onnx(folder / "exported" / "policy.onnx", {"obs": inputs}, {"actions": 12})
    path = folder / "params" / "deploy.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.dump(dict(content), sort_keys=False))
    return path


def write_leapp(folder: Path, content: Mapping[str, Any] = LEAPP) -> Path:
    """Write `walk.yaml` and `walk.onnx`."""
    inputs = {"robot_joint_pos": 3, "robot_root_quat_w": 4, "last_action_in": 3, "base_velocity": 2}
    write_onnx(folder / "walk.onnx", inputs, {"last_action_out": 3, "target": 3})
    path = folder / "walk.yaml"
    path.write_text(yaml.dump(dict(content), sort_keys=False))
    return path


def configured(path: Path) -> Configuration:
    """Return the configuration of the parameter file of a description."""
    return parse_configuration(parse_parameters(parameter_file(read_description(path)), "the file"))


def test_metadata_of_mjlab_configures_the_node(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "policy.onnx", {"obs": 21}, {"actions": 3}, MJLAB)
    text = parameter_file(read_description(path))
    configuration = configured(path)
    terms = {term.term: term for term in configuration.observations[0].terms}
    assert list(terms) == MJLAB["observation_names"].split(",")
    assert terms["base_lin_vel"].topic == "odom" and terms["base_ang_vel"].topic == "imu/data"
    assert terms["joint_pos"].joints == terms["joint_vel"].joints == JOINTS
    assert terms["joint_pos"].default == POSE and terms["joint_vel"].default == ()
    assert terms["command"].fields == ("linear.x", "linear.y", "angular.z")
    action = configuration.action
    assert (action.joints, action.scale, action.offset, action.safe_command) == (JOINTS, (0.5,), POSE, POSE)
    assert "# stiffness of the joints, for the robot's controllers: [20.0, 20.0, 40.0]" in text
    assert "topic: imu/data  # ASSUMED: topic of the Imu" in text
    assert "command]  # ASSUMED: terms without scale and clip" in text
    assert "control_rate_hz: 50.0  # ASSUMED" in text and "MISSING:" not in text.split("\n", 3)[3]
    assert deploy(configuration).pipeline.components == 3


def test_metadata_of_motion_tracking_give_the_step_and_the_motion_as_outputs_of_the_policy(tmp_path: Path) -> None:
    metadata = {
        **MJLAB,
        "command_names": "motion",
        "observation_names": "command,motion_anchor_ori_b,base_ang_vel,joint_pos,joint_vel,actions",
        "observation_history_lengths": "1.000,1.000,5.000,5.000,5.000,5.000",
        "action_scale": "0.500,0.400,0.300",
    }
    outputs = {"actions": 3, "joint_pos": 3, "joint_vel": 3, "body_pos_w": 3}
    path = write_onnx(tmp_path / "policy.onnx", {"obs": 72, "time_step": 1}, outputs, metadata)
    found = described_parameters(read_description(path))
    values = {name: entry.value for name, entry in found.items()}
    assert values["observations.keys"] == ("obs", "time_step")
    # The outputs at this step are observed at the next one.
    assert values["observations.time_step.step.kind"] == "step"
    assert values["observations.time_step.step.offset"] == (1.0,)
    assert values["observations.obs.terms"][:3] == ("command_joint_pos", "command_joint_vel", "motion_anchor_ori_b")
    assert values["observations.obs.command_joint_vel.kind"] == "policy_output"
    assert values["observations.obs.command_joint_vel.output"] == "joint_vel"
    assert values["observations.obs.stack_as"] == "isaac_lab" and "observations.obs.stack" not in values
    assert values["observations.obs.command_joint_pos.stack"] == 1 and values["observations.obs.joint_pos.stack"] == 5
    assert values["action.scale"] == (0.5, 0.4, 0.3)
    unknown = found["observations.obs.motion_anchor_ori_b.topic"]
    assert unknown.value is None and "MISSING: no topic is known for 'motion_anchor_ori_b'" in unknown.comment


def test_metadata_of_motion_tracking_configure_the_node(tmp_path: Path) -> None:
    metadata = {
        **MJLAB,
        "command_names": "motion",
        "observation_names": "command,base_ang_vel,joint_pos,joint_vel,actions",
        "observation_history_lengths": "1.000,2.000,3.000,3.000,1.000",
    }
    outputs = {"actions": 3, "joint_pos": 3, "joint_vel": 3}
    path = write_onnx(tmp_path / "policy.onnx", {"obs": 6 + 6 + 18 + 3, "time_step": 1}, outputs, metadata)
    deployment = deploy(configured(path))
    assert deployment.pipeline.components == 3
    assert deployment.policy.spec.observations["obs"].shape == (33,)


def test_metadata_of_a_gait_ask_for_its_period(tmp_path: Path) -> None:
    metadata = {**MJLAB, "obs_term_names_sorted": json.dumps(["cos_phase", "dof_pos", "sin_phase"])}
    del metadata["observation_names"]
    path = write_onnx(tmp_path / "policy.onnx", {"actor_obs": 7}, {"action": 3}, metadata)
    found = described_parameters(read_description(path))
    assert found["observations.actor_obs.cos_phase.phase_as"].value == "cos"
    assert found["observations.actor_obs.sin_phase.period_s"].comment == "MISSING: the period of the gait"
    with pytest.raises(ConfigurationError, match=r"observations\.actor_obs\.cos_phase\.period_s"):
        configured(path)


def test_metadata_of_holosoma_say_what_is_missing(tmp_path: Path) -> None:
    metadata = {
        "dof_names": json.dumps(JOINTS),
        "kp": json.dumps([40.0, 99.0, 28.0]),
        "kd": json.dumps([2.0, 6.0, 1.0]),
        "command_ranges": json.dumps({"lin_vel_x": [-1.0, 1.0]}),
    }
    path = write_onnx(tmp_path / "policy.onnx", {"actor_obs": 20}, {"action": 3}, metadata)
    text = parameter_file(read_description(path))
    for line in (
        "# stiffness of the joints, for the robot's controllers: [40.0, 99.0, 28.0]",
        "# commands in training: lin_vel_x [-1.0, 1.0]",
        "terms: 'MISSING: terms, their order and scales; the metadata have no observation_names'",
        "scale: 'MISSING: the factor of the action in training'",
        "offset: 'MISSING: the default pose, to which the action is added'",
    ):
        assert line in text
    with pytest.raises(ConfigurationError) as raised:
        configured(path)
    problems = dict(problem.split(": ", 1) for problem in raised.value.problems)
    assert list(problems) == ["observations.actor_obs.terms", "action.scale", "action.offset"]
    assert "MISSING: terms, their order" in problems["observations.actor_obs.terms"]
    assert "give a list of doubles: Factor" in problems["action.scale"]
    # Terms alone do not make the node drive with a scale that nobody gave.
    values = parse_parameters(text, "the file")
    given = {
        "terms": ["gyro"],
        "gyro.topic": "imu",
        "gyro.type": "sensor_msgs/msg/Imu",
        "gyro.field": "angular_velocity",
    }
    values |= {f"observations.actor_obs.{name}": value for name, value in given.items()}
    with pytest.raises(ConfigurationError, match=r"(?s)^action\.scale: MISSING.*\naction\.offset: MISSING"):
        parse_configuration(values)
    values |= {"action.scale": [0.25], "action.offset": [0.0]}
    assert parse_configuration(values).action.scale == (0.25,)
    with pytest.raises(ConfigurationError, match=r"action\.scale: MISSING.*policy\.onnx does not say it"):
        fill_in({"policy.path": str(path), "policy.description": "auto"})


def test_metadata_with_fewer_actions_than_joints_ask_for_the_joints(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "policy.onnx", {"obs": 20}, {"actions": 2}, {**MJLAB, "action_scale": "0.500,0.400"})
    found = described_parameters(read_description(path))
    assert found["action.joints"].value is None
    assert found["action.joints"].comment == "MISSING: the policy commands 2 of the 3 joints (hip, thigh, calf)"
    assert found["action.scale"].value == (0.5, 0.4)


def test_deploy_yaml_configures_the_node(tmp_path: Path) -> None:
    path = write_deploy(tmp_path)
    text = parameter_file(read_description(path))
    configuration = configured(path)
    observation = configuration.observations[0]
    terms = {term.term: term for term in observation.terms}
    joints = tuple(f"{leg}_{part}_joint" for leg in ("FL", "FR", "RL", "RR") for part in ("hip", "thigh", "calf"))
    assert configuration.control_rate_hz == 50.0
    assert Path(configuration.policy.path) == tmp_path / "exported" / "policy.onnx"
    assert (observation.stack, observation.stack_as) == (2, "isaac_lab")
    assert terms["joint_pos_rel"].joints == terms["joint_vel_rel"].joints == configuration.action.joints == joints
    assert terms["joint_pos_rel"].default == configuration.action.offset == tuple(DEPLOY["default_joint_pos"])
    assert (terms["base_ang_vel"].scale, terms["joint_vel_rel"].scale) == ((0.2,), (0.05,))
    assert terms["velocity_commands"].clip == (-1.0, 1.0)
    assert configuration.action.safe_command == tuple(DEPLOY["default_joint_pos"])
    # In the order of the joints, not of the motors.
    assert "# stiffness of the joints, for the robot's controllers: [3.0, 4.0, 5.0, 0.0, 1.0, 2.0, 9.0" in text
    assert "# base_velocity in training: lin_vel_x [-0.5, 1.0]" in text
    assert "# ASSUMED: names of the joints of a Unitree Go2" in text
    assert deploy(configuration).pipeline.components == 12


def test_torchscript_beside_deploy_yaml_gets_its_shape_and_asks_for_trust(tmp_path: Path) -> None:
    path = write_deploy(tmp_path)
    (tmp_path / "exported" / "policy.onnx").unlink()
    torch.jit.script(torch.nn.Linear(90, 12)).save(str(tmp_path / "exported" / "policy.pt"))
    values = {"robots": ["dog"], "policy.description": str(path)}
    with pytest.raises(ConfigurationError, match=r"policy\.trusted: MISSING: true, if you trust the file"):
        fill_in(values)
    configuration = parse_configuration(fill_in({**values, "policy.trusted": True})[0])
    assert configuration.observations[0].shape == (90,)
    assert deploy(configuration).pipeline.components == 12


def test_histories_of_different_lengths_belong_to_the_terms(tmp_path: Path) -> None:
    content = copy.deepcopy(DEPLOY)
    content["observations"]["last_action"]["history_length"] = 0
    content["observations"]["use_gym_history"] = True
    found = described_parameters(read_description(write_deploy(tmp_path, content)))
    values = {name: entry.value for name, entry in found.items()}
    assert "observations.obs.stack" not in values
    assert values["observations.obs.stack_grouping"] == "by_time"
    assert values["observations.obs.last_action.stack"] == 1 and values["observations.obs.base_ang_vel.stack"] == 2


def test_histories_of_different_lengths_configure_the_node(tmp_path: Path) -> None:
    content = copy.deepcopy(DEPLOY)
    content["observations"]["last_action"]["history_length"] = 1
    content["observations"]["gait_phase"] = {"params": {"period": 0.8}, "clip": None, "history_length": 1}
    deployment = deploy(configured(write_deploy(tmp_path, content, 2 * 45 - 12 + 2)))
    assert deployment.policy.spec.observations["observation"].shape == (80,)


def test_names_that_parameters_have_are_changed(tmp_path: Path) -> None:
    terms = {name: DEPLOY["observations"]["last_action"] for name in ("topic", "my.term")}
    found = described_parameters(read_description(write_deploy(tmp_path, {**DEPLOY, "observations": {"keys": terms}})))
    assert found["observations.keys"].value == ("keys_",) and found["observations.keys_.input"].value == "keys"
    assert found["observations.keys_.terms"].value == ("topic_term", "my_term")


def test_groups_of_deploy_yaml_are_inputs_of_the_policy(tmp_path: Path) -> None:
    terms = DEPLOY["observations"]
    groups = {"obs": {"base_ang_vel": terms["base_ang_vel"]}, "past": {"last_action": terms["last_action"]}}
    found = described_parameters(read_description(write_deploy(tmp_path, {**DEPLOY, "observations": groups})))
    assert found["observations.keys"].value == ("obs", "past")
    assert found["observations.past.last_action.kind"].value == "previous_action"


def test_a_gait_and_bounds_of_deploy_yaml(tmp_path: Path) -> None:
    content = copy.deepcopy(DEPLOY)
    content["observations"]["gait_phase"] = {"params": {"period": 0.8}, "clip": None, "scale": [1.0, 1.0]}
    content["observations"]["joint_vel_rel"] |= {"clip": [-1.0, 1.0]}
    content["observations"]["scale_first"] = True
    content["actions"]["JointPositionAction"]["clip"] = [[-1.0, 2.0]] * 12
    found = described_parameters(read_description(write_deploy(tmp_path, content)))
    assert found["observations.obs.gait_phase.period_s"].value == 0.8
    # Clipped to 1 after the scale of 0.05, which the node does before.
    assert found["observations.obs.joint_vel_rel.clip"].value == (-20.0, 20.0)
    assert found["action.low"].value == (-1.0,) * 12 and found["action.high"].value == (2.0,) * 12


@pytest.mark.parametrize(
    ("gains", "motors", "joints"),
    [
        (16, [12, 3], ("FR_foot_joint", "FL_hip_joint")),
        (20, [0, 8, 19], ("right_hip_roll_joint", "right_hip_yaw_joint", "left_elbow_joint")),
        (23, [12, 26], ("waist_yaw_joint", "right_wrist_roll_joint")),
        (27, [12, 26], ("torso_joint", "right_wrist_yaw_joint")),
        (29, [0, 14, 28], ("left_hip_pitch_joint", "waist_pitch_joint", "right_wrist_yaw_joint")),
    ],
)
def test_joints_follow_from_the_motors_of_a_robot(
    tmp_path: Path, gains: int, motors: list[int], joints: tuple[str, ...]
) -> None:
    numbers = [0.0] * len(motors)
    action = {"JointPositionAction": {"clip": None, "scale": numbers, "offset": numbers}}
    content = {"joint_ids_map": motors, "stiffness": [1.0] * gains, "default_joint_pos": numbers, "actions": action}
    found = described_parameters(read_description(write_deploy(tmp_path, {**DEPLOY, **content})))
    assert found["action.joints"].value == joints


def test_motors_without_known_names_ask_for_the_joints(tmp_path: Path) -> None:
    content = {**DEPLOY, "stiffness": [1.0] * 13}
    text = parameter_file(read_description(write_deploy(tmp_path, content)))
    assert "joints: 'MISSING: the file numbers the motors, but does not name the joints'" in text
    assert text.count("joints: 'MISSING: the names of the joints, in the order of the policy'") == 2
    # Readings in the order of the message would drive the robot wrongly.
    values = {"policy.description": str(tmp_path / "params" / "deploy.yaml"), "action.joints": list(JOINTS)}
    with pytest.raises(ConfigurationError, match=r"observations\.obs\.joint_pos_rel\.joints: MISSING") as raised:
        fill_in(values)
    assert len(raised.value.problems) == 2


def test_an_action_of_deploy_yaml_without_scale_and_offset_asks_for_them(tmp_path: Path) -> None:
    path = write_deploy(tmp_path, {**DEPLOY, "actions": {"JointPositionAction": {"clip": None}}})
    with pytest.raises(ConfigurationError, match=r"(?s)^action\.scale: MISSING.*\naction\.offset: MISSING"):
        configured(path)


def test_names_of_joints_in_deploy_yaml_are_taken(tmp_path: Path) -> None:
    names = [f"joint_{index}" for index in range(12)]
    content = {**DEPLOY, "joint_ids_map": names, "step_dt": None, "sim_dt": 0.005, "decimation": 4}
    configuration = configured(write_deploy(tmp_path, content))
    assert configuration.action.joints == tuple(names) and configuration.control_rate_hz == 50.0


def test_objects_of_python_in_deploy_yaml_are_not_run(tmp_path: Path) -> None:
    path = write_deploy(tmp_path)
    mark = tmp_path / "ran"
    text = path.read_text().replace("joint_ids: null", "joint_ids: !!python/object/apply:builtins.slice [null]")
    assert text != path.read_text()
    path.write_text(text + f'extra: !!python/object/apply:os.mkdir ["{mark}"]\n')
    assert len(configured(path).action.joints) == 12
    assert not mark.exists()


@pytest.mark.parametrize(
    "line",
    ["{name}: &{name} [*{before}, *{before}]", "{name}: &{name} {{<<: [*{before}, *{before}]}}"],
    ids=["aliases", "merges"],
)
def test_a_description_that_grows_without_end_is_refused(tmp_path: Path, line: str) -> None:
    path = write_deploy(tmp_path)
    names = [f"a{index}" for index in range(40)]
    lines = [line.format(name=name, before=before) for before, name in pairwise(names)]
    text = "\n".join(["a0: &a0 {x: 1}", *lines, f"commands: {{base: {{ranges: {{x: *{names[-1]}}}}}}}", ""])
    path.write_text(re.sub(r"(?m)^commands:(\n .*)*$", "", path.read_text()) + text)
    with pytest.raises(PolicyError, match=r"deploy\.yaml'"):
        read_description(path)


@pytest.mark.parametrize("name", ["/dev/zero", "../secret.onnx"])
def test_leapp_names_no_files_outside_of_its_folder(tmp_path: Path, name: str) -> None:
    content = copy.deepcopy(LEAPP)
    content["models"]["walk"]["parameters"]["model_path"] = name
    with pytest.raises(PolicyError, match=r"must be a file in the folder of the description"):
        read_description(write_leapp(tmp_path, content))
    content = copy.deepcopy(LEAPP)
    content["pipeline"]["initial_values"] = name
    with pytest.raises(PolicyError, match=r"must be a file in the folder of the description"):
        read_description(write_leapp(tmp_path, content))


def test_leapp_configures_the_node(tmp_path: Path) -> None:
    configuration = configured(write_leapp(tmp_path))
    assert configuration.control_rate_hz == 40.0
    assert configuration.policy.memory == ("last_action_in=last_action_out",)
    assert configuration.policy.action == "target"
    terms = {entry.key: entry.terms[0] for entry in configuration.observations}
    assert list(terms) == ["robot_joint_pos", "robot_root_quat_w", "base_velocity"]
    assert terms["robot_joint_pos"].joints == configuration.action.joints == JOINTS
    assert terms["robot_root_quat_w"].fields == tuple(f"orientation.{part}" for part in "wxyz")
    assert terms["base_velocity"].fields == ("linear.x", "angular.z")
    assert deploy(configuration).policy.spec.memory.keys() == {"last_action_in"}


@pytest.mark.parametrize(("value", "is_missing"), [(0.0, False), (1.0, True)])
def test_a_memory_of_leapp_that_does_not_begin_with_zeros_is_named(
    tmp_path: Path, value: float, is_missing: bool
) -> None:
    content = copy.deepcopy(LEAPP)
    content["pipeline"]["initial_values"] = "walk.safetensors"
    header = json.dumps({"walk/last_action_in": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}).encode()
    data = len(header).to_bytes(8, "little") + header + np.full(3, value, np.float32).tobytes()
    (tmp_path / "walk.safetensors").write_bytes(data)
    found = described_parameters(read_description(write_leapp(tmp_path, content)))
    assert (found["policy.memory"].value is None) is is_missing


def test_several_networks_of_leapp_are_refused(tmp_path: Path) -> None:
    content = {**LEAPP, "models": {**LEAPP["models"], "more": {}}}
    with pytest.raises(PolicyError, match=r"walk\.yaml': models: found 2 networks \(walk, more\).*one network"):
        read_description(write_leapp(tmp_path, content))


def test_a_description_is_found_inside_or_beside_the_policy_file(tmp_path: Path) -> None:
    inside = write_onnx(tmp_path / "one" / "policy.onnx", {"obs": 21}, {"actions": 3}, MJLAB)
    assert find_description(inside).path == inside
    beside = write_deploy(tmp_path / "two")
    assert find_description(tmp_path / "two" / "exported" / "policy.onnx").path.samefile(beside)
    leapp = write_leapp(tmp_path / "one")
    assert find_description(tmp_path / "one" / "walk.onnx").path == leapp
    bare = write_onnx(tmp_path / "one" / "other.onnx", {"obs": 21}, {"actions": 3}, {"author": "me"})
    with pytest.raises(PolicyError, match=r"other\.onnx' has no description.*found author; name the file") as raised:
        find_description(bare)
    assert str(raised.value).count("write the parameter file") == 1


@pytest.mark.parametrize("system_call", ["glob", "is_file", "resolve"])
def test_a_folder_that_does_not_answer_is_given_up(
    system_call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = write_leapp(tmp_path).with_suffix(".onnx")
    answered = threading.Event()
    # No test can mount a server that is gone.
    monkeypatch.setattr(files, "STALL_S", 0.05)
    monkeypatch.setattr(Path, system_call, lambda *arguments: answered.wait())
    try:
        with pytest.raises(PolicyError, match=r"its file system did not answer for 0\.05 s; (mount it again|name the)"):
            find_description(policy)
        if system_call == "resolve":
            with pytest.raises(PolicyError, match=r"its file system did not answer for 0\.05 s; mount it again"):
                read_description(policy.with_suffix(".yaml"))
    finally:
        answered.set()


def test_explicit_parameters_win(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "policy.onnx", {"obs": 21}, {"actions": 3}, MJLAB)
    values = {
        "robots": ["dog"],
        "policy.path": str(path),
        "policy.description": "auto",
        # What the node declares by itself counts as left out.
        "policy.action": "",
        "observations.obs.joint_pos.topic": "/dog/joints",
        "observations.obs.joint_pos.scale": [2.0],
        "observations.obs.command.default": [],
        "action.safe_position_topic": "joints",
        "action.scale": [0.1],
    }
    filled, described = fill_in(values)
    report = described.report
    configuration = parse_configuration(filled)
    terms = {term.term: term for term in configuration.observations[0].terms}
    assert (terms["joint_pos"].topic, terms["joint_pos"].scale) == ("/dog/joints", (2.0,))
    assert (terms["joint_pos"].default, terms["joint_vel"].topic) == (POSE, "joint_states")
    assert (configuration.action.scale, configuration.action.offset) == ((0.1,), POSE)
    assert configuration.action.safe_position_topic == "joints" and not configuration.action.safe_command
    assert configuration.policy.description == "" and values["policy.description"] == "auto"
    assert f"policy.description: filled in from metadata of an ONNX file, {path}: control_rate_hz" in report
    assert "observations.obs.joint_vel.topic: ASSUMED" in report and "joint_pos.topic: ASSUMED" not in report
    assert "action.scale" not in report


def test_the_description_of_another_policy_is_named_in_errors(tmp_path: Path) -> None:
    path = write_deploy(tmp_path)
    other = write_onnx(tmp_path / "other.onnx", {"obs": 45}, {"actions": 12})
    values = {
        "robots": ["dog"],
        "policy.path": str(other),
        "policy.description": str(path),
        "synchronisation.slop_s": 1,
    }
    filled, described = fill_in(values)
    filled_in = f"filled in from the description '{path}'; check that it belongs to this policy"
    with pytest.raises(ConfigurationError) as raised, described.named_in_errors():
        deploy(parse_configuration({**filled, "synchronisation.slop_s": 1.0}))
    assert any("obs.terms: the policy wants" in problem and filled_in in problem for problem in raised.value.problems)
    # Values of the user are the user's.
    with pytest.raises(ConfigurationError) as raised, described.named_in_errors():
        parse_configuration(filled)
    assert "synchronisation.slop_s: found 1" in str(raised.value) and filled_in not in str(raised.value)


def test_terms_that_the_configuration_names_replace_those_of_the_description(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "policy.onnx", {"obs": 6}, {"actions": 3}, MJLAB)
    values = {
        "robots": ["dog"],
        "policy.description": str(path),
        "observations.obs.terms": ["joint_pos", "base_ang_vel"],
    }
    configuration = parse_configuration(fill_in(values)[0])
    assert [term.term for term in configuration.observations[0].terms] == ["joint_pos", "base_ang_vel"]
    assert configuration.policy.path == str(path)
    topics = {"observations.obs.topic": "vector", "observations.obs.type": "std_msgs/msg/Float32MultiArray"}
    configuration = parse_configuration(fill_in({**values, "observations.obs.terms": [], **topics})[0])
    assert configuration.observations[0].terms == () and configuration.observations[0].topic == "vector"


def test_without_a_description_nothing_changes() -> None:
    values = {"policy.path": "policy.onnx", "policy.description": ""}
    assert fill_in(values) == (values, FilledIn())


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"policy.description": "auto"}, r"policy\.path: missing; with policy\.description: auto"),
        ({"policy.description": "gone.yaml"}, r"policy\.description: description 'gone\.yaml' cannot be read"),
        (
            {"policy.description": "auto", "policy.path": "gone.onnx"},
            r"policy\.description: policy file 'gone\.onnx' has no description",
        ),
    ],
)
def test_errors_of_policy_description_name_it(values: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigurationError, match=error):
        fill_in(values)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"joint_ids_map": []}, r"joint_ids_map: found none, but it must be the motor of each joint"),
        ({"joint_ids_map": [0, -1]}, r"joint_ids_map\[1\]: found -1, but it must be an integer of 0 or more"),
        ({"step_dt": "fast"}, r"step_dt: found 'fast', but it must be a finite number"),
        ({"step_dt": 0}, r"step_dt: found 0, but it must be the seconds of a control step"),
        ({"default_joint_pos": [0.0]}, r"default_joint_pos: found 1 numbers, but it must be 12"),
        ({"actions": {}}, r"actions: found none, but it must be one action"),
        (
            {"actions": {"GripperAction": {}}},
            r"actions\.GripperAction: found 'GripperAction', but it must be an action",
        ),
        ({"observations": None}, r"observations: found none"),
        ({"observations": [1]}, r"observations: found \[1\], but it must be a mapping"),
    ],
)
def test_errors_of_deploy_yaml_name_file_and_key(tmp_path: Path, change: dict[str, Any], error: str) -> None:
    with pytest.raises(PolicyError, match=r"deploy\.yaml': " + error):
        read_description(write_deploy(tmp_path, {**DEPLOY, **change}))


def test_a_file_of_no_known_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.yaml"
    path.write_text("a: 1\n")
    with pytest.raises(PolicyError, match=r"notes\.yaml' is no description of a known kind; known are deploy\.yaml"):
        read_description(path)


def as_read(content: bytes, path: Path) -> None:
    """Read a content by every kind; whatever is damaged raises PolicyError, and what is read can be written."""
    for kind in DESCRIPTIONS:
        try:
            description = kind.read(content, path)
            text = parameter_file(description)
        except PolicyError:
            continue
        assert parse_parameters(text, "the file")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_damaged_texts_give_policy_errors(tmp_path: Path, data: st.DataObject) -> None:
    content = yaml.dump(data.draw(st.sampled_from([SMALL, LEAPP])), sort_keys=False)
    first = data.draw(st.integers(0, len(content)))
    length = data.draw(st.integers(0, 40))
    piece = data.draw(
        st.one_of(st.text(max_size=8), st.sampled_from(["null", "[]", "{}", "1e999", "-1", ": ", "!!x "]))
    )
    as_read((content[:first] + piece + content[first + length :]).encode("utf-8", "replace"), tmp_path / "x.yaml")


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(["obs", "walk/x", "keys", "terms"]),
)
VALUES = st.one_of(LEAVES, st.lists(LEAVES, max_size=3), st.dictionaries(st.text(max_size=6), LEAVES, max_size=3))


def paths_of(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value in nested mappings and lists."""
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [*([path] if path else []), *(found for key, value in entries for found in paths_of(value, (*path, key)))]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_wrong_values_give_policy_errors(tmp_path: Path, data: st.DataObject) -> None:
    content = copy.deepcopy(data.draw(st.sampled_from([SMALL, LEAPP])))
    *parents, last = data.draw(st.sampled_from(paths_of(content)))
    branch = content
    for parent in parents:
        branch = branch[parent]
    branch[last] = data.draw(VALUES)
    as_read(yaml.dump(content, sort_keys=False).encode(), tmp_path / "x.yaml")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(changes=st.dictionaries(st.sampled_from([*MJLAB, "dof_names", "kp", "history_length"]), st.text(max_size=20)))
def test_wrong_metadata_give_policy_errors(tmp_path: Path, changes: dict[str, str]) -> None:
    path = write_onnx(tmp_path / "policy.onnx", {"obs": 21}, {"actions": 3}, {**MJLAB, **changes})
    as_read(path.read_bytes(), path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_damaged_onnx_files_give_policy_errors(tmp_path: Path, data: st.DataObject) -> None:
    path = write_onnx(tmp_path / "policy.onnx", {"obs": 1}, {"actions": 1}, MJLAB)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    as_read(bytes(content[: data.draw(st.integers(0, len(content)))]), path)
