# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The conformance test of the `Policy` contract, the same for every format."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from policy_node.policies import Policy, PolicyError
from policy_node.specs import ArraySpec, DiscreteSpec

ROBOTS = 5


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


class PolicyConformance:
    """What any policy must do; a subclass gives the fixture `policy`."""

    @pytest.fixture
    def policy(self) -> Policy:
        raise NotImplementedError

    @pytest.mark.parametrize("robots", [1, 2, ROBOTS])
    def test_actions_fit_the_spec(self, policy: Policy, robots: int) -> None:
        actions, _ = policy(example_observations(policy, robots, seed=1), policy.initial_state(robots))
        assert actions.device == policy.device
        if isinstance(policy.spec.action, DiscreteSpec):
            assert actions.dtype == torch.int64
            assert actions.shape == (robots,)
            assert 0 <= int(actions.min()) <= int(actions.max()) < policy.spec.action.n
        else:
            assert actions.shape == (robots, *policy.spec.action.shape)
            for row in actions.cpu().numpy():
                policy.spec.action.validate(row)

    def test_observations_are_left_as_they_were(self, policy: Policy) -> None:
        observations = example_observations(policy, ROBOTS, seed=2)
        before = {key: tensor.clone() for key, tensor in observations.items()}
        policy(observations, policy.initial_state(ROBOTS))
        assert observations.keys() == before.keys()
        assert all(torch.equal(observations[key], before[key]) for key in before)

    def test_rows_do_not_depend_on_the_size_of_the_batch(self, policy: Policy) -> None:
        observations = example_observations(policy, ROBOTS, seed=3)
        together, _ = policy(observations, policy.initial_state(ROBOTS))
        alone = [
            policy(select_rows(observations, slice(row, row + 1)), policy.initial_state(1))[0] for row in range(ROBOTS)
        ]
        assert_same_actions(policy, together, torch.cat(alone))

    def test_rows_do_not_depend_on_their_order(self, policy: Policy) -> None:
        observations = example_observations(policy, ROBOTS, seed=4)
        order = [3, 0, 4, 2, 1]
        actions, _ = policy(observations, policy.initial_state(ROBOTS))
        reordered, _ = policy(select_rows(observations, order), policy.initial_state(ROBOTS))
        assert_same_actions(policy, reordered, actions[order])

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
            found, _ = policy(spoiled, policy.initial_state(ROBOTS))
            others = [0, 2, 3, 4]
            assert_same_actions(policy, found[others], actions[others])
            if isinstance(policy.spec.action, DiscreteSpec):
                assert int(found[1]) == -1
            else:
                assert bool(found[1].isnan().all())

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
            (lambda tensor: tensor[:, None], r"\[5, 1, "),
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
