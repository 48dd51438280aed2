# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Specs: name, shape, dtype and bounds of the arrays of one robot.

Batches add a leading robots axis. This module knows neither ROS nor PyTorch nor Gymnasium.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import DTypeLike

# Integers of fewer bytes are pixels and the like, whose whole range is meant.
WIDE_BYTES = 4
AnyArray = TypeVar("AnyArray", bound=np.ndarray)
Bound: TypeAlias = "np.ndarray | Sequence[float] | float"
# Before the name of a further output of the network among the memory of a policy.
OUTPUT = "output."
# Some environments write the largest number of float32 for infinity.
LARGEST_BOUND = 1e30


def is_unbounded(bound: np.ndarray) -> np.ndarray:
    """Return where a bound is infinite or so large that no measured value and no network comes near it."""
    return np.abs(bound.astype(np.float64)) > LARGEST_BOUND


@dataclass(frozen=True, eq=False)
class ArraySpec:
    """One array of one robot, without the robots axis.

    Raises
    ------
    ValueError
        If a bound does not broadcast to `shape`, cannot be represented in `dtype`, or `low` exceeds `high`.
    """

    #: Name in messages and errors.
    name: str
    #: Length of every axis; ``()`` is a scalar.
    shape: tuple[int, ...]
    dtype: np.dtype
    #: Inclusive bounds: read-only arrays of `shape` and `dtype`, given as anything that broadcasts to `shape`.
    low: np.ndarray = field(repr=False)
    high: np.ndarray = field(repr=False)

    def __init__(self, name: str, shape: tuple[int, ...], dtype: DTypeLike, low: Bound, high: Bound) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "shape", tuple(int(length) for length in shape))
        object.__setattr__(self, "dtype", np.dtype(dtype))
        object.__setattr__(self, "low", self._bound("low", low))
        object.__setattr__(self, "high", self._bound("high", high))
        if not np.all(self.low <= self.high):
            raise ValueError(f"{name}: low must not exceed high, found low {low} and high {high}")

    def _bound(self, which: str, value: Bound) -> np.ndarray:
        given = np.asarray(value)
        with np.errstate(all="ignore"):
            bound = given.astype(self.dtype)
        # A float64 bound may round to float32, but an integer that wraps around would be another bound.
        if not np.issubdtype(self.dtype, np.floating) and not np.array_equal(bound, given):
            raise ValueError(
                f"{self.name}: {which} {value} cannot be represented as {self.dtype}; choose another bound or dtype"
            )
        try:
            return np.broadcast_to(bound, self.shape)
        except ValueError:
            raise ValueError(
                f"{self.name}: {which} of shape {list(given.shape)} does not broadcast to {list(self.shape)}"
            ) from None

    def validate(self, array: AnyArray) -> AnyArray:
        """Return `array` unchanged if it fits this spec.

        Raises
        ------
        ValueError
            If shape or dtype differ, or a value is NaN or outside the bounds.
        """
        if not isinstance(array, np.ndarray):
            raise ValueError(f"expected {self}, found {type(array).__name__}")
        if array.shape != self.shape or array.dtype != self.dtype:
            raise ValueError(f"expected {self}, found {array.dtype} {list(array.shape)}")
        outside = ~((array >= self.low) & (array <= self.high))
        if np.any(outside):
            index = np.unravel_index(int(np.argmax(outside)), self.shape)
            where = f" at {[int(i) for i in index]}" if self.shape else ""
            raise ValueError(f"expected {self}, found {array[index]}{where}")
        return array

    def example(self, rows: int, rng: np.random.Generator) -> np.ndarray:
        """Draw random arrays within the bounds, for warm-up and tests.

        A bound that `is_unbounded` counts as -1 or +1; where the other bound lies beyond that, as 1 below or above it.
        The least and the greatest number of 32 bits or more count as 0 and 1: they are no bounds, and the number may be
        an index.

        Returns
        -------
        numpy.ndarray
            `[rows, *shape]` of `dtype`, a row per robot, uniform between the bounds.
        """
        size = (rows, *self.shape)
        if self.dtype == np.bool_:
            return np.clip(rng.integers(0, 2, size).astype(np.bool_), self.low, self.high)
        if np.issubdtype(self.dtype, np.integer):
            low_end, high_end = self.low, self.high
            if self.dtype.itemsize >= WIDE_BYTES:
                limits = np.iinfo(self.dtype)
                low_end = np.where(low_end == limits.min, np.minimum(0, high_end), low_end)
                high_end = np.where(high_end == limits.max, np.maximum(1, low_end), high_end)
            return rng.integers(low_end, high_end, size, dtype=self.dtype, endpoint=True)
        low, high = self.low.astype(np.float64), self.high.astype(np.float64)
        no_low, no_high = is_unbounded(low), is_unbounded(high)
        low_end = np.where(no_low, np.minimum(-1.0, np.where(no_high, 1.0, high) - 1.0), low)
        high_end = np.where(no_high, np.maximum(1.0, low_end + 1.0), high)
        share = rng.random(size)
        # Weighted ends instead of low + share * (high - low): the difference of two large bounds overflows.
        drawn = ((1.0 - share) * low_end + share * high_end).astype(self.dtype)
        return np.clip(drawn, self.low, self.high)

    def __str__(self) -> str:
        """Return name, dtype, shape and bounds, as in ``image: uint8 [3, 64, 64] in [0, 255]``."""
        kind = f"{self.name}: {self.dtype} {list(self.shape)}"
        if self.low.size == 0:
            return kind
        low, high = self.low.flat[0].item(), self.high.flat[0].item()
        if np.all(self.low == low) and np.all(self.high == high):
            return f"{kind} in [{low:g}, {high:g}]"
        ends = (np.array2string(bound, separator=", ", threshold=16, precision=6) for bound in (self.low, self.high))
        return f"{kind} from {' to '.join(ends)}"


