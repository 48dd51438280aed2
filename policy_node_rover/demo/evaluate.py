# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Evaluate a policy as it is deployed, and compare it with the same episodes in process (`policy_demo evaluate`)."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from policy_node.cli.child_process import ToolError
from policy_node.cli.options import INTERRUPTED, number
from policy_node.cli.output import check_file, check_folder
from policy_node.config.package_files import share_path
from policy_node.report.figures import write_figures
from policy_node.ros.domain import keep_to_itself
from policy_node.ros.process import ros_process
from policy_node_rover.demo.over_dds import DdsSetup, EpisodeScheduler, run_over_dds
from policy_node_rover.evaluation.comparison import ActionComparison, Reference, find_problems
from policy_node_rover.evaluation.progress import EpisodeProgress, print_errors
from policy_node_rover.evaluation.results import EpisodeResult, describe_summary, summarise_episodes
from policy_node_rover.mujoco.model import ArenaModel
from policy_node_rover.mujoco.rendering import KINDS, RendererError, make_renderer


def run_evaluation(options: argparse.Namespace, console: Console, stopping: Callable[[], bool]) -> int:
    """Drive the episodes over DDS and in process, compare them, and write the report.

    The exit status is 0 when the differences are within the tolerances. KeyboardInterrupt is raised when `stopping`
    returns True before the end.
    """
    # More threads do not help with small networks and few rovers.
    torch.set_num_threads(1)
    seeds = range(options.seed, options.seed + options.episodes)
    robots = tuple(f"rover_{robot}" for robot in range(min(options.robots, options.episodes)))
    scheduler = EpisodeScheduler(len(robots), seeds)
    try:
        # All processes use the renderer that works here.
        with closing(make_renderer(ArenaModel(), options.renderer)) as renderer:
            kind = renderer.kind
        # What other parameters name is no policy of Stable-Baselines3, with which actions could be compared.
        reference = None if options.params else Reference(reference_path(options.model), kind, len(robots))
        setup = DdsSetup(
            *(robots, seeds, options.lockstep, kind, options.model),
            *(reference.keys if reference else (), reference.stack if reference else 0),
            options.output,
            options.params or share_path("config", "rover.yaml"),
        )
        console.print(
            f"starting the simulation and the node for {len(robots)} rovers, images by {kind} …", highlight=False
        )
        measured = run_over_dds(setup, scheduler, console, stopping)
    except (ToolError, RendererError) as error:
        # Ctrl-C in a terminal may reach other processes first.
        if stopping():
            raise KeyboardInterrupt from error
        return print_errors(console, [str(error)])
    if scheduler.running:
        raise KeyboardInterrupt
    progress = partial(EpisodeProgress, console, episodes=len(seeds), stopping=stopping)
    in_process, comparison = None, None
    if reference:
        with progress(task="in process") as shown:
            in_process = reference.run(seeds, shown.show)
    if reference and options.lockstep:
        with progress(task="comparing") as shown:
            comparison = reference.replay(scheduler.finished, shown.show)
    report = make_report(setup, measured, [episode.result for episode in scheduler.finished], in_process, comparison)
    _print_report(console, report)
    if options.json:
        write_figures(options.json, report)
    return print_errors(console, report.get("shortcomings", []))


def make_report(
    setup: DdsSetup,
    measured: dict[str, Any],
    results: Sequence[EpisodeResult],
    in_process: Sequence[EpisodeResult] | None,
    comparison: ActionComparison | None,
) -> dict[str, Any]:
    """Return the content of the JSON report, with the keys of `policy_train evaluate` and those of the comparison.

    `in_process` is None where nothing is compared.
    """
    summary = summarise_episodes(results)
    compared = _compare(summary["success_rate"], results, in_process, comparison) if in_process is not None else {}
    return {
        "driver": "policy",
        "model": str(setup.model) if setup.model else None,
        "mode": "lockstep" if setup.lockstep else "real_time",
        "robots": len(setup.robots),
        "renderer": setup.renderer,
        "conditions": "nominal",
        "blanked": None,
        "control_rate_hz": setup.configuration.control_rate_hz,
        **summary,
        **measured,
        **compared,
    }


