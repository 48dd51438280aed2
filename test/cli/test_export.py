# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""`policy_export`: every algorithm in every format, verified; errors name what cannot be exported."""

import importlib
import io
import json
import sys
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import parity_cases as cases
import pytest
import torch
from parity_cases import Case
from policy_conformance import PolicyConformance, load_trusted
from stable_baselines3.common.vec_env import VecNormalize, unwrap_vec_wrapper

from policy_node.cli import export
from policy_node.cli.export import SUFFIXES, export_policy, main, verify_policy
from policy_node.config.specs import ArraySpec
from policy_node.policies import Policy, PolicyError, load_policy
from policy_node.policies import golden as vectors
from policy_node.policies.formats import FORMATS, ExportSource, format_of

TABLE = Path(__file__).parents[2] / "doc" / "export.md"
# One policy of each algorithm; together they have every kind of observation, of action and of memory.
CASES = [
    Case("PPO", "Dict", "normalise, stack", actions=("Box",)),
    Case("A2C", "image HWC", actions=("MultiBinary",)),
    Case("TRPO", "Dict with categories", actions=("MultiDiscrete",)),
    Case("RecurrentPPO", "vector", "normalise, stack", actions=("Box float64",)),
    Case("MaskablePPO", "vector", actions=("MultiDiscrete",)),
    Case("SAC", "vector float64", "normalise", actions=("Box",)),
    Case("TQC", "image CHW", actions=("Box float64",)),
    Case("CrossQ", "vector", "stack, normalise", actions=("Box",)),
    Case("TD3", "vector uint8", actions=("Box",)),
    Case("DDPG", "MultiBinary", actions=("Box",)),
    Case("DQN", "MultiDiscrete", actions=("Discrete",)),
    Case("QRDQN", "Discrete", actions=("Discrete",)),
    Case("ARS", "vector", actions=("Box",)),
]
OWN = [
    Case("PPO", "vector", option="own extractor", actions=("Box",), arguments={"policy_kwargs": cases.OWN_EXTRACTOR}),
    Case("SAC", "vector", option="own _predict", actions=("Box",), policy=cases.CautiousSac),
]
Source = tuple[Path, "Path | None"]
errors: dict[tuple[str, str], float] = {}


def name_of(case: Case) -> str:
    return f"{case}-{case.actions[0]}"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], Source]:
    made: dict[str, Source] = {}

    def make(case: Case) -> Source:
        if name_of(case) not in made:
            folder = tmp_path_factory.mktemp("model")
            _, venv = cases.make_environments(case, case.actions[0])
            cases.make_model(case, venv).save(folder / "model.zip")
            normaliser = unwrap_vec_wrapper(venv, VecNormalize)
            if normaliser is not None:
                venv.reset()
                normaliser.save(folder / "vecnormalize.pkl")
            made[name_of(case)] = (folder / "model.zip", folder / "vecnormalize.pkl" if normaliser else None)
        return made[name_of(case)]

    return make


# Exports that take seconds; test_registries.py has one of each.
SLOW = ("onnx", "exported")
FAST_FIRST = ["torchscript", *(pytest.param(format, marks=pytest.mark.slow) for format in SLOW)]


@pytest.mark.parametrize(
    "format", [pytest.param(format, marks=pytest.mark.slow if format in SLOW else ()) for format in SUFFIXES]
)
@pytest.mark.parametrize("case", [*CASES, *OWN], ids=name_of)
@pytest.mark.filterwarnings("ignore:.*acts by its own rules")
def test_every_algorithm_in_every_format(
    case: Case, format: str, source: Callable[[Case], Source], tmp_path: Path
) -> None:
    model, statistics = source(case)
    output = tmp_path / f"policy{SUFFIXES[format][0]}"
    if case in OWN and format == "bundle":
        with pytest.raises(PolicyError, match=r"(OwnExtractor|CautiousSac).*cannot be described as data.*onnx"):
            export_policy(model, format, output, statistics)
        assert list(tmp_path.iterdir()) == []
        return
    result = export_policy(model, format, output, statistics)
    assert list(tmp_path.iterdir()) == [output]
    errors[name_of(case), format] = max(result["golden_error"], result["source_error"])
    # Loaded again without any configuration, and compared with its source.
    policy = load_policy(output, trusted=format in ("torchscript", "exported"))
    assert policy.spec.algorithm == case.algorithm
    expected = load_trusted(model, vecnormalize=statistics)
    assert verify_policy(policy, policy.golden, expected)["source_error"] <= 1e-5
    assert [str(spec) for spec in policy.spec.memory.values()] == [str(spec) for spec in expected.spec.memory.values()]
    if case.algorithm == "RecurrentPPO":
        assert {"hidden", "cell"} <= policy.spec.memory.keys()
    assert (policy.spec.mask > 0) == (case.algorithm == "MaskablePPO")


