# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of single parameters: type, range, allowed values, and names that do not exist."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from policy_node.config.parameters import Parameter

# The parameters of a topic. An observation that is made of terms has none of these; each term has its own.
SOURCE_PARAMETERS = tuple(
    f"observations.<key>.{name}"
    for name in (
        *("topic", "type", "field", "fields", "joints", "encoding", "depth", "reliability", "max_age_s"),
        "when_silent",
    )
)

_PYTHON_TYPES = {"bool": bool, "int": int, "float": float, "str": str}
_TYPE_NAMES = {
    "bool": "a boolean",
    "int": "an integer",
    "float": "a double",
    "str": "a string",
    "list[str]": "a list of strings",
    "list[int]": "a list of integers",
    "list[float]": "a list of doubles",
}


def has_type(value: Any, type_name: str) -> bool:
    """Return whether a value has the type of a parameter, such as `list[float]`."""
    if type_name.startswith("list["):
        element = _PYTHON_TYPES[type_name[5:-1]]
        return (
            isinstance(value, Sequence)
            and not isinstance(value, (str, bytes))
            and all(type(item) is element for item in value)
        )
    return type(value) is _PYTHON_TYPES[type_name]


def unknown_parameter(name: str, value: Any, known: Mapping[str, Parameter]) -> str:
    """Return the problem of a parameter that does not exist, with the closest one that does."""
    if name.startswith("qos_overrides."):
        return (
            f"{name}: found {value!r}, but sensors and commands take no overrides; remove it and set "
            f"observations.<key>.depth or observations.<key>.reliability"
        )
    parts = name.split(".")
    if parts[0] == "observations" and len(parts) > 2:
        if f"observations.{parts[1]}.terms" not in known:
            return (
                f"{name}: found {value!r}, but observations.keys does not name '{parts[1]}'; "
                f"add it there or remove the observation"
            )
        if name.replace(f".{parts[1]}.", ".<key>.", 1) in SOURCE_PARAMETERS:
            return f"{name}: found {value!r}, but this observation is made of terms; give it to one of them instead"
        if len(parts) > 3 and f"observations.{parts[1]}.{parts[2]}.kind" not in known:
            return (
                f"{name}: found {value!r}, but observations.{parts[1]}.terms does not name '{parts[2]}'; "
                f"add it there or remove the term"
            )
    close = difflib.get_close_matches(name, known, n=1)
    remedy = f"did you mean {close[0]}?" if close else f"allowed are {', '.join(sorted(known))}"
    return f"{name}: found {value!r}, but there is no such parameter; {remedy}"


def merge_misspelt_keys(problems: list[str], flat: Mapping[str, Any], keys: Sequence[str]) -> list[str]:
    """Replace all problems that follow from a misspelt key of an observation by one."""
    described = [name.split(".")[1] for name in flat if name.startswith("observations.") and name.count(".") > 1]
    unnamed = sorted(set(described) - set(keys))
    for key in keys:
        prefix = f"observations.{key}."
        if any(flat.get(f"{prefix}{name}") for name in ("topic", "type", "terms")):
            continue
        for close in difflib.get_close_matches(key, unnamed, n=1):
            follow = (prefix, f"observations.{close}.")
            problems = [problem for problem in problems if not problem.startswith(follow)]
            problems.append(f"observations.keys: found {key!r}, of which nothing is given; did you mean {close!r}?")
            unnamed.remove(close)
    return problems


def check_value(name: str, parameter: Parameter, flat: Mapping[str, Any], problems: list[str]) -> Any:
    """Return the value of one parameter, and add what is wrong with it to the problems."""
    if name not in flat:
        if parameter.default is None:
            problems.append(f"{name}: missing; give {_TYPE_NAMES[parameter.type]}: {parameter.description}")
        return parameter.default
    value = flat[name]
    if not has_type(value, parameter.type):
        remedy = ""
        if parameter.type == "float" and type(value) is int:
            remedy = f"; write {value}.0"
        elif parameter.type == "list[float]" and has_type(value, "list[str]") is False and isinstance(value, Sequence):
            remedy = "; write every number with a decimal point"
        problems.append(
            f"{name}: found {value!r} ({type(value).__name__}), but it must be {_TYPE_NAMES[parameter.type]}{remedy}"
        )
        return value
    if parameter.type.startswith("list["):
        value = tuple(value)
    numbers = (
        value
        if parameter.type in ("list[float]", "list[int]")
        else (value,)
        if parameter.type in ("int", "float")
        else ()
    )
    outside = (parameter.minimum is not None and any(number < parameter.minimum for number in numbers)) or (
        parameter.maximum is not None and any(number > parameter.maximum for number in numbers)
    )
    # An integer may be too large for isfinite, which converts it to a float.
    if outside or not all(isinstance(number, int) or math.isfinite(number) for number in numbers):
        problems.append(
            f"{name}: found {value!r}, but it must be finite, {parameter.range_text} {parameter.unit}".rstrip(" ,")
        )
    if parameter.allowed and value not in parameter.allowed:
        problems.append(f"{name}: found {value!r}, but it must be {parameter.range_text}")
    if parameter.default is None and len(value if isinstance(value, (str, tuple)) else "x") == 0:
        problems.append(f"{name}: empty; give {_TYPE_NAMES[parameter.type]}: {parameter.description}")
    return value