@dataclass(frozen=True)
class DiscreteSpec:
    """One of `n` choices, at least 1: the integers 0 to n - 1."""

    name: str
    n: int

    def __str__(self) -> str:
        """Return name and choices, as in ``action: one of 4 choices, 0 to 3``."""
        return f"{self.name}: one of {self.n} choices, 0 to {self.n - 1}"


@dataclass(frozen=True)
class MultiDiscreteSpec:
    """Several choices at once, each an integer from 0."""

    name: str
    #: Number of choices of each, at least 1; a MultiBinary space has 2 everywhere.
    choices: tuple[int, ...]

    def __str__(self) -> str:
        """Return name and choices, as in ``action: 3 at once, each one of 2, 2, 4 choices``."""
        return f"{self.name}: {len(self.choices)} at once, each one of {', '.join(map(str, self.choices))} choices"


ActionSpec: TypeAlias = "ArraySpec | DiscreteSpec | MultiDiscreteSpec"


@dataclass(frozen=True)
class PolicySpec:
    """The inputs, the memory and the action of a policy."""

    #: One spec per observation key; a policy of a plain observation space has the single key ``observation``.
    observations: dict[str, ArraySpec]
    #: The final action of one robot.
    action: ActionSpec
    #: Algorithm that trained the policy, such as ``PPO``.
    algorithm: str
    #: Hexadecimal SHA-256 of the policy's file.
    sha256: str
    #: Arrays that the policy keeps for one robot from step to step; empty for a policy without memory.
    memory: dict[str, ArraySpec] = field(default_factory=dict)
    #: Length of the mask of allowed choices that the policy takes for one robot; 0 if it takes none.
    mask: int = 0
    #: Number of future actions that the policy gives at once, the first for the time of the observation; its actions
    #: then are `[robots, horizon, *shape]`. 0: one action without such an axis.
    horizon: int = 0
    #: Key of the observation that is a task text, see `config.tasks`; empty if the policy takes none.
    task: str = ""
