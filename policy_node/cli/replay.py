# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Run bags through the policy that is to drive, and compare its commands with recorded ones (`policy_replay`).

A bag that the node recorded is replayed exactly; any other one tick by tick on its own time. No ROS installation, node
or network is needed: the messages go through the decoders and the pipeline of the node as they were recorded.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from policy_node.cli.options import number
from policy_node.config.parameter_file import parse_override
from policy_node.config.schema import ConfigurationError
from policy_node.control.tick import FleetTick
from policy_node.control.timing import SteadyClock
from policy_node.recording.replay.bag import Bag, BagError
from policy_node.recording.replay.commands import CommandBag
from policy_node.recording.replay.recording import find_recording
from policy_node.recording.replay.report import ReplayLog, render, robot_reports
from policy_node.recording.replay.run import Options, Replay, full_name, read_configuration
from policy_node.recording.replay.schedule import Tick
from policy_node.recording.replay.time import TIMES

# Told of each tick with what the pipeline gave.
Observer = Callable[[Tick, FleetTick], None]


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add what every use of a bag needs."""
    parser.add_argument("bag", type=Path, metavar="BAG", help="folder of a rosbag2 bag, or its .mcap or .db3 file")
    parser.add_argument(
        "--params",
        type=Path,
        metavar="FILE",
        help="parameter file of the node (default: the parameters that the node kept in its recording)",
    )
    parser.add_argument(
        "-p",
        dest="overrides",
        type=_override,
        action="append",
        default=[],
        metavar="NAME:=VALUE",
        help="a parameter that replaces the file's, such as -p policy.path:=new.bundle; may be repeated",
    )
    parser.add_argument(
        "--remap",
        dest="remaps",
        type=_remap,
        action="append",
        default=[],
        metavar="OLD:=NEW",
        help="take topic OLD of the configuration from topic NEW of the bag; may be repeated",
    )
    parser.add_argument(
        "--time",
        choices=TIMES,
        default="auto",
        help="recorded: ticks follow the time at which messages were recorded; clock: the bag's /clock; stamp: each "
        "message arrives at its header stamp; arrival: each is stamped with the time at which it was recorded; auto "
        "(default): the very ticks of a recording of the node, clock where time is simulated, else recorded",
    )
    parser.add_argument(
        "--compare",
        metavar="TOPIC",
        help="topic of the recorded commands, relative to each robot or absolute (default: action.topic where the bag "
        "has it)",
    )


def _override(text: str) -> tuple[str, Any]:
    try:
        return parse_override(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _remap(text: str) -> tuple[str, str]:
    old, separator, new = text.partition(":=")
    if not (separator and old and new):
        raise argparse.ArgumentTypeError(f"found '{text}', but a topic is remapped by OLD:=NEW")
    try:
        return full_name(old), full_name(new)
    except BagError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _rate(text: str) -> float:
    """Parse a rate; 0 is as fast as the machine allows."""
    return 0.0 if text == "max" else float(number(float, 0.001, 1000)(text))


def make_parser() -> argparse.ArgumentParser:
    """Describe the command line of a replay."""
    parser = argparse.ArgumentParser(
        prog="policy_replay",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="policy_replay to-dataset makes a Minari dataset of a bag; see policy_replay to-dataset --help",
    )
    add_common_options(parser)
    parser.add_argument(
        "--rate", type=_rate, default=0.0, metavar="max|RATE", help="max (default), or in real time: 1.0, 0.5, …"
    )
    parser.add_argument(
        "--output", type=Path, metavar="OUT", help="write the commands as a bag (MCAP), into a new folder"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw recorded and replayed commands, as drive.png")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON, too")
    return parser


def options_of(arguments: argparse.Namespace) -> Options:
    """Return what the command line asks of a replay."""
    return Options(
        bag=arguments.bag,
        params=arguments.params,
        overrides=dict(arguments.overrides),
        remaps=dict(arguments.remaps),
        time=arguments.time,
        compare=arguments.compare,
    )


@contextmanager
def open_replay(options: Options, console: Console) -> Iterator[Replay]:
    """Open a bag and make it ready to be replayed; what is to be known of it is said.

    Raises
    ------
    BagError, ConfigurationError
        When bag and configuration cannot be read, or do not fit.
    """
    with Bag(options.bag) as bag:
        recording = find_recording(bag) if options.time == "auto" else None
        configuration, simulated = read_configuration(options, bag.custom)
        with console.status(f"loading {configuration.policy.path}"):
            replay = Replay(bag, configuration, simulated, options, recording)
        known = len(replay.notes)
        _show_notes(replay.notes, console)
        yield replay
        # What only the replay itself has shown.
        _show_notes(replay.notes[known:], console)


def _show_notes(notes: Sequence[str], console: Console) -> None:
    for note in notes:
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)


def run(
    replay: Replay, observers: Sequence[Observer], rate: float, console: Console, others: Sequence[str] = ()
) -> tuple[float, bool]:
    """Run a whole replay with a progress bar.

    Parameters
    ----------
    replay
        What to run.
    observers
        Told of every tick.
    rate
        Seconds of the bag per second; 0: as fast as the machine allows.
    console
        Where the progress is shown.
    others
        Topics that the observers read.

    Returns
    -------
    tuple
        How long it took in seconds, and whether it went on to the end of the bag.
    """
    clock = SteadyClock()
    started_s = time.perf_counter()
    first_ns = began_ns = 0
    columns = (
        TextColumn("replaying"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=replay.expected_ticks)
        try:
            for position, tick in enumerate(replay.ticks(others)):
                if rate:
                    if position == 0 or tick.restarts:
                        first_ns, began_ns = tick.time_ns, clock.now_ns()
                    clock.wait_until(began_ns + round((tick.time_ns - first_ns) / rate))
                result = replay.step(tick)
                if result is None:
                    continue
                for observer in observers:
                    observer(tick, result)
                progress.advance(task)
        except KeyboardInterrupt:
            return time.perf_counter() - started_s, False
    return time.perf_counter() - started_s, True


def replay_bag(arguments: argparse.Namespace, console: Console) -> None:
    """Replay a bag and report as the command line says."""
    options = options_of(arguments)
    if arguments.plot:
        # What it lacks is said before the replay, not after it.
        from policy_node.recording.replay.plot import check_format, plot_commands

        check_format(arguments.plot)
    with ExitStack() as stack:
        replay = stack.enter_context(open_replay(options, console))
        configuration = replay.deployment.configuration
        log = ReplayLog(configuration.robots, replay.pipeline.components)
        observers: list[Observer] = [lambda tick, result: log.add(tick.time_ns, result)]
        if arguments.output:
            custom = {"policy_sha256": replay.deployment.policy.spec.sha256, "replayed": str(options.bag)}
            components = replay.pipeline.components
            output = stack.enter_context(
                CommandBag(arguments.output, configuration, replay.command_topics, components, custom)
            )
            observers.append(lambda tick, result: output.write(tick.time_ns, result.commands, result.publish))
        elapsed_s, complete = run(replay, observers, arguments.rate, console)
        report = _report(replay, log, elapsed_s, complete)
        _show(report)
        if arguments.json:
            arguments.json.write_text(json.dumps(report, indent=2) + "\n")
        if arguments.plot:
            plot_commands(log, replay.recorded, replay.names, configuration.period_ns, arguments.plot)


def _report(replay: Replay, log: ReplayLog, elapsed_s: float, complete: bool) -> dict[str, Any]:
    configuration = replay.deployment.configuration
    times_ns = log.times_ns
    return {
        "bag": str(replay.bag.path),
        "policy": configuration.policy.path,
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


def _show(report: Mapping[str, Any]) -> None:
    print(render(report))
    ended = "" if report["complete"] else ", ended early"
    unread = f", {report['unreadable_commands']} recorded commands unreadable" if report["unreadable_commands"] else ""
    print(
        f"{report['ticks']} ticks, {report['duration_s']:.1f} s of the bag, in {report['elapsed_s']:.1f} s "
        f"({report['ticks_per_s']:.0f} ticks/s{unread}{ended})"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run `policy_replay`."""
    words = list(sys.argv[1:] if argv is None else argv)
    console = Console(stderr=True)
    try:
        if words[:1] == ["to-dataset"]:
            from policy_node.recording.dataset.export import main as to_dataset

            return to_dataset(words[1:], console)
        replay_bag(make_parser().parse_args(words), console)
    except (BagError, ConfigurationError) as error:
        print(f"policy_replay: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # while the policy was loaded
        return 130
    except OSError as error:
        print(f"policy_replay: {error}; give another path", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:  # Minari, or what draws
        remedy = "pip install rosbags 'minari[hdf5]' matplotlib"
        print(f"policy_replay needs {error.name}, which is not installed; {remedy}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
