# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Turn a trainer's description into parameters of the node: a parameter file, or what a configuration leaves out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from policy_node.config.filled_in import FilledIn
from policy_node.config.rules import MISSING
from policy_node.config.schema import ConfigurationError, ObservationConfiguration, observations_of, parameters_for
from policy_node.policies.contract import PolicyError
from policy_node.policies.descriptions import DescribedTerm, TrainerDescription, find_description, read_description

IMU = {"topic": "imu/data", "type": "sensor_msgs/msg/Imu"}
JOINTS = {"topic": "joint_states", "type": "sensor_msgs/msg/JointState"}
ODOMETRY = {"topic": "odom", "type": "nav_msgs/msg/Odometry"}
# Parameters of a term for each quantity, None for one that must be given; topics are the usual ones of ROS.
QUANTITIES: dict[str, dict[str, Any]] = {
    "angular_velocity": {**IMU, "field": "angular_velocity"},
    "projected_gravity": {**IMU, "field": "orientation", "kind": "projected_gravity"},
    "orientation": IMU,
    "linear_velocity": {**ODOMETRY, "field": "twist.twist.linear"},
    "position": {**ODOMETRY, "field": "pose.pose.position"},
    "velocity_command": {
        "topic": "cmd_vel",
        "type": "geometry_msgs/msg/Twist",
        "fields": ("linear.x", "linear.y", "angular.z"),
        "max_age_s": 0.5,
    },
    "joint_position": {**JOINTS, "field": "position", "joints": None},
    "joint_velocity": {**JOINTS, "field": "velocity", "joints": None},
    "joint_effort": {**JOINTS, "field": "effort", "joints": None},
    "previous_action": {"kind": "previous_action"},
    "phase": {"kind": "phase", "phase_as": "sin_cos", "offset": (0.0,), "period_s": None},
    "step": {"kind": "step"},
    "policy_output": {"kind": "policy_output"},
}
NOT_SAID = "ASSUMED: the description does not say it"
_MISSING = {
    "joints": "the names of the joints, in the order of the policy",
    "default": "the default pose, which is subtracted",
    "period_s": "the period of the gait",
}
_OF_OBSERVATION = [part.name for part in fields(ObservationConfiguration)]
# Parameters that exclude one of the same prefix: that one is not filled in where they are given.
_EXCLUDED_BY = {
    "terms": ("topic",),
    "stack": ("history",),
    "field": ("fields",),
    "fields": ("field",),
    "joints": ("fields",),
    "safe_command": ("safe_position_topic",),
    "safe_position_topic": ("safe_command",),
}


@dataclass(frozen=True)
class DescribedParameter:
    """The value of a parameter, None if it must be given, and a comment, empty if the value is the trainer's.

    The comment of a value that must be given begins with `MISSING`. A value that may be given is left out, with a
    comment in its place. The rows of a table are tuples in a tuple.
    """

    value: Any
    comment: str = ""
    is_optional: bool = False


