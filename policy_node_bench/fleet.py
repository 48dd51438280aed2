# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""`policy_bench fleet` and `scale`: cost and latency of the node, compared with a conventional rclpy loop.

Both run in separate processes, over DDS, on the same synthetic robots, in turn. CPU time is that of the whole
process as the operating system counts it; ticks and delays are those that the process publishes on `~/timing` and
`/diagnostics`.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from policy_node.cli.child_process import Child, ToolError
from policy_node.cli.options import number
from policy_node.cli.process_environment import MALLOC_VARIABLES, profile_variable
from policy_node.config.package_files import share_path
from policy_node.config.schema import Configuration, ConfigurationError
from policy_node.report.figures import distribution, machine, progress_bar
from policy_node_bench.command import Command, Figures, counts, image_size, option, plot_option
from policy_node_bench.harness.observer import Round, measure, summary
from policy_node_bench.harness.processes import module_arguments, node_arguments, ros_session
from policy_node_bench.harness.robots import (
    LEGGED_JOINTS,
    LEGGED_NUMBERS,
    NO_MALLOC,
    TOUCH_CELLS,
    Settings,
    check_parameters,
    checked_settings,
    legged_parameters,
    parse_settings,
    robot_parameters,
    untrained_legged_policy,
    untrained_policy,
)
from policy_node_bench.tables import LOOPS, fleet_rows, scale_rows, screen

PUBLISHER_PROCESSES = 4
NO_PROFILE = "none"
# Today's loops, and the ratio of their CPU time to that of the node, by their keys in the figures.
BASELINES = {"baseline": "ratio_cpu", "baseline_batched": "ratio_cpu_batched"}


def _profile(text: str) -> str:
    if text not in ("", NO_PROFILE) and not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"found '{text}', which is not a file; give a file, or '{NO_PROFILE}'")
    return text


@dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """The options of the synthetic robots and of the node, which all measurements over DDS share."""

    image: tuple[int, int] = option("64", "camera image in pixels, such as 640x480", type=image_size, metavar="S|WxH")
    sensor_rate_hz: float = option(
        30.0, "rate of camera and touch", "--sensor-rate", type=number(float, 1), metavar="HZ"
    )
    rate_hz: float = option(20.0, "control rate", "--rate", type=number(float, 1), metavar="HZ")
    model: str = option(
        "", "policy for 'image' and 'touch', or of --legged (default: an untrained one of that size)", metavar="PATH"
    )
    legged: bool = option(
        False,
        f"legged robots: {LEGGED_NUMBERS} numbers in place of camera and touch, {LEGGED_JOINTS} commands, and an "
        "untrained policy exported to ONNX; the loops beside the node run it with onnxruntime",
        action="store_true",
    )
    settings: Sequence[str] = option(
        (),
        "for the node: a parameter as NAME:=VALUE, an environment variable as NAME=VALUE, or "
        f"'{NO_MALLOC}' to leave out the memory settings of the launch files; may be repeated",
        "--set",
        action="append",
        type=checked_settings,
        metavar="SETTING",
    )
    fastdds_profile: str = option(
        "",
        f"XML profile of Fast DDS for all processes, '{NO_PROFILE}' for none (default: config/fastdds.xml)",
        type=_profile,
        metavar="FILE",
    )

    @property
    def slop_s(self) -> float:
        """Largest spread of stamps: a robot's readings have equal stamps, so it matters only when one is lost."""
        return 1.0 / self.sensor_rate_hz

    @property
    def max_age_s(self) -> float:
        """Largest age of fresh data: allows for one lost reading and the transport, but not for two lost in a row."""
        return 3.0 / self.sensor_rate_hz

    @property
    def transport(self) -> dict[str, str]:
        """Environment variables of all processes."""
        if self.fastdds_profile == NO_PROFILE:
            return {}
        profile = Path(self.fastdds_profile or share_path("config", "fastdds.xml"))
        return {profile_variable(): str(profile.resolve())}

    @property
    def title(self) -> str:
        """Images and rates, for titles."""
        if self.legged:
            sizes = f"{LEGGED_NUMBERS} numbers at {self.sensor_rate_hz:g} Hz, {LEGGED_JOINTS} commands"
            return f"legged, {sizes} at {self.rate_hz:g} Hz"
        width, height = self.image
        return f"{width}×{height} camera and touch at {self.sensor_rate_hz:g} Hz, control at {self.rate_hz:g} Hz"


