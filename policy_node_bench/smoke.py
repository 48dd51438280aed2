# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""`policy_bench smoke`: count what a step does, so that a regression is seen on a busy machine, too.

Counts are the same from run to run: `Pipeline.step` runs without ROS, with a fixed policy, engine and order of events,
after a warm-up and without the garbage collector, and the median of several steps is taken. They depend on the versions
of Python and the libraries. They do not contain what PyTorch and onnxruntime do in C++.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import sys
import tempfile
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from rich.console import Console, RenderableType
from torch.utils._python_dispatch import TorchDispatchMode

from policy_node.cli.child_process import ToolError
from policy_node.cli.options import number
from policy_node.report.figures import machine
from policy_node_bench.command import Command, Figures, option
from policy_node_bench.harness.robots import untrained_policy
from policy_node_bench.harness.turns import Part, in_turn, ratio_of_turns
from policy_node_bench.pipeline import LEAST_TURNS, WARM_UP_STEPS, PipelineOptions, Step, prepare
from policy_node_bench.tables import screen, smoke_rows

ROBOTS = (1, 16)
IMAGE = (64, 64)
# What `auto` chooses on a CPU; `auto` itself measures and could choose another one on a busy machine.
ENGINE = "onnxruntime"
# Counted steps. One more is not counted, which fills the caches of the counter.
STEPS = 5
# Other versions of these can count differently.
VERSIONS = ("python", "numpy", "torch", "onnxruntime")
# Smaller new arrays are not told apart from other objects.
LEAST_ARRAY_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class SmokeOptions:
    """The options of `policy_bench smoke`."""

    seconds: float = option(6.0, "measured time of the ratio for each number of robots", type=number(float, 0.1))
    against: str = option(
        "", "compare the counts with those of this file; the status is 1 if any is worse", metavar="FILE"
    )


class Count(NamedTuple):
    """A kind of count, and by how much it may grow: by a share and a number of units."""

    count: Callable[[Callable[[], None]], int]
    share: float
    units: int


def count_calls(event: str, run: Callable[[], None]) -> int:
    """Count the events `call` (of Python functions) or `c_call` (of functions in C that Python calls)."""
    found: Counter[str] = Counter()

    def profile(frame: FrameType, happened: str, argument: Any) -> None:
        found[happened] += 1

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(before)
    # Ending the profile is a call, too.
    return found[event] - (event == "c_call")


def count_operations(run: Callable[[], None]) -> int:
    """Count the operations of PyTorch."""
    operations = _Operations()
    with operations:
        run()
    return operations.number


