# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of rsl_rl, ``model_*.pt``, which act as its ``act_inference`` does."""

from __future__ import annotations

from typing import NamedTuple

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


# By entry of the checkpoint; rsl_rl 4 and later have an entry for each network.
_LAYOUTS = (
    ("actor_state_dict", _Names("mlp", "rnn.rnn", "obs_normalizer")),
    ("student_state_dict", _Names("mlp", "rnn.rnn", "obs_normalizer")),
    ("model_state_dict", _Names("student", "memory_s.rnn", "student_obs_normalizer")),
    ("model_state_dict", _Names("actor", "memory_a.rnn", "actor_obs_normalizer")),
)
_DEVIATIONS = ("std", "log_std", "distribution.std_param", "distribution.log_std_param")
_TRAINING = ("critic", "memory_c", "critic_obs_normalizer", "teacher", "memory_t", "teacher_obs_normalizer")


def read_rsl_rl(file: PolicyFile) -> SavedActor:
    """Read the actor of a checkpoint; raises PolicyError if it is damaged or says too little."""
    saved = read_checkpoint(file)
    parts = {
        name: weights_of(file, saved, name) for name in ("actor_state_dict", "student_state_dict", "model_state_dict")
    }
    layouts = [
        (entry, names) for entry, names in _LAYOUTS if any(key.startswith(f"{names.actor}.") for key in parts[entry])
    ]
    if not layouts:
        raise file.error(
            f"is no training checkpoint of rsl_rl with an actor; it has the entries {sorted(map(str, saved))}; "
            "give a model_*.pt, or the policy that play.py exports"
        )
    entry, names = layouts[0]
    builder = ActorBuilder(file, "rsl_rl", parts[entry], _ACTIVATION)
    builder.drop(_TRAINING)
    normaliser = builder.take(names.normaliser) or weights_of(file, saved, "obs_norm_state_dict")
    if normaliser:
        if not {"_mean", "_std"} <= normaliser.keys():
            raise builder.error("the mean and deviation of its normalisation", "save it again")
        builder.add_normalisation(normaliser["_mean"], normaliser["_std"] + _EPSILON, None)
    if builder.has(names.recurrent):
        builder.add_recurrent(names.recurrent)
    builder.add_sequence(names.actor, is_last=True)
    deviation = [builder.unused.pop(name) for name in _DEVIATIONS if name in builder.unused]
    if deviation:
        builder.cut_outputs(deviation[0].numel())
    elif entry != "student_state_dict":
        # The outputs hold the mean and the deviation.
        if entry == "actor_state_dict" and not file.interface.output_activation:
            raise builder.error(
                "its distribution, which is Gaussian with a deviation for each state, or Beta",
                "give output_activation `identity` (`policy.output_activation`) if it is Gaussian",
            )
        builder.cut_outputs(builder.outputs // 2)
    return builder.finish_continuous()
