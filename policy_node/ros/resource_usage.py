# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Measure the resources that this process uses: memory, CPU and, where there is one, the GPU."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_STATM = Path("/proc/self/statm")


class ProcessLoad:
    """Memory, and CPU usage since the last call."""

    def __init__(self) -> None:
        self._at_s, self._cpu_s = time.monotonic(), time.process_time()

    def values(self) -> dict[str, float]:
        """Return `cpu_percent` (100 is one core) and, on Linux, `rss_mb`."""
        at_s, cpu_s = time.monotonic(), time.process_time()
        elapsed_s, used_s = at_s - self._at_s, cpu_s - self._cpu_s
        self._at_s, self._cpu_s = at_s, cpu_s
        values = {"cpu_percent": 100.0 * used_s / elapsed_s} if elapsed_s > 0 else {}
        if _STATM.exists():
            resident_pages = int(_STATM.read_text().split()[1])
            values["rss_mb"] = resident_pages * os.sysconf("SC_PAGE_SIZE") / 1e6
        return values


class DeviceLoad:
    """Memory and utilisation of the GPU on which the policy runs.

    Utilisation needs NVML's Python bindings (`pip install nvidia-ml-py`); without them only memory is known. On a CPU
    there are no values.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device if device.type == "cuda" else None
        self._nvml: Any = None
        self._handle: Any = None
        if self._device is not None:
            self._open(self._device)

    def _open(self, device: torch.device) -> None:
        try:
            import pynvml
            import torch

            pynvml.nvmlInit()
            # NVML counts all GPUs, PyTorch those that are visible to the process.
            uuid = str(torch.cuda.get_device_properties(device).uuid)
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid.removeprefix('GPU-')}")
            self._nvml = pynvml
        except Exception:  # no bindings, no driver library or a MIG device: memory is known without NVML
            self._nvml = None

    def values(self) -> dict[str, float]:
        """Return `device_memory_mb` of this process and of all, and `device_utilisation_percent`; empty on a CPU."""
        if self._device is None:
            return {}
        import torch

        free, total = torch.cuda.mem_get_info(self._device)
        values = {
            "device_memory_mb": torch.cuda.memory_reserved(self._device) / 1e6,
            "device_memory_used_mb": (total - free) / 1e6,
            "device_memory_total_mb": total / 1e6,
        }
        if self._nvml is not None:
            try:
                values["device_utilisation_percent"] = float(self._nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu)
            except self._nvml.NVMLError:
                self._nvml = None
        return values
