# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Robots without physics: publish every configured sensor, from random numbers or a bag, and listen to the commands."""

from __future__ import annotations

import itertools
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile

from policy_node.config.schema import (
    Configuration,
    ConfigurationError,
    ObservationConfiguration,
    SourceConfiguration,
    TermConfiguration,
    topic_of,
)
from policy_node.config.specs import ArraySpec
from policy_node.control.timing import SteadyClock
from policy_node.messages.cdr import serialise
from policy_node.messages.codecs import ReadingDecoder
from policy_node.messages.command_fields import command_type
from policy_node.messages.commands import CommandChoices
from policy_node.messages.examples import example_message
from policy_node.messages.fields import has_header, message_class
from policy_node.messages.reading import UnusableReading
from policy_node.messages.vectors import NumberSource
from policy_node.policies import Policy
from policy_node.ros.deployment import pair
from policy_node.ros.subscriptions import sensor_qos

# Messages that a sensor repeats.
EXAMPLES = 8
# Time between the end of a bag and its next beginning.
BAG_PAUSE_S = 0.1
# Most robots whose commands are shown.
MOST_SHOWN = 8
_STAMP = struct.Struct("<iI")
_STAMP_START = 4


class Reading(NamedTuple):
    """A message that is about to be published, `after_s` the one before it."""

    after_s: float
    topic: str
    raw: bytes


class SimulatedRobots:
    """Publishes readings and counts commands.

    Parameters
    ----------
    node
        Spun by another thread.
    configuration, policy
        The deployment whose robots are simulated.

    Attributes
    ----------
    commands
        By robot, and key of the command topic where there are several: the number of commands so far, and the newest
        one, None before the first.

    Raises
    ------
    ConfigurationError
        When policy and sensors do not fit, or a type of messages cannot be simulated.
    """

    def __init__(self, node: Node, configuration: Configuration, policy: Policy) -> None:
        self._node = node
        self._configuration = configuration
        layouts, self._decoders = pair(configuration, policy)
        self._specs = {name: spec for layout in layouts.values() for name, spec in layout.readings.items()}
        self._publishers: dict[str, tuple[Publisher, bool]] = {}
        for robot, (source, *_) in itertools.product(configuration.robots, configuration.sensors):
            topic = node.resolve_topic_name(topic_of(robot, source.topic))
            if topic not in self._publishers:
                kind = message_class(source.type)
                self._publishers[topic] = (node.create_publisher(kind, topic, sensor_qos(source)), has_header(kind))
        self.commands: dict[str, tuple[int, np.ndarray | None]] = {}
        self._listen()

    @property
    def topics(self) -> tuple[str, ...]:
        """Full names of the published topics."""
        return tuple(self._publishers)

    def _listen(self) -> None:
        def keep(name: str, source: NumberSource) -> Callable[[Any], None]:
            def hear(message: Any) -> None:
                self.commands[name] = (self.commands[name][0] + 1, source.numbers(message))

            return hear

        commands = self._configuration.commands
        for robot, command in itertools.product(self._configuration.robots, commands):
            kind, components = message_class(command.type), len(command.fields or command.joints)
            choices = CommandChoices(components, command.fields, command.joints, command.field)
            source = command_type(command.type).source(kind, choices)
            name = robot if len(commands) == 1 else f"{robot} {command.key}"
            self.commands[name] = (0, None)
            self._node.create_subscription(
                kind, topic_of(robot, command.topic), keep(name, source), QoSProfile(depth=10)
            )

    def random_readings(self, rate_hz: float, seed: int = 0) -> Iterator[Reading]:
        """Yield random readings of all sensors of all robots at a rate, without end."""
        rng = np.random.default_rng(seed)
        rounds = [
            [
                Reading(0.0, self._node.resolve_topic_name(topic_of(robot, sources[0].topic)), raw)
                for robot in self._configuration.robots
                for sources in self._configuration.sensors
                for raw in [self._example(sources, rng)]
            ]
            for _ in range(EXAMPLES)
        ]
        for readings in itertools.cycle(rounds):
            for place, reading in enumerate(readings):
                yield reading._replace(after_s=0.0 if place else 1.0 / rate_hz)

    def _example(self, sources: Sequence[SourceConfiguration], rng: np.random.Generator) -> bytes:
        """Return a message that all sources of one topic can read."""
        specs = [self._spec(source) for source in sources]
        joints = tuple(dict.fromkeys(joint for source in sources for joint in source.joints))
        first = sources[0]
        encoding = first.encoding if isinstance(first, ObservationConfiguration) else ""
        whole = any(isinstance(source, TermConfiguration) and source.kind == "one_hot" for source in sources)
        largest = max(specs, key=lambda spec: int(np.prod(spec.shape)))
        paths = [path for source in sources for path in source.paths]
        raw = serialise(example_message(message_class(first.type), largest, rng, joints, encoding, whole, paths))
        for source, spec in zip(sources, specs, strict=True):
            self._check(source, self._decoders[source.name], spec, raw)
        return raw

    def _spec(self, source: SourceConfiguration) -> ArraySpec:
        unknown = ArraySpec(source.name, (len(source.joints),), np.float64, -np.inf, np.inf)
        return self._specs.get(source.name, unknown)

    @staticmethod
    def _check(source: SourceConfiguration, decoder: ReadingDecoder, spec: ArraySpec, raw: bytes) -> None:
        try:
            decoder.decode(raw, np.zeros(spec.shape, spec.dtype))
        except UnusableReading as error:
            raise ConfigurationError(
                f"observations.{source.name}: a {source.type} cannot be simulated with random numbers ({error}); give "
                "--bag with recorded messages"
            ) from error

    def publish(self, readings: Iterable[Reading], stopping: threading.Event) -> None:
        """Publish readings in their rhythm, stamped with the present time, until they or `stopping` end."""
        clock = SteadyClock(stopping)
        due_ns = clock.now_ns()
        for reading in readings:
            if reading.after_s:
                # A delay is not caught up in a burst.
                due_ns = max(due_ns + round(reading.after_s * 1e9), clock.now_ns())
                if not clock.wait_until(due_ns):
                    return
            elif stopping.is_set():
                return
            publisher, stamped = self._publishers[reading.topic]
            publisher.publish(_restamped(reading.raw, time.time_ns()) if stamped else reading.raw)


