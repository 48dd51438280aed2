# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO

from policy_node.simulation.environment import action_space, observation_space
from policy_node.tools.train import episode_seeds, main
from policy_node.tools.train_evaluate import wilson_interval
from policy_node.tools.untrained import untrained_model

MODEL = Path(__file__).parents[1] / "models" / "rover.zip"
SMALL = ["--arenas", "2", "--renderer", "raycast", "--threads", "1"]


def test_wilson_interval_matches_published_values():
    # Newcombe 1998, table I, method 3.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson_interval(29, 29) == pytest.approx((0.8830, 1.0), abs=1e-4)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_training_never_sees_small_seeds():
    seeds = list(itertools.islice(episode_seeds(0), 1000))
    assert min(seeds) >= 2**32
    assert seeds == list(itertools.islice(episode_seeds(0), 1000))
    assert seeds != list(itertools.islice(episode_seeds(1), 1000))


def test_training_can_be_resumed_and_its_result_evaluated(tmp_path, capsys):
    imitation = ["--imitation-steps", "64", "--imitation-rounds", "2", "--imitation-epochs", "1"]
    train = ["--output", str(tmp_path), "--checkpoint-steps", "512", *imitation, *SMALL]
    main(["--steps", "512", "--quiet", *train])
    first = PPO.load(tmp_path / "rover.zip")
    assert first.num_timesteps == 512
    checkpoint = tmp_path / "rover_512_steps.zip"
    assert (tmp_path / "rover.zip").stat().st_size < checkpoint.stat().st_size / 2
    assert list(tmp_path.glob("ppo_*/events.out.tfevents.*"))
    main(["train", "--steps", "1024", "--resume", *train])
    assert f"resuming from {checkpoint}" in capsys.readouterr().out
    second = PPO.load(tmp_path / "rover.zip")
    assert second.num_timesteps == 1024
    assert second.observation_space["image"].shape == (3, 64, 64)
    assert second.action_space == action_space()

    report = tmp_path / "reports" / "evaluation.json"
    evaluation = ["--episodes", "3", "--seed", "2000", "--json", str(report), *SMALL]
    assert main(["evaluate", str(tmp_path / "rover.zip"), *evaluation]) == 0
    result = json.loads(report.read_text())
    assert result["episodes"] == 3
    assert result["success_interval_95"] == list(wilson_interval(result["successes"], 3))
    assert f"{result['successes']} of 3 episodes succeeded" in capsys.readouterr().out


def test_an_interrupted_imitation_goes_on_with_the_missing_rounds(tmp_path, capsys):
    imitation = ["--imitation-steps", "96", "--imitation-rounds", "3", "--imitation-epochs", "1"]
    train = ["--output", str(tmp_path), "--steps", "0", "--quiet", *imitation, *SMALL]
    main(train)
    assert list((tmp_path / "imitation").glob("events.out.tfevents.*"))
    for later in ("imitation_2_rounds.zip", "imitation_3_rounds.zip", "rover_0_steps.zip"):
        (tmp_path / later).unlink()
    capsys.readouterr()
    main([*train, "--resume"])
    said = capsys.readouterr().out
    assert "imitation_1_rounds.zip with round 2 of 3 of the imitation" in said
    assert "imitation 1/3" not in said and "imitation 2/3" in said and "imitation 3/3" in said
    main([*train, "--resume"])
    assert "of the imitation" not in capsys.readouterr().out


def test_resuming_from_nothing_says_what_to_do(tmp_path):
    with pytest.raises(SystemExit, match="train without --resume first"):
        main(["--resume", "--output", str(tmp_path), *SMALL])


@pytest.mark.parametrize("arguments", [[], [str(MODEL), "--driver", "still"]])
def test_evaluating_needs_either_a_model_or_a_driver(arguments):
    with pytest.raises(SystemExit, match="give a MODEL, or another --driver"):
        main(["evaluate", *arguments])


def test_a_model_that_cannot_drive_the_rover_is_refused_in_one_line(tmp_path):
    other = spaces.Dict({"touch": spaces.Box(0.0, 1.0, (3,), np.float32)})
    untrained_model(other, action_space()).save(tmp_path / "inputs.zip")
    untrained_model(observation_space(), spaces.Discrete(4)).save(tmp_path / "actions.zip")
    (tmp_path / "damaged.zip").write_bytes(MODEL.read_bytes()[:1000])
    for name, found in (
        ("missing.zip", "cannot be read"),
        ("damaged.zip", "damaged.zip"),
        ("inputs.zip", r"takes touch: float32 \[3\]"),
        ("actions.zip", "gives action: "),
    ):
        with pytest.raises(SystemExit, match=rf"^evaluate: policy file [^\n]*{found}[^\n]*; [^\n]+$") as refusal:
            main(["evaluate", str(tmp_path / name), *SMALL])
        print(refusal.value)


def test_references_are_evaluated_on_the_same_episodes_whatever_the_number_of_arenas(tmp_path):
    results = []
    for arenas in ("1", "4"):
        report = tmp_path / f"{arenas}.json"
        main(["evaluate", "--driver", "scripted", "--episodes", "6", "--arenas", arenas, "--json", str(report)])
        results.append(json.loads(report.read_text()))
    for key in ("successes", "mean_time_to_press_s", "mean_collisions", "failed_seeds"):
        assert results[0][key] == results[1][key]


def test_the_shipped_policy_is_small_and_drives_well(tmp_path):
    assert MODEL.stat().st_size <= 10_000_000
    report = tmp_path / "report.json"
    main(["evaluate", str(MODEL), "--episodes", "20", "--seed", "5000", "--threads", "1", "--json", str(report)])
    result = json.loads(report.read_text())
    assert result["successes"] >= 17
    assert np.isclose(result["success_rate"], result["successes"] / 20)
