# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Find message classes by name, and the numbers at a dotted path of a message definition."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from policy_node.config.paths import MOST_ELEMENTS
from policy_node.messages.reading import UnusableReading

MessageClass: TypeAlias = Any  # rosidl message classes share no base class

# `octet` is missing: its Python value is a bytes object, not a number.
NUMBERS = {
    "boolean": np.dtype(np.bool_),
    "float": np.dtype(np.float32),
    "double": np.dtype(np.float64),
    **{f"{sign}int{bits}": np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
_ARRAY = re.compile(r"(?P<element>.+)\[(?P<length>\d+)\]")
_SEQUENCE = re.compile(r"sequence<(?P<element>[^,<>]+)(?:, *(?P<bound>\d+))?>")
# A part of a path: a field, or an element of an array.
PART = re.compile(r"(?P<name>\w+)(?:\[(?P<index>\d{1,9})\])?")


class MessageTypeError(ValueError):
    """A message type, or a choice from it, that does not fit its use in the configuration."""


@dataclass(frozen=True)
class NumericField:
    """A number, or an array or sequence of numbers, at a dotted path; `size` is None where each message chooses."""

    path: str
    dtype: np.dtype
    size: int | None
    is_array: bool


def message_class(type_name: str) -> MessageClass:
    """Import the Python class of a message type such as ``sensor_msgs/msg/Image``.

    Raises MessageTypeError if the name is misspelt, or its package is not installed.
    """
    remedy = "spell it package/msg/Type, as in sensor_msgs/msg/Image, and install and source its package"
    package, separator, name = type_name.partition("/msg/")
    if not (separator and package.isidentifier() and name.isidentifier()):
        raise MessageTypeError(f"type '{type_name}' is not the name of a message type; {remedy}")
    try:
        found = getattr(importlib.import_module(f"{package}.msg"), name, None)
    except ImportError as error:
        raise MessageTypeError(f"type '{type_name}' cannot be imported ({error}); {remedy}") from error
    if not hasattr(found, "get_fields_and_field_types"):
        raise MessageTypeError(f"package '{package}' has no message type '{name}'; {remedy}")
    return found


def has_header(message_type: MessageClass) -> bool:
    """Return whether the first field of the type is a std_msgs/Header, whose stamp leads every serialised message."""
    return next(iter(message_type.get_fields_and_field_types().values()), "") == "std_msgs/Header"


def numeric_fields(message_type: MessageClass, path: str) -> list[NumericField]:
    """Find the numbers at a dotted path, in the order of the definition.

    The path leads to a number, an array of numbers, or a message that consists of such, also by elements of arrays and
    sequences, such as ``motor_state[0].q``. Raises MessageTypeError if it leads to something else, or a part of it does
    not exist.
    """
    owner, kind = message_type, ""
    steps: list[str] = []
    for part in path.split("."):
        match = PART.fullmatch(part)
        fields = owner.get_fields_and_field_types() if owner is not None else {}
        if match is None or match["name"] not in fields:
            found = "/".join((message_type.__module__.split(".")[0], "msg", message_type.__name__))
            parent = ".".join(steps) or "the message"
            exists = ", ".join(f"{name} ({kind})" for name, kind in fields.items()) or "nothing below it"
            if elements_of(kind):
                exists = f"elements ({kind}); name one, as in '{parent}[0]'"
            raise MessageTypeError(f"{found} has no field '{path}': {parent} has {exists}")
        kind = fields[match["name"]]
        if match["index"] is None:
            steps.append(match["name"])
        else:
            steps.append(f"{match['name']}[{int(match['index'])}]")
            kind = element_kind(match["name"], kind, int(match["index"]), path)
        owner = message_of(kind)
    return list(_flatten(".".join(steps), kind))


def element_kind(name: str, kind: str, index: int, path: str) -> str:
    """Return the type of an element of the field `name`, of type `kind`; `path` is for the error.

    Raises MessageTypeError if the field is no array or sequence, or can never have that element.
    """
    match = _ARRAY.fullmatch(kind) or _SEQUENCE.fullmatch(kind)
    groups = match.groupdict() if match else {}
    most = int(groups.get("length") or groups.get("bound") or MOST_ELEMENTS)
    if match is None or index >= most:
        raise MessageTypeError(f"field '{path}': {name} is {kind}, which has no element {index}")
    return match["element"]


def value_at(message: Any, path: str) -> Any:
    """Return what a message has at a path of `numeric_fields`; raises UnusableReading where a sequence is shorter."""
    value = message
    for part in path.split("."):
        name, _, index = part.partition("[")
        value = getattr(value, name)
        if index:
            position = int(index.rstrip("]"))
            if position >= len(value):
                raise UnusableReading(f"'{path}' is missing: {name} has {len(value)} elements")
            value = value[position]
    return value


def elements_of(kind: str) -> tuple[str, int | None] | None:
    """Return element type and length of an array, or of a sequence (length None); None for other types."""
    for pattern in (_ARRAY, _SEQUENCE):
        match = pattern.fullmatch(kind)
        if match:
            length = match.groupdict().get("length")
            return match["element"], int(length) if length else None
    return None


def _flatten(path: str, kind: str) -> list[NumericField]:
    if kind in NUMBERS:
        return [NumericField(path, NUMBERS[kind], 1, False)]
    elements = elements_of(kind)
    if elements is not None and elements[0] in NUMBERS:
        element, size = elements
        return [NumericField(path, NUMBERS[element], size, True)]
    owner = message_of(kind)
    if owner is None:
        raise MessageTypeError(
            f"field '{path}' is {kind}, not numbers; choose a number, an array of numbers, or a message of only numbers"
        )
    parts = owner.get_fields_and_field_types().items()
    return [field for name, kind in parts for field in _flatten(f"{path}.{name}", kind)]


def is_zero(message: Any) -> bool:
    """Return whether a message has numbers outside of its headers, and all of them are 0."""
    numbers = [np.asarray(value).ravel() for value in _numbers_of(message)]
    return any(map(len, numbers)) and not any(map(np.any, numbers))


def _numbers_of(message: Any) -> Iterator[Any]:
    for name, kind in message.get_fields_and_field_types().items():
        value = getattr(message, name)
        element, _ = elements_of(kind) or (kind, None)
        if element in NUMBERS:
            yield value
        elif element != "std_msgs/Header" and message_of(element) is not None:
            for one in value if element != kind else [value]:
                yield from _numbers_of(one)


def message_of(kind: str) -> MessageClass | None:
    """Return the class of a definition's field type such as ``geometry_msgs/Vector3``, None for any other."""
    package, separator, name = kind.partition("/")
    if not separator or not (package.isidentifier() and name.isidentifier()):
        return None
    return message_class(f"{package}/msg/{name}")


def require_unique(what: str, names: Sequence[str]) -> None:
    """Raise MessageTypeError with the names that occur twice, if any do."""
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise MessageTypeError(f"{what}: {', '.join(twice)} named more than once; name each once")
