# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Which exceptions of a policy mean that the device or its memory has failed, so that no later tick can heal them."""

from __future__ import annotations

import torch

# How PyTorch and onnxruntime say so in exceptions that have no type of their own.
_WORDS = (
    "CUDA error",
    "CUDA failure",
    "CUDA out of memory",
    "CUBLAS_STATUS_",
    "CUDNN_STATUS_",
    "DefaultCPUAllocator: can't allocate memory",
    "Failed to allocate memory",
    "std::bad_alloc",
)


def is_device_failure(error: BaseException) -> bool:
    """Return whether the device failed or memory ran out, also where another exception was raised because of it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (torch.OutOfMemoryError, torch.AcceleratorError, MemoryError)):
            return True
        if isinstance(cause, RuntimeError) and any(word in str(cause) for word in _WORDS):
            return True
        cause = cause.__cause__
    return False
