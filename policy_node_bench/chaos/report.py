# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The figures of `policy_bench chaos`: what they are, and how they are shown on a terminal and in the documentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.table import Table

from policy_node.report.figures import distribution
from policy_node_bench.chaos.faults import BY_NAME, KINDS, Fault
from policy_node_bench.chaos.judge import SAFETY, TIMING, Judge, Ticks, compare_lateness

RESOURCES = {
    "memory": "resident memory more than 1 % larger at the end than after the warm-up",
    "descriptors": "more file descriptors at the end than after the warm-up",
    "threads": "more threads at the end than after the warm-up",
}
VIOLATIONS = SAFETY | TIMING | RESOURCES
# Allocators, caches and discovery settle meanwhile, in a shorter run during its first third.
WARM_UP_S = 300.0
# A shorter run does not tell growth from settling.
LONG_RUN_S = 1200.0
MEMORY_GROWTH = 0.01
# The first and last part of the time after the warm-up that are compared, by their medians.
COMPARED_PART = 0.2
# So many rows of resources over time.
SERIES_ROWS = 60


def fault_figures(faults: Sequence[Fault]) -> dict[str, dict[str, Any]]:
    """Return by kind how many faults there were, and seconds to the safe command, to diagnostics, and to healing."""
    figures = {}
    for kind in KINDS:
        of_kind = [fault for fault in faults if fault.kind is kind]
        if not of_kind:
            continue
        times = {
            "detect_s": [fault.detected_s - fault.begun_s for fault in of_kind] if kind.stops else [],
            "shown_s": [fault.shown_s - fault.begun_s for fault in of_kind] if kind.stops else [],
            "heal_s": [fault.healed_s - fault.ended_s for fault in of_kind],
        }
        figures[kind.name] = {
            "injected": len(of_kind),
            **{name: distribution(np.concatenate(values)) for name, values in times.items() if values},
        }
    return figures


def schedule_of(faults: Sequence[Fault]) -> list[dict[str, Any]]:
    """Return every fault with its times, for whoever looks into what was found."""
    return [
        {
            "kind": fault.kind.name,
            "robot": None if fault.kind.fleet else fault.robots[0],
            **{
                name: round(float(time_s), 3) if np.isfinite(time_s) else None
                for name, time_s in (
                    ("asked_s", fault.asked_s),
                    ("begun_s", fault.begun_s),
                    ("detected_s", fault.detected_s.max()),
                    ("ended_s", fault.ended_s),
                    ("healed_s", fault.healed_s.max()),
                )
            },
        }
        for fault in faults
    ]


def resource_figures(samples: Sequence[Sequence[float]], seconds: float) -> dict[str, Any]:
    """Return memory, file descriptors and threads of the node over time, and what they have grown by.

    Parameters
    ----------
    samples
        Rows of seconds, 10^6 bytes of resident memory, file descriptors, threads.
    seconds
        Length of the run.
    """
    rows = np.array(samples)
    rows[:, 0] -= rows[0, 0]
    warm_up_s = min(WARM_UP_S, seconds / 3)
    warm = rows[rows[:, 0] >= warm_up_s]
    count = max(1, round(COMPARED_PART * len(warm)))
    first, last = np.median(warm[:count, 1:], axis=0), np.median(warm[-count:, 1:], axis=0)
    chosen = np.unique(np.linspace(0, len(rows) - 1, SERIES_ROWS).astype(int))
    return {
        "warm_up_s": warm_up_s,
        "is_judged": seconds >= LONG_RUN_S,
        "rss_growth": float(last[0] / first[0] - 1.0),
        **{
            name: {"first": float(first[column]), "last": float(last[column]), "max": float(warm[:, column + 1].max())}
            for column, name in enumerate(("rss_mb", "descriptors", "threads"))
        },
        "series": {
            name: rows[chosen, column].round(2).tolist()
            for column, name in enumerate(("time_s", "rss_mb", "descriptors", "threads"))
        },
    }


def judge_resources(judge: Judge, resources: dict[str, Any], end_s: float) -> None:
    """Note what has grown."""
    if resources["rss_growth"] > MEMORY_GROWTH:
        judge.note("memory", None, end_s, **resources["rss_mb"])
    for kind in ("descriptors", "threads"):
        if resources[kind]["last"] > resources[kind]["first"]:
            judge.note(kind, None, end_s, **resources[kind])


def judge_timing(judge: Judge, quiet: Ticks, faults: Ticks) -> dict[str, Any]:
    """Note missed ticks and late ones, and return the figures of both."""
    lateness = compare_lateness(quiet.lateness_ms, faults.lateness_ms)
    for robot, time_s in faults.missed:
        judge.note("missed_tick", robot, time_s)
    judge.finish()
    if lateness["faults_p99"] > lateness["limit"]:
        judge.note("late", None, 0.0, **lateness)
    return {
        "lateness_ms": lateness,
        "ticks": {"quiet": quiet.ticks, "faults": faults.ticks},
        "missed": {"quiet": len(quiet.missed), "faults": len(faults.missed)},
    }


