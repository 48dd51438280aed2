# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Engines act as the policy does or are left out; the fastest is taken and remembered; chunks change nothing."""

import json
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import parity_cases as cases
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_cases import Case
from policy_conformance import PolicyConformance, assert_same_actions, example_observations, load_trusted
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecNormalize, unwrap_vec_wrapper
from torch import nn

from policy_node.engines import (
    EngineError,
    EngineSettings,
    choice,
    choose_engine,
    chunk_size,
    in_chunks,
)
from policy_node.engines.backends import EngineRequest, onnxruntime, torchscript
from policy_node.engines.parity import ParityTrial
from policy_node.engines.tracing import EnginePolicy
from policy_node.engines.wrapped import CapturedPolicy
from policy_node.policies import Policy, WrappedPolicy

ROBOTS = 5
RECURRENT = Case("RecurrentPPO", "vector", "normalise, stack", arguments={"use_sde": True})
KINDS = [
    Case("PPO", "vector"),
    Case("PPO", "Dict with categories", actions=("MultiDiscrete",)),
    Case("PPO", "Dict", "normalise, stack"),
    Case("SAC", "vector", "stack, normalise"),
    Case("CrossQ", "vector"),
    Case("QRDQN", "vector"),
    Case("TD3", "image CHW"),
    Case("TRPO", "vector", actions=("MultiBinary",)),
    Case("MaskablePPO", "vector", actions=("MultiDiscrete",)),
    RECURRENT,
]
ENGINES = ("torchscript", "onnxruntime")


LOADED: dict[str, Policy] = {}


def load(case: Case) -> Policy:
    """Return the policy of a case, made once."""
    name = f"{case}-{case.actions}"
    if name not in LOADED:
        LOADED[name] = make(case)
    return LOADED[name]


def make(case: Case) -> Policy:
    """Make, save and load the model of a case."""
    action = case.actions[0] if case.actions else cases.action_names(case.algorithm)[0]
    with tempfile.TemporaryDirectory() as folder:
        file, statistics = Path(folder) / "model.zip", Path(folder) / "vecnormalize.pkl"
        _, venv = cases.make_environments(case, action)
        cases.make_model(case, venv).save(file)
        normaliser = unwrap_vec_wrapper(venv, VecNormalize)
        if normaliser is not None:
            venv.reset()
            normaliser.save(statistics)
        return load_trusted(file, vecnormalize=statistics if normaliser is not None else None)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give every test a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "policy_node"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, float]], list[list[str]]]:
    """Return a function that sets what measuring finds in milliseconds, and gives what was measured since."""

    def replace(found: dict[str, float]) -> list[list[str]]:
        calls: list[list[str]] = []

        def measure(usable: Any, trial: Any) -> dict[str, float]:
            calls.append(list(usable))
            return {label: found.get(label, 9.0) for label in calls[-1]}

        monkeypatch.setattr(choice, "measure", measure)
        return calls

    return replace


@pytest.fixture(
    params=[(case, engine) for case in (*KINDS[:3], *KINDS[-2:]) for engine in ENGINES], ids=str, scope="module"
)
def of_engine(request: pytest.FixtureRequest) -> Policy:
    """Return the policy of a case run by an engine."""
    case, engine = request.param
    policy, chosen = choose_engine(load(case), ROBOTS, EngineSettings(engine), images_of(load(case)))
    assert chosen.name == engine
    return policy


class TestConformance(PolicyConformance):
    @pytest.fixture
    def policy(self, of_engine: Policy) -> Policy:
        return of_engine


class TestChunksConform(PolicyConformance):
    @pytest.fixture(params=[RECURRENT, KINDS[0], KINDS[8]], ids=str)
    def policy(self, request: pytest.FixtureRequest) -> Policy:
        return in_chunks(load(request.param), ROBOTS, 2)


