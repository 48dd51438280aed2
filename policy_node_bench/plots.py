# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Draw the figures of `policy_bench`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from policy_node.engines.choice import Candidate
from policy_node.report.plots import BASELINE, COLOURS, NODE, STYLE, TEXT
from policy_node_bench.command import Figures
from policy_node_bench.tables import LOOPS

# The panels of `plot_fleet`: key in the figures and title.
_FLEET_PANELS = (
    ("cpu_us_per_robot_tick", "CPU per robot and tick, µs"),
    ("tick_ms", "tick, ms"),
    ("lateness_ms", "lateness, ms"),
    ("stamp_to_command_ms", "stamp to command, ms"),
)


@contextmanager
def _drawing(height: float, title: str, figures: Figures, file: Path) -> Iterator[Figure]:
    """Yield an empty figure; then add the title and the machine, and write the file."""
    machine = figures["machine"]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, height), layout="constrained")
        yield figure
        figure.suptitle(title)
        device = f", {machine['gpu']}" if machine.get("gpu") else ""
        figure.supxlabel(
            f"{machine['cpu']}, {machine['cores']} cores{device}; Python {machine['python']}, "
            f"PyTorch {machine['torch']}, policy_node {machine['policy_node']}",
            fontsize=7.5,
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, dpi=150, transparent=True)


def plot_fleet(figures: Figures, file: Path) -> None:
    """Draw a row for each loop of `policy_bench fleet`."""
    loops = {"policy_node": figures["node"]}
    loops |= {versus["settings"]: versus for versus in figures["versus"]}
    baselines = {label: figures[loop] for loop, label in LOOPS.items() if loop != "node" and loop in figures}
    loops |= baselines
    title = f"{figures['title']}\ntimes from p50 to p99"
    with _drawing(1.7 + 0.32 * len(loops), title, figures, file) as figure:
        all_axes = figure.subplots(1, len(_FLEET_PANELS), sharey=True)
        for axes, (key, label) in zip(all_axes, _FLEET_PANELS, strict=True):
            for position, (name, loop) in enumerate(loops.items()):
                colour = BASELINE if name in baselines else NODE
                if key == "cpu_us_per_robot_tick":
                    axes.barh(position, loop[key], color=colour)
                else:
                    values = [loop[key][p] for p in ("p50", "p99") if loop[key][p] is not None]
                    places = [position] * len(values)
                    axes.plot(values, places, "|-", color=colour, linewidth=2, markersize=11, markeredgewidth=2)
            if key != "cpu_us_per_robot_tick":
                axes.set_xscale("log")
                _plain_numbers(axes.xaxis)
            axes.set_title(label, fontsize=8.5)
            axes.tick_params(axis="x", labelsize=8)
            axes.grid(axis="x")
        all_axes[0].set_yticks(range(len(loops)), list(loops))
        all_axes[0].invert_yaxis()


def plot_scale(figures: Figures, file: Path) -> None:
    """Draw cost and delays of `policy_bench scale` over the number of robots."""
    fleets = figures["fleets"]
    with _drawing(3.4, figures["title"], figures, file) as figure:
        panels = figure.subplots(1, 3)
        robots = [fleet["options"]["robots"] for fleet in fleets]
        for (loop, name), colour in zip(LOOPS.items(), (NODE, BASELINE, COLOURS[3]), strict=True):
            measured = [fleet[loop] for fleet in fleets if loop in fleet]
            if not measured:
                continue
            panels[0].plot(robots, [each["cpu_us_per_robot_tick"] for each in measured], "o-", color=colour, label=name)
            panels[1].plot(robots, [each["tick_ms"]["p99"] for each in measured], "o-", color=colour)
            for percentile, line in (("p50", "o--"), ("p99", "o-")):
                values = [each["stamp_to_command_ms"][percentile] for each in measured]
                # A loop that is too slow for its fleet may have sent no command.
                present = [(count, value) for count, value in zip(robots, values, strict=True) if value is not None]
                panels[2].plot(*zip(*present, strict=True), line, color=colour)
        period_ms = 1e3 / fleets[0]["options"]["rate_hz"]
        panels[1].axhline(period_ms, color=TEXT, linestyle=":", linewidth=1)
        panels[1].annotate("control period", (robots[0], period_ms), xytext=(0, 3), textcoords="offset points")
        titles = ("CPU per robot and tick, µs", "tick, p99, ms", "stamp to command, p50 (dashed), p99, ms")
        for panel, label in zip(panels, titles, strict=True):
            panel.set(xscale="log", yscale="log", xlabel="robots")
            panel.set_xticks(robots, [str(count) for count in robots])
            panel.minorticks_off()
            _plain_numbers(panel.yaxis)
            panel.grid()
            panel.set_title(label, fontsize=8.5)
        panels[0].legend()


