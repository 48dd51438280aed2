# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Percentiles, description of the machine, file of figures and progress bar that all reports share."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from policy_node.control.timing import percentiles

SubParsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

_PACKAGES = ("torch", "stable-baselines3", "onnxruntime", "numpy", "rclpy", "policy_node")


def distribution(values: np.ndarray) -> dict[str, float | None]:
    """Return p50, p99 and max of the finite values, or None for each if there are no finite values."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return {"p50": None, "p99": None, "max": None}
    p50, p99 = percentiles(finite)
    return {"p50": p50, "p99": p99, "max": float(finite.max())}


def machine(device: torch.device | None = None) -> dict[str, Any]:
    """Describe the machine: processor, GPU if the device is one, load average, versions."""
    cpu = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    models = [line.partition(":")[2].strip() for line in cpu.splitlines() if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor() or "unknown",
        "cores": len(os.sched_getaffinity(0)),
        **({"gpu": torch.cuda.get_device_name(device)} if device and device.type == "cuda" else {}),
        "load_before": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        **{package: _version(package) for package in _PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def write_figures(file: Path, figures: Mapping[str, Any]) -> None:
    """Write figures as JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(figures, indent=2) + "\n")


def progress_bar(console: Console) -> Progress:
    """Return a progress bar whose tasks have a field `doing`."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[doing]}"),
        TimeElapsedColumn(),
        console=console,
        # Remove the bar when it is finished.
        transient=True,
    )
