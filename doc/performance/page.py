# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Fills the tables of doc/performance.md and of the README from the figures that `measure.sh` left in this folder.

`python doc/performance/page.py [FOLDER]` writes them; a test compares them with the figures.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGES = (HERE.parent / "performance.md", HERE.parents[1] / "README.md")
NOT_MEASURED = "not measured yet"
_BLOCK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

Figures = Mapping[str, Any]


class Missing(Exception):  # noqa: N818  not an error: what was not measured stays open
    """A file of figures is not there."""


def main(arguments: Sequence[str]) -> int:
    """Write the pages from the figures in a folder."""
    folder = Path(arguments[0]) if arguments else HERE
    for page in PAGES:
        page.write_text(filled(page.read_text(), folder))
    return 0


def filled(text: str, folder: Path) -> str:
    """Return a page with its tables as the figures in a folder have them."""

    def fill(match: re.Match[str]) -> str:
        return match[1] + _TABLES[match[2]](lambda name: load(folder, name)) + "\n" + match[3]

    return _BLOCK.sub(fill, text)


def load(folder: Path, name: str) -> Figures:
    """Return the figures of one measurement; raises `Missing`."""
    file = folder / f"{name}.json"
    if not file.exists():
        raise Missing(name)
    return json.loads(file.read_text())


Load = Callable[[str], Figures]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def times(values: Mapping[str, float | None], names: Sequence[str] = ("p50", "p99")) -> str:
    """Return percentiles with three digits."""
    return " / ".join("–" if values[name] is None else f"{values[name]:.3g}" for name in names)


def percent(fraction: float) -> str:
    """Return a share in percent."""
    return f"{fraction:.1%}".replace("%", " %")


def verdict(reached: bool, text: str) -> str:
    """Return what was reached, marked where it falls short."""
    return text if reached else f"{text} (**short of it**)"


def goals(load: Load) -> str:
    """Return the table of what was to be reached and what was."""
    rows: list[tuple[str, str, Callable[[], str]]] = [
        (
            "64 robots, 64×64 camera and touch, 20 Hz",
            "CPU per robot and tick 10 times below today's loop; missed ≤ 1 %, fresh ≥ 98 %",
            lambda: _fleet(load("fleet_64"), 10, 0.98),
        ),
        (
            "16 robots, 224×224",
            "5 times below; missed ≤ 1 %, fresh ≥ 97 %",
            lambda: _fleet(load("fleet_224"), 5, 0.97),
        ),
        ("16 robots, 640×480", "fresh ≥ 95 %", lambda: _large(load("fleet_480"), load("fleet_480_default"))),
        ("`pipeline`, 64 robots, CPU", "`overhead_ratio` ≤ 1.15", lambda: _overhead(load("pipeline"))),
        (
            "lateness p99, 16 robots, 50 Hz",
            "≤ 1.5 ms; with real-time priority ≤ 0.5 ms",
            lambda: _lateness(load("lateness")),
        ),
        ("CPU per robot and tick, 64 robots", "≤ that at 16", lambda: _growth(load("scale"))),
        (
            "H200, `pipeline`, 256 robots, 84×84, stack 4, NatureCNN",
            "step ≤ 1 ms p50; `overhead_ratio` ≤ 1.5; 1024 robots at 50 Hz within the period",
            lambda: _gpu(load("pipeline_gpu_256"), load("pipeline_gpu_1024")),
        ),
        (
            "H200, 256 robots, beside `model.predict` per robot on the same GPU",
            "100 times",
            lambda: _gpu_predict(load("pipeline_gpu_256")),
        ),
    ]
    return table(("case", "to reach", "reached"), [(case, goal, _or_open(reached)) for case, goal, reached in rows])


def _or_open(reached: Callable[[], str]) -> str:
    try:
        return reached()
    except Missing as missing:
        return "open: no GPU was at hand" if "gpu" in str(missing) else NOT_MEASURED


def _fleet(figures: Figures, ratio: float, fresh: float) -> str:
    node = figures["node"]
    parts = (
        verdict(figures["ratio_cpu"] >= ratio, f"{figures['ratio_cpu']:.1f} times"),
        verdict(node["missed_fraction"] <= 0.01, f"missed {percent(node['missed_fraction'])}"),
        verdict(node["fresh_fraction"] >= fresh, f"fresh {percent(node['fresh_fraction'])}"),
    )
    return ", ".join(parts)


def _large(figures: Figures, default: Figures) -> str:
    fresh = figures["node"]["fresh_fraction"]
    without = percent(default["node"]["fresh_fraction"])
    return verdict(fresh >= 0.95, f"{percent(fresh)} ({without} with Fast DDS as it comes)")


