# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Start the processes of a measurement: the ROS session of the tool, the node and the other child processes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from policy_node.ros.domain import keep_to_itself


@contextmanager
def ros_session() -> Iterator[None]:
    """Open ROS in a domain that no other process on this machine uses."""
    keep_to_itself()
    # Commands that do not use ROS work without an installation of ROS.
    from policy_node.ros.process import open_ros

    with open_ros():
        yield


def module_arguments(module: str, options: Mapping[str, Any]) -> list[str]:
    """Return the Python arguments that run a module which takes its options as JSON."""
    return ["-m", module, json.dumps(options)]


def node_arguments(name: str, parameters: Mapping[str, Any], file: Path) -> list[str]:
    """Write parameters by dotted name to a file and return the Python arguments that start the node with it.

    The name of the node must differ from that of a node that drives real robots.
    """
    file.write_text(yaml.safe_dump({"/**": {"ros__parameters": dict(parameters)}}, sort_keys=False))
    return ["-m", "policy_node.ros.main", "--ros-args", "-r", f"__node:={name}", "--params-file", str(file)]
