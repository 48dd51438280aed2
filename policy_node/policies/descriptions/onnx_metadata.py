# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Metadata of ONNX files, as mjlab, motion tracking in Isaac Lab (whole_body_tracking) and holosoma write them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from policy_node.policies.contract import PolicyError
from policy_node.policies.descriptions import (
    REMEDY,
    DescribedObservation,
    DescribedTerm,
    DescriptionKind,
    TrainerDescription,
    Value,
    observation_key,
)

TITLE = "metadata of an ONNX file"
STEP_INPUT = "time_step"
# Keys by their meaning; lists are separated by commas or JSON.
_JOINTS = ("joint_names", "dof_names")
_TERMS = ("observation_names", "obs_term_names_sorted")
_HISTORY = ("observation_history_lengths", "history_length")
_GAINS = {"stiffness": ("joint_stiffness", "kp"), "damping": ("joint_damping", "kd")}
# Quantity of each name of a term, and the parameters that follow from the name.
_QUANTITIES: dict[str, tuple[str, dict[str, Any]]] = {
    **dict.fromkeys(("base_ang_vel", "imu_ang_vel"), ("angular_velocity", {})),
    **dict.fromkeys(("base_lin_vel", "imu_lin_vel"), ("linear_velocity", {})),
    **dict.fromkeys(("projected_gravity", "imu_projected_gravity"), ("projected_gravity", {})),
    **dict.fromkeys(("velocity_command", "velocity_commands", "command", "twist"), ("velocity_command", {})),
    "command_lin_vel": ("velocity_command", {"fields": ("linear.x", "linear.y")}),
    "command_ang_vel": ("velocity_command", {"fields": ("angular.z",)}),
    **dict.fromkeys(("joint_pos", "joint_pos_rel", "dof_pos"), ("joint_position", {})),
    **dict.fromkeys(("joint_vel", "joint_vel_rel", "dof_vel"), ("joint_velocity", {})),
    **dict.fromkeys(("actions", "action", "last_action"), ("previous_action", {})),
    "sin_phase": ("phase", {"phase_as": "sin", "offset": (0.0, 0.5)}),
    "cos_phase": ("phase", {"phase_as": "cos", "offset": (0.0, 0.5)}),
}


