# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Which exceptions of a policy mean that the device or its memory has failed, so that no later tick can heal them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

# How PyTorch and onnxruntime say so in exceptions that have no type of their own.
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
    """Return whether the device failed or memory ran out, also where another exception was raised because of it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, torch.AcceleratorError) or is_out_of_memory(cause) or _says(cause, _DEVICE_WORDS):
            return True
        cause = cause.__cause__
    return False


def _says(error: BaseException, words: Sequence[str]) -> bool:
    # Those of onnxruntime derive from nothing but Exception.
    speaks = isinstance(error, RuntimeError) or type(error).__module__.startswith("onnxruntime.")
    return speaks and any(word in str(error) for word in words)
