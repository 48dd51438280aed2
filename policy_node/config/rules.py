# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Rules across parameters. Each rule returns the problems that it found, as one line each."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from policy_node.config.catalogue import COMMAND_TYPES, MESSAGE_TYPES

# An error lists the types that take a parameter only if there are at most this many.
MOST_NAMED = 3

_TYPE_NAME = re.compile(r"[a-z][a-z0-9_]*/msg/[A-Z][A-Za-z0-9]*")

Values = Mapping[str, Any]
Terms = Mapping[str, tuple[str, ...]]


def check_rules(checked: Values, keys: Sequence[str], terms: Terms) -> list[str]:
    """Check all rules across parameters.

    Parameters
    ----------
    checked
        Every parameter by its dotted name, of the right type and within its own range.
    keys, terms
        The keys of the observations, and the terms of each by its key.
    """
    problems = _check_robots(checked)
    problems += _check_observations(checked, keys, terms)
    if not problems:
        problems += _check_synchronised(checked, keys, terms)
    for group in ("policy", "action"):
        problems += _check_bounds(f"{group}.low", checked[f"{group}.low"], checked[f"{group}.high"])
    problems += _check_policy(checked)
    problems += _check_components(checked)
    problems += _check_command(checked)
    return problems + _check_safe_command(checked)


def _duplicates(name: str, names: Sequence[str], remedy: str = "every name must be unique") -> list[str]:
    return [
        f"{name}: '{duplicate}' stands there {names.count(duplicate)} times; {remedy}"
        for duplicate in sorted({entry for entry in names if names.count(entry) > 1})
    ]


def _check_robots(checked: Values) -> list[str]:
    """Check that robots are unique namespaces, and that the shard is one of them."""
    robots, shard = checked["robots"], checked["shard"]
    # In the root namespace `/rover` and `rover` are one robot.
    problems = _duplicates("robots", [robot.removeprefix("/") for robot in robots])
    problems += [
        f"robots: found {robot!r}, but a robot is a ROS namespace: letters, digits and underscores, not "
        f"starting with a digit, levels separated by '/'"
        for robot in robots
        if not all(part.isidentifier() and part.isascii() for part in robot.removeprefix("/").split("/"))
    ]
    if shard and not _is_shard(shard, len(robots)):
        problems.append(
            f"shard: found {shard!r}, but it is i/K with i from 0 to K - 1 and K at most the number of robots, "
            f"{len(robots)}; such as 0/2 on one computer and 1/2 on the other"
        )
    return problems


def _is_shard(shard: str, robots: int) -> bool:
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", shard)
    return match is not None and int(match[1]) < int(match[2]) <= robots


def _check_policy(checked: Values) -> list[str]:
    sha256 = checked["policy.sha256"]
    if not sha256 or re.fullmatch("[0-9a-fA-F]{64}", sha256):
        return []
    return [f"policy.sha256: found {sha256!r}, but a SHA-256 is 64 hexadecimal digits; give what sha256sum says"]


def _check_observations(checked: Values, keys: Sequence[str], terms: Terms) -> list[str]:
    problems = _duplicates("observations.keys", keys)
    for key in keys:
        if not key or "." in key:
            problems.append(f"observations.keys: found {key!r}, but a key is a name without dots; rename it")
        prefix = f"observations.{key}."
        history, stack = checked[prefix + "history"], checked[prefix + "stack"]
        if history and stack > 1:
            problems.append(
                f"{prefix}history: found {history} beside a stack of {stack}, but steps are either stacked or have an "
                f"axis of their own; remove one of the two"
            )
        if terms.get(key):
            problems += _check_terms(checked, key, terms[key])
        else:
            problems += _check_type(checked, prefix) or _check_source(checked, prefix)
    return problems


def _check_synchronised(checked: Values, keys: Sequence[str], terms: Terms) -> list[str]:
    """Check that at least one topic is synchronised."""
    prefixes = [f"observations.{key}.{dotted}" for key in keys for dotted in _dotted(terms.get(key))]
    observed = [prefix for prefix in prefixes if checked[f"{prefix}topic"]]
    if not all(checked[f"{prefix}max_age_s"] or checked[f"{prefix}when_silent"] == "zeros" for prefix in observed):
        return []
    name = "observations.keys"
    if observed:
        name = f"{observed[0]}{'max_age_s' if checked[f'{observed[0]}max_age_s'] else 'when_silent'}"
    return [
        f"{name}: no topic is synchronised, so nothing says when a robot's data are new; remove max_age_s and "
        f"when_silent from the topic that is published most often, or observe one"
    ]