class TestCapturedConforms(PolicyConformance):
    @pytest.fixture(params=[RECURRENT, KINDS[0], KINDS[8]], ids=str)
    def policy(self, request: pytest.FixtureRequest) -> Policy:
        return CapturedPolicy(load(request.param), ROBOTS)

    def test_memory_is_left_as_it_was(self, policy: Policy) -> None:
        pytest.skip("what a call returns is valid until the next one")

    def test_rows_do_not_depend_on_the_size_of_the_batch(self, policy: Policy) -> None:
        pytest.skip("what a call returns is valid until the next one")


def images_of(policy: Policy) -> list[str]:
    return [key for key, spec in policy.spec.observations.items() if len(spec.shape) == 3]


@pytest.mark.parametrize("case", KINDS, ids=str)
def test_every_engine_that_is_built_acts_as_the_policy(case: Case) -> None:
    policy = load(case)
    run_by, chosen = choose_engine(policy, 4, EngineSettings(), images_of(policy))
    assert chosen.name in chosen.measured_ms and set(ENGINES) <= set(chosen.measured_ms), chosen
    state, expected_state = run_by.initial_state(4), policy.initial_state(4)
    for seed in range(3):
        observations = example_observations(policy, 4, seed)
        actions, state = run_by(observations, state)
        expected, expected_state = policy(observations, expected_state)
        assert_same_actions(policy, actions, expected)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"direct": 1.0, "torchscript": 0.8, "onnxruntime": 0.9}, "torchscript"),
        ({"direct": 1.0, "torchscript": 0.9, "onnxruntime": 0.5}, "onnxruntime"),
        ({"direct": 1.0, "torchscript": 0.97, "onnxruntime": 2.0}, "direct"),
    ],
    ids=["the fastest", "another one", "no gain beyond noise"],
)
def test_the_fastest_is_taken(measured: Any, found: dict[str, float], expected: str) -> None:
    measured(found)
    policy, chosen = choose_engine(load(KINDS[0]), ROBOTS, EngineSettings())
    assert chosen.name == expected and chosen.measured_ms == found and not chosen.remembered
    assert policy.engine_name == expected


def test_a_choice_is_remembered_for_the_same_policy_and_robots(measured: Any, own_cache: Path) -> None:
    calls = measured({"onnxruntime": 0.5, "direct": 1.0})
    policy = load(KINDS[0])
    first = choose_engine(policy, ROBOTS, EngineSettings())[1]
    run_by, again = choose_engine(policy, ROBOTS, EngineSettings())
    assert len(calls) == 1 and again.remembered and again.name == first.name == "onnxruntime"
    assert again.measured_ms == first.measured_ms and again.excluded == first.excluded
    assert run_by.engine_name == "onnxruntime"
    choose_engine(policy, ROBOTS + 1, EngineSettings())
    choose_engine(policy, ROBOTS, EngineSettings(threads=2))
    choose_engine(load(KINDS[3]), ROBOTS, EngineSettings())
    assert len(calls) == 4


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"key": 1}', None])
def test_a_damaged_entry_is_measured_anew(measured: Any, own_cache: Path, damage: bytes | None) -> None:
    calls = measured({"torchscript": 0.5, "direct": 1.0})
    choose_engine(load(KINDS[0]), ROBOTS, EngineSettings())
    (file,) = (own_cache / "engines").iterdir()
    if damage is None:
        entry = json.loads(file.read_text())
        file.write_text(json.dumps({**entry, "value": {**entry["value"], "measured_ms": "fast"}}))
    else:
        file.write_bytes(damage)
    again = choose_engine(load(KINDS[0]), ROBOTS, EngineSettings())[1]
    assert len(calls) == 2 and again.name == "torchscript"


def test_a_cache_that_cannot_be_written_is_done_without(own_cache: Path) -> None:
    own_cache.parent.write_text("no folder")
    assert choose_engine(load(KINDS[0]), ROBOTS, EngineSettings())[1].measured_ms


