# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The configuration of a deployment, as frozen dataclasses.

`parse_configuration` makes them from a mapping of dotted names, or reports all problems at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from operator import attrgetter
from typing import Any

from policy_node.config.commands import joined, with_components
from policy_node.config.parameters import (
    COMMAND_PARAMETERS,
    PARAMETERS,
    ROS_PARAMETER_PREFIXES,
    ROS_PARAMETERS,
    SOURCE_PARAMETERS,
    ActionConfiguration,
    ChunkConfiguration,
    CommandConfiguration,
    ObservationConfiguration,
    Parameter,
    PolicyConfiguration,
    RealtimeConfiguration,
    RecordingConfiguration,
    SourceConfiguration,
    SynchronisationConfiguration,
    TermConfiguration,
)
from policy_node.config.paths import expand
from policy_node.config.rules import (
    check_rules,
    check_value,
    has_type,
    merge_misspelt_keys,
    merge_misspelt_terms,
    unknown_parameter,
)

JOINT_STATE = "sensor_msgs/msg/JointState"
# Name in errors and diagnostics of the sensor that reads `action.safe_position_topic`.
SAFE_POSITION = "action.safe_position"
# Limits, which may be set while the node is configured, as may the `max_age_s` of a topic.
LIMITS = ("action.low", "action.high", "action.max_rate", "synchronisation.max_age_s")

# What a node keeps of command topics and of observed topics when its policy is replaced.
_COMMAND_WIRING = (
    *("topic", "type", "fields", "joints", "field", "constants", "points", "time_from_start_s", "frame_id"),
    *("when_stale", "hold_s", "safe_command", "safe_position_topic", "safe_position_joints"),
)
_SOURCE_WIRING = (
    *("topic", "type", "depth", "reliability", "durability", "stamp", "stamp_offset_s", "base_frame", "frame"),
)


class ConfigurationError(ValueError):
    """The configuration cannot be used; the text names each parameter, what was found, what is allowed and a remedy."""

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True)
class Configuration:
    """One deployment, checked as a whole.

    `robots` are those of this node's shard; `watchdog_timeout_s` and the action's `deadline_s` are above 0, and the
    action's `safe_position_joints` are there when its `safe_position_topic` is.
    """

    control_rate_hz: float
    robots: tuple[str, ...]
    shard: str
    claims_topic: str
    autostart: bool
    bond_period_s: float
    policy: PolicyConfiguration
    chunk: ChunkConfiguration
    observations: tuple[ObservationConfiguration, ...]
    synchronisation: SynchronisationConfiguration
    action: ActionConfiguration
    #: The command topics of a robot: `action` alone, or several, whose components `action` has one after the other.
    commands: tuple[CommandConfiguration, ...]
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
            subscription = (alone, source.topic, source.type, source.depth, source.reliability, source.durability)
            time = (source.max_age_s, source.when_silent, source.stamp, source.stamp_offset_s)
            frames = (source.base_frame, source.frame, source.transform_max_age_s)
            sensors.setdefault((*subscription, *time, *frames), []).append(source)
        observed = sorted(
            map(tuple, sensors.values()), key=lambda sources: (sources[0].may_be_silent, not sources[0].is_synchronised)
        )
        return (*observed, (self.safe_position,)) if self.safe_position is not None else tuple(observed)

    @cached_property
    def safe_position(self) -> SourceConfiguration | None:
        """Where each robot's current position is read, if that is its safe command; no observation has it.

        An observation of the same topic says how it is subscribed and stamped: one robot's clock and queue are the same
        for both.
        """
        if not self.action.safe_position_topic:
            return None
        position = SourceConfiguration(
            key=SAFE_POSITION,
            topic=self.action.safe_position_topic,
            type=JOINT_STATE,
            field="position",
            joints=self.action.safe_position_joints,
            max_age_s=self.synchronisation.max_age_s,
        )
        observed = [source for source in self.sources if (source.topic, source.type) == (position.topic, JOINT_STATE)]
        names = ("depth", "reliability", "durability", "stamp", "stamp_offset_s")
        return replace(position, **{name: getattr(source, name) for source in observed[:1] for name in names})

    @cached_property
    def columns(self) -> tuple[slice, ...]:
        """By command topic its components in a command of all of them."""
        if len(self.commands) == 1:
            return (slice(None),)
        ends = list(accumulate(len(command.components) for command in self.commands))
        return tuple(slice(first, end) for first, end in zip([0, *ends], ends, strict=False))

    @property
    def period_ns(self) -> int:
        """Control period in nanoseconds."""
        return round(1e9 / self.control_rate_hz)


def limits_of(configuration: Configuration) -> dict[str, Any]:
    """Return the values of `LIMITS` by name."""
    return {name: attrgetter(name)(configuration) for name in LIMITS}


