# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Keep measurements of engines in the user's cache, ``$XDG_CACHE_HOME/policy_node``."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from policy_node.config.files import read_file
from policy_node.engines.backends import EngineSettings
from policy_node.policies.contract import Policy

MAX_ENTRY_BYTES = 2**20
_PACKAGES = ("policy_node", "torch", "onnxruntime", "numpy", "stable-baselines3", "sb3-contrib")


def cache_folder() -> Path:
    """Return the folder of this user's cache, which may not exist; raises RuntimeError where none is known."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # As the XDG specification has it, a relative path is not used.
    if base.startswith("/"):
        return Path(base) / "policy_node"
    try:
        return Path.home() / ".cache" / "policy_node"
    except RuntimeError as error:
        raise RuntimeError("the home folder of this user is unknown; set HOME or XDG_CACHE_HOME") from error


def machine_key(device: torch.device) -> dict[str, str]:
    """Return the processor or GPU and the versions of packages, on which the speed of engines depends."""
    if device.type == "cuda":
        processor = f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    else:
        processor = _cpu_name()
    return {"processor": processor, "python": platform.python_version()} | {name: _version(name) for name in _PACKAGES}


def policy_key(policy: Policy, robots: int, settings: EngineSettings, channels_last: frozenset[str]) -> dict[str, Any]:
    """Return the key of a policy, its settings and this machine."""
    spec = policy.spec
    return {
        "policy": spec.sha256,
        "spec": [str(part) for part in (*spec.observations.values(), spec.action, *spec.memory.values())],
        "robots": robots,
        "device": str(policy.device),
        "threads": settings.threads,
        "precision": settings.precision,
        "channels_last": sorted(channels_last),
        "machine": machine_key(policy.device),
    }


def read_entry(key: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the entry of a key, None without one that can be read."""
    try:
        entry = json.loads(read_file(_entry_file(key), MAX_ENTRY_BYTES))
        return entry["value"] if entry["key"] == json.loads(json.dumps(key)) else None
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, RecursionError):
        return None


def write_entry(key: Mapping[str, Any], value: Mapping[str, Any]) -> None:
    """Write the entry of a key; do nothing where the cache cannot be written."""
    unfinished = ""
    try:
        file = _entry_file(key)
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, unfinished = tempfile.mkstemp(dir=file.parent, suffix=".unfinished")
        with os.fdopen(handle, "w") as stream:
            json.dump({"key": key, "value": value}, stream, indent=1)
        os.replace(unfinished, file)
    except (OSError, RuntimeError):
        if unfinished:
            Path(unfinished).unlink(missing_ok=True)


def _entry_file(key: Mapping[str, Any]) -> Path:
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache_folder() / "engines" / f"{name}.json"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    found = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    name = next(found, "") or platform.processor() or platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
