# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
import itertools
import json

import pytest
from stable_baselines3 import PPO

from policy_node.simulation.environment import action_space
from policy_node.tools.train import episode_seeds, main
from policy_node.tools.train_evaluate import wilson_interval

SMALL = ["--arenas", "2", "--renderer", "raycast", "--threads", "1"]


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
