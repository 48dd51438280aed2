# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Policies in files that `policy_export` wrote in the format of another engine, and that say all about themselves."""

from __future__ import annotations

import torch

from policy_node.config.specs import ArraySpec
from policy_node.policies.checks import CallChecks, torch_dtype
from policy_node.policies.contract import Observations, PolicyError, State
from policy_node.policies.foreign import Engine
from policy_node.policies.golden import check_golden
from policy_node.policies.metadata import FileDescription
from policy_node.policies.rows import rows_without_nan, where_rows


class DescribedPolicy:
    """The network of an exported file at work; see `policy_node.policies.Policy`.

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
        self.spec = description.spec
        self.device = device
        self.engine_name = engine.name
        self._engine = engine
        self.golden = description.golden
        self._description = description
        self._checks = CallChecks(self.spec, device)
        try:
            check_golden(self, self.golden, path)
        except PolicyError:
            raise
        except Exception as error:
            raise PolicyError(
                f"policy file '{path}' cannot be run on {device} ({type(error).__name__}: {error}); "
                "export it again, or update what runs it"
            ) from error

    def initial_state(self, robots: int) -> State:
        """Return the memory of robots that have seen nothing yet; see `policy_node.policies.Policy`."""
        return {
            name: torch.zeros((robots, *array.shape), dtype=torch_dtype(array.dtype), device=self.device)
            for name, array in self.spec.memory.items()
        } or None

    def reset(self, state: State, rows: torch.Tensor) -> State:
        """Return the state in which the chosen robots have seen nothing yet; see `policy_node.policies.Policy`."""
        if state is None:
            return None
        # Chosen, not multiplied by zero: NaN must not survive.
        return {name: where_rows(rows, torch.zeros_like(part), part) for name, part in state.items()}

    def __call__(
        self, observations: Observations, state: State = None, masks: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, State]:
        """Compute the final action of every robot; see `policy_node.policies.Policy`."""
        observations, robots = self._checks.observations(observations)
        self._checks.masks(masks, robots)
        self._checks.state(state, robots)
        description = self._description
        with torch.inference_mode():
            inputs = [observations[key] for key in description.inputs]
            inputs += [(state or {})[name] for name, _ in description.memory]
            # Not every engine hands NaN on: some take the larger of NaN and 0 to be 0.
            usable = rows_without_nan(inputs)
            if description.action_mask:
                everything = torch.ones((robots, self.spec.mask), dtype=torch.bool, device=self.device)
                inputs.append(everything if masks is None else masks)
            action, *after = self._engine([tensor.contiguous() for tensor in inputs])
            memory = {name: part for (name, _), part in zip(description.memory, after, strict=True)}
            if usable is not None:
                action = where_rows(usable, action, torch.nan if isinstance(self.spec.action, ArraySpec) else -1)
                memory = {
                    name: where_rows(usable, part, torch.nan) if part.is_floating_point() else part
                    for name, part in memory.items()
                }
            return action, memory or None
