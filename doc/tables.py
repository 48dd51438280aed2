# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Write the tables of the documentation that follow from records: `python doc/tables.py`.

A table is the rows below a header line, in one of the pages of `TABLES`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from policy_node.config.parameters import PARAMETERS
from policy_node.engines.backends import ENGINES
from policy_node.messages.commands import COMMAND_TYPES
from policy_node.messages.encodings import DEPTH, IMAGE_ENCODINGS
from policy_node.messages.types import MESSAGE_TYPES
from policy_node.messages.types.images import compressed_encodings
from policy_node.policies.formats import FORMATS

FOLDER = Path(__file__).parent


def parameter_rows() -> list[list[str]]:
    """Return a row for every parameter."""
    rows = []
    for parameter in PARAMETERS:
        default = "required" if parameter.default is None else f"`{json.dumps(parameter.default)}`"
        rule = ", ".join(f"`{choice or json.dumps(choice)}`" for choice in parameter.allowed) or parameter.range_text
        kind = f"`{parameter.type}`"
        rows.append([f"`{parameter.name}`", kind, parameter.unit, default, rule, parameter.description])
    return rows


def format_rows() -> list[list[str]]:
    """Return a row for every policy format."""
    return [
        [
            f"`{kind.name}`",
            ", ".join(f"`{suffix}`" for suffix in kind.suffixes) or "any",
            kind.description,
            "yes: `policy.trusted: true`" if kind.runs_code else "no",
        ]
        for kind in FORMATS
    ]


def engine_rows() -> list[list[str]]:
    """Return a row for every engine, and one for the choice among them."""
    rows = [[f"`{engine.name}`", engine.description, engine.where] for engine in ENGINES]
    return [*rows, ["`auto`", "the fastest of them that acts as the policy does", ""]]


def type_rows() -> list[list[str]]:
    """Return a row for every message type that can be observed."""
    encodings = {
        "sensor_msgs/msg/Image": "[all](#image-encodings)",
        "sensor_msgs/msg/CompressedImage": ", ".join(f"`{name}`" for name in compressed_encodings()),
    }
    rows = [
        [kind.name, encodings.get(kind.name, ""), f"{kind.gives}: {kind.count}", kind.refuses]
        for kind in MESSAGE_TYPES.values()
    ]
    gives = "the numbers at `field` or `fields`, also of elements of arrays: one per number"
    return [
        *rows,
        ["any other type", "", gives, "NaN, infinity and another count; a sequence without an element that is read"],
    ]


def encoding_rows() -> list[list[str]]:
    """Return a row for all image encodings of the same pixels that convert to the same others."""
    alike: dict[tuple[str, str], list[str]] = {}
    colours = {name for name, encoding in IMAGE_ENCODINGS.items() if encoding.colour not in ("", DEPTH)}
    for encoding in IMAGE_ENCODINGS.values():
        others = {other.name for other in IMAGE_ENCODINGS.values() if encoding.code_to(other) is not None}
        others -= {encoding.name}
        listed = ["all colours and grey"] if others >= colours - {encoding.name} else []
        listed += [f"`{name}`" for name in IMAGE_ENCODINGS if name in others and not (listed and name in colours)]
        pixels = f"{encoding.dtype} × {encoding.channels}{', with rows of chroma' if encoding.has_chroma_rows else ''}"
        alike.setdefault((pixels, ", ".join(listed)), []).append(f"`{encoding.name}`")
    return [[", ".join(names), pixels, becomes] for (pixels, becomes), names in alike.items()]


def command_rows() -> list[list[str]]:
    """Return a row for every type of commands."""
    return [
        [
            kind.name,
            f"`action.{kind.named_by}`" if kind.named_by else "their order",
            "yes" if kind.is_velocity else "no",
        ]
        for kind in COMMAND_TYPES.values()
    ]


# Page and header line of each table.
TABLES: dict[tuple[str, str], Callable[[], list[list[str]]]] = {
    ("configuration.md", "| parameter | type | unit | default | allowed | what it does |"): parameter_rows,
    ("configuration.md", "| message | encodings | what becomes of it | what is refused, and why |"): type_rows,
    ("configuration.md", "| encoding | pixels | becomes |"): encoding_rows,
    ("configuration.md", "| type | components are named by | zeros are safe |"): command_rows,
    ("policies.md", "| `policy.format` | suffix | what it is | can run code |"): format_rows,
    ("engines.md", "| `policy.engine` | what it is | where |"): engine_rows,
}


def with_tables(page: str, text: str) -> str:
    """Return the text of a page with its tables as the records have them."""
    for (name, header), make_rows in TABLES.items():
        if name == page:
            before, found, after = text.partition(f"{header}\n")
            assert found, f"{page} has no table '{header}'"
            rule, *lines = after.split("\n")
            while lines and lines[0].startswith("|"):
                del lines[0]
            rows = [f"| {' | '.join(cells)} |" for cells in make_rows()]
            text = before + found + "\n".join([rule, *rows, *lines])
    return text


if __name__ == "__main__":
    for name in {page for page, _ in TABLES}:
        file = FOLDER / name
        file.write_text(with_tables(name, file.read_text()))
