# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of skrl, ``agent_*.pt``, which act by the ``mean_actions`` of its policy."""

from __future__ import annotations

import torch

from policy_node.policies.checkpoints import read_checkpoint, weights_of
from policy_node.policies.checkpoints.actor import SavedActor
from policy_node.policies.checkpoints.builder import ActorBuilder
from policy_node.policies.formats import PolicyFile

_ACTIVATION = "`activations` of the policy"
_OUTPUT = "`output` of the policy: identity for ACTIONS, tanh for tanh(ACTIONS); for a choice give discrete"
_EPSILON, _LIMIT = 1e-8, 5.0
_LOG_STD = "log_std_parameter"
# Output layers beside the sequences: of models of skrl, and of its examples.
_OUTPUTS = ("policy_layer", "output_layer", "mean_layer")
_TRAINING = ("value_layer",)


def read_skrl(file: PolicyFile) -> SavedActor:
    """Read the policy of a checkpoint; raises PolicyError if it is damaged or says too little."""
    saved = read_checkpoint(file)
    builder = ActorBuilder(file, "skrl", weights_of(file, saved, "policy"), _ACTIVATION, _OUTPUT)
    if not builder.unused:
        raise file.error(
            f"is no training checkpoint of skrl with a policy; it has the entries {sorted(map(str, saved))}; "
            "give an agent_*.pt or best_agent.pt"
        )
    # Since skrl 2 the states are those of the critic, where there are observations.
    preprocessor = next((name for name in ("observation_preprocessor", "state_preprocessor") if name in saved), None)
    if preprocessor is not None:
        normaliser = weights_of(file, saved, preprocessor)
        for name in ("running_mean", "running_variance"):
            if name not in normaliser:
                raise builder.error(
                    f"{name} in its preprocessor, which must be a RunningStandardScaler", "save it again"
                )
        deviation = torch.sqrt(normaliser["running_variance"].float()) + _EPSILON
        builder.add_normalisation(normaliser["running_mean"], deviation, _LIMIT)
    builder.drop(_TRAINING)
    is_gaussian = builder.unused.pop(_LOG_STD, None) is not None
    output = next((name for name in _OUTPUTS if builder.has(name)), None)
    sequences = _sequences(builder)
    for name in sequences:
        builder.add_sequence(name, is_last=output is None and name == sequences[-1])
    if output is not None:
        builder.add("linear", builder.take(output))
    if file.interface.discrete and not is_gaussian:
        if builder.outputs != file.interface.discrete:
            raise file.error(f"has {builder.outputs} choices, but discrete is {file.interface.discrete}; correct it")
        return builder.finish_choices(builder.outputs)
    return builder.finish_continuous()


def _sequences(builder: ActorBuilder) -> list[str]:
    """Return the names of the sequences in the order of their use, which several have in models of skrl only."""
    names = dict.fromkeys(name.rpartition(".")[0].rpartition(".")[0] for name in builder.unused)
    sequences = [name for name in names if name]
    if len(sequences) > 1 and not all(name.endswith("_container") for name in sequences):
        raise builder.unknown(sequences)
    return sequences
