# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""`policy_bench`: what the node costs and how late its commands are, beside the loop that users write today.

Both are measured from outside, over real DDS, with the same synthetic robots, in turn within one run: CPU time as the
operating system counts it for the whole process, ticks and delays as the process itself publishes them on `~/timing`
and `/diagnostics`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from policy_node.options import number
from policy_node.ros.domain import keep_to_itself
from policy_node.timing import percentiles
from policy_node.tools.child import Child, ToolError

PUBLISHER_PROCESSES = 4
# Ticks before this are not measured: discovery, caches and allocators settle.
WARM_UP_S = 3.0
# Importing PyTorch and Stable-Baselines3 on a busy machine takes its time.
START_TIMEOUT_S = 120.0
# Reports come once per second.
SILENCE_TIMEOUT_S = 15.0
# The features extractor of Stable-Baselines3 needs so many pixels.
SMALLEST_IMAGE_PX = 36


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


class TimingReport(NamedTuple):
    """One message of `~/timing`: when it came, what the process had cost by then, its rows `[ticks, 2 + robots]`."""

    time_s: float
    cpu_s: float
    rows: np.ndarray


class TickCount(NamedTuple):
    """One message of `/diagnostics`: when it came, and the ticks run and missed since the start."""

    time_s: float
    ticks: int
    missed: int


@dataclass(frozen=True, eq=False)
class Round:
    """One measured interval of one process.

    Attributes
    ----------
    rows
        `[ticks, 2 + robots]` float64, milliseconds: lateness, duration, age of each robot's data at its command.
    cpu_s
        CPU time of the process, user and system, all threads.
    missed
        Ticks that were skipped.
    rss_mb
        Resident memory at the end, in 10^6 bytes.
    """

    rows: np.ndarray
    cpu_s: float
    missed: int
    rss_mb: float

    @property
    def cpu_us_per_robot_tick(self) -> float:
        """CPU time in microseconds for one robot and one tick."""
        ticks, columns = self.rows.shape
        return self.cpu_s * 1e6 / (ticks * (columns - 2))


@contextmanager
def running(name: str, arguments: Sequence[str], log: Path) -> Iterator[Child]:
    """Run a child process for as long as the context lasts."""
    child = Child(name, arguments, log)
    try:
        yield child
    finally:
        child.stop()


class Observer:
    """Hears what one loop publishes about itself.

    Parameters
    ----------
    name
        Name of the loop's node.
    child
        Its process, whose CPU time is read whenever a report arrives.
    """

    def __init__(self, name: str, child: Child) -> None:
        import rclpy
        from diagnostic_msgs.msg import DiagnosticArray
        from rclpy.executors import SingleThreadedExecutor
        from std_msgs.msg import Float64MultiArray

        self._child = child
        self._status_name = f"{name}: control"
        self.reports: list[TimingReport] = []
        self.counts: list[TickCount] = []
        self._node = rclpy.create_node("policy_bench")
        self._node.create_subscription(Float64MultiArray, f"{name}/timing", self._on_timing, 10)
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)

    def close(self) -> None:
        """Leave ROS."""
        self._executor.shutdown()
        self._node.destroy_node()

    def spin_once(self) -> None:
        """Wait a moment for a message."""
        self._executor.spin_once(timeout_sec=0.1)

    def _on_timing(self, message: Any) -> None:
        rows = np.array(message.data).reshape([dimension.size for dimension in message.layout.dim])
        self.reports.append(TimingReport(time.monotonic(), self._child.cpu_s(), rows))

    def _on_diagnostics(self, message: Any) -> None:
        for status in message.status:
            if status.name == self._status_name:
                values = {pair.key: pair.value for pair in status.values}
                self.counts.append(TickCount(time.monotonic(), int(values["ticks"]), int(values["missed_ticks"])))

    def count_at(self, time_s: float) -> TickCount:
        """Return the count that came with the report of that time: both are published together."""
        return min(self.counts, key=lambda count: abs(count.time_s - time_s))


