# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""`deploy.yaml`, as unitree_rl_lab and projects after it write it: motors of the joints, terms, scales, histories."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from policy_node.config.files import answer
from policy_node.policies.descriptions import (
    DescribedObservation,
    DescribedTerm,
    DescriptionKind,
    TrainerDescription,
    Value,
    observation_key,
    read_yaml,
)

TITLE = "deploy.yaml of Unitree"
POLICIES = (
    "policy.onnx",
    "../exported/policy.onnx",
    "exported/policy.onnx",
    "policy.pt",
    "../exported/policy.pt",
    "exported/policy.pt",
)


def _names(*limbs: tuple[tuple[str, ...], str]) -> list[str]:
    """Return names of joints: for each limb and each of its parts, separated by spaces; `-` is a motor without one."""
    return [
        "" if part == "-" else f"{limb}{part}_joint" for of, parts in limbs for limb in of for part in parts.split()
    ]


_SIDES, _MIRRORED = ("left_", "right_"), ("right_", "left_")
_LEGS = ("FR_", "FL_", "RR_", "RL_")
_ARM = "shoulder_pitch shoulder_roll shoulder_yaw elbow"
_HAND_ARM = f"{_ARM} wrist_roll wrist_pitch wrist_yaw"
_G1 = _names(
    (_SIDES, "hip_pitch hip_roll hip_yaw knee ankle_pitch ankle_roll"),
    (("waist_",), "yaw roll pitch"),
    (_SIDES, _HAND_ARM),
)
# Robot and joints in the order of its motors, by the count of their gains; the file has neither.
_ROBOTS = {
    12: ("Go2 (A1, Go1 and B2 alike)", _names((_LEGS, "hip thigh calf"))),
    16: ("Go2-W (B2-W alike)", _names((_LEGS, "hip thigh calf"), (_LEGS, "foot"))),
    20: (
        "H1",
        _names(
            (_MIRRORED, "hip_roll hip_pitch knee"),
            (("",), "torso left_hip_yaw right_hip_yaw - left_ankle right_ankle"),
            (_MIRRORED, _ARM),
        ),
    ),
    # The motors have the numbers of the G1 with 29.
    23: ("G1", _G1),
    27: (
        "H1-2",
        _names(
            (_SIDES, "hip_yaw hip_pitch hip_roll knee ankle_pitch ankle_roll"), (("",), "torso"), (_SIDES, _HAND_ARM)
        ),
    ),
    29: ("G1", _G1),
}
# Quantity of each name of a term.
_QUANTITIES = {
    "base_ang_vel": "angular_velocity",
    "base_lin_vel": "linear_velocity",
    "projected_gravity": "projected_gravity",
    "velocity_commands": "velocity_command",
    "joint_pos": "joint_position",
    "joint_pos_rel": "joint_position",
    "joint_vel": "joint_velocity",
    "joint_vel_rel": "joint_velocity",
    "last_action": "previous_action",
    "gait_phase": "phase",
}
# What an action commands, by a part of its name.
_COMMANDED = {"Position": "position", "Velocity": "velocity", "Effort": "effort"}


def read_deploy_yaml(content: bytes, path: Path) -> TrainerDescription:
    """Return the description in a `deploy.yaml`; raises PolicyError if it is damaged."""
    file = read_yaml(content, path)
    joints, robot = _joints(file)
    count = len(file["joint_ids_map"].entries())
    default = file["default_joint_pos"].numbers(count)
    action, action_joints = _action(file, joints, count)
    named = [path.parent / name for name in POLICIES]
    policy = answer(path.parent, lambda: next(filter(Path.is_file, named), None))
    notes, missing = {}, {}
    if robot:
        notes["action.joints"] = f"names of the joints of a Unitree {robot}, whose number of motors this is"
    if not joints:
        missing["action.joints"] = "the file numbers the motors, but does not name the joints"
    if policy is None:
        missing["policy.path"] = f"found none of {', '.join(POLICIES)} beside the description"
    if not action["action.scale"]:
        missing["action.scale"] = "the factor of the action in training"
    if not action["action.offset"] and action["action.field"] == "position":
        missing["action.offset"] = "what is added to the action, mostly the default pose"
    if action["action.field"] == "velocity":
        action["action.safe_command"] = (0.0,) * len(action_joints)
    elif action["action.field"] == "position" and default:
        action["action.safe_command"] = tuple(default[index] for index in action_joints)
    values = {"control_rate_hz": _rate(file), **action}
    return TrainerDescription(
        path=path,
        title=TITLE,
        policy=policy,
        observations=_observations(file, joints, default, count, policy),
        values={name: value for name, value in values.items() if value not in (None, ())},
        notes=notes,
        missing=missing,
        facts=_facts(file, joints, count),
    )


