# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""From the messages that were chosen to the rows of the batch; what cannot be used is counted and explained."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from policy_node.sensing.samples import Sample, UnusableReading
from policy_node.sensing.terms import Decode

# More threads than this wait for the memory, not for the processor.
MOST_THREADS = 8
# Compressed images of fewer bytes together are decoded within about a millisecond: too short to be shared.
FEW_BYTES = 20_000


class Rejections:
    """Messages that cannot be used; each counts once, however many ticks it is the newest.

    Parameters
    ----------
    robots
        How many there are.

    Attributes
    ----------
    count
        `[robots]` int64.
    """

    def __init__(self, robots: int) -> None:
        self.count = np.zeros(robots, np.int64)
        self._last: dict[tuple[int, str], Any] = {}

    def note(self, robot: int, name: str, message: Any, error: Exception) -> str:
        """Count a message that a decoder refused, and return the reason that the operator sees."""
        if self._last.get((robot, name)) is not message:
            self._last[robot, name] = message
            self.count[robot] += 1
        kind = "" if isinstance(error, UnusableReading) else f"{type(error).__name__}: "
        return f"{name}: {kind}{error}"


class _Reading(NamedTuple):
    """What is read of one message of a robot: index of the sensor, name of the source, decoder, where it writes."""

    sensor: int
    name: str
    decode: Decode
    row: np.ndarray


class Staging:
    """Decodes what was chosen for each robot into its rows.

    Decoders that let go of the interpreter run for several robots at once.

    Parameters
    ----------
    sensors
        Names of the sources by sensor.
    rows
        By robot: where each source is to be written.
    decoders
        By the name of each source. One with a true attribute `parallel`, its own or of the object that it is a method
        of, may run in several threads at once.
    rejections
        Where messages that cannot be used are counted; it may be exchanged.
    """

    def __init__(
        self,
        sensors: Sequence[Sequence[str]],
        rows: Sequence[Mapping[str, np.ndarray]],
        decoders: Mapping[str, Decode],
        rejections: Rejections,
    ) -> None:
        self.rejections = rejections
        readings = [
            [_Reading(sensor, name, decoders[name], of[name]) for sensor, names in enumerate(sensors) for name in names]
            for of in rows
        ]
        self._alone = [[reading for reading in of if not _is_parallel(reading.decode)] for of in readings]
        self._parallel = [[reading for reading in of if _is_parallel(reading.decode)] for of in readings]
        threads = min(MOST_THREADS, len(os.sched_getaffinity(0)), len(rows))
        self._helpers = threads - 1 if any(self._parallel) else 0
        self._pool: ThreadPoolExecutor | None = None
        if self._helpers:
            self._pool = ThreadPoolExecutor(self._helpers, "decoding")
            # They all start here, as a thread inherits priority and CPUs of the one that starts it.
            all_there = threading.Barrier(self._helpers + 1)
            for _ in range(self._helpers):
                self._pool.submit(all_there.wait)
            all_there.wait()

    def __call__(self, chosen: Iterable[tuple[int, Sequence[Sample]]]) -> dict[int, str]:
        """Decode.

        Parameters
        ----------
        chosen
            Robots by their index, each with a sample per sensor.

        Returns
        -------
        dict
            By robot why its messages cannot be used; empty when all can.
        """
        reasons: dict[int, str] = {}
        together = []
        for robot, samples in chosen:
            for sensor, name, decode, row in self._alone[robot]:
                message = samples[sensor].message
                try:
                    decode(message, row)
                except Exception as error:  # whatever a message does to its decoder, the others are driven on
                    reasons[robot] = self.rejections.note(robot, name, message, error)
            for reading in self._parallel[robot]:
                together.append((robot, reading, samples[reading.sensor].message))
        for robot, name, message, refusal in self._decode_together(together):
            reasons[robot] = self.rejections.note(robot, name, message, refusal)
        return reasons

    def _decode_together(self, jobs: list[tuple[int, _Reading, Any]]) -> list[tuple[int, str, Any, Exception]]:
        if self._pool is None or sum(len(message) for _, _, message in jobs) < FEW_BYTES:
            return _decode(jobs)
        parts = [jobs[first :: self._helpers + 1] for first in range(self._helpers + 1)]
        others = [self._pool.submit(_decode, part) for part in parts[1:] if part]
        refused = _decode(parts[0])
        for other in others:
            refused += other.result()
        return refused


def _decode(jobs: list[tuple[int, _Reading, Any]]) -> list[tuple[int, str, Any, Exception]]:
    refused = []
    for robot, reading, message in jobs:
        try:
            reading.decode(message, reading.row)
        except Exception as error:  # whatever a message does to its decoder, the others are driven on
            refused.append((robot, reading.name, message, error))
    return refused


def or_zeros(decode: Decode) -> Decode:
    """Return a decoder that takes silence, which is None in place of a message, for a reading of zeros."""

    def decode_or_zeros(message: Any, out: np.ndarray) -> None:
        if message is None:
            out.fill(0)
        else:
            decode(message, out)

    return decode_or_zeros


def _is_parallel(decode: Decode) -> bool:
    return bool(getattr(getattr(decode, "__self__", decode), "parallel", False))
