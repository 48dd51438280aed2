# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""`policy_bench fuzz`: compare every parser of raw messages with the typed deserialiser, on mutated messages.

The parsers run in a process that may crash. The input that crashed it is saved, and a new process continues.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

from policy_node.cli.child_process import ToolError
from policy_node.cli.options import number
from policy_node.report.figures import progress_bar
from policy_node_bench.command import Command, Figures, option
from policy_node_bench.tables import percent, screen

MAX_CRASHES = 20


@dataclass(frozen=True, kw_only=True)
class FuzzOptions:
    """The options of `policy_bench fuzz`."""

    inputs: int = option(100_000, "number of messages", type=number(int, 1))
    seed: int = option(1, "seed of the messages", type=number(int, 0))
    save: str = option("fuzz", "folder for inputs that crash the process", metavar="FOLDER")


def run_fuzz(options: FuzzOptions, console: Console) -> dict[str, Any]:
    """Fuzz the parsers, in a new process after each crash; crashes and problems count as violations."""
    started = time.monotonic()
    parsed: Counter[str] = Counter()
    accepted: Counter[str] = Counter()
    problems: list[dict[str, str]] = []
    crashes: list[dict[str, str]] = []
    failed = 0
    first: int | None = 0
    with progress_bar(console) as bar, tempfile.NamedTemporaryFile() as log:
        task = bar.add_task("fuzz", total=options.inputs, doing="")

        def note(
            of_parsed: Counter[str], of_accepted: Counter[str], of_failed: int, of_problems: list[dict[str, str]]
        ) -> None:
            nonlocal failed
            parsed.update(of_parsed)
            accepted.update(of_accepted)
            failed += of_failed
            problems.extend(of_problems)
            bar.advance(task, of_parsed.total())

        while first is not None and first < options.inputs and len(crashes) < MAX_CRASHES:
            first = _run_process(options, first, Path(log.name), note, crashes)
    return {
        "inputs": parsed.total(),
        "seed": options.seed,
        "seconds": round(time.monotonic() - started, 1),
        "violations": len(crashes) + failed,
        "crashes": crashes,
        "failed": failed,
        "problems": problems[:100],
        "parsed": dict(sorted(parsed.items())),
        "accepted": dict(sorted(accepted.items())),
    }


def _run_process(
    options: FuzzOptions, first: int, log: Path, note: Callable[..., None], crashes: list[dict[str, str]]
) -> int | None:
    """Fuzz in a new process; add its crash and return the index at which to continue, or None at the end."""
    from policy_node_bench.fuzz import worker
    from policy_node_bench.fuzz.cases import CASES

    context = get_context("spawn")
    state = context.RawArray("B", worker.STATE_SIZE)
    reports, connection = context.Pipe(duplex=False)
    arguments = (connection, state, str(log), first, options.inputs - first, options.seed)
    process = context.Process(target=worker.fuzz, args=arguments, daemon=True)
    process.start()
    connection.close()
    with contextlib.suppress(EOFError):
        while True:
            note(*reports.recv())
    process.join()
    if process.exitcode == 0:
        return None
    index, position, raw = worker.noted(state)
    errors = log.read_text(errors="replace")[-2000:]
    if process.exitcode is None or process.exitcode > 0 or not raw:
        raise ToolError(f"the fuzzing process ended with status {process.exitcode}:\n{errors}")
    case = CASES[position].name
    file = Path(options.save, f"{case}_{index}.bin")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(raw)
    crashes.append({"case": case, "signal": str(-process.exitcode), "file": str(file), "errors": errors})
    return index + 1


def show(figures: Figures) -> Iterable[RenderableType]:
    """Yield a table with a row for each parser, the crashes, the first problems and a summary."""
    accepted = figures["accepted"]
    rows = [[name, str(count), percent(accepted.get(name, 0) / count)] for name, count in figures["parsed"].items()]
    yield screen(f"seed {figures['seed']}, {figures['seconds']} s", [["parser", "inputs", "accepted"], *rows])
    for crash in figures["crashes"]:
        yield f"{crash['case']}: signal {crash['signal']} ended the process; the input is in {crash['file']}"
    for problem in figures["problems"][:10]:
        yield Text(f"{problem['case']}: {problem['problem']}")
    yield f"{figures['inputs']} inputs, {len(figures['crashes'])} crashes, {figures['failed']} problems"


COMMAND = Command(
    "fuzz",
    "parsers of raw messages, compared with the typed deserialiser on mutated messages",
    "Parse mutated messages with every parser of raw messages and compare the result with that of the typed "
    "deserialiser, in a process that may crash. The exit status is 1 if there are crashes or differences.",
    FuzzOptions,
    run_fuzz,
    show,
)
