# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Propose parameters of the node for the inputs and the action of a policy, with a comment at all that is assumed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from policy_node.config.catalogue import COMMAND_TYPES, IMAGE_ENCODINGS
from policy_node.config.specs import ActionSpec, ArraySpec, DiscreteSpec, MultiDiscreteSpec, is_unbounded
from policy_node.policies.described_parameters import DescribedParameter

DEFAULT_RATE_HZ = 20.0
TWIST = "geometry_msgs/msg/Twist"
# Fields of a Twist by the number of components.
TWIST_FIELDS = {
    1: ("linear.x",),
    2: ("linear.x", "angular.z"),
    3: ("linear.x", "linear.y", "angular.z"),
}
# Fields of other messages in the usual order of the components, by a part of the type's name.
_FIELDS = {
    "Ackermann": ("speed", "steering_angle", "acceleration", "jerk", "steering_angle_velocity"),
    "Pose": (*(f"position.{axis}" for axis in "xyz"), *(f"orientation.{axis}" for axis in "xyzw")),
    "": tuple(f"{part}.{axis}" for part in ("linear", "angular") for axis in "xyz"),
}
# Types with a list of numbers of each dtype, and the parameters that read it.
_LISTS: dict[str, dict[str, Any]] = {
    "f": {"type": "std_msgs/msg/Float32MultiArray"},
    "i": {"type": "std_msgs/msg/Int32MultiArray", "field": "data"},
    "u": {"type": "std_msgs/msg/UInt8MultiArray", "field": "data"},
}
_BOOLEAN = {"type": "std_msgs/msg/Bool"}
_INTEGER = {"type": "std_msgs/msg/Int32"}
_COLOURS = 3


@dataclass(frozen=True)
class Frame:
    """One time step of an observation, as a sensor gives it.

    Attributes
    ----------
    spec
        Images `[height, width, channels]`, else `[numbers]`.
    values
        Parameters of the observation that follow from its shape: `encoding`, `stack`, `history`.
    comments
        What was assumed, by the name of such a parameter.
    """

    spec: ArraySpec
    values: Mapping[str, Any] = field(default_factory=dict)
    comments: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_image(self) -> bool:
        """Whether an image gives it."""
        return len(self.spec.shape) == 3


@dataclass(frozen=True)
class Found:
    """A topic that was found for an observation or the action.

    Attributes
    ----------
    values
        Parameters by their name below the observation or the action.
    heard
        What was heard there, such as rate and size, for a comment.
    others
        Other topics that fit.
    """

    values: Mapping[str, Any]
    heard: str
    others: Sequence[str] = ()


def frame_of(key: str, spec: ArraySpec) -> Frame:
    """Return one time step of an observation of the policy; a stack is assumed where its channels suggest one."""
    shape = spec.shape
    if len(shape) == 3:
        channels_first = int(np.argmin(shape)) == 0
        height, width, channels = (*shape[1:], shape[0]) if channels_first else shape
        kinds = {(each.dtype, each.channels): each for each in IMAGE_ENCODINGS.values() if each.is_default}
        colours = channels
        comments: dict[str, str] = {}
        if (spec.dtype, channels) not in kinds or channels == _COLOURS + 1:
            colours = _COLOURS if channels % _COLOURS == 0 and (spec.dtype, _COLOURS) in kinds else 1
            comments["stack"] = f"ASSUMED: {channels} channels are {channels // colours} steps of {colours}"
            if channels == _COLOURS + 1:
                comments["stack"] += "; for one image with colours and alpha remove it, and give encoding: rgba8"
        kind = kinds.get((spec.dtype, colours))
        if kind is not None:
            low, high = float(np.min(spec.low)), float(np.max(spec.high))
            frame = ArraySpec(key, (height, width, colours), spec.dtype, low, high)
            values: dict[str, Any] = {"encoding": kind.name}
            if kind.name == "rgb8":
                comments["encoding"] = "ASSUMED: bgr8 if the policy was trained on images of OpenCV"
            if channels != colours:
                values["stack"] = channels // colours
            return Frame(frame, values, comments)
    if len(shape) == 2:
        frame = _numbers(key, shape[1:], spec.dtype)
        return Frame(frame, {"history": shape[0]}, {"history": "ASSUMED: the first axis are time steps"})
    return Frame(_numbers(key, shape or (1,), spec.dtype))


def _numbers(name: str, shape: tuple[int, ...], dtype: np.dtype) -> ArraySpec:
    """Return the spec of any numbers of a dtype."""
    if dtype.kind == "f":
        return ArraySpec(name, shape, dtype, -np.inf, np.inf)
    limits = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return ArraySpec(name, shape, dtype, *limits)


def components_of(action: ActionSpec) -> int:
    """Return how many numbers a command has; 0 where a table decides it."""
    if isinstance(action, DiscreteSpec):
        return 0
    return len(action.choices) if isinstance(action, MultiDiscreteSpec) else math.prod(action.shape)


