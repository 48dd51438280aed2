# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Episodes that the policy plays over DDS: who plays which one, what came of it, and what it did in process."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from node_harness import PATIENCE_S
from rich.console import Console

from policy_node.simulation.environment import EPISODE_S, EPISODE_STEPS
from policy_node.tools.child import ToolError
from policy_node.tools.demo_episodes import Dealer, Episode, Report, ages_while_driven_ms
from policy_node.tools.demo_evaluate import main, reference_path, until_stopped
from policy_node.tools.demo_parity import ACTION_TOLERANCE, Comparison, Reference, shortcomings
from policy_node.tools.demo_progress import EpisodeProgress
from policy_node.tools.train_evaluate import EpisodeResult

SEEDS = range(1000, 1003)


@pytest.mark.slow
@pytest.mark.over_dds
def test_in_lockstep_the_policy_drives_over_dds_as_it_does_in_process(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    demo = subprocess.run(
        [
            *(sys.executable, "-m", "policy_node.tools.demo", "evaluate", "--robots", "2"),
            *("--episodes", str(len(SEEDS)), "--json", str(file), "--output", str(tmp_path)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=4 * PATIENCE_S,
        check=False,
    )
    assert demo.returncode == 0, demo.stdout
    report = json.loads(file.read_text())
    actions, in_process = report["actions"], report["in_process"]
    assert [result["seed"] for result in report["results"]] == list(SEEDS)
    steps = sum(round(result["time_s"] * report["control_rate_hz"]) for result in report["results"])
    assert actions["steps_compared"] == steps
    assert actions["largest_difference"] <= ACTION_TOLERANCE
    assert actions["first_difference"] is None
    assert actions["episodes_that_end_otherwise"] == []
    assert report["success_rate"] == in_process["success_rate"] >= 2 / 3
    assert report["reached"]
    assert f"actions compared at {steps} steps" in demo.stdout


@pytest.mark.slow
@pytest.mark.over_dds
def test_ctrl_c_ends_it_with_exit_status_130(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    command = [
        *(sys.executable, "-m", "policy_node.tools.demo", "evaluate", "--robots", "1", "--renderer", "raycast"),
        *("--episodes", "1000", "--json", str(file), "--output", str(tmp_path)),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as demo:
        assert demo.stdout is not None
        told = [demo.stdout.readline()]
        demo.send_signal(signal.SIGINT)
        told += demo.stdout.readlines()
        assert demo.wait(PATIENCE_S) == 130, "".join(told)
    assert told[0].startswith("starting the simulation and the node"), "".join(told)
    assert told[-1] == "policy_demo evaluate: stopped, nothing is compared\n", "".join(told)
    assert not file.exists()


@pytest.mark.parametrize("option", ["--json", "--output"])
def test_what_cannot_be_written_is_refused_before_anything_is_started(tmp_path: Path, option: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match=rf"^policy_demo evaluate: {option}: found '.*below', which cannot be written"):
        main([option, str(tmp_path / "file" / "below")])


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(reference_path(None), "raycast", 2)


def test_the_policy_in_process_is_asked_at_every_step_of_an_episode_that_went_another_way(reference: Reference) -> None:
    stood = np.zeros((EPISODE_STEPS, 2))
    seen: list[int] = []
    comparison = reference.retrace([Episode(EpisodeResult(1000, False, EPISODE_S, 3), stood)], seen.append)
    assert comparison.steps == EPISODE_STEPS
    assert comparison.largest_difference > 0.1
    assert comparison.first is not None
    assert (comparison.first["seed"], comparison.first["step"]) == (1000, 0)
    assert comparison.other_episodes == [1000], "who stands still collides with nothing"
    assert seen[0] == 0
    sentences = shortcomings(0.0, 0.0, comparison)
    assert len(sentences) == 2
    assert f"of {EPISODE_STEPS} actions differ by more than 1e-05" in sentences[0]
    assert "the first one at step 0 of seed 1000" in sentences[0]
    assert "seeds 1000: rover_sim does not simulate as the environment does" in sentences[1]


def test_it_can_be_stopped_in_process_too(reference: Reference) -> None:
    progress = EpisodeProgress(Console(quiet=True), "in process", len(SEEDS))
    with pytest.raises(KeyboardInterrupt):
        reference.play(SEEDS, until_stopped(lambda: True, progress))


def test_the_goal_is_missed_where_the_rates_or_an_action_differ_by_more_than_is_allowed() -> None:
    comparison = Comparison()
    comparison.note(7, 3, np.array([0.1, 0.2]), np.array([0.1, 0.2 + 0.9e-5]))
    assert not shortcomings(0.97, 1.0, comparison)
    assert "96.0 % of the episodes succeeded, in process 100.0 %" in shortcomings(0.96, 1.0, comparison)[0]
    comparison.note(7, 4, np.array([0.1, 0.2]), np.array([0.1, 0.2 - 1.1e-5]))
    assert len(shortcomings(1.0, 1.0, comparison)) == 1
    assert comparison.first is not None
    assert comparison.first["step"] == 4
    assert not shortcomings(1.0, 1.0, None), "in real time no actions are compared"
    unusable = Comparison()
    unusable.note(7, 5, np.array([0.0, 0.0]), np.array([0.0, np.nan]))
    assert "1 of 1 actions differ by more than 1e-05, at most by inf" in shortcomings(1.0, 1.0, unusable)[0]


def report(seed: int, time_s: float, presses: int = 0, collisions: int = 0, linear_m_s: float = 0.0) -> Report:
    return Report(seed, time_s, presses, collisions, linear_m_s, 0.5)


def test_robots_get_the_next_episode_as_they_become_free() -> None:
    dealer = Dealer(2, [10, 11, 12])
    assert dealer.running == {0: 10, 1: 11}
    dealer.note(1, report(-1, 3.0, presses=1))
    assert not dealer.has_begun(1), "what it does before its reset is no part of the episode"
    for robot, seed in ((0, 10), (1, 11)):
        dealer.note(robot, report(seed, 0.0))
        dealer.note(robot, report(seed, 0.05, linear_m_s=0.1))
    # A reset that was asked for again.
    dealer.note(1, report(11, 0.0, linear_m_s=9.0))
    dealer.note(1, report(11, 0.05, linear_m_s=0.2))
    dealer.note(1, report(11, 0.05, linear_m_s=0.2))
    dealer.note(1, report(11, 0.1, presses=1, collisions=2, linear_m_s=0.3))
    assert dealer.running == {0: 10, 1: 12}
    dealer.note(1, report(11, 0.15, presses=1))
    assert not dealer.has_begun(1)
    (episode,) = dealer.finished
    assert episode.result == EpisodeResult(11, True, 0.1, 2)
    assert episode.commands.tolist() == [[0.2, 0.5], [0.3, 0.5]]


def test_an_episode_ends_with_its_time() -> None:
    dealer = Dealer(2, [10, 11])
    for robot, seed in dealer.running.copy().items():
        dealer.note(robot, report(seed, EPISODE_S - 0.05))
    dealer.note(0, report(10, EPISODE_S - 1e-9))
    # In real time the simulation tells of the press a little later than its last sensors.
    dealer.note(1, report(11, EPISODE_S + 0.01, presses=1))
    assert [episode.result.success for episode in dealer.finished] == [False, False]
    assert not dealer.running


def test_readings_that_grow_old_before_a_reset_do_not_count() -> None:
    ages_ms = [20.0, 20.0, 70.0, 120.0, np.nan, np.nan, 20.0]
    ticks = [np.array([[0.0, 1.0, age_ms, 30.0] for age_ms in part]) for part in (ages_ms[:3], ages_ms[3:])]
    kept = ages_while_driven_ms(ticks, left_out=2)
    assert sorted(kept) == [20.0, 20.0, 20.0, *[30.0] * 7]


def test_a_policy_without_its_zip_cannot_be_compared(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"rover\.zip' is not there"):
        reference_path(tmp_path / "rover.bundle")
    (tmp_path / "rover.zip").touch()
    assert reference_path(tmp_path / "rover.bundle") == tmp_path / "rover.zip"
