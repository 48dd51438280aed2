# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Demonstrate the policy (`policy_demo`): run simulation and node as processes, and measure them over ROS 2.

The three processes share the machine, so this one only stores bytes during the measurement and draws afterwards.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from rclpy.node import Node
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from policy_node.cli.child_process import Child, ToolError
from policy_node.cli.options import number
from policy_node.config.package_files import share_path
from policy_node.ros.domain import keep_to_itself
from policy_node.ros.process import ros_process
from policy_node_rover.demo.fleet import SENSOR_RATE_HZ, FleetMonitor, FleetProcesses, Measurement
from policy_node_rover.demo.report import OUTPUT_FILES, Recording, summarise, write_report
from policy_node_rover.evaluation.progress import print_errors
from policy_node_rover.mujoco.rendering import KINDS

# Warn above this share of missed ticks.
MAX_MISSED_PERCENT = 1.0
LINE_PERIOD_S = 5.0
PAGE = "import sys; from policy_node.cli.executables import policy_monitor; sys.exit(policy_monitor())"
ADDRESS = "the page is at "
POLL_S = 0.1


class Display:
    """Show the state of the fleet: in a live table, without one in a line every few seconds."""

    def __init__(self, console: Console, live: Live | None, monitor: FleetMonitor, duration_s: float) -> None:
        self._console = console
        self._live = live
        self._monitor = monitor
        self._duration_s = duration_s
        self._line_at_s = 0.0

    def show(self, elapsed_s: float) -> None:
        """Show the present state."""
        # The last report may arrive a little after the end.
        elapsed_s = min(elapsed_s, self._duration_s)
        if self._live is not None:
            self._live.update(self._table(elapsed_s), refresh=True)
        elif elapsed_s >= self._line_at_s:
            self._line_at_s += LINE_PERIOD_S
            line = f"{', '.join(self._headlines(elapsed_s))}; {self._latencies()}"
            self._console.print(line, highlight=False, soft_wrap=True)

    def _headlines(self, elapsed_s: float) -> tuple[str, str]:
        control, robots = self._monitor.control, len(self._monitor.robots)
        return (
            f"{elapsed_s:.0f} of {self._duration_s:g} s: {robots - len(self._monitor.not_ready())} of {robots} robots "
            f"ready, beacons pressed: {sum(self._monitor.presses)}",
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
        robots = len(self._monitor.robots)
        # As many blocks side by side as fit the height of the terminal.
        blocks = math.ceil(robots / max(4, self._console.height - 8))
        rows = math.ceil(robots / blocks)
        table = Table()
        for _ in range(blocks):
            for column in ("rover", "state"):
                table.add_column(column)
            for column in ("age at command", "presses"):
                table.add_column(column, justify="right")
        for row in range(rows):
            table.add_row(*(cell for robot in range(row, robots, rows) for cell in self._cells(robot)))
        # Lines that do not wrap, so that the table does not move.
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
    """Run the demonstration and write its files; return the exit status."""
    robots = [f"rover_{robot}" for robot in range(options.robots)]
    options.output.mkdir(parents=True, exist_ok=True)
    for name in OUTPUT_FILES:
        # Files of an earlier run must not be mistaken for those of this run.
        (options.output / name).unlink(missing_ok=True)
    node = Node("policy_demo", start_parameter_services=False)
    monitor = FleetMonitor(node, robots)
    simulation = ["--robots", str(options.robots), "--rate-hz", str(SENSOR_RATE_HZ), "--seed", str(options.seed)]
    simulation += ["--renderer", options.renderer]
    fleet = FleetProcesses(simulation, _node_arguments(robots, options.model, options.params), options.output)
    measurement = Measurement(monitor, fleet)
    errors: list[str] = []
    console.print(f"starting the simulation and the node for {options.robots} rovers …", highlight=False)
    try:
        with fleet, _page(options, console, stopping) if options.web else nullcontext():
            if fleet.wait_until_driving(monitor, stopping):
                with Live(console=console, auto_refresh=False) if console.is_terminal else nullcontext() as live:
                    display = Display(console, live, monitor, options.duration_s)
                    measurement.run(options.duration_s, display.show, stopping)
    except ToolError as error:
        errors.append(str(error))
    finally:
        node.destroy_node()
    errors = errors or list(fleet.failures)
    recording = measurement.recording(options.seed)
    if recording is not None:
        console.print("drawing …")
        files = write_report(recording, options.output)
        _print_summary(console, recording, files)
        if not recording.frames:
            errors.append("no image of a camera was received: there is no fleet.gif")
    elif not errors:
        errors.append("ended before anything was measured")
    return print_errors(console, errors)


@contextmanager
def _page(options: argparse.Namespace, console: Console, stopping: Callable[[], bool]) -> Iterator[None]:
    """Serve the page of the fleet within the context, and print its address; raise ToolError if that fails."""
    arguments = ["-c", PAGE, "--web", "--port", str(options.port)]
    child = Child("policy_monitor", arguments, options.output / "policy_monitor.log")
    try:
        while ADDRESS not in child.tail() and not stopping():
            child.check()
            time.sleep(POLL_S)
        console.print(child.tail(), highlight=False, soft_wrap=True)
        yield
    finally:
        child.stop()


def _node_arguments(robots: Sequence[str], model: Path | None, params: Path | None) -> list[str]:
    """Return the arguments of the node for ROS; without a model it runs the one in the parameters."""
    overrides = [f"robots:=[{', '.join(robots)}]"]
    if model is not None:
        # A file that the user names is trusted.
        overrides += [f"policy.path:={model.resolve()}", "policy.trusted:=true"]
    parameter_file = str(params or share_path("config", "rover.yaml"))
    return ["--params-file", parameter_file, *(word for override in overrides for word in ("-p", override))]


def _print_summary(console: Console, recording: Recording, files: Sequence[Path]) -> None:
    summary = summarise(recording)
    ticks, missed = summary["ticks"], summary["missed_ticks"]
    share = 100 * missed / ticks if ticks else math.nan
    console.print(
        f"beacons pressed: {summary['presses']}, by {summary['robots_that_pressed']} of {summary['robots']} rovers, "
        f"in {summary['duration_s']:g} s\n{ticks} ticks at {summary['rate_hz']} Hz, {missed} missed ({share:.1f} %)",
        highlight=False,
    )
    if share > MAX_MISSED_PERCENT:
        console.print(
            f"warning: more than {MAX_MISSED_PERCENT:g} % of the ticks were missed, so the rovers drove on older "
            "readings than the policy was trained with; lower --robots, or free a processor",
            style="yellow",
            highlight=False,
            soft_wrap=True,
        )
    for label in ("tick", "stamp to command", "lateness"):
        name = f"{label.replace(' ', '_')}_ms"
        console.print(f"{label}: p50 {summary[name]['p50']} ms, p99 {summary[name]['p99']} ms", highlight=False)
    processor = ", ".join(f"{role} {percent} %" for role, percent in recording.cpu_percent.items())
    console.print(f"CPU (100 % is one core): {processor}", highlight=False)
    console.print("written: " + ", ".join(str(file) for file in files), highlight=False, soft_wrap=True)


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the options of `policy_demo`."""
    parser = argparse.ArgumentParser(
        prog="policy_demo",
        description="Drive simulated rovers with one policy over ROS 2. `policy_demo evaluate` drives whole episodes "
        "and compares them with the same ones in process; `policy_demo record` records those of the scripted driver.",
        epilog="Documentation: README.md",
    )
    add = parser.add_argument
    add("--robots", type=number(int, 1), default=4, help="number of rovers (default 4)")
    add("--duration-s", type=number(float, 1), default=30.0, help="seconds to measure (default 30)")
    add("--output", type=Path, default=Path("demo_output"), help="folder of the results (demo_output)")
    # Training draws its seeds above 2**32: the policy was not trained in these layouts.
    add("--seed", type=number(int, 0, 2**31), default=1, help="seed of the layout of rover_0 (default 1)")
    add("--renderer", choices=KINDS, default="auto", help="auto: EGL if it works, else ray casting")
    add("--web", action="store_true", help="serve the page of the fleet meanwhile (policy_monitor --web)")
    add("--port", type=number(int, 0, 65535), default=8080, help="of the page (default 8080; 0: free)")
    add("--params", type=Path, help="parameters of the node (default: config/rover.yaml)")
    add("--model", type=Path, help="policy to run (default: the one in the parameters)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration, `evaluate` or `record`; Ctrl-C ends it early, with the results so far."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["evaluate"]:
        # Imported here, as Stable-Baselines3 takes seconds to import.
        from policy_node_rover.demo.evaluate import main as evaluate

        return evaluate(words[1:])
    if words[:1] == ["record"]:
        from policy_node_rover.demo.record import main as record

        return record(words[1:])
    options = parse_options(words)
    keep_to_itself()
    with ros_process() as stopping:
        return run_demo(options, Console(), stopping.is_set)


if __name__ == "__main__":
    sys.exit(main())
