# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Write the model card beside a trained policy, and compare several in a plot and tables (`policy_train report`)."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from policy_node.cli.output import check_file, check_folder
from policy_node.report.figures import SubParsers, machine, write_figures
from policy_node.report.plots import STYLE
from policy_node_rover.arena.conditions import CONDITIONS
from policy_node_rover.evaluation.results import describe_summary
from policy_node_rover.training.progress import MIN_EPISODES, RECENT_EPISODES, describe_duration
from policy_node_rover.training.run import RECORD_FILE

PLOT = "learning_curves.png"
TABLE = "table.md"
# Marks of the place of a table in a page.
BEGIN, END = "<!-- {}: begin -->", "<!-- {}: end -->"
_HEAD = ("conditions", "driver", "success", "mean time to the press", "collisions per episode")
_EVALUATION_KEYS = {"driver", "conditions", "blanked", "success_interval_95", "results"}
_PHASES: dict[str, Literal["--", "-"]] = {"imitation": "--", "ppo": "-"}
_SUCCESS_TICKS = (0, 50, 80, 90, 95, 98, 100)
_SUCCESS_LIMITS = (-6.0, 100.5)
_LINE_WIDTH = 1.5
_PACKAGES = ("python", "torch", "stable-baselines3", "numpy", "policy_node")
_MORE_PACKAGES = ("sb3-contrib", "gymnasium", "mujoco")
# About the number of points of the curve in the model card.
_CURVE_POINTS = 12


def write_training_record(
    folder: Path, runs: Sequence[Mapping[str, str | None]], seed: int, steps: Mapping[str, int], wall_time_s: float
) -> dict[str, Any]:
    """Write `training.json` and return it: `runs` are command and commit of each part, `steps` those by phase."""
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
            **{name: found[name] for name in _PACKAGES},
            **{name: version(name) for name in _MORE_PACKAGES},
        },
    }
    write_figures(folder / RECORD_FILE, training)
    return training


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
        *(_curve_row(point) for point in _selected(curve)),
        "",
    ]
    if evaluations:
        lines += ["## Evaluation", ""]
        for name, summary in evaluations.items():
            lines += [f"- {name}: {describe_summary(summary)}".replace("\n", "; ")]
        lines += [""]
    (folder / "rover.md").write_text("\n".join(lines))


def _curve_row(point: Mapping[str, Any]) -> str:
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


class Run(NamedTuple):
    """A training or a set of references: learning curve, `training.json`, and reports of `policy_train evaluate`."""

    name: str
    curve: list[dict[str, Any]]
    training: dict[str, Any]
    evaluations: list[dict[str, Any]]


def read_run(text: str) -> Run:
    """Read a folder, given as `FOLDER` or `NAME=FOLDER`."""
    name, separator, path = text.partition("=")
    folder = Path(path if separator else text)
    reports = [_read_json(file) for file in sorted(folder.glob("*.json"))]
    evaluations = [report for report in reports if isinstance(report, dict) and report.keys() >= _EVALUATION_KEYS]
    curve, training = (
        _read_json(file) if file.exists() else empty
        for file, empty in ((folder / "curve.json", []), (folder / "training.json", {}))
    )
    if not curve and not evaluations:
        raise SystemExit(
            f"report: '{folder}' holds no curve.json and no evaluation; give the --output of policy_train train, or a "
            "folder with files that policy_train evaluate --json wrote"
        )
    return Run(name if separator else folder.resolve().name, curve, training, evaluations)


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise SystemExit(f"report: '{file}' cannot be read as JSON ({error}); write it again or remove it") from error


def report(options: argparse.Namespace) -> None:
    """Write plot and table into the output folder, and the tables into pages."""
    runs = [read_run(text) for text in options.folders]
    for name, count in Counter(run.name for run in runs).items():
        if count > 1:
            raise SystemExit(f"report: {count} folders have the name '{name}'; give names: NAME=FOLDER")
    check_folder("report: --output", options.output)
    trained = [run for run in runs if run.curve]
    tables = {"table": evaluations_table(runs), "successes": successes_table(runs)}
    pages = {page: fill_page(page, tables) for page in options.page}
    evaluated = any(run.evaluations for run in runs)
    if evaluated:
        (options.output / TABLE).write_text(tables["table"])
        print(tables["table"], end="")
        for page, text in pages.items():
            page.write_text(text)
    if trained:
        plot_curves(trained, options.output / PLOT)
    if not evaluated:
        print(
            f"report: the folders hold no evaluations, so that only the plot was written, '{options.output / PLOT}'; "
            "policy_train evaluate --json FOLDER/NAME.json adds one",
            file=sys.stderr,
        )


