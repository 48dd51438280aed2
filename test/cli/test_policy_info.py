# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""`policy_export info` shows what a policy file is, without running its code."""

import io
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import parity_cases as cases
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parity_cases import Case
from stable_baselines3.common.vec_env import VecNormalize, unwrap_vec_wrapper
from torch import nn

from policy_node.cli.export import export_policy, main
from policy_node.cli.policy_info import info_text, parse_interface, policy_info
from policy_node.policies import PolicyError, PolicyInterface

ONNX = Path(__file__).parents[1] / "data" / "point_mass.onnx"


class Remembers(nn.Module):
    """Keeps its memory in a buffer and in a plain attribute, as exporters of trainers write it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("hidden", torch.zeros(1, 4))
        self.cell = nn.GRUCell(3, 4)
        self.past = torch.zeros(1, 4)

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        self.hidden = self.cell(x, self.hidden)
        return self.hidden * scale

    @torch.jit.export
    def reset_memory(self) -> None:
        self.hidden[:] = 0.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], tuple[Path, Path | None]]:
    made: dict[str, tuple[Path, Path | None]] = {}

    def make(case: Case) -> tuple[Path, Path | None]:
        if str(case) not in made:
            folder = tmp_path_factory.mktemp("model")
            _, venv = cases.make_environments(case, "Box")
            cases.make_model(case, venv).save(folder / "model.zip")
            normaliser = unwrap_vec_wrapper(venv, VecNormalize)
            if normaliser is not None:
                normaliser.save(folder / "vecnormalize.pkl")
            made[str(case)] = (folder / "model.zip", folder / "vecnormalize.pkl" if normaliser else None)
        return made[str(case)]

    return make


def spaces_of(info: dict[str, Any]) -> Any:
    """Return what must not depend on the format, and not on whether the file was loaded."""
    return info["algorithm"], info["observations"], info["action"]


def save_script(module: nn.Module, file: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(module), file)
    return file


@pytest.mark.parametrize("algorithm", ["PPO", "RecurrentPPO", "SAC", "ARS"])
def test_a_zip_is_shown_without_trust_as_it_is_when_loaded(
    algorithm: str, model: Callable[[Case], tuple[Path, Path | None]]
) -> None:
    file, _ = model(Case(algorithm, "vector"))
    info, loaded = policy_info(file), policy_info(file, trusted=True)
    assert spaces_of(info) == spaces_of(loaded) and info["algorithm"] == algorithm
    assert info["format"] == "sb3" and info["needs_trust"] and not info["loaded"] and loaded["loaded"]
    assert info["not_loaded"] == "it can run code when it is loaded; give --trusted if you know where it comes from"
    assert info["packages"] == (["sb3-contrib"] if algorithm in ("RecurrentPPO", "ARS") else [])
    assert info["runs"] == loaded["runs"] == "one batch"
    assert info["sha256"] in info_text(info) and "needs           policy.trusted: true" in info_text(info).replace(
        "sb3-contrib\n                  ", ""
    )


def test_own_classes_are_named_and_not_imported(
    model: Callable[[Case], tuple[Path, Path | None]], tmp_path: Path
) -> None:
    case = Case("SAC", "vector", option="own _predict", policy=cases.CautiousSac)
    file, _ = model(case)
    info = policy_info(file)
    assert "algorithm" not in info and info["observations"][0]["shape"] == [5]
    assert info["notes"] == ["its policy class is code of its author: parity_cases.CautiousSac"]
    cloudpickle.register_pickle_by_value(cases)
    try:
        cases.make_model(case, cases.make_environments(case, "Box")[1]).save(tmp_path / "script.zip")
    finally:
        cloudpickle.unregister_pickle_by_value(cases)
    assert policy_info(tmp_path / "script.zip")["policy_class"] == "a class that is pickled with its code"


def test_normalisation_and_stack_are_shown(model: Callable[[Case], tuple[Path, Path | None]], tmp_path: Path) -> None:
    case = Case("PPO", "vector", "normalise, stack")
    file, statistics = model(case)
    assert policy_info(file)["normalisation"].startswith("none in the file; if training used VecNormalize, give its")
    loaded = policy_info(file, trusted=True, vecnormalize=statistics)
    assert loaded["normalisation"] == f"from {statistics}"
    assert loaded["stack"].startswith("of frames that are normalised one by one")
    export_policy(file, None, tmp_path / "policy.bundle", statistics)
    exported = policy_info(tmp_path / "policy.bundle")
    assert exported["normalisation"] == "inside" and exported["stack"] == loaded["stack"]
    assert exported["golden_vectors"] and exported["memory"][0]["name"] == "frames"


def test_channels_of_images_hint_at_stacked_frames(model: Callable[[Case], tuple[Path, Path | None]]) -> None:
    file, _ = model(Case("PPO", "image HWC", "stack"))
    for trusted in (False, True):
        found = policy_info(file, trusted=trusted)["stack"]
        assert found == "not in the file; 9 = 3 × 3 channels of observation suggest `stack: 3`"


@pytest.mark.parametrize("suffix", [".bundle", ".ts", pytest.param(".pt2", marks=pytest.mark.slow)])
def test_exported_files_show_the_spaces_of_their_source(
    suffix: str, model: Callable[[Case], tuple[Path, Path | None]], tmp_path: Path
) -> None:
    file, _ = model(Case("PPO", "vector"))
    output = tmp_path / f"policy{suffix}"
    export_policy(file, None, output)
    info = policy_info(output)
    assert spaces_of(info) == spaces_of(policy_info(file))
    assert info["loaded"] == (suffix == ".bundle") and info["needs_trust"] == (suffix != ".bundle")


def test_an_onnx_file_is_loaded_and_its_ports_are_shown() -> None:
    info = policy_info(ONNX)
    assert info["loaded"] and info["algorithm"] == "ONNX" and not info["needs_trust"]
    assert info["observations"] == [
        {"name": "observation", "shape": [4], "dtype": "float32", "low": "-inf", "high": "inf"}
    ]
    assert [(part["name"], part["shape"][1:]) for part in info["inputs"]] == [("observation", [4])]
    assert info["runs"] == "one batch" and info["engine"] == "onnxruntime"
    assert "action          float32 [2], without bounds (policy.low, policy.high)" in info_text(info)
    assert "needs           onnx, onnxruntime, onnxscript" in info_text(info)


def test_torchscript_shows_what_its_code_declares(tmp_path: Path) -> None:
    file = save_script(Remembers(), tmp_path / "policy.jit")
    info = policy_info(file)
    assert info["module"].endswith("Remembers") and info["methods"] == ["reset_memory"]
    assert info["inputs"] == [{"name": "x", "type": "Tensor"}, {"name": "scale", "type": "float"}]
    assert info["attributes"] == ["hidden: Tensor", "past: Tensor"]
    assert "x: Tensor, without its shape (--shape)" in info_text(info)


def test_what_is_missing_for_loading_is_said_beside_what_is_known(tmp_path: Path) -> None:
    file = save_script(nn.Linear(3, 2), tmp_path / "policy.pt")
    info = policy_info(file, trusted=True)
    assert not info["loaded"] and "which says no shapes, and that of 'observation' is not given" in info["not_loaded"]
    assert info["inputs"] == [{"name": "input", "type": "Tensor"}]
    loaded = policy_info(file, trusted=True, interface=parse_interface(["3"], []))
    assert loaded["loaded"] and loaded["observations"][0]["shape"] == [3] and loaded["runs"] == "one batch"


@pytest.mark.parametrize(
    ("name", "content", "options", "status", "says"),
    [
        ("policy.pt", lambda: _script(), [], 0, "give --trusted"),
        ("policy.pt", lambda: _script(), ["--trusted"], 0, "(--shape 47)"),
        ("policy.pt", lambda: _script(), ["--trusted", "--shape", "7"], 1, "(mat1 and mat2 shapes cannot be mult"),
        ("policy.pt", lambda: _script()[:-200], [], 1, "is cut off or damaged after"),
        ("policy.onnx", lambda: ONNX.read_bytes()[:-200], [], 1, "cut off or damaged after"),
        ("policy.onnx", lambda: b"a: 1\n", [], 1, "is text (it starts with b'a: 1"),
        ("policy.onnx", ONNX.read_bytes, ["--shape", "45"], 1, "is given as [45], but the file takes [4]"),
        ("policy.onnx", ONNX.read_bytes, ["--vecnormalize", "v.pkl"], 1, "takes no vecnormalize: export it"),
    ],
)
def test_the_status_is_1_for_a_file_that_does_not_load(
    name: str,
    content: Callable[[], bytes],
    options: list[str],
    status: int,
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / name).write_bytes(content())
    assert main(["info", str(tmp_path / name), *options]) == status
    printed = "".join(capsys.readouterr())
    assert says in printed and printed.count("cut off or damaged") <= 1


def test_a_checkpoint_shows_its_spaces_and_what_it_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layers = {"actor.0": nn.Linear(6, 8), "actor.2": nn.Linear(8, 3)}
    weights = {f"{name}.{key}": part for name, layer in layers.items() for key, part in layer.state_dict().items()}
    file = tmp_path / "model_100.pt"
    torch.save({"model_state_dict": {**weights, "std": torch.ones(3)}, "iter": 100}, file)
    info = policy_info(file)
    assert info["format"] == "rsl_rl" and not info["needs_trust"] and not info["loaded"]
    assert info["observations"][0]["shape"] == [6] and info["action"]["shape"] == [3]
    assert "without its activation function" in info["not_loaded"]
    assert main(["info", str(file), "--activation", "elu", "--low", "-1", "--high", "1", "--json"]) == 0
    loaded = json.loads(capsys.readouterr().out)
    assert loaded["loaded"] and (loaded["action"]["low"], loaded["action"]["high"]) == (-1.0, 1.0)


def test_torch_export_shows_its_shapes_without_trust(tmp_path: Path) -> None:
    robots = torch.export.Dim("robots")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(nn.Linear(3, 2), (torch.zeros(2, 3),), dynamic_shapes=({0: robots},))
        torch.export.save(program, str(tmp_path / "policy.pt2"))
    (port,) = policy_info(tmp_path / "policy.pt2")["inputs"]
    assert (port["name"], port["shape"][1:], port["dtype"]) == ("input", [3], "float32")
    assert isinstance(port["shape"][0], str)


def test_a_missing_package_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnx", "policy_node.policies.onnx"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("policy_node.cli.policy_info.find_spec", lambda name: None if name == "onnx" else name)
    info = policy_info(ONNX)
    assert info["missing_packages"] == ["onnx"] and "is not installed; pip install onnx" in info["not_loaded"]
    assert "needs           onnx (not installed), onnxruntime, onnxscript" in info_text(info)


def test_the_command_prints_text_or_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["info", str(ONNX)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{ONNX}\n  format          onnx (an ONNX file)\n")
    assert "observation: float32 [4]" in printed
    assert main(["info", str(ONNX), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == policy_info(ONNX)
    (tmp_path / "policy.pt").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert main(["info", str(tmp_path / "policy.pt")]) == 1
    assert "is a Git LFS pointer in place of the file; run `git lfs pull`" in capsys.readouterr().err


def test_options_describe_the_inputs() -> None:
    assert parse_interface([], []) is None
    assert parse_interface(["48"], []) == PolicyInterface(shapes={"observation": (48,)})
    assert parse_interface(["image=3,64,64", "touch=8"], ["h_in=h_out:2,-1,64"]) == PolicyInterface(
        {"image": "image", "touch": "touch"},
        (("h_in", "h_out"),),
        shapes={"image": (3, 64, 64), "touch": (8,), "h_in": (2, -1, 64)},
    )
    for text in ("touch=", "touch=a", "touch=-1"):
        with pytest.raises(PolicyError, match=rf"--shape is '{text}'; give its lengths"):
            parse_interface([text], [])


def _script() -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(3, 2)), stream)
    return stream.getvalue()


WHOLE = [ONNX.read_bytes(), _script()]


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_content_is_described_or_refused(data: st.DataObject, tmp_path: Path) -> None:
    content = bytearray(data.draw(st.sampled_from(WHOLE)))
    for _ in range(data.draw(st.integers(0, 3))):
        place = data.draw(st.integers(0, len(content)))
        content[place : place + data.draw(st.integers(0, 20))] = data.draw(st.binary(max_size=8))
    file = tmp_path / data.draw(st.sampled_from(["policy.pt", "policy.onnx", "policy.zip"]))
    file.write_bytes(content)
    try:
        info = policy_info(file)
    except PolicyError:
        return
    assert json.loads(json.dumps(info)) == info and info["format"] in info_text(info)
