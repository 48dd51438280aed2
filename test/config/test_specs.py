# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Specs: validation, examples and text."""

import numpy as np
import pytest

from policy_node.config.specs import ArraySpec, DiscreteSpec, MultiDiscreteSpec

IMAGE = ArraySpec("image", (3, 5, 4), np.uint8, 0, 255)
SPEED = ArraySpec("speed", (2,), np.float32, [-0.25, -1.0], [0.5, 1.0])


def test_bounds_are_read_only_arrays_of_shape_and_dtype() -> None:
    assert IMAGE.low.shape == (3, 5, 4)
    assert IMAGE.high.dtype == np.uint8
    with pytest.raises(ValueError, match="read-only"):
        SPEED.low[0] = 0.0


def test_bounds_are_copies_of_the_given_arrays() -> None:
    low = np.zeros(2, np.float32)
    spec = ArraySpec("speed", (2,), np.float32, low, 1.0)
    low[0] = 0.5
    assert spec.low[0] == 0.0


@pytest.mark.parametrize(
    ("shape", "dtype", "low", "high", "message"),
    [
        ((2,), np.float32, [0.0, 2.0], 1.0, "low must not exceed high"),
        ((2,), np.float32, np.nan, 1.0, "low must not exceed high"),
        ((2,), np.uint8, -1, 255, "low -1 cannot be represented as uint8"),
        ((2,), np.float32, [0.0, 0.0, 0.0], 1.0, r"low of shape \[3\] does not broadcast to \[2\]"),
    ],
)
def test_impossible_bounds_are_refused(
    shape: tuple[int, ...], dtype: type, low: object, high: object, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ArraySpec("speed", shape, dtype, low, high)


def test_validate_returns_what_fits() -> None:
    array = np.array([0.5, -1.0], np.float32)
    assert SPEED.validate(array) is array


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (np.zeros((5, 4, 3), np.uint8), r"found uint8 \[5, 4, 3\]"),
        (np.zeros((3, 5, 4), np.float32), r"found float32 \[3, 5, 4\]"),
        ([[[0]]], "found list"),
    ],
)
def test_validate_names_the_spec_and_what_was_found(array: object, found: str) -> None:
    with pytest.raises(ValueError, match=r"expected image: uint8 \[3, 5, 4\] in \[0, 255\], " + found):
        IMAGE.validate(array)


@pytest.mark.parametrize("value", [1.5, -2.0, np.nan, np.inf])
def test_validate_refuses_values_outside_the_bounds(value: float) -> None:
    with pytest.raises(ValueError, match=rf"found {value} at \[1\]"):
        SPEED.validate(np.array([0.0, value], np.float32))


@pytest.mark.parametrize(
    ("dtype", "low", "high", "drawn_low", "drawn_high"),
    [
        (np.float32, [-0.25, -1.0], [0.5, 1.0], [-0.25, -1.0], [0.5, 1.0]),
        (np.float64, -np.inf, np.inf, -1.0, 1.0),
        (np.float32, 5.0, np.inf, 5.0, 6.0),
        (np.float32, -np.inf, -5.0, -6.0, -5.0),
        # The largest number of float32 or float64 stands for infinity in many environments.
        (np.float64, np.finfo(np.float64).min, np.finfo(np.float64).max, -1.0, 1.0),
        (np.float32, [np.finfo(np.float32).min, 0.0], [0.5, np.finfo(np.float32).max], -1.0, 1.0),
        (np.uint8, 0, 255, 0, 255),
        (np.int64, np.iinfo(np.int64).min, np.iinfo(np.int64).max, np.iinfo(np.int64).min, np.iinfo(np.int64).max),
        (np.bool_, False, True, False, True),
    ],
)
def test_examples_are_random_and_fit_the_spec(
    dtype: type, low: object, high: object, drawn_low: object, drawn_high: object
) -> None:
    spec = ArraySpec("anything", (2,), dtype, low, high)
    examples = spec.example(64, np.random.default_rng(1))
    assert examples.shape == (64, 2)
    assert examples.dtype == dtype
    for row in examples:
        spec.validate(row)
    assert np.all(np.isfinite(examples))
    assert np.all((examples >= drawn_low) & (examples <= drawn_high))
    assert np.all(examples.min(axis=0) < examples.max(axis=0))


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (IMAGE, "image: uint8 [3, 5, 4] in [0, 255]"),
        (SPEED, "speed: float32 [2] from [-0.25, -1.  ] to [0.5, 1. ]"),
        (ArraySpec("force", (), np.float32, 0.1, np.inf), "force: float32 [] in [0.1, inf]"),
        (DiscreteSpec("action", 4), "action: one of 4 choices, 0 to 3"),
        (MultiDiscreteSpec("action", (2, 2, 4)), "action: 3 at once, each one of 2, 2, 4 choices"),
    ],
)
def test_text_contains_name_dtype_shape_and_bounds(spec: object, text: str) -> None:
    assert str(spec) == text
