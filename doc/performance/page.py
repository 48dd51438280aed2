# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Fill the tables of doc/performance.md and of the README from the figures that `measure.sh` wrote to this folder.

`python doc/performance/page.py [FOLDER]` writes the tables; a test compares them with the figures.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from policy_node_bench.tables import (
    CAPACITY_LOOPS,
    LOOPS,
    capacity_rows,
    chunk_rows,
    fleet_rows,
    image_rows,
    jump_rows,
    percent,
    pipeline_rows,
    scale_rows,
    times,
)

HERE = Path(__file__).parent
PAGES = (HERE.parent / "performance.md", HERE.parents[1] / "README.md")
NOT_MEASURED = "not measured yet"
_BLOCK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

Figures = Mapping[str, Any]


class Missing(Exception):  # noqa: N818  not an error: the table shows that the figures are missing
    """A file of figures does not exist."""


def main(arguments: Sequence[str]) -> int:
    """Write the pages from the figures in a folder."""
    folder = Path(arguments[0]) if arguments else HERE
    for page in PAGES:
        page.write_text(filled(page.read_text(), folder))
    return 0


def filled(text: str, folder: Path) -> str:
    """Return a page with its tables filled from the figures in a folder."""

    def fill(match: re.Match[str]) -> str:
        try:
            content = _TABLES[match[2]](lambda name: load(folder, name))
        except Missing:
            content = NOT_MEASURED
        return f"{match[1]}{content}\n{match[3]}"

    return _BLOCK.sub(fill, text)


def load(folder: Path, name: str) -> Figures:
    """Return the figures of one measurement, or raise `Missing`."""
    file = folder / f"{name}.json"
    if not file.exists():
        raise Missing(name)
    return json.loads(file.read_text())


Load = Callable[[str], Figures]


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown; the first row is the head."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def verdict(reached: bool, text: str) -> str:
    """Return a result, marked if it does not reach the target."""
    return text if reached else f"{text} (**not reached**)"


