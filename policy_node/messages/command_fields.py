# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Commands whose components are fields of a message, at dotted paths such as ``motor_cmd[0].q``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import yaml

from policy_node.config.paths import expand
from policy_node.messages.commands import COMMAND_TYPES, CommandChoices, CommandEncoder, CommandType, set_time
from policy_node.messages.fields import (
    NUMBERS,
    PART,
    MessageClass,
    MessageTypeError,
    element_kind,
    elements_of,
    message_of,
)
from policy_node.messages.types.numbers import FieldSource


class Target(NamedTuple):
    """A field of a message, or an element of an array, that can be written."""

    #: The message, or the array, and the name of the field or the index of the element.
    owner: Any
    key: str | int
    #: Type in the definition, such as ``double``.
    kind: str

    def write(self, value: Any) -> None:
        """Write a value, which must have the type of the field."""
        if isinstance(self.key, str):
            setattr(self.owner, self.key, value)
        else:
            self.owner[self.key] = value


def find_target(message: Any, path: str) -> Target:
    """Find the field or element at a path of a message; sequences grow so that they have it.

    Raises
    ------
    MessageTypeError
        When the message has no such field or element.
    """
    parts, owner, target = path.split("."), message, None
    for position, part in enumerate(parts):
        match = PART.fullmatch(part)
        fields = owner.get_fields_and_field_types() if hasattr(owner, "get_fields_and_field_types") else {}
        if match is None or match["name"] not in fields:
            parent = ".".join(parts[:position]) or "the message"
            exists = ", ".join(f"{name} ({kind})" for name, kind in fields.items()) or "nothing below it"
            raise MessageTypeError(f"{_name_of(message)} has no field '{path}': {parent} has {exists}")
        name, index = match["name"], match["index"]
        target = Target(owner, name, fields[name])
        if index is not None:
            target = _element(target, int(index), path)
        owner = getattr(target.owner, name) if index is None else target.owner[target.key]
    assert target is not None
    return target


def _element(field: Target, index: int, path: str) -> Target:
    """Return an element of the array in a field."""
    kind = element_kind(str(field.key), field.kind, index, path)
    values = getattr(field.owner, str(field.key))
    if len(values) <= index:
        made = message_of(kind)
        missing = index + 1 - len(values)
        grown = [*values, *(made() if made else _nothing(kind) for _ in range(missing))]
        setattr(field.owner, str(field.key), grown)
        values = getattr(field.owner, str(field.key))
    return Target(values, index, kind)


def _nothing(kind: str) -> Any:
    """Return the value of an element that nothing was written to."""
    return NUMBERS[kind].type(0).item() if kind in NUMBERS else ""


def _name_of(message: Any) -> str:
    return f"{type(message).__module__.split('.')[0]}/msg/{type(message).__name__}"


def number_cast(dtype: np.dtype) -> Callable[[np.ndarray], np.ndarray]:
    """Return the conversion of commands, float64, to the numbers of a field.

    Floats and integers are clipped to the range of their type; integers are rounded to the nearest, and a boolean is
    true from 0.5 on.
    """
    if dtype == np.float64:
        return lambda values: values
    if dtype == np.bool_:
        return lambda values: values >= 0.5
    if dtype.kind == "f":
        high = float(np.finfo(dtype).max)
        return lambda values: np.clip(values, -high, high).astype(dtype)
    low, end = int(np.iinfo(dtype).min), float(np.iinfo(dtype).max)
    # The greatest number of 64 bits is no float64.
    highest = end if dtype.itemsize < 8 else float(np.nextafter(end, 0.0))

    def rounded(values: np.ndarray) -> np.ndarray:
        # Rows without a command are NaN; they are not sent.
        with np.errstate(invalid="ignore"):
            return np.clip(np.rint(values), low, highest).astype(dtype)

    return rounded


def write_constants(message: Any, constants: Sequence[str]) -> tuple[str, ...]:
    """Write constants such as ``motor_cmd[0:12].kp=25.0`` into a message; the value is read as YAML.

    Returns
    -------
    tuple
        The paths that were written.

    Raises
    ------
    MessageTypeError
        When one is misspelt, or the field has another type.
    """
    written: list[str] = []
    for constant in constants:
        path, separator, text = constant.partition("=")
        if not separator:
            raise MessageTypeError(
                f"constants: found '{constant}', but a constant is written path=value, as in kp=20.0"
            )
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise MessageTypeError(f"constants: found '{constant}', whose value cannot be read as YAML") from None
        for each in expand([path.strip()]):
            target = find_target(message, each)
            try:
                target.write(_constant(target.kind, value))
            except (AssertionError, TypeError, ValueError, OverflowError) as error:
                found = f"constants: found '{constant}', but '{each}' is {target.kind}"
                raise MessageTypeError(f"{found}; give such a value") from error
            written.append(each)
    return tuple(written)


