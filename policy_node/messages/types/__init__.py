# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Message types that a policy can observe: one module per family, found by a registry.

To add a type, add a module with `MESSAGE_TYPES`, one `MessageType` or a tuple of them, or add a record to the family's
module. Another distribution names its records in the entry points `policy_node.message_types`. Types without a record
are read by the dotted paths of `field` or `fields`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from policy_node.config.catalogue import MESSAGE_TYPES as FOUND
from policy_node.config.catalogue import Catalogue
from policy_node.config.parameters import CHOICES, ReadingChoices
from policy_node.config.specs import ArraySpec
from policy_node.messages.fields import MessageClass, MessageTypeError
from policy_node.messages.reading import Reader
from policy_node.messages.vectors import NumberSource, VectorReader, padded

# What a type without a record takes.
PATHS = frozenset({"field", "fields", "padding"})


@dataclass(frozen=True)
class MessageType:
    """One type of messages that a policy can observe.

    Attributes
    ----------
    name
        Such as ``sensor_msgs/msg/Image``.
    gives, count
        The numbers of an observation in their order, and how many there are, for the documentation.
    make
        Makes the reader of messages of the class for one frame of an observation; raises MessageTypeError.
    size
        Returns how many numbers every message gives, None if each message chooses; raises MessageTypeError. None
        instead of the function if the type never says it.
    takes
        The parameters of `CHOICES` that have a meaning for the type.
    is_image
        Whether the messages are images.
    refuses
        What is refused, and why, for the documentation.
    """

    name: str
    gives: str
    count: str
    make: Callable[[MessageClass, ArraySpec, ReadingChoices], Reader]
    size: Callable[[MessageClass, ReadingChoices], int | None] | None = None
    takes: frozenset[str] = PATHS
    is_image: bool = False
    refuses: str = ""

    def check(self, choices: ReadingChoices) -> None:
        """Raise MessageTypeError if a choice has no meaning for the type."""
        for name, value in choices.choices.items():
            if value != CHOICES[name] and name not in self.takes:
                raise MessageTypeError(f"{name}: {value!r} is given, which has no meaning for {self.name}; remove it")


def vector_type(
    name: str,
    gives: str,
    count: str,
    source: Callable[[MessageClass, ReadingChoices], NumberSource],
    takes: frozenset[str] = PATHS,
    refuses: str = "NaN, infinity and another count, of which the policy never learned",
) -> MessageType:
    """Return the record of a type whose messages give a vector; `source` finds the numbers in a message."""
    return MessageType(
        name,
        gives,
        count,
        make=lambda message_type, spec, choices: VectorReader(
            message_type, padded(source(message_type, choices), spec, choices.padding), spec
        ),
        size=lambda message_type, choices: (
            source(message_type, choices).size if choices.padding == CHOICES["padding"] else None
        ),
        takes=takes,
        refuses=refuses,
    )


MESSAGE_TYPES: Catalogue[MessageType] = FOUND