@dataclass(frozen=True, kw_only=True)
class RoundOptions(CommonOptions):
    """The options that `policy_bench fleet` and `policy_bench scale` share."""

    seconds: float = option(10.0, "measured time of each round", type=number(float, 1))
    rounds: int = option(1, "rounds of each loop, in turn", type=number(int, 1))
    baseline: bool = option(
        False,
        "also measure today's loop (callbacks, a timer and model.predict for each robot), and the same loop with one "
        "call for the stacked rows of all robots",
        action="store_true",
    )


@dataclass(frozen=True, kw_only=True)
class FleetOptions(RoundOptions):
    """The options of `policy_bench fleet`."""

    robots: int = option(16, "number of robots", type=number(int, 1))
    versus: Sequence[str] = option(
        (),
        "also measure the node with these settings, in turn with the others; may be repeated",
        action="append",
        type=checked_settings,
        metavar="'SETTING …'",
    )


@dataclass(frozen=True, kw_only=True)
class ScaleOptions(RoundOptions):
    """The options of `policy_bench scale`."""

    robots: Sequence[int] = option("1,4,16,64", "numbers of robots", type=counts, metavar="N,N,…")


class Loop(NamedTuple):
    """A control loop to measure."""

    label: str
    node: str  # name
    arguments: Sequence[str]  # of Python
    environment: Mapping[str, str]
    configuration: Configuration | None = None  # of the node


class Cores(NamedTuple):
    """The cores of the loop under measurement, and those of the synthetic robots."""

    loop: Sequence[int]
    publishers: Sequence[int]


def model_of(options: CommonOptions, folder: Path) -> str:
    """Return the policy file of the options, or of an untrained policy, made in a folder."""
    if options.model:
        return options.model
    return untrained_legged_policy(folder) if options.legged else untrained_policy(folder, options.image)


def loops_of(options: FleetOptions, model: str, folder: Path) -> list[Loop]:
    """Return the loops to measure, in turn; parameter files go to `folder`.

    Raises ToolError if a setting is not allowed.
    """
    # The launch files set these variables for the node; the baseline gets them, too.
    launched = {**options.transport, **MALLOC_VARIABLES}
    settings = Settings({}, launched).and_also(parse_settings(" ".join(options.settings)))
    variants = {"node": settings}
    variants |= {f"node with {text}": settings.and_also(parse_settings(text)) for text in options.versus}
    parameters_of = legged_parameters if options.legged else robot_parameters
    common = parameters_of(options.robots, options.rate_hz, model)
    common |= {"synchronisation.slop_s": options.slop_s, "synchronisation.max_age_s": options.max_age_s}
    loops = []
    for position, (label, variant) in enumerate(variants.items()):
        parameters = {**common, **variant.parameters}
        configuration = check_parameters(parameters)
        arguments = node_arguments("policy_bench_node", parameters, folder / f"parameters_{position}.yaml")
        environment = {name: value for name, value in variant.environment.items() if value}
        loops.append(Loop(label, "policy_bench_node", arguments, environment, configuration))
    if options.baseline:
        loops[1:1] = baselines_of(options, model, launched)
    return loops


def baselines_of(options: FleetOptions, model: str, environment: Mapping[str, str]) -> list[Loop]:
    """Return today's loop and the same loop with one call for all robots.

    Raises ToolError if the model is not one that `PPO.load` takes.
    """
    if options.legged:
        given = {"robots": options.robots, "rate_hz": options.rate_hz, "model": model, "legged": True}
        return [_baseline_of(label, given, environment) for label in BASELINES]
    if not model.endswith(".zip"):
        raise ToolError(f"--model: found '{model}'; today's loop needs a .zip file of Stable-Baselines3")
    slop_s = None if _synchroniser() == "newest message" else options.slop_s
    given = {"robots": options.robots, "rate_hz": options.rate_hz, "model": model, "slop_s": slop_s}
    return [_baseline_of(label, given, environment) for label in BASELINES]


