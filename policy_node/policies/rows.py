# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Tensors with a row for each robot: choose rows, find rows with NaN."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch


def where_rows(rows: torch.Tensor, tensor: torch.Tensor, other: torch.Tensor | float) -> torch.Tensor:
    """Take the chosen rows of `tensor` and the others of `other`; `rows` is `[robots]` bool."""
    return torch.where(rows.view(-1, *[1] * (tensor.ndim - 1)), tensor, other)


def rows_without_nan(tensors: Iterable[torch.Tensor]) -> torch.Tensor | None:
    """Return `[robots]` bool, true for robots without NaN; None where no tensor can hold NaN."""
    # A tensor with one number for each robot has no further axis.
    spoiled = [tensor[:, None].flatten(1).isnan().any(dim=1) for tensor in tensors if tensor.is_floating_point()]
    return ~torch.stack(spoiled).any(dim=0) if spoiled else None


def torch_dtype(dtype: np.dtype) -> torch.dtype:
    """Return the dtype of tensors for a dtype of NumPy."""
    return torch.from_numpy(np.empty(0, dtype)).dtype
