# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Replay a bag through a policy and compare its commands with the recorded ones (`policy_replay`).

A recording of the node is replayed exactly; any other bag tick by tick on its own time. No ROS installation, node or
network is needed: the messages go through the decoders and the pipeline of the node.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from policy_node.cli.options import INTERRUPTED, number
from policy_node.cli.output import warnings_as_lines
from policy_node.config.schema import ConfigurationError
from policy_node.recording.replay.bag import BagError
from policy_node.recording.replay.commands import CommandBag
from policy_node.recording.replay.report import ReplayLog, render, robot_reports
from policy_node.recording.replay.run import Replay
from policy_node.recording.replay.session import Observer, add_common_options, open_replay, options_of, run


def _rate(text: str) -> float:
    """Parse a rate; 0 is as fast as possible."""
    return 0.0 if text == "max" else float(number(float, 0.001, 1000)(text))


def make_parser() -> argparse.ArgumentParser:
    """Describe the command line of a replay."""
    parser = argparse.ArgumentParser(
        prog="policy_replay",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="policy_replay to-dataset converts a bag to a Minari dataset; see policy_replay to-dataset --help\n"
        "Documentation: doc/bags.md",
    )
    add_common_options(parser)
    parser.add_argument(
        "--rate", type=_rate, default=0.0, metavar="max|RATE", help="max (default), or in real time: 1.0, 0.5, …"
    )
    parser.add_argument("--output", type=Path, metavar="OUT", help="write the commands to a new bag (MCAP)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="plot recorded and replayed commands, as drive.png")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON, too")
    return parser


def replay_bag(arguments: argparse.Namespace, console: Console) -> None:
    """Replay a bag, print the report and write the requested files."""
    options = options_of(arguments)
    if arguments.plot:
        # Report a missing library or an unknown format before the replay, not after it.
        from policy_node.recording.replay.plot import check_format, plot_commands

        check_format(arguments.plot)
    with ExitStack() as stack:
        replay = stack.enter_context(open_replay(options, console))
        configuration, components = replay.deployment.configuration, replay.pipeline.components
        log = ReplayLog(configuration.robots, components)
        observers: list[Observer] = [lambda tick, result: log.add(tick.time_ns, result)]
        if arguments.output:
            custom = {"policy_sha256": replay.deployment.policy.spec.sha256, "replayed": str(options.bag)}
            output = CommandBag(arguments.output, configuration, replay.command_topics, components, custom)
            stack.callback(output.close)
            observers.append(lambda tick, result: output.write(tick.time_ns, result.commands, result.publish))
        elapsed_s, complete = run(replay, observers, arguments.rate, console)
        report = _report(replay, log, elapsed_s, complete)
        print(render(report))
        if arguments.json:
            arguments.json.write_text(json.dumps(report, indent=2) + "\n")
        if arguments.plot:
            plot_commands(log, replay.recorded, replay.names, configuration.period_ns, arguments.plot)


def _report(replay: Replay, log: ReplayLog, elapsed_s: float, complete: bool) -> dict[str, Any]:
    times_ns = log.times_ns
    return {
        "bag": str(replay.bag.path),
        "policy": replay.deployment.configuration.policy.path,
        "policy_sha256": replay.deployment.policy.spec.sha256,
        "time": replay.time,
        "complete": complete,
        "notes": replay.notes,
        "ticks": len(times_ns),
        "duration_s": float(times_ns[-1] - times_ns[0]) / 1e9 if len(times_ns) else 0.0,
        "elapsed_s": elapsed_s,
        "ticks_per_s": len(times_ns) / elapsed_s,
        "unreadable_commands": replay.unread,
        "robots": robot_reports(log, replay.recorded, replay.match_ns, replay.names),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run `policy_replay`."""
    words = list(sys.argv[1:] if argv is None else argv)
    console = Console(stderr=True)
    with warnings_as_lines("policy_replay", console):
        return _run(words, console)


def _run(words: list[str], console: Console) -> int:
    """Replay or convert a bag and return the exit status."""
    try:
        if words[:1] == ["to-dataset"]:
            from policy_node.recording.dataset.export import main as to_dataset

            return to_dataset(words[1:], console)
        replay_bag(make_parser().parse_args(words), console)
    except (BagError, ConfigurationError) as error:
        problem = str(error)
    except KeyboardInterrupt:  # while the policy is loaded
        return INTERRUPTED
    except OSError as error:
        problem = f"{error}; give another path"
    except ModuleNotFoundError as error:  # Minari or Matplotlib
        remedy = "pip install rosbags 'minari[hdf5]' matplotlib"
        print(f"policy_replay needs {error.name}, which is not installed; {remedy}", file=sys.stderr)
        return 1
    else:
        return 0
    print(f"policy_replay: {problem}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