def with_limits(configuration: Configuration, values: Mapping[str, Any]) -> Configuration:
    """Return a configuration with other values of some `LIMITS`, of the right types."""
    sections: dict[str, dict[str, Any]] = {"action": {}, "synchronisation": {}}
    for name, value in values.items():
        section, _, field = name.partition(".")
        sections[section][field] = tuple(value) if isinstance(value, list) else value
    action = replace(configuration.action, **sections["action"])
    return replace(
        configuration,
        action=action,
        commands=configuration.commands if len(configuration.commands) > 1 else (action,),
        synchronisation=replace(configuration.synchronisation, **sections["synchronisation"]),
    )


def check_same_sensors(current: Configuration, wanted: Configuration) -> None:
    """Check that other largest ages leave the sensors, and how each is used, as they are.

    Raises
    ------
    ConfigurationError
        When they do not.
    """
    uses = [
        [
            [(source.name, source.is_synchronised, bool(source.transform_max_age_s)) for source in sources]
            for sources in configuration.sensors
        ]
        for configuration in (current, wanted)
    ]
    if uses[0] != uses[1]:
        raise ConfigurationError(
            "observations: the max_age_s of a topic may be changed while the node is configured, but neither from nor "
            "to 0.0, beside base_frame neither from nor to .inf, and terms that share a topic need the same; "
            "deactivate and clean up the node first"
        )


def check_same_wiring(current: Configuration, wanted: Configuration) -> None:
    """Check that another policy leaves topics, safe commands and rates as they are.

    Raises
    ------
    ConfigurationError
        When it does not, as its description names other joints; commands would go to the wrong ones.
    """
    before, after = _wiring(current), _wiring(wanted)
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    if changed:
        found, used = after.get(changed[0]), before.get(changed[0])
        raise ConfigurationError(
            f"{changed[0]}: the new policy needs {found}, the node was configured with {used}; clean up the node, then "
            "configure it with the new policy"
        )


def _wiring(configuration: Configuration) -> dict[str, Any]:
    """Return by dotted name what a node keeps when its policy is replaced."""
    names = ("control_rate_hz", "robots", "action.ramp_s", "action.publish_rate_hz")
    found = {name: attrgetter(name)(configuration) for name in names}
    for command in configuration.commands:
        found |= {f"{command.prefix}.{name}": getattr(command, name) for name in _COMMAND_WIRING}
    for sources in configuration.sensors:
        for source in sources:
            found |= {f"observations.{source.name}.{name}": getattr(source, name) for name in _SOURCE_WIRING}
    return found


def topic_of(robot: str, topic: str) -> str:
    """Return the topic of a robot: below its namespace if relative, unchanged if absolute."""
    return topic if topic.startswith("/") else f"{robot.rstrip('/')}/{topic}"


def named(robots: Sequence[str], most: int = 20, separator: str = ", ") -> str:
    """List robots for a log line: the first `most`, then how many more there are."""
    others = len(robots) - most
    return separator.join(robots[:most]) + (f" and {others} more" if others > 0 else "")


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn a nested mapping, as YAML gives it, into dotted names."""
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def parameters_for(
    keys: Sequence[str], terms: Mapping[str, Sequence[str]], commands: Sequence[str] = ()
) -> dict[str, Parameter]:
    """Every parameter by its full name.

    Parameters
    ----------
    keys
        Written out for `<key>`.
    terms
        By key, written out for `<term>`; a key with terms has no parameters of a topic.
    commands
        Written out for `<command>`; with any of them `action` has no parameters of a topic.
    """
    named: dict[str, Parameter] = {}
    for parameter in PARAMETERS:
        if "<command>" in parameter.name:
            named.update({parameter.name.replace("<command>", command): parameter for command in commands})
            continue
        if commands and parameter.name in COMMAND_PARAMETERS:
            continue
        for key in keys if "<key>" in parameter.name else ("",):
            name = parameter.name.replace("<key>", key)
            if "<term>" in parameter.name:
                named.update({name.replace("<term>", term): parameter for term in terms.get(key, ())})
            elif not (terms.get(key) and parameter.name in SOURCE_PARAMETERS):
                named[name] = parameter
    return named


def observations_of(flat: Mapping[str, Any]) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    """Return the keys of the observations and their terms by key; a value of another type counts as none."""
    keys = flat.get("observations.keys")
    # What is wrong with the type is reported like that of any other parameter.
    names = tuple(keys) if has_type(keys, "list[str]") else ()  # type: ignore[arg-type]
    terms = {key: flat.get(f"observations.{key}.terms") for key in names}
    return names, {key: tuple(named) for key, named in terms.items() if has_type(named, "list[str]")}  # type: ignore[arg-type]


def commands_of(flat: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of several command topics; a value of another type counts as none."""
    keys = flat.get("actions.keys")
    return tuple(keys) if has_type(keys, "list[str]") else ()  # type: ignore[arg-type]


