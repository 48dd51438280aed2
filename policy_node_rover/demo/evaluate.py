# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Evaluate a policy as it is deployed, beside the same episodes in process (`policy_demo evaluate`)."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
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
from policy_node_rover.demo.episodes import Dealer
from policy_node_rover.demo.parity import Comparison, Reference, shortcomings
from policy_node_rover.demo.play import Fleet, Play
from policy_node_rover.demo.progress import EpisodeProgress, complain
from policy_node_rover.mujoco.model import ArenaModel
from policy_node_rover.mujoco.rendering import KINDS, RendererError, make_renderer
from policy_node_rover.training.evaluate import describe_summary, summarise_episodes


def run_evaluation(options: argparse.Namespace, console: Console, stopping: Callable[[], bool]) -> int:
    """Play the episodes, compare them and write the report.

    Parameters
    ----------
    options
        From the command line.
    console
        Where to tell how it goes.
    stopping
        Whether to end early.

    Returns
    -------
    int
        0 when the goal is reached; else the reason was printed.

    Raises
    ------
    KeyboardInterrupt
        When it ended early.
    """
    # Of small networks and few rovers more threads only wait for each other.
    torch.set_num_threads(1)
    seeds = range(options.seed, options.seed + options.episodes)
    robots = tuple(f"rover_{robot}" for robot in range(min(options.robots, options.episodes)))
    dealer = Dealer(len(robots), seeds)
    try:
        kind = _kind_of_renderer(options.renderer)
        reference = Reference(reference_path(options.model), kind, len(robots))
        play = Play(
            robots, seeds, options.lockstep, kind, options.model, reference.keys, reference.stack, options.output
        )
        console.print(
            f"starting the simulation and the node for {len(robots)} rovers, images by {kind} …", highlight=False
        )
        with Fleet(play, dealer, console, stopping) as fleet:
            measured = fleet.run()
    except (ToolError, RendererError) as error:
        # On a terminal Ctrl-C ends the processes, too.
        if stopping():
            raise KeyboardInterrupt from error
        return complain(console, [str(error)])
    if dealer.running:
        raise KeyboardInterrupt
    with EpisodeProgress(console, "in process", len(seeds)) as progress:
        in_process = reference.play(seeds, until_stopped(stopping, progress))
    comparison = None
    if options.lockstep:
        with EpisodeProgress(console, "comparing", len(seeds)) as progress:
            comparison = reference.retrace(dealer.finished, until_stopped(stopping, progress))
    results = [episode.result for episode in dealer.finished]
    summary, summary_in_process = summarise_episodes(results), summarise_episodes(in_process)
    problems = shortcomings(summary["success_rate"], summary_in_process["success_rate"], comparison)
    report = {
        "driver": "policy",
        "model": str(options.model) if options.model else None,
        "mode": "lockstep" if options.lockstep else "real_time",
        "robots": len(robots),
        "renderer": kind,
        "conditions": "nominal",
        "blanked": None,
        "control_rate_hz": play.configuration.control_rate_hz,
        **summary,
        **measured,
        "in_process": summary_in_process,
        "success_difference_points": round(100 * (summary["success_rate"] - summary_in_process["success_rate"]), 6),
        "same_results_in_process": sum(result in in_process for result in results),
        "actions": comparison.report() if comparison is not None else None,
        "reached": not problems,
        "shortcomings": problems,
    }
    _print_report(console, report, comparison)
    if options.json:
        write_figures(options.json, report)
    return complain(console, problems)


def until_stopped(stopping: Callable[[], bool], progress: EpisodeProgress) -> Callable[[int], None]:
    """Return what shows the progress and raises KeyboardInterrupt once it is to end early."""

    def show(ended: int) -> None:
        if stopping():
            raise KeyboardInterrupt
        progress.show(ended)

    return show


def _kind_of_renderer(asked: str) -> str:
    """Return the kind of the renderer that this machine gives, so that all processes use the same one."""
    renderer = make_renderer(ArenaModel(), asked)
    renderer.close()
    return renderer.kind


def reference_path(model: Path | None) -> Path:
    """Return the zip of Stable-Baselines3 that is the same policy as a model, None being the one that is shipped.

    Raises
    ------
    ToolError
        When there is none.
    """
    if model is None:
        return share_path("models", "rover.zip")
    path = model.with_suffix(".zip")
    if path != model and not path.is_file():
        raise ToolError(
            f"--model: found '{model}', but '{path}' is not there, with which its actions are compared; give the zip "
            "that policy_train wrote, or lay it beside the other file"
        )
    return path


def _print_report(console: Console, report: dict[str, Any], comparison: Comparison | None) -> None:
    in_process = report["in_process"]
    lines = [
        f"over ROS, {report['mode'].replace('_', ' ')}, {report['robots']} rovers, images by {report['renderer']}: "
        + describe_summary(report),
        f"in process: {describe_summary(in_process)}",
        f"success over ROS minus in process: {report['success_difference_points']:+.1f} percentage points; "
        f"{report['same_results_in_process']} of {report['episodes']} episodes end with the "
        "same result at the same time",
    ]
    if comparison is not None:
        lines.append(
            f"actions compared at {comparison.steps} steps: largest difference {comparison.largest_difference:.2g}, "
            f"{comparison.equal_steps} equal bit by bit"
        )
    else:
        late = report["lateness"]
        age, lateness = late["age_at_command_ms"], late["lateness_ms"]
        lines.append(
            f"{late['missed_ticks']} of {late['ticks']} ticks missed; readings at the command p50 {age['p50']} ms, p99 "
            f"{age['p99']} ms old; ticks late by p50 {lateness['p50']} ms, p99 {lateness['p99']} ms\n"
            "actions are not compared: in real time the rovers drive on while the node computes, and see other images"
        )
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the options of `policy_demo evaluate`.

    Raises
    ------
    SystemExit
        When an option is unknown or not allowed; the message says what is.
    """
    parser = argparse.ArgumentParser(
        prog="policy_demo evaluate",
        description="Let a policy play whole episodes through the node, over DDS, and compare them with the same ones "
        "in process; the exit status is 1 where they differ by more than is allowed, and 130 after Ctrl-C.",
    )
    parser.add_argument("--episodes", type=number(int, 1), default=100, help="how many (default 100)")
    parser.add_argument("--robots", type=number(int, 1, 256), default=8, help="how many rovers play them (default 8)")
    parser.add_argument("--seed", type=number(int, 0, 2**31), default=1000, help="that of the first episode (1000)")
    whose_time = parser.add_mutually_exclusive_group()
    whose_time.add_argument(
        "--lockstep",
        action="store_true",
        default=True,
        help="time waits for the commands of every tick, and actions are compared step by step (default)",
    )
    whose_time.add_argument(
        "--real-time",
        dest="lockstep",
        action="store_false",
        help="time passes as on robots, and how late ticks and readings are is measured",
    )
    parser.add_argument(
        "--model",
        type=Path,
        help="policy to run: a zip that policy_train wrote, or a file that was made of the zip "
        "beside it (default: the one that config/rover.yaml names)",
    )
    parser.add_argument("--renderer", choices=KINDS, default="auto", help="auto: EGL where it works, else ray casting")
    parser.add_argument("--json", type=Path, help="file for the result")
    parser.add_argument(
        "--output", type=Path, default=Path("demo_output"), help="folder of logs and parameters (demo_output)"
    )
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
