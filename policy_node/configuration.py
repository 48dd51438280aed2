# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The whole configuration of a deployment: typed, checked as a whole, with every rule across parameters.

`parse_configuration` turns a mapping of dotted names into frozen dataclasses, or says everything that is wrong with it
at once.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from policy_node.config.catalogue import COMMAND_TYPES, MESSAGE_TYPES
from policy_node.parameters import PARAMETERS, ROS_PARAMETER_PREFIXES, ROS_PARAMETERS, Parameter


class ConfigurationError(ValueError):
    """The configuration cannot be used; the text names each parameter, what was found, what is allowed and a remedy."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


JOINT_STATE = "sensor_msgs/msg/JointState"
# What errors and diagnostics call the sensor that reads `action.safe_position_topic`.
SAFE_POSITION = "action.safe_position"

# An error about a parameter that more types have than these does not list them.
MOST_NAMED = 3

_DEFAULTS = {parameter.name: parameter.default for parameter in PARAMETERS}

# An observation made of terms has none of these: its terms do.
_SOURCE_PARAMETERS = tuple(
    f"observations.<key>.{name}"
    for name in (
        *("topic", "type", "field", "fields", "joints", "encoding", "depth", "reliability", "max_age_s"),
        "when_silent",
    )
)

_PYTHON_TYPES = {"bool": bool, "int": int, "float": float, "str": str}
_TYPE_NAMES = {
    "bool": "a boolean",
    "int": "an integer",
    "float": "a double",
    "str": "a string",
    "list[str]": "a list of strings",
    "list[int]": "a list of integers",
    "list[float]": "a list of doubles",
}


@dataclass(frozen=True)
class PolicyConfiguration:
    """Which policy runs where, and what a file of a foreign format does not say by itself."""

    path: str
    device: str
    trusted: bool
    sha256: str
    vecnormalize: str
    threads: int
    engine: str
    precision: str
    compile: bool
    max_batch: int
    format: str
    memory: tuple[str, ...]
    lengths: str
    mask: str
    padding: str
    action: str
    discrete: int
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class SourceConfiguration:
    """What is read from one topic of every robot; `key` is the observation that it belongs to."""

    key: str
    topic: str
    type: str
    field: str
    fields: tuple[str, ...]
    joints: tuple[str, ...]
    depth: int
    reliability: str
    max_age_s: float
    when_silent: str

    @property
    def name(self) -> str:
        """What errors and diagnostics call it; its parameters are `observations.NAME`."""
        return self.key

    @property
    def is_image(self) -> bool:
        """Whether the readings are images."""
        return _is_image(self.type)

    @property
    def is_synchronised(self) -> bool:
        """Whether its readings must fit the others' stamps."""
        return self.max_age_s == 0.0 and not self.may_be_silent

    @property
    def may_be_silent(self) -> bool:
        """Whether its silence is a reading of zeros."""
        return self.when_silent == "zeros"


@dataclass(frozen=True)
class TermConfiguration(SourceConfiguration):
    """One part of an observation: `clip(value - default) * scale + offset`; the previous action has no topic."""

    term: str
    kind: str
    categories: int
    default: tuple[float, ...]
    clip: tuple[float, ...]
    scale: tuple[float, ...]
    offset: tuple[float, ...]

    @property
    def name(self) -> str:
        """What errors and diagnostics call it; its parameters are `observations.NAME`."""
        return f"{self.key}.{self.term}"


@dataclass(frozen=True)
class ObservationConfiguration(SourceConfiguration):
    """One observation of every robot: from one topic, or made of terms and then without topic and type."""

    encoding: str
    stack: int
    stack_as: str
    history: int
    input: str
    shape: tuple[int, ...]
    terms: tuple[TermConfiguration, ...]


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
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    table: tuple[float, ...]
    when_stale: str
    hold_s: float
    safe_command: tuple[float, ...]
    safe_position_topic: str
    safe_position_joints: tuple[str, ...]
    max_rate: tuple[float, ...]
    ramp_s: float
    deadline_s: float


@dataclass(frozen=True)
class RealtimeConfiguration:
    """What the tick thread asks of the system and of the interpreter."""

    priority: int
    cpus: tuple[int, ...]
    freeze_gc: bool
    switch_interval_s: float


