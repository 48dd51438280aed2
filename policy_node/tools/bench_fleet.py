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
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from policy_node.options import number
from policy_node.ros.domain import keep_to_itself
from policy_node.tools.bench_observer import Round, measure, running, summary
from policy_node.tools.bench_report import SubParsers, image_size, machine, write_figures
from policy_node.tools.child import ToolError

PUBLISHER_PROCESSES = 4


@dataclass(frozen=True)
class FleetOptions:
    """The options of `policy_bench fleet`, and what follows from them for both loops.

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
    """

    robots: int
    width: int
    height: int
    sensor_rate_hz: float
    rate_hz: float
    seconds: float
    rounds: int
    model: str
    baseline: bool

    @property
    def slop_s(self) -> float:
        """Largest spread of stamps: a robot's readings have equal stamps, so it matters only when one is lost."""
        return 1.0 / self.sensor_rate_hz

    @property
    def max_age_s(self) -> float:
        """Largest age of fresh data: one lost reading and the transport are forgiven, a second loss in a row is not."""
        return 3.0 / self.sensor_rate_hz


def save_untrained_model(path: Path, width: int, height: int) -> None:
    """Save an untrained policy for camera and touch."""
    from gymnasium import spaces

    from policy_node.tools.bench_publishers import TOUCH_CELLS
    from policy_node.tools.untrained import untrained_model

    image = spaces.Box(0, 255, (height, width, 3), np.uint8)
    touch = spaces.Box(0.0, np.inf, (TOUCH_CELLS,), np.float32)
    action = spaces.Box(-1.0, 1.0, (2,), np.float32)
    untrained_model(spaces.Dict(image=image, touch=touch), action).save(path)


def check_model(path: str) -> None:
    """Raise unless the policy takes what the synthetic robots give."""
    from policy_node.policies import PolicyError, load_policy
    from policy_node.tools.bench_publishers import TOUCH_CELLS

    try:
        spec = load_policy(path).spec
    except PolicyError as error:
        raise ToolError(f"--model: {error}") from error
    shapes = {key: array.shape for key, array in spec.observations.items()}
    image = shapes.get("image", ())
    if shapes.keys() != {"image", "touch"} or len(image) != 3 or min(image) != 3 or shapes["touch"] != (TOUCH_CELLS,):
        found = "; ".join(str(array) for array in spec.observations.values())
        raise ToolError(
            f"--model: '{path}' takes {found}; "
            f"the synthetic robots give an RGB 'image' and a 'touch' of {TOUCH_CELLS} numbers"
        )
    if getattr(spec.action, "shape", None) != (2,):
        raise ToolError(f"--model: '{path}' gives {spec.action}; the synthetic robots take two continuous numbers")


def write_parameters(path: Path, options: FleetOptions, model: str) -> None:
    """Write the node's parameters: camera, touch and velocity of every synthetic robot, as in config/rover.yaml."""
    from policy_node.tools.bench_publishers import COMMAND_TOPIC, IMAGE_TOPIC, TOUCH_TOPIC, robot_name

    parameters = {
        "control_rate_hz": options.rate_hz,
        "robots": [robot_name(robot) for robot in range(options.robots)],
        "policy": {"path": model, "trusted": True, "device": "cpu"},
        "observations": {
            "keys": ["image", "touch"],
            "image": {"topic": IMAGE_TOPIC, "type": "sensor_msgs/msg/Image", "encoding": "rgb8"},
            "touch": {"topic": TOUCH_TOPIC, "type": "sensor_msgs/msg/JointState", "field": "effort"},
        },
        "synchronisation": {"slop_s": options.slop_s, "max_age_s": options.max_age_s},
        "action": {
            "topic": COMMAND_TOPIC,
            "type": "geometry_msgs/msg/Twist",
            "fields": ["linear.x", "angular.z"],
            "when_stale": "stop",
        },
    }
    path.write_text(yaml.safe_dump({"/**": {"ros__parameters": parameters}}, sort_keys=False))


