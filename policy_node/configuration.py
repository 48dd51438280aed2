# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The whole configuration of a deployment: every parameter, its type, default and range, and every rule across them.

`PARAMETERS` is the one definition that ROS parameters, files, tools and `doc/configuration.md` share.
`parse_configuration` turns a mapping of dotted names into frozen dataclasses, or says everything that is wrong with it
at once.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
JOINT_STATE = "sensor_msgs/msg/JointState"
TWIST = "geometry_msgs/msg/Twist"
TWIST_STAMPED = "geometry_msgs/msg/TwistStamped"
FLOAT64_ARRAY = "std_msgs/msg/Float64MultiArray"
JOINT_TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"

IMAGE_TYPES = (IMAGE, COMPRESSED_IMAGE)
# Zero is a safe command only where it is a velocity.
VELOCITY_COMMAND_TYPES = (TWIST, TWIST_STAMPED)
JOINT_COMMAND_TYPES = (JOINT_STATE, JOINT_TRAJECTORY)
COMMAND_TYPES = (*VELOCITY_COMMAND_TYPES, FLOAT64_ARRAY, *JOINT_COMMAND_TYPES)


class ConfigurationError(ValueError):
    """The configuration cannot be used; the text names each parameter, what was found, what is allowed and a remedy."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True)
class Parameter:
    """One parameter: its dotted name, type and rule.

    Attributes
    ----------
    name
        Dotted name; `<key>` stands for each name in `observations.keys`.
    type
        `bool`, `int`, `float`, `str`, `list[str]` or `list[float]`.
    default
        Value when the parameter is not given; None when it must be given.
    description
        What it does, in one sentence.
    unit
        SI unit, empty where there is none.
    allowed
        The only values allowed, when it is a choice.
    minimum, maximum
        Inclusive range of a number.
    """

    name: str
    type: str
    default: Any
    description: str
    unit: str = ""
    allowed: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None

    @property
    def range_text(self) -> str:
        """The rule in words, for errors, descriptors and documentation."""
        if self.allowed:
            return "one of " + ", ".join(repr(choice) for choice in self.allowed)
        if self.minimum is not None and self.maximum is not None:
            return f"{self.minimum:g} to {self.maximum:g}"
        if self.minimum is not None:
            return f"{self.minimum:g} or more"
        return ""


PARAMETERS: tuple[Parameter, ...] = (
    Parameter("control_rate_hz", "float", None, "Rate of the control tick.", "Hz", minimum=0.1, maximum=1000.0),
    Parameter("robots", "list[str]", None, "Namespaces of the robots, one row of the batch each."),
    Parameter("autostart", "bool", True, "Configure and activate by itself at start."),
    Parameter(
        "policy.path",
        "str",
        None,
        "Policy file: absolute, `~`, relative to the working directory, or `package://PACKAGE/PATH`.",
    ),
    Parameter(
        "policy.device",
        "str",
        "auto",
        "Where the tensors live: `auto` (CUDA if there is one), `cpu`, `cuda` or `cuda:i`.",
    ),
    Parameter("policy.threads", "int", 1, "CPU threads of one inference.", minimum=1, maximum=256),
    Parameter(
        "observations.keys",
        "list[str]",
        None,
        "Names of the observations; with a Dict space its keys, else any one name.",
    ),
    Parameter(
        "observations.<key>.topic",
        "str",
        None,
        "Topic, below the robot's namespace; with a leading `/` one topic for all robots.",
    ),
    Parameter("observations.<key>.type", "str", None, "Message type, such as `sensor_msgs/msg/Image`."),
    Parameter(
        "observations.<key>.field",
        "str",
        "",
        "Dotted path to the numbers in the message, of a JointState `position`, `velocity` or `effort`; empty: the "
        "type's usual vector.",
    ),
    Parameter(
        "observations.<key>.joints",
        "list[str]",
        (),
        "Joints to read from a JointState, in this order; empty: all, as published.",
    ),
    Parameter(
        "observations.<key>.encoding",
        "str",
        "",
        "Pixel encoding that the policy was trained on; empty: by channels and dtype (rgb8, "
        "mono8, rgba8, 16UC1, 32FC1).",
        allowed=("", "rgb8", "bgr8", "rgba8", "bgra8", "mono8", "16UC1", "32FC1"),
    ),
    Parameter(
        "observations.<key>.stack",
        "int",
        1,
        "Time steps stacked, oldest first, as SB3's VecFrameStack does.",
        minimum=1,
        maximum=1000,
    ),
    Parameter(
        "observations.<key>.depth",
        "int",
        0,
        "Depth of the subscription's queue; 0: 2 for images, 10 for other types. A sensor much faster than the slowest "
        "one needs as many as it publishes within the slowest one's delay.",
        minimum=0,
        maximum=1000,
    ),
    Parameter(
        "observations.<key>.reliability",
        "str",
        "best_effort",
        "Reliability asked of the publisher.",
        allowed=("best_effort", "reliable"),
    ),
    Parameter(
        "synchronisation.slop_s",
        "float",
        0.05,
        "Largest spread of the stamps in one robot's set of readings.",
        "s",
        minimum=0.0,
        maximum=10.0,
    ),
    Parameter(
        "synchronisation.max_age_s",
        "float",
        0.2,
        "Largest age of the oldest reading in the set at the tick.",
        "s",
        minimum=0.001,
        maximum=60.0,
    ),
    Parameter("action.topic", "str", None, "Topic of the commands, below the robot's namespace."),
    Parameter("action.type", "str", None, "Message type of the commands.", allowed=COMMAND_TYPES),
    Parameter(
        "action.fields",
        "list[str]",
        (),
        "Field of a Twist for each component of the command, such as `linear.x`; required for a Twist command.",
    ),
    Parameter(
        "action.joints",
        "list[str]",
        (),
        "Joint of a JointState or JointTrajectory for each component of the command; required for a joint command.",
    ),
    Parameter(
        "action.field", "str", "position", "What a JointState commands.", allowed=("position", "velocity", "effort")
    ),
    Parameter("action.frame_id", "str", "", "frame_id of stamped commands."),
    Parameter(
        "action.time_from_start_s",
        "float",
        0.0,
        "When a JointTrajectory's point is to be reached; 0: one control period.",
        "s",
        minimum=0.0,
        maximum=60.0,
    ),
    Parameter("action.table", "list[float]", (), "For a Discrete action: one command per action, row after row."),
    Parameter(
        "action.when_stale",
        "str",
        "stop",
        "What a robot gets whose data are not good: the safe command, its last command for `hold_s`, or nothing.",
        allowed=("stop", "hold", "silent"),
    ),
    Parameter(
        "action.hold_s",
        "float",
        0.5,
        "How long `hold` repeats the last command before it stops the robot.",
        "s",
        minimum=0.0,
        maximum=60.0,
    ),
    Parameter(
        "action.safe_command",
        "list[float]",
        (),
        "The safe command; empty: zeros for a Twist. Any other type needs it, unless `when_stale` is `silent`.",
    ),
)

# Parameters that ROS itself gives every node.
ROS_PARAMETERS = ("use_sim_time", "start_type_description_service")
ROS_PARAMETER_PREFIXES = ("qos_overrides./clock.", "qos_overrides./parameter_events.")

_PYTHON_TYPES = {"bool": bool, "int": int, "float": float, "str": str}
_TYPE_NAMES = {
    "bool": "a boolean",
    "int": "an integer",
    "float": "a double",
    "str": "a string",
    "list[str]": "a list of strings",
    "list[float]": "a list of doubles",
}


@dataclass(frozen=True)
class PolicyConfiguration:
    """Which policy runs where."""

    path: str
    device: str
    threads: int


@dataclass(frozen=True)
class ObservationConfiguration:
    """One observation of every robot and the topic that it comes from."""

    key: str
    topic: str
    type: str
    field: str
    joints: tuple[str, ...]
    encoding: str
    stack: int
    depth: int
    reliability: str

    @property
    def is_image(self) -> bool:
        """Whether the readings are images."""
        return self.type in IMAGE_TYPES


@dataclass(frozen=True)
class SynchronisationConfiguration:
    """Which readings make a usable set."""

    slop_s: float
    max_age_s: float


@dataclass(frozen=True)
class ActionConfiguration:
    """The command of every robot and what replaces it when its data are not good."""

    topic: str
    type: str
    fields: tuple[str, ...]
    joints: tuple[str, ...]
    field: str
    frame_id: str
    time_from_start_s: float
    table: tuple[float, ...]
    when_stale: str
    hold_s: float
    safe_command: tuple[float, ...]


@dataclass(frozen=True)
class Configuration:
    """One deployment, checked as a whole."""

    control_rate_hz: float
    robots: tuple[str, ...]
    autostart: bool
    policy: PolicyConfiguration
    observations: tuple[ObservationConfiguration, ...]
    synchronisation: SynchronisationConfiguration
    action: ActionConfiguration

    @property
    def period_ns(self) -> int:
        """Control period in nanoseconds."""
        return round(1e9 / self.control_rate_hz)


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn a nested mapping, as YAML gives it, into dotted names."""
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def parameters_for(keys: Sequence[str]) -> dict[str, Parameter]:
    """Every parameter by its full name, with `<key>` written out for each of `keys`."""
    named: dict[str, Parameter] = {}
    for parameter in PARAMETERS:
        for key in keys if "<key>" in parameter.name else ("",):
            named[parameter.name.replace("<key>", key)] = parameter
    return named


