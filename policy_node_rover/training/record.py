# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""What stands beside a trained model: how it was made, with what, how it learnt, and how well it drives."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from policy_node.report.figures import machine
from policy_node_rover.training.checkpoint import RECORD_FILE
from policy_node_rover.training.evaluate import describe_summary
from policy_node_rover.training.progress import LEAST_EPISODES, RECENT_EPISODES, describe_duration

_MORE_PACKAGES = ("sb3-contrib", "gymnasium", "mujoco")
# About as many points of the curve stand in the text.
_POINTS_IN_TEXT = 12


def record_training(
    folder: Path, runs: Sequence[Mapping[str, str | None]], seed: int, steps: Mapping[str, int], wall_time_s: float
) -> dict[str, Any]:
    """Write `training.json` into the folder of a model, and return what it says.

    Parameters
    ----------
    folder
        Where the model is.
    runs
        Command and commit of each part of the training; the first one says how it was made, the others went on.
    seed
        Its seed.
    steps
        Steps of each phase.
    wall_time_s
        How long the training took, with its parts before interruptions.
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


def read_training(folder: Path) -> dict[str, Any] | None:
    """Read what `record_training` wrote; None when it wrote nothing."""
    file = folder / RECORD_FILE
    return json.loads(file.read_text()) if file.exists() else None


def describe_model(
    folder: Path, training: Mapping[str, Any], curve: Sequence[Mapping], evaluations: Mapping[str, Mapping[str, Any]]
) -> None:
    """Write the text beside the model, `rover.md`.

    Parameters
    ----------
    folder
        Where the model is.
    training
        What `record_training` returned.
    curve
        The points of the learning curve.
    evaluations
        What evaluations found, by what was evaluated.
    """
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
        "## How it learnt",
        f"Success and time to the press are those of the latest {RECENT_EPISODES} episodes that the policy drove, "
        f"while it explored, from {LEAST_EPISODES} of them on.",
        "",
        "| phase | steps | minutes | success | time to the press | steps/s |",
        "|---|---|---|---|---|---|",
        *(_row(point) for point in _some(curve)),
        "",
    ]
    if evaluations:
        lines += ["## How well it drives", ""]
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


def _some(curve: Sequence[Mapping]) -> list[Mapping]:
    """Choose points at equal distances, with the last one of each phase; of those of equal steps, the last."""
    points = list({(point["phase"], point["steps"]): point for point in curve}.values())
    every = max(len(points) // _POINTS_IN_TEXT, 1)
    last = {point["phase"]: index for index, point in enumerate(points)}
    return [point for index, point in enumerate(points) if index % every == 0 or index in last.values()]


def running_commit() -> str | None:
    """Return the commit of the code that runs, marked where files differ from it; None without a repository."""
    folder = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() or None