def test_the_table_of_exports_is_documented(pytestconfig: pytest.Config) -> None:
    if not pytestconfig.getoption("--write-pages"):
        pytest.skip("make pages writes the table")
    wanted = {(name_of(case), format) for case in [*CASES, *OWN] for format in SUFFIXES}
    missing = wanted - errors.keys() - {(name_of(case), "bundle") for case in OWN}
    assert not missing
    lines = [
        "# Exports",
        "",
        "`make pages` writes this page if all exports pass. Do not edit it.",
        "",
        "Each cell is one policy that `policy_export` wrote, loaded again and compared with its source: golden",
        "vectors, then batches of 1, 2 and 7 robots with memory, resets and masks. **equal**: every choice is the",
        "same; **exact**: every number is, bit by bit; **≤ 1e-6** and so on: the largest error of any component, as",
        "a share of its action range. Allowed is 1e-5.",
        "",
        f"| algorithm | observation | wrappers, option | action | {' | '.join(SUFFIXES)} |",
        "|---" * (4 + len(SUFFIXES)) + "|",
    ]
    for case in [*CASES, *OWN]:
        cells = [_cell(case, errors.get((name_of(case), format))) for format in SUFFIXES]
        what = ", ".join(part for part in (case.wrappers.replace("none", ""), case.option) if part) or "–"
        lines.append(f"| {case.algorithm} | {case.observation} | {what} | {case.actions[0]} | {' | '.join(cells)} |")
    lines += [
        "",
        "A bundle is data only, so it holds the classes of Stable-Baselines3 and sb3-contrib alone. Policy classes",
        "and extractors of one's own are code: export them as ONNX or TorchScript. Exported to these formats a policy",
        "takes the deterministic action; a bundle can also draw it (`deterministic=False`).",
    ]
    text = "\n".join(lines) + "\n"
    if not TABLE.exists() or TABLE.read_text() != text:
        TABLE.write_text(text)


def _cell(case: Case, error: float | None) -> str:
    if error is None:
        return "no: own code"
    if case.actions[0] in cases.CHOICES:
        return "equal"
    return "exact" if error == 0 else next(f"≤ {limit}" for limit in ("1e-6", "1e-5") if error <= float(limit))


@pytest.fixture(
    params=[
        pytest.param((CASES[3], "onnx"), marks=pytest.mark.slow),
        (CASES[4], "torchscript"),
        (CASES[5], "exported"),
        (CASES[0], "bundle"),
    ],
    ids=lambda pair: f"{name_of(pair[0])}-{pair[1]}",
    scope="module",
)
def exported(
    request: pytest.FixtureRequest, source: Callable[[Case], Source], tmp_path_factory: pytest.TempPathFactory
) -> Policy:
    case, format = request.param
    model, statistics = source(case)
    output = tmp_path_factory.mktemp("conformance") / f"policy{SUFFIXES[format][0]}"
    export_policy(model, format, output, statistics)
    return load_trusted(output)


class TestConformance(PolicyConformance):
    @pytest.fixture
    def policy(self, exported: Policy) -> Policy:
        return exported


