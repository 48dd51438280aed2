# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""`policy_bench chunks`: a policy that takes longer than a tick, beside the tick and in it, over DDS.

The same synthetic robots are driven by a fast policy, by a slow one with a horizon in the background, and by a slow one
that acts in every tick, as all policies had to before. How smoothly plans follow each other is measured in one process
with simulated time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console, RenderableType

from policy_node.cli.child_process import Child
from policy_node.cli.options import number
from policy_node.cli.process_environment import MALLOC_VARIABLES
from policy_node.config.schema import flatten
from policy_node.report.figures import distribution, machine
from policy_node_bench.chunks.policies import READING, Slow, products_for, save
from policy_node_bench.chunks.robots import STATE_TOPIC
from policy_node_bench.chunks.smoothness import largest_jumps
from policy_node_bench.command import Command, Figures, option
from policy_node_bench.harness.observer import Round, measure
from policy_node_bench.harness.processes import module_arguments, node_arguments, ros_session
from policy_node_bench.harness.robots import COMMAND_TOPIC, robot_name
from policy_node_bench.tables import PLANNERS, chunk_rows, jump_rows, screen

NODE = "policy_bench_node"
REPLAN_S = 0.5


@dataclass(frozen=True, kw_only=True)
class ChunksOptions:
    """The options of `policy_bench chunks`."""

    robots: int = option(16, "number of robots", type=number(int, 1))
    inference_ms: float = option(
        300.0, "time of one inference for all robots", "--inference-ms", type=number(float, 0), metavar="MS"
    )
    horizon: int = option(50, "actions in a plan", type=number(int, 2))
    rate_hz: float = option(50.0, "control rate, and that of the readings", "--rate", type=number(float, 1))
    seconds: float = option(10.0, "measured time of each policy", type=number(float, 1))


def _parameters(options: ChunksOptions, replan_every: int) -> dict[str, Any]:
    """Return the parameters of a node that runs a policy with a horizon in the background."""
    return flatten(
        {
            "control_rate_hz": options.rate_hz,
            "robots": [robot_name(robot) for robot in range(options.robots)],
            "policy": {"path": "", "trusted": True, "device": "cpu", "engine": "torchscript"},
            "observations": {
                "keys": ["state"],
                "state": {
                    "topic": STATE_TOPIC,
                    "type": "sensor_msgs/msg/JointState",
                    "field": "position",
                    "shape": [READING],
                },
            },
            "action": {
                "topic": COMMAND_TOPIC,
                "type": "geometry_msgs/msg/Twist",
                "fields": ["linear.x", "angular.z"],
                "when_stale": "stop",
            },
        }
    ) | {"policy.inference": "background", "chunk.replan_every": replan_every}


def _variants(options: ChunksOptions, folder: Path) -> dict[str, dict[str, Any]]:
    """Return the parameters of the nodes to measure."""
    products = products_for(options.inference_ms / 1e3)
    policies = {
        name: save(Slow(count, horizon), folder / f"{name}.pt")
        for name, count, horizon in (("fast", 1, 0), ("plans", products, options.horizon), ("tick", products, 0))
    }
    planned = _parameters(options, _replan_every(options))
    in_tick = {name: value for name, value in planned.items() if name not in ("policy.inference", "chunk.replan_every")}
    return {
        "fast": {**in_tick, "policy.path": policies["fast"]},
        "background": {**planned, "policy.path": policies["plans"]},
        "as_soon_as_possible": {**planned, "policy.path": policies["plans"], "chunk.replan_every": 0},
        "tick": {**in_tick, "policy.path": policies["tick"]},
    }


def _replan_every(options: ChunksOptions) -> int:
    return min(options.horizon, round(REPLAN_S * options.rate_hz))


