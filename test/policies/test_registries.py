# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Policy formats and engines are found by registries, from which parameters, errors and documentation follow."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import parity_cases as cases
import pytest
import torch
from policy_conformance import PolicyConformance, example_observations, load_trusted

from policy_node.cli.export import export_policy
from policy_node.config import registry
from policy_node.config.parameters import PARAMETERS
from policy_node.config.registry import Registry
from policy_node.engines import EngineSettings, choose_engine
from policy_node.engines.backends import ENGINES, Engine
from policy_node.policies import Policy, PolicyError, load_policy
from policy_node.policies.formats import FORMATS, PolicyFormat, format_of

ROOT = Path(__file__).parents[2]
TABLES = runpy.run_path(str(ROOT / "doc" / "tables.py"))
EXAMPLE = Path(__file__).parents[1] / "example_package"
# No model of Stable-Baselines3 can be written as one of these; `test_checkpoints.py` and `test_lerobot.py` test them.
CHECKPOINTS = ("lerobot", "rl_games", "rsl_rl", "skrl")
BUILT_IN = ("bundle", "exported", "onnx", "sb3", "torchscript", *CHECKPOINTS)
# Engines that need neither a compiler of minutes nor a GPU.
TRIED = [engine.name for engine in ENGINES if engine.is_quick and engine.name != "cuda_graph"]
# How to write a file of a format that `policy_export` does not offer.
WRITE: dict[str, Callable[[Path, Path], Any]] = {"sb3": shutil.copy}

DEPLOY = """
import json, sys
from policy_node.config.schema import parse_configuration
from policy_node.ros.deployment import deploy
deployment = deploy(parse_configuration(json.loads(sys.argv[1])))
print(deployment.policy.spec.algorithm, deployment.engine.name, deployment.pipeline.policy.engine_name)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a saved model of Stable-Baselines3."""
    file = tmp_path_factory.mktemp("model") / "model.zip"
    case = cases.Case("PPO", "vector")
    cases.make_model(case, cases.make_environments(case, "Box")[1]).save(file)
    return file


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder into which the example package is installed."""
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"
    shutil.copytree(EXAMPLE, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "--target", folder / "site", source], check=True, timeout=300)
    return folder / "site"


@pytest.fixture
def with_example(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let this process find the example package."""
    monkeypatch.syspath_prepend(installed)
    for found in (FORMATS, ENGINES):
        for name in ("names", "_entry_points"):
            vars(found).pop(name, None)
    yield
    for found in (FORMATS, ENGINES):
        for name in ("names", "_entry_points"):
            vars(found).pop(name, None)


@pytest.fixture
def linear(tmp_path: Path) -> Path:
    file = tmp_path / "policy.npz"
    np.savez(file, weights=np.array([[0.5, 0.0, 0.0], [0.0, -0.5, 0.25]]))
    return file


@pytest.fixture(params=[name for name in FORMATS.names if name not in CHECKPOINTS], scope="module")
def of_format(request: pytest.FixtureRequest, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Policy:
    """Return the model written in one of the formats, and loaded."""
    kind = FORMATS[request.param]
    file = tmp_path_factory.mktemp("formats") / f"policy{kind.suffixes[0]}"
    if kind.write is not None:
        export_policy(model, kind.name, file)
    else:
        WRITE[kind.name](model, file)
    return load_policy(file, trusted=kind.runs_code)


class TestEveryFormatConforms(PolicyConformance):
    @pytest.fixture
    def policy(self, of_format: Policy) -> Policy:
        return of_format


@pytest.fixture(params=TRIED, scope="module")
def of_engine(request: pytest.FixtureRequest, model: Path) -> Policy:
    """Return the model run by one of the engines."""
    return choose_engine(load_trusted(model), 5, EngineSettings(request.param))[0]


class TestEveryEngineConforms(PolicyConformance):
    @pytest.fixture
    def policy(self, of_engine: Policy) -> Policy:
        return of_engine


class TestAFormatOfAnotherPackageConforms(PolicyConformance):
    @pytest.fixture(params=["direct", "halves"])
    def policy(self, request: pytest.FixtureRequest, with_example: None, linear: Path) -> Policy:
        return choose_engine(load_policy(linear), 5, EngineSettings(request.param))[0]


@pytest.mark.parametrize("name", FORMATS.names)
def test_a_format_is_one_record_named_as_its_module(name: str) -> None:
    kind = FORMATS[name]
    assert isinstance(kind, PolicyFormat) and kind.name == name
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in kind.suffixes)
    assert all(
        format_of(f"policy{suffix}") is kind and format_of(f"POLICY{suffix.upper()}") is kind
        for suffix in kind.suffixes
    )


@pytest.mark.parametrize("name", ENGINES.names)
def test_an_engine_is_one_record_named_as_its_module(name: str) -> None:
    assert isinstance(ENGINES[name], Engine) and ENGINES[name].name == name


