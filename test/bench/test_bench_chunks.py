# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""`policy_bench chunks` measures plans over DDS and in process, and writes consistent figures."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from policy_node_bench.chunks import smoothness
from policy_node_bench.chunks.measure import ChunksOptions, _parameters
from policy_node_bench.chunks.smoothness import AGGREGATES, largest_jumps
from policy_node_bench.tables import PLANNERS


@pytest.mark.over_dds
@pytest.mark.slow
def test_a_slow_policy_is_measured_beside_the_tick_and_in_it(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    arguments = ["--robots", "2", "--inference-ms", "60", "--horizon", "20", "--rate", "20", "--seconds", "4"]
    command = [sys.executable, "-m", "policy_node_bench.cli", "chunks", *arguments, "--json", str(file)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    figures = json.loads(file.read_text())
    assert 0.0 <= figures["missed_fraction"] <= 1.0
    for name in ("lateness_ms", "lateness_fast_ms"):
        assert 0.0 <= figures[name]["p50"] <= figures[name]["p99"]
    assert 0.0 < figures["plans_per_robot_s"] <= 2.5
    assert set(figures["reaction_ms"]) == set(PLANNERS)
    # An inference takes longer than a period, and a reaction longer than an inference.
    assert figures["reaction_ms"]["background"]["p50"] > 60.0
    assert set(figures["largest_jump"]) == set(AGGREGATES)
    assert "largest change of a command" in run.stdout


def test_blends_and_prefixes_jump_less_than_plans_that_replace_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smoothness, "SIMULATED_S", 6.0)
    parameters = _parameters(ChunksOptions(robots=1), 25)
    found = largest_jumps(parameters, tmp_path, 50, 0.3)
    newest = found["newest"]["jump"]
    assert newest > 2 * found["newest"]["step"]
    assert max(found[name]["jump"] for name in ("blend", "prefix")) < 0.7 * newest
