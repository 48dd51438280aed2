# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""A policy says how its observations are normalised, and a file that was trained otherwise is warned of."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import parity_cases as cases
import pytest
from parity_cases import Case
from policy_conformance import load_trusted
from stable_baselines3.common.vec_env import VecNormalize

from policy_node.cli.export import export_policy, main
from policy_node.policies import Policy

WITHOUT = r"was trained in VecNormalize, but runs without normalisation; give the file that VecNormalize.save\(\)"
WITH = "was trained without VecNormalize, but observations are normalised from .*; leave vecnormalize out"
OFF_POLICY = ("SAC", "DQN")


class Trained(NamedTuple):
    """A model after a step of training, and the statistics of all its observations."""

    model: Path
    statistics: Path
    wrapped: bool


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, bool], Trained]:
    made: dict[tuple[str, bool], Trained] = {}

    def make(algorithm: str, wrapped: bool) -> Trained:
        if (algorithm, wrapped) not in made:
            folder = tmp_path_factory.mktemp(algorithm)
            venv = cases.make_environments(Case(algorithm, "vector"), "Discrete" if algorithm == "DQN" else "Box")[1]
            normalised = VecNormalize(venv)
            model = cases.make_model(Case(algorithm, "vector"), normalised if wrapped else venv)
            model.learn(1)
            model.save(folder / "model.zip")
            normalised.save(str(folder / "vecnormalize.pkl"))
            made[algorithm, wrapped] = Trained(folder / "model.zip", folder / "vecnormalize.pkl", wrapped)
        return made[algorithm, wrapped]

    return make


def load(model: Path, statistics: Path | None, warned: str = "") -> Policy:
    """Load a model, and check that exactly the expected warning is issued."""
    if warned:
        with pytest.warns(UserWarning, match=warned) as issued:
            policy = load_trusted(model, vecnormalize=statistics)
        assert len(issued) == 1
        return policy
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load_trusted(model, vecnormalize=statistics)


@pytest.mark.parametrize(
    "algorithm",
    ["PPO", "ARS", *(pytest.param(name, marks=pytest.mark.slow) for name in ("A2C", "TRPO", "RecurrentPPO"))],
)
@pytest.mark.parametrize("wrapped", [True, False])
def test_a_file_of_an_on_policy_algorithm_shows_the_wrapper(
    trained: Callable[[str, bool], Trained], algorithm: str, wrapped: bool
) -> None:
    model, statistics, _ = trained(algorithm, wrapped)
    assert load(model, None, WITHOUT if wrapped else "").normalisation == "none"
    assert load(model, statistics, "" if wrapped else WITH).normalisation == f"from {statistics}"


@pytest.mark.parametrize("algorithm", OFF_POLICY)
@pytest.mark.parametrize("wrapped", [True, False])
def test_a_file_of_another_algorithm_does_not_show_it(
    trained: Callable[[str, bool], Trained], algorithm: str, wrapped: bool
) -> None:
    model, statistics, _ = trained(algorithm, wrapped)
    assert load(model, None).normalisation == "none"
    assert load(model, statistics).normalisation == f"from {statistics}"


def test_a_model_that_was_not_trained_shows_nothing(tmp_path: Path) -> None:
    venv = cases.make_environments(Case("PPO", "vector"), "Box")[1]
    cases.make_model(Case("PPO", "vector"), venv).save(tmp_path / "model.zip")
    cases.normalise(venv).save(str(tmp_path / "vecnormalize.pkl"))
    load(tmp_path / "model.zip", None)
    load(tmp_path / "model.zip", tmp_path / "vecnormalize.pkl")


def test_statistics_of_rewards_only_are_no_normalisation(
    trained: Callable[[str, bool], Trained], tmp_path: Path
) -> None:
    venv = cases.make_environments(Case("PPO", "vector"), "Box")[1]
    VecNormalize(venv, norm_obs=False).save(str(tmp_path / "vecnormalize.pkl"))
    for wrapped in (True, False):
        assert load(trained("PPO", wrapped).model, tmp_path / "vecnormalize.pkl").normalisation == "none"


@pytest.mark.parametrize("format", ["bundle", "torchscript"])
def test_exported_files_say_it(trained: Callable[[str, bool], Trained], format: str, tmp_path: Path) -> None:
    model, statistics, _ = trained("PPO", True)
    suffix = {"bundle": ".bundle", "torchscript": ".ts"}[format]
    output, bare = tmp_path / f"policy{suffix}", tmp_path / f"bare{suffix}"
    result = export_policy(model, format, output, statistics)
    assert result["normalisation"] == f"from {statistics}"
    assert load(output, None).normalisation == "inside"
    with pytest.warns(UserWarning, match=WITHOUT) as issued:
        assert export_policy(model, format, bare)["normalisation"] == "none"
    assert len(issued) == 1
    # Only a bundle keeps how it was trained.
    assert load(bare, None, WITHOUT if format == "bundle" else "").normalisation == "none"


def test_the_command_line_prints_it(
    trained: Callable[[str, bool], Trained], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, statistics, _ = trained("PPO", True)
    output = tmp_path / "policy.bundle"
    assert main([str(model), "--output", str(output)]) == 0
    assert capsys.readouterr().err.count("was trained in VecNormalize") == 1
    assert main([str(model), "--vecnormalize", str(statistics), "--output", str(output)]) == 0
    assert f"PPO, normalisation: from {statistics}, verified" in capsys.readouterr().out
    assert main(["verify", str(output)]) == 0
    assert "PPO, normalisation: inside, verified" in capsys.readouterr().out


def test_files_of_others_do_not_say_it() -> None:
    point_mass = Path(__file__).parents[1] / "data" / "point_mass.onnx"
    assert load(point_mass, None).normalisation == "inside or none, the file does not say"