def _baseline_of(label: str, given: Mapping[str, Any], environment: Mapping[str, str]) -> Loop:
    name = f"policy_bench_{label}"
    arguments = {"name": name, "batched": label == "baseline_batched", **given}
    return Loop(label, name, module_arguments("policy_node_bench.baseline", arguments), environment)


def measure_engines(loops: Sequence[Loop]) -> None:
    """Check the policy, and let `policy.engine: auto` of all loops measure before the robots load the machine.

    The nodes find the result in the cache, as on a robot from their second start on.

    Raises ToolError if the policy does not fit the synthetic robots or an engine cannot be used.
    """
    from policy_node.ros.deployment import deploy

    configurations = {loop.configuration.policy: loop.configuration for loop in loops if loop.configuration}
    for configuration in configurations.values():
        try:
            observations = deploy(configuration).pipeline.policy.spec.observations
        except ConfigurationError as error:
            raise ToolError(f"--model, --set, --versus: {error}") from error
        if "image" not in observations:  # of legged robots
            continue
        image, touch = observations["image"], observations["touch"]
        if min(image.shape) != 3 or touch.shape != (TOUCH_CELLS,):
            raise ToolError(
                f"--model: found {image}; {touch}; "
                f"the synthetic robots publish an RGB 'image' and a 'touch' of {TOUCH_CELLS} numbers"
            )


def _synchroniser() -> str:
    """Return how the baseline pairs readings on this machine."""
    found = importlib.util.find_spec("message_filters")
    return "message_filters.ApproximateTimeSynchronizer" if found else "newest message"


def published(files: Sequence[Path], options: FleetOptions, rounds: Sequence[Round]) -> dict[str, Any]:
    """Return how punctual the synthetic robots were during the rounds, from the file of each publisher process.

    Raises ToolError if a publisher process did not end in time, so that it wrote no file.
    """
    if missing := [file.stem for file in files if not file.exists()]:
        names = ", ".join(missing)
        raise ToolError(f"{names}: did not end in time; give them less work: fewer robots, or a smaller --image")
    notes = np.concatenate([np.load(file) for file in files])
    due_s, delays_ms = notes[:, 0], notes[:, 1]
    measured = np.any([(due_s >= part.begin_s) & (due_s < part.end_s) for part in rounds], axis=0)
    delays_ms = delays_ms[measured]
    return {
        "rate_hz": options.sensor_rate_hz * float(np.mean(np.isfinite(delays_ms))),
        # From the deadline of a robot's readings until the middleware has both.
        "delay_ms": distribution(delays_ms),
        "processes": len(files),
    }


def run_fleet(options: FleetOptions, console: Console) -> dict[str, Any]:
    """Compare the loops, inside a ROS session, and return the figures."""
    import rclpy

    with tempfile.TemporaryDirectory(prefix="policy_bench_") as temporary:
        folder = Path(temporary)
        figures: dict[str, Any] = {
            "title": f"{options.robots} robots, {options.title}",
            "options": asdict(options) | {"slop_s": options.slop_s, "max_age_s": options.max_age_s},
            "machine": {**machine(), "rmw": rclpy.get_rmw_implementation_identifier()},
        }
        loops = loops_of(options, model_of(options, folder), folder)
        with console.status("measuring the policy's engines"):
            # An earlier result may come from a busy machine.
            os.environ["XDG_CACHE_HOME"] = str(folder)
            measure_engines(loops)
        measured, figures["published"] = measure_in_turn(options, loops, folder, console)
    summaries = {label: summary(rounds, options.max_age_s) for label, rounds in measured.items()}
    figures["node"] = node = summaries.pop("node")
    for label, ratio in BASELINES.items():
        if options.baseline:
            figures[label] = baseline = {**summaries.pop(label), "synchroniser": _synchroniser()}
            figures[ratio] = baseline["cpu_us_per_robot_tick"] / node["cpu_us_per_robot_tick"]
    versus = zip(options.versus, summaries.values(), strict=True)
    return figures | {"versus": [{"settings": text, **result} for text, result in versus]}


