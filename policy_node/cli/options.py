# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Options that several command lines share."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from policy_node.config.parameter_file import override, read_parameter_file

# Exit status after Ctrl-C, as in shells.
INTERRUPTED = 130


def number(kind: type[int] | type[float], minimum: float, maximum: float = math.inf) -> Callable[[str], Any]:
    """Return a parser of finite numbers from `minimum` to `maximum`, for the `type` of an argparse option."""

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not minimum <= value <= maximum or math.isinf(value):
            whole = "whole number" if kind is int else "number"
            limits = f"of at least {minimum:g}" if math.isinf(maximum) else f"from {minimum:g} to {maximum:g}"
            raise argparse.ArgumentTypeError(f"found {text!r}, allowed is a {whole} {limits}")
        return value

    return parse


def add_parameter_file(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the parameters of a node: its file, overrides and name."""
    parser.add_argument("file", type=Path, help="ROS parameter file (YAML)")
    parser.add_argument(
        "-p",
        dest="overrides",
        type=override,
        action="append",
        default=[],
        metavar="NAME:=VALUE",
        help="override a parameter of the file; may be repeated",
    )
    parser.add_argument("--node", default="/policy_node", help="full name of the node (default /policy_node)")


def parameters_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return the parameters that the options of `add_parameter_file` name; raises ConfigurationError."""
    return {**read_parameter_file(options.file, options.node), **dict(options.overrides)}
