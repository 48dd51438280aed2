# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Snapshots of some robots, and the plans of a policy for them, without a pipeline."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from policy_node.config.specs import ActionSpec, ArraySpec, DiscreteSpec, MultiDiscreteSpec, PolicySpec
from policy_node.control.planner import Planner, PlanRequest
from policy_node.policies import Policy
from policy_node.policies.contract import Tensors

CPU = torch.device("cpu")
ROBOTS, ROWS, HORIZON = 5, 3, 2
Act = Callable[[Tensors], torch.Tensor]


class Fixed(Policy):
    """Acts by a function, and sums its observation `x` in its memory."""

    def __init__(self, act: Act, action: ActionSpec, horizon: int = HORIZON) -> None:
        x = ArraySpec("x", (1,), np.dtype(np.float32), -np.inf, np.inf)
        super().__init__(PolicySpec({"x": x}, action, "Fixed", "", {"sum": x}, horizon=horizon), CPU)
        self._act = act

    def act(self, observations: Tensors, memory: Tensors, masks: torch.Tensor | None) -> tuple[torch.Tensor, Tensors]:
        total = memory["sum"] + observations["x"]
        return self._act({**observations, "sum": total}), {"sum": total}


BOX = ArraySpec("action", (2,), np.dtype(np.float32), -np.inf, np.inf)


def planner_of(act: Act, action: ActionSpec = BOX, horizon: int = HORIZON) -> Planner:
    return Planner(Fixed(act, action, horizon), ROBOTS, ROWS, ["image"], 1)


def request_of(planner: Planner, robots: list[int], *restart: int) -> PlanRequest:
    """Return a snapshot in which robot number n observes n + 1."""
    observations = {"x": torch.arange(1.0, ROBOTS + 1)[:, None]}
    restarted = np.isin(np.arange(ROBOTS), restart)
    return planner.snapshot(np.array(robots), 7, 10 + np.arange(ROBOTS), observations, restarted)


def sums(inputs: Tensors) -> torch.Tensor:
    return inputs["sum"][:, None, :].repeat(1, HORIZON, 2)


def test_a_snapshot_keeps_what_changes_later_and_repeats_the_first_robot() -> None:
    x = torch.arange(float(ROBOTS))[:, None]
    # The channels come last in memory, and first for the policy.
    image = torch.arange(ROBOTS * 4 * 5 * 3.0).reshape(ROBOTS, 4, 5, 3).movedim(-1, -3)
    restart, episodes = np.array([False, True, False, False, True]), np.arange(ROBOTS)
    expected = image[[4, 1, 4]].clone()
    request = planner_of(sums).snapshot(np.array([4, 1]), 7, episodes, {"x": x, "image": image}, restart)
    for array in (x, image, restart, episodes):
        array[:] = 0
    assert (request.robots.tolist(), request.start_ns, request.episodes.tolist()) == ([4, 1], 7, [4, 1])
    assert request.observations["x"].tolist() == [[4.0], [1.0], [4.0]]
    assert torch.equal(request.observations["image"], expected)
    assert request.observations["image"].movedim(-3, -1).is_contiguous()
    assert request.restart.tolist() == [True, True, True] and request.ready is None


def test_each_robot_has_its_own_memory_until_its_episode_ends_or_all_is_forgotten() -> None:
    planner = planner_of(sums)

    def planned(robots: list[int], *restart: int) -> list[float]:
        found = planner.run(request_of(planner, robots, *restart))
        assert found.error is None and found.actions is not None
        assert found.actions.shape == (len(robots), HORIZON, 2) and found.actions.dtype == np.float64
        return found.actions[:, -1, -1].tolist()

    assert planned([0, 1, 2]) == [1.0, 2.0, 3.0]
    assert planned([2]) == [6.0]
    assert planned([2, 4]) == [9.0, 5.0]
    assert planned([0, 1, 2], 1) == [2.0, 2.0, 12.0]
    planner.forget()
    assert planned([2, 0]) == [3.0, 1.0]


@pytest.mark.parametrize("horizon", [0, 3])
@pytest.mark.parametrize(
    ("action", "shape"),
    [(BOX, (2,)), (DiscreteSpec("action", 4), ()), (MultiDiscreteSpec("action", (4, 4, 4)), (3,))],
)
def test_plans_have_an_axis_of_actions_and_one_of_numbers(
    horizon: int, action: ActionSpec, shape: tuple[int, ...]
) -> None:
    is_array = isinstance(action, ArraySpec)
    size = (ROWS, *([horizon] if horizon else []), *shape)
    # A choice that must not be used is -1.
    given = torch.arange(-1, int(np.prod(size)) - 1).reshape(size) % (10**9 if is_array else 4)
    given.view(-1)[0] = -1
    planner = planner_of(lambda _: given.float() if is_array else given, action, horizon)
    found = planner.run(request_of(planner, [3, 1])).actions
    assert found is not None
    expected = given[:2].reshape(2, max(1, horizon), -1).double()
    if not is_array:
        expected[expected < 0] = torch.nan
    np.testing.assert_array_equal(found, expected.numpy())


def test_what_a_policy_raises_is_part_of_the_result_and_so_are_actions_of_a_wrong_shape() -> None:
    def fail(inputs: Tensors) -> torch.Tensor:
        raise RuntimeError("the network failed")

    for act, error in (
        (fail, "the network failed"),
        (lambda inputs: sums(inputs)[:2], r"its actions are \[2, 2, 2\], not \[3, 2, 2\]"),
    ):
        planner = planner_of(act)
        request = request_of(planner, [1])
        planner.request(request)
        found = planner.collect()
        assert found is not None and found.request is request and found.actions is None and found.inference_s >= 0.0
        with pytest.raises((RuntimeError, ValueError), match=error):
            raise found.error or AssertionError
        assert planner.busy_since_s is None and planner.collect() is None


def test_an_inference_beside_the_caller_is_dropped_with_its_thread() -> None:
    planner = planner_of(sums)
    assert planner.end(0.0) and not planner.is_in_background
    planner.start(request_of(planner, [0]))
    thread = planner._background.thread if planner._background is not None else None
    planner.start(request_of(planner, [0]))
    assert planner._background is not None and planner._background.thread is thread and planner.is_in_background
    planner.request(request_of(planner, [1]))
    assert planner.busy_since_s is not None
    # It ends after the inference, whose result nobody wants.
    assert planner.end(60.0) and not planner.is_in_background
    assert planner.busy_since_s is None and planner.collect() is None
    # In the calling thread again: the first run of the thread counts for no memory.
    planner.forget()
    planner.request(request_of(planner, [1]))
    found = planner.collect()
    assert found is not None and found.actions is not None and found.actions[0, 0].tolist() == [2.0, 2.0]