def _check_command(checked: Values) -> list[str]:
    """Check the topic, the deadline and the table of the commands."""
    topic, robots = checked["action.topic"], checked["robots"]
    problems = []
    if topic.startswith("/") and len(robots) > 1:
        problems.append(
            f"action.topic: found {topic!r}, which would send the commands of {len(robots)} robots to one topic; "
            f"remove the leading '/'"
        )
    deadline_s, period_s = checked["action.deadline_s"], 1.0 / checked["control_rate_hz"]
    if 0.0 < deadline_s <= period_s:
        problems.append(
            f"action.deadline_s: found {deadline_s:g}, but commands are {period_s:g} s apart; give more, or 0.0 for "
            f"three periods"
        )
    table, components = checked["action.table"], checked["action.fields"] or checked["action.joints"]
    if table and components and len(table) % len(components):
        problems.append(
            f"action.table: found {len(table)} numbers, but they must be rows of {len(components)}, "
            f"one number per component"
        )
    return problems


def _check_safe_command(checked: Values) -> list[str]:
    """Check that there is one safe command, and that it has the size of a command."""
    action_type, components = checked["action.type"], checked["action.fields"] or checked["action.joints"]
    safe_command, position_topic = checked["action.safe_command"], checked["action.safe_position_topic"]
    silent = checked["action.when_stale"] == "silent"
    problems = []
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
    if safe_command and components and len(safe_command) != len(components):
        problems.append(
            f"action.safe_command: found {len(safe_command)} numbers, but a command has {len(components)} components"
        )
    return problems


def _check_components(checked: Values) -> list[str]:
    """Check the parameters that name the components of a command."""
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


def _check_safe_position(checked: Values) -> list[str]:
    """Check the safe command that is the robot's present position."""
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
    """Return the suffixes of an observation's name in the parameters of its topics."""
    return tuple(f"{term}." for term in terms) if terms else ("",)


def _check_bounds(name: str, low: tuple[float, ...], high: tuple[float, ...]) -> list[str]:
    """Check that lower bounds are below the upper ones; either is one number or one per component."""
    if len(low) > 1 and len(high) > 1 and len(low) != len(high):
        return [f"{name}: found {len(low)} numbers, but there are {len(high)} upper bounds; give as many"]
    count = max(len(low), len(high)) if low and high else 0
    if any(lowest > highest for lowest, highest in zip((low * count)[:count], (high * count)[:count], strict=True)):
        return [f"{name}: found {list(low)}, but the upper bounds are {list(high)}; exchange them"]
    return []


def is_image(type_name: str) -> bool:
    """Whether messages of a type are images."""
    return type_name in MESSAGE_TYPES and MESSAGE_TYPES[type_name].is_image


def _check_type(checked: Values, prefix: str) -> list[str]:
    """Check the spelling of a message type, such as one of ROS 1; an empty one is missing."""
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


def _check_source(checked: Values, prefix: str) -> list[str]:
    """Check which numbers are read from one topic."""
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


def _check_terms(checked: Values, key: str, terms: Sequence[str]) -> list[str]:
    """Check the terms of one observation."""
    problems = _duplicates(f"observations.{key}.terms", terms, "name each term once")
    for term in terms:
        if not term or "." in term:
            problems.append(f"observations.{key}.terms: found {term!r}, but a term is a name without dots; rename it")
        prefix = f"observations.{key}.{term}."
        if checked[prefix + "kind"] == "previous_action":
            problems += _check_previous_action(checked, prefix)
        else:
            problems += [
                f"{prefix}{name}: missing; a term that is a {checked[prefix + 'kind']} needs the {name} that it is "
                f"read from"
                for name in ("topic", "type")
                if not checked[prefix + name]
            ]
            problems += _check_type(checked, prefix) or _check_source(checked, prefix)
        problems += _check_term_values(checked, prefix)
    return problems


def _check_previous_action(checked: Values, prefix: str) -> list[str]:
    given = [name for name in ("topic", "type", "field", "fields", "joints", "max_age_s") if checked[prefix + name]]
    if checked[prefix + "when_silent"] != "stale":
        given.append("when_silent")
    return [f"{prefix}{name}: given for a previous_action, which comes from no topic; remove it" for name in given]


def _check_term_values(checked: Values, prefix: str) -> list[str]:
    kind, clip, problems = checked[prefix + "kind"], checked[prefix + "clip"], []
    if is_image(checked[prefix + "type"]):
        problems.append(f"{prefix}type: found an image, but terms are numbers; give it an observation of its own")
    if kind == "projected_gravity" and checked[prefix + "when_silent"] == "zeros":
        problems.append(f"{prefix}when_silent: found zeros, which are no orientation; remove it")
    if bool(checked[prefix + "categories"]) is not (kind == "one_hot"):
        found = "missing" if kind == "one_hot" else f"given for a {kind}"
        problems.append(f"{prefix}categories: {found}; a one_hot has 1 or more, any other kind has none")
    if checked[prefix + "default"] and kind != "sensor":
        problems.append(f"{prefix}default: given for a {kind}; only numbers of a sensor have one; remove it")
    if clip and not (len(clip) == 2 and clip[0] <= clip[1]):
        problems.append(f"{prefix}clip: found {list(clip)}, but it is the lowest and the highest value, in this order")
    return problems
