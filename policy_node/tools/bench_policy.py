# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""`policy_bench policy`: how many robots in one inference, and which engine: latency, throughput, memory and error.

Every engine is measured in every precision that there is, in turn, on observations that are already on the device.
"""

from __future__ import annotations

import argparse
import gc
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from policy_node.engines import EngineSettings
from policy_node.engines.choice import (
    Candidate,
    all_candidates,
    make,
    one_call,
    reason_of,
)
from policy_node.engines.parity import TOLERANCES, ParityTrial
from policy_node.failures import is_out_of_memory
from policy_node.load import DeviceLoad, ProcessLoad
from policy_node.options import number
from policy_node.policies import Policy, PolicyError, load_policy
from policy_node.tools.bench_report import SubParsers, distribution, machine, progress_bar, write_figures
from policy_node.tools.child import ToolError

# Runs before any is counted: engines rewrite themselves and allocate in the first ones.
WARM_UP_RUNS = 5
# How long one engine is measured before it is another's turn.
TURN_S = 0.1
# Of the highest throughput; a larger batch than the first that reaches it costs latency and memory for little.
ENOUGH = 0.9


@dataclass(frozen=True)
class PolicyOptions:
    """The options of `policy_bench policy`.

    Attributes
    ----------
    model
        Policy file; it is trusted.
    vecnormalize
        The file that ``VecNormalize.save`` wrote; empty if there is none.
    batches
        Numbers of robots in one inference.
    device
        Where the policy runs.
    threads
        CPU threads of one inference.
    seconds
        Measured time of each batch, all engines together.
    compile
        Whether AOTInductor may compile, which takes up to minutes for each batch.
    rate_hz
        Control rate, within whose period an inference must end.
    """

    model: str
    vecnormalize: str
    batches: tuple[int, ...]
    device: str
    threads: int
    seconds: float
    compile: bool
    rate_hz: float


def run_policy(options: PolicyOptions, console: Console) -> dict[str, Any]:
    """Measure all batches and return the figures, as they stand in the JSON file.

    Raises
    ------
    ToolError
        When the policy cannot be loaded or run.
    """
    torch.set_num_threads(options.threads)
    try:
        policy = load_policy(options.model, options.device, trusted=True, vecnormalize=options.vecnormalize or None)
    except PolicyError as error:
        raise ToolError(str(error)) from error
    rows: list[dict[str, Any]] = []
    ended = ""
    with progress_bar(console) as bar:
        task = bar.add_task("policy", total=len(options.batches), doing="loading")
        for batch in sorted(options.batches):

            def report(doing: str, batch: int = batch) -> None:
                bar.update(task, doing=f"{batch} robots: {doing}")

            try:
                rows += measure_batch(policy, batch, options, report)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                ended = f"memory ran out with {batch} robots"
                break
            bar.advance(task)
    if not rows:
        raise ToolError(f"{ended}; give smaller --batches")
    figures = {
        "options": asdict(options),
        "machine": machine(policy.device),
        "algorithm": policy.spec.algorithm,
        "device": str(policy.device),
        "rows": rows,
        "ended": ended,
    }
    return figures | recommendation(rows, options.rate_hz, ended)


def measure_batch(
    policy: Policy, batch: int, options: PolicyOptions, report: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Return a row for each engine and precision: what was measured, or why it cannot be used."""
    channels_last = frozenset(
        key
        for key, spec in policy.spec.observations.items()
        # As cameras give it; the smallest axis is the channels.
        if len(spec.shape) == 3 and int(np.argmin(spec.shape)) == 0
    )
    report("observations")
    trial = ParityTrial(policy, batch, channels_last)
    rows: list[dict[str, Any]] = []
    calls: dict[str, Callable[[], None]] = {}
    for candidate, settings in _candidates(policy, options):
        report(f"building {candidate.label}")
        row: dict[str, Any] = {"batch": batch, "engine": candidate.engine, "precision": candidate.precision}
        rows.append(row)
        before_mb = _memory_mb(policy.device)
        try:
            is_own = candidate == Candidate(policy.engine_name)
            built = policy if is_own else make(candidate, trial, settings)
            row["error"] = trial.error(built)
            call = one_call(built, trial)
            for _ in range(WARM_UP_RUNS):
                call()
        except Exception as error:
            if candidate == Candidate(policy.engine_name) and is_out_of_memory(error):
                raise
            row["excluded"] = reason_of(error)
            continue
        row["memory_mb"] = max(0.0, _memory_mb(policy.device) - before_mb)
        row["acts_alike"] = row["error"] <= TOLERANCES[candidate.precision]
        calls[candidate.label] = call
    load = DeviceLoad(policy.device)
    report("measuring")
    times_ms, utilisation = _in_turn(calls, load, options.seconds)
    for row in rows:
        label = Candidate(row["engine"], row["precision"]).label
        if label in times_ms:
            row["latency_ms"] = distribution(times_ms[label])
            row["robots_per_s"] = batch * 1e3 / float(np.median(times_ms[label]))
            row["runs"] = len(times_ms[label])
            if utilisation[label]:
                row["gpu_utilisation_percent"] = float(np.median(utilisation[label]))
    return rows