def _rate(file: Value) -> float | None:
    """Return the control rate, from `step_dt` or from `sim_dt` and `decimation`."""
    step = file["step_dt"]
    if step.content is None and file["sim_dt"].content is not None:
        step = Value(file["sim_dt"].number() * file["decimation"].integer(), file.path, "sim_dt * decimation")
    if step.content is None:
        return None
    if not 1e-6 <= step.number() <= 1e3:
        raise step.error(str(step.content), "the seconds of a control step")
    return round(1.0 / step.number(), 6)


def _joints(file: Value) -> tuple[tuple[str, ...], str]:
    """Return the names of the joints in the order of the policy, and the robot that they were assumed for."""
    motors = file["joint_ids_map"]
    if not motors.entries():
        raise motors.error("none", "the motor of each joint of the policy")
    if all(isinstance(entry.content, str) for entry in motors.entries()):
        return motors.texts(), ""
    indices = motors.integers()
    robot, names = _ROBOTS.get(len(file["stiffness"].entries()), ("", []))
    if any(index >= len(names) or not names[index] for index in indices):
        return (), ""
    return tuple(names[index] for index in indices), robot


def _action(file: Value, joints: tuple[str, ...], count: int) -> tuple[dict[str, Any], tuple[int, ...]]:
    """Return the parameters of the only action, and which of the joints it commands."""
    actions = file["actions"].items()
    if len(actions) != 1:
        found = ", ".join(name for name, _ in actions) or "none"
        raise file["actions"].error(found, "one action, as the node sends one command")
    name, action = actions[0]
    commanded = next((field for part, field in _COMMANDED.items() if part in name), "")
    if not commanded:
        raise action.error(repr(name), f"an action of joints, with {', '.join(_COMMANDED)} in its name")
    indices = _chosen(action["joint_ids"], count)
    clips = [clip.numbers(2) for clip in action["clip"].entries()]
    if clips and not all(len(clip) == 2 for clip in clips):
        raise action["clip"].error("other entries", "a lowest and a highest value for each joint")
    return {
        "action.field": commanded,
        "action.joints": tuple(joints[index] for index in indices) if joints else (),
        "action.scale": action["scale"].numbers(1, len(indices)),
        "action.offset": action["offset"].numbers(1, len(indices)),
        "action.low": tuple(clip[0] for clip in clips),
        "action.high": tuple(clip[1] for clip in clips),
    }, indices


def _chosen(ids: Value, count: int) -> tuple[int, ...]:
    """Return the chosen joints, by default all."""
    if not isinstance(ids.content, list):
        return tuple(range(count))
    indices = ids.integers()
    if any(index >= count for index in indices):
        raise ids.error(str(list(indices)), f"indices below {count}")
    return indices


def _observations(
    file: Value, joints: tuple[str, ...], default: tuple[float, ...], count: int, policy: Path | None
) -> tuple[DescribedObservation, ...]:
    """Return the observations; with several groups, each is the input of its name."""
    observed = file["observations"]
    if not observed.items():
        raise observed.error("none", "the terms of the observation")
    is_flat = any(isinstance(value.content, dict) and "params" in value.content for _, value in observed.items())
    groups = [("obs", observed)] if is_flat else observed.items()
    # TorchScript does not say the shapes of its inputs.
    with_shape = policy is not None and policy.suffix != ".onnx"
    return tuple(_observation(name, group, joints, default, count, with_shape) for name, group in groups)