def parse_configuration(values: Mapping[str, Any]) -> Configuration:
    """Check parameters as a whole and return them typed.

    Parameters
    ----------
    values
        Values by dotted name, or nested as in the YAML file below `ros__parameters`.

    Raises
    ------
    ConfigurationError
        With one line for every problem.
    """
    flat = flatten(values)
    problems: list[str] = []
    keys = flat.get("observations.keys")
    # A value of another type is reported below like that of any other parameter.
    keys = tuple(keys) if _has_type(keys, "list[str]") else ()  # type: ignore[arg-type]
    known = parameters_for(keys)
    for name in flat:
        if name not in known and name not in ROS_PARAMETERS and not name.startswith(ROS_PARAMETER_PREFIXES):
            problems.append(_unknown(name, flat[name], known))
    checked = {name: _check(name, parameter, flat, problems) for name, parameter in known.items()}
    # Rules across fields need well-typed fields.
    if not problems:
        problems = _check_across(checked, keys)
    if problems:
        raise ConfigurationError(problems)

    def group(prefix: str) -> dict[str, Any]:
        return {name.removeprefix(prefix): value for name, value in checked.items() if name.startswith(prefix)}

    return Configuration(
        control_rate_hz=checked["control_rate_hz"],
        robots=checked["robots"],
        autostart=checked["autostart"],
        policy=PolicyConfiguration(**group("policy.")),
        observations=tuple(ObservationConfiguration(key=key, **group(f"observations.{key}.")) for key in keys),
        synchronisation=SynchronisationConfiguration(**group("synchronisation.")),
        action=ActionConfiguration(**group("action.")),
    )