def measure(child: Child, others: Sequence[Child], name: str, seconds: float, progress: Callable[[str], None]) -> Round:
    """Watch one loop from its start until it has been measured for `seconds` after the warm-up.

    Parameters
    ----------
    child, name
        The loop: its process and its node.
    others
        Processes that must live meanwhile.
    seconds
        How long to measure.
    progress
        Called now and then with what is going on.

    Raises
    ------
    ToolError
        When a process ends or the loop is silent.
    """
    with closing(Observer(name, child)) as observer:
        reports = observer.reports
        started_s = time.monotonic()
        begin = 0
        while True:
            observer.spin_once()
            for process in (child, *others):
                process.check()
            now_s = time.monotonic()
            if not reports:
                progress("starting")
                if now_s - started_s > START_TIMEOUT_S:
                    raise child.error(f"published nothing on {name}/timing for {START_TIMEOUT_S:.0f} s")
                continue
            if now_s - reports[-1].time_s > SILENCE_TIMEOUT_S:
                raise child.error(f"fell silent on {name}/timing for {SILENCE_TIMEOUT_S:.0f} s")
            if not begin and reports[-1].time_s - reports[0].time_s >= WARM_UP_S:
                begin = len(reports) - 1
            progress("measuring" if begin else "warming up")
            # Reports come at whole seconds, give or take some milliseconds.
            if begin and reports[-1].time_s - reports[begin].time_s >= seconds - 0.5:
                break
        rss_mb = child.rss_mb()
        end = len(reports) - 1
        # The last count may arrive just after the last report.
        observer.spin_once()
        first, last = (observer.count_at(reports[position].time_s) for position in (begin, end))
    # A report holds the ticks before it.
    rows = np.concatenate([report.rows for report in reports[begin + 1 : end + 1]])
    if last.ticks - first.ticks != len(rows):
        raise child.error(f"counted {last.ticks - first.ticks} ticks, but {len(rows)} were reported")
    return Round(rows, reports[end].cpu_s - reports[begin].cpu_s, last.missed - first.missed, rss_mb)


def summary(rounds: Sequence[Round], max_age_s: float) -> dict[str, Any]:
    """Return the figures of all rounds of one loop together, and of each round what tells how much they vary."""
    rows = np.concatenate([measured.rows for measured in rounds])
    ages_ms = rows[:, 2:]
    missed = sum(measured.missed for measured in rounds)
    return {
        "ticks": len(rows),
        "cpu_us_per_robot_tick": sum(measured.cpu_s for measured in rounds) * 1e6 / ages_ms.size,
        "cpu_us_per_robot_tick_by_round": [measured.cpu_us_per_robot_tick for measured in rounds],
        "tick_ms": distribution(rows[:, 1]),
        "lateness_ms": distribution(rows[:, 0]),
        "stamp_to_command_ms": distribution(ages_ms),
        "missed_fraction": missed / (missed + len(rows)),
        # A comparison with NaN, which stands for no command from data, is False.
        "fresh_fraction": float(np.mean(ages_ms <= max_age_s * 1e3)),
        "rss_mb": max(measured.rss_mb for measured in rounds),
    }


def distribution(values: np.ndarray) -> dict[str, float | None]:
    """Return p50, p99 and max of the finite values; None where there are none."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return {"p50": None, "p99": None, "max": None}
    p50, p99 = percentiles(finite)
    return {"p50": p50, "p99": p99, "max": float(finite.max())}


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


def machine() -> dict[str, Any]:
    """Return what the figures depend on: processor, load by others, versions."""
    import rclpy

    models = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor() or "unknown",
        "cores": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        "rmw": rclpy.get_rmw_implementation_identifier(),
        **{package: _version(package) for package in ("torch", "stable-baselines3", "numpy", "rclpy", "policy_node")},
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def run_fleet(options: FleetOptions, console: Console) -> dict[str, Any]:
    """Run the whole comparison and return its figures, as they stand in the JSON file.

    Raises
    ------
    ToolError
        When a process fails or the model does not fit.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="policy_bench_")))
        figures: dict[str, Any] = {
            "options": asdict(options) | {"slop_s": options.slop_s, "max_age_s": options.max_age_s},
            "machine": machine(),
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


def _image_size(text: str) -> tuple[int, int]:
    """Parse `S` or `WxH`."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"found '{text}'; give S or WxH in pixels, such as 64 or 640x480")
    width, height = int(parts[0]), int(parts[-1])
    if min(width, height) < SMALLEST_IMAGE_PX:
        raise argparse.ArgumentTypeError(
            f"found '{text}'; the network needs at least {SMALLEST_IMAGE_PX} pixels each way"
        )
    return width, height


def parser() -> argparse.ArgumentParser:
    """Return the command line of `policy_bench`."""
    result = argparse.ArgumentParser(
        prog="policy_bench", description="Measures what the node costs and how late its commands are."
    )
    commands = result.add_subparsers(dest="command", required=True)
    fleet = commands.add_parser(
        "fleet",
        help="the node over real DDS, beside the loop that users write today",
        description="Runs synthetic robots and the node in processes of their own and measures the node from outside.",
    )
    fleet.add_argument("--robots", type=number(int, 1), default=16, help="number of robots (default 16)")
    fleet.add_argument(
        "--image",
        type=_image_size,
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
    return result


def _interrupt(signal_number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    given = parser().parse_args(arguments)
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

    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO):
            figures = run_fleet(options, console)
    except ToolError as error:
        console.print(f"policy_bench: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("policy_bench: stopped")
        return 130
    console.print(table(figures))
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2) + "\n")
        console.print(f"figures: {given.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
