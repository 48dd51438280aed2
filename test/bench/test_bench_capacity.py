# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""`policy_bench capacity` finds the largest fleet that is served, and says why a larger one is not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from forked import ForkedProcess
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from policy_node_bench.capacity import largest_served, shortfall, show, try_loop
from policy_node_bench.fleet import Cores, FleetOptions
from policy_node_bench.harness.processes import ros_session
from policy_node_bench.tables import CAPACITY_LOOPS


@given(limit=st.integers(0, 3000), first=st.integers(1, 100), most=st.integers(1, 2000))
def test_the_search_finds_the_limit_and_tries_no_number_twice(limit, first, most):
    tried = []

    def serves(robots: int) -> bool:
        tried.append(robots)
        return robots <= limit

    assert largest_served(serves, first, most, 0.0) == min(limit, most)
    assert all(1 <= robots <= most for robots in tried)
    assert len(set(tried)) == len(tried) <= 2 * most.bit_length() + 1


@given(limit=st.integers(0, 3000), first=st.integers(1, 100), most=st.integers(1, 2000), resolution=st.floats(0, 1))
def test_the_limit_is_known_to_the_resolution(limit, first, most, resolution):
    found = largest_served(lambda robots: robots <= limit, first, most, resolution)
    assert found <= min(limit, most) <= found + max(0.0, resolution * found)


@pytest.mark.parametrize(
    "missed, fresh, said",
    [
        (0.01, 0.95, ""),
        (0.02, 0.95, "2.0 % of the ticks missed"),
        (0.0, 0.9, "90.0 % of the robots' data fresh"),
        (0.5, 0.0, "50.0 % of the ticks missed, 0.0 % of the robots' data fresh"),
    ],
)
def test_a_loop_is_served_with_few_missed_ticks_and_fresh_data(missed, fresh, said):
    assert shortfall({"missed_fraction": missed, "fresh_fraction": fresh}) == said


def test_the_table_says_why_the_next_larger_fleet_is_not_served():
    refused = [{"robots": robots, "served": False, "why": f"reason {robots}\nlog"} for robots in (32, 24)]
    figures = {
        "title": "64×64",
        "options": {"max_robots": 16},
        "cores": None,
        "capacity": {"node": 16, "naive": 16, "batched": 0},
        "tries": {"node": [], "naive": refused, "batched": refused},
    }
    console = Console(width=200, record=True)
    for part in show(figures):
        console.print(part)
    said = console.export_text()
    assert "no more than 16 were tried" in said and "24: reason 24" in said
    assert "reason 32" not in said and "log" not in said


def try_broken_policy(arguments: list[str]) -> int:
    """Try a loop with a file that is no policy, in a folder, and write what was found there."""
    folder = Path(arguments[0])
    model = folder / "broken.zip"
    model.write_text("not a policy")
    options = FleetOptions(robots=1, seconds=1.0, baseline=True)
    allowed = sorted(os.sched_getaffinity(0))
    with ros_session():
        found = try_loop(options, "naive", str(model), Cores(allowed[:1], allowed[-1:]), folder / "try", Console())
    (folder / "found.json").write_text(json.dumps(found))
    return 0


@pytest.mark.over_dds
@pytest.mark.slow
def test_a_loop_that_does_not_start_is_not_served(tmp_path: Path) -> None:
    # This process may have used ROS already.
    assert ForkedProcess(try_broken_policy, [str(tmp_path)], capture=False).wait(600.0) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["robots"] == 1 and not found["served"]
    assert "ended by itself" in found["why"]


@pytest.mark.over_dds
@pytest.mark.slow
def test_all_loops_are_searched_over_dds(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    arguments = ["--max-robots", "2", "--image", "48x36", "--seconds", "1", "--json", str(file)]
    command = [sys.executable, "-m", "policy_node_bench.cli", "capacity", *arguments]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    figures = json.loads(file.read_text())
    assert set(figures["capacity"]) == set(figures["tries"]) == set(CAPACITY_LOOPS)
    for name, tries in figures["tries"].items():
        served = [each["robots"] for each in tries if each["served"]]
        assert figures["capacity"][name] == max(served, default=0)
        assert tries[0]["robots"] == 2
        assert all(bool(each["why"]) != each["served"] for each in tries)
        assert all(each["cpu_us_per_robot_tick"] > 0 for each in tries if each["served"])
    assert "today's loop, batched" in run.stdout