@dataclass(frozen=True)
class RecordingConfiguration:
    """Where bags of what the policy saw and what was commanded are made; nowhere when the path is empty."""

    path: str


@dataclass(frozen=True)
class Configuration:
    """One deployment, checked as a whole.

    `robots` are those of this node's shard; `watchdog_timeout_s` and the action's `deadline_s` are above 0, and the
    action's `safe_position_joints` are there when its `safe_position_topic` is.
    """

    control_rate_hz: float
    robots: tuple[str, ...]
    shard: str
    autostart: bool
    policy: PolicyConfiguration
    observations: tuple[ObservationConfiguration, ...]
    synchronisation: SynchronisationConfiguration
    action: ActionConfiguration
    record: RecordingConfiguration
    watchdog_timeout_s: float
    realtime: RealtimeConfiguration

    @cached_property
    def sources(self) -> tuple[SourceConfiguration, ...]:
        """Everything that is read from topics, in the order of the observations and their terms."""
        return tuple(
            source
            for observation in self.observations
            for source in (observation.terms or (observation,))
            if source.topic
        )

    @cached_property
    def sensors(self) -> tuple[tuple[SourceConfiguration, ...], ...]:
        """The topics to subscribe, each with all that is read from it.

        The synchronised ones come first, then those of which the newest reading counts, those that may be silent, and
        the safe position last. Terms that read one topic in the same way share it. A sensor has the name of its first
        source.
        """
        sensors: dict[tuple[Any, ...], list[SourceConfiguration]] = {}
        for source in self.sources:
            alone = source.name if isinstance(source, ObservationConfiguration) else None
            subscription = (alone, source.topic, source.type, source.depth, source.reliability)
            sensors.setdefault((*subscription, source.max_age_s, source.when_silent), []).append(source)
        observed = sorted(
            map(tuple, sensors.values()), key=lambda sources: (sources[0].may_be_silent, not sources[0].is_synchronised)
        )
        return (*observed, (self.safe_position,)) if self.safe_position is not None else tuple(observed)

    @cached_property
    def safe_position(self) -> SourceConfiguration | None:
        """Where each robot's present position is read, if that is its safe command; no observation has it."""
        if not self.action.safe_position_topic:
            return None
        return SourceConfiguration(
            key=SAFE_POSITION,
            topic=self.action.safe_position_topic,
            type=JOINT_STATE,
            field="position",
            fields=(),
            joints=self.action.safe_position_joints,
            depth=0,
            reliability="best_effort",
            max_age_s=self.synchronisation.max_age_s,
            when_silent="stale",
        )

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


def parameters_for(keys: Sequence[str], terms: Mapping[str, Sequence[str]]) -> dict[str, Parameter]:
    """Every parameter by its full name.

    Parameters
    ----------
    keys
        Written out for `<key>`.
    terms
        By key, written out for `<term>`; a key with terms has no parameters of a topic.
    """
    named: dict[str, Parameter] = {}
    for parameter in PARAMETERS:
        for key in keys if "<key>" in parameter.name else ("",):
            name = parameter.name.replace("<key>", key)
            if "<term>" in parameter.name:
                named.update({name.replace("<term>", term): parameter for term in terms.get(key, ())})
            elif not (terms.get(key) and parameter.name in _SOURCE_PARAMETERS):
                named[name] = parameter
    return named


def observations_of(flat: Mapping[str, Any]) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    """Return the keys of the observations and their terms by key; a value of another type counts as none."""
    keys = flat.get("observations.keys")
    # What is wrong with the type is reported like that of any other parameter.
    names = tuple(keys) if _has_type(keys, "list[str]") else ()  # type: ignore[arg-type]
    terms = {key: flat.get(f"observations.{key}.terms") for key in names}
    return names, {key: tuple(named) for key, named in terms.items() if _has_type(named, "list[str]")}  # type: ignore[arg-type]


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
    keys, terms = observations_of(flat)
    known = parameters_for(keys, terms)
    for name in flat:
        if name not in known and name not in ROS_PARAMETERS and not name.startswith(ROS_PARAMETER_PREFIXES):
            problems.append(_unknown(name, flat[name], known))
    checked = {name: _check(name, parameter, flat, problems) for name, parameter in known.items()}
    problems = _with_misspelt_keys(problems, flat, keys)
    required = [name for name, parameter in known.items() if parameter.default is None]
    if not any(name in flat for name in required):
        problems = [
            "no parameter has arrived: start the node with --ros-args --params-file FILE, and let the file begin with "
            "the lines `/**:` (any node) or the node's name, and `  ros__parameters:`"
        ]
    # Rules across fields need well-typed fields.
    if not problems:
        problems = _check_across(checked, keys, terms)
    if problems:
        raise ConfigurationError(problems)

    return _typed(checked, keys, terms)


