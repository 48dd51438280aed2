# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Policies in files that `policy_export` wrote in the format of another engine, and that say all about themselves."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from policy_node.config.specs import ArraySpec
from policy_node.policies.contract import Policy, PolicyError
from policy_node.policies.foreign import Engine
from policy_node.policies.golden import check_golden
from policy_node.policies.metadata import FileDescription
from policy_node.policies.rows import rows_without_nan, where_rows


class DescribedPolicy(Policy):
    """The network of an exported file at work.

    Parameters
    ----------
    engine
        From contiguous inputs to outputs, in the order of the description.
    description
        What the file says of itself; its golden vectors stay as the attribute `golden`.
    path
        Where it came from, for errors.
    device
        Where the engine runs.

    Raises
    ------
    PolicyError
        If the network cannot be run or does not act as it did when it was exported.
    """

    def __init__(
        self,
        engine: Engine,
        description: FileDescription,
        path: str,
        device: torch.device,
    ) -> None:
        super().__init__(description.spec, device)
        self.engine_name = engine.name
        self._engine = engine
        self.golden = description.golden
        self._description = description
        try:
            check_golden(self, self.golden, path)
        except PolicyError:
            raise
        except Exception as error:
            raise PolicyError(
                f"policy file '{path}' cannot be run on {device} ({type(error).__name__}: {error}); "
                "export it again, or update what runs it"
            ) from error

    def act(
        self, observations: Mapping[str, torch.Tensor], memory: Mapping[str, torch.Tensor], masks: torch.Tensor | None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
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
        action, *after = self._engine([tensor.contiguous() for tensor in inputs])
        following = {name: part for (name, _), part in zip(description.memory, after, strict=True)}
        if usable is not None:
            action = where_rows(usable, action, torch.nan if isinstance(self.spec.action, ArraySpec) else -1)
            following = {
                name: where_rows(usable, part, torch.nan) if part.is_floating_point() else part
                for name, part in following.items()
            }
        return action, following
