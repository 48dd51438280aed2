# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Policies that take a text for each robot, in the whole tick without ROS."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from instructed import STEP, save_instructed
from test_planned_pipeline import READY, SAFE, WAITING, Echo, Plans, Rig, save

from policy_node.config.schema import ConfigurationError
from policy_node.config.tasks import MAX_TASK_BYTES, decode_tasks, encode_task, task_problem
from policy_node.control.tick import FleetTick


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_instructed(tmp_path_factory.mktemp("policy") / "plans.pt", 2)


@pytest.fixture(scope="module")
def action(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_instructed(tmp_path_factory.mktemp("policy") / "action.pt", 2, horizon=0)


@pytest.fixture
def make_rig() -> Iterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def make(file: Path, **changes: Any) -> Rig:
        shape = {"observations__touch__shape": []}
        made.append(Rig(file, **shape, **changes))
        made[-1].pipeline.start()
        return made[-1]

    yield make
    for rig in made:
        assert rig.pipeline.end(20.0)


@given(st.text())
def test_a_text_that_is_allowed_comes_back_from_its_row(text: str) -> None:
    problem = task_problem(text)
    assert bool(problem) is (not text.strip() or "\0" in text or len(text.encode()) > MAX_TASK_BYTES)
    if not problem:
        assert decode_tasks(encode_task(text)[None]) == [text]


@given(st.binary(min_size=MAX_TASK_BYTES, max_size=MAX_TASK_BYTES))
def test_any_row_is_a_text(row: bytes) -> None:
    (text,) = decode_tasks(np.frombuffer(row, np.uint8)[None])
    assert "\0" not in text


def test_a_text_that_is_no_unicode_is_refused() -> None:
    assert "no Unicode" in task_problem("pick \udcff")


@pytest.mark.parametrize("inference", ["tick", "background"])
def test_each_robot_is_told_its_own_text(
    plans: Path, action: Path, make_rig: Callable[..., Rig], inference: str
) -> None:
    for file in (plans, action):
        told = make_rig(file, policy__task=["go 1", "go 2", "go 5"], policy__inference=inference)
        alike = make_rig(file, policy__task=["go 3"], policy__inference=inference)
        for rig, numbers in ((told, [1, 2, 5]), (alike, [3, 3, 3])):
            for _ in range(3):
                tick = rig.tick()
                rig.wait()
            assert tick.states == (READY,) * 3
            np.testing.assert_allclose(tick.commands[:, 0], numbers, atol=3 * STEP)
            np.testing.assert_allclose(tick.commands[:, 1], 0.5, atol=3 * STEP)
    assert tick.tasks == ("go 3",) * 3


def test_a_node_with_a_shard_tells_its_robots_their_texts(plans: Path, make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(plans, robots=4, policy__task=["1", "2", "3", "4"], shard="1/2")
    rig.readings = {0: (0.0, 0.5), 1: (0.0, 0.5)}
    assert rig.tick().tasks == ("3", "4")


def test_a_new_text_acts_at_once_where_the_policy_runs_in_the_tick(
    plans: Path, action: Path, make_rig: Callable[..., Rig]
) -> None:
    for file in (plans, action):
        rig = make_rig(file, policy__task=["go 1"])
        for _ in range(3):
            rig.tick()
        rig.pipeline.set_task(1, "go 9")
        tick = rig.tick()
        assert tick.states == (READY,) * 3 and tick.fresh_start.tolist() == [False, True, False]
        np.testing.assert_allclose(tick.commands[:, 0], [1, 9, 1], atol=4 * STEP)
        # The same text again changes nothing.
        rig.pipeline.set_task(1, "go 9")
        assert not rig.tick().fresh_start.any()


def test_a_plan_of_the_text_before_is_not_executed_in_the_background(plans: Path, make_rig: Callable[..., Rig]) -> None:
    """Neither the one that the robot follows, nor the one that is computed when the text comes."""
    rig = make_rig(plans, policy__task=["go 1"], policy__inference="background", chunk__replan_every=1)
    for _ in range(3):
        rig.tick()
        rig.wait()
    # Requests plans of all robots, of the text before.
    rig.tick()
    rig.pipeline.set_task(1, "go 9")
    rig.wait()
    tick = rig.tick()
    assert tick.states == (READY, WAITING, READY) and tick.reasons[1].startswith("it waits for its first plan")
    np.testing.assert_array_equal(tick.commands[1], SAFE)
    assert tick.planned is not None and 1 in tick.planned.requested
    rig.wait()
    tick = rig.tick()
    assert tick.states == (READY,) * 3
    np.testing.assert_allclose(tick.commands[:, 0], [1, 9, 1], atol=5 * STEP)


def test_a_robot_without_a_text_waits_for_it(plans: Path, make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(plans, policy__task_topic="task")
    tick = rig.tick()
    assert tick.states == (WAITING,) * 3
    assert tick.reasons[2] == "it waits for its first text on robot_2/task"
    np.testing.assert_array_equal(tick.commands, [SAFE] * 3)
    rig.pipeline.set_task(2, "go 4")
    tick = rig.tick()
    assert tick.states == (WAITING, WAITING, READY)
    np.testing.assert_allclose(tick.commands[2, 0], 4)


def test_a_swap_keeps_the_texts(plans: Path, action: Path, make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(plans, policy__task=["go 1"])
    rig.pipeline.set_task(0, "go 7")
    rig.tick()
    other = make_rig(plans, policy__task=["go 1"]).pipeline
    rig.pipeline.adopt(other)
    np.testing.assert_allclose(rig.tick().commands[:, 0], [7, 1, 1], atol=STEP)
    rig.pipeline.adopt(make_rig(action, policy__task=["go 1"]).pipeline)
    tick = rig.tick()
    np.testing.assert_array_equal(tick.commands[:, 0], [7, 1, 1])


def test_a_swap_with_other_configured_texts_tells_the_robots_anew(plans: Path, make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(plans, policy__task=["go 1"])
    rig.pipeline.set_task(0, "go 7")
    rig.tick()
    assert not rig.tick().fresh_start.any()
    rig.pipeline.adopt(make_rig(plans, policy__task=["go 3", "go 1", "go 1"]).pipeline)
    tick = rig.tick()
    np.testing.assert_allclose(tick.commands[:, 0], [3, 1, 1], atol=STEP)
    # Only the episode of the robot whose text has changed restarts.
    assert tick.fresh_start.tolist() == [True, False, False]
    # Without configured texts those of the robots stay.
    rig.pipeline.adopt(make_rig(plans, policy__task_topic="task").pipeline)
    assert rig.tick().tasks == ("go 3", "go 1", "go 1")


@pytest.mark.parametrize("inference", ["tick", "background"])
def test_a_policy_without_a_text_takes_over_and_the_texts_wait_for_the_next_one_with_one(
    plans: Path, tmp_path: Path, make_rig: Callable[..., Rig], inference: str
) -> None:
    changes = {"policy__inference": inference, "policy__task_topic": "task", "chunk__replan_every": 1}
    rig = make_rig(plans, **changes)

    def settled() -> FleetTick:
        for _ in range(4):
            tick = rig.tick()
            rig.wait()
        return tick

    rig.pipeline.set_task(0, "go 7")
    rig.pipeline.set_task(1, "go 8")
    assert settled().states == (READY, READY, WAITING)

    file = save_instructed(tmp_path / "untold.pt", 2, takes_task=False)
    with pytest.warns(match=r"policy\.task_topic: given, but the policy takes no text; the texts are kept for"):
        untold = make_rig(file, beside="torchscript", **changes)
    rig.pipeline.adopt(untold.pipeline)
    tick = settled()
    # Also the robot that has no text.
    assert tick.states == (READY,) * 3 and tick.tasks == ()
    np.testing.assert_allclose(tick.commands[:, 0], 0.5, atol=5 * STEP)
    rig.pipeline.set_task(1, "go 9")
    assert not rig.tick().fresh_start.any()
    rig.wait()

    rig.pipeline.adopt(make_rig(plans, **changes).pipeline)
    tick = settled()
    assert tick.states == (READY, READY, WAITING) and tick.tasks == ("go 7", "go 9", "")
    assert tick.reasons[2] == "it waits for its first text on robot_2/task"
    np.testing.assert_allclose(tick.commands[:2, 0], [7, 9], atol=5 * STEP)
    np.testing.assert_array_equal(tick.commands[2], SAFE)


def test_texts_that_do_not_fit_are_refused_with_the_remedy(plans: Path, tmp_path: Path) -> None:
    shape = {"observations__touch__shape": []}
    with pytest.raises(ConfigurationError, match=r"policy\.task: missing, but the policy takes a text .*; give one"):
        Rig(plans, **shape)
    with pytest.raises(ConfigurationError, match=r"policy\.task: found 2 texts for 3 robots; give one for all"):
        Rig(plans, policy__task=["a", "b"], **shape)
    with pytest.raises(ConfigurationError, match=r"policy\.task: found ' ', but it is empty; say"):
        Rig(plans, policy__task=[" "], **shape)
    with pytest.raises(ConfigurationError, match=r"policy\.task: found 'x+…', but it has 513 bytes .* shorten it"):
        Rig(plans, policy__task=["x" * 513], **shape)
    for module in (Plans(), Echo()):
        file = save(module, tmp_path / f"{type(module).__name__}.pt")
        for name, value in (("task", ["go"]), ("task_topic", "task")):
            changes: dict[str, Any] = {f"policy__{name}": value}
            with pytest.raises(ConfigurationError, match=rf"policy\.{name}: given, but the policy takes no text; rem"):
                Rig(file, **changes)
