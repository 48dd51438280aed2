# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The demonstration: the simulated rovers and the node as two processes, watched and measured by a third over ROS 2.

While it measures it only stores bytes, as all three share the machine; pictures are made when the others have ended.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from rclpy.subscription import Subscription
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text
from sensor_msgs.msg import Image
from std_msgs.msg import Int32

from policy_node.cli.child_process import Child, ToolError
from policy_node.cli.options import number
from policy_node.cli.process_environment import memory_environment, transport_environment
from policy_node.ros.domain import keep_to_itself
from policy_node.ros.process import ros_process
from policy_node_rover.demo.node import (
    LOOK_PERIOD_S,
    SENSOR_RATE_HZ,
    START_TIMEOUT_S,
    NodeMonitor,
    never_called,
    node_arguments,
    take,
    wait_until_driving,
)
from policy_node_rover.demo.progress import complain
from policy_node_rover.demo.report import Frame, Recording, summarise, write_report
from policy_node_rover.mujoco.rendering import KINDS

# How often the node reports.
REPORT_PERIOD_S = 1.0
LINE_PERIOD_S = 5.0
# When there are as many frames every second one is dropped, and from then on only half as many are taken.
MAX_FRAMES = 160
# Above this share of missed ticks the machine is too slow for the demonstration.
MANY_MISSED_PERCENT = 1.0


class RawFrame(NamedTuple):
    """A frame as it came: serialised images, None before the first."""

    time_s: float
    cameras: list[bytes | None]
    overview: bytes | None
    presses: list[int]


@dataclass(frozen=True)
class Counters:
    """What has been counted up to a moment.

    `reported_s` is when the node counted, `time_s` when the demonstration read the CPU times.
    """

    reported_s: float
    time_s: float
    ticks: int
    missed: int
    presses: tuple[int, ...]
    cpu_s: dict[str, float]


class FleetMonitor(NodeMonitor):
    """Takes what simulation and node publish, when it is asked to; nothing is done in between.

    Parameters
    ----------
    node
        Owner of the subscriptions; nobody needs to spin it.
    robots
        Namespaces.
    """

    def __init__(self, node: Node, robots: Sequence[str]) -> None:
        super().__init__(node, robots)
        self.presses = [0] * len(self.robots)
        newest = QoSProfile(depth=1)
        newest_image = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)

        def subscribe(message_type: type, topic: str, qos: QoSProfile, raw: bool = False) -> Subscription:
            return node.create_subscription(message_type, topic, never_called, qos, raw=raw)

        self._presses = [subscribe(Int32, f"{robot}/presses", latched) for robot in robots]
        self._cameras = [subscribe(Image, f"{robot}/camera/image_raw", newest_image, raw=True) for robot in robots]
        self._overview = subscribe(Image, "overview/image_raw", newest, raw=True)
        self._raw_cameras: list[bytes | None] = [None] * len(self.robots)
        self._raw_overview: bytes | None = None

    def take(self) -> bool:
        """Take everything that has arrived; return whether the node has reported."""
        reported = super().take()
        for robot, subscription in enumerate(self._presses):
            if (message := take(subscription)) is not None:
                self.presses[robot] = message.data
        for robot, subscription in enumerate(self._cameras):
            self._raw_cameras[robot] = take(subscription) or self._raw_cameras[robot]
        self._raw_overview = take(self._overview) or self._raw_overview
        return reported

    def frame(self, time_s: float) -> RawFrame:
        """Return what is to be seen now."""
        return RawFrame(time_s, list(self._raw_cameras), self._raw_overview, list(self.presses))


