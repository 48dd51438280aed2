# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Message types that can command a robot: one module per family, found by a registry.

To add a type, add a module with `COMMAND_TYPES`, one `CommandType` or a tuple of them, or add a record to the family's
module. Another distribution names its records in the entry points `policy_node.command_types`.
"""

from __future__ import annotations

import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from policy_node.config.catalogue import COMMAND_TYPES, Catalogue
from policy_node.messages.fields import MessageClass, MessageTypeError, require_unique
from policy_node.messages.vectors import NumberSource

_EXAMPLES = {"fields": "linear.x, angular.z", "joints": "shoulder, elbow"}


@dataclass(frozen=True)
class CommandChoices:
    """What parameters choose for the messages of commands.

    Attributes
    ----------
    components
        How many numbers a command has.
    fields, joints
        The field or the joint of each component; empty where the type has none.
    field
        The commanded field of a JointState.
    frame_id
        Frame of the types with a header.
    time_from_start_s
        When the point of a JointTrajectory is to be reached.
    """

    components: int
    fields: tuple[str, ...] = ()
    joints: tuple[str, ...] = ()
    field: str = "position"
    frame_id: str = ""
    time_from_start_s: float = 0.0


class CommandEncoder(Protocol):
    """Turns commands of one robot after the other into messages of one type."""

    message_type: MessageClass
    components: int

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
        Whether a command is a velocity, so that zeros are safe and there is no present position to hold.
    has_field
        Whether `field` chooses what is commanded; without it only positions are.
    make
        Makes the encoder of commands into messages of the class; raises MessageTypeError.
    source
        Makes what finds the numbers of a command in a message of the class, for recorded commands.
    """

    name: str
    named_by: Literal["fields", "joints", ""]
    is_velocity: bool
    make: Callable[[MessageClass, CommandChoices], CommandEncoder]
    source: Callable[[MessageClass, CommandChoices], NumberSource]
    has_field: bool = False

    def check(self, choices: CommandChoices) -> None:
        """Raise MessageTypeError if a choice has no meaning for the type, or does not name each component once."""
        for name in ("joints", "fields"):
            names = getattr(choices, name)
            if name != self.named_by and names:
                raise MessageTypeError(f"{name}: {names!r} is given, which has no meaning for {self.name}; remove it")
        if not self.has_field and choices.field != "position":
            raise MessageTypeError(
                f"field: {choices.field!r} is given, which has no meaning for {self.name}; remove it"
            )
        if self.named_by:
            _require_one_each(self.named_by, getattr(choices, self.named_by), choices.components)


def _require_one_each(what: str, names: Sequence[str], components: int) -> None:
    if len(names) != components:
        raise MessageTypeError(
            f"{what}: {len(names)} named ({', '.join(names) or 'none'}), the command has {components} components; "
            f"name one for each, as in [{_EXAMPLES[what]}]"
        )
    require_unique(what, names)


def doubles(command: np.ndarray) -> array.array[float]:
    """Return a command as the generated message classes take it without a check of each number."""
    return array.array("d", np.ascontiguousarray(command, np.float64).tobytes())


def set_time(time: Any, nanoseconds: int) -> None:
    """Set a builtin_interfaces Time or Duration."""
    time.sec, time.nanosec = divmod(nanoseconds, 1_000_000_000)


COMMANDS: Catalogue[CommandType] = COMMAND_TYPES
