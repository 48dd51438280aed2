# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Find topics of running robots that fit the observations and the action of a policy."""

from __future__ import annotations

import difflib
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy

from policy_node.config.catalogue import COMMAND_TYPES, MESSAGE_TYPES
from policy_node.config.specs import ActionSpec, ArraySpec
from policy_node.messages.cdr import deserialise
from policy_node.messages.codecs import reading_decoder, reading_size
from policy_node.messages.commands import CommandChoices, CommandType
from policy_node.messages.fields import MessageClass, MessageTypeError, elements_of, message_class, message_of
from policy_node.messages.reading import UnusableReading
from policy_node.messages.summary import joint_names, summary
from policy_node.messages.types.joint_states import JOINT_FIELDS
from policy_node.policies.proposed_parameters import TWIST_FIELDS, Found, components_of, frame_of
from policy_node.ros.graph import endpoint_names, natural_order
from policy_node.ros.rclpy_internals import Take, poll_topic

JOINT_STATE = "sensor_msgs/msg/JointState"
ACTION = "action"
POSITION = "safe_position_topic"
# Topics of ROS itself and of policy nodes.
_OTHERS = ("/rosout", "/parameter_events", "/diagnostics", "/clock", "/tf", "/tf_static", "/policy_node_claims")
# Name of a single robot without a namespace.
ALONE = "robot"
POLL_S = 0.005
LOOK_PERIOD_S = 0.5
DEEPEST_PATH = 3
MOST_OTHERS = 3
_WORDS = re.compile(r"[a-z]+|\d+")


@dataclass
class HeardTopic:
    """A topic that somebody publishes.

    Attributes
    ----------
    raw
        The newest message, empty if none came.
    count, rate_hz
        Messages that came, and their rate.
    reliable
        Whether all its publishers are reliable.
    """

    name: str
    type: str
    raw: bytes = b""
    count: int = 0
    rate_hz: float = 0.0
    reliable: bool = False

    @property
    def text(self) -> str:
        """What was heard, for a comment."""
        kind = self.type.rpartition("/")[2]
        if not self.count:
            return f"{kind}, no message came"
        size, encoding = summary(self.raw, message_class(self.type))
        quality = "reliable" if self.reliable else "best effort"
        return ", ".join(filter(None, (kind, f"{self.rate_hz:.1f} Hz", f"{size} {encoding}".strip(), quality)))


class Graph(NamedTuple):
    """The topics of the robots: what they publish, what they listen to by name, and whether there is `/clock`."""

    heard: Sequence[HeardTopic]
    commands: Mapping[str, str]
    has_clock: bool


class Candidate(NamedTuple):
    """A topic that can give an observation or take commands, with the parameters below it, and how well it fits."""

    topic: str
    values: Mapping[str, Any]
    heard: str
    likeness: float


@dataclass(frozen=True)
class Discovery:
    """What was found: robots, topics by key of the observation and `ACTION`, and the slowest sensor's rate."""

    robots: tuple[str, ...]
    found: Mapping[str, Found] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    slowest_hz: float = 0.0
    has_clock: bool = False
    #: All topics on which the robots take commands, below their namespaces and with their types.
    commands: tuple[str, ...] = ()


def hear(node: Node, duration_s: float, stopping: threading.Event) -> Graph:
    """Listen to all topics whose messages a policy could observe.

    Parameters
    ----------
    node
        Its own topics do not count.
    duration_s
        How long to listen; topics that are discovered meanwhile count, too.
    stopping
        Ends it before.
    """
    heard: dict[str, tuple[HeardTopic, Take, float]] = {}
    began_s = looked_s = time.monotonic()
    commands = _look(node, heard)
    while (now_s := time.monotonic()) - began_s < duration_s and not stopping.wait(POLL_S):
        if now_s - looked_s >= LOOK_PERIOD_S:
            looked_s = now_s
            commands = _look(node, heard)
        for topic, take, _ in heard.values():
            for raw, _ in iter(take, None):
                topic.raw, topic.count = raw, topic.count + 1
    for topic, _, since_s in heard.values():
        topic.rate_hz = topic.count / max(POLL_S, time.monotonic() - since_s)
    has_clock = any(name == "/clock" for name, _ in node.get_topic_names_and_types())
    return Graph([topic for topic, _, _ in heard.values()], commands, has_clock)


