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
from functools import partial
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


class Campaign:
    """Fuzz in one process after the other; `advance` gets the number of inputs since its last call."""

    def __init__(self, options: FuzzOptions, advance: Callable[[int], None]) -> None:
        self.parsed: Counter[str] = Counter()
        self.accepted: Counter[str] = Counter()
        self.problems: list[dict[str, str]] = []
        self.failed = 0
        self.crashes: list[dict[str, str]] = []
        self._options = options
        self._advance = advance

    def run(self) -> None:
        """Start processes until all inputs are parsed or too many processes have crashed."""
        first: int | None = 0
        with tempfile.NamedTemporaryFile() as log:
            while first is not None and first < self._options.inputs and len(self.crashes) < MAX_CRASHES:
                first = self._run_process(first, Path(log.name))

    def _run_process(self, first: int, log: Path) -> int | None:
        """Fuzz in a new process; return the index at which to continue if it crashes, else None."""
        from policy_node_bench.fuzz import worker
        from policy_node_bench.fuzz.cases import CASES

        context = get_context("spawn")
        state = context.RawArray("B", worker.STATE_SIZE)
        reports, connection = context.Pipe(duplex=False)
        arguments = (connection, state, str(log), first, self._options.inputs - first, self._options.seed)
        process = context.Process(target=worker.fuzz, args=arguments, daemon=True)
        process.start()
        connection.close()
        with contextlib.suppress(EOFError):
            while True:
                parsed, accepted, failed, problems = reports.recv()
                self.parsed.update(parsed)
                self.accepted.update(accepted)
                self.failed += failed
                self.problems += problems
                self._advance(parsed.total())
        process.join()
        if process.exitcode == 0:
            return None
        index, number, raw = worker.noted(state)
        errors = log.read_text(errors="replace")[-2000:]
        if process.exitcode is None or process.exitcode > 0 or not raw:
            raise ToolError(f"the fuzzing process ended with status {process.exitcode}:\n{errors}")
        case = CASES[number].name
        file = Path(self._options.save, f"{case}_{index}.bin")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(raw)
        self.crashes.append({"case": case, "signal": str(-process.exitcode), "file": str(file), "errors": errors})
        return index + 1


def run_fuzz(options: FuzzOptions, console: Console) -> dict[str, Any]:
    """Fuzz the parsers and return the figures; crashes and problems count as violations."""
    started = time.monotonic()
    with progress_bar(console) as bar:
        task = bar.add_task("fuzz", total=options.inputs, doing="")
        campaign = Campaign(options, partial(bar.advance, task))
        campaign.run()
    return {
        "inputs": campaign.parsed.total(),
        "seed": options.seed,
        "seconds": round(time.monotonic() - started, 1),
        "violations": len(campaign.crashes) + campaign.failed,
        "crashes": campaign.crashes,
        "failed": campaign.failed,
        "problems": campaign.problems[:100],
        "parsed": dict(sorted(campaign.parsed.items())),
        "accepted": dict(sorted(campaign.accepted.items())),
    }


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
