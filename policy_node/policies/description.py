# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Specs as JSON, so that a policy file can describe its inputs and outputs without running code."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from policy_node.config.specs import ActionSpec, ArraySpec, DiscreteSpec, MultiDiscreteSpec, PolicySpec

# More than any observation or action of a robot has; a larger array was made to fill the memory.
MAX_ELEMENTS = 2**27
DTYPES = ("float16", "float32", "float64", "uint8", "uint16", "int8", "int16", "int32", "int64", "bool")


def spec_to_json(spec: PolicySpec) -> dict[str, Any]:
    """Return a spec as JSON, without the hash of its file, which the file cannot hold."""
    return {
        "algorithm": spec.algorithm,
        "observations": [_spec_to_json(array) for array in spec.observations.values()],
        "memory": [_spec_to_json(array) for array in spec.memory.values()],
        "mask": spec.mask,
        "action": _action_to_json(spec.action),
        **({"horizon": spec.horizon} if spec.horizon else {}),
        **({"task": spec.task} if spec.task else {}),
    }


def spec_from_json(data: Mapping[str, Any], sha256: str) -> PolicySpec:
    """Return a spec that `spec_to_json` wrote; raises ValueError, KeyError or TypeError if it is not of that form."""
    observations, memory = (
        {array.name: array for array in map(_spec_from_json, data[part])} for part in ("observations", "memory")
    )
    action = _action_from_json(data["action"])
    horizon = int(data.get("horizon", 0))
    if horizon < 0:
        raise ValueError(f"the horizon is {horizon}")
    task = str(data.get("task", ""))
    if task and task not in observations:
        raise ValueError(f"the task is '{task}', which is no observation")
    return PolicySpec(observations, action, str(data["algorithm"]), sha256, memory, int(data["mask"]), horizon, task)


def array_to_json(array: Any) -> dict[str, Any]:
    """Return shape, dtype and bounds of an `ArraySpec` or a Box space as JSON."""
    return {
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        "low": _bound_to_json(array.low),
        "high": _bound_to_json(array.high),
    }


def array_from_json(data: Mapping[str, Any]) -> tuple[tuple[int, ...], np.dtype, np.ndarray, np.ndarray]:
    """Return shape, dtype, low and high that `array_to_json` wrote; raises as `spec_from_json`."""
    shape, name = shape_from_json(data["shape"]), data["dtype"]
    if name not in DTYPES:
        raise ValueError(f"the dtype is {name!r}; allowed are {', '.join(DTYPES)}")
    dtype = np.dtype(name)
    low, high = (_bound_from_json(data[end], shape, dtype) for end in ("low", "high"))
    return shape, dtype, low, high


def shape_from_json(lengths: Any) -> tuple[int, ...]:
    """Return a shape; raise ValueError if it is negative or absurdly large."""
    shape = tuple(int(length) for length in lengths)
    if any(length < 0 for length in shape) or math.prod(shape) > MAX_ELEMENTS:
        raise ValueError(f"the shape {list(shape)} is not possible; allowed are {MAX_ELEMENTS} elements")
    return shape


def _spec_to_json(array: ArraySpec) -> dict[str, Any]:
    return {"name": array.name, **array_to_json(array)}


def _spec_from_json(data: Mapping[str, Any]) -> ArraySpec:
    return ArraySpec(str(data["name"]), *array_from_json(data))


def _action_to_json(action: ActionSpec) -> dict[str, Any]:
    if isinstance(action, ArraySpec):
        return {"type": "Box", **_spec_to_json(action)}
    if isinstance(action, DiscreteSpec):
        return {"type": "Discrete", "name": action.name, "n": action.n}
    return {"type": "MultiDiscrete", "name": action.name, "choices": list(action.choices)}


def _action_from_json(data: Mapping[str, Any]) -> ActionSpec:
    if data["type"] == "Box":
        return _spec_from_json(data)
    if data["type"] == "Discrete":
        return DiscreteSpec(str(data["name"]), int(data["n"]))
    return MultiDiscreteSpec(str(data["name"]), tuple(int(count) for count in data["choices"]))


def _bound_to_json(bound: np.ndarray) -> Any:
    """Return one number where all are the same, with words for infinities, which JSON lacks."""
    is_same = bound.size > 0 and bool(np.all(bound == bound.flat[0]))
    numbers = [bound.flat[0].item()] if is_same else bound.ravel().tolist()
    words = [str(part) if isinstance(part, float) and not math.isfinite(part) else part for part in numbers]
    return words[0] if is_same else np.array(words, object).reshape(bound.shape).tolist()


def _bound_from_json(data: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    # As objects first: among strings, NumPy gives every element the length of the longest.
    values = np.array(data, object).astype(dtype)
    if values.ndim and values.shape != shape:
        raise ValueError(f"a bound has the shape {list(values.shape)}, its array {list(shape)}")
    return np.broadcast_to(values, shape)
