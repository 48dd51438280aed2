# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Open a bag with the options of a command line, and replay it with a progress bar."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from policy_node.config.parameter_file import override
from policy_node.control.tick import FleetTick
from policy_node.control.timing import SteadyClock
from policy_node.recording.replay.bag import Bag, BagError
from policy_node.recording.replay.recording import find_recording
from policy_node.recording.replay.run import Options, Replay, full_name, read_configuration
from policy_node.recording.replay.schedule import TIMES, Tick

# Called with each tick and the pipeline's result.
Observer = Callable[[Tick, FleetTick], None]


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that a replay and a dataset share."""
    parser.add_argument("bag", type=Path, metavar="BAG", help="folder of a rosbag2 bag, or its .mcap or .db3 file")
    parser.add_argument(
        "--params",
        type=Path,
        metavar="FILE",
        help="parameter file of the node (default: the parameters in a recording of the node)",
    )
    parser.add_argument(
        "-p",
        dest="overrides",
        type=override,
        action="append",
        default=[],
        metavar="NAME:=VALUE",
        help="override a parameter of the file, such as -p policy.path:=new.bundle; may be repeated",
    )
    parser.add_argument(
        "--remap",
        dest="remaps",
        type=_remap,
        action="append",
        default=[],
        metavar="OLD:=NEW",
        help="read topic OLD of the configuration from topic NEW of the bag; may be repeated",
    )
    parser.add_argument(
        "--time",
        choices=TIMES,
        default="auto",
        help="clock of the ticks. recorded: the time at which messages were recorded; clock: the bag's /clock; stamp: "
        "each message arrives at its header stamp; arrival: each message is stamped with the time at which it was "
        "recorded; auto (default): the recorded ticks of a recording of the node, clock in simulated time, else "
        "recorded",
    )
    parser.add_argument(
        "--compare",
        metavar="TOPIC",
        help="topic of the recorded commands, relative to each robot or absolute (default: action.topic if the bag has "
        "it)",
    )


def _remap(text: str) -> tuple[str, str]:
    old, separator, new = text.partition(":=")
    if not (separator and old and new):
        raise argparse.ArgumentTypeError(f"found '{text}', but a topic is remapped by OLD:=NEW")
    try:
        return full_name(old), full_name(new)
    except BagError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def options_of(arguments: argparse.Namespace) -> Options:
    """Return the options of a replay from parsed arguments."""
    overrides, remaps = dict(arguments.overrides), dict(arguments.remaps)
    return Options(arguments.bag, arguments.params, overrides, remaps, arguments.time, arguments.compare)


@contextmanager
def open_replay(options: Options, console: Console) -> Iterator[Replay]:
    """Open a bag, load its policy and print the notes of the replay.

    Raises
    ------
    BagError, ConfigurationError
        When bag or configuration cannot be read, or do not match.
    """
    with closing(Bag(options.bag)) as bag:
        recording = find_recording(bag) if options.time == "auto" else None
        configuration, simulated = read_configuration(options, bag.custom)
        with console.status(f"loading {configuration.policy.path}"):
            replay = Replay(bag, configuration, simulated, options, recording)
        known = len(replay.notes)
        _print_notes(replay.notes, console)
        yield replay
        # Notes that were added during the replay.
        _print_notes(replay.notes[known:], console)


def _print_notes(notes: Sequence[str], console: Console) -> None:
    for note in notes:
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)


def run(
    replay: Replay, observers: Sequence[Observer], rate: float, console: Console, others: Sequence[str] = ()
) -> tuple[float, bool]:
    """Replay a bag up to its end or Ctrl-C, with a progress bar.

    Returns the duration in seconds, and whether the end of the bag was reached. `rate` is in seconds of the bag per
    second, 0: as fast as possible; `others` are topics that the observers read.
    """
    clock = SteadyClock()
    started_s = time.perf_counter()
    first_ns = began_ns = 0
    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
    complete = True
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("replaying", total=replay.expected_ticks)
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
            complete = False
    return time.perf_counter() - started_s, complete