def violation_figures(judge: Judge, judges_timing: bool) -> dict[str, Any]:
    """Return how often each kind of violation was found, and the first of each.

    Apart from them: what is not judged, and what the machine caused by keeping node or robot from running.
    """
    judged = [kind for kind in VIOLATIONS if judges_timing or kind not in TIMING]
    return {
        "violations": judge.violations.total() - sum(judge.violations[kind] for kind in TIMING if kind not in judged),
        "violations_by_kind": {kind: judge.violations[kind] for kind in judged},
        "not_judged": {kind: judge.violations[kind] for kind in VIOLATIONS if kind not in judged},
        "excused": dict(judge.excused),
        "violation_details": judge.details,
    }


def table(figures: dict[str, Any]) -> Table:
    """Show what each kind of fault led to."""
    options = figures["options"]
    result = Table(
        title=f"{options['robots']} robots at {options['rate_hz']:g} Hz, {options['seconds']:g} s, seed "
        f"{options['seed']}\ntimes in ms as p50 / max"
    )
    for column in ("fault", "injected", "safe command", "in diagnostics", "driven again"):
        result.add_column(column, justify="left" if column == "fault" else "right")
    for name, row in figures["faults"].items():
        result.add_row(name, str(row["injected"]), *(_times(row, key) for key in ("detect_s", "shown_s", "heal_s")))
    lateness, resources = figures["lateness_ms"], figures["resources"]
    missed, ticks = figures["missed"], figures["ticks"]
    found = ", ".join(f"{kind} {count}" for kind, count in figures["violations_by_kind"].items() if count)
    result.caption = (
        f"p99 of lateness {lateness['faults_p99']:.2f} ms, without faults {lateness['quiet_p99']:.2f} ms\n"
        f"ticks missed {missed['faults']} of {ticks['faults']}, without faults {missed['quiet']} of {ticks['quiet']}\n"
        f"memory {resources['rss_mb']['last']:.0f} MB ({resources['rss_growth']:+.2%}), "
        f"{resources['descriptors']['last']:.0f} file descriptors, {resources['threads']['last']:.0f} threads\n"
        f"violations: {figures['violations']} {found}"
    )
    return result


def _times(row: dict[str, Any], key: str) -> str:
    times = row.get(key)
    if times is None or times["p50"] is None:
        return "–"
    return f"{times['p50'] * 1e3:.0f} / {times['max'] * 1e3:.0f}"


def markdown(figures: dict[str, Any]) -> str:
    """Return the figures as a section of a document."""
    options, machine, lateness = figures["options"], figures["machine"], figures["lateness_ms"]
    resources, node, commands = figures["resources"], figures["node"], figures["commands"]
    missed, ticks = figures["missed"], figures["ticks"]
    injected = sum(row["injected"] for row in figures["faults"].values())
    growth = "" if resources["is_judged"] else " (too short a run to judge growth)"
    command = (
        f"policy_bench chaos --robots {options['robots']} --seconds {options['seconds']:g} --seed {options['seed']}"
    )
    command += "" if options["judges_timing"] else " --busy"
    lines = [
        "| fault | injected | safe command after | in diagnostics after | driven again after |",
        "|---|---|---|---|---|",
    ]
    for name, row in figures["faults"].items():
        cells = [_times(row, key) for key in ("detect_s", "shown_s", "heal_s")]
        lines.append(f"| {BY_NAME[name].text} | {row['injected']} | {' | '.join(cells)} |")
    lines += [
        "",
        "Times in ms as p50 / max: from the begin of the cause to the first safe command and to the first diagnostics",
        "that show it (they come once per second), and from the end of the cause to the first command computed from",
        "readings taken after it. A dash: the robot is to be driven on, or no diagnostics came meanwhile.",
        "",
        f"`{command}`,",
        f"control and sensors at {options['rate_hz']:g} Hz, `max_age_s` {options['max_age_s']:g}, over "
        f"{options['transport'].upper()}, {machine['cores']} cores of {machine['cpu']}:",
        "",
        f"- {injected} faults, {commands['driven']} commands from readings and {commands['safe']} safe ones;",
        f"  **{figures['violations']} violations**. The oldest readings behind a command were",
        f"  {figures['largest_age_s'] * 1e3:.0f} ms old, {figures['allowed_age_s'] * 1e3:.0f} ms are allowed.",
        f"- Robots without a fault: p99 of lateness {lateness['faults_p99']:.2f} ms, while no robot had one",
        f"  {lateness['quiet_p99']:.2f} ms, which varies by {lateness['noise']:.2f} ms by itself. Ticks missed: "
        f"{missed['faults']} of",
        f"  {ticks['faults']}, while no robot had a fault {missed['quiet']} of {ticks['quiet']}.",
        f"- {sum(figures['excused'].values())} late or old commands coincided with the machine keeping node or",
        "  robots from running; they are not counted as violations.",
        f"- The node: {resources['rss_mb']['last']:.0f} MB, {resources['rss_growth']:+.2%} from "
        f"{resources['warm_up_s']:.0f} s to the end; file descriptors {resources['descriptors']['first']:.0f} → "
        f"{resources['descriptors']['last']:.0f},",
        f"  threads {resources['threads']['first']:.0f} → {resources['threads']['last']:.0f}{growth}.",
        "- The node killed (SIGKILL): no command after it; every robot knew of it by its missed deadline after",
        f"  {node['deadline_s'] * 1e3:.0f} ms. Started again, it drove all robots after {node['restart_s']:.1f} s.",
        f"  Ended by SIGTERM, it sent every robot the safe command within {node['end_s'] * 1e3:.0f} ms.",
    ]
    return "\n".join(lines) + "\n"
