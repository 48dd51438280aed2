# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Compare trained policies (`policy_train report`): their learning curves in a plot, their evaluations in a table."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from policy_node.cli.output import check_file, check_folder
from policy_node.report.figures import SubParsers
from policy_node.report.plots import STYLE
from policy_node_rover.arena.conditions import CONDITIONS

PLOT = "learning_curves.png"
TABLE = "table.md"
# What a page has around the place of a table.
BEGIN, END = "<!-- {}: begin -->", "<!-- {}: end -->"
_HEAD = ("conditions", "driver", "success", "mean time to the press", "collisions per episode")
_OF_EVALUATION = {"driver", "conditions", "blanked", "success_interval_95", "results"}
_PHASES: dict[str, Literal["--", "-"]] = {"imitation": "--", "ppo": "-"}
_SUCCESS_TICKS = (0, 50, 80, 90, 95, 98, 100)
# With room for the lines at both ends.
_SUCCESS_LIMITS = (-6.0, 100.5)
_LINE_WIDTH = 1.5


@dataclass(frozen=True)
class Run:
    """What a folder holds of a training, or of references.

    Attributes
    ----------
    name
        What it is called in plot and table.
    curve
        The points of the learning curve; empty for references.
    training
        How it was trained, with what and where; empty for references.
    evaluations
        The reports of `policy_train evaluate`.
    """

    name: str
    curve: list[dict[str, Any]]
    training: dict[str, Any]
    evaluations: list[dict[str, Any]]


def read_run(text: str) -> Run:
    """Read a folder, given as `FOLDER` or `NAME=FOLDER`.

    Raises
    ------
    SystemExit
        When the folder holds neither a learning curve nor an evaluation, or a file that is no JSON.
    """
    name, separator, path = text.partition("=")
    folder = Path(path if separator else text)
    reports = [_read_json(file) for file in sorted(folder.glob("*.json"))]
    evaluations = [report for report in reports if isinstance(report, dict) and report.keys() >= _OF_EVALUATION]
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
        raise SystemExit(
            f"report: '{file}' cannot be read as JSON ({error}); write it again or take it away"
        ) from error


def report(options: argparse.Namespace) -> None:
    """Write the plot and the table into the output folder, and the table into a page; see the command's help."""
    runs = [read_run(text) for text in options.folders]
    for name, count in Counter(run.name for run in runs).items():
        if count > 1:
            raise SystemExit(
                f"report: {count} folders are called '{name}', which could not be told apart; name them: NAME=FOLDER"
            )
    check_folder("report: --output", options.output)
    evaluated, trained = any(run.evaluations for run in runs), [run for run in runs if run.curve]
    tables = {"table": variants_table(runs), "successes": successes_table(runs)}
    pages = {page: filled_page(page, tables) for page in options.page}
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


