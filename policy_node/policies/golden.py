# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Golden vectors: observations with the actions and memory that a policy gave for them and must give again.

They are part of the policy's file and are compared whenever it is loaded, on the device that will run it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from policy_node.config.specs import ArraySpec, DiscreteSpec, MultiDiscreteSpec, PolicySpec, is_unbounded
from policy_node.policies.contract import Policy, PolicyError

# Changes the strides of an observation.
Layout = Callable[[str, torch.Tensor], torch.Tensor]
# Largest error in shares of the action range. Engines and GPUs sum in other orders; a wrong weight differs far more.
TOLERANCE = 1e-4
STEPS = 4
# Before this step every other robot is reset.
RESET_STEP = 2
MAX_ROBOTS = 6
MAX_BYTES = 4 * 2**20
CANDIDATES = 256
MAX_CANDIDATE_BYTES = 64 * 2**20


@dataclass(frozen=True, eq=False)
class GoldenVectors:
    """A short run of several robots.

    Attributes
    ----------
    observations
        By key, `[steps, robots, *shape]`.
    resets
        `[steps, robots]` bool, true for the robots that are reset before the step.
    actions
        `[steps, robots, ...]`, the final actions.
    memory
        By entry, `[steps, robots, *shape]`, after the step.
    masks
        `[steps, robots, spec.mask]` bool, None for a policy that takes none.
    """

    observations: Mapping[str, np.ndarray]
    resets: np.ndarray
    actions: np.ndarray
    memory: Mapping[str, np.ndarray] = field(default_factory=dict)
    masks: np.ndarray | None = None


