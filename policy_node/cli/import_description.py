# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Write a parameter file from a trainer's description (`policy_export import`)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from policy_node.policies import PolicyError
from policy_node.policies.described_parameters import described_parameters, parameter_file
from policy_node.policies.descriptions import TrainerDescription, find_description, read_description


def import_description(source: Path, output: Path) -> TrainerDescription:
    """Write the parameter file of a description.

    Parameters
    ----------
    source
        The description, or a policy file with the description inside or beside it.
    output
        Parameter file to write; an existing one is replaced.

    Raises
    ------
    PolicyError
        When there is no description, it is damaged, or the output cannot be written.
    """
    is_text = source.suffix.lower() in (".yaml", ".yml")
    description = read_description(source) if is_text else find_description(source)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(parameter_file(description), encoding="utf-8")
    except OSError as error:
        raise PolicyError(f"output '{output}' cannot be written: {error.strerror}; give another path") from error
    return description


def main(words: Sequence[str] | None = None) -> int:
    """Run `policy_export import`."""
    arguments = make_parser().parse_args(words)
    try:
        description = import_description(arguments.source, arguments.output)
    except PolicyError as error:
        print(f"policy_export import: {error}", file=sys.stderr)
        return 1
    entries = described_parameters(description)
    missing = [name for name, entry in entries.items() if entry.value is None]
    assumed = sum(entry.comment.startswith("ASSUMED") for entry in entries.values())
    print(
        f"{arguments.output}: from {description.title}; {assumed} values are assumed (comments ASSUMED), missing: "
        f"{', '.join(missing) or 'nothing'}"
    )
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of `policy_export import`."""
    parser = argparse.ArgumentParser(
        prog="policy_export import",
        description="Write a parameter file of the node from what a trainer wrote into a policy file or beside it: "
        "metadata of ONNX files (mjlab, whole_body_tracking, holosoma), deploy.yaml of Unitree, LEAPP of Isaac Lab. "
        "Comments say what is assumed and what is missing.",
    )
    parser.add_argument("source", type=Path, help="description (.yaml), or policy file")
    parser.add_argument("--output", type=Path, required=True, help="parameter file to write")
    return parser


if __name__ == "__main__":
    sys.exit(main())
