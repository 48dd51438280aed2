# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""`policy_bench fleet`: what the node costs and how late its commands are, beside the loop that users write today.

Both are measured from outside, over real DDS, with the same synthetic robots, in turn within one run: CPU time as the
operating system counts it for the whole process, ticks and delays as the process itself publishes them on `~/timing`
and `/diagnostics`.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

from policy_node.configuration import Configuration, ConfigurationError
from policy_node.options import number
from policy_node.process_environment import MALLOC_VARIABLES, profile_variable
from policy_node.ros.domain import keep_to_itself
from policy_node.share import share_path
from policy_node.tools.bench_observer import Round, measure, running, summary
from policy_node.tools.bench_report import (
    SubParsers,
    distribution,
    image_size,
    machine,
    progress_bar,
    write_figures,
)
from policy_node.tools.bench_robots import (
    NO_MALLOC,
    Settings,
    check_model,
    check_parameters,
    checked_settings,
    parse_settings,
    robot_parameters,
    save_untrained_model,
)
from policy_node.tools.child import ToolError

PUBLISHER_PROCESSES = 4
NO_PROFILE = "none"


@dataclass(frozen=True)
class FleetOptions:
    """The options of `policy_bench fleet`, and what follows from them for all loops.

    Attributes
    ----------
    robots
        Number of synthetic robots.
    width, height
        Size of the camera images in pixels.
    sensor_rate_hz, rate_hz
        Rate of camera and touch, and of the control.
    seconds
        Measured time of one round.
    rounds
        Rounds of each loop, in turn.
    model
        Policy file; empty for an untrained policy with the camera's image size.
    baseline
        Whether today's loop is measured as well.
    settings
        Of the node, one after the other.
    versus
        For each further measurement of the node what is set besides.
    fastdds_profile
        File with the profile of the middleware for all processes; empty for the one that ships, `none` for none.
    """

    robots: int
    width: int
    height: int
    sensor_rate_hz: float = 30.0
    rate_hz: float = 20.0
    seconds: float = 10.0
    rounds: int = 1
    model: str = ""
    baseline: bool = False
    settings: Sequence[str] = ()
    versus: Sequence[str] = ()
    fastdds_profile: str = ""

    @property
    def slop_s(self) -> float:
        """Largest spread of stamps: a robot's readings have equal stamps, so it matters only when one is lost."""
        return 1.0 / self.sensor_rate_hz

    @property
    def max_age_s(self) -> float:
        """Largest age of fresh data: one lost reading and the transport are forgiven, a second loss in a row is not."""
        return 3.0 / self.sensor_rate_hz

    @property
    def transport(self) -> dict[str, str]:
        """Variables of all processes."""
        if self.fastdds_profile == NO_PROFILE:
            return {}
        profile = Path(self.fastdds_profile or share_path("config", "fastdds.xml"))
        return {profile_variable(): str(profile.resolve())}

    @property
    def title(self) -> str:
        """What is measured, in a line."""
        return (
            f"{self.robots} robots, {self.width}×{self.height} camera and touch at {self.sensor_rate_hz:g} Hz, "
            f"control at {self.rate_hz:g} Hz"
        )


class Loop(NamedTuple):
    """A control loop to be measured: its label, its node's name, how its process is started, what it is to do."""

    label: str
    node: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    configuration: Configuration | None = None


def node_parameters(options: FleetOptions, model: str, settings: Settings) -> dict[str, Any]:
    """Return the node's parameters."""
    parameters = robot_parameters(options.robots, options.rate_hz, model)
    parameters |= {"synchronisation.slop_s": options.slop_s, "synchronisation.max_age_s": options.max_age_s}
    return parameters | dict(settings.parameters)


