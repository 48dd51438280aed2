# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""What a motion file may hold, at the limits of what is allowed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policy_node.sensing import motion
from policy_node.sensing.motion import RATE_TOLERANCE, read_motion


@pytest.mark.parametrize(
    ("text", "arrays", "rows"),
    [
        ("1,2,3\n", [], [[1, 2, 3]]),
        ("1\n2\n", [], [[1], [2]]),
        ("a,b,c\n1,2,3\n", ["1:3", "a"], [[2, 3, 1]]),
        ("1,2,3\n", ["2"], [[3]]),
        # A comment, and a name in an old encoding that nobody asks for.
        ("1,2 # a # b\n3,4\n", [], [[1, 2], [3, 4]]),
        (b"h\xe9,b\n1,2\n", ["b"], [[2]]),
    ],
)
def test_columns_of_a_csv_are_read(tmp_path: Path, text: str | bytes, arrays: list[str], rows: list[Any]) -> None:
    (tmp_path / "walk.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    found = read_motion(str(tmp_path / "walk.csv"), arrays, 50.0)
    assert found.dtype == np.float64 and found.tolist() == rows


@pytest.mark.parametrize(
    ("text", "arrays", "problem"),
    [
        ("1,2,3\n", ["3"], "has no column 3, but 3 columns, counted from 0"),
        ("1,2,3\n", ["1:4"], "has no column 3, but 3 columns, counted from 0"),
        ("1,2\n", ["x1"], "has no column 'x1', but 2 columns without names"),
        ("1,2 # a # b\n3\n", [], "line 2 has 1 numbers, but the lines before it have 2; correct it"),
        ("a,b\n1;2,3\n", [], "line 2 has '1;2' instead of a number; separate numbers with commas"),
        ("a,b\n1,x\n", [], "line 2 has 'x' instead of a number; correct it"),
        ("1,nan\ninf,2\n", [], "has nan as number 1 of row 0; correct the file"),
        ("\n", [], "is empty"),
    ],
)
def test_a_csv_that_cannot_be_used_is_refused(tmp_path: Path, text: str, arrays: list[str], problem: str) -> None:
    (tmp_path / "walk.csv").write_text(text)
    with pytest.raises(ValueError) as error:
        read_motion(str(tmp_path / "walk.csv"), arrays, 50.0)
    assert str(error.value).endswith(problem) and f"'{tmp_path / 'walk.csv'}'" in str(error.value)


def saved(folder: Path, **arrays: Any) -> str:
    np.savez(folder / "walk.npz", **arrays)
    return str(folder / "walk.npz")


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "uint8", "bool"])
def test_arrays_of_any_numbers_are_read_side_by_side(tmp_path: Path, dtype: str) -> None:
    ones, zeros = np.ones((4, 3), dtype), np.zeros((4, 2, 2), dtype)
    found = read_motion(saved(tmp_path, ones=ones, zeros=zeros, other=np.ones(7)), ["zeros", "ones"], 50.0)
    assert found.dtype == np.float64 and found.tolist() == [[0.0] * 4 + [1.0] * 3] * 4


@pytest.mark.parametrize(
    ("rate_hz", "fps"), [(0.0, RATE_TOLERANCE), (50.0, 50.0), (50.0, [50.0]), (50.0, [25.0, 25.0]), (50.0, [])]
)
def test_a_rate_may_differ_by_the_tolerance_and_is_one_number(tmp_path: Path, rate_hz: float, fps: Any) -> None:
    assert read_motion(saved(tmp_path, fps=np.array(fps), rows=np.ones(3)), ["rows"], rate_hz).shape == (3, 1)


@pytest.mark.parametrize(
    ("arrays", "names", "problem"),
    [
        ({"rows": np.zeros((0, 3))}, ["rows"], "has no rows"),
        ({"rows": np.array(["a", "b"])}, ["rows"], "has arrays that are no numbers"),
        ({"rows": np.ones(3), "fps": np.array(60.0)}, ["rows"], "has 60 rows per second, but control_rate_hz is 50"),
        ({"rows": np.ones(3)}, ["a", "b"], "has no array 'a', but rows"),
        ({"b": np.ones(3), "a": np.ones(3)}, [], "has the arrays a, b; name those to take"),
        ({"a": np.ones(3), "b": np.ones(())}, ["a", "b"], "has arrays with different rows: {'a': (3,), 'b': ()}"),
        ({"a": np.ones(())}, ["a"], "has arrays with different rows: {'a': ()}"),
    ],
)
def test_arrays_that_cannot_be_used_are_refused(
    tmp_path: Path, arrays: dict[str, Any], names: list[str], problem: str
) -> None:
    path = saved(tmp_path, **arrays)
    with pytest.raises(ValueError) as error:
        read_motion(path, names, 50.0)
    assert f"'{path}' {problem}" in str(error.value)


def test_the_size_of_a_motion_is_limited_before_and_after_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "walk.npz", rows=np.zeros(10_000))
    path, file_bytes = str(tmp_path / "walk.npz"), (tmp_path / "walk.npz").stat().st_size
    # The array has a header of 128 bytes.
    unpacked_bytes = 80_128
    assert file_bytes < unpacked_bytes
    monkeypatch.setattr(motion, "MAX_BYTES", unpacked_bytes)
    assert read_motion(path, ["rows"], 50.0).shape == (10_000, 1)
    monkeypatch.setattr(motion, "MAX_BYTES", unpacked_bytes - 1)
    with pytest.raises(ValueError, match=f"its arrays unpack to {unpacked_bytes} bytes, allowed are 80127"):
        read_motion(path, ["rows"], 50.0)
    monkeypatch.setattr(motion, "MAX_BYTES", file_bytes - 1)
    with pytest.raises(ValueError, match=r"cannot be read: .*; see that it is the right file"):
        read_motion(path, ["rows"], 50.0)
    with pytest.raises(ValueError, match=r"cannot be read: No such file or directory; give the path of a CSV or NPZ"):
        read_motion(str(tmp_path / "missing.csv"), [], 50.0)