def _compare(
    success_rate: float,
    results: Sequence[EpisodeResult],
    in_process: Sequence[EpisodeResult],
    comparison: ActionComparison | None,
) -> dict[str, Any]:
    """Return the part of the report about the same episodes in process."""
    summary = summarise_episodes(in_process)
    actions = comparison.report() if comparison else None
    problems = find_problems(success_rate, summary["success_rate"], actions)
    return {
        "in_process": summary,
        "success_difference_points": round(100 * (success_rate - summary["success_rate"]), 6),
        "same_results_in_process": sum(result in in_process for result in results),
        "actions": actions,
        "reached": not problems,
        "shortcomings": problems,
    }


def reference_path(model: Path | None) -> Path:
    """Return the Stable-Baselines3 zip of a model (None: the shipped one); ToolError if there is none beside it."""
    if model is None:
        return share_path("models", "rover.zip")
    path = model.with_suffix(".zip")
    if path != model and not path.is_file():
        raise ToolError(
            f"--model: found '{model}', but '{path}' is not there, with which its actions are compared; give the zip "
            "that policy_train wrote, or copy it beside the other file"
        )
    return path


def _print_report(console: Console, report: dict[str, Any]) -> None:
    lines = [
        f"over ROS, {report['mode'].replace('_', ' ')}, {report['robots']} rovers, images by {report['renderer']}: "
        + describe_summary(report),
    ]
    if "in_process" in report:
        lines += [
            f"in process: {describe_summary(report['in_process'])}",
            f"success over ROS minus in process: {report['success_difference_points']:+.1f} percentage points; "
            f"{report['same_results_in_process']} of {report['episodes']} episodes end with the "
            "same result at the same time",
        ]
    if actions := report.get("actions"):
        lines.append(
            f"actions compared at {actions['steps_compared']} steps: largest difference "
            f"{actions['largest_difference']:.2g}, {actions['steps_equal_bit_by_bit']} bit-identical"
        )
    elif late := report["lateness"]:
        age, lateness = late["age_at_command_ms"], late["lateness_ms"]
        lines.append(
            f"{late['missed_ticks']} of {late['ticks']} ticks missed; age of readings at the command p50 {age['p50']} "
            f"ms, p99 {age['p99']} ms; lateness of ticks p50 {lateness['p50']} ms, p99 {lateness['p99']} ms\n"
            "actions are not compared: in real time the rovers drive on during the inference, and see other images"
        )
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the options of `policy_demo evaluate`."""
    parser = argparse.ArgumentParser(
        prog="policy_demo evaluate",
        description="Let a policy drive whole episodes through the node, over DDS, and compare them with the same ones "
        "in process. The exit status is 1 if they differ by more than the tolerances, and 130 after Ctrl-C.",
    )
    add = parser.add_argument
    add("--episodes", type=number(int, 1), default=100, help="number of episodes (default 100)")
    add("--robots", type=number(int, 1, 256), default=8, help="number of rovers (default 8)")
    add("--seed", type=number(int, 0, 2**31), default=1000, help="seed of the first episode (default 1000)")
    add("--params", type=Path, help="parameters of another policy, such as one with plans; it is not compared")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument(
        "--lockstep",
        action="store_true",
        default=True,
        help="time waits for the commands of every tick, and actions are compared step by step (default)",
    )
    mode.add_argument(
        "--real-time",
        dest="lockstep",
        action="store_false",
        help="time passes as on robots, and the lateness of ticks and readings is measured",
    )
    add(
        "--model",
        type=Path,
        help="policy to evaluate: a zip of policy_train, or a file that was exported from the zip beside it "
        "(default: the one in config/rover.yaml)",
    )
    add("--renderer", choices=KINDS, default="auto", help="auto: EGL if it works, else ray casting")
    add("--json", type=Path, help="file for the report")
    add("--output", type=Path, default=Path("demo_output"), help="folder of logs and parameters (demo_output)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Run the evaluation; Ctrl-C ends it with exit status 130."""
    options = parse_options(arguments)
    if options.json:
        check_file("policy_demo evaluate: --json", options.json)
    check_folder("policy_demo evaluate: --output", options.output)
    keep_to_itself()
    console = Console()
    with ros_process() as stopping:
        try:
            return run_evaluation(options, console, stopping.is_set)
        except KeyboardInterrupt:
            console.print("policy_demo evaluate: stopped, nothing is compared")
            return INTERRUPTED
