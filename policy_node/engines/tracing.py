# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Trace a policy's network, and run a policy with the traced network."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from policy_node.engines.backends import EngineError, EngineRequest
from policy_node.policies.contract import State, Tensors, TorchPolicy, WrappedPolicy
from policy_node.policies.precision import full_precision
from policy_node.policies.traced import PolicyNetwork, example_inputs, output_dtypes

# Function from the inputs of a `PolicyNetwork` to its outputs.
Run = Callable[[list[torch.Tensor]], Sequence[torch.Tensor]]


class EnginePolicy(WrappedPolicy):
    """A policy that an engine runs, for a fixed number of robots and without masks; otherwise `source` acts.

    Parameters
    ----------
    run
        The engine, on contiguous inputs in the order of `PolicyNetwork`, without the mask.
    bind_tick
        Makes the `BoundTick` of the policy; None: the engine has none.
    bind
        Returns a function that runs the engine on inputs that stay at their place, as a `BoundTick` does, and returns
        its outputs; None: the engine has no `BoundTick`.
    """

    def __init__(
        self,
        request: EngineRequest,
        engine: str,
        run: Run,
        bind_tick: Callable[..., Any] | None = None,
        bind: Callable[[list[torch.Tensor]], Callable[[], Sequence[torch.Tensor]]] | None = None,
    ) -> None:
        super().__init__(request.policy)
        self.bind_tick = bind_tick
        self._bind = bind
        self.engine_name = engine if request.precision == "float32" else f"{engine} {request.precision}"
        self._run = run
        self.robots = request.robots
        self._inputs = [(key, key in request.channels_last) for key in self.spec.observations]
        self._memory = tuple(self.spec.memory)

    def act(self, observations: Tensors, memory: Tensors, masks: torch.Tensor | None) -> tuple[torch.Tensor, Tensors]:
        """Compute actions and the next memory from checked arguments."""
        if masks is not None or len(next(iter(observations.values()))) != self.robots:
            return self.source.act(observations, memory, masks)
        actions, *after = self._run(self._inputs_of(observations, memory))
        return actions, dict(zip(self._memory, after, strict=True))

    def bound(self, observations: Tensors, memory: State) -> Callable[[], Sequence[torch.Tensor]] | None:
        """Return what `bind` gives for these tensors; None: the engine has no `BoundTick`."""
        return None if self._bind is None else self._bind(self._inputs_of(observations, memory or {}))

    def _inputs_of(self, observations: Tensors, memory: Tensors) -> list[torch.Tensor]:
        inputs = [observations[key].movedim(-3, -1) if moved else observations[key] for key, moved in self._inputs]
        inputs += [memory[name] for name in self._memory]
        return [tensor.contiguous() for tensor in inputs]


def network_of(request: EngineRequest, marks_nan: bool = False) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """Return the network of a policy that can be traced, in the precision of the request, and example inputs.

    `PolicyNetwork` describes `marks_nan`.
    """
    policy = request.policy
    assert isinstance(policy, TorchPolicy)
    network: nn.Module = PolicyNetwork(policy, False, request.channels_last, marks_nan).eval()
    if request.precision != "float32":
        network = _LowPrecision(network, policy, getattr(torch, request.precision)).eval()
    return network, example_inputs(policy, request.observations, request.channels_last)


class _LowPrecision(nn.Module):
    """A network that computes in lower precision and gives outputs of the policy's dtypes."""

    def __init__(self, network: nn.Module, policy: TorchPolicy, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network
        self._context: dict[str, Any] = {"device_type": policy.device.type, "dtype": dtype}
        self._dtypes = output_dtypes(policy)

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        # The cache of weights is for training and must not become part of the trace.
        with torch.autocast(**self._context, cache_enabled=False):
            outputs = self.network(*tensors)
        return tuple(output.to(dtype) for output, dtype in zip(outputs, self._dtypes, strict=True))


@contextlib.contextmanager
def tracing() -> Iterator[None]:
    """Trace in full precision; refuse computations that branch on values, because a trace holds only one branch."""
    validates = torch.distributions.Distribution._validate_args
    # Checks of values are branches.
    torch.distributions.Distribution.set_default_validate_args(False)
    try:
        with warnings.catch_warnings(record=True) as caught, torch.no_grad(), full_precision():
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", torch.jit.TracerWarning)
            yield
    finally:
        torch.distributions.Distribution.set_default_validate_args(validates)
    # PyTorch's own layers branch on shapes, which are those of all calls.
    own = str(Path(torch.__file__).parent)
    for warning in caught:
        if not warning.filename.startswith(own):
            reason = str(warning.message).strip().partition(". ")[0]
            raise EngineError(f"its computation depends on values: {warning.filename}:{warning.lineno}: {reason}")