def _has_type(value: Any, type_name: str) -> bool:
    if type_name.startswith("list["):
        element = _PYTHON_TYPES[type_name[5:-1]]
        return (
            isinstance(value, Sequence)
            and not isinstance(value, (str, bytes))
            and all(type(item) is element for item in value)
        )
    return type(value) is _PYTHON_TYPES[type_name]


def _unknown(name: str, value: Any, known: Mapping[str, Parameter]) -> str:
    if name.startswith("qos_overrides."):
        return (
            f"{name}: found {value!r}, but sensors and commands take no overrides; remove it and set "
            f"observations.<key>.depth or observations.<key>.reliability"
        )
    parts = name.split(".")
    if parts[0] == "observations" and len(parts) > 2 and f"observations.{parts[1]}.topic" not in known:
        return (
            f"{name}: found {value!r}, but observations.keys does not name '{parts[1]}'; "
            f"add it there or remove the observation"
        )
    close = difflib.get_close_matches(name, known, n=1)
    remedy = f"did you mean {close[0]}?" if close else f"allowed are {', '.join(sorted(known))}"
    return f"{name}: found {value!r}, but there is no such parameter; {remedy}"


def _check(name: str, parameter: Parameter, flat: Mapping[str, Any], problems: list[str]) -> Any:
    """Return the value of one parameter, or note what is wrong with it."""
    if name not in flat:
        if parameter.default is None:
            problems.append(f"{name}: missing; give {_TYPE_NAMES[parameter.type]}: {parameter.description}")
        return parameter.default
    value = flat[name]
    if not _has_type(value, parameter.type):
        remedy = ""
        if parameter.type == "float" and type(value) is int:
            remedy = f"; write {value}.0"
        elif parameter.type == "list[float]" and _has_type(value, "list[str]") is False and isinstance(value, Sequence):
            remedy = "; write every number with a decimal point"
        problems.append(
            f"{name}: found {value!r} ({type(value).__name__}), but it must be {_TYPE_NAMES[parameter.type]}{remedy}"
        )
        return value
    if parameter.type.startswith("list["):
        value = tuple(value)
    numbers = value if parameter.type == "list[float]" else (value,) if parameter.type in ("int", "float") else ()
    outside = (parameter.minimum is not None and any(number < parameter.minimum for number in numbers)) or (
        parameter.maximum is not None and any(number > parameter.maximum for number in numbers)
    )
    if outside or not all(math.isfinite(number) for number in numbers):
        problems.append(
            f"{name}: found {value!r}, but it must be finite, {parameter.range_text} {parameter.unit}".rstrip(" ,")
        )
    if parameter.allowed and value not in parameter.allowed:
        problems.append(f"{name}: found {value!r}, but it must be {parameter.range_text}")
    if parameter.default is None and len(value if isinstance(value, (str, tuple)) else "x") == 0:
        problems.append(f"{name}: empty; give {_TYPE_NAMES[parameter.type]}: {parameter.description}")
    return value