def loops_of(options: FleetOptions, model: str, folder: Path) -> list[Loop]:
    """Return what is to be measured, in turn; parameter files go to `folder`.

    Raises
    ------
    ToolError
        When what was set is not allowed.
    """
    # As the launch files set them; today's loop is to have the same.
    launched = {**options.transport, **MALLOC_VARIABLES}
    settings = Settings({}, launched).and_also(parse_settings(" ".join(options.settings)))
    variants = {"node": settings}
    variants |= {f"node with {text}": settings.and_also(parse_settings(text)) for text in options.versus}
    loops = []
    for position, (label, variant) in enumerate(variants.items()):
        file = folder / f"parameters_{position}.yaml"
        parameters = node_parameters(options, model, variant)
        configuration = check_parameters(parameters)
        file.write_text(yaml.safe_dump({"/**": {"ros__parameters": parameters}}, sort_keys=False))
        # Names of their own: a node that drives real robots may be running.
        arguments = ["-m", "policy_node.ros.node", "--ros-args", "-r", "__node:=policy_bench_node"]
        arguments += ["--params-file", str(file)]
        environment = {name: value for name, value in variant.environment.items() if value}
        loops.append(Loop(label, "policy_bench_node", arguments, environment, configuration))
    if options.baseline:
        arguments = ["-m", "policy_node.tools.bench_baseline", "--name", "policy_bench_baseline"]
        arguments += ["--robots", str(options.robots), "--rate-hz", str(options.rate_hz), "--model", model]
        if _synchroniser() != "newest message":
            arguments += ["--slop-s", str(options.slop_s)]
        loops.insert(1, Loop("baseline", "policy_bench_baseline", arguments, launched))
    return loops


def measure_engines(loops: Sequence[Loop]) -> None:
    """Let `policy.engine: auto` of all loops measure before the robots take the time of the machine.

    The nodes find what was measured in the cache, as they do on a robot from their second start on.

    Raises
    ------
    ToolError
        When the policy or an engine cannot be used.
    """
    from policy_node.ros.deployment import deploy

    configurations = {loop.configuration.policy: loop.configuration for loop in loops if loop.configuration}
    for configuration in configurations.values():
        try:
            deploy(configuration)
        except ConfigurationError as error:
            raise ToolError(f"--model, --set, --versus: {error}") from error


def _synchroniser() -> str:
    """Return how today's loop pairs readings on this machine."""
    found = importlib.util.find_spec("message_filters")
    return "message_filters.ApproximateTimeSynchronizer" if found else "newest message"


def published(files: Sequence[Path], options: FleetOptions, rounds: Sequence[Round]) -> dict[str, Any]:
    """Return how punctual the synthetic robots were while the loops were measured, from what each process noted."""
    notes = np.concatenate([np.load(file) for file in files])
    due_s, delays_ms = notes[:, 0], notes[:, 1]
    measured = np.any([(due_s >= part.begin_s) & (due_s < part.end_s) for part in rounds], axis=0)
    delays_ms = delays_ms[measured]
    return {
        "rate_hz": options.sensor_rate_hz * float(np.mean(np.isfinite(delays_ms))),
        # From when a robot's readings were due until both had been handed to the middleware.
        "delay_ms": distribution(delays_ms),
        "processes": len(files),
    }


def run_fleet(options: FleetOptions, console: Console) -> dict[str, Any]:
    """Run the whole comparison and return its figures, as they stand in the JSON file.

    Raises
    ------
    ToolError
        When a process fails, the model does not fit or what was set is not allowed.
    """
    import rclpy

    with tempfile.TemporaryDirectory(prefix="policy_bench_") as temporary:
        folder = Path(temporary)
        figures: dict[str, Any] = {
            "options": asdict(options) | {"slop_s": options.slop_s, "max_age_s": options.max_age_s},
            "machine": {**machine(), "rmw": rclpy.get_rmw_implementation_identifier()},
        }
        model = options.model
        if model:
            check_model(model)
            if options.baseline and not model.endswith(".zip"):
                raise ToolError(f"--baseline: today's loop needs a model that Stable-Baselines3 saved, not '{model}'")
        else:
            model = str(folder / "untrained.zip")
            save_untrained_model(Path(model), (options.height, options.width, 3))
        loops = loops_of(options, model, folder)
        with console.status("measuring the policy's engines"):
            # What an earlier time left may have been measured on a busy machine, as the robots would make it.
            os.environ["XDG_CACHE_HOME"] = str(folder)
            measure_engines(loops)
        processes = min(PUBLISHER_PROCESSES, options.robots)
        notes = [folder / f"publishers_{first}.npy" for first in range(processes)]
        measured = _measure_in_turn(options, loops, notes, console)
        everything = [part for rounds in measured.values() for part in rounds]
        figures["published"] = published(notes, options, everything)
        summaries = {label: summary(rounds, options.max_age_s) for label, rounds in measured.items()}
        figures["node"] = summaries.pop("node")
        if options.baseline:
            figures["baseline"] = {**summaries.pop("baseline"), "synchroniser": _synchroniser()}
            figures["ratio_cpu"] = (
                figures["baseline"]["cpu_us_per_robot_tick"] / figures["node"]["cpu_us_per_robot_tick"]
            )
        figures["versus"] = [
            {"settings": text, **result} for text, result in zip(options.versus, summaries.values(), strict=True)
        ]
        return figures


