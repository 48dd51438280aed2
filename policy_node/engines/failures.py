# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Recognise exceptions of a failed device or exhausted memory, from which no later tick recovers."""

from __future__ import annotations

from collections.abc import Sequence

import torch

# Words of PyTorch and onnxruntime in exceptions of general types.
_MEMORY_WORDS = (
    "CUDA out of memory",
    ": out of memory",
    "can't allocate memory",
    "Failed to allocate memory",
    "bad allocation",
    "std::bad_alloc",
)
_DEVICE_WORDS = ("CUDA error", "CUDA failure", "CUBLAS_STATUS_", "CUDNN_STATUS_")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out, on the GPU or on the CPU."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or _says(error, _MEMORY_WORDS)


def is_device_failure(error: BaseException) -> bool:
    """Return whether the device failed or memory ran out, also as the cause of another exception."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, torch.AcceleratorError) or is_out_of_memory(cause) or _says(cause, _DEVICE_WORDS):
            return True
        cause = cause.__cause__
    return False


def _says(error: BaseException, words: Sequence[str]) -> bool:
    # The exceptions of onnxruntime derive from Exception alone.
    is_theirs = isinstance(error, RuntimeError) or type(error).__module__.startswith("onnxruntime.")
    return is_theirs and any(word in str(error) for word in words)
