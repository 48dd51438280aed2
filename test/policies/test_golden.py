# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Golden vectors notice every change of actions and memory, and cover extremes, resets and masks."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from policy_node.config.specs import ActionSpec, ArraySpec, DiscreteSpec, MultiDiscreteSpec, PolicySpec
from policy_node.policies import Policy, PolicyError
from policy_node.policies import golden as golden_module
from policy_node.policies.golden import (
    CANDIDATES,
    MAX_ROBOTS,
    RESET_STEP,
    STEPS,
    TOLERANCE,
    GoldenVectors,
    action_error,
    check_golden,
    extreme_examples,
    golden_error,
    golden_from_bytes,
    golden_to_bytes,
    largest_error,
    record_golden,
    record_run,
)

BOX = ArraySpec("action", (2,), np.float32, [-1.0, -2.0], [1.0, 2.0])
SIGHT = ArraySpec("sight", (3,), np.float32, -1.0, 1.0)
PIXELS = ArraySpec("pixels", (2, 2, 1), np.uint8, 0, 255)
SUM = {"sum": ArraySpec("sum", (1,), np.float32, -np.inf, np.inf)}

Act = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class Summing(Policy):
    """A policy that acts by its newest observation and by the sum of all since the last reset."""

    def __init__(
        self,
        action: ActionSpec = BOX,
        memory: Mapping[str, ArraySpec] = SUM,
        observations: Mapping[str, ArraySpec] | None = None,
        gain: float = 0.1,
        leak: float = 0.0,
        mask: int = 0,
        start: float = 0.0,
    ) -> None:
        observations = dict(observations or {"sight": SIGHT})
        super().__init__(PolicySpec(observations, action, "PPO", "0", dict(memory), mask), torch.device("cpu"))
        self.gain, self.leak, self.start = gain, leak, start
        self.masks: list[np.ndarray | None] = []

    def initial_state(self, robots: int) -> Any:
        state = super().initial_state(robots)
        return state and {name: part + self.start for name, part in state.items()}

    def act(self, observations: Any, memory: Any, masks: torch.Tensor | None) -> Any:
        self.masks.append(None if masks is None else masks.numpy().copy())
        (sight,) = observations.values()
        size = 1 if not isinstance(self.spec.action, ArraySpec) else self.spec.action.shape[0]
        seen = sight.float().flatten(1).sum(dim=1, keepdim=True)
        total = memory["sum"] * (1.0 - self.leak) + seen if memory else seen
        numbers = total * self.gain * torch.arange(1, size + 1)
        if isinstance(self.spec.action, DiscreteSpec):
            return (numbers[:, 0].abs() * 10).long() % self.spec.action.n, {"sum": total} if memory else {}
        if isinstance(self.spec.action, MultiDiscreteSpec):
            columns = [(numbers[:, 0].abs() * 10).long() % count for count in self.spec.action.choices]
            return torch.stack(columns, dim=1), {"sum": total} if memory else {}
        low, high = torch.from_numpy(np.stack([self.spec.action.low, self.spec.action.high]))
        return numbers.clamp(low, high), {"sum": total} if memory else {}


def test_a_policy_gives_its_own_golden_vectors() -> None:
    policy = Summing()
    golden = record_golden(policy)
    assert golden_error(policy, golden) == 0.0
    check_golden(policy, golden, "policy.bundle")