def _measure_in_turn(
    options: FleetOptions, loops: Sequence[Loop], notes: Sequence[Path], console: Console
) -> dict[str, list[Round]]:
    """Run the synthetic robots and before them each loop, round after round; return the rounds by label."""
    measured: dict[str, list[Round]] = {loop.label: [] for loop in loops}
    with ExitStack() as stack:
        publishers = [
            stack.enter_context(
                running(
                    f"the publishers of process {first}",
                    [
                        *("-m", "policy_node.tools.bench_publishers", "--robots", str(options.robots)),
                        *("--first", str(first), "--step", str(len(notes)), "--rate-hz", str(options.sensor_rate_hz)),
                        *("--width", str(options.width), "--height", str(options.height), "--punctuality", str(file)),
                    ],
                    file.with_suffix(".log"),
                    options.transport,
                )
            )
            for first, file in enumerate(notes)
        ]
        bar = stack.enter_context(progress_bar(console))
        task = bar.add_task(f"fleet of {options.robots}", total=options.rounds * len(loops), doing="")
        for number in range(options.rounds):
            for position, loop in enumerate(loops):
                said = f"round {number + 1} of {options.rounds}, {loop.label}"

                def progress(doing: str, said: str = said) -> None:
                    bar.update(task, doing=f"{said}: {doing}")

                log = notes[0].with_name(f"loop_{position}_{number}.log")
                with running(f"the {loop.label}", loop.arguments, log, loop.environment) as child:
                    part = measure(child, publishers, loop.node, options.seconds, progress)
                measured[loop.label].append(part)
                bar.advance(task)
    return measured


def table(options: FleetOptions, figures: dict[str, Any]) -> Table:
    """Show the loops beside each other."""
    result = Table(title=f"{options.title}\ntimes as p50 / p99 / max")
    columns: dict[str, dict[str, Any]] = {"policy_node": figures["node"]}
    if "baseline" in figures:
        columns["today's loop"] = figures["baseline"]
    columns |= {versus["settings"]: versus for versus in figures["versus"]}
    result.add_column("")
    for label in columns:
        result.add_column(label, justify="right")

    def row(label: str, text: Callable[[dict[str, Any]], str]) -> None:
        result.add_row(label, *(text(column) for column in columns.values()))

    row("CPU per robot and tick, µs", lambda loop: f"{loop['cpu_us_per_robot_tick']:.0f}")
    for name, label in (
        ("tick_ms", "tick, ms"),
        ("lateness_ms", "lateness, ms"),
        ("stamp_to_command_ms", "stamp to command, ms"),
    ):
        row(
            label,
            lambda loop, name=name: " / ".join("–" if v is None else f"{v:.2f}" for v in loop[name].values()),  # type: ignore[misc]
        )
    row("ticks missed", lambda loop: f"{loop['missed_fraction']:.2%}")
    row("robots' data fresh", lambda loop: f"{loop['fresh_fraction']:.2%}")
    row("memory [MB]", lambda loop: f"{loop['rss_mb']:.0f}")
    lines = [
        f"{name}: {', '.join(f'{part} {text(value)}' for part, value in figures['node'][key].items() if said(value))}"
        for name, key, said, text in (
            ("stages, p50 ms", "stages_ms", lambda value: True, lambda value: f"{value['p50']:.2f}"),
            (
                "CPU by thread, µs per robot and tick",
                "cpu_us_per_robot_tick_by_thread",
                lambda value: value >= 0.5,
                lambda value: f"{value:.0f}",
            ),
        )
    ]
    if "ratio_cpu" in figures:
        lines.append(f"policy_node uses {figures['ratio_cpu']:.1f} times less CPU per robot and tick")
    rate_hz, delay_ms = figures["published"]["rate_hz"], figures["published"]["delay_ms"]["p99"]
    lines.append(f"the synthetic robots published at {rate_hz:.2f} Hz, p99 {delay_ms:.1f} ms after the time due")
    result.caption = "\n".join(lines)
    return result


