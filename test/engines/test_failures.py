# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Which exceptions end the loop, and which are a policy's own."""

import pytest
import torch

from policy_node.engines.failures import is_device_failure, is_out_of_memory

PETABYTE = 10**15


def test_memory_that_runs_out_is_a_failure_of_the_device() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(PETABYTE)
    assert is_device_failure(raised.value)
    assert is_device_failure(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_device_failure(torch.AcceleratorError("CUDA error: an illegal memory access was encountered"))
    assert is_device_failure(MemoryError())


def test_failures_of_onnxruntime_are_known_by_their_words() -> None:
    errors = pytest.importorskip("onnxruntime.capi.onnxruntime_pybind11_state")
    assert is_device_failure(errors.Fail("CUDA failure 700: an illegal memory access was encountered"))
    assert is_out_of_memory(errors.Fail("CUDA failure 2: out of memory ; GPU=0"))
    assert is_device_failure(errors.RuntimeException("Failed to allocate memory for requested buffer of size 10"))
    assert is_out_of_memory(errors.RuntimeException("Failed to allocate memory for requested buffer of size 10"))
    assert not is_device_failure(errors.Fail("Gather: indices element out of data bounds"))


def test_an_error_that_was_raised_because_of_one_is_one() -> None:
    error = ValueError("the policy failed")
    error.__cause__ = MemoryError()
    assert is_device_failure(error)


def test_any_other_error_of_a_policy_is_its_own() -> None:
    assert not is_device_failure(ValueError("CUDA error"))
    assert not is_device_failure(RuntimeError("out of memory"))
    with pytest.raises(RuntimeError) as raised:
        torch.zeros(2, 3) @ torch.zeros(2, 3)
    assert not is_device_failure(raised.value)
