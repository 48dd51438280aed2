# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Laser scans and ranges: distances, clipped to what the sensor can measure."""

from __future__ import annotations

from typing import Any

import numpy as np

from policy_node.messages.fields import MessageClass
from policy_node.messages.layouts import Layout, number_run
from policy_node.messages.reading import ReadingChoices, UnusableReading
from policy_node.messages.types import MessageType, vector_type
from policy_node.messages.types.numbers import FieldSource
from policy_node.messages.vectors import ReadNumbers


class RangeSource(FieldSource):
    """Distances in metres as REP 117 defines them, clipped to what the sensor can measure.

    A policy trains on distances clipped to the sensor's range, so +inf (nothing there) and anything beyond become the
    largest distance of the message, -inf (too near) and anything below become the smallest. NaN stays unusable. The
    fields of the message with these limits are `lowest` and `highest`.
    """

    def __init__(self, message_type: MessageClass, path: str, lowest: str, highest: str) -> None:
        super().__init__(message_type, [path])
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

    def _clip(self, distances: np.ndarray, lowest: float, highest: float) -> np.ndarray:
        if not -np.inf < lowest < highest < np.inf:
            names = " and ".join(self._limit_paths)
            raise UnusableReading(f"{names} are {lowest} and {highest}; finite and ascending ones are allowed")
        return np.clip(distances, lowest, highest)


def distances_at(name: str, count: str, path: str, lowest: str, highest: str) -> MessageType:
    """Return the record of a type of distances; parameters as those of `MessageType` and `RangeSource`."""

    def source(message_type: MessageClass, choices: ReadingChoices) -> FieldSource:
        if choices.paths in ((), (path,)):
            return RangeSource(message_type, path, lowest, highest)
        return FieldSource(message_type, choices.paths)

    return vector_type(name, f"`{path}`", count, source)


MESSAGE_TYPES = (
    distances_at("sensor_msgs/msg/LaserScan", "as published", "ranges", "range_min", "range_max"),
    distances_at("sensor_msgs/msg/Range", "1", "range", "min_range", "max_range"),
)
