# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Read recorded commands as numbers, and write the commands of a replay to a bag."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from rosbags.rosbag2 import WriterError

from policy_node.config.schema import ActionConfiguration, Configuration
from policy_node.config.specs import ArraySpec
from policy_node.messages.codecs import ReadingDecoder
from policy_node.messages.command_fields import command_type
from policy_node.messages.commands import CommandChoices
from policy_node.messages.fields import MessageTypeError, message_class
from policy_node.messages.patched import fleet_encoder
from policy_node.messages.vectors import VectorReader
from policy_node.recording.bag import RecordingBag, typestore_of
from policy_node.recording.replay.bag import BagError
from policy_node.ros.deployment import configured_encoders

# Reads a command `[components]` float64 from a serialised message; raises UnusableReading.
ReadCommand = Callable[[bytes], np.ndarray]


def component_names(action: ActionConfiguration, components: int) -> tuple[str, ...]:
    """Return the names of the components of a command."""
    return action.fields or action.joints or tuple(f"[{component}]" for component in range(components))


def command_reader(type_name: str, action: ActionConfiguration, components: int, topic: str) -> ReadCommand:
    """Return a reader of recorded commands `[components]` in the fields or joints of an action.

    Twist and TwistStamped can be compared with each other, as can JointState and JointTrajectory.

    Raises
    ------
    BagError
        When commands of that type have no such components.
    """
    kind = command_type(type_name)
    choices = CommandChoices(components, action.fields, action.joints, action.field)
    if kind.named_by and not getattr(choices, kind.named_by):
        raise BagError(
            f"--compare {topic}: it is {type_name}, which has no components of a {action.type}; give a topic of the "
            f"same type"
        )
    spec = ArraySpec("command", (components,), np.float64, -np.inf, np.inf)
    try:
        message_type = message_class(type_name)
        reader = VectorReader(message_type, kind.source(message_type, choices), spec)
        decoder = ReadingDecoder(message_type, topic, reader)
    except MessageTypeError as error:
        raise BagError(f"--compare: topic '{topic}' of {type_name}: {error}") from error

    def read(raw: bytes) -> np.ndarray:
        command = np.empty(components)
        decoder.decode(raw, command)
        return command

    return read


class CommandBag:
    """Writes commands to a new bag (MCAP, with schemas); `topics` are those of the first robot, then of the next.

    Raises
    ------
    BagError
        When the folder exists already, or cannot be created.
    """

    def __init__(
        self,
        path: Path,
        configuration: Configuration,
        topics: Sequence[str],
        components: int,
        custom: Mapping[str, str],
    ) -> None:
        commands, robots = configuration.commands, len(topics) // len(configuration.commands)
        self._encoders = [
            (columns, fleet_encoder(encoder, robots))
            for columns, encoder in zip(
                configuration.columns, configured_encoders(configuration, components), strict=True
            )
        ]
        self._topics = tuple(topics)
        types = {topic: commands[index % len(commands)].type for index, topic in enumerate(topics)}
        try:
            self._bag = RecordingBag(path, types, typestore_of(types.values()), custom)
        except (WriterError, OSError) as error:
            raise BagError(f"--output {path}: {error}; give a folder that does not exist yet") from error

    def write(self, time_ns: int, commands: np.ndarray, publish: np.ndarray) -> None:
        """Write the rows of `commands` `[robots, components]` that `publish` `[robots]` selects, at a time."""
        for topic, (columns, encode) in enumerate(self._encoders):
            part = commands[:, columns]
            robots = np.flatnonzero(publish & ~np.isnan(part).any(axis=1)).tolist()
            for robot, message in zip(robots, encode(part, robots, time_ns), strict=True):
                self._bag.write(self._topics[robot * len(self._encoders) + topic], time_ns, message)

    def close(self) -> None:
        """Write index and metadata."""
        self._bag.close()