def record_golden(policy: Policy) -> GoldenVectors:
    """Record golden vectors of a policy.

    The observations are the lowest and the highest of each key, random ones that give the lowest and the highest
    actions, so that saturated actions are among them, and other random ones. Some robots are reset in between.
    """
    rng = np.random.default_rng(0)
    spec = policy.spec
    robots = max(2, min(MAX_ROBOTS, MAX_BYTES // (STEPS * _row_bytes(spec))))
    rows = _interesting_rows(policy, STEPS * robots, rng)
    observations = {key: array.reshape(STEPS, robots, *array.shape[1:]) for key, array in rows.items()}
    resets = np.zeros((STEPS, robots), bool)
    resets[RESET_STEP, ::2] = True
    return record_run(policy, observations, resets, _masks(spec, robots, rng) if spec.mask else None)


def record_run(
    policy: Policy,
    observations: Mapping[str, np.ndarray],
    resets: np.ndarray,
    masks: np.ndarray | None = None,
    layout: Layout = lambda key, tensor: tensor,
) -> GoldenVectors:
    """Run a policy and keep its actions and its memory; `GoldenVectors` describes the arrays.

    Parameters
    ----------
    layout
        Gives the observations of a key, on the device, the strides that they have in the node.
    """
    device, state = policy.device, policy.initial_state(resets.shape[1])
    actions, memory = [], []
    for step, rows in enumerate(resets):
        state = policy.reset(state, torch.from_numpy(rows).to(device))
        given = {key: layout(key, torch.from_numpy(array[step]).to(device)) for key, array in observations.items()}
        action, state = policy(given, state, None if masks is None else torch.from_numpy(masks[step]).to(device))
        actions.append(action.cpu().numpy().copy())
        memory.append({name: part.cpu().numpy().copy() for name, part in (state or {}).items()})
    kept = {name: np.stack([part[name] for part in memory]) for name in memory[0]}
    return GoldenVectors(observations, resets, np.stack(actions), kept, masks)


def golden_error(policy: Policy, golden: GoldenVectors, layout: Layout = lambda key, tensor: tensor) -> float:
    """Return the largest error of a policy, in shares of the action range; infinite where a choice differs."""
    found = record_run(policy, golden.observations, golden.resets, golden.masks, layout)
    if not golden.memory.keys() <= found.memory.keys():
        return np.inf
    errors = [action_error(policy.spec, *pair) for pair in zip(found.actions, golden.actions, strict=True)]
    for name, expected in golden.memory.items():
        errors += [largest_error(*pair) for pair in zip(found.memory[name], expected, strict=True)]
    return max(errors)


def check_golden(policy: Policy, golden: GoldenVectors, path: str) -> None:
    """Raise PolicyError if a policy does not act, within `TOLERANCE`, as it did when its file was written."""
    try:
        error = golden_error(policy, golden)
    except (PolicyError, ValueError, KeyError, IndexError) as failure:
        raise PolicyError(f"the golden vectors in policy file '{path}' do not fit its policy: {failure}") from failure
    if not error <= TOLERANCE:
        found = "another choice" if error == np.inf else f"an error of {error:.1e} of the action range"
        raise PolicyError(
            f"policy file '{path}' does not act as it did when it was exported: on {policy.device} its golden vectors "
            f"give {found}, allowed is {TOLERANCE:g}; it was changed or the engine is faulty: export it again"
        )


def action_error(spec: PolicySpec, found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest error in shares of the action range; infinite where a choice, shape or dtype differs.

    An unbounded component counts as a range of the largest expected action, at least 1.
    """
    if not isinstance(spec.action, ArraySpec):
        same = found.dtype == expected.dtype and np.array_equal(found, expected)
        return 0.0 if same else np.inf
    rows = expected.reshape(-1, *spec.action.shape).astype(np.float64)
    low, high = spec.action.low.astype(np.float64), spec.action.high.astype(np.float64)
    has_range = ~(is_unbounded(low) | is_unbounded(high)) & (high > low)
    largest = np.nanmax(np.abs(rows), axis=0, initial=1.0)
    with np.errstate(over="ignore"):
        return _largest(found, expected, np.where(has_range, high - low, largest))


def largest_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest error in shares of the largest expected number, at least 1; infinite for another dtype."""
    with np.errstate(invalid="ignore"):
        numbers = np.abs(expected.astype(np.float64))
    return _largest(found, expected, max(1.0, float(numbers.max(initial=0.0, where=np.isfinite(numbers)))))


def _largest(found: np.ndarray, expected: np.ndarray, scale: np.ndarray | float) -> float:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return np.inf
    same = (found == expected) | (np.isnan(found) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        error = np.abs(found.astype(np.float64) - expected.astype(np.float64)) / scale
    # The difference is NaN where only one of them is.
    error = np.where(same, 0.0, np.nan_to_num(error, nan=np.inf))
    return float(error.max(initial=0.0))


def _row_bytes(spec: PolicySpec) -> int:
    arrays = (*spec.observations.values(), *spec.memory.values())
    return max(1, sum(int(np.prod(array.shape)) * array.dtype.itemsize for array in arrays))


def _interesting_rows(policy: Policy, rows: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return `{key: [rows, *shape]}`: extremes, then observations with extreme actions, then random ones."""
    spec = policy.spec
    count = max(rows, min(CANDIDATES, MAX_CANDIDATE_BYTES // _row_bytes(spec)))
    pool = extreme_examples(spec, count, rng)
    actions = []
    for start in range(0, count, rows):
        part = {key: torch.from_numpy(array[start : start + rows]).to(policy.device) for key, array in pool.items()}
        chosen, _ = policy(part, policy.initial_state(len(next(iter(part.values())))))
        actions.append(chosen.cpu().numpy())
    flat = np.concatenate(actions).reshape(count, -1)
    extreme = np.concatenate([flat.argmax(axis=0), flat.argmin(axis=0)])
    # The first two candidates are the lowest and the highest observations.
    order = list(dict.fromkeys([0, 1, *extreme[: rows // 2].tolist(), *range(count)]))[:rows]
    return {key: array[order] for key, array in pool.items()}


def extreme_examples(spec: PolicySpec, rows: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draw `{key: [rows, *shape]}`, at least two rows: the lowest and the highest observations, then random ones."""
    return {key: _candidates(array, rows, rng) for key, array in spec.observations.items()}


def _candidates(spec: ArraySpec, count: int, rng: np.random.Generator) -> np.ndarray:
    array = spec.example(count, rng)
    if np.issubdtype(spec.dtype, np.floating):
        # Without a bound, numbers larger than those of `example` occur too.
        no_low, no_high = is_unbounded(spec.low), is_unbounded(spec.high)
        free = no_low | no_high
        scale = np.where(np.arange(count) % 2, 10.0, 1.0).reshape(-1, *[1] * len(spec.shape))
        array = np.clip(np.where(free, array * scale, array).astype(spec.dtype), spec.low, spec.high)
        ends = (np.where(no_low, -10.0, spec.low), np.where(no_high, 10.0, spec.high))
        array[0], array[1] = (np.clip(end, spec.low, spec.high) for end in ends)
    else:
        array[0], array[1] = spec.low, spec.high
    return array


def _masks(spec: PolicySpec, robots: int, rng: np.random.Generator) -> np.ndarray:
    """Return masks: everything allowed in the first step, then some choices, at last nothing for one robot."""
    action = spec.action
    assert isinstance(action, (DiscreteSpec, MultiDiscreteSpec))
    masks = rng.random((STEPS, robots, spec.mask)) < 0.5
    masks[0] = True
    first = 0
    for count in (action.n,) if isinstance(action, DiscreteSpec) else action.choices:
        allowed = first + rng.integers(count, size=(STEPS, robots, 1))
        np.put_along_axis(masks, allowed, True, axis=2)
        first += count
    masks[-1, -1] = False
    return masks


def golden_to_bytes(golden: GoldenVectors) -> bytes:
    """Return golden vectors as a safetensors file."""
    from safetensors.numpy import save

    arrays = {
        "resets": golden.resets,
        "actions": golden.actions,
        **({} if golden.masks is None else {"masks": golden.masks}),
        **{f"observations.{key}": array for key, array in golden.observations.items()},
        **{f"memory.{name}": array for name, array in golden.memory.items()},
    }
    return save({name: np.ascontiguousarray(array) for name, array in arrays.items()})


def golden_from_bytes(content: bytes, path: str) -> GoldenVectors:
    """Return the golden vectors that `golden_to_bytes` wrote; raises PolicyError if they are damaged."""
    from safetensors.numpy import load

    try:
        arrays = load(content)
        parts: dict[str, dict[str, np.ndarray]] = {"observations": {}, "memory": {}}
        for name, array in arrays.items():
            kind, _, key = name.partition(".")
            if kind in parts:
                parts[kind][key] = array
        return GoldenVectors(resets=arrays["resets"], actions=arrays["actions"], masks=arrays.get("masks"), **parts)
    except Exception as error:
        raise PolicyError(
            f"the golden vectors in policy file '{path}' are damaged ({type(error).__name__}: {error}); "
            "get the file again or export it again"
        ) from error
