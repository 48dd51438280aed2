# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Message types that can command a robot: one module per family, found by a registry.

To add a type, add a module with `COMMAND_TYPES`, one `CommandType` or a tuple of them, or add a record to the family's
module. Another distribution names its records in the entry points `policy_node.command_types`.
"""

from __future__ import annotations

import array
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from policy_node.config.catalogue import COMMAND_TYPES as FOUND
from policy_node.config.catalogue import Catalogue
from policy_node.messages.fields import MessageClass, MessageTypeError, require_unique
from policy_node.messages.vectors import NumberSource

_EXAMPLES = {"fields": "linear.x, angular.z", "joints": "shoulder, elbow"}


@dataclass(frozen=True)
class CommandChoices:
    """The choices that parameters make for the messages of commands.

    Attributes
    ----------
    components
        Count of the numbers of a command.
    fields
        The path of each component in a message that is written by fields, such as ``linear.x`` of a Twist.
    joints
        The joint of each component in a JointState or JointTrajectory.
    field
        The commanded field of a JointState: position, velocity or effort.
    frame_id
        Frame of the types with a header.
    time_from_start_s
        Time in which a JointTrajectory reaches its first point, and the next one from each.
    constants
        Fields with a value that never changes, such as ``kp=20.0``.
    points
        Number of the points of a JointTrajectory.
    """

    components: int
    fields: tuple[str, ...] = ()
    joints: tuple[str, ...] = ()
    field: str = "position"
    frame_id: str = ""
    time_from_start_s: float = 0.0
    constants: tuple[str, ...] = ()
    points: int = 1


class CommandEncoder(ABC):
    """Encodes the commands of one robot after the other into one message.

    Attributes
    ----------
    components
        Count of the numbers of a message: those of a command, of each point where there are several.
    points
        Commands in a message, one after the other.
    dtypes
        Types of these numbers in the message, all float64 unless a subclass says otherwise.
    """

    def __init__(self, message: Any, components: int, frame_id: str = "", points: int = 1) -> None:
        self.message_type: MessageClass = type(message)
        self.components = components
        self.points = points
        self.dtypes: tuple[np.dtype, ...] = (np.dtype(np.float64),) * components
        self._message = message
        if frame_id and hasattr(message, "header"):
            message.header.frame_id = frame_id

    @abstractmethod
    def __call__(self, command: np.ndarray, stamp_ns: int) -> Any:
        """Return the message of a command `[components]` float64; the next call changes it."""


@dataclass(frozen=True)
class CommandType:
    """One type of messages that can command a robot.

    Attributes
    ----------
    name
        Such as ``geometry_msgs/msg/Twist``.
    named_by
        The parameter that names each component: `fields`, `joints`, or empty for components without names.
    is_velocity
        Whether a command is a velocity, so that zeros are safe and there is no current position to hold.
    has_field
        Whether `field` chooses what is commanded; without it only positions are.
    has_constants
        Whether `constants` can be written into its messages.
    has_points
        Whether a message can have several points.
    make
        Makes the encoder of commands into messages of the class; raises MessageTypeError.
    source
        Makes the source of the numbers of a command in a message of the class, for recorded commands.
    """

    name: str
    named_by: Literal["fields", "joints", ""]
    is_velocity: bool
    make: Callable[[MessageClass, CommandChoices], CommandEncoder]
    source: Callable[[MessageClass, CommandChoices], NumberSource]
    has_field: bool = False
    has_constants: bool = False
    has_points: bool = False

    def check(self, choices: CommandChoices) -> None:
        """Raise MessageTypeError if a choice has no meaning for the type, or does not name each component once."""
        given: dict[str, Any] = {"joints": choices.joints, "fields": choices.fields}
        names = given.pop(self.named_by, ())
        if not self.has_field and choices.field != "position":
            given["field"] = choices.field
        if not self.has_constants:
            given["constants"] = choices.constants
        if not self.has_points and choices.points > 1:
            given["points"] = choices.points
        for name, value in given.items():
            if value:
                raise MessageTypeError(f"{name}: {value!r} is given, which has no meaning for {self.name}; remove it")
        if self.named_by and len(names) != choices.components:
            raise MessageTypeError(
                f"{self.named_by}: {len(names)} named ({', '.join(names) or 'none'}), the command has "
                f"{choices.components} components; name one for each, as in [{_EXAMPLES[self.named_by]}]"
            )
        require_unique(self.named_by, names)


def doubles(command: np.ndarray) -> array.array[float]:
    """Return a command as the generated message classes take it without a check of each number."""
    return array.array("d", np.ascontiguousarray(command, np.float64).tobytes())


def set_time(time: Any, nanoseconds: int) -> None:
    """Set a builtin_interfaces Time or Duration."""
    time.sec, time.nanosec = divmod(nanoseconds, 1_000_000_000)


COMMAND_TYPES: Catalogue[CommandType] = FOUND
