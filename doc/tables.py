#!/usr/bin/env python3
# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Write the tables of configuration.md that follow from the code: parameters, message types, encodings, commands."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from policy_node.config.parameters import PARAMETERS, Parameter
from policy_node.messages.commands import COMMANDS, CommandType
from policy_node.messages.encodings import ENCODINGS, KEEP, Encoding
from policy_node.messages.types import TYPES

CONFIGURATION = Path(__file__).parent / "configuration.md"


def with_tables(text: str) -> str:
    """Return the text of configuration.md with its tables as the code has them."""
    for heading, rows in (
        ("Message types", [(kind.name, kind.gives, kind.count) for kind in TYPES.values()]),
        ("Image encodings", map(_encoding, ENCODINGS.values())),
        ("Command types", map(_command_type, COMMANDS.values())),
        ("All parameters", map(_parameter, PARAMETERS)),
    ):
        text = _with_rows(text, heading, rows)
    return text


def _with_rows(text: str, heading: str, rows: Iterable[Sequence[str]]) -> str:
    """Replace the rows of the first table of a section; the head of the table stays."""
    before, found, rest = text.partition(f"## {heading}\n")
    assert found, f"{CONFIGURATION} has no section '{heading}'"
    lines = rest.splitlines(keepends=True)
    first = next(index for index, line in enumerate(lines) if line.startswith("|---")) + 1
    last = first
    while last < len(lines) and lines[last].startswith("| "):
        last += 1
    lines[first:last] = [f"| {' | '.join(cells)} |\n" for cells in rows]
    return before + found + "".join(lines)


def _encoding(encoding: Encoding) -> tuple[str, str, str]:
    others = [f"`{other.name}`" for other in ENCODINGS.values() if encoding.code_to(other) not in (None, KEEP)]
    return f"`{encoding.name}`", f"{encoding.dtype} × {encoding.channels}", ", ".join(others)


def _command_type(kind: CommandType) -> tuple[str, str, str]:
    named_by = f"`action.{kind.named_by}`" if kind.named_by else "their order"
    return kind.name, named_by, "yes" if kind.is_velocity else "no"


def _parameter(parameter: Parameter) -> tuple[str, ...]:
    default = "required" if parameter.default is None else f"`{json.dumps(parameter.default)}`"
    rule = ", ".join(f"`{choice or json.dumps(choice)}`" for choice in parameter.allowed) or parameter.range_text
    return f"`{parameter.name}`", f"`{parameter.type}`", parameter.unit, default, rule, parameter.description


if __name__ == "__main__":
    CONFIGURATION.write_text(with_tables(CONFIGURATION.read_text()))
