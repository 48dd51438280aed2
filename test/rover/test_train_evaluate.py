# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO

from policy_node.cli.output import check_file
from policy_node_bench.harness.untrained import SpacesOnly, untrained_model
from policy_node_rover.evaluation.evaluate import PolicyDriver, evaluate, load_model, reference_driver, run_episodes
from policy_node_rover.evaluation.results import (
    EpisodeResult,
    bootstrap_interval,
    describe_summary,
    summarise_episodes,
    wilson_interval,
)
from policy_node_rover.mujoco.environment import action_space, observation_space
from policy_node_rover.mujoco.vectorised import RoverArenaVecEnv, wrap_for_policy
from policy_node_rover.training.cli import main, make_parser

MODEL = Path(__file__).parents[2] / "models" / "rover.zip"
SMALL = ["--arenas", "2", "--renderer", "raycast", "--processes", "1"]


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


def test_a_summary_has_means_and_intervals_in_any_order():
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


def test_seeds_are_whole_numbers_from_zero(capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "--driver", "still", "--seed", "-1"])
    assert "argument --seed: found '-1', allowed is a whole number of at least 0" in capsys.readouterr().err


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


@pytest.mark.slow
@pytest.mark.parametrize("driver", ["scripted", "random"])
def test_references_are_evaluated_on_the_same_episodes_whatever_the_number_of_arenas(tmp_path, driver):
    results = []
    for arenas in ("1", "4"):
        report = tmp_path / f"{arenas}.json"
        main(["evaluate", "--driver", driver, "--episodes", "6", "--arenas", arenas, "--json", str(report)])
        results.append(json.loads(report.read_text())["results"])
    assert results[0] == results[1]
    assert [result["seed"] for result in results[0]] == list(range(1000, 1006))
    assert len({(result["time_s"], result["collisions"]) for result in results[0]}) > 1


def test_a_report_has_conditions_and_blanked_observation(tmp_path, capsys):
    report = tmp_path / "report.json"
    seen = ["--conditions", "transparent", "--blank", "touch", "--episodes", "1", "--json", str(report)]
    main(["evaluate", str(MODEL), *seen, *SMALL])
    result = json.loads(report.read_text())
    assert (result["conditions"], result["blanked"], result["driver"]) == ("transparent", "touch", "policy")
    assert "transparent conditions, touch blanked, seeds 1000 to 1000" in capsys.readouterr().out


def variant(keys, stack, algorithm=PPO):
    """Make an untrained model for observation keys and a stack."""
    arenas = wrap_for_policy(RoverArenaVecEnv(1, iter(range(1)), "raycast"), keys, stack)
    space = arenas.observation_space
    arenas.close()
    if algorithm is PPO:
        return untrained_model(space, action_space())
    return RecurrentPPO("MultiInputLstmPolicy", SpacesOnly(space, action_space()), n_steps=2, batch_size=2, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keys", "stack", "algorithm"),
    [(["image"], 1, PPO), (["touch"], 1, PPO), (["image", "touch"], 4, PPO), (["image", "touch"], 1, RecurrentPPO)],
)
def test_every_variant_of_a_policy_is_evaluated_with_the_observations_that_it_takes(tmp_path, keys, stack, algorithm):
    variant(keys, stack, algorithm).save(tmp_path / "model.zip")
    model, found_keys, found_stack = load_model(tmp_path / "model.zip", "cpu")
    assert (type(model), found_keys, found_stack) == (algorithm, keys, stack)
    report = tmp_path / "report.json"
    main(["evaluate", str(tmp_path / "model.zip"), "--episodes", "1", "--json", str(report), *SMALL])
    assert len(json.loads(report.read_text())["results"]) == 1


def seen(arenas, rng):
    return {
        key: rng.integers(space.low, space.high, (arenas, *space.shape)).astype(space.dtype)
        for key, space in variant(["image", "touch"], 1).observation_space.spaces.items()
    }


def test_the_memory_of_a_recurrent_policy_is_reset_with_the_episode():
    model, rng = variant(["image", "touch"], 1, RecurrentPPO), np.random.default_rng(0)
    before, now = seen(2, rng), seen(2, rng)
    fresh = PolicyDriver(model)(now, np.array([True, True]))
    drive = PolicyDriver(model)
    drive(before, np.array([True, True]))
    actions = drive(now, np.array([False, True]))
    assert np.allclose(actions[1], fresh[1], atol=1e-6)
    assert not np.allclose(actions[0], fresh[0], atol=1e-6)


