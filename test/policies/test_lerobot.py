# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Folders of LeRobot as policies, and exported policies; `test_lerobot_pipeline.py` compares them with LeRobot."""

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lerobot_cases import DATA
from safetensors.numpy import save_file

from policy_node.cli.import_description import import_description
from policy_node.cli.policy_info import policy_info
from policy_node.config.schema import parse_configuration
from policy_node.policies import PolicyError, PolicyInterface, load_policy
from policy_node.policies.described_parameters import described_parameters, fill_in, written_file
from policy_node.policies.descriptions import find_description
from policy_node.policies.lerobot import Normaliser

without_lerobot = pytest.mark.skipif(find_spec("lerobot") is not None, reason="LeRobot is installed")


@pytest.mark.parametrize("name", ["act", "diffusion_ddim"])
def test_robots_do_not_influence_each_other(name: str) -> None:
    policy = load_policy(DATA / f"lerobot_{name}.onnx")
    rng = np.random.default_rng(3)
    batch = {key: torch.from_numpy(array.example(4, rng)) for key, array in policy.spec.observations.items()}
    actions, _ = policy(batch)
    alone = torch.cat([policy({key: rows[robot : robot + 1] for key, rows in batch.items()})[0] for robot in range(4)])
    torch.testing.assert_close(actions, alone, rtol=1e-4, atol=1e-5)
    spoiled = {key: rows.clone() for key, rows in batch.items()}
    spoiled["state"][1] = torch.nan
    found, _ = policy(spoiled)
    assert found[1].isnan().all()
    torch.testing.assert_close(found[[0, 2, 3]], actions[[0, 2, 3]], rtol=1e-4, atol=1e-5)


FEATURES = {
    "observation.images.wrist": {"type": "VISUAL", "shape": [3, 8, 12]},
    "observation.state": {"type": "STATE", "shape": [2]},
}
STATISTICS = {"mean": np.array([0.5, -1.0], np.float32), "std": np.array([2.0, 0.25], np.float32)}
CONFIG = {
    "type": "diffusion",
    "n_obs_steps": 2,
    "horizon": 8,
    "n_action_steps": 3,
    "input_features": FEATURES,
    "output_features": {"action": {"type": "ACTION", "shape": [2]}},
}