def variants_table(runs: Sequence[Run]) -> str:
    """Return the evaluations of all runs as a table in Markdown.

    Those under the same conditions are beside each other, policies in the order of the runs and then the references.
    """
    order = list(CONDITIONS)
    rows = sorted(
        (
            (
                evaluation["blanked"] or "",
                order.index(evaluation["conditions"]),
                evaluation["driver"] != "policy",
                place,
            ),
            _row(run.name, evaluation),
        )
        for place, run in enumerate(runs)
        for evaluation in run.evaluations
    )
    lines = [_HEAD, ("---",) * len(_HEAD), *(row for _, row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def successes_table(runs: Sequence[Run]) -> str:
    """Return how often each driver succeeded under each of the conditions, as a table in Markdown."""
    order = list(CONDITIONS)
    columns = sorted(
        {(evaluation["blanked"] or "", evaluation["conditions"]) for run in runs for evaluation in run.evaluations},
        key=lambda column: (column[0], order.index(column[1])),
    )
    cells: dict[tuple[bool, str], dict[tuple[str, str], str]] = {}
    for run in runs:
        for evaluation in run.evaluations:
            driver = (evaluation["driver"] != "policy", _driver(run.name, evaluation))
            low, high = (100 * end for end in evaluation["success_interval_95"])
            cell = f"{100 * evaluation['success_rate']:.1f} % ({low:.1f} to {high:.1f})"
            cells.setdefault(driver, {})[evaluation["blanked"] or "", evaluation["conditions"]] = cell
    # Sorting keeps the order of the runs, and puts references last.
    drivers = sorted(cells, key=lambda driver: driver[0])
    lines = [
        ("success", *(conditions + _blanked(blanked) for blanked, conditions in columns)),
        ("---",) * (len(columns) + 1),
        *((name, *(cells[reference, name].get(column, "–") for column in columns)) for reference, name in drivers),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _driver(name: str, evaluation: Mapping[str, Any]) -> str:
    return name if evaluation["driver"] == "policy" else f"{evaluation['driver']} driver"


def _blanked(key: str | None) -> str:
    return f", {key} blanked" if key else ""


def _row(name: str, evaluation: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the cells of one evaluation, each figure with its 95 % interval."""
    success = f"{100 * evaluation['success_rate']:.1f} % ({evaluation['successes']} of {evaluation['episodes']})"
    success_percent = [100 * end for end in evaluation["success_interval_95"]]
    time_s, collisions = evaluation["mean_time_to_press_s"], evaluation["mean_collisions"]
    return (
        evaluation["conditions"] + _blanked(evaluation["blanked"]),
        _driver(name, evaluation),
        success + _interval(success_percent, 1, " %"),
        "–" if time_s is None else f"{time_s:.2f} s" + _interval(evaluation["time_to_press_interval_95_s"], 2, " s"),
        f"{collisions:.2f}" + _interval(evaluation["collisions_interval_95"], 2, ""),
    )


def _interval(ends: Sequence[float] | None, digits: int, unit: str) -> str:
    return f", {ends[0]:.{digits}f} to {ends[1]:.{digits}f}{unit}" if ends else ""


def filled_page(page: Path, tables: Mapping[str, str]) -> str:
    """Return a page with tables between the two marks that it has for each of them, in place of what is there.

    Raises
    ------
    SystemExit
        When the page cannot be read or written, or has marks of no table, or only one of two, or one of them twice.
    """
    try:
        text = page.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SystemExit(
            f"report: --page: found '{page}', which cannot be read ({reason}); give a page that is there, with marks"
        ) from error
    check_file("report: --page", page)
    marks = {name: (BEGIN.format(name), END.format(name)) for name in tables}
    wanted = [name for name, (begin, end) in marks.items() if begin in text or end in text]
    for name in wanted:
        begin, end = marks[name]
        before, _, rest = text.partition(begin)
        _, found, after = rest.partition(end)
        if not found or text.count(begin) != 1 or text.count(end) != 1:
            raise SystemExit(
                f"report: '{page}' needs the lines {begin} and {end} once each, around the place of the table"
            )
        text = f"{before}{begin}\n{tables[name]}{end}{after}"
    if not wanted:
        allowed = " or ".join(" and ".join(pair) for pair in marks.values())
        raise SystemExit(f"report: '{page}' has no place for a table; mark it by the lines {allowed}")
    return text


def plot_curves(runs: Sequence[Run], file: Path) -> None:
    """Draw how the success of trainings grew, over their steps and over the time that they took."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 4.2), layout="constrained")
        over_steps, over_time = figure.subplots(1, 2, sharey=True)
        for place, run in enumerate(runs):
            _draw_curve(over_steps, over_time, run, f"C{place}", runs[place + 1 :])
        for axes, label in ((over_steps, "steps, thousands"), (over_time, "wall time, minutes")):
            axes.set_xlabel(label)
            axes.set_xlim(left=0.0)
            axes.grid()
        # The last percents, in which policies differ, take as much room as the first half.
        over_steps.set_yscale("function", functions=(lambda rate: -np.log(104.0 - rate), lambda y: 104.0 - np.exp(-y)))
        over_steps.set_ylim(*_SUCCESS_LIMITS)
        over_steps.set_yticks(_SUCCESS_TICKS, [f"{tick} %" for tick in _SUCCESS_TICKS])
        over_steps.minorticks_off()
        over_steps.set_ylabel("success of the latest 200 episodes, stretched scale")
        phases = [Line2D([], [], color=STYLE["text.color"], linestyle=style) for style in _PHASES.values()]
        over_steps.legend(phases, ["imitation", "PPO"], loc="lower right")
        over_time.legend(loc="lower right")
        figure.suptitle("Success while training, when policies also explore")
        figure.supxlabel("\n".join(dict.fromkeys(_machine(run.training) for run in runs if run.training)), fontsize=7.5)
        figure.savefig(file, dpi=150, transparent=True)


def _draw_curve(over_steps: Axes, over_time: Axes, run: Run, colour: str, later: Sequence[Run]) -> None:
    """Draw one training, its phases after each other, in both panels; wider where later ones will lie upon it."""
    steps_before = 0
    joint: list[tuple[float, float, float]] = []
    for phase, style in _PHASES.items():
        points = [point for point in run.curve if point["phase"] == phase]
        if not points:
            continue
        drawn = joint + [
            ((steps_before + point["steps"]) / 1e3, point["elapsed_s"] / 60, 100 * point["success_rate"])
            for point in points
            if point["success_rate"] is not None
        ]
        steps_before += points[-1]["steps"]
        # The next phase goes on from where this one has led.
        joint = drawn[-1:]
        steps, minutes, success = zip(*drawn, strict=True) if drawn else ((), (), ())
        upon = sum(_successes(run, phase) <= _successes(other, phase) for other in later)
        width = _LINE_WIDTH * (1 + 1.5 * upon)
        over_steps.plot(steps, success, style, color=colour, linewidth=width)
        over_time.plot(minutes, success, style, color=colour, linewidth=width)
    over_time.plot([], [], color=colour, label=run.name)


def _successes(run: Run, phase: str) -> set[tuple[int, float | None]]:
    """Return the points of a phase over its steps."""
    return {(point["steps"], point["success_rate"]) for point in run.curve if point["phase"] == phase}


def _machine(training: Mapping[str, Any]) -> str:
    """Say with what and where a policy was trained."""
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
        description="Compare trained policies, and references: their learning curves in a plot, and their evaluations, "
        "each figure with its 95 % interval, in a table in Markdown, which is printed too.",
    )
    parser.add_argument(
        "folders",
        nargs="+",
        metavar="[NAME=]FOLDER",
        help="folder with the curve.json of a training, reports of policy_train evaluate --json, or both; it is called "
        "by NAME or by its own name",
    )
    parser.add_argument(
        "--output", type=Path, required=True, help=f"folder for {PLOT} and {TABLE}, such as doc/training"
    )
    parser.add_argument(
        "--page",
        type=Path,
        action="append",
        default=[],
        help=f"page to put the table into, between {BEGIN.format('table')} and {END.format('table')}, and the "
        f"successes alone between {BEGIN.format('successes')} and {END.format('successes')}; may be repeated",
    )