def goals(load: Load) -> str:
    """Return the targets and results."""
    rows: list[tuple[str, str, Callable[[], str]]] = [
        (
            "64 robots, 64×64 camera and touch, 20 Hz",
            "CPU per robot and tick 10 times below that of today's loop; missed ≤ 1 %, fresh ≥ 98 %",
            lambda: _fleet(load("fleet_64"), 10, 0.98),
        ),
        (
            "16 robots, 224×224",
            "5 times below; missed ≤ 1 %, fresh ≥ 97 %",
            lambda: _fleet(load("fleet_224"), 5, 0.97),
        ),
        ("16 robots, 640×480", "fresh ≥ 95 %", lambda: _large(load("fleet_480"), load("fleet_480_default"))),
        (
            "1 robot, 64×64 camera and touch, 20 Hz",
            "CPU per tick ≤ 1.5 ms, 3.5 times below that of today's loop",
            lambda: _cost(load("scale"), 1, 1500, 3.5),
        ),
        ("16 robots", "CPU per robot and tick ≤ 285 µs, 10 times below", lambda: _cost(load("scale"), 16, 285, 10)),
        ("64 robots", "CPU per robot and tick ≤ 210 µs", lambda: _cost(load("scale"), 64, 210, 0)),
        ("`capacity`, two cores", "≥ 200 robots", lambda: _capacity(load("capacity"))),
        (
            "`pipeline`, 1, 16, 64 robots, CPU",
            "`overhead_ratio` ≤ 1.4, 1.15, 1.1 with pauses",
            lambda: ", ".join(
                _ratio(load(name), most)
                for name, most in (("pipeline_1", 1.4), ("pipeline_16", 1.15), ("pipeline", 1.1))
            ),
        ),
        (
            "lateness p99, 16 robots, 50 Hz",
            "≤ 1.5 ms; with real-time priority ≤ 0.5 ms",
            lambda: _lateness(load("lateness")),
        ),
        (
            "`chunks`, 16 robots, 50 Hz, inference of 300 ms, horizon 50",
            "missed 0, lateness p99 within 1.5 times that with a fast policy, a plan every 0.5 s",
            lambda: _chunks(load("chunks")),
        ),
        (
            "exported legged policy (48 → 12, MLP), 1 and 64 robots, 50 Hz",
            "tick p50 ≤ 0.5 ms, 3 ms",
            lambda: "; ".join(_legged(load(name), most) for name, most in (("legged_1", 0.5), ("legged_64", 3.0))),
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
    return table([("case", "target", "result"), *((case, goal, _or_open(result)) for case, goal, result in rows)])


def _or_open(result: Callable[[], str]) -> str:
    try:
        return result()
    except Missing as missing:
        return "open: no GPU was available" if "gpu" in str(missing) else NOT_MEASURED


def _fleet(figures: Figures, ratio: float, fresh: float) -> str:
    node = figures["node"]
    parts = (
        verdict(figures["ratio_cpu"] >= ratio, f"{figures['ratio_cpu']:.1f} times"),
        verdict(node["missed_fraction"] <= 0.01, f"missed {percent(node['missed_fraction'])}"),
        verdict(node["fresh_fraction"] >= fresh, f"fresh {percent(node['fresh_fraction'])}"),
    )
    return ", ".join(parts)


def _cost(figures: Figures, robots: int, most_us: float, ratio: float) -> str:
    fleet = next(each for each in figures["fleets"] if each["options"]["robots"] == robots)
    cost_us = fleet["node"]["cpu_us_per_robot_tick"]
    parts = [verdict(cost_us <= most_us, f"{cost_us:.0f} µs")]
    parts.append(verdict(fleet["ratio_cpu"] >= ratio, f"{fleet['ratio_cpu']:.1f} times below today's loop"))
    if "ratio_cpu_batched" in fleet:
        parts.append(f"{fleet['ratio_cpu_batched']:.1f} times below the batched one")
    return ", ".join(parts)


def _capacity(figures: Figures) -> str:
    found = figures["capacity"]
    others = f"today's loop {found['naive']}, batched {found['batched']}"
    return f"{verdict(found['node'] >= 200, str(found['node']))}; {others}"


def _ratio(figures: Figures, most: float) -> str:
    return verdict(figures["overhead_ratio"] <= most, f"{figures['overhead_ratio']:.2f}")


def _large(figures: Figures, default: Figures) -> str:
    fresh = figures["node"]["fresh_fraction"]
    without = percent(default["node"]["fresh_fraction"])
    return verdict(fresh >= 0.95, f"{percent(fresh)} ({without} with default Fast DDS)")


def _lateness(figures: Figures) -> str:
    plain, realtime = figures["node"]["lateness_ms"]["p99"], figures["versus"][0]["lateness_ms"]["p99"]
    return f"{verdict(plain <= 1.5, f'{plain:.2f} ms')}; {verdict(realtime <= 0.5, f'{realtime:.2f} ms')}"


def _legged(figures: Figures, most_ms: float) -> str:
    node, *loops = (figures[loop]["tick_ms"]["p50"] for loop in LOOPS)
    others = " and ".join(f"{loop:.3g}" for loop in loops)
    return f"{verdict(node <= most_ms, f'{node:.3g} ms')}, {others} ms in today's loops with onnxruntime"


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
    """Return the machine of the measurements."""
    found = load("scale")["machine"]
    versions = ", ".join(f"{name} {found[name]}" for name in ("torch", "onnxruntime", "stable-baselines3", "rclpy"))
    return (
        f"{found['cpu']}, {found['cores']} cores, no GPU; {found['system']}; Python {found['python']}, {versions}, "
        f"{found['rmw']}. Load of the machine before the first run: {found['load_before']:.1f}."
    )


def beside(load: Load) -> str:
    """Return node and baseline for 64 robots."""
    figures = load("fleet_64")
    return table(fleet_rows({label: figures[loop] for loop, label in LOOPS.items() if loop in figures}))


def headline(load: Load) -> str:
    """Return the figures of the README: what a loop serves, and what it costs."""
    fleets = {fleet["options"]["robots"]: fleet for fleet in load("scale")["fleets"]}
    try:
        served = load("capacity")["capacity"]
    except Missing:
        served = {}

    def cells(robots: int, cell: Callable[[Figures], str]) -> list[str]:
        return [cell(fleets[robots][loop]) if loop in fleets[robots] else NOT_MEASURED for loop in LOOPS]

    def cost(loop: Figures) -> str:
        return f"{loop['cpu_us_per_robot_tick']:.0f} µs"

    rows = [
        ["", *LOOPS.values()],
        ["robots served", *(str(served.get(name, NOT_MEASURED)) for name in CAPACITY_LOOPS)],
        ["CPU per tick, 1 robot", *cells(1, cost)],
        ["CPU per robot and tick, 16 robots", *cells(16, cost)],
        [
            "camera stamp to command, 16 robots, p50 / p99",
            *cells(16, lambda loop: f"{times(loop['stamp_to_command_ms'])} ms"),
        ],
    ]
    return table(rows)


def capacity(load: Load) -> str:
    """Return how many robots each loop serves, and why no more."""
    return table(capacity_rows(load("capacity")))


def overhead(load: Load) -> str:
    """Return the step against the forward pass by the number of robots."""
    rows = [["robots", "step, p50 / p99", "forward pass alone, p50 / p99", "`overhead_ratio`"]]
    for name in ("pipeline_1", "pipeline_16", "pipeline"):
        figures = load(name)
        engine = figures["engines"]["auto"]
        cells = [f"{times(engine[part])} ms" for part in ("step_ms", "forward_ms")]
        rows.append([str(figures["options"]["robots"]), *cells, f"{engine['overhead_ratio']:.2f}"])
    return table(rows)


def scale(load: Load) -> str:
    """Return cost and delays by the number of robots."""
    return table(scale_rows(load("scale")["fleets"]))


def options(load: Load) -> str:
    """Return the effect of each option."""
    rows = [["16 robots", "", "CPU per robot and tick", "tick, p50 / p99", "lateness, p50 / p99 / max", "missed"]]
    for where, figures in (("224×224, 20 Hz", load("options")), ("64×64, 50 Hz", load("lateness"))):
        loops = [("default", figures["node"]), *((f"`{versus['settings']}`", versus) for versus in figures["versus"])]
        rows += [
            [
                where,
                label,
                f"{loop['cpu_us_per_robot_tick']:.0f} µs",
                f"{times(loop['tick_ms'])} ms",
                f"{times(loop['lateness_ms'], ('p50', 'p99', 'max'))} ms",
                percent(loop["missed_fraction"]),
            ]
            for label, loop in loops
        ]
    return table(rows)


def transport(load: Load) -> str:
    """Return the effect of the profile of Fast DDS on large images."""
    measured = {"`config/fastdds.xml`": load("fleet_480"), "default Fast DDS": load("fleet_480_default")}
    rows = fleet_rows({label: figures["node"] for label, figures in measured.items()})
    rows[0][0] = "16 robots, 640×480"
    return table([*rows, ["published at", *(f"{each['published']['rate_hz']:.2f} Hz" for each in measured.values())]])


def pipeline(load: Load) -> str:
    """Return the stages of a step and the forward pass by engine."""
    figures = load("pipeline")
    return table(pipeline_rows(figures["engines"])) + (
        f"\n\n`model.predict`, one robot after another: {times(figures['predict_ms'])} ms for all 64, "
        f"{figures['ratio_predict']:.1f} times a whole step."
    )


def policy(load: Load) -> str:
    """Return the time of one inference by batch size and engine, and the recommendation."""
    figures = load("policy")
    rows = [row for row in figures["rows"] if "latency_ms" in row and row["precision"] == "float32"]
    engines = list(dict.fromkeys(row["engine"] for row in rows))
    cells = {
        (row["batch"], row["engine"]): f"{row['latency_ms']['p50']:.3g} ms, {row['robots_per_s']:.0f} robots/s"
        for row in rows
    }
    lines = [
        [str(batch), *(cells.get((batch, engine), "–") for engine in engines)]
        for batch in dict.fromkeys(row["batch"] for row in rows)
    ]
    return table([["robots in one inference", *engines], *lines]) + f"\n\n{figures['why']}"


def chunks(load: Load) -> str:
    """Return lateness, plans and reactions of a policy that takes longer than a tick."""
    return table(chunk_rows(load("chunks")))


def jumps(load: Load) -> str:
    """Return how far commands jump where plans follow each other."""
    return table(jump_rows(load("chunks")))


def _chunks(figures: Figures) -> str:
    p99, fast = figures["lateness_ms"]["p99"], figures["lateness_fast_ms"]["p99"]
    plans, missed = figures["plans_per_robot_s"], figures["missed_fraction"]
    parts = (
        verdict(missed == 0, f"missed {percent(missed)}"),
        verdict(p99 <= 1.5 * fast, f"lateness p99 {p99:.2f} ms, {fast:.2f} ms with the fast policy"),
        verdict(plans >= 1.9, f"{plans:.2f} plans per robot and s"),
        f"missed {percent(figures['tick']['missed_fraction'])} in the tick",
    )
    return ", ".join(parts)


def profile(load: Load) -> str:
    """Return the time of the node by stage and thread."""
    rows = [["", "stages of the tick, p50 in ms", "CPU by thread, µs per robot and tick"]]
    for name, label in (("fleet_64", "64 robots, 64×64"), ("fleet_224", "16, 224×224"), ("fleet_480", "16, 640×480")):
        node = load(name)["node"]
        least = 0.01 * node["cpu_us_per_robot_tick"]
        threads = node["cpu_us_per_robot_tick_by_thread"].items()
        stages = ", ".join(f"{stage} {value['p50']:.2f}" for stage, value in node["stages_ms"].items())
        rows.append(
            [label, stages, ", ".join(f"`{thread}` {value:.0f}" for thread, value in threads if value >= least)]
        )
    return table(rows)


_TABLES: Mapping[str, Callable[[Load], str]] = {
    "goals": goals,
    "machine": machine,
    "beside": beside,
    "headline": headline,
    "scale": scale,
    "capacity": capacity,
    "overhead": overhead,
    "options": options,
    "transport": transport,
    "pipeline": pipeline,
    "policy": policy,
    "profile": profile,
    "images": lambda load: table(image_rows(load("images"))),
    "chunks": chunks,
    "jumps": jumps,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