def run_fleet(options: FleetOptions, console: Console) -> dict[str, Any]:
    """Run the whole comparison and return its figures, as they stand in the JSON file.

    Raises
    ------
    ToolError
        When a process fails or the model does not fit.
    """
    import rclpy

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="policy_bench_")))
        figures: dict[str, Any] = {
            "options": asdict(options) | {"slop_s": options.slop_s, "max_age_s": options.max_age_s},
            "machine": {**machine(), "rmw": rclpy.get_rmw_implementation_identifier()},
        }
        model = options.model
        if model:
            check_model(model)
        else:
            model = str(folder / "untrained.zip")
            save_untrained_model(Path(model), options.width, options.height)
        write_parameters(folder / "parameters.yaml", options, model)
        synchroniser = "newest message"
        baseline_arguments = ["--robots", str(options.robots), "--rate-hz", str(options.rate_hz), "--model", model]
        if importlib.util.find_spec("message_filters"):
            synchroniser = "message_filters.ApproximateTimeSynchronizer"
            baseline_arguments += ["--slop-s", str(options.slop_s)]
        # Names of their own: a node that drives real robots may be running.
        loops = {
            "node": [
                *("-m", "policy_node.ros.node", "--ros-args", "-r", "__node:=policy_bench_node"),
                *("--params-file", str(folder / "parameters.yaml")),
            ],
            "baseline": [
                *("-m", "policy_node.tools.bench_baseline", "--name", "policy_bench_baseline", *baseline_arguments)
            ],
        }
        if not options.baseline:
            del loops["baseline"]

        processes = min(PUBLISHER_PROCESSES, options.robots)
        publishers = [
            stack.enter_context(
                running(
                    f"the publishers of process {first}",
                    [
                        *("-m", "policy_node.tools.bench_publishers", "--robots", str(options.robots)),
                        *("--first", str(first), "--step", str(processes), "--rate-hz", str(options.sensor_rate_hz)),
                        *("--width", str(options.width), "--height", str(options.height)),
                    ],
                    folder / f"publishers_{first}.log",
                )
            )
            for first in range(processes)
        ]
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[doing]}"),
            TimeElapsedColumn(),
            console=console,
            # Above the finished table it would still say "measuring".
            transient=True,
        )
        stack.enter_context(bar)
        task = bar.add_task("fleet", total=options.rounds * len(loops), doing="")
        measured: dict[str, list[Round]] = {loop: [] for loop in loops}
        for number in range(options.rounds):
            for loop, arguments in loops.items():
                label = f"round {number + 1} of {options.rounds}, {loop}"

                def progress(doing: str, label: str = label) -> None:
                    bar.update(task, doing=f"{label}: {doing}")

                with running(f"the {loop}", arguments, folder / f"{loop}_{number}.log") as child:
                    measured[loop].append(measure(child, publishers, f"policy_bench_{loop}", options.seconds, progress))
                bar.advance(task)
        for loop, rounds in measured.items():
            figures[loop] = summary(rounds, options.max_age_s)
        if options.baseline:
            figures["baseline"]["synchroniser"] = synchroniser
            figures["ratio_cpu"] = (
                figures["baseline"]["cpu_us_per_robot_tick"] / figures["node"]["cpu_us_per_robot_tick"]
            )
        return figures


def table(figures: dict[str, Any]) -> Table:
    """Show the loops beside each other."""
    options = figures["options"]
    loops = [loop for loop in ("node", "baseline") if loop in figures]
    result = Table(
        title=f"{options['robots']} robots, {options['width']}×{options['height']} camera and touch at "
        f"{options['sensor_rate_hz']:g} Hz, control at {options['rate_hz']:g} Hz\ntimes as p50 / p99 / max"
    )
    result.add_column("")
    for loop in loops:
        result.add_column("today's loop" if loop == "baseline" else "policy_node", justify="right")

    def row(label: str, text: Callable[[dict[str, Any]], str]) -> None:
        result.add_row(label, *(text(figures[loop]) for loop in loops))

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
    if "ratio_cpu" in figures:
        result.caption = f"policy_node uses {figures['ratio_cpu']:.1f} times less CPU per robot and tick"
    return result


def add_parser(subparsers: SubParsers) -> None:
    """Add the command line of `policy_bench fleet`."""
    fleet = subparsers.add_parser(
        "fleet",
        help="the node over real DDS, beside the loop that users write today",
        description="Runs synthetic robots and the node in processes of their own and measures the node from outside.",
    )
    fleet.add_argument("--robots", type=number(int, 1), default=16, help="number of robots (default 16)")
    fleet.add_argument(
        "--image",
        type=image_size,
        default=(64, 64),
        metavar="S|WxH",
        help="camera image in pixels, such as 640x480 (default 64)",
    )
    fleet.add_argument(
        "--sensor-rate", type=number(float, 1), default=30.0, metavar="HZ", help="rate of camera and touch (default 30)"
    )
    fleet.add_argument("--rate", type=number(float, 1), default=20.0, metavar="HZ", help="control rate (default 20)")
    fleet.add_argument(
        "--seconds", type=number(float, 1), default=10.0, help="measured time of each round (default 10)"
    )
    fleet.add_argument("--rounds", type=number(int, 1), default=1, help="rounds of each loop, in turn (default 1)")
    fleet.add_argument(
        "--model", default="", metavar="PATH", help="policy for 'image' and 'touch' (default: an untrained one)"
    )
    fleet.add_argument("--baseline", action="store_true", help="measure the loop that users write today as well")
    fleet.add_argument("--json", type=Path, metavar="FILE", help="write the figures there (default: nowhere)")
    fleet.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    """Run `policy_bench fleet`.

    Raises
    ------
    ToolError
        When a process fails or the model does not fit.
    """
    options = FleetOptions(
        robots=given.robots,
        width=given.image[0],
        height=given.image[1],
        sensor_rate_hz=given.sensor_rate,
        rate_hz=given.rate,
        seconds=given.seconds,
        rounds=given.rounds,
        model=given.model,
        baseline=given.baseline,
    )
    console = Console()
    keep_to_itself()
    import rclpy
    from rclpy.signals import SignalHandlerOptions

    with rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO):
        figures = run_fleet(options, console)
    console.print(table(figures))
    if given.json:
        write_figures(given.json, figures)
        console.print(f"figures: {given.json}")
    return 0
