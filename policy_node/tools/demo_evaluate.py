# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Let a policy play whole episodes through the node, and compare them with the same ones in process.

`policy_demo evaluate`. The rovers and the node are processes of their own, as on robots; this one deals the episodes,
by resets with a seed, and judges them by what the simulation tells. After a reset a rover is silent for longer than
readings may be old, so that the node begins the episode anew as well: that is a gap in its readings.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray, Int64

from policy_node.configuration import Configuration, parse_configuration
from policy_node.options import number
from policy_node.parameter_file import read_parameter_file
from policy_node.process_environment import memory_environment, transport_environment
from policy_node.ros.domain import keep_to_itself
from policy_node.ros.process import ros_process
from policy_node.share import share_path
from policy_node.simulation.mujoco_model import ArenaModel
from policy_node.simulation.rendering import KINDS, make_renderer
from policy_node.timing import percentiles
from policy_node.tools.child import Child, ToolError
from policy_node.tools.demo_episodes import Dealer, Report, ages_while_driven_ms
from policy_node.tools.demo_node import NodeMonitor, never_called, take, wait_until_driving
from policy_node.tools.demo_parity import Comparison, Reference, shortcomings
from policy_node.tools.train_evaluate import describe_summary, summarise_episodes

# How often it is looked for reports: in lockstep time goes on until a rover whose episode has ended is reset.
LOOK_PERIOD_S = 0.005
# How long a rover may be silent before it is asked again to begin, and before it is given up.
ASK_AGAIN_S = 30.0
SILENCE_S = 120.0
LINE_PERIOD_S = 10.0
# As many periods longer than readings may be old a rover is silent after a reset; in real time ticks may be missed.
PAUSE_PERIODS = {True: 2, False: 6}
REPORTS = 2000
SENSOR_RATE_HZ = 30.0
# No tick may pass for hanging that waits for another process.
PATIENT_S = 60.0


class EpisodePlayer:
    """Lets rovers play the episodes that they are dealt.

    Parameters
    ----------
    node
        Owner of the topics; nobody needs to spin it.
    robots
        Namespaces.
    dealer
        Who plays what.
    """

    def __init__(self, node: Node, robots: Sequence[str], dealer: Dealer) -> None:
        self._dealer = dealer
        self._resets = [node.create_publisher(Int64, f"{robot}/reset", QoSProfile(depth=10)) for robot in robots]
        self._reports = [
            node.create_subscription(Float64MultiArray, f"{robot}/episode", never_called, QoSProfile(depth=REPORTS))
            for robot in robots
        ]
        # By index of a robot which seed it was asked to play, and when.
        self._asked: dict[int, tuple[int, float]] = {}
        self._heard_s = time.monotonic()

    @property
    def silence_s(self) -> float:
        """For how long nobody has reported."""
        return time.monotonic() - self._heard_s

    def look(self) -> None:
        """Take the reports that have arrived, and reset rovers that are to begin."""
        for robot, subscription in enumerate(self._reports):
            while (message := take(subscription)) is not None:
                self._heard_s = time.monotonic()
                self._dealer.note(robot, Report(*message.data))
        for robot, seed in self._dealer.running.items():
            asked_seed, asked_s = self._asked.get(robot, (-1, -math.inf))
            is_asked = asked_seed == seed and time.monotonic() - asked_s < ASK_AGAIN_S
            if is_asked or self._dealer.has_begun(robot) or not self._resets[robot].get_subscription_count():
                continue
            self._resets[robot].publish(Int64(data=seed))
            self._asked[robot] = seed, time.monotonic()


