# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Policies of Stable-Baselines3: the acting network of each algorithm, without the parts that only training needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import MlpExtractor
from torch import nn

from policy_node.config.specs import ActionSpec, ArraySpec, DiscreteSpec, PolicySpec
from policy_node.policies.contract import State, Tensors, TorchPolicy, rows_without_nan, where_rows
from policy_node.policies.sb3.actions import Explore, Finish, finish_box, make_finish
from policy_node.policies.sb3.observations import Preparation, keyed_spaces
from policy_node.policies.vecnormalize import Normaliser

Memory: TypeAlias = dict[str, torch.Tensor]
# Makes an entry of the memory for a number of robots that have seen nothing yet.
Fresh: TypeAlias = Callable[[int], torch.Tensor]
# Computes final actions and the next memory from normalised observations, memory and masks.
Actor: TypeAlias = Callable[[Tensors, Memory, "torch.Tensor | None"], tuple[torch.Tensor, Memory]]


class ActorNetwork(nn.Module):
    """Computes the outputs of which actions are made from prepared observations.

    `extract` computes `[robots, features]` from a tensor or a dictionary, `lstm` follows in a policy with memory,
    `hidden` computes `[robots, latent]`, `output` `[robots, outputs]`.
    """

    def __init__(
        self,
        extract: Callable[[Any], torch.Tensor],
        hidden: Callable[[torch.Tensor], torch.Tensor],
        output: Callable[[torch.Tensor], torch.Tensor],
        lstm: nn.LSTM | None = None,
    ) -> None:
        super().__init__()
        self.extract = extract
        self.lstm = lstm
        self.hidden = hidden
        self.output = output

    def forward(
        self, observations: Any, memory: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        """Return outputs, latent and the memory `hidden`, `cell` `[robots, layers, size]` after this step."""
        features = self.extract(observations)
        if self.lstm is not None:
            before = tuple(memory[name].transpose(0, 1).contiguous() for name in ("hidden", "cell"))
            sequence, after = self.lstm(features[None], before)
            features = sequence[0]
            memory = {name: part.transpose(0, 1) for name, part in zip(("hidden", "cell"), after, strict=True)}
        latent = self.hidden(features)
        return self.output(latent), latent, memory


class _ActorLayers(nn.Module):
    """Runs the actor's part of the hidden network of a custom policy class."""

    def __init__(self, extractor: Any) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.extractor.forward_actor(features)


class _MeanQuantiles(nn.Module):
    def __init__(self, network: nn.Module, quantiles: int) -> None:
        super().__init__()
        self.network = network
        self.quantiles = quantiles

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.network(features).unflatten(1, (self.quantiles, -1)).mean(dim=1)


@dataclass(frozen=True)
class Family:
    """The algorithms whose policies derive from one class.

    Attributes
    ----------
    parts
        Attributes of the policy whose methods decide the action, "" for the policy itself.
    build
        Function that returns the acting network of a policy.
    noise
        How actions are drawn: from the policy's ``distribution``, as ``epsilon`` (sometimes any action) or ``none``
        (always the deterministic action).
    squashed
        Whether the outputs have yet to pass tanh; None: where the policy says so.
    """

    parts: tuple[str, ...]
    build: Callable[[Any], ActorNetwork]
    noise: str
    squashed: bool | None = False


def _actor_critic(model: Any) -> ActorNetwork:
    extractor = model.mlp_extractor
    hidden = extractor.policy_net if type(extractor) is MlpExtractor else _ActorLayers(extractor)
    return ActorNetwork(model.pi_features_extractor, hidden, model.action_net, getattr(model, "lstm_actor", None))


def _gaussian_actor(model: Any) -> ActorNetwork:
    return ActorNetwork(model.actor.features_extractor, model.actor.latent_pi, model.actor.mu)


def _without_hidden(part: str, output: str) -> Callable[[Any], ActorNetwork]:
    """Return the function from the policy to a network of the features extractor and the output layers of a part."""

    def build(model: Any) -> ActorNetwork:
        owner = getattr(model, part) if part else model
        return ActorNetwork(owner.features_extractor, nn.Identity(), getattr(owner, output))

    return build


def _quantile_network(model: Any) -> ActorNetwork:
    network = model.quantile_net
    output = _MeanQuantiles(network.quantile_net, network.n_quantiles)
    return ActorNetwork(network.features_extractor, nn.Identity(), output)


_ON_POLICY = Family(("",), _actor_critic, "distribution", squashed=None)
_GAUSSIAN = Family(("", "actor"), _gaussian_actor, "distribution", squashed=True)
_FAMILIES = {
    "stable_baselines3.common.policies.ActorCriticPolicy": _ON_POLICY,
    "sb3_contrib.common.recurrent.policies.RecurrentActorCriticPolicy": _ON_POLICY,
    "sb3_contrib.common.maskable.policies.MaskableActorCriticPolicy": _ON_POLICY,
    "stable_baselines3.sac.policies.SACPolicy": _GAUSSIAN,
    "sb3_contrib.tqc.policies.TQCPolicy": _GAUSSIAN,
    "sb3_contrib.crossq.policies.CrossQPolicy": _GAUSSIAN,
    "stable_baselines3.td3.policies.TD3Policy": Family(("", "actor"), _without_hidden("actor", "mu"), "none"),
    "stable_baselines3.dqn.policies.DQNPolicy": Family(("", "q_net"), _without_hidden("q_net", "q_net"), "epsilon"),
    "sb3_contrib.qrdqn.policies.QRDQNPolicy": Family(("", "quantile_net"), _quantile_network, "epsilon"),
    "sb3_contrib.ars.policies.ARSPolicy": Family(("",), _without_hidden("", "action_net"), "none"),
}
# A class that replaces one of these methods may act by other rules than those of this module.
_ACTING = (
    *("forward", "_predict", "get_distribution", "extract_features"),
    *("_get_action_dist_from_latent", "_process_sequence", "get_action_dist_params"),
)


def family_of(policy_class: type) -> Family | None:
    """Return the family of a policy class, None if it derives from no known class.

    Classes are known by name, so that sb3-contrib is needed for its policies only.
    """
    names = (f"{base.__module__}.{base.__qualname__}" for base in policy_class.__mro__)
    return next((_FAMILIES[name] for name in names if name in _FAMILIES), None)


def replaced_methods(model: Any, family: Family) -> list[str]:
    """Return the methods that decide the action and are not those of Stable-Baselines3."""
    replaced = []
    for part in family.parts:
        owner = type(getattr(model, part) if part else model)
        for name in _ACTING:
            method = getattr(owner, name, None)
            if method is not None and not is_stock(method):
                replaced.append(f"{owner.__qualname__}.{name}")
    return replaced


def is_stock(method: Any) -> bool:
    """Return whether a method is part of Stable-Baselines3 or sb3-contrib."""
    return str(getattr(method, "__module__", "")).split(".")[0] in ("stable_baselines3", "sb3_contrib")


def direct_actor(
    model: Any, action: ActionSpec, family: Family, explore: Explore | None
) -> tuple[Actor, Sequence[nn.Module]]:
    """Return an actor that runs the acting network alone, and its modules; `explore` adds noise to the outputs."""
    keyed = keyed_spaces(model.observation_space)
    preparations = {key: Preparation(space, model.normalize_images).to(model.device) for key, space in keyed.items()}
    is_plain = not isinstance(model.observation_space, spaces.Dict)
    network = family.build(model)
    finish = make_finish(model, action, model.squash_output if family.squashed is None else family.squashed)

    def act(observations: Tensors, memory: Memory, masks: torch.Tensor | None) -> tuple[torch.Tensor, Memory]:
        ready = {key: prepare(observations[key]) for key, prepare in preparations.items()}
        outputs, latent, after = network(ready["observation"] if is_plain else ready, memory)
        if explore is not None:
            outputs = explore(outputs, latent, memory)
        return finish(outputs, masks), {**memory, **after}

    return act, [*preparations.values(), network]


def predict_actor(model: Any, action: ActionSpec) -> tuple[Actor, Sequence[nn.Module]]:
    """Return an actor that calls ``_predict`` of a policy class with its own rules, and its modules."""
    is_plain = not isinstance(model.observation_space, spaces.Dict)
    finish: Finish | None = finish_box(model, action, squash=False) if isinstance(action, ArraySpec) else None
    shape = () if isinstance(action, DiscreteSpec) else model.action_space.shape or ()

    def act(observations: Tensors, memory: Memory, masks: torch.Tensor | None) -> tuple[torch.Tensor, Memory]:
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
        given = safe["observation"] if is_plain else safe
        if "hidden" in memory:
            before = tuple(
                where_rows(usable, memory[name], 0).transpose(0, 1).contiguous() for name in ("hidden", "cell")
            )
            starts = torch.zeros(len(usable), device=usable.device)
            outputs, after = model._predict(given, before, starts, **arguments)
            hidden, cell = (where_rows(usable, part.transpose(0, 1), torch.nan) for part in after)
            memory = {**memory, "hidden": hidden, "cell": cell}
        else:
            outputs = model._predict(given, **arguments)
        if finish is None:
            return where_rows(usable, outputs.reshape(-1, *shape).long(), -1), memory
        return where_rows(usable, finish(outputs, None), torch.nan), memory

    return act, [model]


class Sb3Policy(TorchPolicy):
    """The actor of a Stable-Baselines3 model.

    Parameters
    ----------
    normalisers
        Key -> normaliser, for the observations that `VecNormalize` normalised.
    actor, modules
        Result of `direct_actor` or `predict_actor`.
    fresh
        By entry of the memory.
    """

    interface_fields = ()

    def __init__(
        self,
        spec: PolicySpec,
        device: torch.device,
        normalisers: Mapping[str, Normaliser],
        actor: Actor,
        modules: Sequence[nn.Module],
        fresh: Mapping[str, Fresh],
    ) -> None:
        super().__init__(spec, device)
        self.modules = [*normalisers.values(), *modules]
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
