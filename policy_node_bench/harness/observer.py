# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Observe a control loop: its reports on `~/timing` and `/diagnostics`, and the CPU time of its process."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from policy_node.cli.child_process import Child
from policy_node.report.figures import distribution

# Not measured, while discovery, caches and allocators settle.
WARM_UP_S = 3.0
# The import of PyTorch and Stable-Baselines3 is slow on a busy machine.
START_TIMEOUT_S = 120.0
# Reports come once per second.
SILENCE_TIMEOUT_S = 15.0
# Logged by a node that keeps running without driving.
_FAILED = ("configure failed", "activate failed")
# The times in diagnostics that are not those of a stage.
_WHOLE_TICK = ("tick", "lateness", "stamp_to_command", "inference", "observation_to_plan", "plan_age_at_command")


class TimingReport(NamedTuple):
    """A message of `~/timing`: arrival, CPU time of process and threads until then, rows `[ticks, 2 + robots]`."""

    time_s: float
    cpu_s: float
    threads: Mapping[int, tuple[str, float]]
    rows: np.ndarray


class TickCount(NamedTuple):
    """A message of `/diagnostics`: arrival, ticks run and missed since the start, all values."""

    time_s: float
    ticks: int
    missed: int
    values: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Round:
    """One measured interval of one process."""

    begin_s: float  # on the monotonic clock
    end_s: float
    rows: np.ndarray  # `[ticks, 2 + robots]` in ms: lateness, duration, age of each robot's data at its command
    cpu_s: float  # user and system, all threads
    threads_s: Mapping[str, float]  # CPU time by kind of thread
    stages: Mapping[str, np.ndarray]  # by name `[seconds, 2]`: p50 and p99 in ms of each second
    engine: str  # empty if the loop does not report it
    missed: int  # skipped ticks
    rss_mb: float  # resident memory at the end, in 10^6 bytes
    values: Sequence[Mapping[str, str]] = ()  # diagnostics of each second


class Observer(NamedTuple):
    """The reports of one loop so far, and a function that waits a moment for a message."""

    reports: list[TimingReport]
    counts: list[TickCount]
    spin_once: Callable[[], None]


@contextmanager
def observing(name: str, child: Child) -> Iterator[Observer]:
    """Collect the reports of one loop, and the CPU time of its process when each report arrives."""
    import rclpy
    from diagnostic_msgs.msg import DiagnosticArray
    from rclpy.executors import SingleThreadedExecutor
    from std_msgs.msg import Float64MultiArray

    executor = SingleThreadedExecutor()
    observer = Observer([], [], partial(executor.spin_once, timeout_sec=0.1))

    def on_timing(message: Any) -> None:
        rows = np.array(message.data).reshape([dimension.size for dimension in message.layout.dim])
        observer.reports.append(TimingReport(time.monotonic(), child.cpu_s(), child.thread_cpu_s(), rows))

    def on_diagnostics(message: Any) -> None:
        for status in message.status:
            if status.name == f"{name}: control":
                values = {pair.key: pair.value for pair in status.values}
                if "ticks" not in values:  # the node is not active
                    continue
                ticks, missed = int(values["ticks"]), int(values["missed_ticks"])
                observer.counts.append(TickCount(time.monotonic(), ticks, missed, values))

    node = rclpy.create_node("policy_bench")
    node.create_subscription(Float64MultiArray, f"{name}/timing", on_timing, 10)
    node.create_subscription(DiagnosticArray, "/diagnostics", on_diagnostics, 10)
    executor.add_node(node)
    try:
        yield observer
    finally:
        executor.shutdown()
        node.destroy_node()