def test_golden_vectors_cover_both_extremes_several_robots_and_resets() -> None:
    golden = record_golden(Summing())
    sight = golden.observations["sight"]
    assert sight.shape == (STEPS, MAX_ROBOTS, 3) and golden.actions.shape == (STEPS, MAX_ROBOTS, 2)
    assert golden.memory["sum"].shape == (STEPS, MAX_ROBOTS, 1)
    rows = sight.reshape(-1, 3)
    assert rows[0].tolist() == [-1.0] * 3 and rows[1].tolist() == [1.0] * 3
    assert len(np.unique(rows, axis=0)) == len(rows)
    assert golden.resets[RESET_STEP].tolist() == [True, False] * (MAX_ROBOTS // 2)
    assert golden.resets.sum() == MAX_ROBOTS // 2
    assert golden.masks is None


def test_golden_actions_are_those_of_each_robots_episode() -> None:
    golden = record_golden(Summing(start=0.5))
    total = np.full((MAX_ROBOTS, 1), 0.5)
    for step in range(STEPS):
        total[golden.resets[step]] = 0.5
        total = total + golden.observations["sight"][step].sum(axis=1, keepdims=True)
        np.testing.assert_allclose(golden.memory["sum"][step], total, rtol=1e-5)
        expected = np.clip(total * 0.1 * [1.0, 2.0], BOX.low, BOX.high)
        np.testing.assert_allclose(golden.actions[step], expected, atol=1e-6)


class Inverted(Summing):
    """Acts by the second and the third number, most at neither end of the space; keeps the rows that it gets."""

    def __init__(self, observations: Mapping[str, ArraySpec] | None = None) -> None:
        super().__init__(memory={}, observations=observations)
        self.batches: list[int] = []

    def act(self, observations: Any, memory: Any, masks: torch.Tensor | None) -> Any:
        (sight,) = observations.values()
        self.batches.append(len(sight))
        numbers = sight.float().flatten(1)[:, 1:]
        return torch.where(numbers.abs() < 0.99, numbers, 0.0)[:, :2], {}


def test_golden_vectors_hold_the_observations_with_the_highest_and_the_lowest_actions() -> None:
    """A random observation rarely saturates; those with the most extreme actions of many are kept."""
    policy = Inverted()
    rows = record_golden(policy).observations["sight"].reshape(-1, 3)
    assert len(rows) == STEPS * MAX_ROBOTS and sum(policy.batches[:-STEPS]) == CANDIDATES
    assert set(policy.batches[:-STEPS]) == {len(rows), CANDIDATES % len(rows)}
    candidates = extreme_examples(policy.spec, CANDIDATES, np.random.default_rng(0))["sight"]
    numbers = np.where(np.abs(candidates[:, 1:]) < 0.99, candidates[:, 1:], 0.0)
    chosen = [0, 1, *numbers.argmax(axis=0).tolist(), *numbers.argmin(axis=0).tolist()]
    assert len(set(chosen)) == 6
    others = [index for index in range(CANDIDATES) if index not in chosen]
    np.testing.assert_array_equal(rows, candidates[[*chosen, *others]][: len(rows)])


def test_fewer_candidates_are_tried_where_observations_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of 12 bytes each.
    for limit, candidates in ((12 * 100, 100), (12 * 10, STEPS * MAX_ROBOTS)):
        monkeypatch.setattr(golden_module, "MAX_CANDIDATE_BYTES", limit)
        policy = Inverted()
        record_golden(policy)
        assert sum(policy.batches[:-STEPS]) == candidates


@pytest.mark.parametrize("change", [{"gain": 0.11}, {"start": 0.1}, {"leak": 0.1}])
def test_another_network_is_refused(change: dict[str, float]) -> None:
    golden = record_golden(Summing())
    changed = Summing(**change)
    error = golden_error(changed, golden)
    assert TOLERANCE < error < np.inf
    with pytest.raises(PolicyError, match=rf"'policy.bundle' does not act .* an error of {error:.1e} of the action"):
        check_golden(changed, golden, "policy.bundle")


def test_an_error_as_large_as_the_tolerance_is_accepted() -> None:
    # A tenth of a thousandth of the range is one, which float32 holds exactly.
    assert 1.0 / 10_000.0 == TOLERANCE
    policy = Summing(ArraySpec("action", (2,), np.float32, -5_000.0, 5_000.0), gain=1e6)
    golden = record_golden(policy)
    assert golden.actions[0, 0, 0] == -5_000.0

    def changed(difference: float) -> GoldenVectors:
        actions = golden.actions.copy()
        actions[0, 0, 0] += difference
        return replace(golden, actions=actions)

    assert golden_error(policy, changed(1.0)) == TOLERANCE
    check_golden(policy, changed(1.0), "policy.bundle")
    with pytest.raises(PolicyError, match="does not act as it did"):
        check_golden(policy, changed(2.0), "policy.bundle")


def test_memory_alone_that_differs_is_refused() -> None:
    """A policy whose actions are saturated shows a fault of its memory later than its golden vectors."""
    policy = Summing(gain=1e6)
    golden = record_golden(policy)
    memory = {"sum": golden.memory["sum"].copy()}
    memory["sum"][-1, -1] += 0.01
    scale = max(1.0, np.abs(memory["sum"][-1]).max())
    assert golden_error(policy, replace(golden, memory=memory)) == pytest.approx(0.01 / scale, rel=1e-3)
    with pytest.raises(PolicyError, match="does not act as it did"):
        check_golden(policy, replace(golden, memory=memory), "policy.bundle")


@pytest.mark.parametrize("step", range(STEPS))
def test_each_step_counts(step: int) -> None:
    policy = Summing()
    golden = record_golden(policy)
    actions = golden.actions.copy()
    actions[step, step] += 0.5
    assert golden_error(policy, replace(golden, actions=actions)) == pytest.approx(0.25, rel=1e-3)


def test_memory_that_is_missing_or_has_another_name_is_refused() -> None:
    golden = record_golden(Summing())
    other = replace(golden, memory={"total": golden.memory["sum"]})
    assert golden_error(Summing(), other) == np.inf
    assert golden_error(Summing(memory={}), golden) == np.inf
    # Files of earlier versions hold less of the memory.
    assert golden_error(Summing(), replace(golden, memory={})) == 0.0


def test_resets_and_masks_are_replayed() -> None:
    policy = Summing(DiscreteSpec("action", 3), mask=3)
    golden = record_golden(policy)
    assert golden.masks is not None
    policy.masks.clear()
    assert golden_error(policy, golden) == 0.0
    np.testing.assert_array_equal(policy.masks, golden.masks)
    assert golden_error(Summing(), replace(record_golden(Summing()), resets=np.zeros((STEPS, MAX_ROBOTS), bool))) > 0.01


@pytest.mark.parametrize(
    ("action", "length"), [(DiscreteSpec("action", 3), 3), (MultiDiscreteSpec("action", (2, 4)), 6)]
)
def test_masks_allow_everything_then_something_of_each_choice_and_at_last_nothing(
    action: ActionSpec, length: int
) -> None:
    masks = record_golden(Summing(action, mask=length)).masks
    assert masks is not None and masks.shape == (STEPS, MAX_ROBOTS, length) and masks.dtype == np.bool_
    assert masks[0].all()
    assert not masks[-1, -1].any()
    others = masks.reshape(-1, length)[:-1]
    counts = (action.n,) if isinstance(action, DiscreteSpec) else action.choices  # type: ignore[union-attr]
    first = 0
    for count in counts:
        assert others[:, first : first + count].any(axis=1).all()
        first += count
    # And each choice is forbidden somewhere.
    assert not others[MAX_ROBOTS:].all(axis=0).any()


def test_choices_that_differ_are_refused() -> None:
    golden = record_golden(Summing(DiscreteSpec("action", 3)))
    with pytest.raises(PolicyError, match=r"give another choice, allowed is 0\.0001"):
        check_golden(Summing(DiscreteSpec("action", 3), gain=0.2), golden, "policy.bundle")


@pytest.mark.parametrize(
    "change",
    [
        {"observations": {"other": np.zeros((STEPS, 2, 3), np.float32)}},
        {"observations": {"sight": np.zeros((STEPS, 2, 4), np.float32)}},
        {"observations": {"sight": np.zeros((1, MAX_ROBOTS, 3), np.float32)}},
        {"masks": np.ones((STEPS, MAX_ROBOTS, 2), bool)},
        {"actions": np.zeros((1, MAX_ROBOTS, 2), np.float32)},
        {"memory": {"sum": np.zeros((1, MAX_ROBOTS, 1), np.float32)}},
    ],
)
def test_vectors_that_do_not_fit_the_policy_are_refused(change: dict[str, Any]) -> None:
    golden = replace(record_golden(Summing()), **change)
    with pytest.raises(PolicyError, match=r"golden vectors in policy file 'policy.bundle' do not fit its policy: "):
        check_golden(Summing(), golden, "policy.bundle")


@pytest.mark.parametrize(("limit", "robots"), [(12 * 5, 5), (12 * 3, 3), (12, 2), (1, 2), (12 * 100, MAX_ROBOTS)])
def test_large_observations_get_fewer_robots_but_at_least_two(
    monkeypatch: pytest.MonkeyPatch, limit: int, robots: int
) -> None:
    # Of 12 bytes each.
    monkeypatch.setattr(golden_module, "MAX_BYTES", STEPS * limit)
    assert record_golden(Summing(memory={})).resets.shape == (STEPS, robots)


def test_pixels_cover_black_and_white() -> None:
    golden = record_golden(Summing(memory={}, observations={"pixels": PIXELS}))
    rows = golden.observations["pixels"].reshape(-1, 4)
    assert rows.dtype == np.uint8 and rows[0].tolist() == [0] * 4 and rows[1].tolist() == [255] * 4


def test_unbounded_numbers_reach_ten_and_stay_within_the_bounds_that_exist() -> None:
    spec = ArraySpec("sight", (3,), np.float32, [-np.inf, 0.0, -2.0], [np.inf, np.inf, 3.0])
    rows = record_golden(Summing(memory={}, observations={"sight": spec})).observations["sight"].reshape(-1, 3)
    assert rows[0].tolist() == [-10.0, 0.0, -2.0] and rows[1].tolist() == [10.0, 10.0, 3.0]
    others = np.abs(rows[2:])
    # Some are scaled beyond the examples of the spec, some are not.
    assert others[:, 0].max() > 1.0 and others[:, 0].min() < 1.0
    assert (rows >= spec.low).all() and (rows <= spec.high).all()


def test_a_run_gives_the_observations_the_strides_of_the_node() -> None:
    policy = Summing(memory={}, observations={"pixels": PIXELS})
    observations = {"pixels": np.arange(STEPS * 2 * 4, dtype=np.uint8).reshape(STEPS, 2, 2, 2, 1)}
    seen: list[tuple[str, list[int]]] = []

    def layout(key: str, tensor: torch.Tensor) -> torch.Tensor:
        seen.append((key, tensor.flatten().tolist()))
        return tensor.clone(memory_format=torch.channels_last)

    golden = record_run(policy, observations, np.zeros((STEPS, 2), bool), layout=layout)
    assert seen == [("pixels", list(range(8 * step, 8 * step + 8))) for step in range(STEPS)]
    assert golden_error(policy, golden, layout) == 0.0 and len(seen) == 2 * STEPS


@pytest.mark.parametrize("mask", [0, 6])
def test_golden_vectors_survive_their_file(mask: int) -> None:
    golden = record_golden(Summing(MultiDiscreteSpec("action", (2, 4)), mask=mask))
    read = golden_from_bytes(golden_to_bytes(golden), "policy.bundle")
    for name in ("resets", "actions"):
        np.testing.assert_array_equal(getattr(read, name), getattr(golden, name), strict=True)
    for parts, others in ((read.observations, golden.observations), (read.memory, golden.memory)):
        assert parts.keys() == others.keys()
        for name, array in parts.items():
            np.testing.assert_array_equal(array, others[name], strict=True)
    if mask:
        np.testing.assert_array_equal(read.masks, golden.masks, strict=True)  # type: ignore[arg-type]
    else:
        assert read.masks is None


def test_names_with_dots_survive_the_file() -> None:
    part = np.arange(4.0).reshape(2, 2)[:, ::-1]
    golden = GoldenVectors({"a.b": part}, np.ones((2, 2), bool), part, {"c.d": part})
    read = golden_from_bytes(golden_to_bytes(golden), "policy.bundle")
    np.testing.assert_array_equal(read.observations["a.b"], part)
    np.testing.assert_array_equal(read.memory["c.d"], part)


def error_of(spec: ActionSpec, found: Any, expected: Any, dtype: type = np.float32) -> float:
    return action_error(PolicySpec({}, spec, "", ""), np.asarray(found, dtype), np.asarray(expected, dtype))


def test_an_error_is_a_share_of_the_range_of_its_component() -> None:
    assert error_of(BOX, [[0.5, 0.0]], [[0.0, 0.0]]) == 0.25
    assert error_of(BOX, [[0.0, 0.0]], [[0.0, -0.5]]) == 0.125
    # The largest counts.
    assert error_of(BOX, [[0.5, 0.5], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]) == 0.25
    nan = np.nan
    assert error_of(BOX, [[nan, 0.0]], [[nan, 0.0]]) == 0.0
    assert error_of(BOX, [[nan, 0.0]], [[0.0, 0.0]]) == error_of(BOX, [[0.0, 0.0]], [[nan, 0.0]]) == np.inf


def test_an_unbounded_component_is_measured_by_its_largest_action() -> None:
    free = ArraySpec("action", (3,), np.float32, [-np.inf, -1.0, 0.0], [np.inf, np.inf, 0.0])
    assert error_of(free, [[8.0, 0.0, 0.0], [1.0, 0.0, 0.0]], [[8.0, 0.0, 0.0], [3.0, 0.0, 0.0]]) == 0.25
    assert error_of(free, [[0.0, 0.5, 0.0]], [[0.0, 0.25, 0.0]]) == 0.25
    assert error_of(free, [[0.0, 0.0, 0.0]], [[0.0, 0.0, 0.5]]) == 0.5
    assert error_of(free, [[0.0, 4.0, 0.0]], [[0.0, 8.0, np.nan]]) == np.inf
    # As does an end of the largest number of float32, which means none.
    largest = float(np.finfo(np.float32).max)
    assert error_of(replace_bounds(-largest, largest), [[0.5, 0.0]], [[0.0, 0.0]]) == 0.5
    assert error_of(replace_bounds(-largest, 1.0), [[0.5, 0.0]], [[0.0, 0.0]]) == 0.5
    # No float64 holds the range between the ends of float64; a warning would fail the test.
    largest = float(np.finfo(np.float64).max)
    spec = ArraySpec("action", (2,), np.float64, -largest, largest)
    assert error_of(spec, [[0.5, 0.0]], [[0.0, 0.0]], np.float64) == 0.5


def replace_bounds(low: float, high: float) -> ArraySpec:
    return ArraySpec("action", (2,), np.float32, low, high)


def test_other_shapes_and_dtypes_are_no_small_errors() -> None:
    assert error_of(BOX, [[0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]) == np.inf
    spec = PolicySpec({}, BOX, "", "")
    assert action_error(spec, np.zeros((1, 2), np.float64), np.zeros((1, 2), np.float32)) == np.inf
    choice = DiscreteSpec("action", 3)
    assert error_of(choice, [1, 2], [1, 2], np.int64) == 0.0
    assert error_of(choice, [1, 2], [1, 1], np.int64) == np.inf
    spec = PolicySpec({}, choice, "", "")
    assert action_error(spec, np.zeros(2, np.int32), np.zeros(2, np.int64)) == np.inf
    assert largest_error(np.zeros(2, np.float32), np.zeros(2, np.float64)) == np.inf
    assert largest_error(np.zeros(2, np.float32), np.zeros(3, np.float32)) == np.inf


def test_memory_is_measured_by_its_largest_number() -> None:
    expected = np.array([8.0, np.inf, np.nan], np.float32)
    assert largest_error(expected, expected) == 0.0
    assert largest_error(expected - [2.0, 0.0, 0.0], expected.astype(np.float64)) == 0.25
    assert largest_error(np.float32([0.5]), np.float32([0.25])) == 0.25
    assert largest_error(np.float32([0.0]), np.float32([np.inf])) > 1e300
    assert largest_error(np.int64([5]), np.int64([4])) == 0.25
    assert largest_error(np.zeros(0), np.zeros(0)) == 0.0