def _look(node: Node, heard: dict[str, tuple[HeardTopic, Take, float]]) -> dict[str, str]:
    """Subscribe the topics that are not `heard` yet, and return the types of those with commands by name."""
    own, commands = node.get_fully_qualified_name(), dict[str, str]()
    for name, types in node.get_topic_names_and_types():
        if name in _OTHERS or len(types) != 1 or any(part.startswith("_") for part in name.split("/")):
            continue
        if types[0] in COMMAND_TYPES and _others(node.get_subscriptions_info_by_topic(name), own):
            commands[name] = types[0]
        publishers = node.get_publishers_info_by_topic(name)
        if name in heard or not _others(publishers, own):
            continue
        try:
            kind = message_class(types[0])
        except MessageTypeError:
            continue  # its package is not installed here, so the node could not read it either
        reliable = all(each.qos_profile.reliability == ReliabilityPolicy.RELIABLE for each in publishers)
        qos = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
        _, take = poll_topic(node, kind, name, qos, raw=True)
        heard[name] = (HeardTopic(name, types[0], reliable=reliable), take, time.monotonic())
    return commands


def _others(endpoints: Sequence[Any], own: str) -> bool:
    return any(name != own for name in endpoint_names(endpoints))


def discover(
    graph: Graph, observations: Mapping[str, ArraySpec], action: ActionSpec, robots: Sequence[str] = ()
) -> Discovery:
    """Choose for each observation, and for the commands, the topic that fits best, the same for all robots.

    `robots` are the namespaces, if they are known.
    """
    candidates = {key: _for_observation(key, spec, graph.heard) for key, spec in observations.items()}
    candidates[ACTION] = list(_for_action(action, graph))
    namespaces = ["/" + robot.strip("/") for robot in robots] or _namespaces(candidates)
    alone = namespaces == ["/"]
    found: dict[str, Found] = {}
    topics: set[str] = set()
    for key, possible in candidates.items():
        chosen, taken = _best(possible, namespaces)
        if chosen is not None:
            found[key] = chosen
            topics |= taken
    rates = [topic.rate_hz for topic in graph.heard if topic.count and topic.name in topics]
    named = (ALONE,) if alone else tuple(namespace.strip("/") for namespace in namespaces)
    missing = tuple(key for key in candidates if key not in found)
    commands = dict.fromkeys(
        f"{relative} ({kind})"
        for topic, kind in sorted(graph.commands.items())
        for namespace in namespaces
        if (relative := topic if alone else _below(topic, namespace))
    )
    slowest_hz = min(rates, default=0.0)
    return Discovery(tuple(robots) or named, found, missing, slowest_hz, graph.has_clock, tuple(commands))


def topics_by_type(
    graph: Graph, types: Mapping[str, str], robots: Sequence[str] = ()
) -> tuple[tuple[str, ...], dict[str, Found]]:
    """Return the robots, and the topics of some types by the name of what reads them, `action` for the commands."""
    candidates = {
        name: [
            Candidate(topic, {}, text, _likeness(name, topic, {}))
            for topic, text in _topics_of(graph, kind, name == ACTION)
        ]
        for name, kind in types.items()
    }
    namespaces = ["/" + robot.strip("/") for robot in robots] or _namespaces(candidates)
    found = {name: _best(possible, namespaces)[0] for name, possible in candidates.items()}
    named = () if namespaces == ["/"] else tuple(namespace.strip("/") for namespace in namespaces)
    return tuple(robots) or named, {name: topic for name, topic in found.items() if topic is not None}


def _topics_of(graph: Graph, kind: str, commanded: bool) -> list[tuple[str, str]]:
    """Return the topics of a type that robots listen to or publish, with what was heard."""
    if commanded:
        return [(name, "a robot listens") for name, found in graph.commands.items() if found == kind]
    return [(topic.name, topic.text) for topic in graph.heard if topic.type == kind]