def processor(name: str, state_file: str = "", **config: Any) -> dict[str, Any]:
    return {"registry_name": name, "config": config, **({"state_file": state_file} if state_file else {})}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder as LeRobot saves it, without a network in its weights."""
    made = tmp_path / "pretrained_model"
    made.mkdir()
    normalised = {"eps": 1e-8, "features": {}, "norm_map": {"STATE": "MEAN_STD", "ACTION": "MEAN_STD"}}
    steps = {
        "pre": [
            processor("rename_observations_processor", rename_map={}),
            processor("to_batch_processor"),
            processor("device_processor", device="cpu"),
            processor("normalizer_processor", "statistics.safetensors", **normalised),
        ],
        "post": [processor("unnormalizer_processor", "statistics.safetensors", **normalised)],
    }
    (made / "config.json").write_text(json.dumps(CONFIG))
    for name, found in steps.items():
        (made / f"policy_{name}processor.json").write_text(json.dumps({"name": name, "steps": found}))
    parts = {f"{name}.{part}": array for name in ("observation.state", "action") for part, array in STATISTICS.items()}
    save_file(parts, made / "statistics.safetensors")
    save_file({"weight": np.zeros(3, np.float32)}, made / "model.safetensors")
    (made / "README.md").write_text("no data of the policy")
    return made


def edit(file: Path, change: Callable[[Any], None]) -> None:
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


def test_a_folder_is_described_without_lerobot(folder: Path) -> None:
    info = policy_info(folder)
    assert (info["format"], info["algorithm"], info["needs_trust"]) == ("lerobot", "DIFFUSION", False)
    # The first action of the network's 8 precedes the newest observation.
    assert info["horizon"] == 7 and info["action"]["shape"] == [2] and info["bytes"] > 1000
    assert info["normalisation"] == "inside" and info["packages"] == ["lerobot", "diffusers"]
    shapes = {array["name"]: (array["dtype"], array["shape"]) for array in info["observations"]}
    # The steps of the observations come first.
    assert shapes == {"wrist": ("uint8", [2, 3, 8, 12]), "state": ("float32", [2, 2])}


@pytest.fixture
def told_folder(folder: Path) -> Path:
    """Return a folder of SmolVLA, with a camera that is not there."""
    tokeniser = {"tokenizer_name": "org/model", "max_length": 48, "padding": "longest", "padding_side": "right"}
    edit(
        folder / "config.json",
        lambda data: data.update(
            type="smolvla", chunk_size=50, n_obs_steps=1, empty_cameras=1, vlm_model_name="org/model"
        ),
    )
    empty = {"observation.images.empty_camera_0": {"type": "VISUAL", "shape": [3, 480, 640]}}
    edit(folder / "config.json", lambda data: data["input_features"].update(empty))
    steps = [processor("smolvla_new_line_processor"), processor("tokenizer_processor", **tokeniser)]
    edit(folder / "policy_preprocessor.json", lambda data: data["steps"].extend(steps))
    return folder


def test_a_policy_that_takes_a_text_is_described_without_lerobot(told_folder: Path) -> None:
    info = policy_info(told_folder)
    assert (info["algorithm"], info["task"], info["horizon"]) == ("SMOLVLA", "task", 50)
    assert info["packages"] == ["lerobot", "transformers"]
    assert [array["name"] for array in info["observations"]] == ["task", "wrist", "state"]
    description = find_description(told_folder)
    assert description is not None
    text = written_file([], described_parameters(description))
    assert "MISSING: what the robots are to do" in text and "keys: [wrist, state]" in text


@without_lerobot
def test_what_a_policy_that_takes_a_text_needs_is_named(told_folder: Path) -> None:
    with pytest.raises(PolicyError, match=r"pip install 'lerobot\[smolvla\]' with Python 3.12 or newer$"):
        load_policy(told_folder)
    edit(told_folder / "policy_preprocessor.json", lambda data: data["steps"].pop())
    with pytest.raises(PolicyError, match=r"has 0 steps 'tokenizer_processor' in 'policy_preprocessor\.json', not one"):
        load_policy(told_folder)


def test_a_text_and_an_observation_of_one_name_are_refused(told_folder: Path) -> None:
    named = {"observation.task": {"type": "STATE", "shape": [2]}}
    edit(told_folder / "config.json", lambda data: data["input_features"].update(named))
    with pytest.raises(PolicyError, match=r"takes a text, which has the key 'task', as 'observation\.task' has"):
        load_policy(told_folder)


def test_the_hash_of_a_folder_is_that_of_its_list_of_hashes(folder: Path) -> None:
    names = sorted(file.name for file in folder.iterdir() if file.suffix != ".md")
    listing = subprocess.run(["sha256sum", *names], cwd=folder, check=True, capture_output=True).stdout
    wanted = hashlib.sha256(listing).hexdigest()
    assert policy_info(folder)["sha256"] == wanted
    (folder / "README.md").write_text("changed")
    assert policy_info(folder)["sha256"] == wanted
    save_file({"weight": np.ones(3, np.float32)}, folder / "model.safetensors")
    assert policy_info(folder)["sha256"] != wanted
    with pytest.raises(PolicyError, match=f"but {wanted} is wanted"):
        load_policy(folder, sha256=wanted)


@without_lerobot
def test_a_missing_lerobot_is_named_with_the_remedy(folder: Path) -> None:
    with pytest.raises(PolicyError, match=r"needs LeRobot, .* pip install 'lerobot\[diffusion\]' with Python 3.12"):
        load_policy(folder)


def test_a_folder_without_a_policy_is_refused_as_a_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(PolicyError, match="cannot be read"):
        load_policy(tmp_path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda data: data.update(type="pi0"), r"of the type 'pi0'; supported are 'act', 'diffusion'"),
        (lambda data: data.update(use_peft=True), "is an adapter"),
        (lambda data: data.pop("input_features"), r"damaged \(KeyError: 'input_features'\)"),
        (lambda data: data["input_features"]["observation.state"].update(type="LANGUAGE"), "of the kind LANGUAGE"),
        (lambda data: data.update(output_features={}), "supported is one vector 'action'"),
        (
            lambda data: data["input_features"].update({"observation.images.state": {"type": "ENV", "shape": [1]}}),
            "features with the same last part",
        ),
    ],
)
def test_a_configuration_that_cannot_be_used_is_refused(
    change: Callable[[Any], None], problem: str, folder: Path
) -> None:
    edit(folder / "config.json", change)
    with pytest.raises(PolicyError, match=problem):
        load_policy(folder)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda data: data["steps"].insert(0, processor("tokenizer_processor")), "the step 'tokenizer_processor'"),
        (lambda data: data["steps"][3]["config"]["norm_map"].update(STATE="MIN_MAX"), "lack min and max"),
        (lambda data: data["steps"][3].update(state_file="../other.safetensors"), "has no '../other.safetensors'"),
        (lambda data: data.clear(), "KeyError: 'steps'"),
    ],
)
def test_a_processor_that_cannot_be_used_is_refused(change: Callable[[Any], None], problem: str, folder: Path) -> None:
    edit(folder / "policy_preprocessor.json", change)
    with pytest.raises(PolicyError, match=problem):
        load_policy(folder)


@pytest.mark.parametrize("name", ["policy_preprocessor.json", "policy_postprocessor.json"])
def test_a_missing_processor_is_named(name: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(PolicyError, match=f"has no '{name}', which holds the normalisation"):
        load_policy(folder)


def test_a_file_that_is_no_json_is_named(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(PolicyError, match=r"'config.json' is no JSON"):
        load_policy(folder)


def test_an_input_names_the_feature_of_an_observation(folder: Path) -> None:
    edit(
        folder / "policy_preprocessor.json",
        lambda data: data["steps"][0]["config"]["rename_map"].update(
            {"observation.images.front": "observation.images.wrist"}
        ),
    )
    assert [array["name"] for array in policy_info(folder)["observations"]] == ["front", "state"]
    with pytest.raises(
        PolicyError, match=r"has no feature 'observation.images.wrist', but \['observation.images.front'"
    ):
        load_policy(folder, interface=PolicyInterface(inputs={"camera": "observation.images.wrist"}))


def test_a_parameter_file_has_what_the_folder_says(folder: Path, tmp_path: Path) -> None:
    copied = tmp_path / "diffusion"
    shutil.copytree(folder, copied)
    description = import_description(copied, tmp_path / "parameters.yaml")
    assert description.policy == copied
    wrist, state = description.observations
    assert wrist.values["type"] == "sensor_msgs/msg/Image"
    assert all((entry.values["history"], entry.values["history_start"]) == (2, "first") for entry in (wrist, state))
    assert description.values == {"chunk.replan_every": 3}
    text = (tmp_path / "parameters.yaml").read_text()
    assert "MISSING" in text and "the topic of the 2 numbers of observation.state" in text
    assert "replan_every: 3" in text and "12 × 8 pixels" in text and "trusted" not in text


def test_a_configuration_takes_what_it_leaves_out_from_the_folder(folder: Path) -> None:
    edit(folder / "config.json", lambda data: data.update(temporal_ensemble_coeff=0.02, n_action_steps=1))
    given = {
        "control_rate_hz": 20.0,
        "robots": ["robot_1"],
        "policy.path": str(folder),
        "policy.description": "auto",
        "observations.state.topic": "state",
        "observations.state.type": "std_msgs/msg/Float64MultiArray",
        "action.topic": "command",
        "action.type": "std_msgs/msg/Float64MultiArray",
        "action.safe_command": [0.0, 0.0],
    }
    values, filled_in = fill_in(given)
    assert filled_in.path == folder
    configuration = parse_configuration(values)
    wrist, state = configuration.observations
    assert (wrist.topic, wrist.type) == ("wrist/image_raw", "sensor_msgs/msg/Image")
    assert state.type == "std_msgs/msg/Float64MultiArray"
    assert all((entry.history, entry.history_start) == (2, "first") for entry in (wrist, state))
    chunk = configuration.chunk
    assert (chunk.replan_every, chunk.aggregate, chunk.ensemble_decay) == (1, "ensemble", 0.02)


@pytest.mark.parametrize("mode", ["MEAN_STD", "MIN_MAX", "QUANTILES"])
def test_an_inverse_normaliser_undoes_what_a_normaliser_does(mode: str) -> None:
    names = ("mean", "std", "min", "max", "q01", "q99")
    statistics = {name: torch.tensor([float(place), -1.0]) for place, name in enumerate(names, start=1)}
    # A component without a range.
    statistics["std"][1] = 0.5
    values = torch.tensor([[0.3, -1.0], [4.0, -1.0]])
    there, back = (Normaliser(mode, statistics, 1e-8, inverse) for inverse in (False, True))
    torch.testing.assert_close(back(there(values)), values)
