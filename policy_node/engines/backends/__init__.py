# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Engines: one module per engine, found by a registry.

To add an engine, add a module with `ENGINE`, one `Engine`. Another distribution names its record in the entry points
`policy_node.engines`. These modules are imported to choose an engine, so they import the libraries of an engine only
when they build one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from policy_node.config.registry import ENGINES as FOUND
from policy_node.config.registry import Registry
from policy_node.policies.contract import Policy, TorchPolicy


class EngineError(RuntimeError):
    """An engine cannot be used; the text says why, and what to do where something can be done."""


@dataclass(frozen=True)
class EngineSettings:
    """The parameters `policy.*` of the same names."""

    engine: str = "auto"
    precision: str = "float32"
    threads: int = 1


@dataclass(frozen=True, eq=False)
class EngineRequest:
    """A policy to be run by an engine; its actions are deterministic.

    Attributes
    ----------
    robots
        Robots in one inference.
    observations
        Examples `[robots, *shape]` by key.
    channels_last
        Keys of the images that lie in memory as `[robots, ..., height, width, channels]`.
    precision
        Precision in which the network computes.
    """

    policy: Policy
    robots: int
    observations: Mapping[str, torch.Tensor]
    channels_last: frozenset[str]
    settings: EngineSettings
    precision: str = "float32"


def needs_torch_policy(policy: Policy) -> str:
    """Say that a policy cannot be traced; empty if it can."""
    return "" if isinstance(policy, TorchPolicy) else f"cannot run this file, which '{policy.engine_name}' runs"


@dataclass(frozen=True, kw_only=True)
class Engine:
    """One engine.

    Attributes
    ----------
    name
        As `policy.engine` names it; the name of the module or entry point.
    description, where
        For the table in the documentation.
    build
        Makes a policy that the engine runs. It may raise any exception, which excludes the engine.
    problem
        Says why the engine cannot run a policy, after its name; empty if it can, by default any `TorchPolicy`.
    is_quick
        Whether building takes tenths of a second, so that a loading thread may build it while another policy drives.
    lowers_precision
        Whether it can compute a `TorchPolicy` in the lower precisions of `policy.precision`.
    """

    name: str
    description: str
    where: str
    build: Callable[[EngineRequest], Policy]
    problem: Callable[[Policy], str] = needs_torch_policy
    is_quick: bool = False
    lowers_precision: bool = False


ENGINES: Registry[Engine] = FOUND
