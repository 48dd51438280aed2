# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Actors as data: the names of their layers in order, and the weights of each layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from policy_node.config.specs import ActionSpec, ArraySpec, DiscreteSpec, PolicySpec
from policy_node.policies.contract import Tensors, TorchPolicy, where_rows
from policy_node.policies.formats import PolicyFile

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "identity": nn.Identity,
    "elu": nn.ELU,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "selu": nn.SELU,
    "celu": nn.CELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "leaky_relu": nn.LeakyReLU,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "softsign": nn.Softsign,
}
# Functions after the last layer whose results, from -1 to 1, are rescaled to the bounds of the action.
SQUASHING: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "hardtanh": nn.Hardtanh}
# Concatenates a layer's result and the normalised observation.
APPEND = "append_observation"
MEMORIES = {"lstm": ("hidden", "cell"), "gru": ("hidden",)}


class _Buffers(nn.Module):
    """A layer whose weights are buffers."""

    mean: torch.Tensor
    deviation: torch.Tensor
    limit: torch.Tensor
    scale: torch.Tensor
    offset: torch.Tensor

    def __init__(self, parts: Tensors) -> None:
        super().__init__()
        for name, part in parts.items():
            self.register_buffer(name, torch.empty_like(part))


class _Normalise(_Buffers):
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return (values - self.mean) / self.deviation


class _Clip(_Buffers):
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return torch.clamp(values, -self.limit, self.limit)


class _Rescale(_Buffers):
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values * self.scale + self.offset


class _Recurrent(nn.Module):
    """Runs a recurrent layer for one step; its memory is `[robots, layers, size]`."""

    def __init__(self, name: str, parts: Tensors) -> None:
        super().__init__()
        layers = sum(key.startswith("weight_hh_l") for key in parts)
        kind = nn.LSTM if name == "lstm" else nn.GRU
        sizes = parts["weight_ih_l0"].shape[1], parts["weight_hh_l0"].shape[1]
        self.layer = kind(*sizes, layers, bias="bias_ih_l0" in parts)
        self.names = MEMORIES[name]

    def forward(self, values: torch.Tensor, memory: Tensors) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        before = tuple(memory[name].transpose(0, 1).contiguous() for name in self.names)
        sequence, after = self.layer(values[None], before if len(before) > 1 else before[0])
        states = after if len(before) > 1 else (after,)
        return sequence[0], {name: part.transpose(0, 1) for name, part in zip(self.names, states, strict=True)}


def _linear(parts: Tensors) -> nn.Module:
    return nn.Linear(parts["weight"].shape[1], parts["weight"].shape[0], bias="bias" in parts)


# Functions that make a layer, of the size of its weights, which they do not fill in.
_WEIGHTED: dict[str, Callable[[Tensors], nn.Module]] = {
    "linear": _linear,
    "layer_norm": lambda parts: nn.LayerNorm(parts["weight"].shape[0]),
    "normalise": _Normalise,
    "clip": _Clip,
    "rescale": _Rescale,
}


def _make_layer(name: str, parts: Tensors) -> nn.Module:
    """Make a layer; raises an error of any kind if it does not have these weights."""
    # Without memory until the weights fit: their lengths may ask for any amount.
    with torch.device("meta"):
        if name in MEMORIES:
            layer: nn.Module = _Recurrent(name, parts)
        elif name in _WEIGHTED:
            layer = _WEIGHTED[name](parts)
        else:
            layer = {**ACTIVATIONS, **SQUASHING, APPEND: nn.Identity}[name]()
    target = layer.layer if isinstance(layer, _Recurrent) else layer
    target.load_state_dict(dict(parts), assign=True)
    return layer