def _observation(
    key: str, group: Value, joints: tuple[str, ...], default: tuple[float, ...], count: int, with_shape: bool
) -> DescribedObservation:
    terms = [(name, term) for name, term in group.items() if name not in ("scale_first", "use_gym_history")]
    scale_first = group["scale_first"].content is True
    described = [_term(name, term, joints, default, count, scale_first) for name, term in terms]
    steps = {name: max(1, term["history_length"].integer()) for name, term in terms if term["history_length"].content}
    lengths = {steps.get(name, 1) for name, _ in terms}
    key, values = observation_key(key)
    sizes = [len(term["scale"].numbers()) * steps.get(name, 1) for name, term in terms]
    if with_shape and all(sizes):
        values["shape"] = (sum(sizes),)
    if lengths != {1}:
        values["stack_as"] = "isaac_lab"
        if group["use_gym_history"].content is True:
            values["stack_grouping"] = "by_time"
        if len(lengths) == 1:
            values["stack"] = lengths.pop()
        else:
            described = [
                DescribedTerm(one.name, one.quantity, {**one.values, "stack": steps.get(name, 1)})
                for one, (name, _) in zip(described, terms, strict=True)
            ]
    return DescribedObservation(key, tuple(described), values)


def _term(
    name: str, term: Value, joints: tuple[str, ...], default: tuple[float, ...], count: int, scale_first: bool
) -> DescribedTerm:
    quantity = _QUANTITIES.get(name, "")
    values: dict[str, Any] = {}
    if quantity in ("joint_position", "joint_velocity"):
        indices = _chosen(term["params"]["asset_cfg"]["joint_ids"], count)
        if joints:
            values["joints"] = tuple(joints[index] for index in indices)
        if name == "joint_pos_rel":
            values["default"] = tuple(default[index] for index in indices) if default else None
    if quantity == "phase":
        values["period_s"] = term["params"]["period"].number()
    clip, scale = term["clip"].numbers(2), term["scale"].numbers()
    if clip and scale_first and scale:
        if min(scale) != max(scale) or scale[0] <= 0.0:
            raise term["scale"].error(str(list(scale)), "one positive number, because `scale_first` clips afterwards")
        clip = tuple(bound / scale[0] for bound in clip)
    if clip:
        values["clip"] = clip
    if any(factor != 1.0 for factor in scale):
        values["scale"] = scale[:1] if min(scale) == max(scale) else scale
    return DescribedTerm(name, quantity, values)


def _facts(file: Value, joints: tuple[str, ...], count: int) -> tuple[str, ...]:
    """Return the gains, in the order of the joints instead of the motors, and the ranges of the commands."""
    facts = []
    motors = file["joint_ids_map"].entries()
    for name in ("stiffness", "damping"):
        gains = file[name].numbers()
        numbered = [entry.content for entry in motors if isinstance(entry.content, int)]
        by_motor = len(numbered) == count and all(index < len(gains) for index in numbered)
        indices = numbered if by_motor else range(count)
        if by_motor or len(gains) == count:
            facts.append(f"{name} of the joints, for the robot's controllers: {[gains[index] for index in indices]}")
    for name, command in file["commands"].items():
        ranges = command["ranges"].items() if isinstance(command.content, dict) else []
        limits = [f"{part} {list(limit.numbers())}" for part, limit in ranges if limit.content]
        if limits:
            facts.append(f"{name} in training: {', '.join(limits)}")
    return tuple(facts)


DESCRIPTION = DescriptionKind(
    TITLE, lambda content: re.search(rb"(?m)^joint_ids_map\s*:", content) is not None, read_deploy_yaml
)
