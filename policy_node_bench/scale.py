# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""`policy_bench scale`: the fleet benchmark for several numbers of robots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from rich.console import Console

from policy_node_bench.command import Command, counts, option
from policy_node_bench.fleet import CommonOptions, FleetOptions, run_fleet
from policy_node_bench.harness.processes import ros_session
from policy_node_bench.plots import plot_scale
from policy_node_bench.tables import scale_rows, screen


@dataclass(frozen=True, kw_only=True)
class ScaleOptions(CommonOptions):
    """The options of `policy_bench scale`."""

    robots: Sequence[int] = option("1,4,16,64", "numbers of robots", type=counts, metavar="N,N,…")


def measure(options: ScaleOptions, console: Console) -> dict[str, Any]:
    """Run the fleet benchmark for each number of robots and return the figures."""
    common = {each.name: getattr(options, each.name) for each in fields(CommonOptions)}
    fleets = []
    with ros_session():
        for robots in options.robots:
            fleets.append(run_fleet(FleetOptions(robots=robots, **common), console))
            console.print(f"{robots} robots: done", highlight=False)
    return {"title": options.title, "machine": fleets[0]["machine"], "fleets": fleets}


COMMAND = Command(
    "scale",
    "the fleet benchmark for several numbers of robots",
    "Run `policy_bench fleet` for each number of robots and show cost and delays by the number of robots.",
    ScaleOptions,
    measure,
    lambda figures: [screen(figures["title"], scale_rows(figures["fleets"]))],
    {"plot": ("draw the figures into this image file", plot_scale)},
)
