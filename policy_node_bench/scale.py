# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""`policy_bench scale`: the fleet benchmark for several numbers of robots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from rich.console import Console
from rich.table import Table

from policy_node_bench.command import Command, Figures, counts, option
from policy_node_bench.fleet import CommonOptions, FleetOptions, run_fleet
from policy_node_bench.harness.processes import ros_session
from policy_node_bench.plots import LOOPS, plot_scale


@dataclass(frozen=True, kw_only=True)
class ScaleOptions(CommonOptions):
    """The options of `policy_bench scale`."""

    robots: Sequence[int] = option("1,4,16,64", "numbers of robots", type=counts, metavar="N,N,…")


def measure(options: ScaleOptions, console: Console) -> dict[str, Any]:
    """Run the fleet benchmark for each number of robots and return the figures.

    Raises
    ------
    ToolError
        If a process fails, the model does not fit or a setting is not allowed.
    """
    common = {each.name: getattr(options, each.name) for each in fields(CommonOptions)}
    fleets = []
    with ros_session():
        for robots in options.robots:
            fleets.append(run_fleet(FleetOptions(robots=robots, **common), console))
            console.print(f"{robots} robots: done", highlight=False)
    return {"title": options.title, "machine": fleets[0]["machine"], "fleets": fleets}


def table(figures: Figures) -> Table:
    """Return a table with a row for each number of robots and loop."""
    result = Table(title=figures["title"])
    for column in ("robots", "loop", "CPU per robot and tick, µs", "tick p99, ms", "stamp to command p50 / p99, ms"):
        result.add_column(column, justify="left" if column == "loop" else "right")
    result.add_column("missed", justify="right")
    result.add_column("fresh", justify="right")
    for fleet in figures["fleets"]:
        for loop, label in LOOPS.items():
            if loop in fleet:
                measured = fleet[loop]
                delays = (measured["stamp_to_command_ms"][p] for p in ("p50", "p99"))
                result.add_row(
                    str(fleet["options"]["robots"]),
                    label,
                    f"{measured['cpu_us_per_robot_tick']:.0f}",
                    f"{measured['tick_ms']['p99']:.1f}",
                    " / ".join("–" if delay is None else f"{delay:.0f}" for delay in delays),
                    f"{measured['missed_fraction']:.1%}",
                    f"{measured['fresh_fraction']:.1%}",
                )
    return result


COMMAND = Command(
    "scale",
    "the fleet benchmark for several numbers of robots",
    "Run `policy_bench fleet` for each number of robots and show cost and delays by the number of robots.",
    ScaleOptions,
    measure,
    lambda figures: [table(figures)],
    {"plot": ("draw the figures into this image file", plot_scale)},
)
