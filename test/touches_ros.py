# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Which test modules touch ROS: those whose imports, followed through tests and package, lead to a ROS package."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOTS = (Path(__file__).parent, Path(__file__).resolve().parents[1])
ROS_PACKAGE = re.compile(r"(rclpy|launch|launch_ros|builtin_interfaces|std_srvs|\w+_(msgs|interfaces))(\.|$)")
MODULE_NAME = re.compile(r"policy_node(\.\w+)+")


def touches_ros(file: Path) -> bool:
    """Say whether a module imports a ROS package, itself or through others, or starts a program that does."""
    seen = {file}
    waiting = [file]
    while waiting:
        for name in _modules(waiting.pop()):
            if ROS_PACKAGE.match(name):
                return True
            found = _file(name)
            if found and found not in seen:
                seen.add(found)
                waiting.append(found)
    return False


@cache
def _modules(file: Path) -> frozenset[str]:
    return frozenset(_names(ast.parse(file.read_text(encoding="utf-8"))))


def _names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and MODULE_NAME.fullmatch(node.value):
            # As in `python -m policy_node.ros.node`.
            yield node.value


@cache
def _file(name: str) -> Path | None:
    path = name.replace(".", "/")
    candidates = (root / f"{path}{ending}" for root in ROOTS for ending in (".py", "/__init__.py"))
    return next((candidate for candidate in candidates if candidate.is_file()), None)
