# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Unpickle the arguments of a policy from a trusted file, whichever versions of Python and NumPy wrote it.

What cannot be restored here, such as a lambda of another Python or a class of a package that is missing, becomes an
inert object. It matters only if building the network needs it.
"""

from __future__ import annotations

import io
import pickle
import types
from collections.abc import Callable, Mapping
from typing import Any

from policy_node.policies.inert import ARRAYS, Inert, inert_class

# Compiled functions, which a version of Python can only run if the same version wrote them.
_CODE = ("CodeType", "code")


def unpickle_arguments(content: bytes, same_python: bool) -> Any:
    """Unpickle `content`, which may run code; without `same_python` no function is restored from its compiled code."""
    return _TolerantUnpickler(content, same_python).load()


def find_inert(name: str, value: Any) -> tuple[str, str] | None:
    """Return the name and the origin of the first part of an argument that could not be restored, None without one."""
    if isinstance(value, Inert) or (isinstance(value, type) and issubclass(value, Inert)):
        return name, value.origin
    if isinstance(value, Mapping):
        parts = [(f"{name}.{key}", part) for key, part in value.items()]
    elif isinstance(value, list | tuple):
        parts = [(f"{name}[{index}]", part) for index, part in enumerate(value)]
    elif isinstance(value, type):
        # A class that was pickled with its methods.
        parts = [(f"{name}.{key}", part) for key, part in vars(value).items() if isinstance(part, Inert)]
    else:
        return None
    return next((found for found in (find_inert(*part) for part in parts) if found), None)


class _TolerantUnpickler(pickle.Unpickler):
    def __init__(self, content: bytes, same_python: bool) -> None:
        super().__init__(io.BytesIO(content))
        self._same_python = same_python

    def find_class(self, module: str, name: str) -> Any:
        """Return a class or function, an inert class where there is none."""
        if module == "types" and name in _CODE:
            return self._make_code
        if (module, name) in ARRAYS:
            return ARRAYS[module, name]
        try:
            found = super().find_class(module, name)
        except (ImportError, AttributeError):
            return inert_class(module, name)
        # Functions of cloudpickle put functions and classes together; those of other versions take other arguments.
        if module.startswith("cloudpickle.") and not isinstance(found, type):
            return self._builtin_type if name == "_builtin_type" else _guarded(found)
        return found

    def _builtin_type(self, name: str) -> Any:
        return self._make_code if name in _CODE else getattr(types, name, inert_class("types", name))

    def _make_code(self, *arguments: Any) -> Any:
        if not self._same_python:
            return inert_class("a function of another version", "of Python")()
        return _guarded(types.CodeType)(*arguments)


def _guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        try:
            return function(*arguments, **named)
        except Exception as error:
            return inert_class("a function or class that", f"cannot be restored ({type(error).__name__}: {error})")()

    return call