def _constant(kind: str, value: Any) -> Any:
    """Return a value of YAML for a field; raises TypeError or ValueError if it has another type."""
    elements = elements_of(kind)
    if elements is not None:
        element, size = elements
        if not isinstance(value, list) or (size is not None and len(value) != size):
            raise TypeError
        values = [_constant(element, one) for one in value]
        return values if size is None or element not in NUMBERS else np.array(values, NUMBERS[element])
    if kind.startswith(("string", "wstring")):
        return value if isinstance(value, str) else str(value)
    if kind not in NUMBERS or not isinstance(value, (bool, int, float)):
        raise TypeError
    dtype = NUMBERS[kind]
    if dtype == np.bool_:
        if not isinstance(value, bool):
            raise TypeError
        return value
    if isinstance(value, bool) or (dtype.kind != "f" and value != int(value)):
        raise TypeError
    return float(value) if dtype.kind == "f" else int(value)


class FieldEncoder(CommandEncoder):
    """Encodes each component into a field; fields without a component keep their default or constant.

    Parameters
    ----------
    message_type, choices
        Type of the messages, and the paths in them.
    prefix
        Beginning of every path that is left out, such as ``twist.``.
    default
        The only path, for types whose components have no names.
    """

    def __init__(
        self, message_type: MessageClass, choices: CommandChoices, prefix: str = "", default: str = ""
    ) -> None:
        message = message_type()
        paths = [default] if default else list(choices.fields)
        super().__init__(message, len(paths), choices.frame_id)
        constants = write_constants(message, choices.constants)
        inner = message if not prefix else getattr(message, prefix.rstrip("."))
        self._targets = [_number_target(inner, path) for path in paths]
        twice = sorted({f"{prefix}{path}" for path in paths}.intersection(constants))
        if twice:
            raise MessageTypeError(f"constants: {', '.join(twice)} is a component of the command; remove the constant")
        self.dtypes = tuple(NUMBERS[target.kind] for target in self._targets)
        self._casts = [number_cast(dtype) for dtype in self.dtypes]
        stamped = message_type.get_fields_and_field_types().get("header") == "std_msgs/Header"
        self._header = message.header if stamped else None

    def __call__(self, command: np.ndarray, stamp_ns: int) -> Any:
        """See `CommandEncoder`."""
        for target, cast, value in zip(self._targets, self._casts, command, strict=True):
            target.write(cast(value).item())
        if self._header is not None:
            set_time(self._header.stamp, stamp_ns)
        return self._message


def _number_target(message: Any, path: str) -> Target:
    """Find a field that is a number."""
    target = find_target(message, path)
    if target.kind in NUMBERS:
        return target
    if (elements := elements_of(target.kind)) is not None and elements[0] in NUMBERS:
        raise MessageTypeError(f"field '{path}' is {target.kind}; name its elements, such as '{path}[0:12]'")
    fields = message_of(target.kind)
    first = next(iter(fields.get_fields_and_field_types()), "x") if fields is not None else "x"
    raise MessageTypeError(f"field '{path}' is not a number; name one of its parts, such as '{path}.{first}'")


def by_fields(name: str, prefix: str = "", is_velocity: bool = False) -> CommandType:
    """Return the record of a type whose components `fields` names, without a `prefix` of every path."""
    return CommandType(
        name,
        named_by="fields",
        is_velocity=is_velocity,
        has_constants=True,
        make=lambda message_type, choices: FieldEncoder(message_type, choices, prefix),
        source=lambda message_type, choices: FieldSource(message_type, [prefix + path for path in choices.fields]),
    )


def of_one_number(name: str) -> CommandType:
    """Return the record of a type whose only component is its field `data`."""

    def make(message_type: MessageClass, choices: CommandChoices) -> FieldEncoder:
        if choices.components != 1:
            raise MessageTypeError(f"the command has {choices.components} components, the message one number")
        return FieldEncoder(message_type, choices, default="data")

    return CommandType(
        name,
        named_by="",
        is_velocity=False,
        make=make,
        source=lambda message_type, choices: FieldSource(message_type, ["data"]),
    )


def command_type(name: str) -> CommandType:
    """Return the record of a type; for a type without one, a record that writes it by `fields`."""
    return COMMAND_TYPES.get(name) or by_fields(name)