def _overhead(figures: Figures) -> str:
    ratios = (("overhead_ratio", "the engine that was chosen"), ("overhead_ratio_direct", "PyTorch itself"))
    return ", ".join(verdict(figures[key] <= 1.15, f"{figures[key]:.2f} with {label}") for key, label in ratios)


def _lateness(figures: Figures) -> str:
    plain, realtime = figures["node"]["lateness_ms"]["p99"], figures["versus"][0]["lateness_ms"]["p99"]
    return f"{verdict(plain <= 1.5, f'{plain:.2f} ms')}; {verdict(realtime <= 0.5, f'{realtime:.2f} ms')}"


def _growth(figures: Figures) -> str:
    costs = {fleet["options"]["robots"]: fleet["node"]["cpu_us_per_robot_tick"] for fleet in figures["fleets"]}
    return verdict(costs[64] <= costs[16], f"{costs[64]:.0f} µs, {costs[16]:.0f} µs at 16")


def _gpu(figures: Figures, many: Figures) -> str:
    step_ms, ratio = figures["engines"]["auto"]["step_ms"]["p50"], figures["overhead_ratio"]
    within = many["engines"]["auto"]["within_period_fraction"]
    parts = (
        verdict(step_ms <= 1.0, f"{step_ms:.2f} ms"),
        verdict(ratio <= 1.5, f"{ratio:.2f}"),
        verdict(within >= 0.99, f"{percent(within)} of the steps within it"),
    )
    return "; ".join(parts)


def _gpu_predict(figures: Figures) -> str:
    return verdict(figures["ratio_predict"] >= 100, f"{figures['ratio_predict']:.0f} times")


def machine(load: Load) -> str:
    """Return what the figures were measured on."""
    try:
        found = load("scale")["machine"]
    except Missing:
        return NOT_MEASURED
    versions = ", ".join(f"{name} {found[name]}" for name in ("torch", "onnxruntime", "stable-baselines3", "rclpy"))
    return (
        f"{found['cpu']}, {found['cores']} cores, no GPU; {found['system']}; Python {found['python']}, {versions}, "
        f"{found['rmw']}. Load of the machine before the first run: {found['load_before']:.1f}."
    )


def _rows_of_loop(loops: Mapping[str, Figures]) -> list[list[str]]:
    texts: tuple[tuple[str, Callable[[Figures], str]], ...] = (
        ("CPU per robot and tick", lambda loop: f"{loop['cpu_us_per_robot_tick']:.0f} µs"),
        ("tick, p50 / p99", lambda loop: f"{times(loop['tick_ms'])} ms"),
        ("lateness, p50 / p99", lambda loop: f"{times(loop['lateness_ms'])} ms"),
        ("camera stamp to command, p50 / p99", lambda loop: f"{times(loop['stamp_to_command_ms'])} ms"),
        ("ticks missed", lambda loop: percent(loop["missed_fraction"])),
        ("robots' data fresh", lambda loop: percent(loop["fresh_fraction"])),
        ("memory", lambda loop: f"{loop['rss_mb']:.0f} MB"),
    )
    return [[label, *(text(loop) for loop in loops.values())] for label, text in texts]


def beside(load: Load) -> str:
    """Return the node beside today's loop, for 64 robots."""
    try:
        figures = load("fleet_64")
    except Missing:
        return NOT_MEASURED
    loops = {"policy_node": figures["node"], "today's loop": figures["baseline"]}
    return table(["", *loops], _rows_of_loop(loops))


def scale(load: Load) -> str:
    """Return cost and delays by the number of robots."""
    try:
        fleets = load("scale")["fleets"]
    except Missing:
        return NOT_MEASURED
    rows = [
        [
            f"{fleet['options']['robots']}",
            label,
            f"{fleet[loop]['cpu_us_per_robot_tick']:.0f} µs",
            f"{times(fleet[loop]['tick_ms'])} ms",
            f"{times(fleet[loop]['stamp_to_command_ms'])} ms",
            percent(fleet[loop]["missed_fraction"]),
            percent(fleet[loop]["fresh_fraction"]),
        ]
        for fleet in fleets
        for loop, label in (("node", "policy_node"), ("baseline", "today's loop"))
    ]
    head = ["robots", "", "CPU per robot and tick", "tick, p50 / p99", "stamp to command, p50 / p99", "missed", "fresh"]
    return table(head, rows)


