# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""`policy_bench capacity`: how many robots the node and today's loops serve on this machine.

A try is a round of the fleet benchmark with one loop. The number of robots is doubled until a try fails, then bisected.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType

from policy_node.cli.child_process import ToolError
from policy_node.cli.options import number
from policy_node.report.figures import machine
from policy_node_bench.command import Command, Figures, option
from policy_node_bench.fleet import (
    CommonOptions,
    Cores,
    FleetOptions,
    loops_of,
    measure_engines,
    measure_in_turn,
    model_of,
)
from policy_node_bench.harness.observer import summary
from policy_node_bench.harness.processes import ros_session
from policy_node_bench.tables import CAPACITY_LOOPS, capacity_rows, percent, screen

MOST_MISSED, LEAST_FRESH = 0.01, 0.95
FIRST_TRY = 8
# The limit is searched to this fraction of itself: more is less than the difference between two runs.
RESOLUTION = 0.05
# With fewer cores the loop and the robots share all of them: half of two is less than the node's threads need.
LEAST_CORES = 4
# Figures of the fleet benchmark that each try keeps.
_KEPT = ("missed_fraction", "fresh_fraction", "cpu_us_per_robot_tick", "tick_ms", "stamp_to_command_ms", "engine")


@dataclass(frozen=True, kw_only=True)
class CapacityOptions(CommonOptions):
    """The options of `policy_bench capacity`."""

    seconds: float = option(5.0, "measured time of each try", type=number(float, 1))
    max_robots: int = option(512, "largest number of robots to try", type=number(int, 1), metavar="N")


def largest_served(serves: Callable[[int], bool], first: int, most: int, resolution: float) -> int:
    """Return the largest number up to `most` that is served, found by doubling from `first` and then bisection.

    `serves` says whether a number is served. A number above the result is not, within `resolution` times the result.
    """
    served, refused, tried = 0, most + 1, min(first, most)
    while refused - served > max(1.0, resolution * served):
        if serves(tried):
            served = tried
        else:
            refused = tried
        tried = min(2 * served, most) if refused > most else (served + refused) // 2
    return served


def shortfall(figures: Mapping[str, Any]) -> str:
    """Return in what the figures of a loop are worse than what counts as served; empty if in nothing."""
    missed, fresh = figures["missed_fraction"], figures["fresh_fraction"]
    found = []
    if not missed <= MOST_MISSED:
        found.append(f"{percent(missed)} of the ticks missed")
    if not fresh >= LEAST_FRESH:
        found.append(f"{percent(fresh)} of the robots' data fresh")
    return ", ".join(found)


def separate_cores() -> Cores | None:
    """Return one half of the cores for the loop and the other one for the synthetic robots; None: there are too few."""
    cores = sorted(os.sched_getaffinity(0))
    half = len(cores) // 2
    return Cores(cores[:half], cores[half:]) if len(cores) >= LEAST_CORES else None


def try_loop(
    options: FleetOptions, name: str, model: str, cores: Cores | None, folder: Path, console: Console
) -> dict[str, Any]:
    """Run one loop on a fleet; return whether it serves the fleet, why not, and its figures."""
    folder.mkdir()
    try:
        loops = [loop for loop in loops_of(options, model, folder) if loop.label == CAPACITY_LOOPS[name]]
        measure_engines(loops)
        measured, published = measure_in_turn(options, loops, folder, console, cores)
    except ToolError as error:
        return {"robots": options.robots, "served": False, "why": str(error)}
    figures = summary(measured[loops[0].label], options.max_age_s)
    why = shortfall(figures)
    kept = {key: figures[key] for key in _KEPT}
    return {"robots": options.robots, "served": not why, "why": why, **kept, "published": published}


@ros_session()
def run_capacity(options: CapacityOptions, console: Console) -> dict[str, Any]:
    """Search the capacity of each loop and return the figures."""
    import rclpy

    common = {each.name: getattr(options, each.name) for each in fields(CommonOptions)}
    cores = separate_cores()
    described = {**machine(), "rmw": rclpy.get_rmw_implementation_identifier()}
    capacity: dict[str, int] = {}
    tries: dict[str, list[dict[str, Any]]] = {name: [] for name in CAPACITY_LOOPS}
    with tempfile.TemporaryDirectory(prefix="policy_bench_") as temporary:
        folder = Path(temporary)
        # An earlier result may come from a busy machine.
        os.environ["XDG_CACHE_HOME"] = temporary
        model = model_of(options, folder)

        def fleet(robots: int) -> FleetOptions:
            return FleetOptions(robots=robots, seconds=options.seconds, baseline=True, **common)

        # What no try can start with is an error of the options.
        with console.status("checking the policy"):
            measure_engines(loops_of(fleet(1), model, folder))
        for name, found in tries.items():

            def serves(robots: int, name: str = name, found: list[dict[str, Any]] = found) -> bool:
                found.append(try_loop(fleet(robots), name, model, cores, folder / f"{name}_{robots}", console))
                said = "served" if found[-1]["served"] else f"not served: {found[-1]['why'].splitlines()[0]}"
                console.print(f"{name}, {robots} robots: {said}", markup=False, highlight=False, soft_wrap=True)
                return found[-1]["served"]

            capacity[name] = largest_served(serves, FIRST_TRY, options.max_robots, RESOLUTION)
    return {
        "title": options.title,
        "options": asdict(options) | {"slop_s": options.slop_s, "max_age_s": options.max_age_s},
        "machine": described,
        "cores": cores._asdict() if cores else None,
        "served_if": {"missed_fraction_at_most": MOST_MISSED, "fresh_fraction_at_least": LEAST_FRESH},
        "capacity": capacity,
        "tries": tries,
    }


def show(figures: Figures) -> list[RenderableType]:
    """Return the table of the figures."""
    cores = figures["cores"]
    placed = f"cores {cores['publishers']}, the loop on {cores['loop']}" if cores else "the cores of the loop"
    result = screen(f"robots served: {figures['title']}", capacity_rows(figures))
    result.caption = (
        f"served: at most {percent(MOST_MISSED)} of the ticks missed, at least {percent(LEAST_FRESH)} of the data "
        f"fresh\nthe synthetic robots run on {placed}"
    )
    return [result]


COMMAND = Command(
    "capacity",
    "robots that the node and today's loops serve on this machine",
    "Double the number of robots until a loop misses more than 1 % of its ticks or drives less than 95 % of the robots "
    "from fresh data, then bisect; for the node, today's loop and today's loop with one call for all robots. The "
    "synthetic robots get cores of their own where there are four or more.",
    CapacityOptions,
    run_capacity,
    show,
)
