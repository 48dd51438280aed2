# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Catalogues: message types, image encodings and command types by name, without importing them before they are used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeVar

from policy_node.config.registry import Registry


class Named(Protocol):
    """A record with a name."""

    @property
    def name(self) -> str:
        """The name by which parameters choose the record."""


Record = TypeVar("Record", bound=Named)


class Catalogue(Mapping[str, Record]):
    """Records by their name, from all modules and entry points of a registry.

    A module of a family of types, or an entry point, holds one record or a tuple of them.
    """

    def __init__(self, registry: Registry[Any]) -> None:
        self._registry = registry

    @cached_property
    def _records(self) -> dict[str, Record]:
        records: dict[str, Record] = {}
        for name in self._registry.names:
            found = self._registry[name]
            for record in found if isinstance(found, tuple) else (found,):
                if record.name in records:
                    raise ValueError(
                        f"'{record.name}' is defined twice, the second time by '{name}'; rename one, or uninstall it"
                    )
                records[record.name] = record
        return records

    def __getitem__(self, name: str) -> Record:
        """Return the record of a name."""
        return self._records[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self._records)

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self._records)


# Their records are `MessageType`, `Encoding` and `CommandType` of the packages named here.
MESSAGE_TYPES: Catalogue[Any] = Catalogue(
    Registry("policy_node.messages.types", "MESSAGE_TYPES", "policy_node.message_types")
)
IMAGE_ENCODINGS: Catalogue[Any] = Catalogue(
    Registry("policy_node.messages.encodings", "IMAGE_ENCODINGS", "policy_node.image_encodings")
)
COMMAND_TYPES: Catalogue[Any] = Catalogue(
    Registry("policy_node.messages.commands", "COMMAND_TYPES", "policy_node.command_types")
)


@dataclass(frozen=True)
class WrittenByFields:
    """What is known of a command type without a record: the paths in `fields` name its components."""

    name: str
    named_by: str = "fields"
    is_velocity: bool = False
    has_field: bool = False
    has_constants: bool = True
    has_points: bool = False


def command_kind(name: str) -> Any:
    """Return the record of a command type, or that of a type without one."""
    return COMMAND_TYPES.get(name) or WrittenByFields(name)
