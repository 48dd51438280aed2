# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""`policy_bench`: the command line of all measurements, each of which is a module of its own."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from rich.console import Console

from policy_node.cli.child_process import ToolError
from policy_node_bench import fleet as bench_fleet
from policy_node_bench import pipeline as bench_pipeline
from policy_node_bench import policy as bench_policy
from policy_node_bench import scale as bench_scale
from policy_node_bench import train as bench_train
from policy_node_bench.chaos import cli as chaos

# Each adds its command with `add_parser(subparsers)`, which sets `run`: from the parsed arguments to the exit status.
COMMANDS = (bench_fleet, bench_pipeline, bench_policy, bench_scale, bench_train, chaos)


def parser() -> argparse.ArgumentParser:
    """Return the command line of `policy_bench`."""
    result = argparse.ArgumentParser(
        prog="policy_bench", description="Measures what the node costs and how late its commands are."
    )
    subparsers = result.add_subparsers(dest="command", required=True)
    for command in COMMANDS:
        command.add_parser(subparsers)
    return result


def _interrupt(signal_number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    given = parser().parse_args(arguments)
    console = Console()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return given.run(given)
    except ToolError as error:
        console.print(f"policy_bench: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("policy_bench: stopped")
        return 130


if __name__ == "__main__":
    sys.exit(main())