def measure_in_turn(
    options: FleetOptions, loops: Sequence[Loop], folder: Path, console: Console, cores: Cores | None = None
) -> tuple[dict[str, list[Round]], dict[str, Any]]:
    """Run each loop on the synthetic robots, round after round; return the rounds by label, and `published`.

    Without `cores` the operating system places the processes. Raises ToolError as `measure` and `published` do.
    """
    measured: dict[str, list[Round]] = {loop.label: [] for loop in loops}
    width, height = (0, 0) if options.legged else options.image
    fleet = {"robots": options.robots, "width": width, "height": height, "rate_hz": options.sensor_rate_hz}
    fleet |= {"numbers": LEGGED_NUMBERS} if options.legged else {}
    notes = [folder / f"publishers_{first}.npy" for first in range(min(PUBLISHER_PROCESSES, options.robots))]
    with ExitStack() as stack:
        publishers = []
        for first, file in enumerate(notes):
            given = {**fleet, "first": first, "step": len(notes), "file": str(file)}
            arguments = module_arguments("policy_node_bench.harness.publishers", given)
            name, log = f"the publishers of process {first}", file.with_suffix(".log")
            publishers.append(Child(name, arguments, log, options.transport))
            stack.callback(publishers[-1].stop)
            if cores:
                os.sched_setaffinity(publishers[-1].pid, cores.publishers)
        bar = stack.enter_context(progress_bar(console))
        task = bar.add_task(f"fleet of {options.robots}", total=options.rounds * len(loops), doing="")
        for turn in range(options.rounds):
            for position, loop in enumerate(loops):

                def progress(doing: str, label: str = f"round {turn + 1} of {options.rounds}, {loop.label}") -> None:
                    bar.update(task, doing=f"{label}: {doing}")

                log = folder / f"loop_{position}_{turn}.log"
                child = Child(f"the {loop.label}", loop.arguments, log, loop.environment)
                try:
                    if cores:
                        os.sched_setaffinity(child.pid, cores.loop)
                    part = measure(child, publishers, loop.node, options.seconds, progress)
                finally:
                    child.stop()
                measured[loop.label].append(part)
                bar.advance(task)
    return measured, published(notes, options, [part for rounds in measured.values() for part in rounds])


def table(figures: Figures) -> Table:
    """Return a table with a column for each loop."""
    node, delay_ms = figures["node"], figures["published"]["delay_ms"]["p99"]
    columns = {LOOPS[loop]: figures[loop] for loop in LOOPS if loop in figures}
    columns |= {versus["settings"]: versus for versus in figures["versus"]}
    result = screen(figures["title"], fleet_rows(columns))
    threads = node["cpu_us_per_robot_tick_by_thread"].items()
    lines = [
        "stages, p50 ms: " + ", ".join(f"{stage} {value['p50']:.2f}" for stage, value in node["stages_ms"].items()),
        "CPU by thread, µs per robot and tick: "
        + ", ".join(f"{thread} {value:.0f}" for thread, value in threads if value >= 0.5),
        f"the synthetic robots published at {figures['published']['rate_hz']:.2f} Hz, "
        f"p99 {delay_ms:.1f} ms after the deadline",
    ]
    lines += [
        f"policy_node uses {figures[ratio]:.1f} times less CPU per robot and tick than {LOOPS[label]}"
        for label, ratio in BASELINES.items()
        if ratio in figures
    ]
    result.caption = "\n".join(lines)
    return result


@ros_session()
def measure_scale(options: ScaleOptions, console: Console) -> dict[str, Any]:
    """Run the fleet benchmark for each number of robots and return the figures."""
    common = {each.name: getattr(options, each.name) for each in fields(RoundOptions)}
    fleets = []
    for robots in options.robots:
        fleets.append(run_fleet(FleetOptions(robots=robots, **common), console))
        console.print(f"{robots} robots: done", highlight=False)
    return {"title": options.title, "machine": fleets[0]["machine"], "fleets": fleets}


COMMAND = Command(
    "fleet",
    "the node over DDS, compared with a conventional rclpy loop",
    "Run synthetic robots and the node in separate processes and measure the node from outside.",
    FleetOptions,
    ros_session()(run_fleet),
    lambda figures: [table(figures)],
    plot_option("plot_fleet"),
)
SCALE = Command(
    "scale",
    "the fleet benchmark for several numbers of robots",
    "Run `policy_bench fleet` for each number of robots and show cost and delays by the number of robots.",
    ScaleOptions,
    measure_scale,
    lambda figures: [screen(figures["title"], scale_rows(figures["fleets"]))],
    plot_option("plot_scale"),
)
