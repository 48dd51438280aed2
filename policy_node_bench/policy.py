# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""`policy_bench policy`: latency, throughput, memory and error of a policy by batch size and engine.

All engines are measured in all precisions, in turn, on observations that are already on the device.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from policy_node.cli.child_process import ToolError
from policy_node.cli.options import number
from policy_node.engines import EngineSettings
from policy_node.engines.choice import Candidate, all_candidates, make, one_call, reason_of
from policy_node.engines.failures import is_out_of_memory
from policy_node.engines.parity import TOLERANCES, ParityTrial
from policy_node.policies import Policy, PolicyError, load_policy
from policy_node.report.figures import distribution, machine, progress_bar
from policy_node.ros.resource_usage import DeviceLoad, ProcessLoad
from policy_node_bench.command import Command, Figures, counts, option, plot_option
from policy_node_bench.harness.turns import Part, in_turn
from policy_node_bench.tables import screen

# Not measured: engines optimise and allocate in their first runs.
WARM_UP_RUNS = 5
TURN_S = 0.1
# Part of the highest throughput that a recommended batch must reach; larger batches only add latency and memory.
ENOUGH = 0.9


@dataclass(frozen=True, kw_only=True)
class PolicyOptions:
    """The options of `policy_bench policy`."""

    model: str = option("", "policy file; it is trusted and can run code", required=True, metavar="PATH")
    vecnormalize: str = option("", "file of VecNormalize.save() (default: none)", metavar="PATH")
    batches: Sequence[int] = option("1,4,16,64,256", "robots in one inference", type=counts, metavar="N,…")
    device: str = option("auto", "auto, cpu, cuda or cuda:i")
    threads: int = option(1, "CPU threads of one inference", type=number(int, 1))
    seconds: float = option(2.0, "measured time of each batch, all engines together", type=number(float, 0))
    rate_hz: float = option(20.0, "control rate", "--rate", type=number(float, 0.1), metavar="HZ")


def run_policy(options: PolicyOptions, console: Console) -> dict[str, Any]:
    """Measure all batches and return the figures."""
    torch.set_num_threads(options.threads)
    try:
        policy = load_policy(options.model, options.device, trusted=True, vecnormalize=options.vecnormalize or None)
    except PolicyError as error:
        raise ToolError(str(error)) from error
    rows: list[dict[str, Any]] = []
    ended = ""
    with progress_bar(console) as bar:
        task = bar.add_task("policy", total=len(options.batches), doing="loading")
        for batch in options.batches:

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
    """Return a row for each engine and precision: its figures, or why it cannot be used."""
    channels_last = frozenset(
        key
        for key, spec in policy.spec.observations.items()
        # Images; the smallest axis is the channels.
        if len(spec.shape) == 3 and int(np.argmin(spec.shape)) == 0
    )
    report("observations")
    trial = ParityTrial(policy, batch, channels_last)
    rows: list[dict[str, Any]] = []
    calls: dict[str, Part] = {}
    measured: dict[str, dict[str, Any]] = {}
    load = DeviceLoad(policy.device)
    utilisation: dict[str, list[float]] = {}
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
        measured[candidate.label] = row
        found = utilisation[candidate.label] = []
        calls[candidate.label] = Part(call, after_turn=partial(_note_utilisation, load, found))
    report("measuring")
    gc.collect()
    for label, turns in in_turn(calls, options.seconds, TURN_S, 2, 2).items():
        row, turns_ms = measured[label], np.concatenate(turns)
        row["latency_ms"] = distribution(turns_ms)
        row["robots_per_s"] = batch * 1e3 / float(np.median(turns_ms))
        row["runs"] = len(turns_ms)
        if utilisation[label]:
            row["gpu_utilisation_percent"] = float(np.median(utilisation[label]))
    return rows


def _note_utilisation(load: DeviceLoad, found: list[float]) -> None:
    if (percent := load.values().get("device_utilisation_percent")) is not None:
        found.append(percent)