def _typed(checked: Mapping[str, Any], keys: tuple[str, ...], terms: Mapping[str, tuple[str, ...]]) -> Configuration:
    """Return checked parameters as dataclasses."""

    def group(prefix: str) -> dict[str, Any]:
        return {name.removeprefix(prefix): value for name, value in checked.items() if name.startswith(prefix)}

    def observation(key: str) -> ObservationConfiguration:
        # With terms, the values of a topic are those of none.
        defaults = {
            name.rpartition(".")[2]: "" if _DEFAULTS[name] is None else _DEFAULTS[name] for name in _SOURCE_PARAMETERS
        }
        own = {name: value for name, value in group(f"observations.{key}.").items() if "." not in name}
        own["terms"] = tuple(
            TermConfiguration(key=key, term=term, **group(f"observations.{key}.{term}.")) for term in terms.get(key, ())
        )
        return ObservationConfiguration(key=key, **{**defaults, **own})

    period_s = 1.0 / checked["control_rate_hz"]
    action = group("action.")
    action["deadline_s"] = action["deadline_s"] or 3.0 * period_s
    if action["safe_position_topic"]:
        action["safe_position_joints"] = action["safe_position_joints"] or action["joints"]
    return Configuration(
        control_rate_hz=checked["control_rate_hz"],
        robots=_shard_of(checked["robots"], checked["shard"]),
        shard=checked["shard"],
        autostart=checked["autostart"],
        policy=PolicyConfiguration(**group("policy.")),
        observations=tuple(map(observation, keys)),
        synchronisation=SynchronisationConfiguration(**group("synchronisation.")),
        action=ActionConfiguration(**action),
        record=RecordingConfiguration(**group("record.")),
        watchdog_timeout_s=checked["watchdog.timeout_s"] or max(checked["synchronisation.max_age_s"], 2.0 * period_s),
        realtime=RealtimeConfiguration(**group("realtime.")),
    )


