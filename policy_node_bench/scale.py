# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""`policy_bench scale`: the fleet benchmark over numbers of robots."""

from __future__ import annotations

import argparse
from typing import Any

from rich.console import Console
from rich.table import Table

from policy_node.cli.options import number
from policy_node.report.figures import SubParsers, write_figures
from policy_node.ros.domain import keep_to_itself
from policy_node_bench.fleet import add_fleet_options, fleet_options, run_fleet


def _sizes(text: str) -> list[int]:
    """Parse numbers of robots, separated by commas."""
    return sorted({number(int, 1)(part) for part in text.split(",")})


def table(fleets: list[dict[str, Any]], title: str) -> Table:
    """Show a line for each number of robots."""
    result = Table(title=title)
    for column in ("robots", "loop", "CPU per robot and tick, µs", "tick p99, ms", "stamp to command p50 / p99, ms"):
        result.add_column(column, justify="left" if column == "loop" else "right")
    result.add_column("missed", justify="right")
    result.add_column("fresh", justify="right")
    for fleet in fleets:
        for loop, label in (("node", "policy_node"), ("baseline", "today's loop")):
            if loop in fleet:
                figures = fleet[loop]
                delays = (figures["stamp_to_command_ms"][p] for p in ("p50", "p99"))
                result.add_row(
                    str(fleet["options"]["robots"]),
                    label,
                    f"{figures['cpu_us_per_robot_tick']:.0f}",
                    f"{figures['tick_ms']['p99']:.1f}",
                    " / ".join("–" if delay is None else f"{delay:.0f}" for delay in delays),
                    f"{figures['missed_fraction']:.1%}",
                    f"{figures['fresh_fraction']:.1%}",
                )
    return result


def add_parser(subparsers: SubParsers) -> None:
    """Add the command line of `policy_bench scale`."""
    scale = subparsers.add_parser(
        "scale",
        help="the fleet benchmark over numbers of robots",
        description="Runs `policy_bench fleet` for each number of robots and draws cost and delays against it.",
    )
    scale.add_argument(
        "--robots", type=_sizes, default="1,4,16,64", metavar="N,N,…", help="numbers of robots (default 1,4,16,64)"
    )
    add_fleet_options(scale)
    scale.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    """Run `policy_bench scale`.

    Raises
    ------
    ToolError
        When a process fails, the model does not fit or what was set is not allowed.
    """
    console = Console()
    keep_to_itself()
    from policy_node.ros.process import open_ros

    fleets = []
    with open_ros():
        for robots in given.robots:
            options = fleet_options(given, robots)
            fleets.append(run_fleet(options, console))
            console.print(f"{robots} robots: done", highlight=False)
    said = options.title.partition(", ")[2]
    console.print(table(fleets, said))
    if given.json:
        write_figures(given.json, {"machine": fleets[0]["machine"], "fleets": fleets})
        console.print(f"figures: {given.json}")
    if given.plot:
        from policy_node.report.plots import plot_scale

        plot_scale(fleets, said, fleets[0]["machine"], given.plot)
        console.print(f"plot: {given.plot}")
    return 0