def test_a_blanked_observation_does_not_change_the_actions():
    model, rng, starts = variant(["image", "touch"], 1), np.random.default_rng(0), np.array([True])
    one, other = seen(1, rng), seen(1, rng)
    drive = PolicyDriver(model, blanked="touch")
    silent = PolicyDriver(model)({**one, "touch": np.zeros((1, 8), np.float32)}, starts)
    assert np.array_equal(drive(one, starts), silent)
    assert np.array_equal(drive({**one, "touch": other["touch"]}, starts), silent)
    assert not np.array_equal(drive({**one, "image": other["image"]}, starts), silent)


def test_blanking_an_unused_observation_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="--blank touch needs a MODEL"):
        main(["evaluate", "--driver", "still", "--blank", "touch"])
    variant(["image"], 1).save(tmp_path / "model.zip")
    with pytest.raises(SystemExit, match=r"--blank touch: '.*model.zip' takes only image$"):
        main(["evaluate", str(tmp_path / "model.zip"), "--blank", "touch", *SMALL])


@pytest.mark.slow
def test_progress_goes_to_standard_error_and_the_result_to_standard_output(capsys, monkeypatch):
    # No further lines, however slow the machine is.
    monkeypatch.setattr("policy_node_rover.evaluation.evaluate.LINE_PERIOD_S", math.inf)
    main(["evaluate", "--driver", "still", "--episodes", "2", "--conditions", "randomised", *SMALL])
    shown = capsys.readouterr()
    assert shown.err == "evaluating 2 episodes under randomised conditions …\n"
    assert shown.out.startswith("still, randomised conditions, seeds 1000 to 1001")


def test_a_quiet_evaluation_shows_no_progress(capsys):
    evaluate(make_parser().parse_args(["evaluate", "--driver", "still", "--episodes", "1", *SMALL]), quiet=True)
    assert capsys.readouterr().err == ""


def test_progress_is_called_after_every_step():
    arenas = RoverArenaVecEnv(2, iter(range(1002, 1100)), "raycast")
    told = []
    results = run_episodes(
        arenas, reference_driver("scripted", arenas), range(1002, 1005), lambda *counts: told.append(counts)
    )
    arenas.close()
    assert told[0] == (0, 0)
    assert told[-1] == (3, sum(result.success for result in results))
    assert {ended for ended, _ in told} == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("option", "file", "said"),
    [
        ("--json", ".", r"which cannot be written \(Is a directory\); give a file in a writable folder"),
        ("--json", "file/report.json", r"which cannot be written \(.*\); give a file in a writable folder"),
        ("--gif", "/proc/one.gif", r"which cannot be written \(.*\); give a file in a writable folder"),
        ("--gif", "one.mp4", r"allowed is a name that ends in \.gif; change the name"),
    ],
)
def test_an_unwritable_file_is_refused_before_the_evaluation(tmp_path, capsys, option, file, said):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match=rf"^evaluate: {option}: found '{re.escape(str(tmp_path / file))}', {said}$"):
        main(["evaluate", "--driver", "still", "--episodes", "1", option, str(tmp_path / file), *SMALL])
    assert capsys.readouterr() == ("", "")


def test_checking_files_does_not_change_them(tmp_path):
    (tmp_path / "old.json").write_text("kept")
    for name in ("old.json", "new.json"):
        check_file("--json", tmp_path / name)
    assert [file.name for file in tmp_path.iterdir()] == ["old.json"]
    assert (tmp_path / "old.json").read_text() == "kept"


def test_written_times_are_rounded():
    summary = summarise_episodes([EpisodeResult(1, True, 4.4999999999999485, 0)])
    assert summary["results"][0]["time_s"] == 4.5
    assert summary["mean_time_to_press_s"] == 4.4999999999999485


@pytest.mark.slow
def test_the_shipped_policy_is_small_and_drives_well(tmp_path):
    assert MODEL.stat().st_size <= 10_000_000
    report = tmp_path / "report.json"
    main(["evaluate", str(MODEL), "--episodes", "20", "--seed", "5000", "--json", str(report)])
    result = json.loads(report.read_text())
    assert result["successes"] >= 17
    assert np.isclose(result["success_rate"], result["successes"] / 20)
