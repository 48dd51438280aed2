# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""ROS parameter files read without ROS: `policy_node` or any other name, wildcards, nested namespaces."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import yaml

from policy_node.config.files import read_file, reason_and_remedy
from policy_node.config.schema import ConfigurationError, flatten

# Parsed YAML takes many times as much memory as its text.
MAX_BYTES = 2**24
_PARAMETERS = "ros__parameters"
_TAG = "tag:yaml.org,2002:"
# What YAML 1.1 takes for a number or a date is other than in ROS, which knows no dates.
_REPLACED_TAGS = (f"{_TAG}int", f"{_TAG}float", f"{_TAG}timestamp")


class _RosLoader(yaml.SafeLoader):
    """Reads numbers as ROS does (`1e-3` is one; `1_000`, `1:30` and dates are texts), and no aliases."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {
        first: [resolver for resolver in resolvers if resolver[0] not in _REPLACED_TAGS]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias (`*name`), which ROS does not support; write out its value")
        return super().compose_node(parent, index)


_RosLoader.add_implicit_resolver(
    f"{_TAG}int", re.compile(r"[-+]?(0|[1-9][0-9]*|0[0-7]+|0x[0-9a-fA-F]+)$"), list("-+0123456789")
)
_RosLoader.add_implicit_resolver(
    f"{_TAG}float",
    re.compile(r"([-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"),
    list("-+.0123456789"),
)


def parse_yaml(text: str) -> Any:
    """Return the content of a YAML text as ROS reads it; raise ValueError, which says why, where it is damaged."""
    try:
        return yaml.load(text, _RosLoader)
    except Exception as error:  # PyYAML raises more than YAMLError, as for `!!int x`
        raise ValueError(f"{type(error).__name__}: {error}") from error


def read_parameter_file(path: Path, node: str = "/policy_node") -> dict[str, Any]:
    """Return the parameters by dotted name that a file, as for `--params-file`, gives the node of a full name.

    Where no section is meant for the node, and there is only one, that one counts: nodes may be renamed at their start.

    Raises
    ------
    ConfigurationError
        When the file cannot be read, or has nothing for the node.
    """
    try:
        text = read_file(path, MAX_BYTES).decode()
    except OSError as error:
        reason = reason_and_remedy(error, "give the path of one")
        raise ConfigurationError(f"parameter file '{path}' cannot be read: {reason}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"parameter file '{path}' cannot be read: {error}; give the path of one") from error
    return parse_parameters(text, f"parameter file '{path}'", node)


def parse_parameters(text: str, source: str, node: str = "/policy_node") -> dict[str, Any]:
    """Return the parameters in a text as `read_parameter_file` does; `source` is named in errors."""
    try:
        content = parse_yaml(text)
    except ValueError as error:
        raise ConfigurationError(f"{source} is no YAML that ROS can read: {error}") from error
    sections = list(_sections(content, "")) if isinstance(content, Mapping) else []
    matching = [parameters for pattern, parameters in sections if _matches(pattern, node)]
    if not matching and len(sections) == 1:
        matching = [sections[0][1]]
    if not matching:
        found = ", ".join(pattern for pattern, _ in sections) or "none"
        raise ConfigurationError(
            f"{source}: no section is for the node {node}; found {found}; let it begin with the lines `/**:` (any "
            f"node) or the node's name, and `  {_PARAMETERS}:`"
        )
    return {name: value for parameters in matching for name, value in flatten(parameters).items()}


def parse_override(text: str) -> tuple[str, Any]:
    """Parse `NAME:=VALUE`, as for `-p` of `--ros-args`; raise ValueError for anything else."""
    name, separator, value = text.partition(":=")
    if not separator or not name:
        raise ValueError(f"found '{text}', but a parameter is given as NAME:=VALUE, such as policy.path:=my.bundle")
    try:
        return name, parse_yaml(value)
    except ValueError as error:
        raise ValueError(f"found '{text}', whose value is no YAML") from error


def override(text: str) -> tuple[str, Any]:
    """Parse `NAME:=VALUE`, for the `type` of an argparse option."""
    try:
        return parse_override(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _sections(content: Mapping[Any, Any], name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Return the pattern of node names and the parameters of each section, in their order."""
    for key, value in content.items():
        if key == _PARAMETERS and isinstance(value, Mapping):
            yield name, value
        elif isinstance(value, Mapping):
            yield from _sections(value, f"{name}/{str(key).strip('/')}")


def _matches(pattern: str, node: str) -> bool:
    """Whether a pattern of a section is that of a node: `*` is one name, `**` any number of them."""
    parts = [{"*": "/[^/]+", "**": "(/[^/]+)*"}.get(part, f"/{re.escape(part)}") for part in pattern.split("/")[1:]]
    return re.fullmatch("".join(parts), node) is not None