class _Operations(TorchDispatchMode):
    """Count the operations that PyTorch dispatches."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += 1
        return operation(*args, **(kwargs or {}))


@contextmanager
def _at_each_opcode(note: Callable[[], None]) -> Iterator[None]:
    """Call a function before each instruction of the functions that are called inside."""

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        note()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def count_allocations(run: Callable[[], None]) -> int:
    """Count the blocks of memory that Python allocates, with one for each call that is traced.

    Those that one instruction allocates and frees are not seen.
    """
    total = 0
    last: int | None = None

    def note() -> None:
        nonlocal total, last
        # Called once, so that the numbers in this function, which are blocks, are as many at each call.
        now = sys.getallocatedblocks()
        total += max(0, now - last) if last is not None else 0
        last = now

    with _at_each_opcode(note):
        run()
    return total


def count_array_bytes(run: Callable[[], None]) -> int:
    """Count the bytes of new arrays of NumPy, of at least 4 KiB: each copy of an image or of a batch is one.

    Copies into arrays that exist already are not seen.
    """
    tracemalloc.start()
    total = 0
    _, last = tracemalloc.get_traced_memory()

    def note() -> None:
        nonlocal total, last
        grown = tracemalloc.get_traced_memory()[1] - last
        total += grown if grown >= LEAST_ARRAY_BYTES else 0
        tracemalloc.reset_peak()
        last, _ = tracemalloc.get_traced_memory()

    try:
        with _at_each_opcode(note):
            run()
    finally:
        tracemalloc.stop()
    return total


# By name in the figures. The tolerances are above what the same code varies by, and below one call per robot.
COUNTS: Mapping[str, Count] = {
    "calls": Count(lambda run: count_calls("call", run), 0.02, 1),
    "c_calls": Count(lambda run: count_calls("c_call", run), 0.02, 1),
    "torch_operations": Count(count_operations, 0.0, 0),
    "allocations": Count(count_allocations, 0.02, 2),
    "array_bytes": Count(count_array_bytes, 0.02, LEAST_ARRAY_BYTES),
}


def counts_of(step: Step) -> dict[str, int]:
    """Return the counts of a step; each has new messages, whose arrival is not counted."""
    for _ in range(WARM_UP_STEPS):
        step.arrive()
        step()
    counts = {}
    gc.collect()
    gc.disable()
    try:
        for name, kind in COUNTS.items():
            found = []
            for _ in range(1 + STEPS):
                step.arrive()
                found.append(kind.count(step))
            counts[name] = int(statistics.median(found[1:]))
    finally:
        gc.enable()
    return counts


def compare(found: Figures, stored: Figures) -> list[dict[str, Any]]:
    """Return for each count its number of robots, name, `stored` and new value, and `verdict`.

    The verdict is `worse` or `better` if they differ by more than the tolerance, `not stored` if there is nothing to
    compare with, and empty otherwise.
    """
    rows = []
    for robots, counts in found["counts"].items():
        for name, count in counts.items():
            before = stored["counts"].get(robots, {}).get(name)
            kind = COUNTS[name]
            if before is None:
                verdict = "not stored"
            elif count > before * (1 + kind.share) + kind.units:
                verdict = "worse"
            else:
                verdict = "better" if before > count * (1 + kind.share) + kind.units else ""
            rows.append({"robots": robots, "name": name, "stored": before, "count": count, "verdict": verdict})
    return rows


def load_stored(file: str) -> Figures:
    """Return stored figures.

    Raises ToolError if there are none, or they were counted with another minor version of Python.
    """
    try:
        stored = json.loads(Path(file).read_text())
        counted_with = stored["machine"]["python"]
        stored["counts"].items()
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        problem = f"found '{file}', which has no counts ({error}); give a file that `policy_bench smoke --json` wrote"
        raise ToolError(f"--against: {problem}") from error
    if counted_with.split(".")[:2] != platform.python_version().split(".")[:2]:
        problem = f"found counts of Python {counted_with}, which are others than those of {platform.python_version()}"
        raise ToolError(f"--against: {problem}; use that Python, or write the file with this one")
    return stored


def run_smoke(options: SmokeOptions, console: Console) -> dict[str, Any]:
    """Count and measure, compare with stored counts if there are any, and return the figures."""
    stored = load_stored(options.against) if options.against else None
    figures: dict[str, Any] = {"options": asdict(options), "machine": machine(), "counts": {}, "overhead_ratio": {}}
    with tempfile.TemporaryDirectory(prefix="policy_bench_") as temporary:
        os.environ["XDG_CACHE_HOME"] = temporary
        model = untrained_policy(Path(temporary), IMAGE)
        for robots in ROBOTS:
            given = PipelineOptions(robots=robots, image=IMAGE, model=model, engines=(ENGINE,), seconds=options.seconds)
            _, step, forward = prepare(given, model, console)[ENGINE]
            figures["counts"][str(robots)] = counts_of(step)
            parts = {"step": Part(step, step.arrive), "forward": Part(forward)}
            with console.status(f"{given.title}: measuring"):
                times_ms = in_turn(parts, options.seconds, given.turn_s, LEAST_TURNS, 1, given.pause_s)
            figures["overhead_ratio"][str(robots)] = ratio_of_turns(times_ms["step"], times_ms["forward"])
    if stored is None:
        return figures
    compared = compare(figures, stored)
    changed = [
        f"{name}: {stored['machine'].get(name)}, now {figures['machine'][name]}"
        for name in VERSIONS
        if stored["machine"].get(name) != figures["machine"][name]
    ]
    violations = sum(row["verdict"] == "worse" for row in compared)
    return figures | {"compared": compared, "changed_versions": changed, "violations": violations}


def show(figures: Figures) -> list[RenderableType]:
    """Return the table of the figures, and what is worse."""
    result: list[RenderableType] = [screen(f"a step, engine {ENGINE}", smoke_rows(figures))]
    for robots, ratio in figures["overhead_ratio"].items():
        result.append(f"overhead_ratio, {_robots(robots)}: {ratio:.2f} (not compared: it varies with the load)")
    if "compared" not in figures:
        return result
    result += [f"other versions can count differently: {text}" for text in figures["changed_versions"]]
    for row in figures["compared"]:
        if row["verdict"]:
            where = f"{row['name']} of a step with {_robots(row['robots'])}"
            result.append(f"{row['verdict']}: {where}: {row['stored']} before, {row['count']} now")
    result.append(f"worse than in {figures['options']['against']}: {figures['violations'] or 'nothing'}")
    return result


def _robots(number: str) -> str:
    return f"{number} robot{'s' if number != '1' else ''}"


COMMAND = Command(
    "smoke",
    "calls, allocations and copies of a step, which do not depend on the load",
    "Count what a step does, with 1 and 16 robots: calls of functions in Python and C, operations of PyTorch, "
    "allocations, and bytes of new arrays; compare the counts with stored ones. Also measure the step against the "
    "forward pass, as `policy_bench pipeline` does.",
    SmokeOptions,
    run_smoke,
    show,
)
