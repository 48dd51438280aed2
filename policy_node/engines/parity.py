# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Compare an engine with its policy: on extremes, golden vectors and NaN, with memory, resets and another order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from policy_node.policies.contract import Policy, State
from policy_node.policies.golden import action_error, extreme_examples, largest_error

# In shares of the action range.
TOLERANCES = {"float32": 1e-5, "bfloat16": 1e-2, "float16": 1e-2}


@dataclass(frozen=True, eq=False)
class _Step:
    """One call: `observations` by key `[robots, *shape]`, after `resets` `[robots]` bool."""

    observations: dict[str, torch.Tensor]
    resets: torch.Tensor


@dataclass(frozen=True, eq=False)
class _Outcome:
    actions: np.ndarray
    memory: dict[str, np.ndarray]


class ParityTrial:
    """Calls of a policy with their results, which an engine must give again.

    Parameters
    ----------
    policy
        The policy.
    robots
        Robots of each call.
    channels_last
        Keys of the images that lie in memory as `[robots, ..., height, width, channels]`.
    seed
        Of the observations.
    """

    def __init__(self, policy: Policy, robots: int, channels_last: frozenset[str] = frozenset(), seed: int = 0) -> None:
        self._policy = policy
        self.robots = robots
        self._channels_last = channels_last
        rng = np.random.default_rng(seed)
        drawn = [extreme_examples(policy.spec, max(2, robots), rng) for _ in range(2)]
        # Reversed, a single robot gets the highest after the lowest.
        arrays = [
            {key: array[::direction][:robots] for key, array in given.items()}
            for given, direction in zip(drawn, (1, -1), strict=True)
        ]
        golden = policy.golden
        if golden is not None:
            arrays += [
                {key: np.resize(array[step], (robots, *array.shape[2:])) for key, array in golden.observations.items()}
                for step in range(len(golden.resets))
            ]
        nothing = np.zeros(robots, bool)
        alternate = np.arange(robots) % 2 == 0
        self._steps = [self._step(given, alternate if index == 1 else nothing) for index, given in enumerate(arrays)]
        for key, spec in policy.spec.observations.items():
            if spec.dtype.kind == "f":
                spoiled = {**arrays[0], key: arrays[0][key].copy()}
                spoiled[key][rng.integers(robots)] = np.nan
                self._steps.append(self._step(spoiled, nothing))
        # NaN in a memory must not spread, and a reset must end it.
        self._steps.append(self._step(arrays[0], alternate))
        self._expected = self._run(policy)

    @property
    def observations(self) -> dict[str, torch.Tensor]:
        """Observations of all robots, to build and to measure engines with."""
        return self._steps[0].observations

    def error(self, engine: Policy) -> float:
        """Return the largest error of an engine, in shares of the action range; infinite where a choice differs."""
        outcomes = zip(self._run(engine), self._expected, strict=True)
        errors = [self._error(found, expected) for found, expected in outcomes]
        errors += self._order_errors(engine)
        return max(errors)

    def _order_errors(self, engine: Policy) -> list[float]:
        """Return the error for robots in another order, none of which may influence another one."""
        first, expected = self._steps[0], self._expected[0]
        flipped = {key: self._laid_out(key, tensor.flip(0)) for key, tensor in first.observations.items()}
        found = self._call(engine, flipped, engine.initial_state(self.robots))[0]
        return [action_error(self._policy.spec, found.actions[::-1], expected.actions)]

    def _step(self, arrays: dict[str, np.ndarray], resets: np.ndarray) -> _Step:
        observations = {
            key: self._laid_out(key, torch.from_numpy(array.copy()).to(self._policy.device))
            for key, array in arrays.items()
        }
        return _Step(observations, torch.from_numpy(resets).to(self._policy.device))

    def _laid_out(self, key: str, tensor: torch.Tensor) -> torch.Tensor:
        """Return observations with the strides that they have in the node."""
        return tensor.movedim(-3, -1).contiguous().movedim(-1, -3) if key in self._channels_last else tensor

    def _run(self, policy: Policy) -> list[_Outcome]:
        state = policy.initial_state(self.robots)
        outcomes = []
        for step in self._steps:
            state = policy.reset(state, step.resets)
            outcome, state = self._call(policy, step.observations, state)
            outcomes.append(outcome)
        return outcomes

    def _call(self, policy: Policy, observations: dict[str, torch.Tensor], state: State) -> tuple[_Outcome, State]:
        actions, after = policy(observations, state)
        memory = {name: part.cpu().numpy().copy() for name, part in (after or {}).items()}
        return _Outcome(actions.cpu().numpy().copy(), memory), after

    def _error(self, found: _Outcome, expected: _Outcome) -> float:
        if found.memory.keys() != expected.memory.keys():
            return np.inf
        return max(
            action_error(self._policy.spec, found.actions, expected.actions),
            *(largest_error(found.memory[name], part) for name, part in expected.memory.items()),
            0.0,
        )
