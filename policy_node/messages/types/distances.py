# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Laser scans and ranges: distances, clipped to what the sensor can measure, and resampled by angle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from policy_node.config.parameters import ReadingChoices
from policy_node.messages.fields import MessageClass, MessageTypeError
from policy_node.messages.layouts import Layout, number_run
from policy_node.messages.reading import UnusableReading
from policy_node.messages.types import PATHS, MessageType, vector_type
from policy_node.messages.types.numbers import FieldSource
from policy_node.messages.vectors import ReadNumbers

_ROUNDING_RAD = 1e-6
_SCAN = frozenset({"rays", "angle_min", "angle_max", "reduce"})
_TURN = 2.0 * math.pi


class RangeSource(FieldSource):
    """Distances in metres as REP 117 defines them, clipped to what the sensor can measure.

    A policy trains on distances clipped to the sensor's range, so +inf (nothing there) and anything beyond become the
    largest distance of the message, -inf (too near) and anything below become the smallest, and NaN (no measurement)
    the largest. With `out_of_range` all of these but -inf become that value. A message of NaN only is unusable. The
    fields of the message with these limits are `lowest` and `highest`.
    """

    def __init__(
        self, message_type: MessageClass, path: str, lowest: str, highest: str, out_of_range: Sequence[float] = ()
    ) -> None:
        super().__init__(message_type, [path])
        if len(out_of_range) > 1:
            raise MessageTypeError(f"out_of_range: found {list(out_of_range)}; give one number, or none")
        self._value = next(iter(out_of_range), None)
        self._limits = FieldSource(message_type, [lowest, highest])
        self._limit_paths = (lowest, highest)

    def numbers(self, message: Any) -> np.ndarray:
        """Return the clipped distances `[n]`."""
        return self._clip(super().numbers(message), *self._limits.numbers(message).tolist())

    def located(self, layout: Layout) -> ReadNumbers | None:
        """See `NumberSource`."""
        read_distances, read_limits = super().located(layout), number_run(layout, self._limit_paths)
        if read_distances is None or read_limits is None:
            return None

        def read(raw: bytes) -> np.ndarray:
            return self._clip(read_distances(raw), *read_limits(raw).tolist())

        return read

    def remedy(self, message: Any) -> str:
        """Return that a scan can be observed in fewer directions."""
        return "; set `rays` to observe it in that many directions" if hasattr(message, "angle_increment") else ""

    def _clip(self, distances: np.ndarray, lowest: float, highest: float) -> np.ndarray:
        if not -np.inf < lowest < highest < np.inf:
            names = " and ".join(self._limit_paths)
            raise UnusableReading(f"{names} are {lowest} and {highest}; finite and ascending ones are allowed")
        clipped = np.clip(distances, lowest, highest)
        unmeasured = np.isnan(clipped)
        if unmeasured.any():
            if unmeasured.all():
                raise UnusableReading("the message holds NaN only: no distance was measured")
            clipped = np.where(unmeasured, clipped.dtype.type(highest), clipped)
        if self._value is None:
            return clipped
        is_known = (distances >= lowest) & (distances <= highest) | (distances == -np.inf)
        return np.where(is_known, clipped, clipped.dtype.type(self._value))


