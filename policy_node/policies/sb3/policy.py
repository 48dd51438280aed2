# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Policies of Stable-Baselines3: memory, normalisation and the actor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from policy_node.config.specs import ArraySpec, PolicySpec
from policy_node.policies.contract import State, Tensors, TorchPolicy
from policy_node.policies.rows import rows_without_nan, where_rows
from policy_node.policies.sb3.actions import Explore, Finish, mark_unusable
from policy_node.policies.sb3.networks import ActorNetwork
from policy_node.policies.sb3.observations import Preparation
from policy_node.policies.vecnormalize import Normaliser

Memory = dict[str, torch.Tensor]
# Makes the memory of a number of robots that have seen nothing yet.
Fresh = Callable[[int], torch.Tensor]


class Actor(Protocol):
    """Computes final actions and memory from normalised observations and memory.

    Attributes
    ----------
    modules
        Everything in it that holds parameters.
    """

    modules: list[nn.Module]

    def __call__(
        self, observations: Mapping[str, torch.Tensor], memory: Memory, masks: torch.Tensor | None
    ) -> tuple[torch.Tensor, Memory]:
        """Act for all robots; see `policy_node.policies.Policy.act`."""


class DirectActor:
    """Runs the acting network alone.

    Parameters
    ----------
    preparations
        By observation key.
    plain
        Whether the network takes one tensor instead of a dictionary.
    network
        From prepared observations to outputs.
    finish
        From outputs to final actions.
    explore
        Adds noise to the outputs; None for deterministic actions.
    """

    def __init__(
        self,
        preparations: Mapping[str, Preparation],
        plain: bool,
        network: ActorNetwork,
        finish: Finish,
        explore: Explore | None,
    ) -> None:
        self._preparations = preparations
        self._plain = plain
        self.network = network
        self._finish = finish
        self._explore = explore
        self.modules = [*preparations.values(), network]

    def __call__(
        self, observations: Mapping[str, torch.Tensor], memory: Memory, masks: torch.Tensor | None
    ) -> tuple[torch.Tensor, Memory]:
        """Act for all robots; see `policy_node.policies.Policy.act`."""
        ready = {key: prepare(observations[key]) for key, prepare in self._preparations.items()}
        outputs, latent, after = self.network(ready["observation"] if self._plain else ready, memory)
        if self._explore is not None:
            outputs = self._explore(outputs, latent, memory)
        return self._finish(outputs, masks), {**memory, **after}


class PredictActor:
    """Calls ``_predict`` of a policy class that acts by its own rules.

    Parameters
    ----------
    model
        The policy.
    plain
        Whether it takes one tensor instead of a dictionary.
    finish
        From the result of ``_predict`` to final actions; None for choices.
    """

    def __init__(self, model: Any, plain: bool, finish: Finish | None, action_shape: tuple[int, ...]) -> None:
        self._model = model
        self._plain = plain
        self._finish = finish
        self._action_shape = action_shape
        self.modules = [model]

    def __call__(
        self, observations: Mapping[str, torch.Tensor], memory: Memory, masks: torch.Tensor | None
    ) -> tuple[torch.Tensor, Memory]:
        """Act for all robots; see `policy_node.policies.Policy.act`."""
        everything = [*observations.values(), *memory.values()]
        usable = rows_without_nan(everything)
        if usable is None:
            usable = torch.ones(len(everything[0]), dtype=torch.bool, device=everything[0].device)
        # A distribution raises an exception for all rows: a row of NaN is replaced before and marked afterwards.
        safe = {key: where_rows(usable, tensor, 0) for key, tensor in observations.items()}
        arguments: dict[str, Any] = {"deterministic": True}
        if masks is not None:
            usable = usable & masks.any(dim=1)
            arguments["action_masks"] = masks | ~usable[:, None]
        given = safe["observation"] if self._plain else safe
        if "hidden" in memory:
            before = tuple(
                where_rows(usable, memory[name], 0).transpose(0, 1).contiguous() for name in ("hidden", "cell")
            )
            starts = torch.zeros(len(usable), device=usable.device)
            outputs, after = self._model._predict(given, before, starts, **arguments)
            memory = {
                **memory,
                **{
                    name: where_rows(usable, part.transpose(0, 1), torch.nan)
                    for name, part in zip(("hidden", "cell"), after, strict=True)
                },
            }
        else:
            outputs = self._model._predict(given, **arguments)
        if self._finish is None:
            return mark_unusable(outputs.reshape(-1, *self._action_shape).long(), usable), memory
        return where_rows(usable, self._finish(outputs, None), torch.nan), memory


class Sb3Policy(TorchPolicy):
    """The actor of a Stable-Baselines3 model.

    Parameters
    ----------
    spec
        What the policy takes, remembers and gives.
    device
        Where everything below runs.
    normalisers
        By observation key, those that `VecNormalize` normalised.
    actor
        From normalised observations to final actions.
    fresh
        By entry of the memory.
    """

    def __init__(
        self,
        spec: PolicySpec,
        device: torch.device,
        normalisers: Mapping[str, Normaliser],
        actor: Actor,
        fresh: Mapping[str, Fresh],
    ) -> None:
        super().__init__(spec, device)
        self.modules = [*normalisers.values(), *actor.modules]
        self._normalisers = normalisers
        self._actor = actor
        self._fresh = fresh

    def initial_state(self, robots: int) -> State:
        """Return the memory of robots that have seen nothing yet; with gSDE it holds newly drawn noise."""
        return {name: make(robots) for name, make in self._fresh.items()} or None

    def act(self, observations: Tensors, memory: Tensors, masks: torch.Tensor | None) -> tuple[torch.Tensor, Tensors]:
        """Compute actions and the next memory from checked arguments."""
        memory = dict(memory)
        if "frames" in memory:
            memory["frames"] = memory["frames"] + 1
        normalised = {
            key: self._normalisers[key](tensor, memory.get("frames")) if key in self._normalisers else tensor
            for key, tensor in observations.items()
        }
        return self._actor(normalised, memory, masks)


def memory_spec(name: str, shape: tuple[int, ...], dtype: type) -> ArraySpec:
    """Return the spec of one entry of the memory."""
    unbounded = np.issubdtype(dtype, np.floating)
    return ArraySpec(name, shape, dtype, -np.inf if unbounded else 0, np.inf if unbounded else np.iinfo(dtype).max)
