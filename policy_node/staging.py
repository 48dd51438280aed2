# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Decode the chosen messages into the rows of the batch; count and explain those that cannot be used."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.thread import BrokenThreadPool
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from policy_node.messages.reading import Decode, UnusableReading
from policy_node.samples import Sample

# More threads than this wait for the memory, not for the processor.
MOST_THREADS = 8
# Compressed images of fewer bytes together are decoded within about a millisecond: too short to be shared.
FEW_BYTES = 20_000


class Rejections:
    """Counts the messages that cannot be used; each counts once, also if it is the newest for several ticks.

    Parameters
    ----------
    robots
        Number of robots.

    Attributes
    ----------
    count
        `[robots]` int64.
    """

    def __init__(self, robots: int) -> None:
        self.count = np.zeros(robots, np.int64)
        self._last: dict[tuple[int, str], Any] = {}

    def note(self, robot: int, name: str, message: Any, error: Exception) -> str:
        """Count a message that a decoder refused, and return the reason for the operator."""
        if self._last.get((robot, name)) is not message:
            self._last[robot, name] = message
            self.count[robot] += 1
        kind = "" if isinstance(error, UnusableReading) else f"{type(error).__name__}: "
        return f"{name}: {kind}{error}"


class _Decoding:
    """One decoder with one shape of rows, and what it has read at this tick.

    Attributes
    ----------
    read
        By the identity of each message: the row it was decoded into, or why it cannot be used.
    """

    def __init__(self, decode: Decode) -> None:
        self.decode = decode
        self.is_parallel = bool(getattr(getattr(decode, "__self__", decode), "parallel", False))
        self.read: dict[int, np.ndarray | Exception] = {}

    def __call__(self, message: Any, row: np.ndarray) -> np.ndarray | Exception:
        """Decode a message into a row, and return the row or why the message cannot be used."""
        outcome: np.ndarray | Exception = row
        try:
            self.decode(message, row)
        except Exception as error:  # a message that breaks its decoder must not stop the other robots
            outcome = error
        self.read[id(message)] = outcome
        return outcome


class _Reading(NamedTuple):
    """What one robot reads from one of its samples: index of the sensor, name of the source, decoder and row."""

    sensor: int
    name: str
    decoding: _Decoding
    row: np.ndarray


class Staging:
    """Decode the samples chosen for each robot into its rows of the batch.

    A message that several robots or observations share is decoded once and then copied. Decoders that release the
    interpreter lock run in several threads. These threads have the scheduling of the thread that calls: its priority
    and its CPUs. They start at the first call that needs them.

    Parameters
    ----------
    sensors
        Names of the sources by sensor.
    rows
        By robot: the array of each source.
    decoders
        By the name of each source. Sources with equal decoders are decoded together. A decoder may run in several
        threads if it, or the object whose method it is, has a true attribute `parallel`.
    rejections
        Counts the messages that cannot be used.
    """

    def __init__(
        self,
        sensors: Sequence[Sequence[str]],
        rows: Sequence[Mapping[str, np.ndarray]],
        decoders: Mapping[str, Decode],
        rejections: Rejections,
    ) -> None:
        self.rejections = rejections
        decodings: dict[Hashable, _Decoding] = {}

        def decoding_of(name: str, row: np.ndarray) -> _Decoding:
            decode = decoders[name]
            return decodings.setdefault((decode, row.shape, row.dtype), _Decoding(decode))

        self._readings = [
            [
                _Reading(sensor, name, decoding_of(name, of[name]), of[name])
                for sensor, names in enumerate(sensors)
                for name in names
            ]
            for of in rows
        ]
        self._decodings = list(decodings.values())
        self._helpers = _Helpers(min(MOST_THREADS, len(rows)) - 1)

    def take_over(self, other: Staging) -> None:
        """Continue with the counts and the threads of the staging that this one replaces."""
        self.rejections, self._helpers = other.rejections, other._helpers

    def __call__(self, chosen: Sequence[tuple[int, Sequence[Sample]]]) -> dict[int, str]:
        """Decode the samples of some robots.

        Parameters
        ----------
        chosen
            Robots by their index, each with one sample per sensor.

        Returns
        -------
        dict
            By robot the reason why its messages cannot be used; empty when all can.

        Raises
        ------
        PermissionError
            When the system refuses the priority of the calling thread to the decoding threads.
        """
        for decoding in self._decodings:
            decoding.read.clear()
        reasons: dict[int, str] = {}
        jobs: list[_Job] = []
        later: list[tuple[int, _Reading, Any]] = []
        for robot, samples in chosen:
            for reading in self._readings[robot]:
                sensor, _, decoding, row = reading
                message = samples[sensor].message
                if id(message) in decoding.read:
                    later.append((robot, reading, message))
                elif decoding.is_parallel:
                    decoding.read[id(message)] = row
                    jobs.append((decoding, message, row))
                    later.append((robot, reading, message))
                else:
                    outcome = decoding(message, row)
                    if outcome is not row:
                        later.append((robot, reading, message))
        if jobs:
            self._helpers.run(jobs)
        for robot, (_, name, decoding, row), message in later:
            outcome = decoding.read[id(message)]
            if isinstance(outcome, Exception):
                reasons[robot] = self.rejections.note(robot, name, message, outcome)
            elif outcome is not row:
                np.copyto(row, outcome)
        return reasons