class EpisodeProgress:
    """Shows how many episodes have ended: a bar on a terminal, elsewhere a line every few seconds.

    Parameters
    ----------
    console
        Where to write.
    what
        What is being done.
    episodes
        How many there are.
    """

    def __init__(self, console: Console, what: str, episodes: int) -> None:
        self._console = console
        self._what = what
        self._episodes = episodes
        self._began_s = time.monotonic()
        self._line_at_s = self._began_s + LINE_PERIOD_S
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("episodes"))
        times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
        self._bars = Progress(
            *columns, TextColumn("{task.fields[figures]}"), *times, console=console, disable=not console.is_terminal
        )
        self._bar = self._bars.add_task(what, total=episodes, figures="")

    def __enter__(self) -> EpisodeProgress:
        """Show the bar."""
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Leave the bar as it is."""
        self._bars.stop()

    def show(self, ended: int, successes: int | None = None) -> None:
        """Show how many episodes have ended, and how many of them succeeded."""
        ended = min(ended, self._episodes)
        figures = "" if successes is None or not ended else f"{100 * successes / ended:.0f} % succeeded"
        self._bars.update(self._bar, completed=ended, figures=figures)
        now_s = time.monotonic()
        if self._console.is_terminal or now_s < self._line_at_s:
            return
        self._line_at_s = now_s + LINE_PERIOD_S
        left = "" if not ended else f"{(now_s - self._began_s) * (self._episodes - ended) / ended:.0f} s left"
        parts = [f"{self._what}: {ended} of {self._episodes} episodes", figures, left]
        self._console.print(", ".join(filter(None, parts)), highlight=False, soft_wrap=True)


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
    """
    # Of few rovers' small networks more threads only wait for each other.
    torch.set_num_threads(1)
    seeds = range(options.seed, options.seed + options.episodes)
    robots = [f"rover_{robot}" for robot in range(min(options.robots, options.episodes))]
    renderer = make_renderer(ArenaModel(), options.renderer)
    kind = renderer.kind
    renderer.close()
    try:
        reference = Reference(reference_path(options.model), kind, len(robots))
        dealer = Dealer(len(robots), seeds)
        measured = play(options, robots, kind, reference, dealer, console, stopping)
    except ToolError as error:
        return _complain(console, [str(error)])
    if measured is None:
        return _complain(console, [f"ended after {len(dealer.finished)} of {len(seeds)} episodes: nothing is compared"])
    results = [episode.result for episode in dealer.finished]
    with EpisodeProgress(console, "in process", len(seeds)) as progress:
        in_process = reference.play(seeds, progress.show)
    comparison = None
    if options.lockstep:
        with EpisodeProgress(console, "comparing", len(seeds)) as progress:
            comparison = reference.retrace(dealer.finished, progress.show)
    summary, summary_in_process = summarise_episodes(results), summarise_episodes(in_process)
    problems = shortcomings(summary["success_rate"], summary_in_process["success_rate"], comparison)
    report = {
        "driver": "policy",
        "mode": "lockstep" if options.lockstep else "real_time",
        "robots": len(robots),
        "renderer": kind,
        "control_rate_hz": configuration().control_rate_hz,
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
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return _complain(console, problems)


def reference_path(model: Path | None) -> Path:
    """Return the zip of Stable-Baselines3 that is the same policy as a model, None being the one that is shipped.

    Raises
    ------
    ToolError
        When there is none.
    """
    if model is None:
        return share_path("models", "rover.zip")
    path = model if model.suffix == ".zip" else model.with_suffix(".zip")
    if not path.is_file():
        raise ToolError(
            f"--model: found '{model}', but '{path}' is not there, with which its actions are compared; give the zip "
            "that policy_train wrote, or lay it beside the other file"
        )
    return path


def configuration() -> Configuration:
    """Return the configuration of the demonstration."""
    return parse_configuration(read_parameter_file(share_path("config", "rover.yaml")))


def play(
    options: argparse.Namespace,
    robots: Sequence[str],
    renderer: str,
    reference: Reference,
    dealer: Dealer,
    console: Console,
    stopping: Callable[[], bool],
) -> dict[str, Any] | None:
    """Let the rovers play all episodes through the node; return what else is known of that, None: told to stop.

    Raises
    ------
    ToolError
        When a process ends or falls silent.
    """
    folder: Path = options.output
    folder.mkdir(parents=True, exist_ok=True)
    pause_s = _pause_s(options.lockstep)
    transport, memory = transport_environment(), memory_environment()
    children: dict[str, Child] = {}
    with ExitStack() as held:
        node = Node("policy_demo", start_parameter_services=False)
        held.callback(node.destroy_node)
        monitor, player = NodeMonitor(node, robots), EpisodePlayer(node, robots, dealer)
        if "touch" not in reference.keys:
            # In lockstep time waits until somebody listens.
            newest = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
            for robot in robots:
                node.create_subscription(JointState, f"{robot}/touch", never_called, newest)
        simulation = [*("-m", "policy_node.simulation.rover_sim"), *_simulation_arguments(options, robots, renderer)]
        children["simulation"] = Child("rover_sim", simulation, folder / "rover_sim.log", transport)
        held.callback(children["simulation"].stop)
        parameters = node_parameters(robots, options.model, options.lockstep, reference.keys, reference.stack)
        file = folder / "policy_node.yaml"
        file.write_text(yaml.safe_dump({"/**": {"ros__parameters": parameters}}))
        drives = ["-m", "policy_node.ros.node", "--ros-args", "--params-file", str(file)]
        children["node"] = Child("policy_node", drives, folder / "policy_node.log", {**transport, **memory})
        # Before the simulation, so that its safe commands still find their rovers.
        held.callback(children["node"].stop)
        console.print(
            f"starting the simulation and the node for {len(robots)} rovers, images by {renderer}, reset with a pause "
            f"of {pause_s:g} s …",
            highlight=False,
            soft_wrap=True,
        )
        wait_until_driving(monitor, children, stopping)
        monitor.timing_ms.clear()
        before = dict(monitor.control)
        began_s = time.monotonic()
        with EpisodeProgress(console, "over ROS", options.episodes) as progress:
            while dealer.running and not stopping():
                player.look()
                monitor.take()
                for child in children.values():
                    child.check()
                if player.silence_s > SILENCE_S:
                    raise children["simulation"].error(f"has told nothing of any episode for {SILENCE_S:g} s")
                progress.show(len(dealer.finished), sum(episode.result.success for episode in dealer.finished))
                time.sleep(LOOK_PERIOD_S)
        if dealer.running:
            return None
        elapsed_s = time.monotonic() - began_s
        if options.lockstep:
            _check_complete(dealer)
        return {
            "model": str(options.model) if options.model else None,
            "policy": Path(monitor.control["policy"]).name,
            "policy_sha256": monitor.control.get("policy_sha256"),
            "engine": monitor.control.get("engine"),
            "device": monitor.control.get("device"),
            "rmw": monitor.control.get("rmw"),
            "reset_pause_s": round(pause_s, 6),
            "wall_time_s": elapsed_s,
            "lateness": None if options.lockstep else _lateness(monitor, before),
        }


def _pause_s(lockstep: bool) -> float:
    return configuration().synchronisation.max_age_s + PAUSE_PERIODS[lockstep] * configuration().period_ns / 1e9


def _simulation_arguments(options: argparse.Namespace, robots: Sequence[str], renderer: str) -> list[str]:
    pause_s = _pause_s(options.lockstep)
    time_arguments = ["--lockstep", "--rate-hz", f"{configuration().control_rate_hz:g}"]
    if not options.lockstep:
        time_arguments = ["--rate-hz", f"{SENSOR_RATE_HZ:g}"]
    return [
        *("--robots", str(len(robots)), "--renderer", renderer, "--reset-pause-s", f"{pause_s:g}"),
        *("--seed", str(options.seed), *time_arguments),
    ]


def node_parameters(
    robots: Sequence[str], model: Path | None, lockstep: bool, keys: Sequence[str], stack: int
) -> dict[str, Any]:
    """Return the parameters of the node by dotted name: those of the demonstration, for the policy at hand.

    Parameters
    ----------
    robots
        Namespaces.
    model
        The policy to run; None: the one that `config/rover.yaml` names.
    lockstep
        Whether time waits for the commands of every tick.
    keys, stack
        Which observations the policy takes, and how many of the latest ones.
    """
    given = read_parameter_file(share_path("config", "rover.yaml"))
    left_out = tuple(f"observations.{key}." for key in given["observations.keys"] if key not in keys)
    parameters = {name: value for name, value in given.items() if not name.startswith(left_out)}
    parameters |= {"robots": list(robots), "observations.keys": list(keys)}
    parameters |= {f"observations.{key}.stack": stack for key in keys}
    if lockstep:
        parameters |= {f"observations.{key}.reliability": "reliable" for key in keys}
        parameters |= {"use_sim_time": True, "watchdog.timeout_s": PATIENT_S}
    if model is not None:
        # Whoever names a file of one's own trusts it.
        parameters |= {"policy.path": str(model.resolve()), "policy.trusted": True}
    return parameters


def _check_complete(dealer: Dealer) -> None:
    """Check that every step of every episode was reported."""
    period_s = configuration().period_ns / 1e9
    for episode in dealer.finished:
        steps = round(episode.result.time_s / period_s)
        if len(episode.commands) != steps:
            raise ToolError(
                f"seed {episode.result.seed}: {len(episode.commands)} of {steps} steps were heard; run it again on a "
                "machine that is less busy"
            )


def _lateness(monitor: NodeMonitor, before: dict[str, str]) -> dict[str, Any]:
    """Return how late ticks and commands were since some diagnostics."""
    counts = {name: int(monitor.control[name]) - int(before[name]) for name in ("ticks", "missed_ticks")}
    left_out = math.ceil(configuration().synchronisation.max_age_s * configuration().control_rate_hz)
    figures = {
        "lateness_ms": np.concatenate(monitor.timing_ms)[:, 0],
        "tick_ms": np.concatenate(monitor.timing_ms)[:, 1],
        "age_at_command_ms": ages_while_driven_ms(monitor.timing_ms, left_out),
    }
    return counts | {
        name: dict(zip(("p50", "p99"), (round(figure, 3) for figure in percentiles(values)), strict=True))
        for name, values in figures.items()
    }


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


def _complain(console: Console, problems: Sequence[str]) -> int:
    for problem in problems:
        console.print(f"error: {problem}", style="red", markup=False, highlight=False, soft_wrap=True)
    return 1 if problems else 0


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
        "in process; the exit status is 1 where they differ by more than is allowed.",
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
    """Run the evaluation; Ctrl-C ends it."""
    options = parse_options(arguments)
    keep_to_itself()
    with ros_process() as stopping:
        return run_evaluation(options, Console(), stopping.is_set)