def _candidates(policy: Policy, options: PolicyOptions) -> list[tuple[Candidate, EngineSettings]]:
    """Return every engine in every precision, with the settings to build it."""
    found: dict[Candidate, EngineSettings] = {}
    for precision in TOLERANCES:
        settings = EngineSettings(precision=precision, compile=options.compile, threads=options.threads)
        for candidate in all_candidates(policy, settings):
            found.setdefault(candidate, settings)
    return list(found.items())


def _in_turn(
    calls: dict[str, Callable[[], None]], load: DeviceLoad, seconds: float
) -> tuple[dict[str, np.ndarray], dict[str, list[float]]]:
    """Run all engines in turn; return the milliseconds of their runs and the GPU's utilisation after their turns."""
    times_ms: dict[str, list[float]] = {label: [] for label in calls}
    utilisation: dict[str, list[float]] = {label: [] for label in calls}
    gc.collect()
    end_s = time.monotonic() + seconds
    rounds = 0
    while rounds < 2 or time.monotonic() < end_s:
        rounds += 1
        for label, call in calls.items():
            turn_s, runs = time.monotonic() + TURN_S, 0
            while runs < 2 or time.monotonic() < turn_s:
                started = time.perf_counter()
                call()
                times_ms[label].append((time.perf_counter() - started) * 1e3)
                runs += 1
            if (percent := load.values().get("device_utilisation_percent")) is not None:
                utilisation[label].append(percent)
    return {label: np.array(found) for label, found in times_ms.items()}, utilisation