def _plain_numbers(axis: Axis) -> None:
    """Label a logarithmic axis with a few numbers without exponents."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 50 * low else (1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def plot_pipeline(figures: Figures, file: Path) -> None:
    """Draw for each engine the stages of a step and the forward pass."""
    engines = figures["engines"]
    with _drawing(1.5 + 0.6 * len(engines), figures["title"], figures, file) as figure:
        axes = figure.subplots()
        labels: list[str] = []
        for position, (name, engine) in enumerate(engines.items()):
            left = 0.0
            for (stage, value), colour in zip(engine["stages_ms"].items(), COLOURS[1:], strict=False):
                axes.barh(2 * position, value["p50"], left=left, color=colour, label="" if position else stage)
                left += value["p50"]
            forward_ms = engine["forward_ms"]["p50"]
            axes.barh(2 * position + 1, forward_ms, color=NODE, label="" if position else "forward alone")
            labels += [f"{name}: step", f"{name}: forward alone"]
        axes.set_yticks(range(len(labels)), labels)
        axes.invert_yaxis()
        axes.set_xlabel("ms, p50")
        axes.grid(axis="x")
        axes.legend(ncols=len(engine["stages_ms"]) + 1, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def plot_policy(figures: Figures, file: Path) -> None:
    """Draw latency and throughput of `policy_bench policy` over the batch size, a line for each engine."""
    lines: dict[str, list[dict[str, Any]]] = {}
    for row in figures["rows"]:
        if "latency_ms" in row:
            lines.setdefault(Candidate(row["engine"], row["precision"]).label, []).append(row)
    with _drawing(3.8, f"{figures['algorithm']} policy on {figures['device']}", figures, file) as figure:
        latency, throughput = figure.subplots(1, 2)
        for label, rows in lines.items():
            batches = [row["batch"] for row in rows]
            latency.plot(batches, [row["latency_ms"]["p50"] for row in rows], marker="o", label=label)
            throughput.plot(batches, [row["robots_per_s"] for row in rows], marker="o", label=label)
        for axes, name in ((latency, "one inference, p50, ms"), (throughput, "robots inferred per second")):
            axes.axvline(figures["recommended"]["batch"], linestyle=":", color=TEXT)
            axes.set(xscale="log", yscale="log", xlabel="robots in one inference", title=name)
            axes.grid()
        throughput.legend()


def plot_train(figures: Figures, file: Path) -> None:
    """Draw over the number of arenas the rate of each environment and the parts of a training step."""
    rows = figures["rows"]
    labels = [str(row["arenas"]) for row in rows]
    with _drawing(3.6, "Collecting experience in the rover arena", figures, file) as figure:
        rates, parts = figure.subplots(1, 2)
        for name in rows[0]["environments"]:
            rates.plot(labels, [row["environments"][name]["steps_per_s"] for row in rows], marker="o", label=name)
        rates.set(xlabel="arenas", title="environment steps per second while collecting", ylim=(0, None))
        rates.grid()
        below = [0.0] * len(rows)
        for name in rows[0]["parts_cpu_us_per_step"]:
            heights = [row["parts_cpu_us_per_step"][name] for row in rows]
            parts.bar(labels, heights, bottom=below, label=name)
            below = [low + height for low, height in zip(below, heights, strict=True)]
        parts.set(xlabel="arenas", title="CPU time of a training step of policy_node, µs")
        parts.grid(axis="y")
        rates.legend()
        parts.legend()