class Display:
    """A table that renews itself in a terminal; elsewhere a line every few seconds.

    Parameters
    ----------
    console
        Where to write.
    monitor
        What to show.
    duration_s
        How long the measurement takes.
    """

    def __init__(self, console: Console, monitor: FleetMonitor, duration_s: float) -> None:
        self._console = console
        self._monitor = monitor
        self._duration_s = duration_s
        self._line_at_s = 0.0
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> Display:
        """Take over the terminal."""
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Leave the last table standing."""
        if self._live is not None:
            self._live.stop()

    def show(self, elapsed_s: float) -> None:
        """Show what the monitor knows now."""
        # The last report may come a little after the end.
        elapsed_s = min(elapsed_s, self._duration_s)
        if self._live is not None:
            self._live.update(self._table(elapsed_s), refresh=True)
        elif elapsed_s >= self._line_at_s:
            self._line_at_s += LINE_PERIOD_S
            line = f"{', '.join(self._headlines(elapsed_s))}; {self._latencies()}"
            self._console.print(line, highlight=False, soft_wrap=True)

    def _headlines(self, elapsed_s: float) -> tuple[str, str]:
        control, monitor = self._monitor.control, self._monitor
        ready = len(monitor.robots) - len(monitor.not_ready())
        return (
            f"{elapsed_s:.0f} of {self._duration_s:g} s: {ready} of {len(monitor.robots)} robots ready, "
            f"beacons pressed: {sum(monitor.presses)}",
            f"{float(control.get('rate_hz', 'nan')):.1f} Hz, {control.get('missed_ticks', '?')} of "
            f"{control.get('ticks', '?')} ticks missed",
        )

    def _latencies(self) -> str:
        control = self._monitor.control
        return ", ".join(
            f"{label} {_milliseconds(control, f'{name}_p50')} / {_milliseconds(control, f'{name}_p99')} ms"
            for label, name in (("tick p50 / p99", "tick_ms"), ("stamp to command", "stamp_to_command_ms"))
        )

    def _table(self, elapsed_s: float) -> Group:
        monitor = self._monitor
        # As many rovers beside each other as it takes to fit the height of the terminal.
        rows = max(4, self._console.height - 8)
        blocks = math.ceil(len(monitor.robots) / rows)
        rows = math.ceil(len(monitor.robots) / blocks)
        table = Table()
        for _ in range(blocks):
            table.add_column("rover")
            table.add_column("state")
            table.add_column("age at command", justify="right")
            table.add_column("presses", justify="right")
        cells = [self._cells(robot) for robot in range(len(monitor.robots))]
        for row in range(rows):
            table.add_row(*(cell for robot in range(row, len(cells), rows) for cell in cells[robot]))
        # Lines that fit 80 columns and never wrap: the table must not move up and down.
        lines = (*self._headlines(elapsed_s), self._latencies())
        return Group(*(Text(line, no_wrap=True, overflow="ellipsis") for line in lines), table)

    def _cells(self, robot: int) -> list[str]:
        name = self._monitor.robots[robot]
        values = self._monitor.robot_values[name]
        state = values.get("state", "–")
        age = _milliseconds(values, "stamp_to_command_ms_p50")
        coloured = f"[{'green' if state == 'READY' else 'red'}]{state}"
        return [name, coloured, f"{age} ms", str(self._monitor.presses[robot])]


def _milliseconds(values: dict[str, str], key: str) -> str:
    return f"{float(values[key]):.1f}" if key in values else "–"


def run_demo(options: argparse.Namespace, console: Console, stopping: Callable[[], bool]) -> int:
    """Run the demonstration and write its files.

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
        0 when all went well; else the reason was printed.
    """
    robots = [f"rover_{robot}" for robot in range(options.robots)]
    folder: Path = options.output
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("summary.json", "latency.png", "fleet.gif"):
        # A file of an earlier run must not pass for one of this run.
        (folder / name).unlink(missing_ok=True)
    ros_node = Node("policy_demo", start_parameter_services=False)
    children: dict[str, Child] = {}
    monitor = FleetMonitor(ros_node, robots)
    measurement = Measurement(monitor, children)
    problems: list[str] = []
    try:
        transport, memory = transport_environment(), memory_environment()
        log = folder / "rover_sim.log"
        children["simulation"] = Child("rover_sim", _simulation_arguments(options), log, transport)
        log = folder / "policy_node.log"
        children["node"] = Child("policy_node", node_arguments(robots, options.model), log, {**transport, **memory})
        console.print(f"starting the simulation and the node for {options.robots} rovers …", highlight=False)
        wait_until_driving(monitor, children, stopping)
        with Display(console, monitor, options.duration_s) as display:
            measurement.run(options.duration_s, display, stopping)
    except ToolError as error:
        problems.append(str(error))
    finally:
        # The node first, so that its safe commands still find their rovers.
        statuses = {child: child.stop() for _, child in sorted(children.items())}
        ros_node.destroy_node()
    problems += [
        f"{child.name} ended with status {status}, see {child.log}"
        for child, status in statuses.items()
        if status != 0 and not problems
    ]
    recording = measurement.recording(options)
    if recording is not None:
        console.print("drawing …")
        files = write_report(recording, folder)
        _print_summary(console, recording, files)
    elif not problems:
        problems.append("ended before anything was measured")
    if recording is not None and not recording.frames:
        problems.append("no image of a camera came: there is no fleet.gif")
    return complain(console, problems)


def _simulation_arguments(options: argparse.Namespace) -> list[str]:
    arguments = ["-m", "policy_node_rover.mujoco.rover_sim", "--robots", str(options.robots)]
    return [*arguments, "--rate-hz", str(SENSOR_RATE_HZ), "--seed", str(options.seed), "--renderer", options.renderer]


class Measurement:
    """Counts and records from one report of the node to another.

    Parameters
    ----------
    monitor
        What is recorded.
    children
        Processes whose CPU time is measured, by role.
    """

    def __init__(self, monitor: FleetMonitor, children: dict[str, Child]) -> None:
        self._monitor = monitor
        self._children = children
        self._begin: Counters | None = None
        self._end: Counters | None = None
        self._frames: list[RawFrame] = []

    def run(self, duration_s: float, display: Display, stopping: Callable[[], bool]) -> None:
        """Measure from the report that has just come to the one nearest to the end of the duration.

        Raises
        ------
        ToolError
            When a process ends, or the node falls silent.
        """
        monitor = self._monitor
        monitor.timing_ms.clear()
        self._begin = self._counters()
        began_s = self._begin.time_s
        next_look_s, frame_period_s, next_frame_s = began_s, LOOK_PERIOD_S, 0.0
        while not stopping():
            next_look_s += LOOK_PERIOD_S
            time.sleep(max(0.0, next_look_s - time.monotonic()))
            reported = monitor.take()
            elapsed_s = time.monotonic() - began_s
            if elapsed_s >= next_frame_s:
                next_frame_s += frame_period_s
                self._frames.append(monitor.frame(elapsed_s))
                if len(self._frames) >= MAX_FRAMES:
                    del self._frames[1::2]
                    frame_period_s *= 2
            if reported:
                self._end = self._counters()
            for child in self._children.values():
                child.check()
            display.show(elapsed_s)
            if reported and elapsed_s >= duration_s - REPORT_PERIOD_S / 2:
                return
            if time.monotonic() - (self._end or self._begin).time_s > START_TIMEOUT_S:
                raise self._children["node"].error(f"has reported nothing for {START_TIMEOUT_S:g} s")

    def recording(self, options: argparse.Namespace) -> Recording | None:
        """Return what was measured, None when it was nothing; decodes all images."""
        begin, end, monitor = self._begin, self._end, self._monitor
        if begin is None or end is None:
            return None
        watched_s = end.time_s - begin.time_s
        control = monitor.control
        presses_before = begin.presses
        frames = [
            Frame(
                raw.time_s,
                [_pixels(camera) for camera in raw.cameras],
                _pixels(raw.overview),
                [now - before for now, before in zip(raw.presses, presses_before, strict=True)],
            )
            for raw in self._frames
            if raw.overview is not None or any(camera is not None for camera in raw.cameras)
        ]
        about: dict[str, Any] = {
            "control_rate_hz": float(control.get("control_rate_hz", "nan")),
            "sensor_rate_hz": SENSOR_RATE_HZ,
            "rmw": control.get("rmw"),
            "device": control.get("device"),
            "policy": Path(control.get("policy", "")).name,
            "policy_sha256": control.get("policy_sha256"),
            "seed": options.seed,
            "processors": os.cpu_count(),
        }
        return Recording(
            robots=monitor.robots,
            elapsed_s=end.reported_s - begin.reported_s,
            ticks=end.ticks - begin.ticks,
            missed_ticks=end.missed - begin.missed,
            presses=tuple(now - before for now, before in zip(end.presses, presses_before, strict=True)),
            timing_ms=np.concatenate([*monitor.timing_ms, np.empty((0, 2 + len(monitor.robots)))]),
            cpu_percent={
                role: round((end.cpu_s[role] - begin.cpu_s[role]) / watched_s * 100, 1) for role in begin.cpu_s
            },
            about=about,
            frames=frames,
        )

    def _counters(self) -> Counters:
        monitor = self._monitor
        own = psutil.Process().cpu_times()
        return Counters(
            reported_s=monitor.reported_s,
            time_s=time.monotonic(),
            ticks=int(monitor.control["ticks"]),
            missed=int(monitor.control["missed_ticks"]),
            presses=tuple(monitor.presses),
            cpu_s={role: child.cpu_s() for role, child in self._children.items()} | {"demo": own.user + own.system},
        )


def _pixels(raw: bytes | None) -> np.ndarray | None:
    if raw is None:
        return None
    message: Image = deserialize_message(raw, Image)
    return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)


def _print_summary(console: Console, recording: Recording, files: Sequence[Path]) -> None:
    summary = summarise(recording)
    ticks, missed = summary["ticks"], summary["missed_ticks"]
    share = 100 * missed / ticks if ticks else math.nan
    console.print(
        f"beacons pressed: {summary['presses']}, by {summary['robots_that_pressed']} of {summary['robots']} rovers, "
        f"in {summary['duration_s']:g} s\n{ticks} ticks at {summary['rate_hz']} Hz, {missed} missed ({share:.1f} %)",
        highlight=False,
    )
    if share > MANY_MISSED_PERCENT:
        console.print(
            f"warning: more than {MANY_MISSED_PERCENT:g} % of the ticks were missed, so the rovers drove on older "
            "readings than the policy is used to; lower --robots, or free a processor",
            style="yellow",
            highlight=False,
            soft_wrap=True,
        )
    for label, name in (
        ("tick", "tick_ms"),
        ("stamp to command", "stamp_to_command_ms"),
        ("lateness", "lateness_ms"),
    ):
        console.print(f"{label}: p50 {summary[name]['p50']} ms, p99 {summary[name]['p99']} ms", highlight=False)
    processor = ", ".join(f"{role} {percent} %" for role, percent in recording.cpu_percent.items())
    console.print(f"CPU (100 % is one core): {processor}", highlight=False)
    console.print("written: " + ", ".join(str(file) for file in files), highlight=False, soft_wrap=True)


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the options of `policy_demo`.

    Raises
    ------
    SystemExit
        When an option is unknown or not allowed; the message says what is.
    """
    parser = argparse.ArgumentParser(
        prog="policy_demo",
        description="One policy drives simulated rovers over ROS 2. `policy_demo evaluate` lets it play whole episodes "
        "and compares them with the same ones in process.",
    )
    parser.add_argument("--robots", type=number(int, 1), default=4, help="how many rovers (default 4)")
    parser.add_argument("--duration-s", type=number(float, 1), default=30.0, help="seconds to measure (default 30)")
    parser.add_argument("--output", type=Path, default=Path("demo_output"), help="folder of the results (demo_output)")
    # Training draws its seeds above 2**32: these arenas were never trained on.
    parser.add_argument("--seed", type=number(int, 0, 2**31), default=1, help="layout of rover_0 (default 1)")
    parser.add_argument("--renderer", choices=KINDS, default="auto", help="auto: EGL where it works, else ray casting")
    parser.add_argument("--model", type=Path, help="policy to run (default: the one that config/rover.yaml names)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration, or `policy_demo evaluate`; Ctrl-C ends it early, with what there is until then."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["evaluate"]:
        # What trains policies takes seconds to import.
        from policy_node_rover.demo.evaluate import main as evaluate

        return evaluate(words[1:])
    options = parse_options(words)
    keep_to_itself()
    with ros_process() as stopping:
        return run_demo(options, Console(), stopping.is_set)


if __name__ == "__main__":
    sys.exit(main())
