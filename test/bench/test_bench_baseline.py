# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Today's loop calls the policy for each robot or once for all, with the same actions."""

import numpy as np
import pytest
from gymnasium import spaces

from policy_node_bench.baseline import Seen, predict_batch, predict_each
from policy_node_bench.harness.untrained import untrained_model

SPACE = spaces.Dict({"image": spaces.Box(0, 255, (36, 48, 3), np.uint8), "touch": spaces.Box(0, np.inf, (8,))})


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Return a model as the loop loads it: the saved space of images has the channels first."""
    file = tmp_path_factory.mktemp("model") / "model.zip"
    made = untrained_model(SPACE, spaces.Box(-1.0, 1.0, (2,)))
    made.save(file)
    return type(made).load(file, device="cpu")


@pytest.mark.both_distributions
@pytest.mark.parametrize("robots", [1, 3])
def test_one_call_for_all_robots_gives_the_actions_of_a_call_for_each(model, robots):
    SPACE.seed(0)
    # As `TodaysLoop` does, for robots of a fleet of which some have no readings yet.
    seen = [Seen(2 * robot, robot, SPACE.sample()) for robot in range(robots)]
    each, batch = list(predict_each(model, seen)), list(predict_batch(model, seen))
    assert [found.robot for found, _ in each] == [found.robot for found, _ in batch] == [2 * n for n in range(robots)]
    np.testing.assert_allclose([action for _, action in batch], [action for _, action in each], atol=1e-5)
    # Different robots do different things, so that their order counts.
    assert len({tuple(np.round(action, 5)) for _, action in batch}) == robots


@pytest.mark.both_distributions
def test_without_readings_there_are_no_actions(model):
    assert list(predict_each(model, [])) == list(predict_batch(model, [])) == []
