# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Very large fleets in several inferences of equal size."""

from __future__ import annotations

import torch

from policy_node.engines.captured import CapturedPolicy
from policy_node.policies import Observations, Policy, State
from policy_node.policies.checks import CallChecks


def chunk_size(robots: int, most: int) -> int:
    """Return the size of the fewest equal chunks of at most `most` robots."""
    return -(-robots // -(-robots // most))


def in_chunks(policy: Policy, robots: int, rows: int) -> Policy:
    """Return a policy that infers at most `rows` of all robots at a time; a captured one is captured as a whole."""
    if rows >= robots:
        return policy
    if isinstance(policy, CapturedPolicy):
        return CapturedPolicy(ChunkedPolicy(policy.source, rows), robots)
    return ChunkedPolicy(policy, rows)


class ChunkedPolicy:
    """A policy that infers some robots at a time; see `policy_node.policies.Policy`.

    The chunks are of equal size, as engines are made for one size: the last one overlaps with the one before it,
    which gives the same for the robots in both, as rows never influence each other.

    Parameters
    ----------
    policy
        The policy.
    rows
        Robots in one inference.
    """

    def __init__(self, policy: Policy, rows: int) -> None:
        self.spec = policy.spec
        self.device = policy.device
        self.engine_name = getattr(policy, "engine_name", "direct")
        self._policy = policy
        self._rows = rows
        self._checks = CallChecks(policy.spec, policy.device)

    def initial_state(self, robots: int) -> State:
        """Return the memory of robots that have seen nothing yet; see `policy_node.policies.Policy`."""
        return self._policy.initial_state(robots)

    def reset(self, state: State, rows: torch.Tensor) -> State:
        """Return the state in which the chosen robots have seen nothing yet; see `policy_node.policies.Policy`."""
        return self._policy.reset(state, rows)

    def __call__(
        self, observations: Observations, state: State = None, masks: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, State]:
        """Compute the final action of every robot; see `policy_node.policies.Policy`."""
        observations, robots = self._checks.observations(observations)
        self._checks.masks(masks, robots)
        self._checks.state(state, robots)
        if robots <= self._rows:
            return self._policy(observations, state, masks)
        actions: list[torch.Tensor] = []
        memories: list[dict[str, torch.Tensor]] = []
        done = 0
        while done < robots:
            first = min(done, robots - self._rows)
            part = slice(first, first + self._rows)
            found, after = self._policy(
                {key: tensor[part] for key, tensor in observations.items()},
                None if state is None else {name: tensor[part] for name, tensor in state.items()},
                None if masks is None else masks[part],
            )
            new = slice(done - first, None)
            actions.append(found[new])
            memories.append({name: tensor[new] for name, tensor in (after or {}).items()})
            done = first + self._rows
        with torch.inference_mode():
            joined = {name: torch.cat([memory[name] for memory in memories]) for name in memories[0]}
            return torch.cat(actions), joined or None