def _candidates(policy: Policy, options: PolicyOptions) -> list[tuple[Candidate, EngineSettings]]:
    """Return every engine in every precision, with the settings to build it."""
    found: dict[Candidate, EngineSettings] = {}
    for precision in TOLERANCES:
        settings = EngineSettings(precision=precision, threads=options.threads)
        for candidate in all_candidates(policy, settings):
            found.setdefault(candidate, settings)
    return list(found.items())


def _memory_mb(device: torch.device) -> float:
    """Return the memory that the process holds on the device, in 10^6 bytes."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return torch.cuda.memory_reserved(device) / 1e6
    return ProcessLoad().values().get("rss_mb", 0.0)


def recommendation(rows: Sequence[dict[str, Any]], rate_hz: float, ended: str) -> dict[str, Any]:
    """Recommend a batch size and an engine, and say why.

    The engine is the one with the highest throughput of those whose actions equal the policy's in full precision; the
    batch is the smallest that reaches nearly that throughput within the period.
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
            f"Fewer at a time spend more on starting each inference: {_robots(first['batch'])} at a time give "
            f"{first['robots_per_s']:.0f} robots/s."
        )
    larger = [row for row in of_engine if row["batch"] > chosen["batch"]]
    if larger:
        most = max(larger, key=lambda row: row["robots_per_s"])
        gain = most["robots_per_s"] / chosen["robots_per_s"] - 1.0
        words.append(
            f"More at a time gain {gain:+.0%} ({_robots(most['batch'])}) and take {most['latency_ms']['p50']:.2f} ms, "
            f"which delays all commands."
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
    return {"recommended": {"engine": chosen["engine"], "batch": chosen["batch"]}, "why": " ".join(words)}


def _robots(count: int) -> str:
    return f"{count} robot{'s' if count > 1 else ''}"


def table(figures: Figures) -> Table:
    """Return a table with a row for each batch and engine; the recommended row is bold."""
    rows = [["robots", "engine", "ms p50", "p99", "robots/s", "memory MB", "error"]]
    if any("gpu_utilisation_percent" in row for row in figures["rows"]):
        rows[0].append("GPU %")
    reasons: dict[str, str] = {}
    for row in figures["rows"]:
        label = Candidate(row["engine"], row["precision"]).label
        if "excluded" in row:
            reasons[label] = row["excluded"]
            continue
        latency_ms = row["latency_ms"]
        cells = [
            str(row["batch"]),
            label,
            f"{latency_ms['p50']:.3f}",
            f"{latency_ms['p99']:.3f}",
            f"{row['robots_per_s']:.0f}",
            f"{row['memory_mb']:.0f}",
            f"{row['error']:.0e}" + ("" if row["acts_alike"] else ", too large"),
        ]
        if "gpu_utilisation_percent" in row:
            cells.append(f"{row['gpu_utilisation_percent']:.0f}")
        is_chosen = figures["recommended"] == {"engine": row["engine"], "batch": row["batch"]}
        rows.append([f"[bold]{cell}" for cell in cells] if is_chosen and row["precision"] == "float32" else cells)
    result = screen(f"{figures['options']['model']}: {figures['algorithm']} on {figures['device']}", rows)
    for column in result.columns:
        column.no_wrap = True
    result.caption = "\n".join(f"excluded: {label}, {reason}" for label, reason in reasons.items())
    result.caption_justify = "left"
    return result


def _measure(options: PolicyOptions, console: Console) -> dict[str, Any]:
    with warnings.catch_warnings():
        # PyTorch warns about its own exporters.
        warnings.simplefilter("ignore")
        return run_policy(options, console)


COMMAND = Command(
    "policy",
    "latency of one policy by batch size and engine, with a recommendation",
    "Measure one inference of a policy for every batch size, engine and precision: latency, throughput, memory and "
    "error. Recommend a batch size and an engine, with the reasons.",
    PolicyOptions,
    _measure,
    lambda figures: [table(figures), figures["why"]],
    plot_option("plot_policy"),
)