def _best(possible: Sequence[Candidate], namespaces: Sequence[str]) -> tuple[Found | None, set[str]]:
    """Return the topic, relative to the namespaces, that most of them have, and of these the most alike.

    The set has the full names of the topics.
    """
    alone = list(namespaces) == ["/"]
    grouped: dict[tuple[str, str], list[Candidate]] = {}
    for candidate in possible:
        for namespace in namespaces:
            relative = _below(candidate.topic, namespace)
            position = candidate.values.get(POSITION, "")
            if relative and position and not alone:
                candidate = candidate._replace(values={**candidate.values, POSITION: _below(position, namespace)})
            if relative:
                grouped.setdefault((relative, repr(candidate.values)), []).append(candidate)
    if not grouped:
        return None, set()
    ranked = sorted(grouped, key=lambda key: (-len(grouped[key]), -grouped[key][0].likeness, key))
    relative, _ = ranked[0]
    chosen = grouped[ranked[0]]
    best = chosen[0]
    topic = best.topic if alone else relative
    others = dict.fromkeys(
        f"{name} ({', '.join(f'{part}: {value}' for part, value in grouped[name, values][0].values.items())})"
        for name, values in ranked[1:]
    )
    heard = best.heard if len(chosen) == 1 else f"{best.heard}, of {len(chosen)} robots"
    named = {candidate.topic for candidate in chosen}
    return Found({"topic": topic, **best.values}, heard, tuple(others)[:MOST_OTHERS]), named


def _below(topic: str, namespace: str) -> str:
    """Return a topic relative to a namespace; empty if it is not in it."""
    prefix = namespace.rstrip("/") + "/"
    return topic.removeprefix(prefix) if topic.startswith(prefix) else ""


def _namespaces(candidates: Mapping[str, Sequence[Candidate]]) -> list[str]:
    """Return the namespaces that can serve most observations and the action, the deepest of those."""
    serves: dict[str, set[str]] = {}
    for key, possible in candidates.items():
        for candidate in possible:
            parts = candidate.topic.split("/")[1:-1]
            for depth in range(len(parts) + 1):
                serves.setdefault("/" + "/".join(parts[:depth]), set()).add(key)
    most = max((len(keys) for keys in serves.values()), default=0)
    full = [namespace for namespace, keys in serves.items() if len(keys) == most]
    deepest = [one for one in full if not any(other != one and _below(f"{other}/x", one) for other in full)]
    if not deepest or (most == 1 and len(deepest) == 1):
        return ["/"]
    return _without_common_end(sorted(deepest, key=natural_order))


def _without_common_end(namespaces: Sequence[str]) -> list[str]:
    """Return namespaces without the last names that all have: /rover_0/camera and /rover_1/camera are two rovers."""
    parts = [namespace.strip("/").split("/") for namespace in namespaces]
    while len(parts) > 1 and len({each[-1] for each in parts}) == 1 and all(len(each) > 1 for each in parts):
        parts = [each[:-1] for each in parts]
    return ["/" + "/".join(each) for each in parts]


def _for_observation(key: str, spec: ArraySpec, heard: Iterable[HeardTopic]) -> list[Candidate]:
    """Return the topics that can give an observation, each read in the best way."""
    frame = frame_of(key, spec)
    found = []
    for topic in heard:
        kind = MESSAGE_TYPES.get(topic.type)
        if (kind is not None and kind.is_image) != frame.is_image:
            continue
        ways = [{"encoding": frame.values["encoding"]}] if frame.is_image else _ways(topic, frame.spec.shape[0])
        fitting = [
            Candidate(topic.name, {"type": topic.type, **way}, topic.text, _likeness(key, topic.name, way))
            for way in ways
            if _fits(topic, frame.spec, way)
        ]
        if fitting:
            found.append(max(fitting, key=lambda candidate: candidate.likeness))
    return found


