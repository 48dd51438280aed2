# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Read topics of each robot that rewards need and the policy does not observe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy

from policy_node.config.schema import ConfigurationError, ObservationConfiguration, parse_configuration, topic_of
from policy_node.config.specs import ArraySpec
from policy_node.messages.codecs import MessageTypeError, ReadingDecoder, reading_decoder, reading_size
from policy_node.messages.reading import UnusableReading
from policy_node.ros.graph import why_silent
from policy_node.ros.rclpy_internals import Take, poll_topic
from policy_node.ros.subscriptions import sensor_qos


class Signals:
    """Reads the newest values of topics of each robot, like observations.

    `signals` are by name the parameters of an observation (`topic`, `type`, `field`, `fields`, `joints`, `depth`,
    `reliability`), and optionally `latched`, for a publisher with durability transient local, and `size`, for arrays of
    variable size.

    Raises
    ------
    ConfigurationError
        When a signal is invalid.
    """

    def __init__(self, node: Node, robots: Sequence[str], signals: Mapping[str, Mapping[str, Any]]) -> None:
        self._node = node
        self._robots = tuple(robots)
        self._values: dict[str, np.ndarray] = {}
        self._takes: list[tuple[str, int, int, Take, ReadingDecoder]] = []
        own = {name: {key: given.get(key) for key in ("latched", "size")} for name, given in signals.items()}
        self._sources = _parse(robots, signals)
        for source in self._sources:
            decoder, size = _decoder(source, own[source.key]["size"])
            self._values[source.key] = np.full((len(robots), size), np.nan)
            qos = sensor_qos(source)
            if own[source.key]["latched"]:
                qos.durability = DurabilityPolicy.TRANSIENT_LOCAL
            for robot, name in enumerate(robots):
                _, take = poll_topic(node, decoder.message_type, topic_of(name, source.topic), qos, raw=True)
                self._takes.append((source.key, robot, qos.depth, take, decoder))

    def take(self) -> dict[str, np.ndarray]:
        """Take new messages and return by name the newest values `[robots, numbers]` float64, NaN without a value."""
        for name, robot, depth, take, decoder in self._takes:
            newest = None
            for _ in range(depth):
                taken = take()
                if taken is None:
                    break
                newest = taken[0]
            if newest is not None:
                row = self._values[name][robot]
                try:
                    decoder.decode(newest, row)
                except UnusableReading as error:
                    row[:] = np.nan
                    self._node.get_logger().warning(
                        f"{self._robots[robot]}: signal {name}: {error}", throttle_duration_sec=5.0
                    )
        return {name: values.copy() for name, values in self._values.items()}

    def forget(self, robots: Sequence[int]) -> None:
        """Clear the values of robots."""
        for values in self._values.values():
            values[list(robots)] = np.nan

    def unheard(self, robots: Sequence[int]) -> list[str]:
        """Return the signals without a value, such as ``rover_0: presses``."""
        return [
            f"{self._robots[robot]}: {name}"
            for name, values in self._values.items()
            for robot in robots
            if np.isnan(values[robot]).any()
        ]

    def why_unheard(self) -> list[str]:
        """Return the reasons in the ROS graph why signals are missing."""
        whys = [
            why_silent(self._node, name, source, self._robots)
            for source in self._sources
            for robot, name in enumerate(self._robots)
            if np.isnan(self._values[source.key][robot]).any()
        ]
        return [why.replace("observations.", "signals.") for why in whys if why]


def _parse(robots: Sequence[str], signals: Mapping[str, Mapping[str, Any]]) -> tuple[ObservationConfiguration, ...]:
    """Parse signals like observations."""
    if not signals:
        return ()
    described = {
        name: {key: value for key, value in given.items() if key not in ("latched", "size")}
        for name, given in signals.items()
    }
    try:
        # Only the observations are used; the rest is required by every configuration.
        configuration = parse_configuration(
            {
                "control_rate_hz": 1.0,
                "robots": list(robots),
                "policy.path": "none",
                "observations": {"keys": list(described), **described},
                "synchronisation": {"slop_s": 1.0, "max_age_s": 1.0},
                "action": {"topic": "none", "type": "geometry_msgs/msg/Twist", "fields": ["linear.x"]},
            }
        )
    except ConfigurationError as error:
        raise ConfigurationError([text.replace("observations.", "signals.") for text in error.problems]) from error
    return configuration.observations


def _decoder(source: ObservationConfiguration, size: int | None) -> tuple[ReadingDecoder, int]:
    try:
        count = size or reading_size(source.type, **source.choices)
        if count is None:
            raise MessageTypeError("the type has arrays of variable size; give their number as `size`")
        spec = ArraySpec(source.key, (count,), np.float64, -np.inf, np.inf)
        return reading_decoder(source.type, spec, topic=source.topic, **source.choices), count
    except MessageTypeError as error:
        raise ConfigurationError(f"signals.{source.key}: {error}") from error
