# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The acting networks of each algorithm's policies, without the parts that only training needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from stable_baselines3.common.torch_layers import MlpExtractor
from torch import nn


class ActorNetwork(nn.Module):
    """Computes the outputs of which actions are made from prepared observations.

    Parameters
    ----------
    extract
        Features extractor: one tensor or a dictionary, as the policy's observation space, to `[robots, features]`.
    hidden
        Features to `[robots, latent]`.
    output
        Latent to `[robots, outputs]`.
    lstm
        Between features extractor and hidden layers, None in a policy without memory.
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
    """The actor's part of the hidden network of a custom policy class."""

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
        From the policy to its acting network.
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
    plain = type(extractor) is MlpExtractor
    hidden = extractor.policy_net if plain else _ActorLayers(extractor)
    return ActorNetwork(model.pi_features_extractor, hidden, model.action_net, getattr(model, "lstm_actor", None))


def _gaussian_actor(model: Any) -> ActorNetwork:
    return ActorNetwork(model.actor.features_extractor, model.actor.latent_pi, model.actor.mu)


def _deterministic_actor(model: Any) -> ActorNetwork:
    return ActorNetwork(model.actor.features_extractor, nn.Identity(), model.actor.mu)


def _q_network(model: Any) -> ActorNetwork:
    return ActorNetwork(model.q_net.features_extractor, nn.Identity(), model.q_net.q_net)


def _quantile_network(model: Any) -> ActorNetwork:
    network = model.quantile_net
    output = _MeanQuantiles(network.quantile_net, network.n_quantiles)
    return ActorNetwork(network.features_extractor, nn.Identity(), output)


def _random_search(model: Any) -> ActorNetwork:
    return ActorNetwork(model.features_extractor, nn.Identity(), model.action_net)


_ON_POLICY = Family(("",), _actor_critic, "distribution", squashed=None)
_GAUSSIAN = Family(("", "actor"), _gaussian_actor, "distribution", squashed=True)
_FAMILIES = {
    "stable_baselines3.common.policies.ActorCriticPolicy": _ON_POLICY,
    "sb3_contrib.common.recurrent.policies.RecurrentActorCriticPolicy": _ON_POLICY,
    "sb3_contrib.common.maskable.policies.MaskableActorCriticPolicy": _ON_POLICY,
    "stable_baselines3.sac.policies.SACPolicy": _GAUSSIAN,
    "sb3_contrib.tqc.policies.TQCPolicy": _GAUSSIAN,
    "sb3_contrib.crossq.policies.CrossQPolicy": _GAUSSIAN,
    "stable_baselines3.td3.policies.TD3Policy": Family(("", "actor"), _deterministic_actor, "none"),
    "stable_baselines3.dqn.policies.DQNPolicy": Family(("", "q_net"), _q_network, "epsilon"),
    "sb3_contrib.qrdqn.policies.QRDQNPolicy": Family(("", "quantile_net"), _quantile_network, "epsilon"),
    "sb3_contrib.ars.policies.ARSPolicy": Family(("",), _random_search, "none"),
}
# A class that replaces one of these methods may act by other rules than those of this module.
_ACTING = (
    "forward",
    "_predict",
    "get_distribution",
    "extract_features",
    "_get_action_dist_from_latent",
    "_process_sequence",
    "get_action_dist_params",
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
