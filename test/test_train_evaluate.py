# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces

from policy_node.simulation.environment import action_space, observation_space
from policy_node.tools.train import main
from policy_node.tools.train_evaluate import (
    EpisodeResult,
    bootstrap_interval,
    describe_summary,
    summarise_episodes,
    wilson_interval,
)
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


def test_the_bootstrap_agrees_with_the_normal_approximation_where_that_holds():
    values = np.random.default_rng(5).exponential(3.0, 400)
    half = 1.96 * values.std() / np.sqrt(values.size)
    assert bootstrap_interval(values) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval([2.0, 2.0]) == (2.0, 2.0)
    assert bootstrap_interval([2.0]) is None


def test_a_summary_has_means_and_intervals_of_all_episodes_whatever_their_order():
    results = [
        EpisodeResult(12, True, 6.0, 0),
        EpisodeResult(10, True, 4.0, 3),
        EpisodeResult(11, False, 20.0, 9),
    ]
    summary = summarise_episodes(results)
    assert summary == summarise_episodes(results[::-1])
    assert (summary["episodes"], summary["first_seed"], summary["failed_seeds"]) == (3, 10, [11])
    assert (summary["successes"], summary["success_rate"]) == (2, pytest.approx(2 / 3))
    assert summary["success_interval_95"] == wilson_interval(2, 3)
    assert (summary["mean_time_to_press_s"], summary["mean_collisions"]) == (5.0, 4.0)
    assert summary["time_to_press_interval_95_s"] == (4.0, 6.0)
    assert summary["results"][1] == {"seed": 11, "success": False, "time_s": 20.0, "collisions": 9}
    assert "2 of 3 episodes succeeded: 66.7 %" in describe_summary(summary)
    assert "mean time to the press 5.0 s (4.0 to 6.0 s)" in describe_summary(summary)


def test_a_summary_without_a_press_has_no_time_to_it():
    summary = summarise_episodes([EpisodeResult(1, False, 20.0, 2)])
    assert summary["mean_time_to_press_s"] is summary["time_to_press_interval_95_s"] is None
    assert summary["collisions_interval_95"] is None
    assert "no press, collisions per episode 2.0" in describe_summary(summary)


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
