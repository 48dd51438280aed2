# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Show the state of running policy nodes in a terminal, from `/diagnostics`, or on a web page."""

from __future__ import annotations

import argparse
import json
import math
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.utilities import remove_ros_args
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from policy_node.cli.options import number
from policy_node.cli.output import NOTHING, make_console
from policy_node.ros.domain import search_scope
from policy_node.ros.graph import natural_order
from policy_node.ros.process import tool_node
from policy_node.ros.rclpy_internals import poll_topic

LOOK_PERIOD_S = 0.25
PRINT_PERIOD_S = 1.0
# Nodes report every second.
SILENT_S = 3.0

_LEVELS = {
    DiagnosticStatus.OK: "OK",
    DiagnosticStatus.WARN: "WARN",
    DiagnosticStatus.ERROR: "ERROR",
    DiagnosticStatus.STALE: "STALE",
}
# Ends of the names of values in the diagnostics that are problems.
_PROBLEMS = ("_lost", "_late", "_mixed", "_offset", "_repeated", "_also_commanded_by")
_COLOURS = {"OK": "green", "WARN": "yellow", "ERROR": "red", "STALE": "magenta"}
_STATE_COLOURS = {
    "READY": "green",
    "WAITING": "cyan",
    "STALE": "yellow",
    "REJECTED": "red",
    "FAULT": "bold red",
    "STOPPED": "magenta",
}
# Values that are never numbers: hexadecimal digits may look like one.
_TEXTS = ("policy", "policy_sha256", "process", "task")


@dataclass
class Part:
    """The diagnostics of a node or of one robot."""

    level: str = "STALE"
    message: str = ""
    values: dict[str, str] = field(default_factory=dict)


@dataclass
class NodeView:
    """The diagnostics of one node and its robots."""

    #: Diagnostics of the node itself, and of each robot by its name.
    control: Part
    robots: dict[str, Part] = field(default_factory=dict)
    #: Time of the newest report, on the monotonic clock.
    heard_s: float = 0.0

    @property
    def is_complete(self) -> bool:
        """Whether the diagnostics of every robot have arrived, or the node does not drive yet."""
        robots, ticks = (_figure(self.control.values, key, 0) for key in ("robots", "ticks"))
        return ticks in ("0", NOTHING) or str(len(self.robots)) == robots

    @property
    def is_active(self) -> bool:
        """Whether the node drives robots, so that it reports figures."""
        return self.control.values.get("lifecycle_state") == "active"


class DiagnosticsView:
    """Collects the newest diagnostics of policy nodes, or only of the node with the full name `wanted`."""

    def __init__(self, node: Node, wanted: str) -> None:
        self._node = node
        self._wanted = wanted.strip("/")
        #: Nodes by their full name without the first slash; of two with one name, each with its process behind it.
        self.nodes: dict[str, NodeView] = {}
        # The same by name and process.
        self._by_process: dict[tuple[str, str], NodeView] = {}
        _, self._take = poll_topic(node, DiagnosticArray, "/diagnostics", QoSProfile(depth=100))

    def take(self) -> None:
        """Take all messages that have arrived."""
        for message, _ in iter(self._take, None):
            for status in message.status:
                self._keep(status)

    def _keep(self, status: DiagnosticStatus) -> None:
        owner, _, name = status.name.rpartition(": ")
        if not owner or (self._wanted and owner != self._wanted):
            return
        values = {pair.key: pair.value for pair in status.values}
        part = Part(_LEVELS.get(status.level, "STALE"), status.message, values)
        identity = (owner, values.get("process", ""))
        if name == "control" and "lifecycle_state" in values:
            view = self._by_process.get(identity)
            if view is None:
                view = self._by_process[identity] = NodeView(part)
            view.control, view.heard_s = part, time.monotonic()
            if not view.is_active:
                view.robots.clear()
            self._name_nodes()
        elif identity in self._by_process and "state" in values:
            self._by_process[identity].robots[name] = part

    def _name_nodes(self) -> None:
        """Name the nodes; a silent one whose name another process has is one that was started again."""
        now_s = time.monotonic()
        speaking = {name for (name, _), view in self._by_process.items() if now_s - view.heard_s <= SILENT_S}
        self._by_process = {
            identity: view
            for identity, view in self._by_process.items()
            if now_s - view.heard_s <= SILENT_S or identity[0] not in speaking
        }
        counts = Counter(name for name, _ in self._by_process)
        self.nodes = {
            name if counts[name] == 1 else f"{name} ({process})": view
            for (name, process), view in self._by_process.items()
        }

    def wait(self, timeout_s: float, stopping: threading.Event) -> None:
        """Take messages until those of each node are complete, at most for `timeout_s`."""
        started_s = time.monotonic()
        while not stopping.is_set() and time.monotonic() - started_s < timeout_s:
            self.take()
            # All nodes report within a second of each other.
            if self.nodes and all(node.is_complete for node in self.nodes.values()):
                if self._wanted or time.monotonic() - started_s > 2 * PRINT_PERIOD_S:
                    return
            time.sleep(LOOK_PERIOD_S)

    def why_nothing(self) -> str:
        """Return why there are no diagnostics, and what to do."""
        infos = self._node.get_publishers_info_by_topic("/diagnostics")
        names = sorted({f"{info.node_namespace.rstrip('/')}/{info.node_name}" for info in infos})
        wanted = f"/{self._wanted}" if self._wanted else "a policy node"
        silent = f"{wanted} does not publish on /diagnostics; "
        if names:
            return silent + f"others do: {', '.join(names)}; a policy node publishes from its start on"
        return (
            silent + f"no node does with {search_scope()}: start the node, or set both variables here as for the node"
        )


