# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Full float32 precision on NVIDIA GPUs, where convolutions and LSTMs round their inputs to 10 bits by default.

That rounding (TensorFloat-32) changes actions by a thousandth of their range. PyTorch's switch is process-wide, and the
process may train or run other networks: it is set for a policy's own computation only and then restored.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch

_lock = threading.Lock()
_active = 0
_restore = contextlib.ExitStack()


@contextlib.contextmanager
def full_precision(device: torch.device | None = None) -> Iterator[None]:
    """Temporarily let cuDNN compute in full float32; nothing is changed for a CPU.

    Threads may overlap: the first to enter changes the switch, the last to leave restores it. PyTorch reads it when it
    launches a kernel, records a CUDA graph or traces a network; what was recorded or traced keeps it. Without a device
    it is set for any: a traced network may run on another one later.
    """
    global _active
    if device is not None and device.type != "cuda":
        yield
        return
    with _lock:
        if not _active:
            _disable_tf32()
        _active += 1
    try:
        yield
    finally:
        with _lock:
            _active -= 1
            if not _active:
                _restore.close()


def _disable_tf32() -> None:
    """Set PyTorch's switches, and note their values to restore them."""
    cudnn = torch.backends.cudnn
    # PyTorch 2.8 has the old switch only. The old one sets the new ones, so it is set and restored before them.
    switches: list[tuple[Any, str, Any]] = [
        (getattr(cudnn, name), "fp32_precision", "ieee") for name in ("conv", "rnn") if hasattr(cudnn, name)
    ]
    # Reading the old one fails where a program has set the new ones to different values.
    with contextlib.suppress(RuntimeError):
        cudnn.allow_tf32  # noqa: B018
        switches.append((cudnn, "allow_tf32", False))
    for owner, name, _ in switches:
        _restore.callback(setattr, owner, name, getattr(owner, name))
    for owner, name, value in reversed(switches):
        setattr(owner, name, value)
