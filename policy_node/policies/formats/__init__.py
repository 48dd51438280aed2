# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Formats of policy files: one module per format, found by a registry.

To add a format, add a module with `FORMAT`, one `PolicyFormat`. Another distribution names its record in the entry
points `policy_node.policy_formats`. These modules are imported to find the format of a file, so they import the
libraries of a format only when they load one.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from policy_node.config.registry import POLICY_FORMATS, Registry
from policy_node.policies.contract import Policy, PolicyError, TorchPolicy
from policy_node.policies.interface import PolicyInterface

if TYPE_CHECKING:
    from policy_node.policies.golden import GoldenVectors
    from policy_node.policies.sb3 import SavedModel
    from policy_node.policies.vecnormalize import Statistics


@dataclass(frozen=True, eq=False)
class PolicyFile:
    """A policy file whose content was read and checked, and how to run it; see `load_policy`.

    Attributes
    ----------
    path
        Serves errors, and files that refer to others beside them.
    any_device
        Whether the user left the device open; a policy that `device` cannot run then runs on the CPU.
    statistics
        How to normalise observations, by key; empty: not at all.
    vecnormalize
        Path of the file that the statistics came from; empty if there is no such file.
    """

    content: bytes
    path: str
    sha256: str
    device: torch.device
    any_device: bool = False
    interface: PolicyInterface = field(default_factory=PolicyInterface)
    statistics: Mapping[str, Statistics] = field(default_factory=dict)
    deterministic: bool = True
    seed: int = 0
    vecnormalize: str = ""

    @property
    def normalisation(self) -> str:
        """How `statistics` normalise observations, see `Policy.normalisation`."""
        if not self.statistics:
            return "none"
        return f"from {self.vecnormalize}" if self.vecnormalize else "inside"

    def error(self, text: str) -> PolicyError:
        """Return an error that names the file."""
        return PolicyError(f"policy file '{self.path}' {text}")


@dataclass(frozen=True, eq=False)
class ExportSource:
    """A policy of Stable-Baselines3 to be written in another format.

    Attributes
    ----------
    saved, statistics
        The parts that the policy was built from.
    policy
        On the CPU.
    golden
        Actions that the written file must give again.
    path
        Path of the policy's file, for errors.
    """

    saved: SavedModel
    statistics: Mapping[str, Statistics]
    policy: TorchPolicy
    golden: GoldenVectors
    path: str


@dataclass(frozen=True)
class PolicyFormat:
    """One format of policy files.

    Attributes
    ----------
    name
        As `policy.format` names it; the name of the module or entry point.
    title
        Name with its article, for errors, such as ``an ONNX file``.
    description
        For the table in the documentation.
    suffixes
        By which `policy.format: auto` knows a file, in lower case.
    load
        Makes the policy. It raises `PolicyError`, or ModuleNotFoundError where a package of `requires` is missing.
    requires
        Packages that the base installation lacks, as pip names them.
    is_zip
        Whether every such file is a zip archive.
    runs_code
        Whether loading can run code that the file holds, so that the file must be trusted.
    without_trust
        How to get a file that needs no trust.
    takes_statistics
        Whether the statistics of `VecNormalize` come in a separate file.
    draws
        Whether actions can be drawn as in training.
    is_ordered
        Whether inputs and outputs are known by their order alone.
    write
        Writes a policy of Stable-Baselines3 in this format; None: `policy_export` does not offer it.
    """

    name: str
    title: str
    description: str
    suffixes: tuple[str, ...]
    load: Callable[[PolicyFile], Policy]
    requires: tuple[str, ...] = ()
    is_zip: bool = False
    runs_code: bool = True
    without_trust: str = "export it as ONNX"
    takes_statistics: bool = False
    draws: bool = False
    is_ordered: bool = False
    write: Callable[[ExportSource, Path], None] | None = None


FORMATS: Registry[PolicyFormat] = POLICY_FORMATS


def lazily(module: str, function: str) -> Callable[..., Any]:
    """Return a function of a module in `policy_node.policies`, which is imported when the function is called."""

    def call(*arguments: Any) -> Any:
        return getattr(importlib.import_module(f"policy_node.policies.{module}"), function)(*arguments)

    return call


def format_of(path: str, name: str = "auto") -> PolicyFormat:
    """Return the format of that name, for ``auto`` that of the file's suffix; raises PolicyError without one."""
    if name != "auto":
        if name not in FORMATS.names:
            raise PolicyError(f"the format is '{name}'; allowed are 'auto', {', '.join(map(repr, FORMATS.names))}")
        return FORMATS[name]
    suffix = Path(path).suffix.lower()
    found = next((one for one in FORMATS if suffix in one.suffixes), None)
    if found is None:
        known = ", ".join(suffix for one in FORMATS for suffix in one.suffixes)
        raise PolicyError(
            f"policy file '{path}' has no suffix that tells its format; allowed are {known}, or name the format "
            "(in the node's configuration `policy.format`)"
        )
    return found