def as_json(view: DiagnosticsView) -> dict[str, Any]:
    """Return the diagnostics for JSON: nodes by their full name, numbers as numbers."""
    now_s = time.monotonic()
    return {
        f"/{name}": {
            "heard_s_ago": round(now_s - node.heard_s, 3),
            **part_as_json(node.control),
            "robots": {robot: part_as_json(part) for robot, part in sorted(node.robots.items())},
        }
        for name, node in sorted(view.nodes.items())
    }


def part_as_json(part: Part) -> dict[str, Any]:
    """Return diagnostics for JSON, numbers as numbers."""
    values = {key: value if key in _TEXTS else _parsed(value) for key, value in part.values.items()}
    return {"level": part.level, "message": part.message, "values": values}


def _parsed(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            found = kind(text)
        except ValueError:
            continue
        return found if math.isfinite(found) else text
    return text


def as_table(view: DiagnosticsView) -> Group:
    """Return the diagnostics as a header and a table for each node."""
    return Group(*(part for name, node in sorted(view.nodes.items()) for part in _node_parts(name, node)))


def _node_parts(name: str, node: NodeView) -> list[Text | Table]:
    """Return the title, the figures, the problems and the robots of a node."""
    control, values = node.control, node.control.values
    silent_s = time.monotonic() - node.heard_s
    level, message = control.level, control.message
    if silent_s > SILENT_S:
        level, message = "ERROR", f"no message for {silent_s:.0f} s; {message}"
    title = Text.assemble((f"/{name} ", "bold"), (level, _COLOURS[level]), f" {message}")
    if not node.is_active:
        return [title]
    single = ("planner_slow", "commands_unheard")
    problems = [value for key, value in values.items() if key.endswith(_PROBLEMS) or key in single]
    lines = [*map(Text, _figures(values)), *(Text(problem, style="yellow") for problem in problems)]
    return [title, *lines, _robots_table(node)]


def _figures(values: Mapping[str, str]) -> list[str]:
    """Return lines with the rate, the durations, the resources, the policy and the recording of a node."""
    lines = [
        f"{_figure(values, 'rate_hz')} of {_figure(values, 'control_rate_hz')} Hz"
        + (f" (simulated time at {_figure(values, 'real_time_factor', 2)})" if "real_time_factor" in values else "")
        + f", {values.get('missed_ticks', NOTHING)} of {values.get('ticks', NOTHING)} ticks missed, "
        f"{_figure(values, 'inferences_per_s', 0)} inferences/s",
        "p50 / p99 in ms: "
        + ", ".join(
            f"{label} {_figure(values, f'{key}_ms_p50', 2)} / {_figure(values, f'{key}_ms_p99', 2)}"
            for key, label in (("lateness", "lateness"), ("tick", "tick"), ("stamp_to_command", "stamp to command"))
        ),
        f"{values.get('engine', 'policy')} on {values.get('device', NOTHING)}, "
        f"CPU {_figure(values, 'cpu_percent', 0)} %, {_figure(values, 'rss_mb', 0)} MB"
        + (f", GPU {values['device_utilisation_percent']} %" if "device_utilisation_percent" in values else "")
        + (f", GPU memory {_figure(values, 'device_memory_mb', 0)} MB" if "device_memory_mb" in values else "")
        + (f", shard {values['shard']}" if "shard" in values else ""),
        f"policy {values.get('policy', NOTHING)}, SHA-256 {values.get('policy_sha256', NOTHING)[:12]}…",
    ]
    if "plans_per_s" in values:
        lines.append(
            f"plans: {_figure(values, 'plans_per_s')}/s, inference {_figure(values, 'inference_ms_p50')} / "
            f"{_figure(values, 'inference_ms_p99')} ms, "
            f"age at command {_figure(values, 'plan_age_at_command_ms_p50')} / "
            f"{_figure(values, 'plan_age_at_command_ms_p99')} ms, "
            f"{values.get('robots_waiting_for_plan', NOTHING)} robots wait, {values.get('plans_ended', NOTHING)} ended"
        )
    if "record_path" in values:
        lines.append(
            f"recording into {values['record_path']}: {values.get('recorded_ticks', NOTHING)} ticks, "
            f"{values.get('record_dropped', NOTHING)} dropped"
        )
    return lines


def _robots_table(node: NodeView) -> Table:
    sensors = sorted({key for part in node.robots.values() for key in part.values if key.endswith("_hz")})
    table = Table()
    table.add_column("robot", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for figure in ("driven %", "changes", "age ms"):
        table.add_column(figure, justify="right")
    for sensor in sensors:
        table.add_column(f"{sensor.removesuffix('_hz')} Hz", justify="right")
    for counted in ("rejected", "bounded", "slowed"):
        table.add_column(counted, justify="right")
    has_tasks = any("task" in part.values for part in node.robots.values())
    if has_tasks:
        table.add_column("task", overflow="fold")
    table.add_column("reason", overflow="fold")
    for robot, part in sorted(node.robots.items(), key=lambda item: natural_order(item[0])):
        values = part.values
        state = values.get("state", NOTHING)
        table.add_row(
            Text(robot),
            Text(
                state,
                style=_COLOURS["WARN"] if state == "READY" and part.level == "WARN" else _STATE_COLOURS.get(state, ""),
            ),
            _figure(values, "driven_percent", 0),
            _figure(values, "state_changes", 0),
            _figure(values, "age_at_command_ms"),
            *(_figure(values, sensor) for sensor in sensors),
            *(Text(values.get(counted, NOTHING)) for counted in ("rejected", "bounded", "slowed")),
            *([Text(values.get("task", NOTHING))] if has_tasks else []),
            Text(values.get("reason", "")),
        )
    return table


def _figure(values: Mapping[str, str], key: str, digits: int = 1) -> str:
    try:
        return f"{float(values[key]):.{digits}f}"
    except (KeyError, ValueError):
        return NOTHING


def watch(view: DiagnosticsView, options: argparse.Namespace, console: Console, stopping: threading.Event) -> int:
    """Show the diagnostics until `stopping` is set; with `--once` until those of each node are complete.

    Returns
    -------
    int
        1 when `--once` found no node.
    """
    if options.once:
        print(f"waiting for /diagnostics, at most {options.timeout_s:g} s …", file=sys.stderr, flush=True)
        view.wait(options.timeout_s, stopping)
        _print(view, options, console)
        return 0 if view.nodes else 1
    if options.json or not console.is_terminal:
        while not stopping.wait(PRINT_PERIOD_S):
            view.take()
            _print(view, options, console)
        return 0
    with Live(console=console, auto_refresh=False, screen=True) as live:
        while not stopping.wait(LOOK_PERIOD_S):
            view.take()
            live.update(as_table(view) if view.nodes else Text(view.why_nothing()), refresh=True)
    return 0


def _print(view: DiagnosticsView, options: argparse.Namespace, console: Console) -> None:
    if not view.nodes:
        print(view.why_nothing(), file=sys.stderr, flush=True)
    if options.json:
        print(json.dumps(as_json(view)), flush=True)
    elif view.nodes:
        console.print(as_table(view))


def parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the options of `policy_monitor`, without those for ROS.

    Raises
    ------
    SystemExit
        When an option is unknown or has a value that is not allowed.
    """
    parser = argparse.ArgumentParser(
        prog="policy_monitor",
        description="Show the state of running policy nodes and of their robots.",
        epilog="Documentation: doc/monitoring.md",
    )
    parser.add_argument("--node", default="", help="full name, such as /policy_node (default: all policy nodes)")
    parser.add_argument("--once", action="store_true", help="print once and end; exit status 1 when there is no node")
    parser.add_argument("--json", action="store_true", help="print a line of JSON every second, or once with --once")
    parser.add_argument("--web", action="store_true", help="serve a page that shows the fleet; print its address")
    parser.add_argument("--port", type=number(int, 0, 65535), default=8080, help="of the page (default 8080; 0: free)")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address at which the page is served (default 127.0.0.1: this machine only; others need a token)",
    )
    parser.add_argument(
        "--timeout-s",
        type=number(float, 0.1, 3600),
        default=10.0,
        help="seconds that --once waits for a node (default 10)",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `policy_monitor` until SIGINT or SIGTERM."""
    arguments = sys.argv if arguments is None else ["policy_monitor", *arguments]
    options = parse_options(remove_ros_args(arguments)[1:])
    console = make_console()
    with tool_node("policy_monitor", arguments) as (node, stopping):
        view = DiagnosticsView(node, options.node)
        if options.web:
            from policy_node.cli.web.server import serve

            return serve(node, view, options.host, options.port, stopping)
        return watch(view, options, console, stopping)


if __name__ == "__main__":
    sys.exit(main())
