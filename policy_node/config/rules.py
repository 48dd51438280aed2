# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Check parameters: each by itself, then all together. A check yields every problem that it finds as one line."""

from __future__ import annotations

import difflib
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from policy_node.config.catalogue import COMMAND_TYPES, MESSAGE_TYPES, command_kind
from policy_node.config.parameters import CHOICES, SOURCE_PARAMETERS, Parameter, is_image
from policy_node.config.tasks import shown_task, task_problem

# An error lists the types that take a parameter only if there are at most this many.
MOST_NAMED = 3
# Begins a text that stands for the value of a parameter, which a parameter file made from a description lacks.
MISSING = "MISSING: "

# Parameters of types that are read by the paths of their numbers.
_OF_PATHS = ("field", "fields", "padding")
_TYPE_NAME = re.compile(r"[a-z][a-z0-9_]*/msg/[A-Z][A-Za-z0-9]*")
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

Values = Mapping[str, Any]
Terms = Mapping[str, tuple[str, ...]]
Problems = Iterator[str]


def has_type(value: Any, type_name: str) -> bool:
    """Return whether a value has the type of a parameter, such as `list[float]`."""
    if not type_name.startswith("list["):
        return type(value) is _PYTHON_TYPES[type_name]
    is_list = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    return is_list and all(type(item) is _PYTHON_TYPES[type_name[5:-1]] for item in value)


def unknown_parameter(name: str, value: Any, known: Mapping[str, Parameter]) -> str:
    """Return the problem of a parameter that does not exist, with the closest one that does."""
    if name.startswith("qos_overrides."):
        return (
            f"{name}: found {value!r}, but sensors and commands take no overrides; remove it and set "
            f"observations.<key>.depth or observations.<key>.reliability"
        )
    if name == "policy.compile":
        return f"{name}: found {value!r}, but no engine compiles the policy any more; remove it"
    parts = name.split(".")
    if parts[0] == "action" and "action.topic" not in known:
        remedy = f"give it to one of them, as actions.<key>.{parts[1]}"
        return f"{name}: found {value!r}, but actions.keys names several topics; {remedy}"
    if parts[0] == "actions" and len(parts) > 2 and f"actions.{parts[1]}.topic" not in known:
        return f"{name}: found {value!r}, but actions.keys does not name '{parts[1]}'; add it there or remove it"
    if parts[0] == "observations" and len(parts) > 2:
        if f"observations.{parts[1]}.terms" not in known:
            return (
                f"{name}: found {value!r}, but observations.keys does not name '{parts[1]}'; "
                f"add it there or remove the observation"
            )
        if name.replace(f".{parts[1]}.", ".<key>.", 1) in SOURCE_PARAMETERS:
            return f"{name}: found {value!r}, but this observation is made of terms; give it to one of them instead"
        if len(parts) > 3 and f"observations.{parts[1]}.{parts[2]}.kind" not in known:
            return (
                f"{name}: found {value!r}, but observations.{parts[1]}.terms does not name '{parts[2]}'; "
                f"add it there or remove the term"
            )
    close = difflib.get_close_matches(name, known, n=1)
    remedy = f"did you mean {close[0]}?" if close else f"allowed are {', '.join(sorted(known))}"
    return f"{name}: found {value!r}, but there is no such parameter; {remedy}"


def merge_misspelt_keys(problems: list[str], flat: Values, keys: Sequence[str]) -> list[str]:
    """Replace all problems that follow from a misspelt key of an observation by one."""
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


def merge_misspelt_terms(problems: list[str], flat: Values, terms: Terms) -> list[str]:
    """Replace all problems that follow from a misspelt term of an observation by one."""
    for key, named in terms.items():
        prefix = f"observations.{key}."
        described = {name.split(".")[2] for name in flat if name.startswith(prefix) and name.count(".") > 2}
        unnamed = sorted(described - set(named))
        for term in named:
            own = f"{prefix}{term}."
            is_given = flat.get(f"{own}kind", "sensor") != "sensor" or flat.get(f"{own}topic") or flat.get(f"{own}type")
            for close in [] if is_given else difflib.get_close_matches(term, unnamed, n=1):
                follow = (own, f"{prefix}{close}.")
                problems = [problem for problem in problems if not problem.startswith(follow)]
                problems.append(f"{prefix}terms: found {term!r}, of which nothing is given; did you mean {close!r}?")
                unnamed.remove(close)
    return problems