def _memory_mb(device: torch.device) -> float:
    """Return what the process holds of the memory where the policy runs."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return torch.cuda.memory_reserved(device) / 1e6
    return ProcessLoad().values().get("rss_mb", 0.0)


def recommendation(rows: Sequence[dict[str, Any]], rate_hz: float, ended: str) -> dict[str, Any]:
    """Recommend a batch size and an engine, and say why.

    Of the engines that act as the policy does, in full precision, the one with the highest throughput over all
    batches; of its batches the smallest that reaches most of it and ends within the period.
    """
    usable = [row for row in rows if row.get("acts_alike") and "latency_ms" in row]
    exact = [row for row in usable if row["precision"] == "float32"]
    period_ms = 1e3 / rate_hz
    in_time = [row for row in exact if row["latency_ms"]["p99"] <= period_ms]
    best = max(in_time or exact, key=lambda row: row["robots_per_s"])
    of_engine = sorted((row for row in exact if row["engine"] == best["engine"]), key=lambda row: row["batch"])
    chosen = next(row for row in of_engine if row["robots_per_s"] >= ENOUGH * best["robots_per_s"])
    words = [
        f"Infer {_robots(chosen['batch'])} at a time with {chosen['engine']}: {chosen['robots_per_s']:.0f} "
        f"robots/s, {chosen['latency_ms']['p50']:.2f} ms each (p99 {chosen['latency_ms']['p99']:.2f} ms)."
    ]
    first = of_engine[0]
    if first["batch"] < chosen["batch"]:
        words.append(
            f"Fewer at a time waste time on starting each inference: {_robots(first['batch'])} at a time give "
            f"{first['robots_per_s']:.0f} robots/s."
        )
    larger = [row for row in of_engine if row["batch"] > chosen["batch"]]
    if larger:
        most = max(larger, key=lambda row: row["robots_per_s"])
        gain = most["robots_per_s"] / chosen["robots_per_s"] - 1.0
        words.append(
            f"More at a time gain {gain:+.0%} ({_robots(most['batch'])}) and take {most['latency_ms']['p50']:.2f} ms, "
            f"so that all commands are later."
        )
    same = [row for row in exact if row["batch"] == chosen["batch"] and row["engine"] == "direct"]
    if same and same[0] is not chosen:
        ratio = chosen["robots_per_s"] / same[0]["robots_per_s"]
        words.append(f"That is {ratio:.1f} times PyTorch without an engine, with an error of {chosen['error']:.0e}.")
    if not in_time:
        words.append(f"No batch ends within the {period_ms:.0f} ms of {rate_hz:g} Hz.")
    lower = [row for row in usable if row["precision"] != "float32" and row["batch"] == chosen["batch"]]
    if lower:
        fastest = max(lower, key=lambda row: row["robots_per_s"])
        ratio = fastest["robots_per_s"] / chosen["robots_per_s"]
        if ratio > 1.0:
            words.append(
                f"policy.precision {fastest['precision']} with {fastest['engine']} is {ratio:.1f} times as fast again; "
                f"actions then differ by up to {fastest['error']:.0e} of their range."
            )
    if ended:
        words.append(f"{ended[0].upper()}{ended[1:]}.")
    return {
        "recommended": {"engine": chosen["engine"], "batch": chosen["batch"]},
        "why": " ".join(words),
    }


def _robots(count: int) -> str:
    return f"{count} robot{'s' if count > 1 else ''}"


def table(figures: dict[str, Any]) -> Table:
    """Show a line for each batch and engine."""
    result = Table(title=f"{figures['options']['model']}: {figures['algorithm']} on {figures['device']}")
    for name in ("robots", "engine", "ms p50", "p99", "robots/s", "memory MB", "error"):
        result.add_column(name, justify="left" if name == "engine" else "right", no_wrap=True)
    has_gpu = any("gpu_utilisation_percent" in row for row in figures["rows"])
    if has_gpu:
        result.add_column("GPU %", justify="right")
    last = None
    for row in figures["rows"]:
        if last is not None and row["batch"] != last:
            result.add_section()
        last = row["batch"]
        label = Candidate(row["engine"], row["precision"]).label
        if "excluded" in row:
            continue
        cells = [
            str(row["batch"]),
            label,
            f"{row['latency_ms']['p50']:.3f}",
            f"{row['latency_ms']['p99']:.3f}",
            f"{row['robots_per_s']:.0f}",
            f"{row['memory_mb']:.0f}",
            f"{row['error']:.0e}" + ("" if row["acts_alike"] else ", too large"),
        ]
        if has_gpu:
            cells.append(f"{row.get('gpu_utilisation_percent', np.nan):.0f}")
        is_chosen = figures["recommended"] == {"engine": row["engine"], "batch": row["batch"]}
        result.add_row(*cells, style="bold" if is_chosen and row["precision"] == "float32" else "")
    reasons = {
        Candidate(row["engine"], row["precision"]).label: row["excluded"]
        for row in figures["rows"]
        if "excluded" in row
    }
    if reasons:
        result.caption = "\n".join(f"not {label}: {reason}" for label, reason in reasons.items())
        result.caption_justify = "left"
    return result


def draw(figures: dict[str, Any], file: Path) -> None:
    """Draw latency and throughput over the batch size, a line for each engine."""
    import matplotlib
    from matplotlib.figure import Figure

    from policy_node.tools.bench_plots import STYLE, finish

    lines: dict[str, list[dict[str, Any]]] = {}
    for row in figures["rows"]:
        if "latency_ms" in row:
            lines.setdefault(Candidate(row["engine"], row["precision"]).label, []).append(row)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 3.8), layout="constrained")
        latency, throughput = figure.subplots(1, 2)
        for label, rows in lines.items():
            batches = [row["batch"] for row in rows]
            latency.plot(batches, [row["latency_ms"]["p50"] for row in rows], marker="o", label=label)
            throughput.plot(batches, [row["robots_per_s"] for row in rows], marker="o", label=label)
        for axes, name in ((latency, "one inference, p50, ms"), (throughput, "robots inferred per second")):
            axes.axvline(figures["recommended"]["batch"], linestyle=":", color="#7d8590")
            axes.set(xscale="log", yscale="log", xlabel="robots in one inference", title=name)
            axes.grid()
        throughput.legend()
        finish(figure, f"{figures['algorithm']} policy on {figures['device']}", figures["machine"], file)


def _batches(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"found '{text}'; give numbers of robots, such as 1,4,16,64")
    return tuple(sorted({int(part) for part in parts}))


def add_parser(subparsers: SubParsers) -> None:
    """Add the command line of `policy_bench policy`."""
    policy = subparsers.add_parser(
        "policy",
        help="batch sizes and engines of one policy, with a recommendation",
        description="Measures one inference of a policy for every batch size, engine and precision: latency, "
        "throughput, memory and error. Recommends a batch size and an engine, and says why.",
    )
    policy.add_argument("--model", required=True, metavar="PATH", help="policy file; it is trusted: it can run code")
    policy.add_argument("--vecnormalize", default="", metavar="PATH", help="file that VecNormalize.save() wrote")
    policy.add_argument(
        "--batches", type=_batches, default="1,4,16,64,256", metavar="N,…", help="robots (default 1,4,16,64,256)"
    )
    policy.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:i (default auto)")
    policy.add_argument("--threads", type=number(int, 1), default=1, help="CPU threads of one inference (default 1)")
    policy.add_argument("--seconds", type=number(float, 0), default=2.0, help="measured time of each batch (default 2)")
    policy.add_argument("--rate", type=number(float, 0.1), default=20.0, metavar="HZ", help="control rate (default 20)")
    policy.add_argument(
        "--compile", action="store_true", help="let AOTInductor compile, up to minutes for each batch (default: not)"
    )
    policy.add_argument("--json", type=Path, metavar="FILE", help="write the figures there (default: nowhere)")
    policy.add_argument("--plot", type=Path, metavar="FILE.png", help="draw them there (default: nowhere)")
    policy.set_defaults(run=run)


def run(given: argparse.Namespace) -> int:
    """Run `policy_bench policy`."""
    console = Console()
    options = PolicyOptions(
        given.model,
        given.vecnormalize,
        given.batches,
        given.device,
        given.threads,
        given.seconds,
        given.compile,
        given.rate,
    )
    with warnings.catch_warnings():
        # What PyTorch says about its own exporters is nothing that a user can mend.
        warnings.simplefilter("ignore")
        figures = run_policy(options, console)
    console.print(table(figures))
    console.print(figures["why"], highlight=False)
    if given.json:
        write_figures(given.json, figures)
    if given.plot:
        draw(figures, given.plot)
    return 0