_Job: TypeAlias = tuple[_Decoding, Any, np.ndarray]


class _Helpers:
    """Threads that decode beside the calling thread, with its priority and its CPUs.

    Parameters
    ----------
    most
        How many threads at most.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._pool: ThreadPoolExecutor | None = None
        self._refusal: OSError | None = None

    def run(self, jobs: Sequence[_Job]) -> None:
        """Decode all jobs, in the calling thread alone if they are small or it may run on one CPU only."""
        if self._most > 0 and len(jobs) > 1 and sum([len(message) for _, message, _ in jobs]) >= FEW_BYTES:
            if self._pool is None:
                # A thread inherits the CPUs of the thread that starts it.
                self._most = min(self._most, len(os.sched_getaffinity(0)) - 1)
                scheduling = os.sched_getscheduler(0), os.sched_getparam(0)
                self._pool = ThreadPoolExecutor(MOST_THREADS, "decoding", self._begin, scheduling)
            parts = [jobs[first :: self._most + 1] for first in range(self._most + 1)]
            try:
                others = [self._pool.submit(_decode, part) for part in parts[1:] if part]
                _decode(parts[0])
                for other in others:
                    other.result()
            except BrokenThreadPool as error:
                raise self._refusal or error from error
        else:
            _decode(jobs)

    def _begin(self, scheduler: int, parameters: os.sched_param) -> None:
        """Give the calling thread a priority, which it does not inherit from a thread with SCHED_RESET_ON_FORK."""
        priority = parameters.sched_priority
        if not priority:
            return
        try:
            os.sched_setscheduler(0, scheduler, parameters)
        except OSError as error:
            self._refusal = PermissionError(
                error.errno,
                f"realtime.priority: found {priority}, which the system grants to the tick but refuses to the threads "
                f"that decode compressed images ({error.strerror}); grant it to the whole process, or set it to 0",
            )
            raise


def _decode(jobs: Sequence[_Job]) -> None:
    for decoding, message, row in jobs:
        decoding(message, row)


@dataclass(frozen=True)
class OrZeros:
    """A decoder that reads the silence of a sensor, None instead of a message, as zeros.

    Parameters
    ----------
    decode
        Decodes the messages.
    """

    decode: Decode

    def __call__(self, message: Any, out: np.ndarray) -> None:
        """Decode a message into a row, or fill the row with zeros."""
        if message is None:
            out.fill(0)
        else:
            self.decode(message, out)
