# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Parse numbers in command-line options."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

from policy_node.config.parameter_file import parse_override

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


def override(text: str) -> tuple[str, Any]:
    """Parse `NAME:=VALUE`, for the `type` of an argparse option."""
    try:
        return parse_override(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
