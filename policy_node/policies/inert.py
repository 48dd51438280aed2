# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Read pickles without running what they name: arrays and numbers are made, all other objects are only described.

Pickles of NumPy 1 and 2 can be read under both.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

import numpy as np


class Inert:
    """Replaces an object of a pickle: to make it, to set its state and to add items runs nothing.

    Attributes
    ----------
    origin
        Full name of the class or function that the pickle names.
    state
        The attributes of the object.
    """

    origin = ""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        """Keep the attributes."""
        # Objects with slots have a pair of states.
        state = state[0] if isinstance(state, tuple) and state else state
        if isinstance(state, Mapping):
            self.state = dict(state)

    def __setitem__(self, *item: Any) -> None:
        """Drop an item."""

    append = extend = __setitem__


def inert_class(module: str, name: str) -> type[Inert]:
    """Return a subclass of `Inert` for a class or function of a pickle."""
    return type(name, (Inert,), {"origin": f"{module}.{name}"})


class InertUnpickler(pickle.Unpickler):
    """Makes arrays, numbers and sets, and inert objects of the other classes in some packages.

    Raises UnpicklingError if the pickle names anything else.
    """

    def __init__(self, content: bytes, packages: Collection[str]) -> None:
        super().__init__(io.BytesIO(content))
        self._packages = packages

    def find_class(self, module: str, name: str) -> Any:
        """Return what replaces a class or function."""
        # The name in protocols before 3.
        module = "builtins" if module == "__builtin__" else module
        if (module, name) in _DATA:
            return _DATA[module, name]
        number = getattr(np, name, None) if module == "numpy" else None
        if isinstance(number, type) and issubclass(number, (np.number, np.bool_)):
            return number
        if module.split(".")[0] in self._packages:
            return inert_class(module, name)
        raise pickle.UnpicklingError(f"it holds {module}.{name}, which does not belong there")


class _Dtype:
    """A dtype of numbers or texts, which `np.dtype` takes; with objects or fields it could make addresses of data."""

    def __init__(self, name: Any, *_: Any) -> None:
        self.dtype = np.dtype(name if isinstance(name, str) else "O")
        if self.dtype.kind not in "biufcSU":
            raise pickle.UnpicklingError(f"it holds an array of {self.dtype}; allowed are numbers and texts")

    def __setstate__(self, state: Any) -> None:
        """Take the byte order."""
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray):
    """An array whose dtype is a `_Dtype`."""

    def __setstate__(self, state: Any) -> None:
        """Take shape, dtype, order and data."""
        _, shape, dtype, is_fortran, data = state
        super().__setstate__((1, shape, _checked(dtype), is_fortran, data))


def _checked(dtype: Any) -> np.dtype:
    if not isinstance(dtype, _Dtype):
        raise pickle.UnpicklingError(f"it holds an array of {type(dtype).__name__}; allowed are numbers and texts")
    return dtype.dtype


def _empty(*arguments: Any, kind: type[np.ndarray] = np.ndarray) -> np.ndarray:
    # The data bring the length: here an absurd one would be allocated, there it fits no data.
    return kind.__new__(kind, (0,), "b")


def _array_of_buffer(buffer: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    return np.frombuffer(buffer, np.dtype(dtype)).reshape(shape, order=order)  # type: ignore[call-overload]


def _number(dtype: Any, data: Any = None) -> Any:
    return np.frombuffer(data, np.dtype(dtype))[0] if isinstance(data, bytes) else data


def _bytes(text: str = "", encoding: str = "") -> bytes:
    # Protocols before 3 have no bytes.
    return text.encode("latin1")


# Functions of NumPy 1 and 2 that make arrays and numbers.
ARRAYS = {
    (f"{package}.{module}", name): function
    for package in ("numpy.core", "numpy._core")
    for module, name, function in (
        ("multiarray", "_reconstruct", _empty),
        ("multiarray", "scalar", _number),
        ("numeric", "_frombuffer", _array_of_buffer),
    )
}
_DATA = {
    ("_codecs", "encode"): _bytes,
    ("builtins", "bytes"): _bytes,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "set"): set,
    ("collections", "OrderedDict"): dict,
    **ARRAYS,
    **{key: partial(_empty, kind=_Array) for key in ARRAYS if key[1] == "_reconstruct"},
    ("numpy", "dtype"): _Dtype,
    # Pickles name it as an argument; called, it would make an array of any memory.
    ("numpy", "ndarray"): inert_class("numpy", "ndarray"),
}