def parse_configuration(values: Mapping[str, Any]) -> Configuration:
    """Check parameters as a whole and return them typed.

    Parameters
    ----------
    values
        Values by dotted name, or nested as in the YAML file below `ros__parameters`.

    Raises
    ------
    ConfigurationError
        If a parameter is wrong; one line for every problem.
    """
    checked, keys, terms = _check(flatten(values))
    period_s = 1.0 / checked["control_rate_hz"]
    action, commands = _commands(checked, period_s)
    return Configuration(
        control_rate_hz=checked["control_rate_hz"],
        robots=_shard_of(checked["robots"], checked["shard"]),
        shard=checked["shard"],
        claims_topic=checked["claims_topic"],
        autostart=checked["autostart"],
        bond_period_s=checked["bond_period_s"],
        policy=_policy(checked),
        chunk=ChunkConfiguration(**_group(checked, "chunk.")),
        observations=tuple(_observation(checked, key, terms.get(key, ())) for key in keys),
        synchronisation=SynchronisationConfiguration(**_group(checked, "synchronisation.")),
        action=action,
        commands=commands,
        record=RecordingConfiguration(**_group(checked, "record.")),
        watchdog_timeout_s=checked["watchdog.timeout_s"] or max(checked["synchronisation.max_age_s"], 2.0 * period_s),
        realtime=RealtimeConfiguration(**_group(checked, "realtime.")),
    )


def _check(flat: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...], dict[str, tuple[str, ...]]]:
    """Return every parameter with its default, the keys of the observations, and their terms by key."""
    keys, terms = observations_of(flat)
    commands = commands_of(flat)
    known = parameters_for(keys, terms, commands)
    if commands:
        # Declared before `actions.keys` was set.
        flat = {name: value for name, value in flat.items() if name not in COMMAND_PARAMETERS or value}
    problems = [
        unknown_parameter(name, value, known)
        for name, value in flat.items()
        if name not in known and name not in ROS_PARAMETERS and not name.startswith(ROS_PARAMETER_PREFIXES)
    ]
    problems += [problem for name in known for problem in check_value(name, known[name], flat)]
    problems = merge_misspelt_terms(merge_misspelt_keys(problems, flat, keys), flat, terms)
    if not any(name in flat for name, parameter in known.items() if parameter.default is None):
        problems = [
            "no parameter has arrived: start the node with --ros-args --params-file FILE, and let the file begin with "
            "the lines `/**:` (any node) or the node's name, and `  ros__parameters:`"
        ]
    checked = {name: flat.get(name, parameter.default) for name, parameter in known.items()}
    checked |= {name: tuple(value) for name, value in checked.items() if isinstance(value, list)}
    for name in (name for name in checked if name.startswith("action") and name.endswith(".fields")):
        if has_type(checked[name], "list[str]"):
            checked[name] = expand(checked[name])
    # Rules across parameters need the right types.
    problems = problems or check_rules(checked, keys, terms, commands)
    if problems:
        raise ConfigurationError(problems)
    return checked, keys, terms


def _commands(
    checked: Mapping[str, Any], period_s: float
) -> tuple[ActionConfiguration, tuple[CommandConfiguration, ...]]:
    """Return the command of all topics, and the topics."""
    action = _group(checked, "action.")
    action["deadline_s"] = action["deadline_s"] or 3.0 * period_s
    keys = checked["actions.keys"]
    if keys:
        commands = with_components(
            [CommandConfiguration(key=key, **_group(checked, f"actions.{key}.")) for key in keys]
        )
        return joined(commands, **action), commands
    if action["safe_position_topic"]:
        action["safe_position_joints"] = action["safe_position_joints"] or action["joints"]
    alone = ActionConfiguration(**action)
    return alone, (alone,)


def _group(checked: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in checked.items() if name.startswith(prefix)}


def _observation(checked: Mapping[str, Any], key: str, terms: tuple[str, ...]) -> ObservationConfiguration:
    prefix = f"observations.{key}."
    given = {name: value for name, value in _group(checked, prefix).items() if "." not in name}
    given["terms"] = tuple(
        TermConfiguration(key=key, term=term, **_group(checked, f"{prefix}{term}.")) for term in terms
    )
    # An observation that is made of terms has no topic.
    return ObservationConfiguration(key=key, **{"topic": "", "type": "", **given})


def _policy(checked: Mapping[str, Any]) -> PolicyConfiguration:
    policy = PolicyConfiguration(**_group(checked, "policy."))
    # Of several texts those of this node's robots.
    return replace(policy, task=_shard_of(policy.task, checked["shard"])) if len(policy.task) > 1 else policy


def _shard_of(robots: tuple[str, ...], shard: str) -> tuple[str, ...]:
    """Return the robots of a shard: consecutive ones, so that all shards together are all robots, each once."""
    if not shard:
        return robots
    index, count = map(int, shard.split("/"))
    return robots[index * len(robots) // count : (index + 1) * len(robots) // count]
