# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Split the inference of very large fleets into parts of equal size."""

from __future__ import annotations

import torch

from policy_node.engines.captured import CapturedPolicy
from policy_node.policies.contract import Policy, Tensors, WrappedPolicy


def chunk_size(robots: int, most: int) -> int:
    """Return the size of the fewest equal chunks of at most `most` robots."""
    return -(-robots // -(-robots // most))


def in_chunks(policy: Policy, robots: int, rows: int) -> Policy:
    """Return a policy that infers at most `rows` robots at a time; a captured one is captured as a whole."""
    if rows >= robots:
        return policy
    if isinstance(policy, CapturedPolicy):
        return CapturedPolicy(ChunkedPolicy(policy.source, rows), robots)
    return ChunkedPolicy(policy, rows)


class ChunkedPolicy(WrappedPolicy):
    """A policy that infers some robots at a time.

    All chunks have one size, as engines are made for one size. The last one overlaps with the one before; robots in
    both get the same actions, as rows never influence each other.

    Parameters
    ----------
    source
        The policy.
    rows
        Robots in one inference.
    """

    def __init__(self, source: Policy, rows: int) -> None:
        super().__init__(source)
        self._rows = rows

    def act(self, observations: Tensors, memory: Tensors, masks: torch.Tensor | None) -> tuple[torch.Tensor, Tensors]:
        """Compute actions and the next memory from checked arguments."""
        robots = len(next(iter(observations.values())))
        if robots <= self._rows:
            return self.source.act(observations, memory, masks)
        actions: list[torch.Tensor] = []
        memories: list[dict[str, torch.Tensor]] = []
        for done in range(0, robots, self._rows):
            first = min(done, robots - self._rows)
            part = slice(first, first + self._rows)
            found, after = self.source.act(
                {key: tensor[part] for key, tensor in observations.items()},
                {name: tensor[part] for name, tensor in memory.items()},
                None if masks is None else masks[part],
            )
            new = slice(done - first, None)
            actions.append(found[new])
            memories.append({name: tensor[new] for name, tensor in after.items()})
        return torch.cat(actions), {name: torch.cat([part[name] for part in memories]) for name in memories[0]}
