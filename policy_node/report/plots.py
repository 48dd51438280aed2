# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The figures of `policy_bench` drawn: on a transparent ground, in colours that are seen on white and on black."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

NODE, BASELINE = "#2f81f7", "#db6d28"
_COLOURS = (NODE, BASELINE, "#3fb950", "#a371f7", "#d29922", "#f85149", "#39c5cf", "#f778ba")
_TEXT = "#7d8590"
# Of all plots. Matplotlib names every one of its keys in the type.
STYLE: Any = {
    "font.size": 9.5,
    "text.color": _TEXT,
    "axes.labelcolor": _TEXT,
    "axes.edgecolor": _TEXT,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _TEXT,
    "ytick.color": _TEXT,
    "grid.color": _TEXT,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "axes.prop_cycle": cycler("color", _COLOURS),
}
# Of each panel of `plot_fleet`: its key in the figures and its label.
_FLEET_PANELS = (
    ("cpu_us_per_robot_tick", "CPU per robot and tick, µs"),
    ("tick_ms", "tick, ms"),
    ("lateness_ms", "lateness, ms"),
    ("stamp_to_command_ms", "stamp to command, ms"),
)


def plot_fleet(figures: Mapping[str, Any], title: str, file: Path) -> None:
    """Draw the loops of `policy_bench fleet` beside each other."""
    loops = {"policy_node": figures["node"]}
    loops |= {versus["settings"]: versus for versus in figures["versus"]}
    if "baseline" in figures:
        loops["today's loop"] = figures["baseline"]
    labels = list(loops)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 1.7 + 0.32 * len(labels)), layout="constrained")
        all_axes = figure.subplots(1, len(_FLEET_PANELS), sharey=True)
        for axes, (key, label) in zip(all_axes, _FLEET_PANELS, strict=True):
            for position, (name, loop) in enumerate(loops.items()):
                colour = BASELINE if name == "today's loop" else NODE
                if key == "cpu_us_per_robot_tick":
                    axes.barh(position, loop[key], color=colour)
                else:
                    values = [loop[key][p] for p in ("p50", "p99") if loop[key][p] is not None]
                    axes.plot(values, [position] * len(values), "-", color=colour, linewidth=2)
                    axes.plot(values, [position] * len(values), "|", color=colour, markersize=11, markeredgewidth=2)
            if key != "cpu_us_per_robot_tick":
                axes.set_xscale("log")
                _plain_numbers(axes.xaxis)
            axes.set_title(label, fontsize=8.5)
            axes.tick_params(axis="x", labelsize=8)
            axes.grid(axis="x")
        all_axes[0].set_yticks(range(len(labels)), labels)
        all_axes[0].invert_yaxis()
        finish(figure, f"{title}\ntimes from p50 to p99", figures["machine"], file)


def plot_scale(fleets: Sequence[Mapping[str, Any]], title: str, machine: Mapping[str, Any], file: Path) -> None:
    """Draw the cost and the delays of `policy_bench scale` against the number of robots."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 3.4), layout="constrained")
        panels = figure.subplots(1, 3)
        robots = [fleet["options"]["robots"] for fleet in fleets]
        for loop, name, colour in (("node", "policy_node", NODE), ("baseline", "today's loop", BASELINE)):
            measured = [fleet[loop] for fleet in fleets if loop in fleet]
            if not measured:
                continue
            costs = [figures["cpu_us_per_robot_tick"] for figures in measured]
            panels[0].plot(robots, costs, "o-", color=colour, label=name)
            panels[1].plot(robots, [figures["tick_ms"]["p99"] for figures in measured], "o-", color=colour)
            for percentile, line in (("p50", "o--"), ("p99", "o-")):
                values = [figures["stamp_to_command_ms"][percentile] for figures in measured]
                # A loop that is too slow for its fleet may have sent no command.
                there = [(count, value) for count, value in zip(robots, values, strict=True) if value is not None]
                panels[2].plot(*zip(*there, strict=True), line, color=colour)
        period_ms = 1e3 / fleets[0]["options"]["rate_hz"]
        panels[1].axhline(period_ms, color=_TEXT, linestyle=":", linewidth=1)
        panels[1].annotate("control period", (robots[0], period_ms), xytext=(0, 3), textcoords="offset points")
        titles = ("CPU per robot and tick, µs", "tick, p99, ms", "stamp to command, p50 (dashed), p99, ms")
        for panel, label in zip(panels, titles, strict=True):
            _logarithmic(panel, robots)
            panel.set_title(label, fontsize=8.5)
        panels[0].legend()
        finish(figure, title, machine, file)


def _logarithmic(axes: Axes, robots: Sequence[int]) -> None:
    """Make both axes logarithmic, with plain numbers on them."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(robots, [str(count) for count in robots])
    axes.minorticks_off()
    _plain_numbers(axes.yaxis)
    axes.set_xlabel("robots")
    axes.grid()


def _plain_numbers(axis: Axis) -> None:
    """Label a logarithmic axis with a few numbers as one writes them."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 50 * low else (1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def plot_pipeline(figures: Mapping[str, Any], title: str, file: Path) -> None:
    """Draw the stages of a step beside the bare forward pass, for every engine."""
    engines = figures["engines"]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 1.5 + 0.6 * len(engines)), layout="constrained")
        axes = figure.subplots()
        labels = []
        stages = list(next(iter(engines.values()))["stages_ms"])
        colours = dict(zip(stages, _COLOURS[1:], strict=False))
        for position, (name, engine) in enumerate(engines.items()):
            left = 0.0
            for stage, value in engine["stages_ms"].items():
                axes.barh(
                    2 * position, value["p50"], left=left, color=colours[stage], label=stage if not position else ""
                )
                left += value["p50"]
            axes.barh(
                2 * position + 1, engine["forward_ms"]["p50"], color=NODE, label="" if position else "forward alone"
            )
            labels += [f"{name}: step", f"{name}: forward alone"]
        axes.set_yticks(range(len(labels)), labels)
        axes.invert_yaxis()
        axes.set_xlabel("ms, p50")
        axes.grid(axis="x")
        axes.legend(ncols=len(stages) + 1, loc="lower center", bbox_to_anchor=(0.5, 1.0))
        finish(figure, title, figures["machine"], file)


def finish(figure: Figure, title: str, machine: Mapping[str, Any], file: Path) -> None:
    """Write the title, the machine and the file."""
    figure.suptitle(title)
    device = f", {machine['gpu']}" if machine.get("gpu") else ""
    figure.supxlabel(
        f"{machine['cpu']}, {machine['cores']} cores{device}; Python {machine['python']}, "
        f"PyTorch {machine['torch']}, policy_node {machine['policy_node']}",
        fontsize=7.5,
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150, transparent=True)