@dataclass(frozen=True)
class _Network:
    """Names of the inputs and outputs, and the count of the action's components, 0 if the file does not say it."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    components: int


def read_onnx_metadata(content: bytes, path: Path) -> TrainerDescription:
    """Return the description in the metadata of an ONNX file; raises PolicyError if it has none."""
    try:
        model = onnx.load_model_from_string(content)
        metadata = {_text(entry.key): _text(entry.value) for entry in model.metadata_props}
        network = _network(model)
    except Exception as error:
        raise PolicyError(f"'{path}' is no ONNX file, or damaged ({error}); export it again") from error
    return describe_network(metadata, network, path)


def _text(text: str | bytes) -> str:
    """Return a text of a file; one that is damaged comes as bytes."""
    return text if isinstance(text, str) else text.decode()


def _network(model: onnx.ModelProto) -> _Network:
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = tuple(_text(port.name) for port in model.graph.input if port.name not in weights)
    outputs = tuple(_text(port.name) for port in model.graph.output)
    shape = list(model.graph.output[0].type.tensor_type.shape.dim) if outputs else []
    return _Network(inputs, outputs, shape[-1].dim_value if shape else 0)


def describe_network(metadata: Mapping[str, str], network: _Network, path: Path) -> TrainerDescription:
    """Return the description in the metadata of a network; raises PolicyError if it has none or it is damaged."""
    joints = _first(metadata, _JOINTS, path).texts()
    if not joints:
        found = ", ".join(sorted(metadata)) or "none"
        raise PolicyError(
            f"ONNX file '{path}' has no description: its metadata have no {' or '.join(_JOINTS)}, found {found}{REMEDY}"
        )
    default = _numbers(metadata, "default_joint_pos", path).numbers(len(joints))
    values, notes, missing = _action(metadata, network, joints, default, path)
    return TrainerDescription(
        path=path,
        title=TITLE,
        policy=path,
        observations=_observations(metadata, network, joints, default, path),
        values=values,
        notes=notes,
        missing=missing,
        facts=_facts(metadata, path),
    )


def _action(
    metadata: Mapping[str, str], network: _Network, joints: tuple[str, ...], default: tuple[float, ...], path: Path
) -> tuple[dict[str, Any], dict[str, str], dict[str, str]]:
    """Return parameters of the action, what was assumed, and what is missing."""
    count = network.components or len(joints)
    scale = _numbers(metadata, "action_scale", path).numbers(1, count)
    values: dict[str, Any] = {"action.scale": scale} if scale else {}
    missing = {} if scale else {"action.scale": "the factor of the action in training"}
    if count != len(joints):
        named = f"the policy commands {count} of the {len(joints)} joints ({', '.join(joints)})"
        return values, {}, {**missing, "action.joints": named, "action.offset": "the default pose of these joints"}
    values["action.joints"] = joints
    if not default:
        return values, {}, {**missing, "action.offset": "the default pose, to which the action is added"}
    values |= {"action.offset": default, "action.safe_command": default}
    return values, {"action.offset": "the action is added to the default pose"}, missing


def _first(metadata: Mapping[str, str], keys: tuple[str, ...], path: Path) -> Value:
    """Return the value of the first key that is there; texts between commas become a list."""
    key = next((key for key in keys if key in metadata), keys[0])
    text = metadata.get(key, "").strip()
    try:
        content = json.loads(text) if text else None
    except (ValueError, RecursionError):
        content = [part.strip() for part in text.split(",")]
    return Value(content, path, f"metadata {key}")


def _numbers(metadata: Mapping[str, str], key: str, path: Path) -> Value:
    """Return a list of numbers, which may be written as texts."""
    value = _first(metadata, (key,), path)
    return Value([_as_number(entry.content) for entry in value.entries()], path, value.key)


def _as_number(content: Any) -> Any:
    try:
        return float(content) if isinstance(content, str) else content
    except ValueError:
        return content


def _observations(
    metadata: Mapping[str, str],
    network: _Network,
    joints: tuple[str, ...],
    default: tuple[float, ...],
    path: Path,
) -> tuple[DescribedObservation, ...]:
    """Return an observation for each input: the terms for the first, the step, and others without terms."""
    described = []
    names = _first(metadata, _TERMS, path).texts()
    observed = next((name for name in network.inputs if name != STEP_INPUT), "")
    for name in network.inputs:
        key, values = observation_key(name)
        if name == observed:
            described.append(_observation(key, values, metadata, network, joints, default, path))
        elif name == STEP_INPUT:
            ahead = {"offset": (1.0,)} if _motion_outputs(network) and "command" in names else {}
            note = "one ahead: the outputs of this step are observed at the next one" if ahead else ""
            described.append(DescribedObservation(key, (DescribedTerm("step", "step", ahead, note),), values))
        else:
            described.append(DescribedObservation(key, (), values, f"MISSING: the terms of the input '{name}'"))
    return tuple(described)


def _observation(
    key: str,
    values: dict[str, Any],
    metadata: Mapping[str, str],
    network: _Network,
    joints: tuple[str, ...],
    default: tuple[float, ...],
    path: Path,
) -> DescribedObservation:
    names = _first(metadata, _TERMS, path).texts()
    if not names:
        return DescribedObservation(
            key, (), values, "MISSING: terms, their order and scales; the metadata have no observation_names"
        )
    commands = _first(metadata, ("command_names",), path).texts()
    steps = _steps(metadata, len(names), path)
    terms: list[DescribedTerm] = []
    for name, length in zip(names, steps, strict=True):
        stacked = {"stack": length} if len(set(steps)) > 1 else {}
        terms += [
            DescribedTerm(one.name, one.quantity, {**one.values, **stacked}, one.note)
            for one in _terms(name, commands, network, joints, default)
        ]
    if max(steps) > 1:
        values = {**values, "stack_as": "isaac_lab"}
        if len(set(steps)) == 1:
            values["stack"] = steps[0]
    return DescribedObservation(key, tuple(terms), values, "ASSUMED: terms without scale and clip")


def _steps(metadata: Mapping[str, str], count: int, path: Path) -> tuple[int, ...]:
    """Return the number of steps in the history of each term."""
    key = next((key for key in _HISTORY if key in metadata), _HISTORY[0])
    found = _numbers(metadata, key, path)
    lengths = found.numbers(1, count) or (1.0,)
    if any(not 0 <= length <= 1000 or length != int(length) for length in lengths):
        raise found.error(str(list(lengths)), "the number of steps of each term, 0 to 1000")
    steps = tuple(max(1, int(length)) for length in lengths)
    return steps if len(steps) == count else steps[:1] * count


def _terms(
    name: str, commands: tuple[str, ...], network: _Network, joints: tuple[str, ...], default: tuple[float, ...]
) -> list[DescribedTerm]:
    """Return the terms that a name of the trainer stands for; the command of a motion is two outputs of the policy."""
    if name == "command" and (motion := _motion_outputs(network)):
        return [DescribedTerm(f"{name}_{output}", "policy_output", {"output": output}) for output in motion]
    quantity, values = _QUANTITIES.get(name, ("", {}))
    note = (
        "ASSUMED: a velocity"
        if name == "command" and not any("vel" in one or one == "twist" for one in commands)
        else ""
    )
    if quantity == "phase":
        note = "ASSUMED: two feet, half a period apart"
    if quantity in ("joint_position", "joint_velocity"):
        values = {"joints": joints}
    if quantity == "joint_position":
        values["default"] = default or None
    return [DescribedTerm(name, quantity, values, note)]


def _motion_outputs(network: _Network) -> tuple[str, ...]:
    """Return the outputs with the motion at the step that the network is given; empty without them."""
    names = ("joint_pos", "joint_vel")
    return names if STEP_INPUT in network.inputs and set(names) <= set(network.outputs) else ()


def _facts(metadata: Mapping[str, str], path: Path) -> tuple[str, ...]:
    facts = []
    for title, keys in _GAINS.items():
        key = next((key for key in keys if key in metadata), keys[0])
        gains = _numbers(metadata, key, path).numbers()
        if gains:
            facts.append(f"{title} of the joints, for the robot's controllers: {list(gains)}")
    ranges = _first(metadata, ("command_ranges",), path)
    if isinstance(ranges.content, dict):
        facts.append("commands in training: " + ", ".join(f"{k} {list(v.numbers())}" for k, v in ranges.items()))
    return tuple(facts)


# The first field of an ONNX file is the version of the format.
DESCRIPTION = DescriptionKind(TITLE, lambda content: content[:1] == b"\x08", read_onnx_metadata)
