# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The spaces of Gymnasium that a policy's specification describes, for learners and datasets."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from policy_node.config.specs import ActionSpec, ArraySpec, DiscreteSpec, PolicySpec


def observation_space(spec: PolicySpec) -> spaces.Space:
    """Return the observation space of one robot; a single plain observation without a Dict."""
    boxes: dict[str, spaces.Space] = {key: _box(array) for key, array in spec.observations.items()}
    return boxes["observation"] if list(boxes) == ["observation"] else spaces.Dict(boxes)


def action_space(action: ActionSpec) -> spaces.Space:
    """Return the action space of one robot."""
    if isinstance(action, ArraySpec):
        return _box(action)
    if isinstance(action, DiscreteSpec):
        return spaces.Discrete(action.n)
    return spaces.MultiDiscrete(np.array(action.choices))


def _box(array: ArraySpec) -> spaces.Box:
    return spaces.Box(array.low, array.high, array.shape, array.dtype.type)  # type: ignore[type-var]
