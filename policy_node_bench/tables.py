# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Rows of the tables that `policy_bench` prints and that the documentation contains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.table import Table

# The loops of the fleet benchmark by their keys in the figures.
LOOPS = {"node": "policy_node", "baseline": "today's loop", "baseline_batched": "today's loop, batched"}
# The loops of the benchmark of capacity by their keys in its figures, and their keys in those of the fleet benchmark.
CAPACITY_LOOPS = {"node": "node", "naive": "baseline", "batched": "baseline_batched"}
# The nodes of the benchmark of plans by their keys in the figures.
PLANNERS = {
    "fast": "fast policy, in the tick",
    "background": "slow policy, in the background, a plan every 0.5 s",
    "as_soon_as_possible": "the same, planned as soon as possible",
    "tick": "slow policy, in the tick",
}
# The counts of `policy_bench smoke` by their keys in its figures.
SMOKE_COUNTS = {
    "calls": "calls of Python functions",
    "c_calls": "calls of C functions",
    "torch_operations": "operations of PyTorch",
    "allocations": "allocated blocks",
    "array_bytes": "bytes of new arrays",
}
Rows = list[list[str]]


def times(values: Mapping[str, float | None], names: Sequence[str] = ("p50", "p99")) -> str:
    """Return percentiles with three digits."""
    return " / ".join("–" if values[name] is None else f"{values[name]:.3g}" for name in names)


def percent(fraction: float) -> str:
    """Return a fraction in percent."""
    return f"{fraction:.1%}".replace("%", " %")


def screen(title: str, rows: Rows) -> Table:
    """Return a table for the terminal, whose first row is the head and whose first column is aligned to the left."""
    result = Table(title=title)
    for position, label in enumerate(rows[0]):
        result.add_column(label, justify="right" if position else "left")
    for row in rows[1:]:
        result.add_row(*(cell.strip("*") for cell in row))
    return result


# Label of a figure of the fleet benchmark, and its text.
_FLEET_CELLS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "CPU per robot and tick": lambda loop: f"{loop['cpu_us_per_robot_tick']:.0f} µs",
    "tick, p50 / p99": lambda loop: f"{times(loop['tick_ms'])} ms",
    "lateness, p50 / p99": lambda loop: f"{times(loop['lateness_ms'])} ms",
    "camera stamp to command, p50 / p99": lambda loop: f"{times(loop['stamp_to_command_ms'])} ms",
    "ticks missed": lambda loop: percent(loop["missed_fraction"]),
    "robots' data fresh": lambda loop: percent(loop["fresh_fraction"]),
    "memory": lambda loop: f"{loop['rss_mb']:.0f} MB",
}
# Heads of the columns of `scale_rows`, and the labels of their figures.
_SCALE_COLUMNS = {
    "CPU per robot and tick": "CPU per robot and tick",
    "tick, p50 / p99": "tick, p50 / p99",
    "stamp to command, p50 / p99": "camera stamp to command, p50 / p99",
    "missed": "ticks missed",
    "fresh": "robots' data fresh",
}


def fleet_rows(loops: Mapping[str, Mapping[str, Any]]) -> Rows:
    """Return a column for each loop."""
    rows = [[label, *(text(loop) for loop in loops.values())] for label, text in _FLEET_CELLS.items()]
    return [["", *loops], *rows]


def scale_rows(fleets: Sequence[Mapping[str, Any]]) -> Rows:
    """Return a row for each number of robots and loop."""
    rows = [["robots", "", *_SCALE_COLUMNS]]
    for fleet in fleets:
        for loop, label in LOOPS.items():
            if loop in fleet:
                cells = [_FLEET_CELLS[figure](fleet[loop]) for figure in _SCALE_COLUMNS.values()]
                rows.append([f"{fleet['options']['robots']}", label, *cells])
    return rows


def capacity_rows(figures: Mapping[str, Any]) -> Rows:
    """Return a row for each loop: how many robots it serves, and why it does not serve the next larger number."""
    rows = [["", "robots served", "with more"]]
    for name, loop in CAPACITY_LOOPS.items():
        refused = [each for each in figures["tries"][name] if not each["served"]]
        reason = f"no more than {figures['options']['max_robots']} were tried"
        if refused:
            nearest = min(refused, key=lambda each: each["robots"])
            reason = f"{nearest['robots']}: {nearest['why'].splitlines()[0]}"
        rows.append([LOOPS[loop], f"{figures['capacity'][name]}", reason])
    return rows


def pipeline_rows(engines: Mapping[str, Mapping[str, Any]]) -> Rows:
    """Return a column for each engine."""
    columns = engines.values()
    stages = next(iter(columns))["stages_ms"]
    head = [name if name == engine["engine"] else f"{name}: {engine['engine']}" for name, engine in engines.items()]
    return [
        ["ms, p50 / p99", *head],
        *([stage, *(times(engine["stages_ms"][stage]) for engine in columns)] for stage in stages),
        ["**step**", *(times(engine["step_ms"]) for engine in columns)],
        ["forward pass alone", *(times(engine["forward_ms"]) for engine in columns)],
        ["**overhead_ratio**", *(f"{engine['overhead_ratio']:.2f}" for engine in columns)],
    ]


def smoke_rows(figures: Mapping[str, Any]) -> Rows:
    """Return a row for each count and a column for each number of robots."""
    columns = figures["counts"].values()
    head = ["per tick", *(f"{robots} robot{'s' if robots != '1' else ''}" for robots in figures["counts"])]
    return [head, *([label, *(f"{each[name]}" for each in columns)] for name, label in SMOKE_COUNTS.items())]


def image_rows(figures: Mapping[str, Any]) -> list[list[str]]:
    """Return the rows of the table of `policy_bench images`, the head first."""
    rows = [["conversion", "decoder [µs]", "OpenCV alone [µs]", "ratio"]]
    for row in figures["rows"]:
        opencv = row.get("opencv_us")
        ratio = f"{row['decode_us'] / opencv:.2f}" if opencv else "–"
        rows.append([row["name"], f"{row['decode_us']:.0f}", f"{opencv:.0f}" if opencv else "–", ratio])
    return rows


def chunk_rows(figures: Mapping[str, Any]) -> Rows:
    """Return a row for each node of the benchmark of plans."""
    rows = [["", "ticks missed", "lateness, p50 / p99", "driven", "plans per robot and s", "observation to its plan"]]
    rows[0].append("reaction, p50 / max")
    for name, label in PLANNERS.items():
        found = figures[name]
        plans, latency = found.get("plans_per_robot_s"), found.get("observation_to_plan_ms")
        rows.append(
            [
                label,
                percent(found["missed_fraction"]),
                f"{times(found['lateness_ms'])} ms",
                percent(found["driven_fraction"]),
                "–" if plans is None else f"{plans:.2f}",
                "–" if latency is None else f"{times(latency)} ms",
                f"{times(found['reaction_ms'], ('p50', 'max'))} ms",
            ]
        )
    return rows


def jump_rows(figures: Mapping[str, Any]) -> Rows:
    """Return how far commands jump from plan to plan for each aggregation, as a multiple of the steps within a plan."""
    planned = {"planned every 0.5 s": "largest_jump", "as soon as possible": "largest_jump_as_soon_as_possible"}
    rows = [["`chunk.aggregate`", *planned]]
    for name in figures["largest_jump"]:
        rows.append([f"`{name}`", *(f"{figures[key][name]['ratio']:.2f}" for key in planned.values())])
    return rows