def _evaluations(runs: Sequence[Run]) -> Iterator[tuple[bool, str, tuple[str, int], dict[str, Any]]]:
    """Yield all evaluations: whether of a reference, name of the driver, sort key of the conditions, and report."""
    order = list(CONDITIONS)
    for run in runs:
        for evaluation in run.evaluations:
            is_reference = evaluation["driver"] != "policy"
            name = f"{evaluation['driver']} driver" if is_reference else run.name
            conditions = (evaluation["blanked"] or "", order.index(evaluation["conditions"]))
            yield is_reference, name, conditions, evaluation


def evaluations_table(runs: Sequence[Run]) -> str:
    """Return all evaluations as a table in Markdown, sorted by conditions, policies before references."""
    # The sort is stable and keeps the order of the runs.
    rows = sorted(_evaluations(runs), key=lambda row: (row[2], row[0]))
    return _markdown([_HEAD, *(_row(name, evaluation) for _, name, _, evaluation in rows)])


def successes_table(runs: Sequence[Run]) -> str:
    """Return the success rates of each driver under each of the conditions as a table in Markdown."""
    columns: dict[tuple[str, int], str] = {}
    cells: dict[tuple[bool, str], dict[tuple[str, int], str]] = {}
    for is_reference, name, conditions, evaluation in _evaluations(runs):
        columns[conditions] = _conditions(evaluation)
        low, high = (100 * end for end in evaluation["success_interval_95"])
        cell = f"{100 * evaluation['success_rate']:.1f} % ({low:.1f} to {high:.1f})"
        cells.setdefault((is_reference, name), {})[conditions] = cell
    drivers = sorted(cells, key=lambda driver: driver[0])
    head = ("success", *(columns[conditions] for conditions in sorted(columns)))
    rows = ((driver[1], *(cells[driver].get(conditions, "–") for conditions in sorted(columns))) for driver in drivers)
    return _markdown([head, *rows])


def _markdown(rows: Iterable[Sequence[str]]) -> str:
    """Format rows, the first one the head, as a table in Markdown."""
    head, *others = rows
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, ("---",) * len(head), *others))


def _conditions(evaluation: Mapping[str, Any]) -> str:
    blanked = f", {evaluation['blanked']} blanked" if evaluation["blanked"] else ""
    return f"{evaluation['conditions']}{blanked}"


