# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Computations on tensors that stay where they are, replayed as one CUDA graph.

Launching each kernel by itself costs more than small networks compute; a graph launches all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from policy_node.policies import Observations, Policy, State
from policy_node.policies.checks import CallChecks

Result = TypeVar("Result")
# PyTorch chooses kernels and allocates work spaces in the first runs.
WARM_UP_RUNS = 3


def capture(compute: Callable[[], Result], device: torch.device) -> Callable[[], Result]:
    """Record a computation, so that calling what is returned repeats it on the same tensors.

    Parameters
    ----------
    compute
        Reads and writes the same tensors each time, and waits for nothing; it is run a few times before it is recorded.
    device
        Where the tensors are. On a CPU, which has nothing to record, the computation itself is returned.

    Returns
    -------
    Callable
        Gives the very tensors that `compute` returned when it was recorded, with new numbers in them.
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
        # Another thread may drive robots on this GPU meanwhile: only what this one does is recorded.
        with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
            result = compute()
    replay = graph.replay

    def repeat() -> Result:
        replay()
        return result

    return repeat


class CapturedPolicy:
    """A policy that is replayed as a CUDA graph; see `policy_node.policies.Policy`.

    `Inference` records its whole tick with the `source` instead. What a call returns is valid until the next one.

    Parameters
    ----------
    source
        The policy, run by PyTorch; it acts itself for another number of robots, and where masks are given.
    robots
        For how many robots it is recorded.
    """

    engine_name = "cuda_graph"

    def __init__(self, source: Policy, robots: int) -> None:
        self.spec = source.spec
        self.device = source.device
        self.source = source
        self._robots = robots
        self._checks = CallChecks(source.spec, source.device)
        self._observations: dict[str, torch.Tensor] = {}
        self._state: State = None
        self._repeat: Callable[[], tuple[torch.Tensor, State]] | None = None

    def initial_state(self, robots: int) -> State:
        """Return the memory of robots that have seen nothing yet; see `policy_node.policies.Policy`."""
        return self.source.initial_state(robots)

    def reset(self, state: State, rows: torch.Tensor) -> State:
        """Return the state in which the chosen robots have seen nothing yet; see `policy_node.policies.Policy`."""
        return self.source.reset(state, rows)

    def __call__(
        self, observations: Observations, state: State = None, masks: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, State]:
        """Compute the final action of every robot; see `policy_node.policies.Policy`."""
        observations, robots = self._checks.observations(observations)
        if robots != self._robots or masks is not None:
            return self.source(observations, state, masks)
        self._checks.state(state, robots)
        with torch.inference_mode():
            if self._repeat is None:
                # Clones keep the strides, by which PyTorch chooses its kernels.
                self._observations = {key: tensor.clone() for key, tensor in observations.items()}
                self._state = None if state is None else {name: part.clone() for name, part in state.items()}
                self._repeat = capture(lambda: self.source(self._observations, self._state), self.device)
            for key, tensor in observations.items():
                self._observations[key].copy_(tensor)
            for name, part in (self._state or {}).items():
                assert state is not None
                part.copy_(state[name])
            return self._repeat()
