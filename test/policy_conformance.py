# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The conformance test of the `Policy` contract, the same for every format."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch

from policy_node.config.specs import ArraySpec, DiscreteSpec, MultiDiscreteSpec
from policy_node.policies import Policy, PolicyError, load_policy

ROBOTS = 5
# For files that a test has made.
load_trusted = partial(load_policy, trusted=True)


def example_observations(policy: Policy, robots: int, seed: int) -> dict[str, torch.Tensor]:
    """Draw observations `{key: [robots, *shape]}` on the policy's device."""
    rng = np.random.default_rng(seed)
    return {
        key: torch.from_numpy(spec.example(robots, rng)).to(policy.device)
        for key, spec in policy.spec.observations.items()
    }


def assert_same_actions(policy: Policy, actions: torch.Tensor, expected: torch.Tensor) -> None:
    """Compare within 1e-5 of the action range, NaN equal to NaN; choices exactly."""
    assert actions.dtype == expected.dtype
    assert actions.shape == expected.shape
    tolerance: torch.Tensor | float = 0.0
    if isinstance(policy.spec.action, ArraySpec):
        tolerance = torch.tensor(1e-5 * (policy.spec.action.high - policy.spec.action.low), device=policy.device)
    same = (actions == expected) | ((actions - expected).abs() <= tolerance) | (actions.isnan() & expected.isnan())
    assert bool(same.all()), f"found {actions}, expected {expected}"


def select_rows(observations: dict[str, torch.Tensor], rows: list[int] | slice) -> dict[str, torch.Tensor]:
    """Take some rows of every observation."""
    return {key: tensor[rows] for key, tensor in observations.items()}


def last_actions(policy: Policy, steps: list[dict[str, torch.Tensor]]) -> torch.Tensor:
    """Run the policy over observations that follow each other and return the actions of the last step."""
    state = policy.initial_state(len(next(iter(steps[0].values()))))
    for observations in steps:
        actions, state = policy(observations, state)
    return actions