def measure(child: Child, others: Sequence[Child], name: str, seconds: float, progress: Callable[[str], None]) -> Round:
    """Observe one loop from its start until it has been measured for `seconds` after the warm-up.

    `child` and `name` are process and node of the loop, `others` processes that must keep running. `progress` is called
    repeatedly with the current phase.

    Raises ToolError if a process ends or the loop stops reporting.
    """
    with observing(name, child) as observer:
        reports = observer.reports
        started_s = time.monotonic()
        begin = 0
        # Reports come at whole seconds, with a jitter of some milliseconds.
        while not begin or reports[-1].time_s - reports[begin].time_s < seconds - 0.5:
            observer.spin_once()
            for process in (child, *others):
                process.check()
            _check_reports(child, name, reports, started_s)
            if not begin and reports and reports[-1].time_s - reports[0].time_s >= WARM_UP_S:
                begin = len(reports) - 1
            progress("measuring" if begin else "warming up" if reports else "starting")
        rss_mb = child.rss_mb()
        end = len(reports) - 1
        # The last count may arrive just after the last report.
        observer.spin_once()
    # The count that was published together with each report.
    counts = [
        min(observer.counts, key=lambda count: abs(count.time_s - report.time_s)) for report in reports[begin : end + 1]
    ]
    first, last = counts[0], counts[-1]
    # A report holds the ticks before it.
    rows = np.concatenate([report.rows for report in reports[begin + 1 : end + 1]])
    if last.ticks - first.ticks != len(rows):
        raise child.error(f"counted {last.ticks - first.ticks} ticks, but {len(rows)} were reported")
    return Round(
        begin_s=reports[begin].time_s,
        end_s=reports[end].time_s,
        rows=rows,
        cpu_s=reports[end].cpu_s - reports[begin].cpu_s,
        threads_s=_by_kind(reports[begin].threads, reports[end].threads),
        stages=_stages([count.values for count in counts[1:]]),
        engine=last.values.get("engine", ""),
        missed=last.missed - first.missed,
        rss_mb=rss_mb,
        values=[count.values for count in counts[1:]],
    )


def _check_reports(child: Child, name: str, reports: Sequence[TimingReport], started_s: float) -> None:
    """Raise ToolError if the loop cannot start, or has not reported for too long."""
    now_s = time.monotonic()
    if not reports and any(failed in child.tail() for failed in _FAILED):
        raise child.error("cannot start")
    if not reports and now_s - started_s > START_TIMEOUT_S:
        raise child.error(f"published nothing on {name}/timing for {START_TIMEOUT_S:.0f} s")
    if reports and now_s - reports[-1].time_s > SILENCE_TIMEOUT_S:
        raise child.error(f"stopped publishing on {name}/timing {SILENCE_TIMEOUT_S:.0f} s ago")


def _by_kind(before: Mapping[int, tuple[str, float]], after: Mapping[int, tuple[str, float]]) -> dict[str, float]:
    """Return the CPU seconds between two readings by thread name without its number, largest first."""
    kinds: dict[str, float] = {}
    for thread, (name, cpu_s) in after.items():
        kind = re.sub(r"[\W\d]*\d+", "", name)
        kinds[kind] = kinds.get(kind, 0.0) + cpu_s - before.get(thread, ("", 0.0))[1]
    return dict(sorted(kinds.items(), key=lambda item: -item[1]))


def _stages(reports: Sequence[Mapping[str, str]]) -> dict[str, np.ndarray]:
    """Return p50 and p99 `[seconds, 2]` of each stage of the tick, in order."""
    last = "_ms_p50"
    names = [key.removesuffix(last) for key in (reports[-1] if reports else {}) if key.endswith(last)]
    return {
        name: np.array([[float(values.get(f"{name}_ms_{p}", "nan")) for p in ("p50", "p99")] for values in reports])
        for name in names
        if name not in _WHOLE_TICK
    }


def summary(rounds: Sequence[Round], max_age_s: float) -> dict[str, Any]:
    """Return the figures of all rounds of one loop together, and the cost of each round."""
    rows = np.concatenate([measured.rows for measured in rounds])
    ages_ms = rows[:, 2:]
    missed = sum(measured.missed for measured in rounds)
    stages_ms = {stage: np.concatenate([each.stages[stage] for each in rounds]) for stage in rounds[0].stages}
    return {
        "ticks": len(rows),
        "cpu_us_per_robot_tick": sum(measured.cpu_s for measured in rounds) * 1e6 / ages_ms.size,
        "cpu_us_per_robot_tick_by_round": [each.cpu_s * 1e6 / each.rows[:, 2:].size for each in rounds],
        "cpu_us_per_robot_tick_by_thread": {
            kind: sum(measured.threads_s.get(kind, 0.0) for measured in rounds) * 1e6 / ages_ms.size
            for kind in rounds[0].threads_s
        },
        # The loop reports percentiles of each second: take the median of p50 and the largest p99.
        "stages_ms": {
            stage: {"p50": float(np.nanmedian(values[:, 0])), "p99": float(np.nanmax(values[:, 1]))}
            for stage, values in stages_ms.items()
        },
        "engine": rounds[-1].engine,
        "tick_ms": distribution(rows[:, 1]),
        "lateness_ms": distribution(rows[:, 0]),
        "stamp_to_command_ms": distribution(ages_ms),
        "missed_fraction": missed / (missed + len(rows)),
        # NaN stands for no command from data; its comparison is False.
        "fresh_fraction": float(np.mean(ages_ms <= max_age_s * 1e3)),
        "rss_mb": max(measured.rss_mb for measured in rounds),
    }
