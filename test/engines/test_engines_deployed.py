# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The engine that the node takes at configure: as many robots at a time as memory allows, and one that can tick."""

from pathlib import Path
from typing import Any

import pytest
import torch
from node_harness import parameters_of
from policy_conformance import load_trusted

from policy_node.config.schema import ConfigurationError, parse_configuration
from policy_node.engines import choice
from policy_node.policies import Policy, WrappedPolicy
from policy_node.ros import deployment
from policy_node.ros.deployment import deploy


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every test a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class Hungry(WrappedPolicy):
    """A policy that needs more memory than there is for more than some robots at a time."""

    def __init__(self, policy: Policy, most: int) -> None:
        super().__init__(policy)
        self._most = most

    def act(self, observations: Any, memory: Any, masks: Any) -> Any:
        if len(next(iter(observations.values()))) > self._most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.source.act(observations, memory, masks)


def deployed(file: Path, robots: int, **changes: Any) -> deployment.Deployment:
    names = [f"robot_{index}" for index in range(robots)]
    given = {"policy.engine": "auto", **{name.replace("__", "."): value for name, value in changes.items()}}
    return deploy(parse_configuration(parameters_of(file, names, given)))


@pytest.mark.parametrize(("most", "expected"), [(10, 10), (5, 5), (4, 4), (1, 1)])
def test_where_memory_runs_out_fewer_robots_are_inferred_at_a_time(
    model: Any, monkeypatch: pytest.MonkeyPatch, most: int, expected: int
) -> None:
    file, _ = model()
    monkeypatch.setattr(deployment, "load_policy", lambda *_, **__: Hungry(load_trusted(file), most))
    found = deployed(file, 10).engine
    assert found.robots <= most and found.robots >= expected // 2 and (found.too_many > most) == (most < 10)
    if most < 10:
        assert f"memory ran out with {found.too_many}" in str(found)


def test_too_little_memory_for_one_robot_is_an_error(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    file, _ = model()
    monkeypatch.setattr(deployment, "load_policy", lambda *_, **__: Hungry(load_trusted(file), 0))
    with pytest.raises(ConfigurationError, match=r"policy\.path: there is not enough memory on cpu for a single robot"):
        deployed(file, 4)


def test_max_batch_limits_the_robots_in_one_inference(model: Any) -> None:
    file, _ = model()
    assert deployed(file, 7, policy__max_batch=3, policy__engine="direct").engine.robots == 3
    assert deployed(file, 7, policy__engine="direct").engine.robots == 7


def test_an_engine_that_cannot_be_used_names_its_parameter(model: Any) -> None:
    file, _ = model()
    with pytest.raises(
        ConfigurationError, match=r"policy\.engine: 'cuda_graph' needs a GPU, but the policy runs on cpu"
    ):
        deployed(file, 2, policy__engine="cuda_graph")


def test_an_engine_that_fails_only_in_the_tick_is_replaced(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    file, _ = model()
    warm_up, calls = deployment.Pipeline.warm_up, []

    def failing_once(pipeline: Any) -> None:
        calls.append(pipeline.policy)
        if len(calls) == 1:
            raise RuntimeError("the graph cannot be recorded")
        warm_up(pipeline)

    monkeypatch.setattr(deployment.Pipeline, "warm_up", failing_once)
    slow_ms = {"direct": 2.0}
    monkeypatch.setattr(choice, "measure", lambda usable, trial: {name: slow_ms.get(name, 1.0) for name in usable})
    found = deployed(file, 2).engine
    assert found.name == "direct" and len(calls) == 2
    assert "RuntimeError: the graph cannot be recorded" in found.excluded.values()
