# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""LEAPP descriptions, as Isaac Lab exports them: observations and actions are processed inside the network."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from policy_node.config.files import answer, read_file
from policy_node.policies.descriptions import (
    DescribedObservation,
    DescribedTerm,
    DescriptionKind,
    TrainerDescription,
    Value,
    file_beside,
    observation_key,
    read_yaml,
)

MAX_MEMORY_BYTES = 2**28
TITLE = "LEAPP description of Isaac Lab"
# Quantity by the property of Isaac Lab, without its frame and the part of the body.
_PROPERTIES = {
    "joint_pos": "joint_position",
    "joint_vel": "joint_velocity",
    "joint_effort": "joint_effort",
    "root_ang_vel_b": "angular_velocity",
    "root_lin_vel_b": "linear_velocity",
    "root_quat_w": "orientation",
    "root_pos_w": "position",
    "projected_gravity_b": "projected_gravity",
}
# Quantity by the kind of the tensor, for exports that do not come from Isaac Lab.
_KINDS = {
    "state/joint/position": "joint_position",
    "state/joint/velocity": "joint_velocity",
    "state/joint/effort": "joint_effort",
    "state/body/angular_velocity": "angular_velocity",
    "state/body/linear_velocity": "linear_velocity",
    "state/body/rotation": "orientation",
    "state/body/position": "position",
    "command/body/velocity": "velocity_command",
}
_COMMANDED = {
    "target/joint/position": "position",
    "target/joint/velocity": "velocity",
    "target/joint/effort": "effort",
    "target/joint/torques": "effort",
}
_FIELDS = {"lin_vel_x": "linear.x", "lin_vel_y": "linear.y", "ang_vel_z": "angular.z"}
QUATERNION = "xyzw"


def read_leapp(content: bytes, path: Path) -> TrainerDescription:
    """Return the description in a LEAPP file; raises PolicyError if it is damaged or has several networks."""
    file = read_yaml(content, path)
    models = file["models"].items()
    if len(models) != 1:
        found = f"{len(models)} networks ({', '.join(name for name, _ in models)})"
        raise file["models"].error(found, "one network, as the node runs one; export the pipeline as one node")
    node, model = models[0]
    pipeline = file["pipeline"]
    memory = tuple(
        (target.text().partition("/")[2], source.partition("/")[2])
        for source, targets in pipeline["feedback_flow"].items()
        for target in targets.entries()
    )
    fed_back = {name for name, _ in memory}
    ports = [port for port in model["inputs"].entries() if port["name"].text() not in fed_back]
    if not ports:
        raise model["inputs"].error("none", "the inputs of the network")
    action, facts, missing = _action(model, {output for _, output in memory})
    named = file_beside(model["parameters"]["model_path"])
    policy = named if answer(named, named.is_file) else None
    if policy is None:
        missing["policy.path"] = f"there is no {named.name} beside the description"
    if named.suffix != ".onnx" and not _is_in_order(model, memory):
        missing["policy.path"] = "the node takes inputs after their memory from ONNX only; export it as ONNX"
    if memory and not _begins_with_zeros(pipeline["initial_values"]):
        missing["policy.memory"] = "the memory begins with values other than zeros, which the node cannot set"
    elif memory:
        action["policy.memory"] = tuple(f"{before}={after}" for before, after in memory)
    rate = pipeline["configs"]["frequency"]
    return TrainerDescription(
        path=path,
        title=f"{TITLE}, network '{node}'",
        policy=policy,
        observations=tuple(_observation(port) for port in ports),
        values={**({} if rate.content is None else {"control_rate_hz": rate.number()}), **action},
        missing=missing,
        facts=facts,
    )


def _is_in_order(model: Value, memory: tuple[tuple[str, str], ...]) -> bool:
    """Whether memory stands last among the inputs and outputs, as in files that know both by their order only."""
    names = [[port["name"].text() for port in model[part].entries()] for part in ("inputs", "outputs")]
    return all(found[len(found) - len(memory) :] == [pair[side] for pair in memory] for side, found in enumerate(names))


def _action(model: Value, memory: set[str]) -> tuple[dict[str, Any], tuple[str, ...], dict[str, str]]:
    """Return parameters of the action, the names of the other outputs as facts, and what is missing."""
    outputs = [port for port in model["outputs"].entries() if port["name"].text() not in memory]
    commands = [port for port in outputs if _known(port["kind"], _COMMANDED)]
    if not commands:
        kinds = ", ".join(_COMMANDED)
        return {}, (), {"policy.action": f"no output is a command ({kinds}); name the output and its joints"}
    action = commands[0]
    others = [port["name"].text() for port in outputs if port is not action]
    values: dict[str, Any] = {
        "policy.action": action["name"].text(),
        "action.field": _known(action["kind"], _COMMANDED),
    }
    missing = {}
    if joints := _elements(action):
        values["action.joints"] = joints
    else:
        missing["action.joints"] = "the joint of each component of the action"
    return values, (f"outputs that the node does not send: {', '.join(others)}",) if others else (), missing


def _observation(port: Value) -> DescribedObservation:
    key, values = observation_key(port["name"].text())
    return DescribedObservation(key, (_term(port, key),), values)


def _term(port: Value, name: str) -> DescribedTerm:
    """Return the only term of an input; what is known of it says the connection, or else the kind."""
    connection = port["isaaclab_connection"].content
    source, _, rest = connection.partition(":") if isinstance(connection, str) else ("", "", "")
    prop = re.sub(r"^root_(link|com)_", "root_", rest.rpartition(":")[2])
    quantity = _PROPERTIES.get(prop, "") if source == "state" else ""
    quantity = quantity or _known(port["kind"], _KINDS)
    elements, values, note = _elements(port), {}, ""
    if source == "command" and not quantity and elements and set(elements) <= _FIELDS.keys():
        quantity = "velocity_command"
    if quantity.startswith("joint_"):
        values = {"joints": elements} if elements else {}
    elif quantity == "orientation":
        order = "".join(element[-1:].lower() for element in elements)
        if sorted(order) != sorted(QUATERNION):
            order, note = QUATERNION, f"ASSUMED: order {QUATERNION}"
        values = {"fields": tuple(f"orientation.{part}" for part in order)}
    elif quantity == "velocity_command" and set(elements) <= _FIELDS.keys() and elements:
        values = {"fields": tuple(_FIELDS[element] for element in elements)}
    return DescribedTerm(name, quantity, values, note)


def _known(value: Value, names: Mapping[str, str]) -> str:
    """Return what a name stands for; empty for another value."""
    return names.get(value.content, "") if isinstance(value.content, str) else ""


def _elements(port: Value) -> tuple[str, ...]:
    """Return the names along the last axis, empty if there are none."""
    axes = port["element_names"].entries()
    if not axes:
        return ()
    if all(isinstance(axis.content, str) for axis in axes):
        return port["element_names"].texts()
    return axes[-1].texts()


def _begins_with_zeros(initial: Value) -> bool:
    """Whether all values of a safetensors file are zeros, as the memory of the node at its start."""
    if initial.content is None:
        return True
    file = file_beside(initial)
    try:
        content = read_file(file, MAX_MEMORY_BYTES)
        size = int.from_bytes(content[:8], "little")
        json.loads(content[8 : 8 + size])
    except (OSError, ValueError) as error:
        raise initial.error(f"{file.name} ({error})", "a safetensors file beside the description") from error
    return not any(content[8 + size :])


DESCRIPTION = DescriptionKind(
    TITLE,
    lambda content: all(re.search(rb"(?m)^%s\s*:" % key, content) for key in (b"models", b"pipeline")),
    read_leapp,
)
