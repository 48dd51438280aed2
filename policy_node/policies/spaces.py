# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Spaces of Gymnasium: made from a spec, for learners and datasets, as JSON, for bundles, and read from pickles."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from policy_node.config.specs import ActionSpec, ArraySpec, DiscreteSpec, PolicySpec
from policy_node.policies.description import array_from_json, array_to_json, shape_from_json
from policy_node.policies.inert import Inert, InertUnpickler

# Spaces of these packages can be read. They hold objects of NumPy, and those of Stable-Baselines3 none.
_PACKAGES = ("gym", "gymnasium", "numpy")


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


def space_to_json(space: spaces.Space) -> dict[str, Any]:
    """Return a space as JSON; raises ValueError for others than Box, Discrete, MultiDiscrete, MultiBinary or a Dict."""
    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "spaces": [[key, space_to_json(part)] for key, part in space.spaces.items()]}
    if isinstance(space, spaces.Box):
        return {"type": "Box", **array_to_json(space)}
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        return {"type": "MultiDiscrete", "choices": space.nvec.tolist(), "start": space.start.tolist()}
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "shape": list(space.shape)}
    raise ValueError(f"{space} is none of Box, Discrete, MultiDiscrete, MultiBinary and a Dict of these")


def space_from_json(data: Mapping[str, Any]) -> spaces.Space:
    """Return a space that `space_to_json` wrote.

    Raises ValueError, KeyError or TypeError if it is not of that form, or absurdly large.
    """
    kind = data["type"]
    if kind == "Dict":
        # Ordered: the features of the keys follow each other as in training.
        return spaces.Dict(OrderedDict((str(key), space_from_json(part)) for key, part in data["spaces"]))
    if kind == "Box":
        shape, dtype, low, high = array_from_json(data)
        return spaces.Box(low, high, shape, dtype.type)  # type: ignore[type-var]
    if kind == "Discrete":
        return spaces.Discrete(shape_from_json([data["n"]])[0], start=int(data["start"]))
    if kind == "MultiDiscrete":
        choices = np.array(data["choices"], np.int64)
        shape_from_json([int(choices.sum())])
        return spaces.MultiDiscrete(choices, start=np.array(data["start"], np.int64))
    if kind == "MultiBinary":
        shape = shape_from_json(data["shape"])
        return spaces.MultiBinary(shape[0] if len(shape) == 1 else shape)
    raise ValueError(f"space type '{kind}' is none of Box, Discrete, MultiDiscrete, MultiBinary, Dict")


def space_from_pickle(content: bytes) -> spaces.Space:
    """Return a space of Gymnasium or of its predecessor OpenAI gym, of any version, without running its pickle.

    Neither gym nor the versions that wrote the pickle are needed. Generators of random numbers are dropped.

    Raises
    ------
    Exception
        If the pickle is damaged, or holds anything but a Box, Discrete, MultiDiscrete, MultiBinary or a Dict of these.
    """
    return _space_from_state(InertUnpickler(content, _PACKAGES).load())


def _space_from_state(found: Any) -> spaces.Space:
    """Return the space that an inert object describes."""
    package, _, kind = (found.origin if isinstance(found, Inert) else "").partition(".spaces.")
    kind = kind.rpartition(".")[2]
    if package not in ("gym", "gymnasium") or kind not in ("Box", "Discrete", "MultiDiscrete", "MultiBinary", "Dict"):
        shown = found.origin if isinstance(found, Inert) else type(found).__name__
        raise ValueError(f"found {shown}; allowed are Box, Discrete, MultiDiscrete, MultiBinary and a Dict of these")
    state = found.state
    if kind == "Dict":
        # Ordered: the features of the keys follow each other as in training.
        return spaces.Dict(OrderedDict((str(key), _space_from_state(part)) for key, part in state["spaces"].items()))
    if kind == "Discrete":
        # Older versions begin at 0.
        return spaces.Discrete(int(state["n"]), start=int(state.get("start", 0)))
    if kind == "MultiDiscrete":
        choices = np.asarray(state["nvec"]).astype(np.int64)
        return spaces.MultiDiscrete(choices, start=np.broadcast_to(state.get("start", 0), choices.shape))
    if kind == "MultiBinary":
        return spaces.MultiBinary(state["n"])
    dtype, low = np.dtype(state["dtype"]), np.asarray(state["low"])
    # Older versions call the attribute `shape`.
    shape = shape_from_json(state.get("_shape") or state.get("shape") or low.shape)
    low, high = (np.broadcast_to(bound, shape).astype(dtype) for bound in (low, state["high"]))
    return spaces.Box(low, high, shape, dtype.type)  # type: ignore[type-var]


def _box(array: ArraySpec) -> spaces.Box:
    return spaces.Box(array.low, array.high, array.shape, array.dtype.type)  # type: ignore[type-var]