def _ways(topic: HeardTopic, count: int) -> Iterator[dict[str, Any]]:
    """Yield the ways to read `count` numbers from a topic: the usual one, fields of joints, or one path."""
    if topic.type == JOINT_STATE:
        names = joint_names(_message(topic)) if topic.raw else ()
        joints = {"joints": names} if len(names) == count and len(set(names)) == count else {}
        for name in JOINT_FIELDS:
            yield {"field": name, **joints}
        return
    if topic.type in MESSAGE_TYPES:
        yield {}
    for path in _paths(message_class(topic.type)):
        try:
            size = reading_size(topic.type, field=path)
        except MessageTypeError:
            continue
        if size in (None, count):
            yield {"field": path}


def _paths(kind: MessageClass, prefix: str = "", depth: int = 0) -> Iterator[str]:
    """Yield the dotted paths of a message, without those of its header."""
    for name, field_type in kind.get_fields_and_field_types().items():
        if field_type == "std_msgs/Header" or name == "layout":
            continue
        path = f"{prefix}{name}"
        yield path
        inner = None if elements_of(field_type) else message_of(field_type)
        if inner is not None and depth < DEEPEST_PATH:
            yield from _paths(inner, f"{path}.", depth + 1)


def _fits(topic: HeardTopic, spec: ArraySpec, way: Mapping[str, Any]) -> bool:
    """Whether a topic, read in this way, gives a frame: by its newest message, without one by its type."""
    try:
        decoder = reading_decoder(topic.type, spec, topic=topic.name, **way)
        if topic.raw:
            decoder.decode(topic.raw, np.zeros(spec.shape, spec.dtype))
    except (MessageTypeError, UnusableReading):
        return False
    return True


def _likeness(key: str, topic: str, way: Mapping[str, Any]) -> float:
    """Return how well topic and path go with the key of an observation, from 0 on."""
    words = _WORDS.findall(key.lower())
    found = _WORDS.findall(f"{topic}/{way.get('field', '')}".lower())
    best = [max((difflib.SequenceMatcher(None, word, each).ratio() for each in found), default=0.0) for word in words]
    alike = sum(best) / max(1, len(best))
    # Of equal ones the way with fewer choices, and plain images before compressed ones.
    return alike - 0.01 * len(str(way.get("field", "")).split(".")) - 0.1 * ("compressed" in topic)


def _message(topic: HeardTopic) -> Any:
    try:
        return deserialise(topic.raw, message_class(topic.type))
    except UnusableReading:
        return None


def _takes(kind: CommandType, components: int) -> bool:
    """Whether messages of a type without names can carry so many numbers."""
    try:
        kind.make(message_class(kind.name), CommandChoices(components))
    except MessageTypeError:
        return False
    return True


def _for_action(action: ActionSpec, graph: Graph) -> Iterator[Candidate]:
    """Yield the topics of commands that robots listen to, with the names of the components where they are known."""
    count = components_of(action)
    joints = {
        topic.name: joint_names(_message(topic)) for topic in graph.heard if topic.type == JOINT_STATE and topic.raw
    }
    for name, type_name in graph.commands.items():
        kind = COMMAND_TYPES[type_name]
        listens = f"{type_name.rpartition('/')[2]}, a robot listens"
        likeness = 0.5 * ("cmd" in name or "command" in name)
        if kind.named_by == "fields":
            if count > 6:
                continue
            likeness += 0.2 * (kind.is_velocity and count in (0, *TWIST_FIELDS))
            yield Candidate(name, {"type": type_name}, listens, likeness)
        elif kind.named_by == "joints" or _takes(kind, count or 2):
            states = [(topic, names) for topic, names in joints.items() if len(names) == count]
            # Those of the same robot come first.
            states.sort(key=lambda state: -len(os.path.commonpath([state[0], name])))
            values: dict[str, Any] = {"type": type_name}
            if states and count:
                values[POSITION] = states[0][0]
                values["joints" if kind.named_by == "joints" else "safe_position_joints"] = states[0][1]
            elif kind.named_by == "joints":
                continue
            yield Candidate(name, values, listens, likeness)