class PolicyConformance:
    """What any policy must do; a subclass gives the fixture `policy`."""

    @pytest.fixture
    def policy(self) -> Policy:
        raise NotImplementedError

    @pytest.mark.parametrize("robots", [1, 2, ROBOTS])
    def test_actions_fit_the_spec(self, policy: Policy, robots: int) -> None:
        actions, _ = policy(example_observations(policy, robots, seed=1), policy.initial_state(robots))
        assert actions.device == policy.device
        action = policy.spec.action
        if isinstance(action, ArraySpec):
            assert actions.shape == (robots, *action.shape)
            for row in actions.cpu().numpy():
                action.validate(row)
            return
        counts = action.n if isinstance(action, DiscreteSpec) else torch.tensor(action.choices, device=policy.device)
        assert actions.dtype == torch.int64
        assert actions.shape == ((robots,) if isinstance(action, DiscreteSpec) else (robots, len(action.choices)))
        assert bool(((actions >= 0) & (actions < counts)).all())

    def test_memory_fits_the_spec(self, policy: Policy) -> None:
        state = policy.initial_state(ROBOTS)
        for step in range(2):
            found = {} if state is None else {name: (part.shape, part.dtype) for name, part in state.items()}
            expected = {
                name: ((ROBOTS, *spec.shape), torch.from_numpy(np.empty(0, spec.dtype)).dtype)
                for name, spec in policy.spec.memory.items()
            }
            assert found == expected
            assert all(part.device == policy.device for part in (state or {}).values())
            _, state = policy(example_observations(policy, ROBOTS, seed=step), state)

    def test_memory_is_left_as_it_was(self, policy: Policy) -> None:
        observations = example_observations(policy, ROBOTS, seed=1)
        _, state = policy(observations, policy.initial_state(ROBOTS))
        first, _ = policy(observations, state)
        policy.reset(state, torch.ones(ROBOTS, dtype=torch.bool, device=policy.device))
        again, _ = policy(observations, state)
        assert_same_actions(policy, again, first)

    def test_memory_of_other_robots_is_refused(self, policy: Policy) -> None:
        if not policy.spec.memory:
            pytest.skip("this policy has no memory")
        for state in (policy.initial_state(ROBOTS - 1), None):
            with pytest.raises(PolicyError, match=r"the state is .*; give that of initial_state\(5\)"):
                policy(example_observations(policy, ROBOTS, seed=1), state)

    def test_observations_are_left_as_they_were(self, policy: Policy) -> None:
        observations = example_observations(policy, ROBOTS, seed=2)
        before = {key: tensor.clone() for key, tensor in observations.items()}
        policy(observations, policy.initial_state(ROBOTS))
        assert observations.keys() == before.keys()
        assert all(torch.equal(observations[key], before[key]) for key in before)

    def test_rows_do_not_depend_on_the_size_of_the_batch(self, policy: Policy) -> None:
        steps = [example_observations(policy, ROBOTS, seed) for seed in (3, 30)]
        together = last_actions(policy, steps)
        alone = [
            last_actions(policy, [select_rows(step, slice(row, row + 1)) for step in steps]) for row in range(ROBOTS)
        ]
        assert_same_actions(policy, together, torch.cat(alone))

    def test_rows_do_not_depend_on_their_order(self, policy: Policy) -> None:
        steps = [example_observations(policy, ROBOTS, seed) for seed in (4, 40)]
        order = [3, 0, 4, 2, 1]
        reordered = last_actions(policy, [select_rows(step, order) for step in steps])
        assert_same_actions(policy, reordered, last_actions(policy, steps)[order])

    def test_rows_do_not_depend_on_strides(self, policy: Policy) -> None:
        observations = example_observations(policy, ROBOTS, seed=5)
        reversed_strides = {
            key: tensor.permute(*reversed(range(tensor.ndim))).contiguous().permute(*reversed(range(tensor.ndim)))
            for key, tensor in observations.items()
        }
        actions, _ = policy(observations, policy.initial_state(ROBOTS))
        same, _ = policy(reversed_strides, policy.initial_state(ROBOTS))
        assert_same_actions(policy, same, actions)

    def test_a_row_of_nan_stays_in_its_row(self, policy: Policy) -> None:
        observations = example_observations(policy, ROBOTS, seed=6)
        floating = [key for key, tensor in observations.items() if tensor.is_floating_point()]
        if not floating:
            pytest.skip("no observation of this policy can hold NaN")
        actions, _ = policy(observations, policy.initial_state(ROBOTS))
        for key in floating:
            spoiled = {**observations, key: observations[key].clone()}
            spoiled[key][1] = torch.nan
            found, state = policy(spoiled, policy.initial_state(ROBOTS))
            others = [0, 2, 3, 4]
            assert_same_actions(policy, found[others], actions[others])
            if isinstance(policy.spec.action, ArraySpec):
                assert bool(found[1].isnan().all())
            else:
                assert bool((found[1] == -1).all())
            # What the row left in its memory goes no further either, and ends with a reset.
            later, _ = policy(observations, state)
            _, undisturbed = policy(observations, policy.initial_state(ROBOTS))
            assert_same_actions(policy, later[others], policy(observations, undisturbed)[0][others])
            rows = torch.arange(ROBOTS, device=policy.device) == 1
            assert_same_actions(policy, policy(observations, policy.reset(state, rows))[0][rows], actions[rows])

    def test_reset_equals_fresh(self, policy: Policy) -> None:
        state, continued = policy.initial_state(ROBOTS), policy.initial_state(ROBOTS)
        for seed in (7, 8):
            _, state = policy(example_observations(policy, ROBOTS, seed), state)
            _, continued = policy(example_observations(policy, ROBOTS, seed), continued)
        rows = torch.tensor([True, False, True, False, False], device=policy.device)
        observations = example_observations(policy, ROBOTS, seed=9)
        actions, _ = policy(observations, policy.reset(state, rows))
        fresh, _ = policy(observations, policy.initial_state(ROBOTS))
        unbroken, _ = policy(observations, continued)
        assert_same_actions(policy, actions[rows], fresh[rows])
        assert_same_actions(policy, actions[~rows], unbroken[~rows])

    @pytest.mark.parametrize(
        ("spoil", "found"),
        [
            (lambda tensor: tensor[:, None], r"\[5, 1"),
            (lambda tensor: tensor.to(torch.complex64), "complex64"),
            (lambda tensor: tensor.to("meta"), "on meta"),
        ],
        ids=["shape", "dtype", "device"],
    )
    def test_an_observation_that_does_not_fit_is_refused(
        self, policy: Policy, spoil: Callable[[torch.Tensor], torch.Tensor], found: str
    ) -> None:
        observations = example_observations(policy, ROBOTS, seed=10)
        key = next(iter(observations))
        with pytest.raises(PolicyError, match=rf"observation '{key}' is .*{found}"):
            policy({**observations, key: spoil(observations[key])}, policy.initial_state(ROBOTS))

    def test_other_keys_are_refused(self, policy: Policy) -> None:
        observations = example_observations(policy, ROBOTS, seed=11)
        with pytest.raises(PolicyError, match="'sonar'"):
            policy({**observations, "sonar": torch.zeros(ROBOTS, 1)}, policy.initial_state(ROBOTS))

    def test_masked_choices_are_not_taken(self, policy: Policy) -> None:
        if not policy.spec.mask:
            pytest.skip("this policy takes no masks")
        action = policy.spec.action
        assert isinstance(action, (DiscreteSpec, MultiDiscreteSpec))
        counts = (action.n,) if isinstance(action, DiscreteSpec) else action.choices
        observations = example_observations(policy, ROBOTS, seed=12)
        free, _ = policy(observations, policy.initial_state(ROBOTS))
        everything = torch.ones(ROBOTS, policy.spec.mask, dtype=torch.bool, device=policy.device)
        same, _ = policy(observations, policy.initial_state(ROBOTS), masks=everything)
        assert_same_actions(policy, same, free)

        # What was chosen is forbidden in rows 0 and 1, and everything in row 2.
        masks = everything.clone()
        for row in (0, 1):
            chosen = free[row].reshape(-1).tolist()
            for index, (first, choice) in enumerate(zip(np.cumsum([0, *counts]), chosen, strict=False)):
                assert choice < counts[index]
                masks[row, first + choice] = False
        masks[2] = False
        masked, _ = policy(observations, policy.initial_state(ROBOTS), masks=masks)
        assert bool((masked[:2] != free[:2]).all()) and bool((masked[:2] >= 0).all())
        assert bool((masked[2] == -1).all())
        assert_same_actions(policy, masked[3:], free[3:])

    def test_masks_that_do_not_fit_are_refused(self, policy: Policy) -> None:
        observations = example_observations(policy, ROBOTS, seed=13)
        masks = torch.ones(ROBOTS, policy.spec.mask + 1, dtype=torch.bool, device=policy.device)
        message = "masks are bool" if policy.spec.mask else "masks were given"
        with pytest.raises(PolicyError, match=message):
            policy(observations, policy.initial_state(ROBOTS), masks=masks)