def check_value(name: str, parameter: Parameter, flat: Values) -> Problems:
    """Check that a parameter is given, has its type and is within its range."""
    required, wanted = parameter.default is None, _TYPE_NAMES[parameter.type]
    if name not in flat:
        # An observation whose terms are missing is made of terms: it has no topic.
        if required and not _is_missing(flat.get(f"{name.rpartition('.')[0]}.terms")):
            yield f"{name}: missing; give {wanted}: {parameter.description}"
        return
    value = flat[name]
    if _is_missing(value):
        yield (
            f"{name}: {value}; the description that the parameter file was made from does not say it, give {wanted}: "
            f"{parameter.description}"
        )
        return
    if not has_type(value, parameter.type):
        remedy = ""
        if parameter.type == "float" and type(value) is int:
            remedy = f"; write {value}.0"
        elif parameter.type == "list[float]" and not has_type(value, "list[str]") and isinstance(value, Sequence):
            remedy = "; write every number with a decimal point"
        yield f"{name}: found {value!r} ({type(value).__name__}), but it must be {wanted}{remedy}"
        return
    numbers = [one for one in (value if isinstance(value, (list, tuple)) else [value]) if type(one) in (int, float)]
    low, high = parameter.limits or (-math.inf, math.inf)
    # An integer may be too large for isfinite, which converts it to a float.
    is_finite = [type(number) is int or math.isfinite(number) or parameter.may_be_infinite for number in numbers]
    if not all(is_finite) or not all(low <= number <= high for number in numbers):
        found = tuple(value) if parameter.type.startswith("list[") else value
        finite = "" if parameter.may_be_infinite else "finite, "
        yield f"{name}: found {found!r}, but it must be {finite}{parameter.range_text} {parameter.unit}".rstrip(" ,")
    if parameter.allowed and value not in parameter.allowed:
        yield f"{name}: found {value!r}, but it must be {parameter.range_text}"
    if required and isinstance(value, Sequence) and not value:
        yield f"{name}: empty; give {wanted}: {parameter.description}"


