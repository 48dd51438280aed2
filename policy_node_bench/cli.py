# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""`policy_bench`: the command line of all measurements."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from rich.console import Console

from policy_node.cli.child_process import ToolError
from policy_node.cli.options import INTERRUPTED
from policy_node.cli.output import warnings_as_lines
from policy_node_bench import capacity, exported, fleet, images, pipeline, policy, smoke, train, zoo
from policy_node_bench.chaos import cli as chaos
from policy_node_bench.chunks import measure as chunks
from policy_node_bench.fuzz import cli as fuzz

COMMANDS = (
    fleet.COMMAND,
    pipeline.COMMAND,
    policy.COMMAND,
    exported.COMMAND,
    images.COMMAND,
    smoke.COMMAND,
    fleet.SCALE,
    capacity.COMMAND,
    chunks.COMMAND,
    train.COMMAND,
    zoo.COMMAND,
    chaos.COMMAND,
    fuzz.COMMAND,
)


def make_parser() -> argparse.ArgumentParser:
    """Return the command line of `policy_bench`."""
    result = argparse.ArgumentParser(
        prog="policy_bench",
        description="Measure what the node costs and how late its commands are, and test its safety.",
        epilog="Documentation: doc/performance.md",
    )
    subparsers = result.add_subparsers(dest="command", required=True)
    for command in COMMANDS:
        command.add_parser(subparsers)
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    given = make_parser().parse_args(arguments)
    console = Console()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with warnings_as_lines("policy_bench", Console(stderr=True)):
            return given.run(given)
    except ToolError as error:
        console.print(f"policy_bench: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("policy_bench: interrupted")
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