def test_golden_vectors_hold_extremes_and_resets(source: Callable[[Case], Source], tmp_path: Path) -> None:
    for case in (CASES[0], Case("PPO", "image HWC", actions=("Box",))):
        model, statistics = source(case)
        export_policy(model, "bundle", tmp_path / "policy.bundle", statistics)
        policy = load_policy(tmp_path / "policy.bundle", trusted=False)
        golden = policy.golden
        camera = next(array for array in golden.observations.values() if array.dtype == np.uint8)
        flat = camera.reshape(-1, camera[0, 0].size)
        assert bool((flat == 0).all(axis=1).any()) and bool((flat == 255).all(axis=1).any())
        assert bool(golden.resets.any()) and not bool(golden.resets.all())
        assert isinstance(policy.spec.action, ArraySpec)
        actions = golden.actions
        assert bool((actions == policy.spec.action.low).any()) and bool((actions == policy.spec.action.high).any())


def test_the_command_exports_and_verifies(
    source: Callable[[Case], Source], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, statistics = source(CASES[5])
    output, report = tmp_path / "policy.bundle", tmp_path / "report.json"
    arguments = ["--vecnormalize", str(statistics), "--json", str(report)]
    assert main([str(model), "--format", "bundle", "--output", str(output), *arguments]) == 0
    assert "verified" in capsys.readouterr().out
    assert main(["verify", str(output), "--against", str(model), "--untrusted", *arguments]) == 0
    assert json.loads(report.read_text())["verified"] is True
    # Against a source without its statistics, which acts differently.
    assert main(["verify", str(output), "--against", str(model), "--json", str(report)]) == 1
    printed = capsys.readouterr().err
    assert "its source" in printed and "give the statistics of the source with --vecnormalize" in printed
    assert json.loads(report.read_text())["verified"] is False
    assert main(["verify", str(model)]) == 1
    assert "has no golden vectors; give its source with --against" in capsys.readouterr().err


def test_errors_leave_no_file_and_keep_the_old_one(
    source: Callable[[Case], Source], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "policy.bundle"
    output.write_bytes(b"the old one")
    model, _ = source(OWN[0])
    assert main([str(model), "--output", str(output)]) == 1
    assert "'features_extractor_class' of the policy of" in capsys.readouterr().err
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"the old one"]
    assert main([str(model), "--output", str(tmp_path / "policy.zip")]) == 1
    assert "does not end in .bundle" in capsys.readouterr().err
    assert main([str(tmp_path / "missing.zip"), "--output", str(output)]) == 1
    assert "cannot be read: No such file" in capsys.readouterr().err


@pytest.mark.parametrize("format", FAST_FIRST)
def test_a_changed_network_is_refused(format: str, source: Callable[[Case], Source], tmp_path: Path) -> None:
    """The golden vectors of one network in the file of another."""
    model, _ = source(CASES[12])
    policy = load_trusted(model)
    recorded = vectors.record_golden(policy)
    changed = vectors.GoldenVectors(recorded.observations, recorded.resets, recorded.actions + np.float32(0.1), {})
    output = tmp_path / f"policy{SUFFIXES[format][0]}"
    kind, given = FORMATS[format], ExportSource(None, {}, policy, changed, str(model))
    export._write(kind, given, output)
    with pytest.raises(PolicyError, match="does not act as it did when it was exported: on cpu its golden vectors"):
        load_trusted(output)
    export._write(kind, replace(given, golden=recorded), output)
    assert torch.isfinite(load_trusted(output)(torch.zeros(1, 5), None)[0]).all()


def _flipped(file: Path) -> bytes:
    """Return the file with one bit of its largest weight flipped, well-formed otherwise."""
    content = file.read_bytes()
    if file.suffix == ".onnx":
        model = onnx.load_model_from_string(content)
        weight = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        data = bytearray(weight.raw_data)
        data[-1] ^= 0x80
        weight.raw_data = bytes(data)
        return model.SerializeToString()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [info for info in archive.infolist() if not info.filename.endswith(".json")]
    weights = [info for info in members if "/weights/" in info.filename or "/constants/" in info.filename]
    weight = max(weights, key=lambda info: info.file_size)
    # The local header ends with name and padding, whose lengths stand at its end.
    name, padding = (int.from_bytes(content[weight.header_offset + at :][:2], "little") for at in (26, 28))
    start = weight.header_offset + 30 + name + padding
    data = bytearray(content)
    data[start + weight.file_size - 1] ^= 0x80
    # A zip file contains the checksum of a member twice.
    parts = (content[start:][: weight.file_size], data[start:][: weight.file_size])
    before, after = (zlib.crc32(part).to_bytes(4, "little") for part in parts)
    return bytes(data).replace(before, after)


@pytest.mark.parametrize("format", FAST_FIRST)
def test_a_file_with_one_changed_weight_is_refused(
    format: str, source: Callable[[Case], Source], tmp_path: Path
) -> None:
    model, _ = source(CASES[12])
    output = tmp_path / f"policy{SUFFIXES[format][0]}"
    export_policy(model, format, output)
    load_trusted(output)
    output.write_bytes(_flipped(output))
    with pytest.raises(PolicyError, match="changed since it was exported"):
        load_trusted(output)


def test_the_suffix_of_the_output_tells_the_format(
    source: Callable[[Case], Source], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, _ = source(CASES[12])
    for name, format in (("policy.ts", "torchscript"), ("policy.bundle", "bundle")):
        report = tmp_path / "report.json"
        assert main([str(model), "--output", str(tmp_path / name), "--json", str(report)]) == 0
        assert json.loads(report.read_text())["format"] == format
        assert format_of(str(tmp_path / name)) is FORMATS[format]
    assert main([str(model), "--output", str(tmp_path / "policy")]) == 1
    assert "does not end in .bundle or .pt2 or .onnx or .pt or .ts, which tell the format" in capsys.readouterr().err
    assert main([str(model), "--format", "onnx", "--output", str(tmp_path / "policy.pt")]) == 1
    assert "does not end in .onnx, the suffix of format onnx; change the name" in capsys.readouterr().err


def test_a_source_is_known_by_its_content(
    source: Callable[[Case], Source], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, _ = source(CASES[12])
    other = tmp_path / "model"
    other.write_bytes(model.read_bytes())
    assert main([str(other), "--output", str(tmp_path / "policy.bundle")]) == 0
    assert main([str(tmp_path / "policy.bundle"), "--output", str(tmp_path / "policy.onnx")]) == 1
    assert "is a bundle, which is not exported; give" in capsys.readouterr().err


MODULE = """
from stable_baselines3.common.torch_layers import FlattenExtractor


class Doubled(FlattenExtractor):
    def forward(self, observations):
        return 2 * super().forward(observations)
"""


def test_modules_beside_the_model_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "networks_of_the_user.py").write_text(MODULE)
    with monkeypatch.context() as training:
        training.syspath_prepend(tmp_path)
        extractor = importlib.import_module("networks_of_the_user").Doubled
        case = Case("PPO", "vector", arguments={"policy_kwargs": {"features_extractor_class": extractor}})
        cases.make_model(case, cases.make_environments(case, "Box")[1]).save(tmp_path / "model.zip")
    monkeypatch.delitem(sys.modules, "networks_of_the_user")
    with pytest.raises(PolicyError, match="networks_of_the_user"):
        load_trusted(tmp_path / "model.zip")
    before = list(sys.path)
    assert main([str(tmp_path / "model.zip"), "--output", str(tmp_path / "policy.ts")]) == 0
    assert main(["verify", str(tmp_path / "policy.ts"), "--against", str(tmp_path / "model.zip")]) == 0
    assert sys.path == before
    monkeypatch.delitem(sys.modules, "networks_of_the_user")


def test_warnings_are_lines_without_source(
    source: Callable[[Case], Source], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, _ = source(OWN[1])
    assert main([str(model), "--output", str(tmp_path / "policy.ts")]) == 0
    printed = capsys.readouterr().err
    assert f"\npolicy_export: warning: policy file '{model}' acts by its own rules" in f"\n{printed}"
    assert "UserWarning" not in printed and "warn(" not in printed