def _row(name: str, evaluation: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the cells of an evaluation, with 95 % intervals."""
    success = f"{100 * evaluation['success_rate']:.1f} % ({evaluation['successes']} of {evaluation['episodes']})"
    success_percent = [100 * end for end in evaluation["success_interval_95"]]
    time_s, collisions = evaluation["mean_time_to_press_s"], evaluation["mean_collisions"]
    return (
        _conditions(evaluation),
        name,
        success + _interval(success_percent, 1, " %"),
        "–" if time_s is None else f"{time_s:.2f} s" + _interval(evaluation["time_to_press_interval_95_s"], 2, " s"),
        f"{collisions:.2f}" + _interval(evaluation["collisions_interval_95"], 2, ""),
    )


def _interval(ends: Sequence[float] | None, digits: int, unit: str) -> str:
    return f", {ends[0]:.{digits}f} to {ends[1]:.{digits}f}{unit}" if ends else ""


def fill_page(page: Path, tables: Mapping[str, str]) -> str:
    """Return the text of a page with tables between their marks."""
    try:
        text = page.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SystemExit(
            f"report: --page: found '{page}', which cannot be read ({reason}); give a page that exists, with marks"
        ) from error
    check_file("report: --page", page)
    marks = {name: (BEGIN.format(name), END.format(name)) for name in tables}
    marked = [name for name, (begin, end) in marks.items() if begin in text or end in text]
    for name in marked:
        begin, end = marks[name]
        before, _, rest = text.partition(begin)
        _, found, after = rest.partition(end)
        if not found or text.count(begin) != 1 or text.count(end) != 1:
            raise SystemExit(
                f"report: '{page}' needs the lines {begin} and {end} once each, around the place of the table"
            )
        text = f"{before}{begin}\n{tables[name]}{end}{after}"
    if not marked:
        allowed = " or ".join(" and ".join(pair) for pair in marks.values())
        raise SystemExit(f"report: '{page}' has no place for a table; mark it by the lines {allowed}")
    return text


def plot_curves(runs: Sequence[Run], file: Path) -> None:
    """Plot the success rates of trainings over steps and over time."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 4.2), layout="constrained")
        over_steps, over_time = figure.subplots(1, 2, sharey=True)
        for index, run in enumerate(runs):
            _plot_curve(over_steps, over_time, run, f"C{index}", runs[index + 1 :])
        for axes, label in ((over_steps, "steps, thousands"), (over_time, "wall time, minutes")):
            axes.set_xlabel(label)
            axes.set_xlim(left=0.0)
            axes.grid()
        # A stretched scale, as policies differ in the last percents.
        over_steps.set_yscale("function", functions=(lambda rate: -np.log(104.0 - rate), lambda y: 104.0 - np.exp(-y)))
        over_steps.set_ylim(*_SUCCESS_LIMITS)
        over_steps.set_yticks(_SUCCESS_TICKS, [f"{tick} %" for tick in _SUCCESS_TICKS])
        over_steps.minorticks_off()
        over_steps.set_ylabel("success of the latest 200 episodes, stretched scale")
        phases = [Line2D([], [], color=STYLE["text.color"], linestyle=style) for style in _PHASES.values()]
        over_steps.legend(phases, ["imitation", "PPO"], loc="lower right")
        over_time.legend(loc="lower right")
        figure.suptitle("Success during training, with exploration")
        machines = dict.fromkeys(_machine(run.training) for run in runs if run.training)
        figure.supxlabel("\n".join(machines), fontsize=7.5)
        figure.savefig(file, dpi=150, transparent=True)


def _plot_curve(over_steps: Axes, over_time: Axes, run: Run, colour: str, later: Sequence[Run]) -> None:
    """Plot the phases of a training in both panels; wider where a later curve will cover it."""
    earlier_steps = 0
    last: list[tuple[float, float, float]] = []
    for phase, style in _PHASES.items():
        points = [point for point in run.curve if point["phase"] == phase]
        if not points:
            continue
        plotted = last + [
            ((earlier_steps + point["steps"]) / 1e3, point["elapsed_s"] / 60, 100 * point["success_rate"])
            for point in points
            if point["success_rate"] is not None
        ]
        earlier_steps += points[-1]["steps"]
        # The next phase continues at the last point of this one.
        last = plotted[-1:]
        steps, minutes, success = zip(*plotted, strict=True) if plotted else ((), (), ())
        covering = sum(_successes(run, phase) <= _successes(other, phase) for other in later)
        width = _LINE_WIDTH * (1 + 1.5 * covering)
        over_steps.plot(steps, success, style, color=colour, linewidth=width)
        over_time.plot(minutes, success, style, color=colour, linewidth=width)
    over_time.plot([], [], color=colour, label=run.name)


def _successes(run: Run, phase: str) -> set[tuple[int, float | None]]:
    return {(point["steps"], point["success_rate"]) for point in run.curve if point["phase"] == phase}


def _machine(training: Mapping[str, Any]) -> str:
    versions = training["versions"]
    return (
        f"{training['cpu']}, {training['cores']} cores; Python {versions['python']}, PyTorch {versions['torch']}, "
        f"Stable-Baselines3 {versions['stable-baselines3']}, MuJoCo {versions['mujoco']}"
    )


def add_parser(commands: SubParsers) -> None:
    """Add the subcommand `report`."""
    parser = commands.add_parser(
        "report",
        help="compare trained policies in a plot and a table",
        description="Compare trained policies and references: learning curves in a plot, evaluations with 95 % "
        "intervals in a table in Markdown, which is also printed.",
    )
    parser.add_argument(
        "folders",
        nargs="+",
        metavar="[NAME=]FOLDER",
        help="folder with the curve.json of a training, reports of policy_train evaluate --json, or both; NAME "
        "replaces its name",
    )
    parser.add_argument(
        "--output", type=Path, required=True, help=f"folder for {PLOT} and {TABLE}, such as doc/training"
    )
    parser.add_argument(
        "--page",
        type=Path,
        action="append",
        default=[],
        help=f"page for the table, between {BEGIN.format('table')} and {END.format('table')}, and for the success "
        f"rates, between {BEGIN.format('successes')} and {END.format('successes')}; may be repeated",
    )
