# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The figures of `policy_bench chaos`, shown on a terminal and as a section of a document."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import RenderableType
from rich.markdown import Markdown

from policy_node.report.figures import distribution
from policy_node_bench.chaos.faults import BY_NAME, KINDS, Fault
from policy_node_bench.chaos.judge import SAFETY, TIMING, Judge, Ticks, compare_lateness
from policy_node_bench.command import Figures

RESOURCES = {
    "memory": "resident memory more than 1 % larger at the end than after the warm-up",
    "descriptors": "more file descriptors at the end than after the warm-up",
    "threads": "more threads at the end than after the warm-up",
}
VIOLATIONS = SAFETY | TIMING | RESOURCES
# Allocators, caches and discovery settle in this time, or in the first third of a shorter run.
WARM_UP_S = 300.0
# Growth is judged in runs of at least this length.
LONG_RUN_S = 1200.0
MEMORY_GROWTH = 0.01
# The medians of the first and the last part of the time after the warm-up are compared.
COMPARED_PART = 0.2
# Rows of resources in the figures.
SERIES_ROWS = 60


def fault_figures(faults: Sequence[Fault]) -> dict[str, dict[str, Any]]:
    """Return by kind the number of faults, and the seconds to the safe command, to diagnostics and to healing."""
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
    """Return every fault with its times."""
    schedule = []
    for fault in faults:
        times_s = {
            "asked_s": fault.asked_s,
            "begun_s": fault.begun_s,
            "detected_s": fault.detected_s.max(),
            "ended_s": fault.ended_s,
            "healed_s": fault.healed_s.max(),
        }
        known = {name: round(float(time_s), 3) if np.isfinite(time_s) else None for name, time_s in times_s.items()}
        schedule.append({"kind": fault.kind.name, "robot": None if fault.kind.fleet else fault.robots[0], **known})
    return schedule


def resource_figures(samples: Sequence[Sequence[float]], seconds: float) -> dict[str, Any]:
    """Return memory, file descriptors and threads of the node over time, and their growth.

    `samples` are rows of seconds, 10^6 bytes of resident memory, file descriptors and threads in a run of `seconds`.
    """
    names = ("time_s", "rss_mb", "descriptors", "threads")
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
            for column, name in enumerate(names[1:])
        },
        "series": {name: rows[chosen, column].round(2).tolist() for column, name in enumerate(names)},
    }


def judge_resources(judge: Judge, resources: dict[str, Any], end_s: float) -> None:
    """Record growth of resources as violations."""
    if resources["rss_growth"] > MEMORY_GROWTH:
        judge.note("memory", None, end_s, **resources["rss_mb"])
    for kind in ("descriptors", "threads"):
        if resources[kind]["last"] > resources[kind]["first"]:
            judge.note(kind, None, end_s, **resources[kind])


def judge_timing(judge: Judge, quiet: Ticks, faults: Ticks) -> dict[str, Any]:
    """Record missed and late ticks as violations, and return the figures of both."""
    lateness = compare_lateness(quiet.lateness_ms, faults.lateness_ms, judge.limits.period_s)
    for robot, time_s in (*quiet.missed, *faults.missed):
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
    """Return the number of violations by kind and the first of each, and those that are not judged or excused."""
    judged = [kind for kind in VIOLATIONS if judges_timing or kind not in TIMING]
    return {
        "violations": judge.violations.total() - sum(judge.violations[kind] for kind in TIMING if kind not in judged),
        "violations_by_kind": {kind: judge.violations[kind] for kind in judged},
        "not_judged": {kind: judge.violations[kind] for kind in VIOLATIONS if kind not in judged},
        "excused": dict(judge.excused),
        "violation_details": judge.details,
    }


def _times(row: dict[str, Any], key: str) -> str:
    times = row.get(key)
    if times is None or times["p50"] is None:
        return "–"
    return f"{times['p50'] * 1e3:.0f} / {times['max'] * 1e3:.0f}"


def markdown(figures: Figures) -> str:
    """Return the figures as a section of a document."""
    options, machine, lateness = figures["options"], figures["machine"], figures["lateness_ms"]
    resources, node, commands = figures["resources"], figures["node"], figures["commands"]
    missed, ticks = figures["missed"], figures["ticks"]
    also = f" --inference {options['inference']}" if options["inference"] != "tick" else ""
    also += " --busy" if options["busy"] else ""
    injected = sum(row["injected"] for row in figures["faults"].values())
    growth = "" if resources["is_judged"] else " (too short a run to judge growth)"
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
        "that show the fault (published once per second), and from the end of the cause to the first command from",
        "readings taken after it. A dash: the robot must still be driven, or no diagnostics came in time.",
        "",
        f"`policy_bench chaos --robots {options['robots']} --seconds {options['seconds']:g} "
        f"--seed {options['seed']}{also}`,",
        f"control and sensors at {options['rate_hz']:g} Hz, `max_age_s` {options['max_age_s']:g}, `realtime.priority` "
        f"{options['priority']}, over {options['transport'].upper()}, {machine['cores']} cores of {machine['cpu']}:",
        "",
        f"- {injected} faults, {commands['driven']} commands from readings and {commands['safe']} safe commands;",
        f"  **{figures['violations']} violations**. The oldest readings of a command were",
        f"  {figures['largest_age_s'] * 1e3:.0f} ms old; {figures['allowed_age_s'] * 1e3:.0f} ms are allowed.",
        f"- Robots without a fault: p99 of lateness {lateness['faults_p99']:.2f} ms during faults of others (at most",
        f"  {lateness['limit']:.2f} are allowed), {lateness['quiet_p99']:.2f} ms without any fault while as many other",
        f"  processes start and end, with a noise of {lateness['noise']:.2f} ms. Missed",
        f"  ticks: {missed['faults']} of {ticks['faults']} during faults, "
        f"{missed['quiet']} of {ticks['quiet']} without.",
        f"- {sum(figures['excused'].values())} late or old commands are not counted, because node or robots waited for",
        "  a processor at the time.",
        f"- Recordings that ended because their disk was full, while the node drove on: {figures['full_disks']}.",
        f"- The node: {resources['rss_mb']['last']:.0f} MB, {resources['rss_growth']:+.2%} from "
        f"{resources['warm_up_s']:.0f} s to the end; file descriptors {resources['descriptors']['first']:.0f} → "
        f"{resources['descriptors']['last']:.0f},",
        f"  threads {resources['threads']['first']:.0f} → {resources['threads']['last']:.0f}{growth}.",
        f"- The node killed with SIGKILL: no command was sent after it; {missed_deadlines(node)}.",
        f"  Started again, it drove all robots after {node['restart_s']:.1f} s.",
        f"  Ended with SIGTERM, it sent every robot the safe command within {node['end_s'] * 1e3:.0f} ms.",
    ]
    return "\n".join(lines) + "\n"


def missed_deadlines(node: Mapping[str, float | None]) -> str:
    """Return when the robots noticed that the node was killed."""
    deadline_s = node["deadline_s"]
    if deadline_s is None:
        return "the middleware reports no missed deadlines"
    return f"every robot had missed its deadline after {deadline_s * 1e3:.0f} ms"


def show(figures: Figures) -> Iterable[RenderableType]:
    """Yield the section of `markdown` and the violations by kind."""
    yield Markdown(markdown(figures))
    found = ", ".join(f"{kind} {count}" for kind, count in figures["violations_by_kind"].items() if count)
    yield f"violations: {figures['violations']} {found}"


def write_markdown(figures: Figures, file: Path) -> None:
    """Write the figures as a section of a document."""
    file.write_text(markdown(figures))
