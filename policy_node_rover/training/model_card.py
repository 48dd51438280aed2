# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Write the model card beside a trained model: command, versions, learning curve and evaluations."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from policy_node.report.figures import machine
from policy_node_rover.evaluation.results import describe_summary
from policy_node_rover.training.checkpoint import RECORD_FILE
from policy_node_rover.training.progress import MIN_EPISODES, RECENT_EPISODES, describe_duration

_MORE_PACKAGES = ("sb3-contrib", "gymnasium", "mujoco")
# About the number of points of the curve in the card.
_CURVE_POINTS = 12


def write_training_record(
    folder: Path, runs: Sequence[Mapping[str, str | None]], seed: int, steps: Mapping[str, int], wall_time_s: float
) -> dict[str, Any]:
    """Write `training.json`, and return its content.

    `runs` are command and commit of each part of the training, `steps` those by phase; the time is that of all parts.
    """
    found = machine()
    training = {
        "command": runs[0]["command"],
        "commit": runs[0]["commit"],
        "runs": list(runs),
        "seed": seed,
        "steps": dict(steps),
        "wall_time_s": round(wall_time_s, 1),
        "cpu": found["cpu"],
        "cores": found["cores"],
        "versions": {
            **{name: found[name] for name in ("python", "torch", "stable-baselines3", "numpy", "policy_node")},
            **{name: version(name) for name in _MORE_PACKAGES},
        },
    }
    (folder / RECORD_FILE).write_text(json.dumps(training, indent=2) + "\n")
    return training


def read_training_record(folder: Path) -> dict[str, Any] | None:
    """Read `training.json`; None if there is none."""
    file = folder / RECORD_FILE
    return json.loads(file.read_text()) if file.exists() else None


def write_model_card(
    folder: Path, training: Mapping[str, Any], curve: Sequence[Mapping], evaluations: Mapping[str, Mapping[str, Any]]
) -> None:
    """Write the model card `rover.md` from `training.json`, the learning curve and evaluations by name."""
    steps = ", ".join(f"{count} steps of {phase}" for phase, count in training["steps"].items())
    versions = ", ".join(f"{name} {number}" for name, number in training["versions"].items())
    lines = [
        "# rover.zip",
        "",
        "A policy that drives the rover, trained by",
        "",
        f"    {training['command']}",
        "",
        f"- commit {training['commit'] or 'unknown'}, seed {training['seed']}",
        *(f"- continued by `{run['command']}`, commit {run['commit'] or 'unknown'}" for run in training["runs"][1:]),
        f"- {steps}",
        f"- {describe_duration(training['wall_time_s'])} on {training['cores']} cores of {training['cpu']}",
        f"- {versions}",
        "",
        "## Learning curve",
        f"Success and time to the press of the latest {RECENT_EPISODES} episodes that the policy drove with "
        f"exploration, from {MIN_EPISODES} episodes on.",
        "",
        "| phase | steps | minutes | success | time to the press | steps/s |",
        "|---|---|---|---|---|---|",
        *(_row(point) for point in _selected(curve)),
        "",
    ]
    if evaluations:
        lines += ["## Evaluation", ""]
        for name, summary in evaluations.items():
            lines += [f"- {name}: {describe_summary(summary)}".replace("\n", "; ")]
        lines += [""]
    (folder / "rover.md").write_text("\n".join(lines))


def _row(point: Mapping[str, Any]) -> str:
    success = "–" if point["success_rate"] is None else f"{100 * point['success_rate']:.1f} %"
    time_s = "–" if point["mean_time_to_press_s"] is None else f"{point['mean_time_to_press_s']:.1f} s"
    rate = "–" if point["steps_per_s"] is None else point["steps_per_s"]
    cells = (point["phase"], point["steps"], f"{point['elapsed_s'] / 60:.1f}", success, time_s, rate)
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def _selected(curve: Sequence[Mapping]) -> list[Mapping]:
    """Return equidistant points and the last one of each phase; the latest of those with equal steps."""
    points = list({(point["phase"], point["steps"]): point for point in curve}.values())
    every = max(len(points) // _CURVE_POINTS, 1)
    last = {point["phase"]: index for index, point in enumerate(points)}
    return [point for index, point in enumerate(points) if index % every == 0 or index in last.values()]


def running_commit() -> str | None:
    """Return the commit of the running code, marked as dirty if files differ; None without a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() or None