def _check_across(checked: Mapping[str, Any], keys: tuple[str, ...]) -> list[str]:
    problems: list[str] = []
    robots = checked["robots"]
    # In the root namespace `/rover` and `rover` are one robot.
    for name, names in (("robots", [robot.removeprefix("/") for robot in robots]), ("observations.keys", list(keys))):
        for duplicate in sorted({entry for entry in names if names.count(entry) > 1}):
            problems.append(
                f"{name}: '{duplicate}' stands there {names.count(duplicate)} times; every name must be unique"
            )
    for robot in robots:
        parts = robot.removeprefix("/").split("/")
        if not all(part.isidentifier() and part.isascii() for part in parts):
            problems.append(
                f"robots: found {robot!r}, but a robot is a ROS namespace: letters, digits and underscores, not "
                f"starting with a digit, levels separated by '/'"
            )
    action_type = checked["action.type"]
    for key in keys:
        if not key or "." in key:
            problems.append(f"observations.keys: found {key!r}, but a key is a name without dots; rename it")
        prefix = f"observations.{key}."
        if checked[prefix + "encoding"] and checked[prefix + "type"] not in IMAGE_TYPES:
            problems.append(
                f"{prefix}encoding: given for a {checked[prefix + 'type']}; only {' and '.join(IMAGE_TYPES)} "
                f"have one; remove it"
            )
        if checked[prefix + "joints"] and checked[prefix + "type"] != JOINT_STATE:
            problems.append(
                f"{prefix}joints: given for a {checked[prefix + 'type']}; only {JOINT_STATE} has them; "
                f"remove it"
            )
    if checked["action.topic"].startswith("/") and len(robots) > 1:
        problems.append(
            f"action.topic: found {checked['action.topic']!r}, which would send the commands of {len(robots)} "
            f"robots to one topic; "
            f"remove the leading '/'"
        )
    components = checked["action.joints"] if action_type in JOINT_COMMAND_TYPES else checked["action.fields"]
    if action_type in VELOCITY_COMMAND_TYPES and not checked["action.fields"]:
        problems.append(
            f"action.fields: missing; a {action_type} needs the field of each component, such as [linear.x, angular.z]"
        )
    if action_type in JOINT_COMMAND_TYPES and not checked["action.joints"]:
        problems.append(f"action.joints: missing; a {action_type} needs the joint of each component")
    for name, types in (("action.fields", VELOCITY_COMMAND_TYPES), ("action.joints", JOINT_COMMAND_TYPES)):
        if checked[name] and action_type not in types:
            problems.append(f"{name}: given for a {action_type}; only {' and '.join(types)} use it; remove it")
    safe_command = checked["action.safe_command"]
    if not safe_command and action_type not in VELOCITY_COMMAND_TYPES and checked["action.when_stale"] != "silent":
        problems.append(
            f"action.safe_command: missing; for a {action_type} zeros may move a robot, so give the command that "
            f"is safe, "
            f"or set action.when_stale to silent"
        )
    if safe_command and components and len(safe_command) != len(components):
        problems.append(
            f"action.safe_command: found {len(safe_command)} numbers, but a command has {len(components)} components"
        )
    table = checked["action.table"]
    if table and components and len(table) % len(components):
        problems.append(
            f"action.table: found {len(table)} numbers, but they must be rows of {len(components)}, "
            f"one number per component"
        )
    return problems
