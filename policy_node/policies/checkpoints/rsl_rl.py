# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of rsl_rl, ``model_*.pt``, which act as its ``act_inference`` does."""

from __future__ import annotations

from typing import NamedTuple

import torch

from policy_node.policies.checkpoints import read_checkpoint, weights_of
from policy_node.policies.checkpoints.actor import SavedActor
from policy_node.policies.checkpoints.builder import ActorBuilder
from policy_node.policies.formats import PolicyFile

_ACTIVATION = "`activation`, elu by default"
# rsl_rl adds this to the deviation.
_EPSILON = 1e-2


class _Names(NamedTuple):
    """Names of the parts of an actor."""

    actor: str
    recurrent: str
    normaliser: str
    deviation: tuple[str, ...]


# By the entry of the checkpoint and the name of the network in it; rsl_rl 4 and later have an entry for each network.
_LAYOUTS = {
    ("actor_state_dict", "mlp"): _Names(
        "mlp", "rnn.rnn", "obs_normalizer", ("std", "log_std", "distribution.std_param", "distribution.log_std_param")
    ),
    ("student_state_dict", "mlp"): _Names(
        "mlp", "rnn.rnn", "obs_normalizer", ("std", "log_std", "distribution.std_param", "distribution.log_std_param")
    ),
    ("model_state_dict", "student"): _Names("student", "memory_s.rnn", "student_obs_normalizer", ("std", "log_std")),
    ("model_state_dict", "actor"): _Names("actor", "memory_a.rnn", "actor_obs_normalizer", ("std", "log_std")),
}
_TRAINING = ("critic", "memory_c", "critic_obs_normalizer", "teacher", "memory_t", "teacher_obs_normalizer")


def read_rsl_rl(file: PolicyFile) -> SavedActor:
    """Read the actor of a checkpoint; raises PolicyError if it is damaged or says too little."""
    saved = read_checkpoint(file)
    for (entry, network), names in _LAYOUTS.items():
        builder = ActorBuilder(file, "rsl_rl", weights_of(saved, entry), _ACTIVATION)
        if builder.has(network):
            break
    else:
        raise file.error(
            f"is no training checkpoint of rsl_rl with an actor; it has the entries {sorted(map(str, saved))}; "
            "give a model_*.pt, or the policy that play.py exports"
        )
    builder.drop(_TRAINING)
    normaliser = builder.take(names.normaliser) or weights_of(saved, "obs_norm_state_dict")
    if normaliser:
        if not {"_mean", "_std"} <= normaliser.keys():
            raise builder.error("the mean and deviation of its normalisation", "save it again")
        builder.add_normalisation(normaliser["_mean"], normaliser["_std"] + _EPSILON, None)
    if builder.has(names.recurrent):
        builder.add_recurrent(names.recurrent)
    builder.add_sequence(names.actor, is_last=True)
    deviation = [builder.unused.pop(name) for name in names.deviation if name in builder.unused]
    if deviation:
        builder.cut_outputs(deviation[0].numel())
    elif network == "actor" or entry == "actor_state_dict":
        # The outputs hold the mean and the deviation.
        if network == "mlp" and not file.interface.output_activation:
            raise builder.error(
                "its distribution, which is Gaussian with a deviation for each state, or Beta",
                "give output_activation `identity` (`policy.output_activation`) if it is Gaussian",
            )
        builder.cut_outputs(builder.outputs // 2)
    return builder.finish_continuous()