def test_the_parameters_allow_every_format_and_engine() -> None:
    allowed = {parameter.name: parameter.allowed for parameter in PARAMETERS}
    assert allowed["policy.format"] == ("auto", *FORMATS.names) and set(BUILT_IN) <= set(FORMATS.names)
    assert allowed["policy.engine"] == ("auto", *ENGINES.names)


@pytest.mark.parametrize("page", sorted({page for page, _ in TABLES["TABLES"]}))
def test_the_tables_of_the_documentation_are_those_of_the_records(page: str) -> None:
    text = (ROOT / "doc" / page).read_text()
    assert TABLES["with_tables"](page, text) == text, "run python doc/tables.py"


def test_a_missing_package_of_a_format_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "policy_node.policies.onnx", None)
    (tmp_path / "policy.onnx").write_bytes(b"\x08\x08some")
    with pytest.raises(
        PolicyError, match=r"is an ONNX file, for which .* is not installed; pip install onnx onnxruntime"
    ):
        load_policy(tmp_path / "policy.onnx")


def test_a_bundle_without_safetensors_names_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    # rosdep has no key for it, so that a robot may lack it.
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(
        PolicyError, match=r"is a bundle, for which safetensors.* not installed; pip install safetensors"
    ):
        load_policy(ROOT / "models" / "rover.bundle")


def test_a_node_runs_the_format_and_the_engine_of_another_package(installed: Path, linear: Path) -> None:
    parameters = {
        "control_rate_hz": 20.0,
        "robots": ["robot_1", "robot_2"],
        "policy.path": str(linear),
        "policy.engine": "halves",
        "observations.keys": ["joints"],
        "observations.joints.topic": "joint_states",
        "observations.joints.type": "sensor_msgs/msg/JointState",
        "action.topic": "cmd_vel",
        "action.type": "geometry_msgs/msg/Twist",
        "action.fields": ["linear.x", "angular.z"],
    }
    paths = os.pathsep.join([str(installed), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", DEPLOY, json.dumps(parameters)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": paths})
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["linear", "halves", "halves"]


def test_the_fastest_engine_may_be_that_of_another_package(with_example: None, linear: Path) -> None:
    policy = load_policy(linear)
    _, chosen = choose_engine(policy, 4, EngineSettings())
    assert {"direct", "halves"} <= chosen.measured_ms.keys()
    observations = example_observations(policy, 4, seed=1)["observation"]
    assert torch.equal(policy(observations)[0][:, 0], (0.5 * observations[:, 0]).clamp(-1.0, 1.0))


class Distribution:
    """Entry points as they are installed."""

    def __init__(self, *values: str, group: str = "group") -> None:
        self.group = group
        self.points = [registry.EntryPoint(*value.split(" = "), "group") for value in values]

    def __call__(self, group: str) -> list[Any]:
        return self.points if group == self.group else []


def test_an_entry_point_with_a_name_that_is_taken_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for values in (("onnx = other:FORMAT",), ("linear = one:FORMAT", "linear = two:FORMAT")):
        monkeypatch.setattr(registry, "entry_points", Distribution(*values))
        with pytest.raises(ValueError, match="has a name that is taken; uninstall that package or rename"):
            _ = Registry[Any]("policy_node.policies.formats", "FORMAT", "group").names


def test_a_broken_format_of_another_package_is_left_out_unless_it_is_named(
    monkeypatch: pytest.MonkeyPatch, model: Path, tmp_path: Path
) -> None:
    points = Distribution("broken = no_such_module:FORMAT", group="policy_node.policy_formats")
    monkeypatch.setattr(registry, "entry_points", points)
    (tmp_path / "unknown").write_bytes(b"unknown")
    try:
        for name in ("names", "_entry_points"):
            vars(FORMATS).pop(name, None)
        assert load_trusted(model).spec.algorithm == "PPO"
        with pytest.raises(PolicyError, match="neither a content"):
            load_trusted(tmp_path / "unknown")
        with pytest.raises(ImportError, match="'broken' cannot be imported from no_such_module:FORMAT"):
            load_trusted(model, format="broken")
    finally:
        for name in ("names", "_entry_points"):
            vars(FORMATS).pop(name, None)


def test_a_broken_engine_of_another_package_is_left_out_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, model: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    points = Distribution("broken = no_such_module:ENGINE", group="policy_node.engines")
    monkeypatch.setattr(registry, "entry_points", points)
    for name in ("names", "_entry_points"):
        monkeypatch.delitem(vars(ENGINES), name, raising=False)
    _, chosen = choose_engine(load_trusted(model), 4, EngineSettings())
    assert "'broken' cannot be imported from no_such_module:ENGINE" in chosen.excluded["broken"]
    for name in ("names", "_entry_points"):
        vars(ENGINES).pop(name)
