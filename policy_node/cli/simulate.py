# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Publish every sensor of a parameter file and listen to the commands (`policy_node simulate`)."""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from policy_node.cli.options import add_parameter_file, number, parameters_of
from policy_node.config.schema import ConfigurationError, named, parse_configuration
from policy_node.policies.described_parameters import fill_in
from policy_node.ros.deployment import load_configured
from policy_node.ros.frames import uses_tf
from policy_node.ros.parameters import uses_sim_time, with_resolved_paths
from policy_node.ros.process import tool_node
from policy_node.ros.rclpy_internals import spinning
from policy_node.ros.simulated_robots import Reading, SimulatedRobots, bag_readings, described

REPORT_PERIOD_S = 2.0
DEFAULT_RATE_HZ = 30.0


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of `policy_node simulate`."""
    parser = argparse.ArgumentParser(
        prog="policy_node simulate",
        description="Publish every sensor of a parameter file, from random numbers or a bag, and show the commands "
        "that arrive. There are no physics: it shows that the file runs end to end.",
        epilog="Documentation: doc/getting_started.md",
    )
    add_parameter_file(parser)
    parser.add_argument(
        "--rate-hz",
        type=number(float, 0.1, 1000.0),
        help=f"rate of the sensors (default: the control rate, at least {DEFAULT_RATE_HZ:g})",
    )
    parser.add_argument("--bag", type=Path, help="publish the messages of a bag, again and again")
    parser.add_argument("--duration-s", type=number(float, 0.0), default=0.0, help="0 (default): until Ctrl-C")
    parser.add_argument("--seed", type=number(int, 0), default=0, help="of the random numbers (default 0)")
    return parser


def main(words: Sequence[str] | None = None) -> int:
    """Run `policy_node simulate`; the exit status is 1 if a robot got no command."""
    options = make_parser().parse_args(words)
    try:
        return _run(options)
    except ConfigurationError as error:
        print(f"policy_node simulate: {error}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace) -> int:
    values = parameters_of(options)
    if uses_sim_time(values):
        raise ConfigurationError(
            "use_sim_time: found true, but simulated robots have the time of this computer and publish no /clock; give "
            "-p use_sim_time:=false here and to the node"
        )
    filled, _ = fill_in(with_resolved_paths(values))
    configuration = parse_configuration(filled)
    for source in filter(uses_tf, configuration.sources):
        unset = {"base_frame": "''", "frame": "''", "transform_max_age_s": "0.0"}
        given = [
            f"-p observations.{source.name}.{name}:={value}" for name, value in unset.items() if getattr(source, name)
        ]
        raise ConfigurationError(
            f"observations.{source.name}.base_frame: found {source.base_frame!r}, but simulated robots publish no tf; "
            f"give {' '.join(given)} here and to the node"
        )
    policy = load_configured(configuration)
    rate_hz = options.rate_hz or max(DEFAULT_RATE_HZ, configuration.control_rate_hz)
    namespace = options.node.rpartition("/")[0]
    with tool_node("policy_node_simulate", namespace=namespace) as (node, stopping), ExitStack() as stack:
        robots = SimulatedRobots(node, configuration, policy)
        readings = _of_bag(options.bag, robots, stack) if options.bag else robots.random_readings(rate_hz, options.seed)
        print(f"simulating {named(configuration.robots)}: {len(robots.topics)} topics; Ctrl-C ends it", flush=True)
        if options.duration_s:
            timer = threading.Timer(options.duration_s, stopping.set)
            timer.daemon = True
            timer.start()
        reporter = threading.Thread(target=_report, args=(robots, stopping), daemon=True)
        reporter.start()
        with spinning(node):
            robots.publish(readings, stopping)
        stopping.set()
        reporter.join()
        silent = [robot for robot, (count, _) in robots.commands.items() if not count]
    if silent:
        print(f"no command arrived for {named(silent)}; is the node running, and active?", file=sys.stderr)
    return int(bool(silent))


def _of_bag(path: Path, robots: SimulatedRobots, stack: ExitStack) -> Iterator[Reading]:
    """Return the readings of a bag; raises ConfigurationError if it cannot be read or lacks all topics."""
    from policy_node.recording.replay.bag import Bag, BagError

    try:
        bag = Bag(path)
    except BagError as error:
        raise ConfigurationError(str(error)) from error
    stack.callback(bag.close)
    missing = [topic for topic in robots.topics if topic not in bag.topics]
    if len(missing) == len(robots.topics):
        raise ConfigurationError(f"--bag: it has none of the topics {named(missing)}\n{bag.describe()}")
    if missing:
        print(f"note: the bag lacks {named(missing)}", file=sys.stderr)
    return bag_readings(lambda: (message[:3] for message in bag.messages(robots.topics)))


def _report(robots: SimulatedRobots, stopping: threading.Event) -> None:
    """Print the commands now and then."""
    before: dict[str, int] = {}
    while not stopping.wait(REPORT_PERIOD_S):
        print(described(robots.commands, before, REPORT_PERIOD_S), flush=True)
        before = {robot: count for robot, (count, _) in robots.commands.items()}


if __name__ == "__main__":
    sys.exit(main())
