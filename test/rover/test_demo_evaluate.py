# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Evaluation over DDS: schedule of the episodes, results, and comparison with episodes in process."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from node_harness import PATIENCE_S
from rich.console import Console

from policy_node.cli.child_process import ToolError
from policy_node_rover.demo.evaluate import main, reference_path
from policy_node_rover.demo.over_dds import EpisodeScheduler, EpisodeStatus, ages_in_episodes_ms
from policy_node_rover.evaluation.comparison import ACTION_TOLERANCE, ActionComparison, Reference, find_problems
from policy_node_rover.evaluation.progress import EpisodeProgress
from policy_node_rover.evaluation.results import EpisodeResult, RecordedCommands
from policy_node_rover.mujoco.environment import EPISODE_S, EPISODE_STEPS

SEEDS = range(1000, 1003)


@pytest.mark.slow
@pytest.mark.over_dds
def test_in_lockstep_the_policy_drives_over_dds_as_it_does_in_process(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    demo = subprocess.run(
        [
            *(sys.executable, "-m", "policy_node_rover.demo.cli", "evaluate", "--robots", "2"),
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
        *(sys.executable, "-m", "policy_node_rover.demo.cli", "evaluate", "--robots", "1", "--renderer", "raycast"),
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
def test_unwritable_files_are_refused_before_the_start(tmp_path: Path, option: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match=rf"^policy_demo evaluate: {option}: found '.*below', which cannot be written"):
        main([option, str(tmp_path / "file" / "below")])


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(reference_path(None), "raycast", 2)


@pytest.mark.slow
def test_a_replay_compares_every_step_of_a_different_episode(reference: Reference) -> None:
    commands = np.zeros((EPISODE_STEPS, 2))
    ended: list[int] = []
    recorded = RecordedCommands(EpisodeResult(1000, False, EPISODE_S, 3), commands)
    comparison = reference.replay([recorded], lambda count, _: ended.append(count))
    actions = comparison.report()
    assert actions["steps_compared"] == EPISODE_STEPS
    assert actions["largest_difference"] > 0.1
    assert (actions["first_difference"]["seed"], actions["first_difference"]["step"]) == (1000, 0)
    assert actions["episodes_that_end_otherwise"] == [1000], (
        "the recorded episode has collisions, a rover that stands still has none"
    )
    assert (ended[0], ended[-1]) == (0, 1)
    sentences = find_problems(0.0, 0.0, actions)
    assert len(sentences) == 2
    assert f"of {EPISODE_STEPS} actions differ by more than 1e-05" in sentences[0]
    assert "the first one at step 0 of seed 1000" in sentences[0]
    assert "seeds 1000: rover_sim does not simulate as the environment does" in sentences[1]


def test_the_evaluation_in_process_can_be_stopped(reference: Reference) -> None:
    progress = EpisodeProgress(Console(quiet=True), "in process", len(SEEDS), stopping=lambda: True)
    with pytest.raises(KeyboardInterrupt):
        reference.run(SEEDS, progress.show)


def test_differences_above_the_tolerances_are_problems() -> None:
    comparison = ActionComparison()
    comparison.add(7, 3, np.array([0.1, 0.2]), np.array([0.1, 0.2 + 0.9e-5]))
    assert not find_problems(0.97, 1.0, comparison.report())
    assert "96.0 % of the episodes succeeded, in process 100.0 %" in find_problems(0.96, 1.0, comparison.report())[0]
    comparison.add(7, 4, np.array([0.1, 0.2]), np.array([0.1, 0.2 - 1.1e-5]))
    assert len(find_problems(1.0, 1.0, comparison.report())) == 1
    assert comparison.report()["first_difference"]["step"] == 4
    assert not find_problems(1.0, 1.0, None), "in real time no actions are compared"
    unusable = ActionComparison()
    unusable.add(7, 5, np.array([0.0, 0.0]), np.array([0.0, np.nan]))
    assert "1 of 1 actions differ by more than 1e-05, at most by inf" in find_problems(1.0, 1.0, unusable.report())[0]


def report(seed: int, time_s: float, presses: int = 0, collisions: int = 0, linear_m_s: float = 0.0) -> EpisodeStatus:
    return EpisodeStatus(seed, time_s, presses, collisions, linear_m_s, 0.5)


def test_a_rover_that_has_finished_gets_the_next_episode() -> None:
    scheduler = EpisodeScheduler(2, [10, 11, 12])
    assert scheduler.running == {0: 10, 1: 11}
    scheduler.update(1, report(-1, 3.0, presses=1))
    assert not scheduler.has_started(1), "a status from before the reset is ignored"
    for robot, seed in ((0, 10), (1, 11)):
        scheduler.update(robot, report(seed, 0.0))
        scheduler.update(robot, report(seed, 0.05, linear_m_s=0.1))
    # A repeated reset.
    scheduler.update(1, report(11, 0.0, linear_m_s=9.0))
    scheduler.update(1, report(11, 0.05, linear_m_s=0.2))
    scheduler.update(1, report(11, 0.05, linear_m_s=0.2))
    scheduler.update(1, report(11, 0.1, presses=1, collisions=2, linear_m_s=0.3))
    assert scheduler.running == {0: 10, 1: 12}
    scheduler.update(1, report(11, 0.15, presses=1))
    assert not scheduler.has_started(1)
    (episode,) = scheduler.finished
    assert episode.result == EpisodeResult(11, True, 0.1, 2)
    assert episode.commands.tolist() == [[0.2, 0.5], [0.3, 0.5]]


def test_an_episode_ends_after_its_maximum_time() -> None:
    scheduler = EpisodeScheduler(2, [10, 11])
    for robot, seed in scheduler.running.copy().items():
        scheduler.update(robot, report(seed, EPISODE_S - 0.05))
    scheduler.update(0, report(10, EPISODE_S - 1e-9))
    # In real time the status of the press comes a little later than the last sensors.
    scheduler.update(1, report(11, EPISODE_S + 0.01, presses=1))
    assert [episode.result.success for episode in scheduler.finished] == [False, False]
    assert not scheduler.running


def test_ages_before_a_reset_are_omitted() -> None:
    ages_ms = [20.0, 20.0, 70.0, 120.0, np.nan, np.nan, 20.0]
    ticks = [np.array([[0.0, 1.0, age_ms, 30.0] for age_ms in part]) for part in (ages_ms[:3], ages_ms[3:])]
    kept = ages_in_episodes_ms(ticks, omitted_ticks=2)
    assert sorted(kept) == [20.0, 20.0, 20.0, *[30.0] * 7]


def test_a_policy_without_its_zip_cannot_be_compared(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"rover\.zip' is not there"):
        reference_path(tmp_path / "rover.bundle")
    (tmp_path / "rover.zip").touch()
    assert reference_path(tmp_path / "rover.bundle") == tmp_path / "rover.zip"
