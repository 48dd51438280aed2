# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of rl_games, ``*.pth``, which act as its player does with ``is_deterministic``."""

from __future__ import annotations

import torch

from policy_node.policies.checkpoints import read_checkpoint, weights_of
from policy_node.policies.checkpoints.actor import APPEND, SavedActor
from policy_node.policies.checkpoints.builder import ActorBuilder
from policy_node.policies.formats import PolicyFile

_ACTIVATION = "`network.mlp.activation`"
_OUTPUT = "`config.clip_actions`: hardtanh if true, which is the default, else identity"
_EPSILON, _LIMIT = 1e-5, 5.0
_NETWORK, _NORMALISER = "a2c_network", "running_mean_std"
_TRAINING = ("value", "critic_mlp", "c_rnn", "c_layer_norm", "sigma")


def read_rl_games(file: PolicyFile) -> SavedActor:
    """Read the actor of a checkpoint; raises PolicyError if it is damaged or says too little."""
    saved = read_checkpoint(file)
    builder = ActorBuilder(file, "rl_games", weights_of(file, saved, "model"), _ACTIVATION, _OUTPUT)
    if not builder.has(_NETWORK):
        raise file.error(
            f"is no training checkpoint of PPO or A2C of rl_games; it has the entries {sorted(map(str, saved))} and "
            f"networks {sorted({name.partition('.')[0] for name in builder.unused})}, known is {_NETWORK}; export the "
            "policy as ONNX with its trainer"
        )
    builder.drop([*(f"{_NETWORK}.{name}" for name in _TRAINING), "value_mean_std"])
    normaliser = builder.take(_NORMALISER) or weights_of(file, saved, _NORMALISER)
    if normaliser:
        if not {"running_mean", "running_var"} <= normaliser.keys():
            raise builder.error("the mean and variance of one observation", "save it without dictionaries")
        deviation = torch.sqrt(normaliser["running_var"].float() + _EPSILON)
        builder.add_normalisation(normaliser["running_mean"], deviation, _LIMIT)
    size = normaliser["running_mean"].numel() if normaliser else None
    _add_layers(builder, size)
    counts = _add_output(builder)
    if counts:
        return builder.finish_choices(*counts)
    return builder.finish_continuous()


def _add_layers(builder: ActorBuilder, size: int | None) -> None:
    """Add the hidden layers; `size` is that of the observation, None if unknown."""
    mlp, network = f"{_NETWORK}.actor_mlp", builder.unused
    prefixes = (f"{_NETWORK}.{name}" for name in ("rnn.rnn", "a_rnn.rnn", "rnn", "a_rnn"))
    recurrent = next((prefix for prefix in prefixes if f"{prefix}.weight_ih_l0" in network), None)
    if recurrent is None:
        builder.add_sequence(mlp, is_last=False)
        return
    outputs = (f"{_NETWORK}.mu.", f"{_NETWORK}.logits.")
    head = next((part.shape[1] for name, part in network.items() if name.startswith(outputs) and part.ndim == 2), 0)
    inputs, units = network[f"{recurrent}.weight_ih_l0"].shape[1], network[f"{recurrent}.weight_hh_l0"].shape[1]
    layers = [part for name, part in network.items() if name.startswith(f"{mlp}.") and part.ndim == 2]
    first, last = (layers[0].shape[1], layers[-1].shape[0]) if layers else (size or inputs,) * 2
    after = (size or first) == first and inputs in (last, last + first) and head in (units, units + first)
    before = bool(layers) and (size or inputs) == inputs and first in (units, units + inputs) and head == last
    if after and before:
        raise builder.error(
            "a sign whether its recurrent layer comes before or after the others", "train with other numbers of units"
        )
    if not before:
        builder.add_sequence(mlp, is_last=False)
        if inputs != last:
            builder.add(APPEND)
    builder.add_recurrent(recurrent)
    norm = builder.take(f"{_NETWORK}.layer_norm") or builder.take(f"{_NETWORK}.a_layer_norm")
    if norm:
        builder.add("layer_norm", norm)
    if (first if before else head) != units:
        builder.add(APPEND)
    if before:
        builder.add_sequence(mlp, is_last=False)


def _add_output(builder: ActorBuilder) -> tuple[int, ...]:
    """Add the last layer and return the number of choices, without any for a continuous action."""
    if builder.has(f"{_NETWORK}.mu"):
        builder.add("linear", builder.take(f"{_NETWORK}.mu"))
        return ()
    parts = builder.take(f"{_NETWORK}.logits")
    if "weight" in parts:
        builder.add("linear", parts)
        return (builder.outputs,)
    # A layer for each of several choices becomes one for all.
    weights = [parts[name] for name in parts if name.endswith(".weight")]
    biases = [parts[name] for name in parts if name.endswith(".bias")]
    if not weights or len(weights) != len(biases):
        raise builder.error("an output layer", "save it again")
    builder.add("linear", {"weight": torch.cat(weights), "bias": torch.cat(biases)})
    return tuple(map(len, weights))
