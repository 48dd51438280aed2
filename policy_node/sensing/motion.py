# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Read the rows of a motion file: columns of a CSV, or arrays of an NPZ side by side."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np

from policy_node.config.files import read_file, reason_and_remedy

# Size of a file and of the arrays in it: at 50 Hz an hour of 500 numbers takes 720 MB.
MAX_BYTES = 2**30
# Numbers in an NPZ, as of Isaac Lab's motion tracking, that say how many rows there are per second.
RATE = "fps"
RATE_TOLERANCE = 1e-3


def read_motion(path: str, arrays: Sequence[str], rate_hz: float) -> np.ndarray:
    """Return the rows of a motion.

    Parameters
    ----------
    path
        CSV file, with or without names in its first line, or NPZ file.
    arrays
        See the parameter of this name.
    rate_hz
        Control rate, which an NPZ that says its own must have.

    Returns
    -------
    numpy.ndarray
        `[rows, numbers]` float64.

    Raises
    ------
    ValueError
        When the file cannot be read, has not these arrays, or has numbers that are not finite.
    """
    is_npz = Path(path).suffix.lower() == ".npz"
    try:
        content = read_file(path, MAX_BYTES)
        rows = _read_npz(content, path, arrays, rate_hz) if is_npz else _read_csv(content, path, arrays)
    except OSError as error:
        reason = reason_and_remedy(error, "give the path of a CSV or NPZ file")
        raise ValueError(f"'{path}' cannot be read: {reason}") from error
    if not rows.size:
        raise ValueError(f"'{path}' has no rows")
    if not np.isfinite(rows).all():
        row, number = np.argwhere(~np.isfinite(rows))[0].tolist()
        raise ValueError(f"'{path}' has {rows[row, number]} as number {number} of row {row}; correct the file")
    return rows


def _read_csv(content: bytes, path: str, arrays: Sequence[str]) -> np.ndarray:
    lines = content.decode(errors="replace").splitlines()
    first = [cell.strip() for cell in (lines or [""])[0].split(",")]
    if first == [""]:
        raise ValueError(f"'{path}' is empty")
    # A comment may follow the numbers of the first row.
    names = [] if all(map(_is_number, lines[0].partition("#")[0].split(","))) else first
    try:
        rows = np.loadtxt(lines, np.float64, delimiter=",", skiprows=1 if names else 0, ndmin=2)
    except ValueError as error:
        raise ValueError(f"'{path}' is no table of numbers: {_first_fault(lines, bool(names)) or error}") from error
    count = rows.shape[1]
    columns: list[int] = []
    for name in arrays:
        numbers = re.fullmatch(r"(\d+)(?::(\d+))?", name)
        if name in names:
            columns.append(names.index(name))
        elif numbers:
            begin = int(numbers[1])
            columns += range(begin, int(numbers[2]) if numbers[2] else begin + 1)
        else:
            raise ValueError(f"'{path}' has no column '{name}', but {names or f'{count} columns without names'}")
    if columns and max(columns) >= count:
        raise ValueError(f"'{path}' has no column {max(columns)}, but {count} columns, counted from 0")
    return rows[:, columns] if arrays else rows


def _first_fault(lines: Sequence[str], has_names: bool) -> str:
    """Return what is wrong with the first line of a CSV that is no row of numbers; empty if nothing is found."""
    count = 0
    for number, line in enumerate(lines, 1):
        cells = line.partition("#")[0].strip().split(",")
        if (number == 1 and has_names) or cells == [""]:
            continue
        wrong = next((cell.strip() for cell in cells if not _is_number(cell)), None)
        if wrong is not None:
            remedy = "; separate numbers with commas" if len(re.split(r"[;\s]+", wrong)) > 1 else "; correct it"
            return f"line {number} has '{wrong}' instead of a number{remedy}"
        count = count or len(cells)
        if len(cells) != count:
            return f"line {number} has {len(cells)} numbers, but the lines before it have {count}; correct it"
    return ""


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _read_npz(content: bytes, path: str, arrays: Sequence[str], rate_hz: float) -> np.ndarray:
    try:
        with np.load(BytesIO(content), allow_pickle=False) as file:
            size = sum(member.file_size for member in file.zip.infolist())
            if size > MAX_BYTES:
                raise ValueError(f"its arrays unpack to {size} bytes, allowed are {MAX_BYTES}")
            stored = {name: file[name] for name in file.files if name in (*arrays, RATE)}
            found = ", ".join(sorted(file.files))
    except Exception as error:  # NumPy and zipfile raise many kinds for damaged files
        raise ValueError(f"'{path}' is no NPZ file of numbers: {error}") from error
    missing = [name for name in arrays if name not in stored]
    if missing or not arrays:
        what = f"has no array '{missing[0]}', but {found}" if missing else f"has the arrays {found}; name those to take"
        raise ValueError(f"'{path}' {what}")
    rate = stored[RATE].reshape(-1) if RATE in stored else np.zeros(0)
    if rate.size == 1 and abs(float(rate[0]) - rate_hz) > RATE_TOLERANCE:
        raise ValueError(
            f"'{path}' has {rate[0]:g} rows per second, but control_rate_hz is {rate_hz:g}; resample it to that rate"
        )
    lengths = {name: stored[name].shape[:1] for name in arrays}
    if len(set(lengths.values())) > 1 or () in lengths.values():
        raise ValueError(f"'{path}' has arrays with different rows: {lengths}; take arrays of the same motion")
    parts = [stored[name].reshape(len(stored[name]), math.prod(stored[name].shape[1:])) for name in arrays]
    if any(part.dtype.kind not in "fiub" for part in parts):
        raise ValueError(f"'{path}' has arrays that are no numbers")
    return np.concatenate(parts, axis=1).astype(np.float64)