def _shard_of(robots: tuple[str, ...], shard: str) -> tuple[str, ...]:
    """Return the robots of a shard: consecutive ones, so that all shards together are all robots, each once."""
    if not shard:
        return robots
    index, count = map(int, shard.split("/"))
    return robots[index * len(robots) // count : (index + 1) * len(robots) // count]


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
    if parts[0] == "observations" and len(parts) > 2:
        if f"observations.{parts[1]}.terms" not in known:
            return (
                f"{name}: found {value!r}, but observations.keys does not name '{parts[1]}'; "
                f"add it there or remove the observation"
            )
        if name.replace(f".{parts[1]}.", ".<key>.", 1) in _SOURCE_PARAMETERS:
            return f"{name}: found {value!r}, but this observation is made of terms; give it to one of them instead"
        if len(parts) > 3 and f"observations.{parts[1]}.{parts[2]}.kind" not in known:
            return (
                f"{name}: found {value!r}, but observations.{parts[1]}.terms does not name '{parts[2]}'; "
                f"add it there or remove the term"
            )
    close = difflib.get_close_matches(name, known, n=1)
    remedy = f"did you mean {close[0]}?" if close else f"allowed are {', '.join(sorted(known))}"
    return f"{name}: found {value!r}, but there is no such parameter; {remedy}"


def _with_misspelt_keys(problems: list[str], flat: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    """Put one problem in place of all that follow from a key that is spelled otherwise where it is described."""
    described = [name.split(".")[1] for name in flat if name.startswith("observations.") and name.count(".") > 1]
    unnamed = sorted(set(described) - set(keys))
    for key in keys:
        prefix = f"observations.{key}."
        if any(flat.get(f"{prefix}{name}") for name in ("topic", "type", "terms")):
            continue
        for close in difflib.get_close_matches(key, unnamed, n=1):
            follow = (prefix, f"observations.{close}.")
            problems = [problem for problem in problems if not problem.startswith(follow)]
            problems.append(f"observations.keys: found {key!r}, of which nothing is given; did you mean {close!r}?")
            unnamed.remove(close)
    return problems


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
    numbers = (
        value
        if parameter.type in ("list[float]", "list[int]")
        else (value,)
        if parameter.type in ("int", "float")
        else ()
    )
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


def _check_across(checked: Mapping[str, Any], keys: tuple[str, ...], terms: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Return what is wrong across parameters, each of which is valid by itself."""
    problems = _check_names(checked, keys)
    for key in keys:
        problems += _check_observation(checked, key, terms.get(key, ()))
    if not problems:
        problems += _check_synchronised(checked, keys, terms)
    for group in ("policy", "action"):
        problems += _check_bounds(f"{group}.low", checked[f"{group}.low"], checked[f"{group}.high"])
    return problems + _check_action(checked)


def _check_names(checked: Mapping[str, Any], keys: tuple[str, ...]) -> list[str]:
    """Return what is wrong with the names of robots and observations, the shard and the checksum."""
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
    shard = checked["shard"]
    if shard and not _is_shard(shard, len(robots)):
        problems.append(
            f"shard: found {shard!r}, but it is i/K with i from 0 to K - 1 and K at most the number of robots, "
            f"{len(robots)}; such as 0/2 on one computer and 1/2 on the other"
        )
    sha256 = checked["policy.sha256"]
    if sha256 and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        problems.append(
            f"policy.sha256: found {sha256!r}, but a SHA-256 is 64 hexadecimal digits; give what sha256sum says"
        )
    return problems


def _check_observation(checked: Mapping[str, Any], key: str, terms: tuple[str, ...]) -> list[str]:
    """Return what is wrong with one observation."""
    problems: list[str] = []
    if not key or "." in key:
        problems.append(f"observations.keys: found {key!r}, but a key is a name without dots; rename it")
    prefix = f"observations.{key}."
    if checked[prefix + "history"] and checked[prefix + "stack"] > 1:
        problems.append(
            f"{prefix}history: found {checked[prefix + 'history']} beside a stack of {checked[prefix + 'stack']}, "
            f"but steps are either stacked or have an axis of their own; remove one of the two"
        )
    if terms:
        return problems + _check_terms(checked, key, terms)
    return problems + (_check_type(checked, prefix) or _check_source(checked, prefix))


def _check_synchronised(
    checked: Mapping[str, Any], keys: tuple[str, ...], terms: Mapping[str, tuple[str, ...]]
) -> list[str]:
    """Return a problem if no topic is synchronised."""
    prefixes = [f"observations.{key}.{dotted}" for key in keys for dotted in _dotted(terms.get(key))]
    observed = [prefix for prefix in prefixes if checked[f"{prefix}topic"]]
    if any(not checked[f"{prefix}max_age_s"] and checked[f"{prefix}when_silent"] != "zeros" for prefix in observed):
        return []
    name = "observations.keys"
    if observed:
        name = f"{observed[0]}{'max_age_s' if checked[f'{observed[0]}max_age_s'] else 'when_silent'}"
    return [
        f"{name}: no topic is synchronised, so nothing says when a robot's data are new; remove max_age_s and "
        f"when_silent from the topic that is published most often, or observe one"
    ]


def _check_action(checked: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the commands."""
    problems: list[str] = []
    robots, action_type = checked["robots"], checked["action.type"]
    if checked["action.topic"].startswith("/") and len(robots) > 1:
        problems.append(
            f"action.topic: found {checked['action.topic']!r}, which would send the commands of {len(robots)} "
            f"robots to one topic; remove the leading '/'"
        )
    problems += _check_components(checked)
    components = checked["action.fields"] or checked["action.joints"]
    safe_command, position_topic = checked["action.safe_command"], checked["action.safe_position_topic"]
    silent = checked["action.when_stale"] == "silent"
    if not (safe_command or position_topic or silent or COMMAND_TYPES[action_type].is_velocity):
        problems.append(
            f"action.safe_command: missing; for a {action_type} zeros may move a robot, so give the command that "
            f"is safe, for positions the topic of the present ones in action.safe_position_topic, "
            f"or set action.when_stale to silent"
        )
    if position_topic:
        problems += _check_safe_position(checked)
    elif checked["action.safe_position_joints"]:
        problems.append(
            "action.safe_position_joints: given without action.safe_position_topic; give that topic or remove it"
        )
    deadline_s, period_s = checked["action.deadline_s"], 1.0 / checked["control_rate_hz"]
    if 0.0 < deadline_s <= period_s:
        problems.append(
            f"action.deadline_s: found {deadline_s:g}, but commands are {period_s:g} s apart; give more, or 0.0 for "
            f"three periods"
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


def _check_components(checked: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the parameters that name the components of a command."""
    action_type = checked["action.type"]
    named_by = COMMAND_TYPES[action_type].named_by
    problems = []
    if named_by and not checked[f"action.{named_by}"]:
        example = ", such as [linear.x, angular.z]" if named_by == "fields" else ""
        problems.append(
            f"action.{named_by}: missing; a {action_type} needs the {named_by[:-1]} of each component{example}"
        )
    for name in ("fields", "joints"):
        if name != named_by and checked[f"action.{name}"]:
            users = " and ".join(kind.name for kind in COMMAND_TYPES.values() if kind.named_by == name)
            problems.append(f"action.{name}: given for a {action_type}; only {users} use it; remove it")
    return problems


def _is_shard(shard: str, robots: int) -> bool:
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", shard)
    return match is not None and int(match[1]) < int(match[2]) <= robots


def _check_safe_position(checked: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the safe command that is the present position."""
    name, action_type = "action.safe_position_topic", checked["action.type"]
    problems = []
    kind = COMMAND_TYPES[action_type]
    if kind.is_velocity:
        problems.append(f"{name}: given for a {action_type}, which is a velocity; remove it")
    elif kind.has_field and checked["action.field"] != "position":
        problems.append(f"{name}: given, but action.field is {checked['action.field']}; remove it")
    if checked["action.safe_command"]:
        problems.append(f"{name}: given beside action.safe_command; remove one of the two")
    joints, commanded = checked["action.safe_position_joints"], checked["action.joints"]
    if not joints and not commanded:
        problems.append("action.safe_position_joints: missing; give the joint of each component of the command")
    if joints and commanded and len(joints) != len(commanded):
        problems.append(
            f"action.safe_position_joints: found {len(joints)}, but action.joints has {len(commanded)}; give one for "
            f"each"
        )
    return problems


def _dotted(terms: Sequence[str] | None) -> tuple[str, ...]:
    """Return what follows an observation's name in the parameters of its topics."""
    return tuple(f"{term}." for term in terms) if terms else ("",)


def _check_bounds(name: str, low: tuple[float, ...], high: tuple[float, ...]) -> list[str]:
    """Return what is wrong with a lower bound beside its upper one; either is one number or one per component."""
    if len(low) > 1 and len(high) > 1 and len(low) != len(high):
        return [f"{name}: found {len(low)} numbers, but there are {len(high)} upper bounds; give as many"]
    count = max(len(low), len(high)) if low and high else 0
    if any(lowest > highest for lowest, highest in zip((low * count)[:count], (high * count)[:count], strict=True)):
        return [f"{name}: found {list(low)}, but the upper bounds are {list(high)}; exchange them"]
    return []


def _is_image(type_name: str) -> bool:
    return type_name in MESSAGE_TYPES and MESSAGE_TYPES[type_name].is_image


def _check_type(checked: Mapping[str, Any], prefix: str) -> list[str]:
    """Return what is wrong with the spelling of a message type, such as one of ROS 1; an empty one is missing."""
    found = checked[prefix + "type"]
    # Types that a misspelt one may mean, by their names in lower case, with and without the package.
    known = {
        spelling.lower(): name
        for name in (*MESSAGE_TYPES, *COMMAND_TYPES)
        for spelling in (name, name.rpartition("/")[2])
    }
    well_formed = re.compile(r"[a-z][a-z0-9_]*/msg/[A-Z][A-Za-z0-9]*")
    if not found or (well_formed.fullmatch(found) and known.get(found.lower(), found) == found):
        return []
    package, _, rest = found.partition("/")
    spelled = f"{package}/msg/{rest.rpartition('/')[2]}" if rest else found
    close = difflib.get_close_matches(spelled.lower(), known, n=1, cutoff=0.95)
    meant = known[close[0]] if close else spelled if well_formed.fullmatch(spelled) else ""
    remedy = f"did you mean {meant}?" if meant else "as in sensor_msgs/msg/Image"
    return [f"{prefix}type: found {found!r}, but a type is spelled package/msg/Type; {remedy}"]


def _check_source(checked: Mapping[str, Any], prefix: str) -> list[str]:
    """Return what is wrong with the choices of the numbers that are read from one topic."""
    problems = []
    message_type, fields = checked[prefix + "type"], checked[prefix + "fields"]
    # Types without a record are read by paths.
    takes = MESSAGE_TYPES[message_type].takes if message_type in MESSAGE_TYPES else ("field", "fields")
    for name in ("field", "fields", "joints", "encoding"):
        if checked.get(prefix + name) and name not in takes:
            users = [kind.name for kind in MESSAGE_TYPES.values() if name in kind.takes]
            only = f"only {' and '.join(users)} have it" if len(users) <= MOST_NAMED else "which is not read by paths"
            problems.append(f"{prefix}{name}: given for a {message_type}; {only}; remove it")
    if "" in fields:
        problems.append(f"{prefix}fields: found an empty path in {list(fields)}; remove it")
    if fields and checked[prefix + "field"]:
        problems.append(f"{prefix}fields: given beside {prefix}field; add that path to `fields` and remove `field`")
    return problems


def _check_terms(checked: Mapping[str, Any], key: str, terms: tuple[str, ...]) -> list[str]:
    """Return what is wrong with the terms of one observation."""
    problems = [
        f"observations.{key}.terms: '{duplicate}' stands there {terms.count(duplicate)} times; name each term once"
        for duplicate in sorted({term for term in terms if terms.count(term) > 1})
    ]
    for term in terms:
        if not term or "." in term:
            problems.append(f"observations.{key}.terms: found {term!r}, but a term is a name without dots; rename it")
        prefix = f"observations.{key}.{term}."
        kind, categories = checked[prefix + "kind"], checked[prefix + "categories"]
        if kind == "previous_action":
            problems += [
                f"{prefix}{name}: given for a previous_action, which comes from no topic; remove it"
                for name in ("topic", "type", "field", "fields", "joints", "max_age_s")
                if checked[prefix + name]
            ]
            if checked[prefix + "when_silent"] != "stale":
                problems.append(
                    f"{prefix}when_silent: given for a previous_action, which comes from no topic; remove it"
                )
        else:
            problems += [
                f"{prefix}{name}: missing; a term that is a {kind} needs the {name} that it is read from"
                for name in ("topic", "type")
                if not checked[prefix + name]
            ]
            problems += _check_type(checked, prefix) or _check_source(checked, prefix)
        if _is_image(checked[prefix + "type"]):
            problems.append(f"{prefix}type: found an image, but terms are numbers; give it an observation of its own")
        if kind == "projected_gravity" and checked[prefix + "when_silent"] == "zeros":
            problems.append(f"{prefix}when_silent: found zeros, which are no orientation; remove it")
        if bool(categories) is not (kind == "one_hot"):
            found = "missing" if kind == "one_hot" else f"given for a {kind}"
            problems.append(f"{prefix}categories: {found}; a one_hot has 1 or more, any other kind has none")
        if checked[prefix + "default"] and kind != "sensor":
            problems.append(f"{prefix}default: given for a {kind}; only numbers of a sensor have one; remove it")
        clip = checked[prefix + "clip"]
        if clip and not (len(clip) == 2 and clip[0] <= clip[1]):
            problems.append(
                f"{prefix}clip: found {list(clip)}, but it is the lowest and the highest value, in this order"
            )
    return problems
