# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The demonstration: the files of a short run, and their content for a given recording."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from node_harness import PATIENCE_S
from PIL import Image

from policy_node.engines.backends import ENGINES
from policy_node_bench.harness.untrained import untrained_model
from policy_node_rover.demo.report import Frame, Recording, animation_speed, summarise, write_report
from policy_node_rover.mujoco.environment import action_space, observation_space

REQUIRED = {
    "robots",
    "rate_hz",
    "ticks",
    "missed_ticks",
    "presses",
    "robots_that_pressed",
    "tick_ms",
    "stamp_to_command_ms",
    "lateness_ms",
    "node_cpu_percent",
    "rmw",
    "device",
}


def run_demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "policy_node_rover.demo.cli", *arguments]
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=3 * PATIENCE_S, check=False
    )


@pytest.mark.over_dds
@pytest.mark.slow
def test_a_short_run_leaves_its_three_files(tmp_path: Path) -> None:
    model = tmp_path / "untrained.zip"
    untrained_model(observation_space(), action_space()).save(model)
    output = tmp_path / "output"
    demo = run_demo("--robots", "2", "--duration-s", "3", "--output", str(output), "--model", str(model))
    assert demo.returncode == 0, demo.stdout
    summary = json.loads((output / "summary.json").read_text())
    assert summary.keys() >= REQUIRED
    assert summary["robots"] == 2
    assert summary["policy"] == "untrained.zip"
    assert summary["device"] == "cpu" or summary["device"].startswith("cuda")
    assert summary["engine"].partition(" ")[0] in ENGINES.names
    assert summary["ticks"] > 0
    assert summary["duration_s"] > 2.0
    for name in ("tick_ms", "stamp_to_command_ms", "lateness_ms"):
        assert 0.0 <= summary[name]["p50"] <= summary[name]["p99"]
    assert (output / "latency.png").read_bytes().startswith(b"\x89PNG")
    with Image.open(output / "fleet.gif") as animation:
        assert animation.n_frames > 1
    for text in ("beacons pressed", "stamp to command", str(output / "fleet.gif")):
        assert text in demo.stdout


@pytest.mark.over_dds
@pytest.mark.slow
def test_an_act_of_lerobot_drives_the_rovers_by_its_plans(tmp_path: Path) -> None:
    params = Path(__file__).resolve().parents[2] / "config" / "rover_act.yaml"
    report = tmp_path / "report.json"
    words = ["--robots", "3", "--episodes", "3", "--json", str(report), "--output", str(tmp_path)]
    demo = run_demo("evaluate", "--params", str(params), *words)
    assert demo.returncode == 0, demo.stdout
    found = json.loads(report.read_text())
    assert found["policy"] == "rover_act.onnx"
    assert found["success_rate"] >= 2 / 3
    assert "in_process" not in found


@pytest.mark.over_dds
@pytest.mark.slow
def test_it_serves_the_page_of_the_fleet_meanwhile(tmp_path: Path) -> None:
    model = tmp_path / "untrained.zip"
    untrained_model(observation_space(), action_space()).save(model)
    options = ["--robots", "1", "--duration-s", "3", "--output", str(tmp_path), "--model", str(model)]
    demo = run_demo(*options, "--web", "--port", "0")
    assert demo.returncode == 0, demo.stdout
    assert "the page is at http://127.0.0.1:" in demo.stdout
    # A port that is taken.
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        demo = run_demo(*options, "--web", "--port", str(port))
    assert demo.returncode == 1 and f"the page cannot be served at 127.0.0.1, port {port} " in demo.stdout


@pytest.mark.over_dds
@pytest.mark.timing
@pytest.mark.slow
def test_the_shipped_policy_presses_beacons(tmp_path: Path) -> None:
    # Its exit status also says whether the machine was fast enough.
    demo = run_demo("--robots", "2", "--duration-s", "20", "--output", str(tmp_path))
    assert (tmp_path / "summary.json").exists(), demo.stdout
    assert json.loads((tmp_path / "summary.json").read_text())["presses"] > 0


@pytest.mark.slow
def test_a_policy_that_is_not_there_ends_it_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("of an earlier run")
    demo = run_demo("--robots", "1", "--output", str(tmp_path), "--model", str(tmp_path / "missing.zip"))
    assert demo.returncode == 1
    assert "missing.zip" in demo.stdout
    assert "Traceback" not in demo.stdout
    assert sorted(file.name for file in tmp_path.iterdir()) == ["policy_node.log", "rover_sim.log"]


def _recording(frames: list[Frame]) -> Recording:
    timing_ms = np.column_stack([np.arange(1.0, 102.0), np.full(101, 3.0), np.full(101, 20.0), np.full(101, np.nan)])
    timing_ms = np.column_stack([timing_ms, np.full(101, 40.0)])
    return Recording(
        robots=("rover_0", "rover_1", "rover_2"),
        elapsed_s=5.0,
        ticks=101,
        missed_ticks=2,
        presses=(4, 0, 1),
        timing_ms=timing_ms,
        cpu_percent={"node": 7.5},
        about={"control_rate_hz": 20.0, "rmw": "rmw_fastrtps_cpp", "device": "cpu"},
        frames=frames,
    )


def test_the_summary_has_the_figures_of_the_recording() -> None:
    summary = summarise(_recording([]))
    assert summary.keys() >= REQUIRED
    assert summary["rate_hz"] == 20.2
    assert summary["presses"] == 5
    assert summary["robots_that_pressed"] == 2
    assert summary["lateness_ms"] == {"p50": 51.0, "p99": 100.0}
    assert summary["tick_ms"] == {"p50": 3.0, "p99": 3.0}
    # Robots that are not ready do not count.
    assert summary["stamp_to_command_ms"] == {"p50": 30.0, "p99": 40.0}
    assert summary["node_cpu_percent"] == 7.5


@pytest.mark.slow
def test_the_animation_shows_every_frame_and_missing_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    camera = rng.integers(0, 255, (64, 64, 3), np.uint8)
    overview = rng.integers(0, 255, (240, 240, 3), np.uint8)
    frames = [
        Frame(0.0, [None, None, None], None, [0, 0, 0]),
        Frame(0.5, [camera, None, camera], overview, [0, 0, 0]),
        Frame(1.0, [camera, camera, camera], overview, [0, 0, 1]),
    ]
    files = write_report(_recording(frames), tmp_path)
    assert {file.name for file in files} == {"summary.json", "latency.png", "fleet.gif"}
    with Image.open(tmp_path / "fleet.gif") as animation:
        assert animation.n_frames == 3
        assert animation.info["loop"] == 0


def test_the_animation_states_its_speed() -> None:
    frames = [Frame(0.25 * frame, [], None, []) for frame in range(1, 9)]
    assert animation_speed(frames) == 2.0
    assert animation_speed(frames[::2]) == 4.0
    assert animation_speed(frames[:1]) == 1.0
