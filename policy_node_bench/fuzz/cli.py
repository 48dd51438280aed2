# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Fuzzes every parser of raw messages against the typed deserialiser, in processes that may die of it."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from policy_node_bench.fuzz.parsers import STATE_SIZE, read_state

MAX_CRASHES = 20
CHILD = "policy_node_bench.fuzz.parsers"


def run(inputs: int, seed: int, save: Path, progress: Progress) -> dict[str, Any]:
    """Fuzz until so many inputs are parsed, and return what happened.

    Parameters
    ----------
    inputs
        How many.
    seed
        Decides them all.
    save
        Folder for the inputs of which the process died.
    progress
        Advanced as it goes on.
    """
    task = progress.add_task("inputs", total=inputs)
    parsed: Counter[str] = Counter()
    accepted: Counter[str] = Counter()
    problems: list[dict[str, str]] = []
    crashes: list[dict[str, str]] = []
    failed = first = 0
    started = time.monotonic()
    while first < inputs and len(crashes) < MAX_CRASHES:
        with tempfile.NamedTemporaryFile() as state:
            state.write(bytes(STATE_SIZE))
            state.flush()
            arguments = ["--first", first, "--inputs", inputs - first, "--seed", seed, "--state", state.name]
            command = [sys.executable, "-m", CHILD, *map(str, arguments)]
            with tempfile.TemporaryFile("w+") as errors:
                with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as child:
                    assert child.stdout is not None
                    for line in child.stdout:
                        report = json.loads(line)
                        parsed.update(report["parsed"])
                        accepted.update(report["accepted"])
                        problems += report["problems"]
                        failed += report["failed"]
                        progress.advance(task, sum(report["parsed"].values()))
                errors.seek(0)
                said = errors.read()[-2000:]
            if child.returncode == 0:
                break
            index, case, raw = read_state(Path(state.name))
        if child.returncode > 0 or not raw:
            raise RuntimeError(f"the fuzzing process ended with status {child.returncode}:\n{said}")
        save.mkdir(parents=True, exist_ok=True)
        file = save / f"{case.name}_{index}.bin"
        file.write_bytes(raw)
        crashes.append({"case": case.name, "signal": str(-child.returncode), "file": str(file), "said": said})
        first = index + 1
    return {
        "inputs": sum(parsed.values()),
        "seed": seed,
        "seconds": round(time.monotonic() - started, 1),
        "crashes": crashes,
        "failed": failed,
        "problems": problems[:100],
        "parsed": dict(sorted(parsed.items())),
        "accepted": dict(sorted(accepted.items())),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the status is 1 when a parser failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000, help="how many messages (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="decides all of them (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found")
    parser.add_argument("--save", type=Path, default=Path("fuzz"), metavar="FOLDER", help="for what kills the process")
    options = parser.parse_args(arguments)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        result = run(options.inputs, options.seed, options.save, progress)
    table = Table("parser", "inputs", "accepted", title=f"seed {result['seed']}, {result['seconds']} s")
    for name, count in result["parsed"].items():
        table.add_row(name, str(count), f"{result['accepted'].get(name, 0) / count:.0%}")
    console.print(table)
    for crash in result["crashes"]:
        console.print(f"{crash['case']}: the process died of signal {crash['signal']}; input in {crash['file']}")
    for problem in result["problems"][:10]:
        console.print(f"{problem['case']}: {problem['problem']}", markup=False)
    console.print(f"{result['inputs']} inputs, {len(result['crashes'])} crashes, {result['failed']} failures")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return int(bool(result["crashes"] or result["failed"]))


if __name__ == "__main__":
    sys.exit(main())
