# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Convert messages that were recorded with another definition of their type than the installed one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from rclpy.serialization import serialize_message
from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore

from policy_node.messages.fields import message_class
from policy_node.recording.bag import message_types

# Stands in an empty message.
_PADDING = "structure_needs_at_least_one_member"


class Conversion(NamedTuple):
    """Conversion of the messages of one type."""

    difference: str  #: What differs, for the user.
    convert: Callable[[bytes], bytes]  #: Returns a serialised message with the installed definition.


def conversion_of(type_name: str, definition: MessageDefinition) -> Conversion | None:
    """Return how to convert messages with the definition in a bag; None where its fields are the installed ones.

    Fields are converted by their names: new ones get their defaults, others are left out. None, too, where the bag has
    no definition, or the type is not installed.
    """
    if definition.format == MessageDefinitionFormat.NONE or not definition.data.strip():
        return None
    parse = get_types_from_idl if definition.format == MessageDefinitionFormat.IDL else get_types_from_msg
    try:
        # The parser takes any text, and raises many kinds.
        arguments = (definition.data,) if parse is get_types_from_idl else (definition.data, type_name)
        recorded = parse(*arguments)
        target = message_class(type_name)
        difference = _difference(type_name, recorded)
    except Exception:  # the installed definition, if there is one, is then the best guess
        return None
    if not difference:
        return None
    store = get_typestore(Stores.EMPTY)
    store.register(recorded)

    def convert(raw: bytes) -> bytes:
        message = target()
        try:
            _copy(store.deserialize_cdr(raw, type_name), message)
            return serialize_message(message)
        except Exception:  # a damaged message, which its decoder refuses
            return raw

    return Conversion(f"{difference}; its fields are read by their names", convert)


def _difference(type_name: str, recorded: Mapping[str, Any]) -> str:
    """Return how the fields of a type, or of one inside it, differ; empty where they do not."""
    fields = recorded[type_name][1]
    there = [name for name, _ in fields if name != _PADDING]
    here = [name for name in message_class(type_name).get_fields_and_field_types() if name != _PADDING]
    if there != here:
        parts = [
            f"{title} {', '.join(names)}"
            for title, names in (
                ("lacks", [name for name in here if name not in there]),
                ("has", [name for name in there if name not in here]),
            )
            if names
        ]
        return f"in the bag {' and '.join(parts) or 'has another order of fields'} ({type_name})"
    nested = {name for _, field in fields for name in message_types(field)}
    return next(filter(None, (_difference(name, recorded) for name in sorted(nested))), "")


def _copy(source: Any, target: Any) -> None:
    """Copy the fields that both messages have."""
    for name, kind in target.get_fields_and_field_types().items():
        if not hasattr(source, name):
            continue
        value = getattr(source, name)
        if hasattr(getattr(target, name), "get_fields_and_field_types"):
            _copy(value, getattr(target, name))
        elif isinstance(value, np.ndarray):
            # Arrays of a fixed length are arrays of NumPy there, sequences lists.
            setattr(target, name, value if isinstance(getattr(target, name), np.ndarray) else value.tolist())
        elif isinstance(value, list) and value and hasattr(value[0], "__msgtype__"):
            setattr(target, name, [_converted(each) for each in value])
        else:
            setattr(target, name, bytes([value]) if kind == "octet" else value)


def _converted(source: Any) -> Any:
    target = message_class(source.__msgtype__)()
    _copy(source, target)
    return target
