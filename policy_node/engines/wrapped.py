# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Policies that run another one: replayed as a CUDA graph, or for some robots at a time.

Launching each kernel by itself takes longer than small networks compute; a graph launches all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from policy_node.policies.contract import Policy, Tensors, WrappedPolicy

Result = TypeVar("Result")
# PyTorch chooses kernels and allocates work spaces in the first runs.
WARM_UP_RUNS = 3


def capture(compute: Callable[[], Result], device: torch.device) -> Callable[[], Result]:
    """Record a computation and return a function that repeats it on the same tensors; on a CPU, the computation itself.

    Parameters
    ----------
    compute
        Reads and writes the same tensors each time, and waits for nothing; it runs a few times before it is recorded.

    Returns
    -------
    Callable
        Returns the tensors that `compute` returned when it was recorded, with new numbers in them.
    """
    if device.type != "cuda":
        return compute
    with torch.cuda.device(device), torch.inference_mode():
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UP_RUNS):
                compute()
        torch.cuda.current_stream(device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Another thread may drive robots on this GPU meanwhile: only this thread is recorded.
        with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
            result = compute()
    replay = graph.replay

    def repeat() -> Result:
        replay()
        return result

    return repeat


class CapturedPolicy(WrappedPolicy):
    """A policy that is replayed as a CUDA graph, for a fixed number of robots and without masks.

    For others the `source` acts itself. `Inference` records its whole tick with the `source` instead. The result of a
    call is valid until the next one.
    """

    def __init__(self, source: Policy, robots: int) -> None:
        super().__init__(source)
        self.engine_name = "cuda_graph"
        self._robots = robots
        self._observations: dict[str, torch.Tensor] = {}
        self._memory: dict[str, torch.Tensor] = {}
        self._repeat: Callable[[], tuple[torch.Tensor, Tensors]] | None = None

    def act(self, observations: Tensors, memory: Tensors, masks: torch.Tensor | None) -> tuple[torch.Tensor, Tensors]:
        """Compute actions and the next memory from checked arguments."""
        if len(next(iter(observations.values()))) != self._robots or masks is not None:
            return self.source.act(observations, memory, masks)
        if self._repeat is None:
            # Clones keep the strides, by which PyTorch chooses its kernels.
            self._observations = {key: tensor.clone() for key, tensor in observations.items()}
            self._memory = {name: part.clone() for name, part in memory.items()}
            self._repeat = capture(lambda: self.source.act(self._observations, self._memory, None), self.device)
        for kept, given in ((self._observations, observations), (self._memory, memory)):
            for name, tensor in given.items():
                kept[name].copy_(tensor)
        return self._repeat()


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
    """A policy that infers at most `rows` robots at a time.

    All chunks have one size, as engines are made for one size. The last one overlaps with the one before; robots in
    both get the same actions, as rows never influence each other.
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
