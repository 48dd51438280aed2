# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""`policy_bench zoo`: every model of a folder is loaded and compared with Stable-Baselines3 itself."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import parity_cases as cases
import pytest
from parity_cases import Case
from policy_conformance import load_trusted

from policy_node_bench import cli as bench
from policy_node_bench import zoo


def save(folder: Path, case: Case, action: str, statistics: str = "") -> Path:
    """Save a model in a folder as RL Baselines3 Zoo does, with the statistics of `wrappers`."""
    _, venv = cases.make_environments(case, action)
    folder.mkdir(parents=True)
    cases.make_model(case, venv).save(folder / "model.zip")
    beside = folder / "model"
    beside.mkdir()
    stack = [["frame_stack", 3]] if "stack" in case.wrappers else []
    pairs = "".join(f"  - - {name}\n    - {value}\n" for name, value in [["policy", "MlpPolicy"], *stack])
    (beside / "config.yml").write_text(f"!!python/object/apply:collections.OrderedDict\n-{pairs[1:]}")
    if statistics:
        cases.WRAPPERS[statistics](cases.make_environments(case, action)[1]).save(str(beside / "vecnormalize.pkl"))
    return folder / "model.zip"


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("zoo")
    save(folder / "ppo", Case("PPO", "vector"), "Box", "normalise")
    save(folder / "dict", Case("PPO", "Dict"), "Box", "normalise")
    save(folder / "stacked", Case("A2C", "vector", "stack"), "MultiDiscrete")
    save(folder / "dqn", Case("DQN", "vector"), "Discrete")
    save(folder / "other statistics", Case("SAC", "vector uint8"), "Box")
    (folder / "other statistics" / "vecnormalize.pkl").write_bytes(
        (folder / "ppo" / "model" / "vecnormalize.pkl").read_bytes()
    )
    (folder / "damaged.zip").write_bytes(b"PK damaged")
    files = {name: folder / f"result.{name}" for name in ("json", "page")}
    options = [text for name, file in files.items() for text in (f"--{name}", str(file))]
    assert bench.main(["zoo", str(folder), *options]) == 0
    return {**json.loads(files["json"].read_text()), "page": files["page"].read_text()}


@pytest.mark.slow
def test_the_models_of_a_folder_act_as_before(figures: dict[str, Any]) -> None:
    rows = {row["file"]: row for row in figures["rows"]}
    assert {file.partition("/")[0]: row["result"] for file, row in rows.items()} == {
        "damaged.zip": "refused",
        "dict": "same",
        "dqn": "same",
        "other statistics": "same",
        "ppo": "same",
        "stacked": "same",
    }
    assert (figures["same"], figures["refused"], figures["violations"]) == (5, 1, 0)
    assert rows["stacked/model.zip"]["frame_stack"] == 3 and rows["ppo/model.zip"]["frame_stack"] == 1
    assert rows["ppo/model.zip"]["vecnormalize"].endswith("ppo/model/vecnormalize.pkl")
    assert "cut off or damaged" in rows["damaged.zip"]["reason"]
    assert "loaded without its statistics" in rows["other statistics/model.zip"]["reason"]


@pytest.mark.slow
def test_the_page_has_the_summary_and_every_model(figures: dict[str, Any]) -> None:
    words = " ".join(figures["page"].split())
    assert "6 models: 5 load, 5 act as Stable-Baselines3 does" in words
    assert "1 refused; 1 without statistics that do not fit" in words
    assert "| dqn/model.zip | DQN |" in words and "stable_baselines3" in words


def test_a_folder_without_models_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["zoo", str(tmp_path)]) == 1
    assert "has no .zip files; give a folder of models" in capsys.readouterr().out


def test_other_actions_differ(tmp_path: Path) -> None:
    for case, action in ((Case("PPO", "vector"), "Box"), (Case("DQN", "vector"), "Discrete")):
        policy = load_trusted(save(tmp_path / case.algorithm, case, action))
        found = zoo.act(policy, zoo.draw(policy, ""))
        for change, result in ((0, "same"), (1, "differs")):
            np.save(tmp_path / "judged.npy", found + np.asarray(change, found.dtype))
            assert zoo.compare(policy.spec, found, tmp_path / "judged.npy")["result"] == result
    (tmp_path / "failed.txt").write_text("No module named 'gym'")
    assert zoo.compare(policy.spec, found, tmp_path / "failed.npy") == {
        "result": "loaded",
        "not_judged": "No module named 'gym'",
    }