def described_parameters(description: TrainerDescription) -> dict[str, DescribedParameter]:
    """Return the parameters that follow from a description, by dotted name, in the order of a parameter file."""
    rate = description.values.get("control_rate_hz")
    found = {
        "control_rate_hz": DescribedParameter(rate or 50.0, "" if rate else f"{NOT_SAID}; give the rate of training"),
        "policy.path": DescribedParameter(None if description.policy is None else str(description.policy)),
    }
    if description.policy is not None and description.policy.suffix not in ("", ".onnx"):
        found["policy.trusted"] = DescribedParameter(None, f"{MISSING}true, if you trust the file; it can run code")
    given = {name: DescribedParameter(value) for name, value in description.values.items() if name not in found}
    found |= {name: entry for name, entry in given.items() if name.startswith(("policy.", "chunk."))}
    found["observations.keys"] = DescribedParameter(tuple(entry.key for entry in description.observations))
    for observation in description.observations:
        prefix = f"observations.{observation.key}"
        names = tuple(_term_name(term.name) for term in observation.terms)
        note = observation.note or ("" if names else f"{MISSING}the terms, their order and scales")
        # An observation with a type is read from one topic.
        if "type" not in observation.values:
            found[f"{prefix}.terms"] = DescribedParameter(names or None, note)
        found |= {f"{prefix}.{name}": DescribedParameter(value) for name, value in observation.values.items()}
        for name, term in zip(names, observation.terms, strict=True):
            found |= {f"{prefix}.{name}.{part}": entry for part, entry in _term_parameters(term).items()}
    found |= {
        "action.topic": DescribedParameter("joint_commands", "ASSUMED: topic of the robot's joint controllers"),
        "action.type": DescribedParameter("sensor_msgs/msg/JointState", "ASSUMED: or JointTrajectory"),
    }
    found |= {name: entry for name, entry in given.items() if name.startswith("action.")}
    if "action.safe_command" in found:
        found["action.safe_command"] = DescribedParameter(
            found["action.safe_command"].value, "ASSUMED: the default pose is safe"
        )
    elif description.values.get("action.field", "position") == "position":
        found["action.safe_position_topic"] = DescribedParameter(
            "joint_states", "ASSUMED: without data a robot holds the position that it has"
        )
    for name, text in description.notes.items():
        found[name] = DescribedParameter(found[name].value, f"ASSUMED: {text}")
    for name, text in description.missing.items():
        found[name] = DescribedParameter(None, f"{MISSING}{text}")
    return found


def _term_name(name: str) -> str:
    """Return the name of a term without dots, which would end it, and other than parameters of an observation."""
    return name.replace(".", "_") + ("_term" if name in _OF_OBSERVATION else "")


def _term_parameters(term: DescribedTerm) -> dict[str, DescribedParameter]:
    values = {**QUANTITIES.get(term.quantity, {}), **term.values}
    found = {
        name: DescribedParameter(value, "" if value is not None else f"{MISSING}{_MISSING[name]}")
        for name, value in values.items()
    }
    if "topic" in found:
        found["topic"] = DescribedParameter(values["topic"], f"ASSUMED: topic of the {values['type'].split('/')[-1]}")
    if not term.quantity:
        found = {
            "topic": DescribedParameter(None, f"{MISSING}no topic is known for '{term.name}'; give topic and type"),
            **found,
        }
    if term.note:
        first = next(iter(found))
        comment = "; ".join(filter(None, (found[first].comment, term.note)))
        found[first] = DescribedParameter(found[first].value, comment)
    return found


def parameter_file(description: TrainerDescription) -> str:
    """Return the text of a parameter file, with a comment at everything that the description does not say.

    The text in place of a value that must be given is refused by the checks of the parameters.
    """
    entries = {"robots": DescribedParameter(("robot_0",), "ASSUMED: namespaces of the robots")}
    return written_file(introduction(description), entries | described_parameters(description))


def introduction(description: TrainerDescription) -> list[str]:
    """Return the first lines of a parameter file that is made from a description."""
    return [
        f"From {description.title}: {description.path.name}.",
        "ASSUMED: not in the description, check it.",
        "MISSING: not in the description, give it; the node does not configure before.",
        *description.facts,
    ]


def written_file(first_lines: Iterable[str], entries: Mapping[str, DescribedParameter]) -> str:
    """Return the text of a parameter file: comments, then parameters by dotted name; the control rate comes first."""
    lines = [*(_comment(line) for line in first_lines), "/**:  # node of any name", "  ros__parameters:"]
    tree: dict[str, Any] = {"control_rate_hz": None}
    for name, entry in entries.items():
        *parents, last = name.split(".")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[last] = entry
    lines += _lines(tree, 4)
    return "\n".join(lines) + "\n"


