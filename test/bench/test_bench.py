# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""`policy_bench fleet` and `policy_bench pipeline` measure over DDS and in process, and write consistent figures."""

import json
import math
import os
import runpy
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from forked import ForkedProcess
from node_harness import PATIENCE_S

from policy_node.report.figures import distribution
from policy_node.ros.deployment import deploy
from policy_node_bench.cli import main, make_parser
from policy_node_bench.fleet import FleetOptions
from policy_node_bench.forward_pass import BareSession, forward_pass
from policy_node_bench.harness.observer import Round, summary
from policy_node_bench.harness.robots import check_parameters, robot_parameters, untrained_policy
from policy_node_bench.harness.turns import Part, in_turn, ratio_of_turns

DISTRIBUTIONS = ("tick_ms", "lateness_ms", "stamp_to_command_ms")


def policy_bench(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program with its temporary files in `folder`, which also identifies its child processes."""
    environment = os.environ | {"TMPDIR": str(folder)}
    command = [sys.executable, "-m", "policy_node_bench.cli", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.over_dds
@pytest.mark.slow
def test_both_loops_are_measured_over_dds(tmp_path):
    file = tmp_path / "figures.json"
    run = policy_bench(
        tmp_path,
        *("fleet", "--robots", "2", "--image", "48x36", "--seconds", "1", "--baseline"),
        *(
            "--versus",
            "realtime.freeze_gc:=false no_malloc",
            "--json",
            str(file),
            "--plot",
            str(tmp_path / "figures.png"),
        ),
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "today's loop" in run.stdout

    figures = json.loads(file.read_text())
    assert figures["options"]["robots"] == 2
    assert figures["options"]["image"] == [48, 36]
    assert figures["machine"]["cores"] > 0 and figures["machine"]["rmw"].startswith("rmw_")
    assert 0 < figures["published"]["rate_hz"] <= 30.0
    assert figures["versus"][0]["settings"] == "realtime.freeze_gc:=false no_malloc"
    assert (tmp_path / "figures.png").read_bytes().startswith(b"\x89PNG")
    assert {"take", "infer", "publish"} <= figures["node"]["stages_ms"].keys()
    for loop in (figures["node"], figures["baseline"], figures["baseline_batched"], figures["versus"][0]):
        assert loop["ticks"] > 0
        assert loop["cpu_us_per_robot_tick"] > 0
        assert loop["cpu_us_per_robot_tick_by_round"] == [pytest.approx(loop["cpu_us_per_robot_tick"])]
        for name in DISTRIBUTIONS:
            assert 0 <= loop[name]["p50"] <= loop[name]["p99"] <= loop[name]["max"]
        assert 0 <= loop["missed_fraction"] <= 1
        # On a busy machine no data may be fresh.
        assert 0 <= loop["fresh_fraction"] <= 1
        assert loop["rss_mb"] > 0
        assert loop["cpu_us_per_robot_tick_by_thread"]
    for ratio, loop in (("ratio_cpu", "baseline"), ("ratio_cpu_batched", "baseline_batched")):
        assert figures[ratio] == pytest.approx(
            figures[loop]["cpu_us_per_robot_tick"] / figures["node"]["cpu_us_per_robot_tick"]
        )
    assert figures["baseline"]["synchroniser"] == figures["baseline_batched"]["synchroniser"]
    environments = [process.info["environ"] or {} for process in psutil.process_iter(["environ"])]
    assert not any(environment.get("TMPDIR") == str(tmp_path) for environment in environments)
    assert not list(tmp_path.glob("policy_bench_*"))


def measured(rows: list[list[float]], cpu_s: float, missed: int, rss_mb: float) -> Round:
    """Return a round with one thread and one stage."""
    stages = {"infer": np.array([[1.0, 2.0], [3.0, 4.0]])}
    return Round(0.0, 1.0, np.array(rows), cpu_s, {"all": cpu_s}, stages, "direct", missed, rss_mb)


def test_a_summary_combines_all_rounds():
    # One robot, two rounds: lateness, duration, age; the second tick of the first round had no data.
    rounds = [
        measured([[1.0, 2.0, 50.0], [3.0, 4.0, math.nan]], cpu_s=0.002, missed=1, rss_mb=100.0),
        measured([[5.0, 6.0, 150.0]], cpu_s=0.004, missed=0, rss_mb=200.0),
    ]
    figures = summary(rounds, max_age_s=0.1)
    assert figures["ticks"] == 3
    assert figures["cpu_us_per_robot_tick"] == pytest.approx(2000.0)
    assert figures["cpu_us_per_robot_tick_by_round"] == pytest.approx([1000.0, 4000.0])
    assert figures["lateness_ms"]["p50"] == 3.0 and figures["tick_ms"]["max"] == 6.0
    assert figures["stamp_to_command_ms"] == pytest.approx({"p50": 100.0, "p99": 149.0, "max": 150.0})
    assert figures["missed_fraction"] == 0.25
    assert figures["fresh_fraction"] == pytest.approx(1 / 3)
    assert figures["rss_mb"] == 200.0
    assert figures["cpu_us_per_robot_tick_by_thread"] == pytest.approx({"all": 2000.0})
    assert figures["stages_ms"] == {"infer": {"p50": 2.0, "p99": 4.0}}


def test_a_distribution_without_finite_values_is_empty():
    assert distribution(np.array([math.nan])) == {"p50": None, "p99": None, "max": None}


@pytest.mark.parametrize("text, size", [("64", (64, 64)), ("640x480", (640, 480))])
def test_image_sizes_are_parsed_as_width_by_height(text, size):
    assert make_parser().parse_args(["fleet", "--image", text]).image == size


@pytest.mark.parametrize(
    "option, text, allowed",
    [
        ("--image", "64x", "give S or WxH"),
        ("--image", "20", "at least 36 pixels"),
        ("--robots", "0", "allowed is a whole number of at least 1"),
        ("--rate", "fast", "allowed is a number of at least 1"),
        ("--set", "realtime.priority", "give NAME:=VALUE"),
    ],
)
def test_errors_name_the_invalid_option(capsys, option, text, allowed):
    with pytest.raises(SystemExit):
        make_parser().parse_args(["fleet", option, text])
    message = capsys.readouterr().err
    assert option in message and f"'{text}'" in message and allowed in message


def test_the_error_names_a_missing_model(tmp_path):
    run = ForkedProcess(main, ["fleet", "--model", str(tmp_path / "missing.zip")])
    said, _ = run.communicate(PATIENCE_S)
    assert run.returncode == 1
    assert "--model" in said and "missing.zip" in said


@pytest.mark.slow
def test_the_error_names_an_unknown_parameter():
    run = ForkedProcess(main, ["fleet", "--robots", "1", "--set", "realtime.priorty:=50"])
    said, _ = run.communicate(PATIENCE_S)
    assert run.returncode == 1
    assert "--set" in said and "realtime.priorty" in said


def test_data_is_fresh_after_one_lost_reading_but_not_after_two():
    options = FleetOptions(robots=1, sensor_rate_hz=30.0, rate_hz=20.0)
    assert 2 / 30 < options.max_age_s <= 3 / 30
    assert options.slop_s < 2 / 30


@pytest.mark.slow
def test_step_and_forward_pass_are_measured_for_each_engine(tmp_path):
    file, plot = tmp_path / "figures.json", tmp_path / "figures.png"
    run = policy_bench(
        tmp_path,
        *("pipeline", "--robots", "3", "--image", "48x36", "--stack", "2", "--engines", "direct,torchscript"),
        *("--seconds", "1", "--rate", "50", "--predict", "--json", str(file), "--plot", str(plot)),
    )
    assert run.returncode == 0, run.stdout + run.stderr
    figures = json.loads(file.read_text())
    assert {name: engine["engine"] for name, engine in figures["engines"].items()} == {
        "direct": "direct",
        "torchscript": "torchscript",
    }
    for engine in figures["engines"].values():
        stages_ms = sum(stage["p50"] for stage in engine["stages_ms"].values())
        assert 0 < stages_ms <= engine["step_ms"]["max"]
        assert engine["forward_ms"]["p50"] > 0 and engine["overhead_ratio"] > 0
    assert figures["overhead_ratio_direct"] == figures["overhead_ratio"]
    assert figures["ratio_predict"] > 0
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_parts_run_in_turn_with_their_preparation():
    calls: list[str] = []
    parts = {
        "a": Part(lambda: calls.append("a"), lambda: calls.append("before a"), lambda: calls.append("after a")),
        "b": Part(lambda: calls.append("b")),
    }
    times_ms = in_turn(parts, seconds=0.0, turn_s=0.0, turns=2, runs=2)
    assert calls == ["before a", "a", "before a", "a", "after a", "b", "b"] * 2
    assert {name: [len(turn) for turn in turns] for name, turns in times_ms.items()} == {"a": [2, 2], "b": [2, 2]}


def test_runs_start_at_multiples_of_the_period_after_their_preparation():
    starts_s, prepared_s = [], []
    part = Part(lambda: starts_s.append(time.monotonic()), lambda: prepared_s.append(time.monotonic()))
    times_ms = in_turn({"a": part, "b": part}, seconds=0.0, turn_s=0.0, turns=2, runs=1, period_s=0.02)
    assert [len(turn) for turns in times_ms.values() for turn in turns] == [1] * 4
    # A run that wakes up late may begin soon before the next one.
    assert all(prepared < start for prepared, start in zip(prepared_s, starts_s, strict=True))
    assert starts_s[-1] - prepared_s[0] >= 3 * 0.02


@pytest.mark.both_distributions
def test_the_bare_session_computes_the_actions_of_the_policy(tmp_path):
    model = untrained_policy(tmp_path, (48, 36))
    configuration = check_parameters(robot_parameters(3, 20.0, model) | {"policy.engine": "onnxruntime"})
    deployment = deploy(configuration)
    run = forward_pass(deployment, 3)
    assert isinstance(run, BareSession)
    run.actions[...] = np.nan
    run()
    rng = np.random.default_rng(0)
    examples = {key: spec.example(3, rng) for key, spec in deployment.policy.spec.observations.items()}
    wanted, _ = deployment.policy({key: torch.from_numpy(array) for key, array in examples.items()}, None)
    np.testing.assert_allclose(run.actions, wanted, atol=1e-5)


def test_the_ratio_compares_adjacent_turns():
    # The machine became ten times slower between the first turn and the second.
    assert ratio_of_turns([np.array([2.0, 2.0]), np.array([20.0])], [np.array([1.0]), np.array([10.0])]) == 2.0


def test_the_performance_page_has_the_figures_of_its_folder():
    folder = Path(__file__).parents[2] / "doc" / "performance"
    page = runpy.run_path(str(folder / "page.py"))
    for file in page["PAGES"]:
        assert file.read_text() == page["filled"](file.read_text(), folder), "run doc/performance/page.py"


def test_the_performance_page_marks_missing_measurements(tmp_path):
    page = runpy.run_path(str(Path(__file__).parents[2] / "doc" / "performance" / "page.py"))
    text = "before\n<!-- figures: goals -->\nold\n<!-- end -->\nafter\n"
    filled = page["filled"](text, tmp_path)
    assert filled.startswith("before\n<!-- figures: goals -->\n| case |") and filled.endswith("<!-- end -->\nafter\n")
    assert "not measured yet" in filled and "open: no GPU was available" in filled and "old" not in filled


def test_the_conversions_of_images_are_measured_beside_opencv(tmp_path: Path) -> None:
    file = tmp_path / "images.json"
    run = policy_bench(tmp_path, "images", "--size", "64x48", "--policy", "48x36", "--runs", "3", "--json", str(file))
    assert run.returncode == 0, run.stderr
    figures = json.loads(file.read_text())
    names = {row["name"]: row for row in figures["rows"]}
    assert len(names) == len(figures["rows"]) > 15
    assert all(row["decode_us"] > 0 for row in names.values())
    assert [name for name, row in names.items() if "opencv_us" not in row] == ["compressedDepth rvl to 32FC1"]
    assert "nv12 to rgb8" in run.stdout
