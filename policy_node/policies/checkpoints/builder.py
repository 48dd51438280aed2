# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Build actors from the named weights of checkpoints."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import pairwise

import numpy as np
import torch

from policy_node.config.parameters import ACTIVATIONS, OUTPUT_ACTIVATIONS
from policy_node.config.specs import ActionSpec, ArraySpec, DiscreteSpec, MultiDiscreteSpec
from policy_node.policies.checkpoints.actor import SQUASHING, SavedActor
from policy_node.policies.contract import PolicyError
from policy_node.policies.formats import PolicyFile

_EXPORT = "or export the policy as ONNX with its trainer"


class ActorBuilder:
    """Collects layers from weights; each weight is used once.

    Parameters
    ----------
    trainer
        For errors and the spec.
    weights
        Of the module that has the actor, by name.
    activation, output_activation
        Where the trainer's configuration has the function between the layers, and the one after the last layer, for
        errors; the latter is empty where there is always the same.
    """

    def __init__(
        self,
        file: PolicyFile,
        trainer: str,
        weights: Mapping[str, torch.Tensor],
        activation: str,
        output_activation: str = "",
    ) -> None:
        self.file = file
        self.unused = dict(weights)
        self._trainer = trainer
        # By parameter: what it is, the values that are allowed, where the trainer has it.
        self._settings: dict[str, tuple[str, tuple[str, ...], str]] = {
            "activation": ("its activation function", ACTIVATIONS, activation)
        }
        if output_activation:
            after = ("the function after its last layer", OUTPUT_ACTIVATIONS, output_activation)
            self._settings["output_activation"] = after
        self._layers: list[str] = []
        self._weights: dict[str, torch.Tensor] = {}

    def error(self, without: str, remedy: str, parameter: str = "policy.path", is_missing: bool = False) -> PolicyError:
        """Return the error of a checkpoint that says too little; see `PolicyError`."""
        text = f"is a training checkpoint of {self._trainer} without {without}; {remedy}, {_EXPORT}"
        return self.file.error(text, parameter, is_missing)

    def has(self, prefix: str) -> bool:
        """Return whether there are unused weights of a module."""
        return any(key.startswith(f"{prefix}.") for key in self.unused)

    def take(self, prefix: str) -> dict[str, torch.Tensor]:
        """Return the weights of a module and count them as used."""
        names = [key for key in self.unused if key.startswith(f"{prefix}.")]
        return {name.removeprefix(f"{prefix}."): self.unused.pop(name) for name in names}

    def drop(self, prefixes: Collection[str]) -> None:
        """Count weights as used that the actor does not need."""
        for key in list(self.unused):
            if any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes):
                del self.unused[key]

    def add(self, layer: str, parts: Mapping[str, torch.Tensor] | None = None) -> None:
        """Append a layer."""
        self._weights |= {f"{len(self._layers)}.{name}": part for name, part in (parts or {}).items()}
        self._layers.append(layer)

    def add_normalisation(self, mean: torch.Tensor, deviation: torch.Tensor, limit: float | None) -> None:
        """Append the normalisation of the observation, and its clipping to a limit."""
        self.add("normalise", {"mean": mean.float().flatten(), "deviation": deviation.float().flatten()})
        if limit is not None:
            self.add("clip", {"limit": torch.tensor(limit)})

    def add_recurrent(self, prefix: str) -> None:
        """Append an LSTM or GRU."""
        parts = self.take(prefix)
        gates = parts["weight_hh_l0"].shape[0] // max(1, parts["weight_hh_l0"].shape[1])
        self.add("lstm" if gates == 4 else "gru", parts)

    def add_sequence(self, prefix: str, is_last: bool) -> None:
        """Append the layers of an ``nn.Sequential``.

        The missing number between two layers is an activation, which has no weights. One follows the last layer, too,
        except where `is_last`.
        """
        parts: dict[int, dict[str, torch.Tensor]] = {}
        for key, part in self.take(prefix).items():
            index, _, name = key.partition(".")
            if not index.isdecimal() or name not in ("weight", "bias"):
                raise self.unknown([f"{prefix}.{key}"])
            parts.setdefault(int(index), {})[name] = part
        numbers = sorted(parts)
        gaps = [after - before for before, after in pairwise(numbers)] + [1 if is_last else 2] * bool(numbers)
        for number, gap in zip(numbers, gaps, strict=True):
            weight = parts[number].get("weight")
            if weight is None or weight.ndim not in (1, 2) or gap > 2:
                raise self.unknown([f"{prefix}.{number}"])
            self.add("linear" if weight.ndim == 2 else "layer_norm", parts[number])
            if gap == 2:
                self.add(self.setting("activation"))

    def cut_outputs(self, outputs: int) -> None:
        """Keep the first outputs of the last layer, where others follow, such as the deviation of a distribution."""
        for key, part in self._weights.items():
            if key.startswith(f"{len(self._layers) - 1}."):
                self._weights[key] = part[:outputs]

    @property
    def outputs(self) -> int:
        """Return the number of outputs of the last layer."""
        return len(self._weights[f"{len(self._layers) - 1}.weight"])

    def finish_continuous(self) -> SavedActor:
        """Return the actor of continuous actions."""
        squashing = self.setting("output_activation")
        low, high = self.file.interface.low, self.file.interface.high
        try:
            action = ArraySpec("action", (self.outputs,), np.float32, low, high)
        except ValueError as error:
            raise self.file.error(f"does not fit the bounds of the action: {error}; correct low and high") from error
        if squashing in SQUASHING:
            self.add(squashing)
            if not np.isfinite([action.low, action.high]).all():
                raise self.error(
                    "the bounds of the action, to which its outputs are rescaled",
                    "give low and high of the action space of the training (`policy.low`, `policy.high`)",
                )
            scale, offset = (action.high - action.low) / 2, (action.high + action.low) / 2
            self.add("rescale", {"scale": torch.from_numpy(scale), "offset": torch.from_numpy(offset)})
        return self._finish(action)

    def finish_choices(self, *counts: int) -> SavedActor:
        """Return the actor of one choice or of several, whose logits it computes."""
        return self._finish(
            DiscreteSpec("action", *counts) if len(counts) == 1 else MultiDiscreteSpec("action", counts)
        )

    def setting(self, name: str) -> str:
        """Return ``activation`` or ``output_activation`` as configured; raise PolicyError that names all that lack."""
        if name not in self._settings or getattr(self.file.interface, name):
            return getattr(self.file.interface, name) or "identity"
        missing = {key: rest for key, rest in self._settings.items() if not getattr(self.file.interface, key)}
        raise self.error(
            " and ".join(what for what, _, _ in missing.values()),
            "give "
            + " and ".join(
                f"{key} (`policy.{key}`: {', '.join(allowed)}; the training has it as {where})"
                for key, (_, allowed, where) in missing.items()
            ),
            f"policy.{next(iter(missing))}",
            is_missing=True,
        )

    def _finish(self, action: ActionSpec) -> SavedActor:
        if self.unused:
            raise self.unknown(list(self.unused))
        weights = {name: part.detach().float().contiguous().clone() for name, part in self._weights.items()}
        return SavedActor(self._trainer, tuple(self._layers), weights, action)

    def unknown(self, names: list[str]) -> PolicyError:
        """Return the error of an actor with parts that cannot be rebuilt."""
        return self.file.error(
            f"is a training checkpoint of {self._trainer} whose actor has parts that are not known: "
            f"{', '.join(sorted(names)[:5])}{', …' if len(names) > 5 else ''}; known are linear layers, LSTM, GRU, "
            "LayerNorm and normalisation: export the policy as ONNX with its trainer"
        )
