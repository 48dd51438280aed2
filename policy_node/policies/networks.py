# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Networks of policy files, as the policies of other trainers run them for every file format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, TypeAlias

import torch

# A length that the file leaves open is its symbol.
Shape: TypeAlias = tuple["int | str", ...]


class Port(NamedTuple):
    """One input of a network.

    Attributes
    ----------
    name
        As the configuration names it.
    shape
        With the robots axis; lengths that the file leaves open are symbols. None where the file has no shapes.
    dtype
        None where the file has no dtypes.
    """

    name: str
    shape: Shape | None
    dtype: torch.dtype | None


class Network(Protocol):
    """Runs the network of a file.

    Attributes
    ----------
    engine_name
        What runs it, as `policy.engine` names it.
    inputs
        In the order of the call.
    outputs
        Names in the order of the result.
    carried
        Memory that the network keeps inside itself: initial values by a name that is among both inputs and outputs.
    """

    engine_name: str
    inputs: Sequence[Port]
    outputs: Sequence[str]
    carried: Mapping[str, torch.Tensor]

    def __call__(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        """Run the network on contiguous tensors, laid out as the file wants them."""
