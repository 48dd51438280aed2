# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Registries: find the message types, image encodings, command types, policy formats and engines that are installed.

Finding their names imports none of them.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

Record = TypeVar("Record")


class Registry(Generic[Record]):
    """Records by name, imported at their first use.

    A record is the `variable` of a module of `package`, such as ``policy_node.policies.formats``, under the module's
    name, or the object of an entry point of any distribution in `group`, under the entry point's name.
    """

    def __init__(self, package: str, variable: str, group: str) -> None:
        self._package = package
        self._variable = variable
        self._group = group

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of all records, this project's first.

        Raises
        ------
        ValueError
            If two distributions use one name.
        """
        return (*self._modules, *self._entry_points)

    def __getitem__(self, name: str) -> Record:
        """Import a record.

        Raises
        ------
        KeyError
            If there is no such name.
        ImportError
            If another distribution's record cannot be imported.
        """
        if name in self._modules:
            return getattr(importlib.import_module(f"{self._package}.{name}"), self._variable)
        found = self._entry_points[name]
        try:
            return found.load()
        except Exception as error:
            raise ImportError(
                f"'{name}' cannot be imported from {found.value}, which an installed package names in its entry points "
                f"({self._group}): {type(error).__name__}: {error}; repair or uninstall that package"
            ) from error

    def __iter__(self) -> Iterator[Record]:
        """Import all records."""
        return (self[name] for name in self.names)

    @cached_property
    def _modules(self) -> tuple[str, ...]:
        # The folder, not the package: importing that would import what this project's records need.
        folder = Path(__file__).parents[1].joinpath(*self._package.split(".")[1:])
        return tuple(sorted(module.name for module in pkgutil.iter_modules([str(folder)])))

    @cached_property
    def _entry_points(self) -> dict[str, EntryPoint]:
        found: dict[str, EntryPoint] = {}
        for one in sorted(entry_points(group=self._group), key=lambda one: one.name):
            if one.name in self._modules or (one.name in found and found[one.name].value != one.value):
                raise ValueError(
                    f"the entry point '{one.name} = {one.value}' ({self._group}) of an installed package has a name "
                    "that is taken; uninstall that package or rename its entry point"
                )
            found[one.name] = one
        return found


POLICY_FORMATS: Registry[Any] = Registry("policy_node.policies.formats", "FORMAT", "policy_node.policy_formats")
ENGINES: Registry[Any] = Registry("policy_node.engines.backends", "ENGINE", "policy_node.engines")
