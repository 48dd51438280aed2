# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""`policy_bench policy`: every engine and batch is measured, and what is recommended follows from the figures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from policy_node_bench import cli as bench
from policy_node_bench import policy as bench_policy
from policy_node_bench.harness.untrained import untrained_model


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    space = spaces.Dict({"touch": spaces.Box(-1.0, 1.0, (6,), np.float32)})
    untrained_model(space, spaces.Box(-1.0, 1.0, (2,), np.float32)).save(tmp_path / "model.zip")
    return tmp_path / "model.zip"


def run(model_file: Path, *arguments: str) -> int:
    threads = torch.get_num_threads()
    try:
        return bench.main(
            [
                "policy",
                "--model",
                str(model_file),
                "--device",
                "cpu",
                "--seconds",
                "0.1",
                "--batches",
                "2,5",
                *arguments,
            ]
        )
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow
def test_every_engine_is_measured_for_every_batch(model_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, plot = model_file.with_name("figures.json"), model_file.with_name("plots") / "figures.png"
    assert run(model_file, "--json", str(file), "--plot", str(plot)) == 0
    figures = json.loads(file.read_text())
    measured = {(row["batch"], row["engine"], row["precision"]) for row in figures["rows"] if "latency_ms" in row}
    assert {
        (batch, engine, "float32") for batch in (2, 5) for engine in ("direct", "torchscript", "onnxruntime")
    } <= measured
    for row in figures["rows"]:
        if "latency_ms" in row:
            assert 0.0 < row["latency_ms"]["p50"] <= row["latency_ms"]["p99"] and row["memory_mb"] >= 0.0
            assert row["error"] <= (1e-5 if row["precision"] == "float32" else 0.1)
        else:
            assert row["excluded"]
    assert figures["recommended"]["batch"] in (2, 5) and figures["why"] in " ".join(capsys.readouterr().out.split())
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_memory_that_runs_out_ends_the_batches(model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = bench_policy.ParityTrial

    def limited(policy: Any, robots: int, *arguments: Any) -> Any:
        if robots > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return trial(policy, robots, *arguments)

    monkeypatch.setattr(bench_policy, "ParityTrial", limited)
    file = model_file.with_name("figures.json")
    assert run(model_file, "--json", str(file)) == 0
    figures = json.loads(file.read_text())
    assert {row["batch"] for row in figures["rows"]} == {2} and "Memory ran out with 5 robots." in figures["why"]


def row(batch: int, engine: str, per_s: float, error: float = 1e-6, precision: str = "float32") -> dict[str, Any]:
    ms = batch * 1e3 / per_s
    return {
        "batch": batch,
        "engine": engine,
        "precision": precision,
        "error": error,
        "acts_alike": error <= (1e-5 if precision == "float32" else 1e-2),
        "latency_ms": {"p50": ms, "p99": 2 * ms, "max": 3 * ms},
        "robots_per_s": per_s,
    }


def test_the_smallest_batch_that_is_nearly_the_fastest_is_recommended() -> None:
    rows = [row(1, "direct", 800.0), row(1, "onnxruntime", 2000.0), row(16, "direct", 4000.0)]
    rows += [row(16, "onnxruntime", 9500.0), row(64, "onnxruntime", 10_000.0), row(16, "torchscript", 9.9e9, error=0.5)]
    rows.append(row(16, "direct", 19_000.0, 5e-3, "bfloat16"))
    found = bench_policy.recommendation(rows, 20.0, "")
    assert found["recommended"] == {"engine": "onnxruntime", "batch": 16}
    for words in (
        "Infer 16 robots at a time with onnxruntime: 9500 robots/s",
        "1 robot at a time give 2000 robots/s",
        "More at a time gain +5% (64 robots)",
        "2.4 times PyTorch without an engine",
        "policy.precision bfloat16 with direct is 2.0 times as fast again",
    ):
        assert words in found["why"]


def test_what_takes_longer_than_the_period_is_not_recommended() -> None:
    rows = [row(4, "direct", 1000.0), row(256, "direct", 4000.0)]
    assert bench_policy.recommendation(rows, 20.0, "")["recommended"]["batch"] == 4
    assert "No batch ends within the 1 ms" in bench_policy.recommendation(rows, 1000.0, "")["why"]


def test_a_policy_that_cannot_be_loaded_is_an_error_in_one_line(tmp_path: Path, capsys: Any) -> None:
    assert run(tmp_path / "missing.zip") == 1
    assert "cannot be read" in capsys.readouterr().out
