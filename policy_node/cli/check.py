# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Check a parameter file without robots, and with `--live` the topics of running robots (`policy_node check`)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from policy_node.cli.options import add_parameter_file, number, parameters_of
from policy_node.cli.output import NOTHING, make_console
from policy_node.config.schema import ConfigurationError, named
from policy_node.ros.checking import Checked, check_parameters
from policy_node.ros.deployment import Deployment
from policy_node.ros.live_check import RobotReport, listen, wait_for_graph

NODE_NAME = "policy_node_check"


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of `policy_node check`."""
    parser = argparse.ArgumentParser(
        prog="policy_node check",
        description="Check a parameter file as the node does at configure, and report all problems at once. Needs "
        "neither robots nor a GPU. The exit status is 1 if there is a problem.",
        epilog="Documentation: doc/getting_started.md",
    )
    add_parameter_file(parser)
    parser.add_argument("--policy", metavar="POLICY", help="policy file in place of policy.path")
    parser.add_argument(
        "--live",
        type=number(float, 1.0, 3600.0),
        metavar="SECONDS",
        help="listen to the topics for so long, and show what was heard and the first commands; nothing is sent",
    )
    return parser


def main(words: Sequence[str] | None = None) -> int:
    """Run `policy_node check`."""
    options = make_parser().parse_args(words)
    console = make_console()
    try:
        values = parameters_of(options)
    except ConfigurationError as error:
        print(f"policy_node check: {error}", file=sys.stderr)
        return 1
    if options.policy is not None:
        values["policy.path"] = options.policy
    found = check_parameters(values, options.node)
    _print_checked(options.file, found)
    if found.problems or found.deployment is None:
        return 1
    if options.live is None:
        return 0
    reports = _listen(found.deployment, values, options.live, options.node)
    status = _print_live(reports, found.deployment, options.live, console)
    if status == 0 and not options.overrides and options.policy is None:
        print(f"start the node: policy_node --ros-args --params-file {options.file}")
    return status


def _print_checked(file: Path, found: Checked) -> None:
    for note in found.notes:
        print(f"note: {note}")
    for warning in found.warnings:
        print(f"warning: {warning}")
    if found.problems:
        # The table of the policy's observations is part of a problem, not one of its own.
        count = sum(not problem.startswith(" ") for problem in found.problems)
        print(f"{file}: {count} {'problem' if count == 1 else 'problems'}")
        print("\n".join(found.problems))
    elif found.deployment is not None and found.configuration is not None:
        configuration, policy = found.configuration, found.deployment.policy
        print(
            f"{file}: no problem; {policy.spec.algorithm} policy {configuration.policy.path} on {policy.device}, "
            f"{named(configuration.robots)} at {configuration.control_rate_hz:g} Hz; normalisation: "
            f"{policy.normalisation}"
        )


def _listen(deployment: Deployment, values: dict[str, Any], duration_s: float, node_name: str) -> list[RobotReport]:
    """Listen to the topics from a node in the namespace of the one to check."""
    from policy_node.ros.process import tool_node
    from policy_node.ros.rclpy_internals import spinning

    parameters = {"use_sim_time": values.get("use_sim_time", False)}
    with (
        tool_node(NODE_NAME, namespace=node_name.rpartition("/")[0], parameters=parameters) as (node, stopping),
        spinning(node),
    ):
        print(f"listening for {duration_s:g} s …", file=sys.stderr, flush=True)
        wait_for_graph(node, stopping)
        return listen(node, deployment, duration_s, stopping)


def _print_live(reports: Sequence[RobotReport], deployment: Deployment, duration_s: float, console: Console) -> int:
    """Print what was heard; return the exit status."""
    sensors = Table(title=f"sensors, {duration_s:g} s", title_justify="left")
    for column in ("robot", "sensor", "topic"):
        sensors.add_column(column, overflow="fold")
    for column in ("rate Hz", "age ms, p50 / max", "lost"):
        sensors.add_column(column, justify="right")
    for column in ("size", "encoding"):
        sensors.add_column(column)
    commands = Table(title="robots", title_justify="left")
    for column in ("robot", "ready", "skew ms, p50 / max", "first command", "listeners", "also commanded by"):
        commands.add_column(column, overflow="fold")
    for report in reports:
        for place, sensor in enumerate(report.sensors):
            heard = not sensor.rate_hz == 0.0
            sensors.add_row(
                Text(report.robot if place == 0 else ""),
                Text(sensor.name),
                Text(sensor.topic),
                f"{sensor.rate_hz:.1f}",
                _pair(sensor.age_p50_s, sensor.age_max_s) if heard else NOTHING,
                f"{sensor.lost} of {sensor.sent}" if heard else NOTHING,
                Text(sensor.size or NOTHING),
                Text(sensor.encoding or NOTHING),
            )
        command = NOTHING
        if report.first_command is not None:
            command = ", ".join(f"{number:.4g}" for number in report.first_command.tolist())
        commands.add_row(
            Text(report.robot),
            f"{report.ready_share:.0%} of the ticks",
            _pair(report.skew_p50_s, report.skew_max_s),
            Text(command),
            *(
                Text(", ".join(dict.fromkeys(chain.from_iterable(names.values()))) or NOTHING)
                for names in (report.listeners, report.commanders)
            ),
        )
    console.print(sensors, commands)
    topics = "; ".join(
        f"{command.topic}, {command.type}" + (f" with {', '.join(command.named)}" if command.named else "")
        for command in deployment.configuration.commands
    )
    print(f"the commands would go to {topics}; none was sent")
    problems = [problem for report in reports for problem in report.problems]
    print(f"{len(problems)} problems" if problems else "no problem: every robot would be driven")
    for problem in problems:
        print(problem)
    return int(bool(problems))


def _pair(middle_s: float, most_s: float) -> str:
    """Return two durations in milliseconds."""
    return NOTHING if middle_s != middle_s else f"{middle_s * 1e3:.1f} / {most_s * 1e3:.1f}"


if __name__ == "__main__":
    sys.exit(main())