class Spoiled(WrappedPolicy):
    """A policy whose actions are changed, by a function of them and of the first observation."""

    def __init__(self, source: Policy, change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__(source)
        self.change = change

    def act(self, observations: Any, memory: Any, masks: Any) -> Any:
        actions, after = self.source.act(observations, memory, masks)
        return self.change(actions, next(iter(observations.values()))), after


def replace_build(monkeypatch: pytest.MonkeyPatch, module: Any, build: Callable[[EngineRequest], Policy]) -> None:
    monkeypatch.setattr(module, "ENGINE", replace(module.ENGINE, build=build))


def test_an_engine_that_fails_or_differs_is_left_out_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(request: EngineRequest) -> Policy:
        raise RuntimeError("no kernel\nfor this network")

    replace_build(monkeypatch, torchscript, lambda request: Spoiled(request.policy, lambda actions, _: actions + 0.01))
    replace_build(monkeypatch, onnxruntime, broken)
    policy, chosen = choose_engine(load(KINDS[0]), ROBOTS, EngineSettings())
    assert policy is load(KINDS[0]) and chosen.name == "direct"
    assert "of the action range from the policy, allowed is 1e-05" in chosen.excluded["torchscript"]
    assert chosen.excluded["onnxruntime"] == "RuntimeError: no kernel"
    with pytest.raises(EngineError, match="RuntimeError: no kernel; use 'auto' or 'direct'"):
        choose_engine(load(KINDS[0]), ROBOTS, EngineSettings("onnxruntime"))


def test_a_missing_package_of_an_engine_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # rosdep has no key for it, so that a robot may lack it.
    monkeypatch.setitem(sys.modules, "onnx", None)
    chosen = choose_engine(load(KINDS[0]), ROBOTS, EngineSettings())[1]
    assert chosen.excluded["onnxruntime"] == "onnx is not installed; pip install onnx onnxruntime"


def test_robots_that_influence_each_other_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def mix(actions: torch.Tensor, observations: torch.Tensor) -> torch.Tensor:
        return actions + 0.01 * observations.nan_to_num()[:1].sum()

    replace_build(monkeypatch, torchscript, lambda request: Spoiled(request.policy, mix))
    with pytest.raises(EngineError, match="it differs by"):
        choose_engine(load(KINDS[0]), ROBOTS, EngineSettings("torchscript"))


class Branching(BaseFeaturesExtractor):
    """Does one thing or another, as the values are."""

    def __init__(self, observation_space: Any) -> None:
        super().__init__(observation_space, features_dim=observation_space.shape[0])
        self.layer = nn.Linear(self.features_dim, self.features_dim)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return self.layer(observations) if observations.abs().max() < 100.0 else observations


def test_a_network_that_branches_on_values_is_not_recorded() -> None:
    kwargs = {"policy_kwargs": {"features_extractor_class": Branching}}
    policy = load(Case("PPO", "vector", option="branching", arguments=kwargs))
    run_by, chosen = choose_engine(policy, ROBOTS, EngineSettings())
    assert run_by is policy and chosen.name == "direct"
    assert all("its computation depends on values" in chosen.excluded[engine] for engine in ENGINES)


@pytest.mark.parametrize("case", [*KINDS[:2], KINDS[6], RECURRENT], ids=str)
def test_onnxruntime_is_measured_as_a_tick_runs_it(case: Case) -> None:
    """The session is bound once, to tensors whose numbers change."""
    policy, images = load(case), frozenset(images_of(load(case)))
    run_by, _ = choose_engine(policy, ROBOTS, EngineSettings("onnxruntime"), images)
    trial = ParityTrial(policy, ROBOTS, images)
    assert not isinstance(choice.one_call(policy, trial)(), list)
    assert isinstance(choice.one_call(run_by, trial)(), list)
    assert isinstance(run_by, EnginePolicy)
    observations, memory = trial.observations, policy.initial_state(ROBOTS)
    call = run_by.bound(observations, memory)
    assert call is not None
    for seed in range(3):
        for key, drawn in example_observations(policy, ROBOTS, seed).items():
            observations[key].copy_(drawn)
        expected, _ = policy(observations, memory)
        assert_same_actions(policy, call()[0], expected)


def test_beside_a_policy_that_drives_nothing_is_measured(measured: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = measured({"onnxruntime": 0.5, "direct": 1.0})
    policy = load(KINDS[0])
    # As an engine that takes long to build.
    monkeypatch.setattr(onnxruntime, "ENGINE", replace(onnxruntime.ENGINE, is_quick=False))
    for driving, expected in (("torchscript", "torchscript"), ("direct", "direct"), ("onnxruntime", "direct")):
        run_by, chosen = choose_engine(policy, ROBOTS, EngineSettings(), beside=driving)
        assert chosen.name == run_by.engine_name == expected and not chosen.measured_ms
    assert not calls
    choose_engine(policy, ROBOTS, EngineSettings())
    assert choose_engine(policy, ROBOTS, EngineSettings(), beside="direct")[1].name == "onnxruntime"
    assert len(calls) == 1


def test_lower_precision_is_tried_only_where_it_is_allowed() -> None:
    assert not any(" " in name for name in choose_engine(load(KINDS[0]), ROBOTS, EngineSettings())[1].measured_ms)
    chosen = choose_engine(load(KINDS[0]), ROBOTS, EngineSettings(precision="bfloat16"))[1]
    assert {"direct bfloat16", "torchscript bfloat16"} <= {*chosen.measured_ms, *chosen.excluded}
    named = choose_engine(load(KINDS[0]), ROBOTS, EngineSettings("direct", "bfloat16"))[1]
    assert named.name in ("direct", "direct bfloat16")


@given(robots=st.integers(1, 40), most=st.integers(1, 40))
def test_chunks_are_few_and_equal(robots: int, most: int) -> None:
    size = chunk_size(robots, most)
    assert 1 <= size <= min(robots, most)
    # As many chunks as are needed, none of them a row larger than needed.
    assert -(-robots // size) == -(-robots // min(robots, most))
    assert size == 1 or -(-robots // (size - 1)) > -(-robots // size)


@settings(max_examples=25, deadline=None)
@given(robots=st.integers(1, 12), rows=st.integers(1, 12), seed=st.integers(0, 99))
def test_chunks_change_neither_actions_nor_memories(robots: int, rows: int, seed: int) -> None:
    policy = load(RECURRENT)
    chunked = in_chunks(policy, robots, chunk_size(robots, rows))
    rng = np.random.default_rng(seed)
    state, expected_state = chunked.initial_state(robots), policy.initial_state(robots)
    for step in range(3):
        observations = example_observations(policy, robots, seed + step)
        restarted = torch.from_numpy(rng.random(robots) < 0.4)
        actions, state = chunked(observations, chunked.reset(state, restarted))
        expected, expected_state = policy(observations, policy.reset(expected_state, restarted))
        assert_same_actions(policy, actions, expected)
        for name, part in (expected_state or {}).items():
            torch.testing.assert_close((state or {})[name], part, rtol=0.0, atol=1e-5)


def test_a_file_with_an_engine_of_its_own_keeps_it(tmp_path: Path) -> None:
    from policy_node.cli.export import export_policy

    case = KINDS[0]
    _, venv = cases.make_environments(case, "Box")
    cases.make_model(case, venv).save(tmp_path / "model.zip")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export_policy(tmp_path / "model.zip", "torchscript", tmp_path / "model.pt")
    policy = load_trusted(tmp_path / "model.pt")
    for engine in ("auto", "torchscript"):
        run_by, chosen = choose_engine(policy, ROBOTS, EngineSettings(engine))
        assert run_by is policy and chosen.name == "torchscript"
    with pytest.raises(EngineError, match="'onnxruntime' cannot run this file, which 'torchscript' runs; use 'auto'"):
        choose_engine(policy, ROBOTS, EngineSettings("onnxruntime"))