def add_fleet_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a fleet whose number of robots is said elsewhere."""
    parser.add_argument(
        "--image",
        type=image_size,
        default=(64, 64),
        metavar="S|WxH",
        help="camera image in pixels, such as 640x480 (default 64)",
    )
    parser.add_argument(
        "--sensor-rate", type=number(float, 1), default=30.0, metavar="HZ", help="rate of camera and touch (default 30)"
    )
    parser.add_argument("--rate", type=number(float, 1), default=20.0, metavar="HZ", help="control rate (default 20)")
    parser.add_argument(
        "--seconds", type=number(float, 1), default=10.0, help="measured time of each round (default 10)"
    )
    parser.add_argument("--rounds", type=number(int, 1), default=1, help="rounds of each loop, in turn (default 1)")
    parser.add_argument(
        "--model",
        default="",
        metavar="PATH",
        help="policy for 'image' and 'touch' (default: an untrained one of the camera's size)",
    )
    parser.add_argument("--baseline", action="store_true", help="measure the loop that users write today as well")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        type=checked_settings,
        metavar="SETTING",
        help="for the node: a parameter as NAME:=VALUE, a variable of its environment as NAME=VALUE, or "
        f"'{NO_MALLOC}' to leave out those that the launch files give it to keep its memory; may be repeated",
    )
    parser.add_argument(
        "--fastdds-profile",
        default="",
        metavar="FILE",
        help=f"XML profile of Fast DDS for all processes, '{NO_PROFILE}' for none (default: config/fastdds.xml)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there (default: nowhere)")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw them there (default: nowhere)")


def fleet_options(given: argparse.Namespace, robots: int, versus: Sequence[str] = ()) -> FleetOptions:
    """Return the options of one fleet from the command line.

    Raises
    ------
    ToolError
        When the profile is not there.
    """
    profile = given.fastdds_profile
    if profile not in ("", NO_PROFILE) and not Path(profile).is_file():
        raise ToolError(f"--fastdds-profile: '{profile}' is not there; give a file, or '{NO_PROFILE}'")
    return FleetOptions(
        robots=robots,
        width=given.image[0],
        height=given.image[1],
        sensor_rate_hz=given.sensor_rate,
        rate_hz=given.rate,
        seconds=given.seconds,
        rounds=given.rounds,
        model=given.model,
        baseline=given.baseline,
        settings=given.set,
        versus=versus,
        fastdds_profile=profile,
    )


def add_parser(subparsers: SubParsers) -> None:
    """Add the command line of `policy_bench fleet`."""
    fleet = subparsers.add_parser(
        "fleet",
        help="the node over real DDS, beside the loop that users write today",
        description="Runs synthetic robots and the node in processes of their own and measures the node from outside.",
    )
    fleet.add_argument("--robots", type=number(int, 1), default=16, help="number of robots (default 16)")
    add_fleet_options(fleet)
    fleet.add_argument(
        "--versus",
        action="append",
        default=[],
        type=checked_settings,
        metavar="'SETTING …'",
        help="measure the node also with these settings, in turn with the others; may be repeated",
    )
    fleet.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    """Run `policy_bench fleet`.

    Raises
    ------
    ToolError
        When a process fails, the model does not fit or what was set is not allowed.
    """
    options = fleet_options(given, given.robots, given.versus)
    console = Console()
    keep_to_itself()
    from policy_node.ros.process import open_ros

    with open_ros():
        figures = run_fleet(options, console)
    console.print(table(options, figures))
    if given.json:
        write_figures(given.json, figures)
        console.print(f"figures: {given.json}")
    if given.plot:
        from policy_node.tools.bench_plots import plot_fleet

        plot_fleet(figures, options.title, given.plot)
        console.print(f"plot: {given.plot}")
    return 0
