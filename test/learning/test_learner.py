# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Episodes of single robots that begin anew within a step, without another step of the others."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch

from policy_node.config.specs import ArraySpec, PolicySpec
from policy_node.control.pipeline import Pipeline
from policy_node.learning.learner import Learner
from policy_node.sensing.batch import ObservationBatch, ObservationLayout

ROBOTS, STEPS = 3, 3
IMAGE = ArraySpec("image", (2, 4, 3), np.uint8, 0, 255)
VECTOR = ArraySpec("vector", (5,), np.float32, -1.0, 1.0)
CODE = ArraySpec("code", (5,), np.uint16, 0, 60_000)
LAYOUTS = {
    "single": ObservationLayout("key", VECTOR, 1, False),
    "stack": ObservationLayout("key", VECTOR, STEPS, False),
    "stack of 16 bits": ObservationLayout("key", CODE, STEPS, False),
    "images": ObservationLayout("key", IMAGE, STEPS, False),
    "channels first": ObservationLayout("key", IMAGE, STEPS, True),
    "history": ObservationLayout("key", VECTOR, 1, False, history=STEPS),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_reset_robots_show_a_first_step_and_others_stay_unchanged(layout: ObservationLayout) -> None:
    rng = np.random.default_rng(1)
    batch, fresh = (ObservationBatch({"key": layout}, ROBOTS, torch.device("cpu")) for _ in range(2))

    def stage(into: ObservationBatch, frames: np.ndarray) -> None:
        for robot, frame in enumerate(frames):
            into.row("key", robot)[...] = frame

    for _ in range(4):
        frames = layout.frame.example(ROBOTS, rng)
        stage(batch, frames)
        shown = batch.push(np.zeros(ROBOTS, bool))["key"].clone()
    began = np.array([False, True, False])
    frames[began] = layout.frame.example(1, rng)
    stage(batch, frames)
    again = batch.begin_again(began)["key"]
    assert torch.equal(again[~began], shown[~began])
    stage(fresh, frames)
    assert torch.equal(again[began], fresh.push(np.ones(ROBOTS, bool))["key"][began])

    # And all go on from there.
    frames = layout.frame.example(ROBOTS, rng)
    for either in (batch, fresh):
        stage(either, frames)
    nobody = np.zeros(ROBOTS, bool)
    assert torch.equal(batch.push(nobody)["key"][began], fresh.push(nobody)["key"][began])


def test_errors_of_observe_again_reach_the_learner() -> None:
    learner = Learner(PolicySpec({"vector": VECTOR}, VECTOR, "a learner", ""), torch.device("cpu"))
    # All that it asks of a pipeline before the failure.
    learner.attach(cast(Pipeline, SimpleNamespace(observed="a tick")))
    learner.begin()

    def take() -> None:
        raise OSError("the middleware is gone")

    with ThreadPoolExecutor(1) as thread:
        tick = thread.submit(learner, {"vector": torch.zeros(1, 5)}, None)
        assert learner.next_turn(60.0) is not None
        with pytest.raises(RuntimeError, match="OSError: the middleware is gone"):
            learner.observe_again(take, [0])
        assert isinstance(tick.exception(60.0), OSError)