class ScanSource(RangeSource):
    """The distances of a LaserScan in other directions than those of its rays.

    Direction `i` of `rays` is `angle_min + i * (angle_max - angle_min) / (rays - 1)`. If both are 0, the first and the
    last ray of the message are the ends. A direction gets the rays that are nearer to it than to the next one, or
    the nearest ray if there is none. A single direction gets all rays between the ends.
    """

    def __init__(self, message_type: MessageClass, choices: ReadingChoices) -> None:
        super().__init__(message_type, "ranges", "range_min", "range_max", choices.out_of_range)
        self._angles = (choices.angle_min, choices.angle_max) if choices.angle_min or choices.angle_max else None
        if self._angles is not None and not 0 < self._angles[1] - self._angles[0] < _TURN:
            raise MessageTypeError(
                f"angle_min, angle_max: found {choices.angle_min:g} and {choices.angle_max:g}; give the first and the "
                "last direction in radians, ascending by less than a turn, or neither"
            )
        self.size = choices.rays
        self._reduce = choices.reduce
        self._geometry = ("angle_min", "angle_increment", "range_min", "range_max")
        self._read_geometry = FieldSource(message_type, self._geometry)
        self._read_ranges = FieldSource(message_type, ["ranges"])
        # Geometry of the last message, and the rays of each direction `[directions, most]`; -1 where there are fewer.
        self._known: tuple[float, ...] = ()
        self._rays_of = np.zeros((0, 0), np.intp)

    def numbers(self, message: Any) -> np.ndarray:
        """Return the distances in all directions `[rays]`."""
        return self._resampled(self._read_ranges.numbers(message), self._read_geometry.numbers(message))

    def located(self, layout: Layout) -> ReadNumbers | None:
        """See `NumberSource`."""
        ranges, geometry = number_run(layout, ["ranges"]), number_run(layout, self._geometry)
        if ranges is None or geometry is None:
            return None
        return lambda raw: self._resampled(ranges(raw), geometry(raw))

    def label(self, message: Any, index: int) -> str:
        """Return the direction of a distance."""
        return f"the distance in direction {index}"

    def _resampled(self, ranges: np.ndarray, geometry: np.ndarray) -> np.ndarray:
        angle_min, increment, lowest, highest = geometry.tolist()
        if (len(ranges), angle_min, increment) != self._known:
            self._rays_of = self._assign(len(ranges), angle_min, increment)
            self._known = (len(ranges), angle_min, increment)
        # Rays that were not measured do not count where others were.
        is_measured = (ranges >= lowest) & (ranges <= highest) | np.isinf(ranges)
        distances = self._clip(ranges, lowest, highest)
        is_valid = is_measured[self._rays_of] & (self._rays_of >= 0)
        chosen = distances[self._rays_of]
        nothing = distances.dtype.type(highest if self._value is None else self._value)
        if self._reduce == "min":
            found = np.where(is_valid, chosen, np.inf).min(axis=1)
        else:
            found = np.where(is_valid, chosen, 0).sum(axis=1) / np.maximum(is_valid.sum(axis=1), 1)
        return np.where(is_valid.any(axis=1), found, nothing)

    def _assign(self, count: int, angle_min: float, increment: float) -> np.ndarray:
        """Return the rays of each direction, see `_rays_of`."""
        if not count or not math.isfinite(angle_min) or not 0 < abs(increment) < _TURN:
            raise UnusableReading(
                f"{count} rays from angle_min {angle_min} in steps of angle_increment {increment} have no directions"
            )
        offsets = increment * np.arange(count)
        first, last = self._angles or sorted((angle_min, angle_min + float(offsets[-1])))
        step = (last - first) / (self.size - 1) if self.size and self.size > 1 else last - first or 1.0
        # From the first direction on, within a turn of it.
        before = step / 2 if self.size != 1 else _ROUNDING_RAD
        along = (angle_min + offsets - first + before) % _TURN - before
        if self.size == 1:
            # There is no next direction: it stands for all between the ends.
            directions = np.where(along <= last - first + _ROUNDING_RAD, 0, -1)
        else:
            directions = np.rint(along / step).astype(np.intp)
        groups = [np.flatnonzero(directions == direction) for direction in range(self.size or 0)]
        for direction, group in enumerate(groups):
            away = np.abs((along - direction * step + math.pi) % _TURN - math.pi)
            if self._reduce == "nearest" or not len(group):
                nearest = int(np.argmin(away))
                # A ray stands for half a step to either side; a little more for rounding.
                is_near = away[nearest] <= 0.51 * max(abs(increment), step)
                if not is_near and self._value is None:
                    raise UnusableReading(
                        f"no ray near {first + direction * step:.3f} rad, as the scan covers {angle_min:.3f} to "
                        f"{angle_min + offsets[-1]:.3f} rad; change angle_min and angle_max, or set out_of_range"
                    )
                groups[direction] = np.array([nearest] if is_near else [], np.intp)
        table = np.full((len(groups), max(1, *map(len, groups))), -1, np.intp)
        for direction, group in enumerate(groups):
            table[direction, : len(group)] = group
        return table


def distances_at(
    name: str, count: str, path: str, lowest: str, highest: str, more: frozenset[str] = frozenset()
) -> MessageType:
    """Return the record of a type of distances; parameters as those of `MessageType` and `RangeSource`."""

    def source(message_type: MessageClass, choices: ReadingChoices) -> FieldSource:
        if choices.paths not in ((), (path,)):
            return FieldSource(message_type, choices.paths)
        if choices.rays:
            return ScanSource(message_type, choices)
        return RangeSource(message_type, path, lowest, highest, choices.out_of_range)

    gives = f"`{path}`, NaN and out of range as `out_of_range` says"
    refuses = "NaN only; limits that are not ascending"
    if more:
        refuses += "; directions without a ray"
    return vector_type(name, gives, count, source, PATHS | {"out_of_range"} | more, refuses)


MESSAGE_TYPES = (
    distances_at("sensor_msgs/msg/LaserScan", "as published, or `rays`", "ranges", "range_min", "range_max", _SCAN),
    distances_at("sensor_msgs/msg/Range", "1", "range", "min_range", "max_range"),
)