@dataclass(frozen=True, eq=False)
class SavedActor:
    """An actor as data.

    Attributes
    ----------
    algorithm
        For the spec: the trainer.
    layers
        Names of the layers in order: keys of `ACTIVATIONS` and `SQUASHING`, `append_observation`, ``linear``,
        ``layer_norm``, ``lstm``, ``gru``, ``normalise``, ``clip`` and ``rescale``.
    weights
        By index and name, such as ``0.weight``.
    action
        A continuous action or choices, of which the outputs are the logits, one choice after the other.
    """

    algorithm: str
    layers: Sequence[str]
    weights: Mapping[str, torch.Tensor]
    action: ActionSpec

    def build(self, file: PolicyFile) -> ActorPolicy:
        """Make the policy; raises PolicyError if the layers do not fit each other."""
        try:
            policy = ActorPolicy(self, file)
            robots = 2
            observations = {key: torch.zeros((robots, *s.shape)) for key, s in policy.spec.observations.items()}
            moved = {key: part.to(file.device) for key, part in observations.items()}
            policy(moved, policy.initial_state(robots))
        except Exception as error:
            raise file.error(
                f"has layers that do not fit each other ({type(error).__name__}: {error}); "
                "export the policy as ONNX with its trainer"
            ) from error
        return policy


class ActorPolicy(TorchPolicy):
    """The actor of a training checkpoint."""

    interface_fields = ("discrete", "low", "high", "activation", "output_activation")

    def __init__(self, saved: SavedActor, file: PolicyFile) -> None:
        groups: list[dict[str, torch.Tensor]] = [{} for _ in saved.layers]
        for key, part in saved.weights.items():
            index, _, name = key.partition(".")
            groups[int(index)][name] = part
        self._names = tuple(saved.layers)
        layers = [_make_layer(*pair) for pair in zip(self._names, groups, strict=True)]
        self.modules = [layer.to(file.device).eval().requires_grad_(False) for layer in layers]
        size = next(_input_size(layer) for layer in layers)
        memory: dict[str, ArraySpec] = {}
        for layer in layers:
            if isinstance(layer, _Recurrent):
                shape = (layer.layer.num_layers, layer.layer.hidden_size)
                memory |= {name: ArraySpec(name, shape, np.float32, -np.inf, np.inf) for name in layer.names}
        observation = ArraySpec("observation", (size,), np.float32, -np.inf, np.inf)
        spec = PolicySpec({"observation": observation}, saved.action, saved.algorithm, file.sha256, memory)
        super().__init__(spec, file.device)
        self.normalisation = "inside" if "normalise" in self._names else "none"
        self._finish = _make_finish(saved.action, file.device)

    def act(self, observations: Tensors, memory: Tensors, masks: torch.Tensor | None) -> tuple[torch.Tensor, Tensors]:
        """Compute actions and the next memory from checked arguments."""
        values = normalised = observations["observation"]
        for name, layer in zip(self._names, self.modules, strict=True):
            if name == APPEND:
                values = torch.cat([values, normalised], dim=1)
            elif name in MEMORIES:
                values, memory = layer(values, memory)
            else:
                values = layer(values)
            if name in ("normalise", "clip"):
                normalised = values
        return self._finish(values), memory


def _input_size(layer: Any) -> int:
    if isinstance(layer, _Recurrent):
        return int(layer.layer.input_size)
    return int(layer.mean.shape[-1] if isinstance(layer, _Normalise) else layer.in_features)


def _make_finish(action: ActionSpec, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the function from outputs to final actions; a row of NaN gives NaN, or -1 for choices."""
    if isinstance(action, ArraySpec):
        if not (np.isfinite(action.low).any() or np.isfinite(action.high).any()):
            return lambda outputs: outputs
        low, high = (torch.tensor(bound, device=device) for bound in (action.low, action.high))
        return lambda outputs: torch.clamp(outputs, low, high)
    counts = (action.n,) if isinstance(action, DiscreteSpec) else action.choices
    is_one = isinstance(action, DiscreteSpec)

    def choose(outputs: torch.Tensor) -> torch.Tensor:
        chosen = torch.stack([part.argmax(dim=1) for part in outputs.split(counts, dim=1)], dim=1)
        return where_rows(~outputs.isnan().any(dim=1), chosen[:, 0] if is_one else chosen, -1)

    return choose