def proposed_parameters(
    observations: Mapping[str, ArraySpec],
    action: ActionSpec,
    policy: Mapping[str, DescribedParameter],
    robots: DescribedParameter,
    found: Mapping[str, Found],
) -> dict[str, DescribedParameter]:
    """Return the parameters of a policy by dotted name, in the order of a parameter file.

    Parameters
    ----------
    observations, action
        Inputs and action of the policy.
    policy
        Parameters `policy.…`.
    robots
        Names of the robots.
    found
        Topics by key of the observation, and under `action` that of the commands; others are assumed.
    """
    proposed = {
        "control_rate_hz": DescribedParameter(
            DEFAULT_RATE_HZ, "ASSUMED: give the rate of the training, with a decimal point"
        ),
        "robots": robots,
        **policy,
        "observations.keys": DescribedParameter(tuple(observations)),
    }
    for key, spec in observations.items():
        entries = _observation(key, spec, found.get(key))
        proposed |= {f"observations.{key}.{name}": entry for name, entry in entries.items()}
    proposed |= {
        "synchronisation.slop_s": DescribedParameter(0.05, "largest spread of the stamps in one robot's readings"),
        "synchronisation.max_age_s": DescribedParameter(0.2, "largest age of the readings, else the safe command"),
    }
    return proposed | {f"action.{name}": entry for name, entry in _action(action, found.get("action")).items()}


def _observation(key: str, spec: ArraySpec, found: Found | None) -> dict[str, DescribedParameter]:
    frame = frame_of(key, spec)
    if found is None:
        values: Mapping[str, Any] = {"topic": _topic(key, frame), **_type(frame)}
        users = "Image or CompressedImage" if frame.is_image else f"any that gives {frame.spec.shape[0]} numbers"
        entries = {name: DescribedParameter(value) for name, value in values.items()}
        entries["topic"] = DescribedParameter(values["topic"], f"ASSUMED: topic for the policy's {spec}")
        entries["type"] = DescribedParameter(
            values["type"], f"ASSUMED: {users}; `field` or `joints` choose, see doc/configuration.md"
        )
    else:
        entries = {name: DescribedParameter(value) for name, value in found.values.items()}
        others = f"; or {', '.join(found.others)}" if found.others else ""
        entries["topic"] = DescribedParameter(found.values["topic"], f"heard: {found.heard}{others}")
    for name, value in frame.values.items():
        entries.setdefault(name, DescribedParameter(value, frame.comments.get(name, "")))
    if not frame.is_image and "history" not in frame.values:
        entries["stack"] = DescribedParameter(None, "time steps, where training stacked frames", is_optional=True)
    return entries


def _topic(key: str, frame: Frame) -> str:
    if frame.is_image:
        return "camera/image_raw"
    return "".join(letter if letter.isalnum() and letter.isascii() else "_" for letter in key).strip("_") or "numbers"


def _type(frame: Frame) -> dict[str, Any]:
    """Return the parameters of a type whose messages can give a frame."""
    spec = frame.spec
    if frame.is_image:
        return {"type": "sensor_msgs/msg/Image"}
    if spec.shape == (1,) and spec.dtype.kind in "bi":
        return _BOOLEAN if spec.dtype.kind == "b" else _INTEGER
    return _LISTS.get(spec.dtype.kind, _LISTS["f"])


def _action(action: ActionSpec, found: Found | None) -> dict[str, DescribedParameter]:
    components = components_of(action) or 2
    if found is not None:
        values = dict(found.values)
        others = f"; or {', '.join(found.others)}" if found.others else ""
        topic_comment = f"heard: {found.heard}{others}"
        type_comment = ""
    else:
        is_twist = components in TWIST_FIELDS
        values = {"topic": "cmd_vel" if is_twist else "commands", "type": _command_type(components)}
        topic_comment = "ASSUMED: topic that the robot listens to"
        type_comment = f"ASSUMED: one of {', '.join(COMMAND_TYPES)}"
    kind = COMMAND_TYPES[values["type"]]
    entries = {name: DescribedParameter(value) for name, value in values.items()}
    entries["topic"] = DescribedParameter(values["topic"], topic_comment)
    entries["type"] = DescribedParameter(values["type"], type_comment)
    if kind.named_by == "fields" and "fields" not in values:
        usual = next(fields for part, fields in _FIELDS.items() if part in values["type"])
        is_twist = usual is _FIELDS[""] and components in TWIST_FIELDS
        fields = TWIST_FIELDS[components] if is_twist else usual
        entries["fields"] = DescribedParameter(
            fields[:components], "ASSUMED: the field of each component, in the policy's order"
        )
    if isinstance(action, DiscreteSpec):
        rows = tuple((0.0,) * components for _ in range(action.n))
        entries["table"] = DescribedParameter(
            rows, "GIVE the command of each action, a row of numbers in the order of the fields; zeros stop the robot"
        )
    else:
        entries |= _affine(action, components)
    if not kind.is_velocity and "safe_position_topic" not in values:
        entries["when_stale"] = DescribedParameter(
            "silent", "ASSUMED: nothing is sent without data; give safe_command or safe_position_topic, then remove it"
        )
        entries["safe_command"] = DescribedParameter(
            None, f"the command that is safe, {components} numbers", is_optional=True
        )
    return entries


def _command_type(components: int) -> str:
    return TWIST if components in TWIST_FIELDS else "std_msgs/msg/Float64MultiArray"


def _affine(action: ArraySpec | MultiDiscreteSpec, components: int) -> dict[str, DescribedParameter]:
    """Return comments about scale, offset and bounds of continuous actions, with the bounds of the policy."""
    bounds = f"the policy's is {action}"
    count = f"1 or {components} numbers" if components > 1 else "1 number"
    unbounded = isinstance(action, ArraySpec) and bool((is_unbounded(action.low) | is_unbounded(action.high)).any())
    texts = {
        "scale": f"factor of the action, {count}; {bounds}",
        "offset": f"added after scale, such as a default pose, {count}",
        "low": f"lowest command, {count}" + ("; the policy has no bounds: give some" if unbounded else ""),
        "high": f"highest command, {count}",
        "max_rate": f"largest change per second, {count}",
    }
    return {name: DescribedParameter(None, text, is_optional=True) for name, text in texts.items()}