def bag_readings(messages: Callable[[], Iterable[tuple[int, str, bytes]]]) -> Iterator[Reading]:
    """Yield the messages of a bag, times in nanoseconds with topics and bytes, again and again after a pause."""
    after_s = 0.0
    while True:
        before_ns: int | None = None
        for time_ns, topic, raw in messages():
            yield Reading(after_s if before_ns is None else max(0, time_ns - before_ns) / 1e9, topic, raw)
            before_ns = time_ns
        if before_ns is None:
            return
        after_s = BAG_PAUSE_S


def _restamped(raw: bytes, stamp_ns: int) -> bytes:
    """Return a message with a header, in the byte order of this machine or of the bag, with another stamp."""
    stamp = _STAMP.pack(*divmod(stamp_ns, 1_000_000_000))
    if not raw[1] & 1:
        stamp = struct.pack(">iI", *_STAMP.unpack(stamp))
    return raw[:_STAMP_START] + stamp + raw[_STAMP_START + _STAMP.size :]


def described(
    commands: Mapping[str, tuple[int, np.ndarray | None]], before: Mapping[str, int], elapsed_s: float
) -> str:
    """Return the rate and the newest command of the first robots, a line for each, and the rate of the others."""
    lines = []
    for robot, (count, newest) in list(commands.items())[:MOST_SHOWN]:
        numbers = "none yet" if newest is None else ", ".join(f"{number:.3g}" for number in newest.tolist())
        lines.append(f"{robot}: {(count - before.get(robot, 0)) / elapsed_s:.1f} commands/s, newest {numbers}")
    others = list(commands)[MOST_SHOWN:]
    if others:
        total = sum(commands[robot][0] - before.get(robot, 0) for robot in others)
        lines.append(f"{len(others)} more: {total / elapsed_s / len(others):.1f} commands/s each")
    return "\n".join(lines)
