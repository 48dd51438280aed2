# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Import a module without packages that are not installed, so that `--help` can be shown."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class _Absence(type):
    """The class of `Absent`: every attribute, call and item of it is `Absent` again."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        # As a mapping it is empty.
        return tuple if name == "keys" else Absent

    def __call__(cls, *arguments: object, **named: object) -> Any:
        return Absent

    def __getitem__(cls, key: object) -> Any:
        return Absent

    def __setitem__(cls, key: object, value: object) -> None:
        pass

    def __index__(cls) -> int:
        # Where it is a size of an array: more than any index into it.
        return 64

    # With items it would be a sequence without end.
    __iter__ = None


class Absent(metaclass=_Absence):
    """Stands for anything of a package that is not installed."""


class _AbsentModule(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Absent


class _AbsentPackages(MetaPathFinder, Loader):
    """Finds the modules of some packages that no other finder finds."""

    def __init__(self) -> None:
        self.packages: set[str] = set()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a module of an absent package."""
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] in self.packages else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return an empty module, all of whose attributes are `Absent`."""
        return _AbsentModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing."""


def import_without(name: str, packages: Sequence[str]) -> ModuleType:
    """Import a module although some packages are missing; for `--help` only, as nothing of them works.

    Raises
    ------
    ModuleNotFoundError
        When a package is missing that is neither among `packages` nor a package of ROS messages.
    """
    finder = _AbsentPackages()
    sys.meta_path.append(finder)
    while True:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            if missing in finder.packages or not (missing in packages or is_of_ros(missing)):
                raise
            finder.packages.add(missing)


def is_of_ros(package: str) -> bool:
    """Return whether a package belongs to the ROS 2 client library, by its name."""
    return package.startswith("rcl") or package.endswith(("_msgs", "_interfaces", "_srvs"))