def _is_missing(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(MISSING)


def check_rules(checked: Values, keys: Sequence[str], terms: Terms, commands: Sequence[str] = ()) -> list[str]:
    """Check all rules across parameters.

    Parameters
    ----------
    checked
        Every parameter by its dotted name, of the right type and within its own range.
    keys, terms
        The keys of the observations, and the terms of each by its key.
    commands
        The names of several command topics.
    """
    problems = [*_check_robots(checked), *_check_observations(checked, keys, terms)]
    if not problems:
        problems += _check_synchronised(checked, keys, terms)
    problems += [*_check_policy(checked), *_check_prefix(checked)]
    problems += [*_check_deadline_and_table(checked), *_check_commands(checked, commands)]
    prefixes = [f"actions.{command}." for command in commands] or ["action."]
    for prefix in ("policy.", *prefixes):
        problems += _check_bounds(f"{prefix}low", checked[f"{prefix}low"], checked[f"{prefix}high"])
    for check in (_check_components, _check_command, _check_safe_command):
        problems += [problem for prefix in prefixes for problem in check(checked, prefix)]
    return problems


def _duplicates(name: str, names: Sequence[str], remedy: str = "every name must be unique") -> Problems:
    for duplicate, count in sorted(Counter(names).items()):
        if count > 1:
            yield f"{name}: '{duplicate}' stands there {count} times; {remedy}"


def _check_robots(checked: Values) -> Problems:
    """Check that robots are unique namespaces, and that the shard is one of them."""
    robots, shard = checked["robots"], checked["shard"]
    # In the root namespace `/rover` and `rover` are one robot.
    yield from _duplicates("robots", [robot.removeprefix("/") for robot in robots])
    for robot in robots:
        if not all(part.isidentifier() and part.isascii() for part in robot.removeprefix("/").split("/")):
            yield (
                f"robots: found {robot!r}, but a robot is a ROS namespace: letters, digits and underscores, not "
                f"starting with a digit, levels separated by '/'"
            )
    if not (topic := checked["claims_topic"]) or topic.startswith("~"):
        yield (
            f"claims_topic: found {topic!r}, which no other node has; give one name to all nodes that may command a "
            f"robot, such as /policy_node_claims"
        )
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", shard)
    if shard and not (match and int(match[1]) < int(match[2]) <= len(robots)):
        yield (
            f"shard: found {shard!r}, but it is i/K with i from 0 to K - 1 and K at most the number of robots, "
            f"{len(robots)}; such as 0/2 on one computer and 1/2 on the other"
        )


def _check_policy(checked: Values) -> Problems:
    sha256 = checked["policy.sha256"]
    if sha256 and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        yield f"policy.sha256: found {sha256!r}, but a SHA-256 is 64 hexadecimal digits; give what sha256sum says"
    tasks, robots = checked["policy.task"], len(checked["robots"])
    if len(tasks) not in (0, 1, robots):
        yield f"policy.task: found {len(tasks)} texts for {robots} robots; give one for all, or one for each"
    for task in tasks:
        if problem := task_problem(task):
            yield f"policy.task: found {shown_task(task)}, but {problem}"


def _check_prefix(checked: Values) -> Problems:
    """Check that the inputs that take the previous plan are given where they are used."""
    aggregate = checked["chunk.aggregate"]
    given = [name for name in ("chunk.prefix_input", "chunk.delay_input") if checked[name]]
    if given and aggregate != "prefix":
        yield f"{given[0]}: given, but chunk.aggregate is {aggregate}; set that to prefix, or remove it"
    if not given and aggregate == "prefix":
        yield (
            "chunk.prefix_input: missing, as is chunk.delay_input, but chunk.aggregate is prefix; name the inputs of "
            "the policy that take the previous plan and the delay"
        )


def _check_observations(checked: Values, keys: Sequence[str], terms: Terms) -> Problems:
    yield from _duplicates("observations.keys", keys)
    for key in keys:
        if not key or "." in key:
            yield f"observations.keys: found {key!r}, but a key is a name without dots; rename it"
        prefix = f"observations.{key}."
        history, stack = checked[prefix + "history"], checked[prefix + "stack"]
        if history and stack > 1:
            yield (
                f"{prefix}history: found {history} beside a stack of {stack}, but steps are either stacked or have a "
                f"separate axis; remove one of the two"
            )
        if history and checked[prefix + "stack_order"] != "oldest_first":
            yield f"{prefix}stack_order: found newest_first, but a history has its oldest step first; remove it"
        if not history and checked[prefix + "history_start"] != "zeros":
            yield f"{prefix}history_start: given without {prefix}history; give the number of its steps"
        if terms.get(key):
            yield from _check_terms(checked, key, terms[key])
        else:
            yield from _check_source(checked, prefix)


def _check_synchronised(checked: Values, keys: Sequence[str], terms: Terms) -> Problems:
    """Check that at least one topic is synchronised."""
    prefixes = [f"observations.{key}.{dotted}" for key in keys for dotted in _dotted(terms.get(key))]
    observed = [prefix for prefix in prefixes if checked[f"{prefix}topic"]]
    if all(checked[f"{prefix}max_age_s"] or checked[f"{prefix}when_silent"] == "zeros" for prefix in observed):
        name = "observations.keys"
        if observed:
            name = f"{observed[0]}{'max_age_s' if checked[f'{observed[0]}max_age_s'] else 'when_silent'}"
        yield (
            f"{name}: no topic is synchronised, so nothing says when a robot's data are new; remove max_age_s and "
            f"when_silent from the topic that is published most often, or observe one"
        )


def _dotted(terms: Sequence[str] | None) -> tuple[str, ...]:
    """Return the suffixes of an observation's name in the parameters of its topics."""
    return tuple(f"{term}." for term in terms) if terms else ("",)


def _check_command(checked: Values, prefix: str) -> Problems:
    """Check the topic of the commands."""
    topic, robots = checked[prefix + "topic"], checked["robots"]
    if topic.startswith("/") and len(robots) > 1:
        yield (
            f"{prefix}topic: found {topic!r}, which would send the commands of {len(robots)} robots to one topic; "
            f"remove the leading '/'"
        )


def _check_deadline_and_table(checked: Values) -> Problems:
    """Check the deadline of the commands, and the table of those of a Discrete action."""
    deadline_s, period_s = checked["action.deadline_s"], 1.0 / checked["control_rate_hz"]
    if 0.0 < deadline_s <= period_s:
        yield (
            f"action.deadline_s: found {deadline_s:g}, but commands are {period_s:g} s apart; give more, or 0.0 for "
            f"three periods"
        )
    rate_hz, control_rate_hz = checked["action.publish_rate_hz"], checked["control_rate_hz"]
    steps = round(rate_hz / control_rate_hz)
    if rate_hz and (steps < 2 or abs(rate_hz - steps * control_rate_hz) > 1e-6 * rate_hz):
        yield (
            f"action.publish_rate_hz: found {rate_hz:g}, but it is a multiple of control_rate_hz, {control_rate_hz:g}: "
            f"2, 3, 4 … times as much; or 0.0 for one command per tick"
        )
    if rate_hz and any(value > 1 for name, value in checked.items() if name.endswith(".points")):
        yield (
            f"action.publish_rate_hz: found {rate_hz:g}, but a trajectory of several points already says what follows "
            f"a tick; set points to 1, or publish_rate_hz to 0.0"
        )
    table, components = checked["action.table"], checked.get("action.fields") or checked.get("action.joints")
    if table and components and len(table) % len(components):
        yield (
            f"action.table: found {len(table)} numbers, but they must be rows of {len(components)}, "
            f"one number per component"
        )


def _check_commands(checked: Values, commands: Sequence[str]) -> Problems:
    """Check the command topics of robots that have several."""
    if not commands:
        return
    yield from _duplicates("actions.keys", commands)
    for key in commands:
        if not key.isidentifier():
            yield f"actions.keys: found {key!r}, but a key is a name of letters, digits and underscores; rename it"
    if checked["action.table"]:
        yield "action.table: given beside actions.keys; a Discrete action commands one topic; remove one of the two"
    prefixes = [f"actions.{key}." for key in commands]
    topics = Counter(checked[prefix + "topic"].removeprefix("/") for prefix in prefixes)
    for topic in (topic for topic, count in topics.items() if count > 1):
        yield f"actions.keys: {topics[topic]} of them have the topic {topic!r}; give each its topic"
    positions = {checked[prefix + "safe_position_topic"] for prefix in prefixes} - {""}
    if len(positions) > 1:
        yield (
            f"{prefixes[0]}safe_position_topic: positions are read from one topic, but {', '.join(sorted(positions))} "
            f"are given; publish them on one, or give a safe_command"
        )
    measured = [prefix for prefix in prefixes if checked[prefix + "safe_position_topic"]]
    if len({(checked[prefix + "when_stale"], checked[prefix + "hold_s"]) for prefix in measured}) > 1:
        yield (
            f"{measured[0]}when_stale: topics with a safe_position_topic need the same when_stale and hold_s, because "
            f"the positions are kept for all of them at once"
        )
    planned = [prefix for prefix in prefixes if checked[prefix + "points"] > 1]
    if len({(checked[prefix + "points"], checked[prefix + "time_from_start_s"]) for prefix in planned}) > 1:
        yield f"{planned[0]}points: topics with several points need the same points and time_from_start_s"
    for prefix in prefixes:
        yield from _check_part(checked, prefix)


def _check_part(checked: Values, prefix: str) -> Problems:
    """Check that the size of the command of one of several topics is known, and that there are as many numbers."""
    named = checked[prefix + "fields"] or checked[prefix + "joints"]
    count = len(checked[prefix + "components"] or named)
    if not count:
        yield f"{prefix}components: missing; give the components of the action that this topic gets, such as [6]"
        return
    for name in ("scale", "offset", "low", "high", "max_rate", "safe_command"):
        found = len(checked[prefix + name])
        allowed = (0, count) if name == "safe_command" else (0, 1, count)
        if found not in allowed:
            yield f"{prefix}{name}: found {found} numbers, but the command has {count} components"


def _check_safe_command(checked: Values, prefix: str) -> Problems:
    """Check that there is one safe command, and that it has the size of a command."""
    action_type, components = checked[prefix + "type"], checked[prefix + "fields"] or checked[prefix + "joints"]
    safe_command, position_topic = checked[prefix + "safe_command"], checked[prefix + "safe_position_topic"]
    silent = checked[prefix + "when_stale"] == "silent"
    if not (safe_command or position_topic or silent or command_kind(action_type).is_velocity):
        yield (
            f"{prefix}safe_command: missing; for a {action_type} zeros may move a robot, so give the command that "
            f"is safe, for positions the topic of the current ones in {prefix}safe_position_topic, "
            f"or set {prefix}when_stale to silent"
        )
    if position_topic:
        yield from _check_safe_position(checked, prefix)
    elif checked[prefix + "safe_position_joints"]:
        yield f"{prefix}safe_position_joints: given without {prefix}safe_position_topic; give that topic or remove it"
    if safe_command and components and len(safe_command) != len(components):
        yield f"{prefix}safe_command: found {len(safe_command)} numbers, but a command has {len(components)} components"


def _check_components(checked: Values, prefix: str) -> Problems:
    """Check the parameters that name the components of a command."""
    action_type = checked[prefix + "type"]
    if remedy := _spelling_remedy(action_type):
        yield f"{prefix}type: found {action_type!r}, but a type is spelled package/msg/Type; {remedy}"
        return
    kind = command_kind(action_type)
    named_by = kind.named_by
    if checked[prefix + "constants"] and not kind.has_constants:
        users = [each.name for each in COMMAND_TYPES.values() if each.has_constants]
        yield (
            f"{prefix}constants: given for a {action_type}; only {', '.join(users)} and types without "
            "a record have them; remove it"
        )
    if checked[prefix + "points"] > 1 and not kind.has_points:
        users = [each.name for each in COMMAND_TYPES.values() if each.has_points]
        yield f"{prefix}points: given for a {action_type}; only {', '.join(users)} has several; remove it"
    if named_by and not checked[f"{prefix}{named_by}"]:
        example = ", such as [linear.x, angular.z]" if named_by == "fields" else ""
        yield f"{prefix}{named_by}: missing; a {action_type} needs the {named_by[:-1]} of each component{example}"
    named, components = checked[prefix + "fields"] or checked[prefix + "joints"], checked[prefix + "components"]
    if named and components and len(named) != len(components):
        yield f"{prefix}components: found {len(components)}, but {len(named)} {named_by} are named; give one for each"
    for name in ("fields", "joints"):
        if name != named_by and checked[f"{prefix}{name}"]:
            users = [each.name for each in COMMAND_TYPES.values() if each.named_by == name]
            only = "it names no components" if len(users) > MOST_NAMED else f"only {' and '.join(users)} use it"
            yield f"{prefix}{name}: given for a {action_type}; {only}; remove it"


def _check_safe_position(checked: Values, prefix: str) -> Problems:
    """Check the safe command that is the robot's current position."""
    name, action_type = f"{prefix}safe_position_topic", checked[prefix + "type"]
    kind = command_kind(action_type)
    if kind.is_velocity:
        yield f"{name}: given for a {action_type}, which is a velocity; remove it"
    elif kind.has_field and checked[prefix + "field"] != "position":
        yield f"{name}: given, but {prefix}field is {checked[prefix + 'field']}; remove it"
    if checked[prefix + "safe_command"]:
        yield f"{name}: given beside {prefix}safe_command; remove one of the two"
    joints, commanded = checked[prefix + "safe_position_joints"], checked[prefix + "joints"]
    if not joints and not commanded:
        yield f"{prefix}safe_position_joints: missing; give the joint of each component of the command"
    if joints and commanded and len(joints) != len(commanded):
        yield (
            f"{prefix}safe_position_joints: found {len(joints)}, but {prefix}joints has {len(commanded)}; give one for "
            f"each"
        )


def _check_bounds(name: str, low: tuple[float, ...], high: tuple[float, ...]) -> Problems:
    """Check that lower bounds are below the upper ones; either is one number or one per component."""
    if len(low) > 1 and len(high) > 1 and len(low) != len(high):
        yield f"{name}: found {len(low)} numbers, but there are {len(high)} upper bounds; give as many"
        return
    count = max(len(low), len(high)) if low and high else 0
    if any(lowest > highest for lowest, highest in zip((low * count)[:count], (high * count)[:count], strict=True)):
        yield f"{name}: found {list(low)}, but the upper bounds are {list(high)}; exchange them"


def _check_source(checked: Values, prefix: str) -> Problems:
    """Check the type of one topic, and which numbers are read from it."""
    message_type, fields = checked[prefix + "type"], checked[prefix + "fields"]
    if message_type and (remedy := _spelling_remedy(message_type)):
        yield f"{prefix}type: found {message_type!r}, but a type is spelled package/msg/Type; {remedy}"
        return
    # Types without a record are read by paths.
    takes = MESSAGE_TYPES[message_type].takes if message_type in MESSAGE_TYPES else _OF_PATHS
    for name, default in CHOICES.items():
        if checked.get(prefix + name, default) != default and name not in takes:
            users = [kind.name for kind in MESSAGE_TYPES.values() if name in kind.takes]
            others = " and others" if len(users) > MOST_NAMED else ""
            only = f"only {' and '.join(users[:MOST_NAMED])}{others} have it"
            yield (
                f"{prefix}{name}: given for a {message_type}; "
                f"{'which is not read by paths' if name in _OF_PATHS else only}; remove it"
            )
    if "" in fields:
        yield f"{prefix}fields: found an empty path in {list(fields)}; remove it"
    if fields and checked[prefix + "field"]:
        yield f"{prefix}fields: given beside {prefix}field; add that path to `fields` and remove `field`"
    yield from _check_time(checked, prefix)


def _check_time(checked: Values, prefix: str) -> Problems:
    """Check how a topic is received, and how long its readings may be used."""
    if checked[prefix + "durability"] == "transient_local" and checked[prefix + "reliability"] != "reliable":
        yield f"{prefix}durability: found transient_local, which needs reliability: reliable; set that, too"
    transform_max_age_s, max_age_s = checked[prefix + "transform_max_age_s"], checked[prefix + "max_age_s"]
    if checked[prefix + "base_frame"] and max_age_s == math.inf and not transform_max_age_s:
        yield (
            f"{prefix}max_age_s: found .inf beside base_frame, but a pose in the frame of a moving robot ages with tf; "
            f"set transform_max_age_s to the largest age of a transform, such as 0.5, too"
        )
    if transform_max_age_s and not checked[prefix + "base_frame"]:
        yield f"{prefix}transform_max_age_s: given without base_frame; give the frame of the robot, such as base_link"
    elif transform_max_age_s and max_age_s != math.inf:
        yield (
            f"{prefix}transform_max_age_s: found {transform_max_age_s} beside max_age_s {max_age_s}, which also limits "
            "the age of the transform; remove it, or set max_age_s to .inf for what is published once"
        )
    if checked[prefix + "frame"] and not checked[prefix + "base_frame"]:
        yield f"{prefix}frame: given without base_frame; give the frame of the robot, such as base_link"


def _spelling_remedy(found: str) -> str:
    """Return how to spell a message type that is misspelt, such as one of ROS 1; empty for one that is not."""
    # Types that a misspelt one may mean, by their names in lower case, with and without the package.
    known = {
        spelling.lower(): name
        for name in (*MESSAGE_TYPES, *COMMAND_TYPES)
        for spelling in (name, name.rpartition("/")[2])
    }
    if _TYPE_NAME.fullmatch(found) and known.get(found.lower(), found) == found:
        return ""
    package, _, rest = found.partition("/")
    spelled = f"{package}/msg/{rest.rpartition('/')[2]}" if rest else found
    close = difflib.get_close_matches(spelled.lower(), known, n=1, cutoff=0.95)
    meant = known[close[0]] if close else spelled if _TYPE_NAME.fullmatch(spelled) else ""
    return f"did you mean {meant}?" if meant else "as in sensor_msgs/msg/Image"


def _check_terms(checked: Values, key: str, terms: Sequence[str]) -> Problems:
    """Check the terms of one observation."""
    yield from _duplicates(f"observations.{key}.terms", terms, "name each term once")
    for term in terms:
        if not term or "." in term:
            yield f"observations.{key}.terms: found {term!r}, but a term is a name without dots; rename it"
        prefix = f"observations.{key}.{term}."
        kind = checked[prefix + "kind"]
        if kind == "sensor" and not (checked[prefix + "topic"] or checked[prefix + "type"]):
            # Without a topic it is probably of the kind that has these parameters.
            misplaced = list(_check_kind(checked, prefix))
            if misplaced:
                yield misplaced[0]
                continue
        if kind in _READS or (kind == "phase" and checked[prefix + "stop_below"]):
            for name in ("topic", "type"):
                if not checked[prefix + name]:
                    yield f"{prefix}{name}: missing; a term that is a {kind} needs the {name} that it is read from"
            yield from _check_source(checked, prefix)
        else:
            yield from _check_without_topic(checked, prefix)
        if checked[prefix + "stack"] > 1 and checked[f"observations.{key}.history"]:
            yield f"{prefix}stack: given beside observations.{key}.history; remove one of the two"
        yield from _check_kind(checked, prefix)
        yield from _check_term_values(checked, prefix)


# Parameters of the time of a topic's readings, with their defaults.
_OF_TIME = {
    "stamp": "header",
    "stamp_offset_s": 0.0,
    "durability": "volatile",
    "frame": "",
    "transform_max_age_s": 0.0,
}
# Kinds of terms that are read from a topic; a phase is, too, with `stop_below`.
_READS = ("sensor", "projected_gravity", "one_hot")
# Parameters of terms that belong to one kind, whether that kind needs them, and the rule in words.
_OF_KIND = {
    "categories": ("one_hot", True, "a one_hot has 1 or more, any other kind has none"),
    "output": ("policy_output", True, "a policy_output names an output of the network, any other kind has none"),
    "period_s": ("phase", True, "a phase has a period in seconds, more than 0.0, any other kind has none"),
    "stop_below": ("phase", False, "only a phase has it"),
    "stop_at": ("phase", False, "only a phase has it"),
    "stop_restarts": ("phase", False, "only a phase has it"),
    "path": ("motion", True, "a motion has a file, any other kind has none"),
    "arrays": ("motion", False, "only a motion has them"),
}


def _check_without_topic(checked: Values, prefix: str) -> Problems:
    defaults = {"topic": "", "type": "", **CHOICES, "max_age_s": 0.0, "when_silent": "stale", **_OF_TIME}
    given = [name for name, default in defaults.items() if checked.get(prefix + name, default) != default]
    kind = checked[prefix + "kind"]
    reason = "which is read from a topic only with stop_below" if kind == "phase" else "which comes from no topic"
    for name in given:
        yield f"{prefix}{name}: given for a {kind}, {reason}; remove it"


def _check_kind(checked: Values, prefix: str) -> Problems:
    """Check that a term has the parameters of its kind, and no others."""
    kind = checked[prefix + "kind"]
    for name, (owner, is_needed, rule) in _OF_KIND.items():
        is_given = bool(checked[prefix + name])
        if is_given and kind != owner:
            yield f"{prefix}{name}: given for a {kind}; {rule}; {_kind_remedy(kind, owner)}"
        elif is_needed and not is_given and kind == owner:
            yield f"{prefix}{name}: {'missing' if checked[prefix + name] == '' else 'missing or 0'}; {rule}"
    if kind == "phase":
        yield from _check_stop(checked, prefix)
    if kind != "phase" and checked[prefix + "phase_as"] != "sin_cos":
        yield f"{prefix}phase_as: given for a {kind}; only a phase has it; {_kind_remedy(kind, 'phase')}"


def _kind_remedy(kind: str, owner: str) -> str:
    """Return what to do about a parameter of another kind; a sensor may have been given no kind."""
    return f"did you mean `kind: {owner}`? Else remove it" if kind == "sensor" else "remove it"


def _check_stop(checked: Values, prefix: str) -> Problems:
    """Check what a phase does while a low speed is commanded."""
    for name in ("stop_at", "stop_restarts"):
        if checked[prefix + name] and not checked[prefix + "stop_below"]:
            yield f"{prefix}{name}: given without stop_below; give the norm below which the clock stands"
    shares, phases = len(checked[prefix + "stop_at"]), max(1, len(checked[prefix + "offset"]))
    if shares not in (0, 1, phases):
        yield f"{prefix}stop_at: found {shares} numbers, but there are {phases} phases in offset; give 1 or {phases}"


def _check_term_values(checked: Values, prefix: str) -> Problems:
    kind, clip = checked[prefix + "kind"], checked[prefix + "clip"]
    if is_image(checked[prefix + "type"]):
        yield f"{prefix}type: found an image, but terms are numbers; give the image another observation"
    if kind == "projected_gravity" and checked[prefix + "when_silent"] == "zeros":
        yield f"{prefix}when_silent: found zeros, which are no orientation; remove it"
    if checked[prefix + "default"] and kind not in ("sensor", "motion"):
        yield f"{prefix}default: given for a {kind}; only numbers of a sensor or a motion have one; remove it"
    if clip and not (len(clip) == 2 and clip[0] <= clip[1]):
        yield f"{prefix}clip: found {list(clip)}, but it is the lowest and the highest value, in this order"
