# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""`policy_bench smoke` counts what a step does, the same in every run, and says what is worse."""

import gc
import json
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from policy_node.cli.child_process import ToolError
from policy_node.report.figures import machine
from policy_node_bench.smoke import COUNTS, ROBOTS, VERSIONS, compare, load_stored
from policy_node_bench.tables import SMOKE_COUNTS

STORED_FILE = Path(__file__).parents[2] / "doc" / "performance" / "smoke.json"
IMAGE = np.zeros((64, 64, 3), np.uint8)
TENSOR = torch.zeros(3)


def helper() -> None:
    """Be called."""


def call_helper_three_times() -> None:
    for _ in range(3):
        helper()


def call_len_twice() -> None:
    len("a")
    len("b")


def add_tensors() -> None:
    TENSOR + TENSOR + TENSOR


def copy_an_image_twice() -> None:
    first = IMAGE.copy()
    second = IMAGE.copy()
    del first, second


def copy_an_image_in_one_instruction() -> None:
    # Freed before the next instruction runs.
    IMAGE.copy()


def make_objects() -> list[object]:
    return [object() for _ in range(100)]


@pytest.mark.both_distributions
@pytest.mark.parametrize(
    "name, run, least, most",
    [
        ("calls", call_helper_three_times, 4, 4),
        # `range` is a class, not a function.
        ("c_calls", call_len_twice, 2, 2),
        ("torch_operations", add_tensors, 2, 2),
        ("torch_operations", helper, 0, 0),
        ("array_bytes", copy_an_image_twice, 2 * IMAGE.nbytes, 2 * IMAGE.nbytes + 2000),
        ("array_bytes", copy_an_image_in_one_instruction, IMAGE.nbytes, IMAGE.nbytes + 1000),
        ("array_bytes", make_objects, 0, 0),
        ("allocations", make_objects, 100, 115),
    ],
)
def test_what_a_function_does_is_counted(name, run, least, most):
    count = COUNTS[name].count
    # Others may have asked to be called at a collection.
    gc.disable()
    try:
        count(run)
        found = [count(run) for _ in range(3)]
    finally:
        gc.enable()
    assert all(least <= number <= most for number in found)


def figures(number: int) -> dict:
    return {"counts": {str(robots): dict.fromkeys(COUNTS, number) for robots in ROBOTS}}


def verdicts(stored: int, now: int) -> set[str]:
    return {row["verdict"] for row in compare(figures(now), figures(stored))}


@given(number=st.integers(0, 10**7))
def test_equal_counts_are_neither_worse_nor_better(number):
    assert verdicts(number, number) == {""}


@given(stored=st.integers(0, 10**7), now=st.integers(0, 10**7), robots=st.sampled_from(ROBOTS))
def test_a_count_is_worse_beyond_its_tolerance_only(stored, now, robots):
    for name, kind in COUNTS.items():
        changed = deepcopy(figures(stored))
        changed["counts"][str(robots)][name] = now
        rows = [row for row in compare(changed, figures(stored)) if row["verdict"]]
        if now > stored * (1 + kind.share) + kind.units:
            expected = [{"robots": str(robots), "name": name, "stored": stored, "count": now, "verdict": "worse"}]
            assert rows == expected
        else:
            assert all(row["verdict"] == "better" and row["name"] == name and now < stored for row in rows)


def test_a_call_more_for_each_robot_is_worse():
    stored = json.loads(STORED_FILE.read_text())
    now = deepcopy(stored)
    now["counts"]["16"]["calls"] += 16
    worse = [row for row in compare(now, stored) if row["verdict"] == "worse"]
    assert [(row["robots"], row["name"]) for row in worse] == [("16", "calls")]


def test_a_copy_of_a_batch_is_worse():
    stored = json.loads(STORED_FILE.read_text())
    now = deepcopy(stored)
    now["counts"]["1"]["array_bytes"] += IMAGE.nbytes
    assert [row["name"] for row in compare(now, stored) if row["verdict"] == "worse"] == ["array_bytes"]


def test_what_is_not_stored_is_said():
    stored = figures(5)
    del stored["counts"]["16"]["calls"]
    assert [row["name"] for row in compare(figures(5), stored) if row["verdict"] == "not stored"] == ["calls"]


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"machine": {"python": "3.11.7"}, "counts": 3}'])
def test_the_error_names_a_file_without_counts(tmp_path, text):
    file = tmp_path / "stored.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ToolError, match=r"--against: found '.*stored\.json', which has no counts"):
        load_stored(str(file))


def test_the_error_names_the_other_python(tmp_path):
    file = tmp_path / "stored.json"
    file.write_text(json.dumps({"machine": {"python": "3.9.1"}, **figures(1)}))
    with pytest.raises(ToolError, match=r"--against: found counts of Python 3\.9\.1"):
        load_stored(str(file))


def test_every_count_has_a_label():
    assert set(COUNTS) == set(SMOKE_COUNTS)


@pytest.mark.slow
def test_no_count_is_worse_than_the_stored_one():
    stored = json.loads(STORED_FILE.read_text())["machine"]
    others = [
        f"{name} {version}" for name, version in machine().items() if name in VERSIONS and stored[name] != version
    ]
    if others:
        pytest.skip(f"{STORED_FILE.name} was counted with other versions than {', '.join(others)}")
    command = [
        sys.executable,
        "-m",
        "policy_node_bench.cli",
        "smoke",
        "--seconds",
        "0.1",
        "--against",
        str(STORED_FILE),
    ]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert run.returncode == 0, f"run `make smoke`; if this is meant, `make smoke-figures`\n{run.stdout}{run.stderr}"


@pytest.mark.slow
def test_two_runs_count_the_same_and_a_smaller_stored_count_fails(tmp_path):
    file, again = tmp_path / "figures.json", tmp_path / "again.json"
    command = [sys.executable, "-m", "policy_node_bench.cli", "smoke", "--seconds", "0.1"]
    first = subprocess.run([*command, "--json", str(file)], capture_output=True, text=True, timeout=600, check=False)
    assert first.returncode == 0, first.stdout + first.stderr
    figures = json.loads(file.read_text())
    assert set(figures["counts"]) == set(figures["overhead_ratio"]) == {"1", "16"}
    assert all(counts.keys() == COUNTS.keys() and counts["calls"] > 0 for counts in figures["counts"].values())
    assert "compared" not in figures

    counts = deepcopy(figures["counts"])
    figures["counts"]["16"]["c_calls"] //= 2
    file.write_text(json.dumps(figures))
    arguments = ["--against", str(file), "--json", str(again)]
    second = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=600, check=False)
    assert second.returncode == 1, second.stdout + second.stderr
    assert "worse: c_calls of a step with 16 robots" in second.stdout
    found = json.loads(again.read_text())
    assert found["violations"] == 1
    for robots, before in counts.items():
        for name, count in found["counts"][robots].items():
            kind = COUNTS[name]
            assert abs(count - before[name]) <= before[name] * kind.share + kind.units