def options(load: Load) -> str:
    """Return what each option changes."""
    try:
        figures, lateness = load("options"), load("lateness")
    except Missing:
        return NOT_MEASURED
    rows = [
        [
            where,
            label,
            f"{loop['cpu_us_per_robot_tick']:.0f} µs",
            f"{times(loop['tick_ms'])} ms",
            f"{times(loop['lateness_ms'], ('p50', 'p99', 'max'))} ms",
            percent(loop["missed_fraction"]),
        ]
        for where, measured in (("224×224, 20 Hz", figures), ("64×64, 50 Hz", lateness))
        for label, loop in (
            ("as it comes", measured["node"]),
            *((f"`{versus['settings']}`", versus) for versus in measured["versus"]),
        )
    ]
    head = ["16 robots", "", "CPU per robot and tick", "tick, p50 / p99", "lateness, p50 / p99 / max", "missed"]
    return table(head, rows)


def transport(load: Load) -> str:
    """Return what the profile of Fast DDS changes for large images."""
    try:
        measured = {"`config/fastdds.xml`": load("fleet_480"), "Fast DDS as it comes": load("fleet_480_default")}
    except Missing:
        return NOT_MEASURED
    rows = _rows_of_loop({label: figures["node"] for label, figures in measured.items()})
    rows.append(["published at", *(f"{figures['published']['rate_hz']:.2f} Hz" for figures in measured.values())])
    return table(["16 robots, 640×480", *measured], rows)


def pipeline(load: Load) -> str:
    """Return the stages of a step and the forward pass by engine."""
    try:
        figures = load("pipeline")
    except Missing:
        return NOT_MEASURED
    engines = figures["engines"]
    stages = list(next(iter(engines.values()))["stages_ms"])
    rows = [[stage, *(times(engine["stages_ms"][stage]) for engine in engines.values())] for stage in stages]
    rows += [
        [label, *(times(engine[key]) for engine in engines.values())]
        for label, key in (("**step**", "step_ms"), ("forward pass alone", "forward_ms"))
    ]
    rows.append(["**overhead_ratio**", *(f"{engine['overhead_ratio']:.2f}" for engine in engines.values())])
    head = [name if name == engine["engine"] else f"{name}: {engine['engine']}" for name, engine in engines.items()]
    said = (
        f"\n\n`model.predict`, one robot after another: {times(figures['predict_ms'])} ms for all 64, "
        f"{figures['ratio_predict']:.1f} times a whole step."
    )
    return table(["ms, p50 / p99", *head], rows) + said


def policy(load: Load) -> str:
    """Return the time of one inference by batch size and engine, and what is recommended."""
    try:
        figures = load("policy")
    except Missing:
        return NOT_MEASURED
    rows = [row for row in figures["rows"] if "latency_ms" in row]
    engines = list(dict.fromkeys(row["engine"] if row["precision"] == "float32" else "" for row in rows))
    cells = {(row["batch"], row["engine"]): row for row in rows if row["precision"] == "float32"}
    lines = [
        [str(batch), *(_inference(cells.get((batch, engine))) for engine in engines if engine)]
        for batch in dict.fromkeys(row["batch"] for row in rows)
    ]
    head = ["robots in one inference", *filter(None, engines)]
    return table(head, lines) + f"\n\n{figures['why']}"


def _inference(row: Figures | None) -> str:
    return "–" if row is None else f"{row['latency_ms']['p50']:.3g} ms, {row['robots_per_s']:.0f} robots/s"


def profile(load: Load) -> str:
    """Return where the node's time goes."""
    rows = []
    for name, label in (("fleet_64", "64 robots, 64×64"), ("fleet_224", "16, 224×224"), ("fleet_480", "16, 640×480")):
        try:
            node = load(name)["node"]
        except Missing:
            return NOT_MEASURED
        stages = ", ".join(f"{stage} {value['p50']:.2f}" for stage, value in node["stages_ms"].items())
        threads = ", ".join(
            f"`{thread}` {value:.0f}"
            for thread, value in node["cpu_us_per_robot_tick_by_thread"].items()
            if value >= 0.01 * node["cpu_us_per_robot_tick"]
        )
        rows.append([label, stages, threads])
    return table(["", "stages of the tick, p50 in ms", "CPU by thread, µs per robot and tick"], rows)


_TABLES: Mapping[str, Callable[[Load], str]] = {
    "goals": goals,
    "machine": machine,
    "beside": beside,
    "scale": scale,
    "options": options,
    "transport": transport,
    "pipeline": pipeline,
    "policy": policy,
    "profile": profile,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
