# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The interface of a policy file that does not describe itself: the meaning of its inputs and outputs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from policy_node.config.parameters import ACTIVATIONS, OUTPUT_ACTIVATIONS
from policy_node.policies.contract import PolicyError


@dataclass(frozen=True)
class PolicyInterface:
    """The roles of the inputs and outputs of a policy file.

    Parameters
    ----------
    inputs
        Name of the input by observation key. An input that is not listed has its own name as key; a single input
        has the key ``observation``. TorchScript and ``torch.export`` files know inputs by their order only: the
        observations as listed here, the memory, the lengths and the mask. Their outputs are the action, the memory and
        the further outputs.
    memory
        Pairs of an input and the output that feeds it at the next step, robot by robot; zeros at the start.
    lengths
        Input that takes the number of steps since the reset, at most those of the history, `[robots]`.
    mask
        Input that marks the steps of the history with data, `[robots, steps]`, true for data.
    padding
        Place of the steps before the reset, which are zeros: ``start`` of the history, or ``end`` as packed sequences
        and attention with `lengths` mostly want it. Without `lengths` and `mask` it is the start.
    action
        Output that is the action; by default the first one that is no memory and no further output.
    outputs
        Further outputs `[robots, ...]` to keep for the next step, such as the joint positions of a motion. The policy
        has each in its memory as `output.NAME`; at the start it is what the network gives for zeros.
    horizon
        Number of future actions that the output gives, on the axis after the robots; 0: as the output shows.
    discrete
        Number of choices, which the output gives as logits or as an index; 0 for a continuous action.
    low, high
        Bounds to which a continuous action is clipped, one for all or one per component.
    activation
        Function between the layers of a training checkpoint, such as ``elu``; empty: not known.
    output_activation
        Function after the last layer of a training checkpoint: ``identity``, or one whose result is rescaled from
        -1..1 to `low` and `high`: ``tanh``, or ``hardtanh``, which clips. Empty: not known.
    history
        Steps by the key of each observation `[robots, steps, ...]` that is a history.
    shapes
        Shape for one robot by observation key or memory input, where the file does not say it. For a memory whose
        robots axis is not the first one: the whole shape, with -1 for that axis.
    counters
        Observations that count the steps of an episode from 0, which the network may take as indices.
    dtypes
        Dtype by observation key or memory input, where the file does not say it; float32 by default.

    Raises
    ------
    PolicyError
        If an input is used twice, or a value is not allowed.
    """

    inputs: Mapping[str, str] = field(default_factory=dict)
    memory: tuple[tuple[str, str], ...] = ()
    lengths: str = ""
    mask: str = ""
    padding: Literal["start", "end"] = "start"
    action: str = ""
    outputs: tuple[str, ...] = ()
    horizon: int = 0
    discrete: int = 0
    low: Sequence[float] | float = -np.inf
    high: Sequence[float] | float = np.inf
    activation: str = ""
    output_activation: str = ""
    history: Mapping[str, int] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    counters: tuple[str, ...] = ()
    dtypes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse contradictions."""
        inputs = [*self.inputs.values(), *(name for name, _ in self.memory), *filter(None, (self.lengths, self.mask))]
        outputs = [*(name for _, name in self.memory), *filter(None, (self.action,)), *self.outputs]
        for kind, names in (("input", inputs), ("output", outputs)):
            if doubled := [name for name, count in Counter(names).items() if count > 1]:
                raise PolicyError(f"the policy's {kind} '{doubled[0]}' is used twice; use it for one purpose")
        if self.padding not in ("start", "end"):
            raise PolicyError(f"padding is '{self.padding}'; allowed are 'start' and 'end'")
        for name, allowed in (("activation", ACTIVATIONS), ("output_activation", OUTPUT_ACTIVATIONS)):
            if getattr(self, name) not in ("", *allowed):
                raise PolicyError(f"{name} is '{getattr(self, name)}'; allowed are {', '.join(map(repr, allowed))}")
        if self.horizon < 0:
            raise PolicyError(f"horizon is {self.horizon}; give the number of future actions, or 0 to see it")
        if self.discrete < 0:
            raise PolicyError(f"discrete is {self.discrete}; give the number of choices, or 0 for a continuous action")
        if (self.lengths or self.mask) and not self.history:
            raise PolicyError(
                "lengths or mask is given but no observation is a history; "
                "give the number of steps of each observation that is one"
            )
        if len(set(self.history.values())) > 1 and (self.lengths or self.mask):
            raise PolicyError(
                f"the histories have {dict(self.history)} steps, which one input of lengths or mask cannot describe; "
                "give all the same number"
            )


def parse_memory(text: str) -> tuple[str, str, tuple[int, ...] | None]:
    """Return input, output and shape of a memory that is configured as ``input=output`` or ``input=output:1,-1,64``.

    In the shape, -1 is the robots; it is None if it is not given. Raises PolicyError for other texts.
    """
    match = re.fullmatch(r"([^=]+)=([^=]+?)(?::(-?\d+(?:,-?\d+)*))?", text)
    if match is None:
        raise PolicyError(f"the memory '{text}' is not written as input=output or input=output:1,-1,64")
    return match[1], match[2], tuple(map(int, match[3].split(","))) if match[3] else None
