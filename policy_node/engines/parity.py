# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Compare an engine with its policy: on extremes, golden vectors and NaN, with memory, resets and another order."""

from __future__ import annotations

import numpy as np
import torch

from policy_node.policies.contract import Policy
from policy_node.policies.golden import action_error, extreme_examples, golden_error, record_run

# Largest error of an engine, in shares of the action range.
TOLERANCES = {"float32": 1e-5, "bfloat16": 1e-2, "float16": 1e-2}


class ParityTrial:
    """A recorded run of a policy that an engine must reproduce.

    `channels_last` are the keys of the images that lie in memory as `[robots, ..., height, width, channels]`.
    """

    def __init__(self, policy: Policy, robots: int, channels_last: frozenset[str] = frozenset()) -> None:
        self.policy = policy
        self.robots = robots
        self.channels_last = channels_last
        rng = np.random.default_rng(0)
        drawn = [extreme_examples(policy.spec, max(2, robots), rng) for _ in range(2)]
        # Reversed, a single robot gets the highest after the lowest.
        steps = [
            {key: array[::direction][:robots] for key, array in given.items()}
            for given, direction in zip(drawn, (1, -1), strict=True)
        ]
        golden = policy.golden
        if golden is not None:
            steps += [
                {key: np.resize(array[step], (robots, *array.shape[2:])) for key, array in golden.observations.items()}
                for step in range(len(golden.resets))
            ]
        for key, spec in policy.spec.observations.items():
            if spec.dtype.kind == "f":
                spoiled = {**steps[0], key: steps[0][key].copy()}
                spoiled[key][rng.integers(robots)] = np.nan
                steps.append(spoiled)
        # NaN in a memory must not spread, and a reset must end it.
        steps.append(steps[0])
        resets = np.zeros((len(steps), robots), bool)
        resets[[1, -1], ::2] = True
        observations = {key: np.stack([given[key] for given in steps]) for key in policy.spec.observations}
        self._expected = record_run(policy, observations, resets, layout=self._laid_out)

    @property
    def observations(self) -> dict[str, torch.Tensor]:
        """Observations of all robots, to build and to measure engines with."""
        return {
            key: self._laid_out(key, torch.from_numpy(array[0]).to(self.policy.device))
            for key, array in self._expected.observations.items()
        }

    def error(self, engine: Policy) -> float:
        """Return the largest error of an engine, in shares of the action range; infinite where a choice differs."""
        # In another order: no robot may influence another one.
        flipped = {key: array[:1, ::-1].copy() for key, array in self._expected.observations.items()}
        found = record_run(engine, flipped, np.zeros((1, self.robots), bool), layout=self._laid_out)
        order_error = action_error(self.policy.spec, found.actions[0, ::-1], self._expected.actions[0])
        return max(golden_error(engine, self._expected, self._laid_out), order_error)

    def _laid_out(self, key: str, tensor: torch.Tensor) -> torch.Tensor:
        """Return observations with the strides that they have in the node."""
        return tensor.movedim(-3, -1).contiguous().movedim(-1, -3) if key in self.channels_last else tensor