@ros_session()
def run_chunks(options: ChunksOptions, console: Console) -> dict[str, Any]:
    """Measure all policies and return the figures."""
    with tempfile.TemporaryDirectory(prefix="policy_bench_") as temporary:
        folder = Path(temporary)
        figures: dict[str, Any] = {"options": asdict(options), "machine": machine()}
        for name, parameters in _variants(options, folder).items():
            with console.status(f"measuring: {PLANNERS[name]}"):
                figures[name] = _measure(options, name, parameters, folder)
            console.print(f"{PLANNERS[name]}: done", highlight=False)
        jumps = {}
        for name, replan_every in (("background", _replan_every(options)), ("as_soon_as_possible", 0)):
            with console.status("measuring smoothness"):
                parameters = _parameters(options, replan_every)
                jumps[name] = largest_jumps(parameters, folder, options.horizon, options.inference_ms / 1e3)
    figures |= {
        "missed_fraction": figures["background"]["missed_fraction"],
        "lateness_ms": figures["background"]["lateness_ms"],
        "lateness_fast_ms": figures["fast"]["lateness_ms"],
        "plans_per_robot_s": figures["background"]["plans_per_robot_s"],
        "largest_jump": jumps["background"],
        "largest_jump_as_soon_as_possible": jumps["as_soon_as_possible"],
        "reaction_ms": {name: figures[name]["reaction_ms"] for name in PLANNERS},
    }
    return figures


def _measure(options: ChunksOptions, name: str, parameters: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Run one node on the synthetic robots and return its figures."""
    notes = folder / f"{name}.npy"
    given = {"robots": options.robots, "rate_hz": options.rate_hz, "file": str(notes)}
    arguments = module_arguments("policy_node_bench.chunks.robots", given)
    robots = Child("the robots", arguments, folder / f"{name}_robots.log")
    try:
        arguments = node_arguments(NODE, parameters, folder / f"{name}.yaml")
        node = Child("the node", arguments, folder / f"{name}.log", MALLOC_VARIABLES)
        try:
            part = measure(node, [robots], NODE, options.seconds, lambda doing: None)
        finally:
            node.stop()
    finally:
        robots.stop()
    return _figures(options, part, np.load(notes))


def _figures(options: ChunksOptions, part: Round, changes: np.ndarray) -> dict[str, Any]:
    """Return the figures of one node; `changes` is what the robots have noted."""
    measured = (changes[:, 0] >= part.begin_s) & (changes[:, 0] < part.end_s - 1.0)
    ages_ms = part.rows[:, 2:]
    values: dict[str, Any] = {
        "ticks": len(part.rows),
        "missed_fraction": part.missed / (part.missed + len(part.rows)),
        "lateness_ms": distribution(part.rows[:, 0]),
        "tick_ms": distribution(part.rows[:, 1]),
        "driven_fraction": float(np.mean(np.isfinite(ages_ms))),
        "reaction_ms": distribution(changes[measured, 1]),
        "reactions": int(np.isfinite(changes[measured, 1]).sum()),
        "reactions_missing": int(np.isnan(changes[measured, 1]).sum()),
        "cpu_cores": part.cpu_s / (part.end_s - part.begin_s),
    }
    reports = [report for report in part.values if "plans_per_s" in report]
    if reports:
        values["plans_per_robot_s"] = float(np.mean([float(each["plans_per_s"]) for each in reports])) / options.robots
        for figure in ("inference", "observation_to_plan", "plan_age_at_command"):
            found = [[float(each.get(f"{figure}_ms_{p}", "nan")) for p in ("p50", "p99")] for each in reports]
            values[f"{figure}_ms"] = {"p50": float(np.nanmedian(found, axis=0)[0]), "p99": float(np.nanmax(found))}
        values["plans_ended"] = sum(int(each["plans_ended"]) for each in reports)
    return values


def show(figures: Figures) -> list[RenderableType]:
    """Return the tables of the figures."""
    options = figures["options"]
    title = (
        f"{options['robots']} robots, inference {options['inference_ms']:g} ms, horizon {options['horizon']}, "
        f"control at {options['rate_hz']:g} Hz"
    )
    jumps = "largest change of a command / largest step within a plan"
    return [screen(title, chunk_rows(figures)), screen(jumps, jump_rows(figures))]


COMMAND = Command(
    "chunks",
    "a policy that takes longer than a tick, beside the tick and in it",
    "Drive synthetic robots with a slow policy that gives plans, in the background and in the tick, and with a fast "
    "one; measure lateness, plans, reactions, and how far commands jump where plans follow each other.",
    ChunksOptions,
    run_chunks,
    show,
)