def fill_in(values: Mapping[str, Any]) -> tuple[dict[str, Any], FilledIn]:
    """Fill in what a configuration leaves out from the description that its `policy.description` names.

    A parameter is left out where it is not given or has its default. `policy.description` is empty afterwards.

    Parameters
    ----------
    values
        Parameters by dotted name, paths resolved.

    Returns
    -------
    dict
        Parameters by dotted name.
    FilledIn
        What was filled in.

    Raises
    ------
    ConfigurationError
        If there is no description, it cannot be read, or it lacks something that the parameters do not give either.
    """
    source = values.get("policy.description")
    if not isinstance(source, str) or not source:
        return dict(values), FilledIn()
    policy = values.get("policy.path")
    if source == "auto" and not isinstance(policy, str):
        raise ConfigurationError("policy.path: missing; with policy.description: auto it says where the description is")
    try:
        description = find_description(Path(str(policy))) if source == "auto" else read_description(Path(source))
    except PolicyError as error:
        raise ConfigurationError(f"policy.description: {error}") from error
    described = described_parameters(description)
    entries = {name: entry.value for name, entry in described.items() if entry.value is not None}
    known = parameters_for(*observations_of({**entries, **values}))
    given = {name: value for name, value in values.items() if name not in known or value != _default(known[name])}
    left_out = {name: entry for name, entry in described.items() if not _is_given(name, given)}
    filled = {name: entry.value for name, entry in left_out.items() if entry.value is not None}
    merged = {**values, **_listed({**filled, "policy.description": ""})}
    keys, terms = observations_of(merged)
    used = [name for name in filled if _is_used(name, keys, terms)]
    lacking = [
        f"{name}: {entry.comment}; {description.path} does not say it"
        for name, entry in left_out.items()
        if entry.value is None and _is_used(name, keys, terms)
    ]
    if lacking:
        raise ConfigurationError(lacking)
    kept = {name: value for name, value in merged.items() if name not in filled or name in used}
    return kept, FilledIn(description.path, tuple(used), _report(description, described, used))


def _default(parameter: Any) -> Any:
    return list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default


def _listed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values with lists instead of tuples, as parameters have them."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _is_given(name: str, given: Mapping[str, Any]) -> bool:
    """Whether a configuration gives a parameter, or one that excludes it."""
    prefix, _, last = name.rpartition(".")
    return any(other in given for other in (name, *(f"{prefix}.{part}" for part in _EXCLUDED_BY.get(last, ()))))


def _is_used(name: str, keys: Iterable[str], terms: Mapping[str, Iterable[str]]) -> bool:
    """Whether a parameter belongs to no observation or term, or to one that the configuration has."""
    parts = name.split(".")
    if parts[0] != "observations" or name == "observations.keys":
        return True
    return parts[1] in keys and (len(parts) == 3 or parts[2] in terms.get(parts[1], ()))


def _report(description: TrainerDescription, described: Mapping[str, DescribedParameter], used: Iterable[str]) -> str:
    """Return what was filled in, a term as a whole, and the comments."""
    names = dict.fromkeys(".".join(name.split(".")[:3]) for name in used)
    lines = [f"policy.description: filled in from {description.title}, {description.path}: {', '.join(names)}"]
    lines += [f"  {name}: {described[name].comment}" for name in used if described[name].comment]
    return "\n".join(lines)


def _lines(tree: Mapping[str, Any], indent: int) -> list[str]:
    lines = []
    for name, entry in tree.items():
        start = " " * indent + _written(name)
        if isinstance(entry, Mapping):
            lines += [f"{start}:", *_lines(entry, indent + 2)]
        elif entry.is_optional:
            lines.append(" " * indent + _comment(f"{name}: {entry.comment}"))
        elif entry.value is None:
            lines.append(f"{start}: {_written(_printable(entry.comment))}")
        elif isinstance(entry.value, tuple) and isinstance(next(iter(entry.value), None), tuple):
            lines += [f"{start}:" + (f"  {_comment(entry.comment)}" if entry.comment else ""), " " * indent + "  ["]
            rows = (", ".join(map(_written, row)) for row in entry.value)
            lines += [f"{' ' * indent}    {row},  # action {index}" for index, row in enumerate(rows)]
            lines.append(" " * indent + "  ]")
        else:
            lines.append(
                f"{start}: {_written(entry.value)}" + (f"  {_comment(entry.comment)}" if entry.comment else "")
            )
    return lines


def _comment(text: str) -> str:
    return f"# {_printable(text)}"


def _printable(text: str) -> str:
    """Return a text in one line; texts of the trainer may hold anything."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _written(value: Any) -> str:
    """Return a value as YAML in one line."""
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, width=float("inf"), allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
