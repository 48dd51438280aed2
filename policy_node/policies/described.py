# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Policies in files that describe themselves, as `policy_export` writes them."""

from __future__ import annotations

import torch

from policy_node.config.specs import ArraySpec
from policy_node.policies.contract import Policy, PolicyError, Tensors
from policy_node.policies.formats import PolicyFile
from policy_node.policies.golden import check_golden
from policy_node.policies.metadata import FileDescription
from policy_node.policies.networks import Network
from policy_node.policies.rows import rows_without_nan, where_rows


class DescribedPolicy(Policy):
    """A policy whose file describes its network's inputs and outputs.

    Parameters
    ----------
    network
        Its inputs and outputs are in the order of the description.
    description
        From the file.
    file
        The file.

    Raises
    ------
    PolicyError
        If the network cannot be run or does not act as it did when it was exported.
    """

    def __init__(self, network: Network, description: FileDescription, file: PolicyFile) -> None:
        super().__init__(description.spec, file.device)
        self.engine_name = network.engine_name
        self.golden = description.golden
        self._network = network
        self._description = description
        try:
            check_golden(self, self.golden, file.path)
        except PolicyError:
            raise
        except Exception as error:
            raise file.error(
                f"cannot be run on {self.device} ({type(error).__name__}: {error}); "
                "export it again, or update what runs it"
            ) from error

    def act(self, observations: Tensors, memory: Tensors, masks: torch.Tensor | None) -> tuple[torch.Tensor, Tensors]:
        """Compute actions and the next memory from checked arguments."""
        description = self._description
        inputs = [observations[key] for key in description.inputs]
        inputs += [memory[name] for name, _ in description.memory]
        # Some engines do not pass NaN on: they take the larger of NaN and 0 to be 0.
        usable = rows_without_nan(inputs)
        if description.action_mask:
            robots = len(inputs[0])
            everything = torch.ones((robots, self.spec.mask), dtype=torch.bool, device=self.device)
            inputs.append(everything if masks is None else masks)
        action, *after = self._network([tensor.contiguous() for tensor in inputs])
        following = {name: part for (name, _), part in zip(description.memory, after, strict=True)}
        if usable is not None:
            action = where_rows(usable, action, torch.nan if isinstance(self.spec.action, ArraySpec) else -1)
            following = {
                name: where_rows(usable, part, torch.nan) if part.is_floating_point() else part
                for name, part in following.items()
            }
        return action, following
