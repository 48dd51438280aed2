# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Decode the chosen messages into the rows of the batch; count and explain those that cannot be used."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.thread import BrokenThreadPool
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from policy_node.messages.reading import Copies, Copy, Decode, MissingJointsError, UnusableReading
from policy_node.sensing.samples import Sample

# More threads than this wait for the memory, not for the processor.
MOST_THREADS = 8
# Compressed images of fewer bytes together are decoded within about a millisecond: too short to be shared.
FEW_BYTES = 20_000

# They call no Python function, unlike the methods of an array.
_least: Callable[..., Any] = np.minimum.reduce
_greatest: Callable[..., Any] = np.maximum.reduce
_all: Callable[..., Any] = np.logical_and.reduce


class Rejections:
    """Counts the messages of each robot that cannot be used (`count`, `[robots]` int64; a new array at every change).

    Each message counts once, also if it is the newest for several ticks.
    """

    def __init__(self, robots: int) -> None:
        self.count = np.zeros(robots, np.int64)
        self.count.flags.writeable = False
        self._last: dict[tuple[int, str], Any] = {}

    def note(self, robot: int, name: str, message: Any, error: Exception) -> str:
        """Count a message that a decoder refused, and return the reason for the operator."""
        if self._last.get((robot, name)) is not message:
            self._last[robot, name] = message
            self.add(robot, 1)
        kind = "" if isinstance(error, UnusableReading) else f"{type(error).__name__}: "
        return f"{name}: {kind}{error}"

    def add(self, robot: int, messages: int) -> None:
        """Count messages of a robot."""
        count = self.count.copy()
        count[robot] += messages
        count.flags.writeable = False
        self.count = count


class _Reading(NamedTuple):
    """One source that a robot reads from one of its samples.

    Attributes
    ----------
    row
        Array that the decoder writes.
    outcomes
        Cache for this tick, shared by readings with the same decoder, shape and dtype: id(message) -> decoded row, or
        the exception.
    """

    sensor: int
    name: str
    decode: Decode
    is_parallel: bool
    row: np.ndarray
    outcomes: dict[int, np.ndarray | Exception]


class _Numbers:
    """The numbers of one source of all robots as their messages store them, until they become rows of the batch.

    Attributes
    ----------
    array
        `[robots, n]`, of the dtype of the messages.
    """

    def __init__(self, copies: Copies, rows: np.ndarray) -> None:
        self.array = np.zeros(rows.shape, copies.dtype)
        self._low, self._high = copies.low, copies.high
        self._rows = rows

    def write(self, robots: Sequence[int]) -> list[int]:
        """Write the rows of some robots, by their index, but of those with unusable numbers, and return these."""
        numbers, rows = self.array, self._rows
        # NaN compares as False. The least and the greatest of NaN give no warning, unlike sums.
        if _least(numbers, None) >= self._low and _greatest(numbers, None) <= self._high:
            if len(robots) == len(rows):
                rows[...] = numbers
            elif robots:
                rows[robots] = numbers[robots]
            return []
        usable: np.ndarray = _all((numbers >= self._low) & (numbers <= self._high), axis=1)
        written = [robot for robot in robots if usable[robot]]
        rows[written] = numbers[written]
        # Else they would be found at each call.
        numbers[~usable] = 0
        return [robot for robot in robots if not usable[robot]]


class Staging:
    """Decode the samples chosen for each robot into its rows of the batch.

    Usual messages are copied, see `Copies`; the numbers of all robots are checked at once. A robot with another
    message, or with unusable numbers, has all of its messages decoded instead, which says what is wrong.

    A message that several robots or observations share is decoded once and then copied. Decoders that release the
    interpreter lock run in several threads. These threads have the scheduling of the thread that calls: its priority
    and its CPUs. They start at the first call that needs them.

    Parameters
    ----------
    sensors
        Names of the sources by sensor.
    rows
        By the name of each source: array `[robots, ...]` in which the decoder writes the row of each robot.
    decoders
        By the name of each source. Sources with equal decoders are decoded together. A decoder may run in several
        threads if it, or the object whose method it is, has a true attribute `parallel`.
    """

    def __init__(
        self,
        sensors: Sequence[Sequence[str]],
        rows: Mapping[str, np.ndarray],
        decoders: Mapping[str, Decode],
        rejections: Rejections,
    ) -> None:
        self.rejections = rejections
        #: Robot, sensor and message, for messages without some of the joints, at the last call that had problems.
        self.lacking: list[tuple[int, int, Any]] = []
        robots = len(rejections.count)
        outcomes: dict[Hashable, dict[int, np.ndarray | Exception]] = {}
        # By robot: its sources, those of them whose messages are never copied, and for the others what copies them.
        self._readings: list[list[_Reading]] = [[] for _ in range(robots)]
        self._decoded: list[list[_Reading]] = [[] for _ in range(robots)]
        self._copied: list[list[tuple[int, Copy]]] = [[] for _ in range(robots)]
        self._numbers: list[_Numbers] = []
        for sensor, names in enumerate(sensors):
            for name in names:
                array, decode = rows[name], decoders[name]
                shared = outcomes.setdefault((decode, array.shape[1:], array.dtype), {})
                copies, targets = copies_of(decode), array
                if copies is not None and copies.low is not None:
                    self._numbers.append(_Numbers(copies, array))
                    targets = self._numbers[-1].array
                for robot in range(robots):
                    reading = _Reading(sensor, name, decode, _is_parallel(decode), array[robot], shared)
                    self._readings[robot].append(reading)
                    if copies is None:
                        self._decoded[robot].append(reading)
                    else:
                        self._copied[robot].append((sensor, copies.to(targets[robot])))
        self._outcomes = list(outcomes.values())
        self._decodes = any(self._decoded)
        self._helpers = _Helpers(min(MOST_THREADS, robots) - 1)

    def take_over(self, other: Staging) -> None:
        """Continue with the counts and the threads of the staging that this one replaces."""
        self.rejections, self._helpers = other.rejections, other._helpers

    def __call__(self, chosen: Iterable[tuple[int, Sequence[Sample]]]) -> dict[int, str]:
        """Decode the samples of some robots, by their index, one sample per sensor.

        Returns
        -------
        dict
            Robot index -> reason why its messages cannot be used; empty when all can.

        Raises
        ------
        PermissionError
            When the system refuses the priority of the calling thread to the decoding threads.
        """
        chosen, copied, copied_of_robot = list(chosen), [], self._copied
        for robot, samples in chosen:
            for sensor, copy in copied_of_robot[robot]:
                if not copy(samples[sensor].message):
                    break
            else:
                copied.append(robot)
        unusable = [robot for numbers in self._numbers for robot in numbers.write(copied)]
        if len(copied) == len(chosen) and not (unusable or self._decodes):
            return {}
        usual = {*copied}.difference(unusable)
        return self._decode(
            [
                (robot, reading, samples[reading.sensor].message)
                for robot, samples in chosen
                for reading in (self._decoded if robot in usual else self._readings)[robot]
            ]
        )

    def _decode(self, given: Iterable[_Job]) -> dict[int, str]:
        """Decode messages into their rows, and return by robot why a message cannot be used."""
        try:
            return self._decode_once(given)
        finally:
            # An exception keeps the messages of this tick.
            for outcomes in self._outcomes:
                outcomes.clear()

    def _decode_once(self, given: Iterable[_Job]) -> dict[int, str]:
        jobs: list[_Job] = []
        # Readings of messages that another robot or source reads, too, and those that failed.
        later: list[_Job] = []
        for job in given:
            _, reading, message = job
            key, outcomes = id(message), reading.outcomes
            if key in outcomes:
                later.append(job)
                continue
            outcomes[key] = reading.row
            if reading.is_parallel:
                jobs.append(job)
                later.append(job)
                continue
            try:
                reading.decode(message, reading.row)
            except Exception as error:  # a message that breaks its decoder must not stop the other robots
                outcomes[key] = error
                later.append(job)
        if jobs:
            self._helpers.run(jobs)
        return self._finish(later) if later else {}

    def _finish(self, readings: Sequence[_Job]) -> dict[int, str]:
        """Copy the rows of shared messages, and return by robot why a message cannot be used."""
        reasons: dict[int, str] = {}
        self.lacking.clear()
        for robot, reading, message in readings:
            outcome = reading.outcomes[id(message)]
            if isinstance(outcome, Exception):
                if isinstance(outcome, MissingJointsError):
                    self.lacking.append((robot, reading.sensor, message))
                reasons[robot] = self.rejections.note(robot, reading.name, message, outcome)
            elif outcome is not reading.row:
                np.copyto(reading.row, outcome)
        return reasons


# A reading of a robot, and the message.
_Job: TypeAlias = tuple[int, _Reading, Any]


class _Helpers:
    """At most `most` threads that decode beside the calling thread, with its priority and its CPUs."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._pool: ThreadPoolExecutor | None = None
        self._refusal: OSError | None = None

    def run(self, jobs: Sequence[_Job]) -> None:
        """Decode all jobs, in the calling thread alone if they are small or it may run on one CPU only."""
        if self._most > 0 and len(jobs) > 1 and sum([len(message) for _, _, message in jobs]) >= FEW_BYTES:
            if self._pool is None:
                # A thread inherits the CPUs of the thread that starts it.
                self._most = min(self._most, len(os.sched_getaffinity(0)) - 1)
                scheduling = os.sched_getscheduler(0), os.sched_getparam(0)
                self._pool = ThreadPoolExecutor(MOST_THREADS, "decoding", self._begin, scheduling)
            parts = [jobs[first :: self._most + 1] for first in range(self._most + 1)]
            try:
                others = [self._pool.submit(_decode_all, part) for part in parts[1:] if part]
                _decode_all(parts[0])
                for other in others:
                    other.result()
            except BrokenThreadPool as error:
                raise self._refusal or error from error
        else:
            _decode_all(jobs)

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


def _decode_all(jobs: Sequence[_Job]) -> None:
    for _, reading, message in jobs:
        try:
            reading.decode(message, reading.row)
        except Exception as error:  # a message that breaks its decoder must not stop the other robots
            reading.outcomes[id(message)] = error


def copies_of(decode: Decode) -> Copies | None:
    """Return how a decoder, or the object whose method it is, copies messages; None: it decodes each."""
    return getattr(getattr(decode, "__self__", decode), "copies", None)


def _is_parallel(decode: Decode) -> bool:
    return bool(getattr(getattr(decode, "__self__", decode), "parallel", False))


@dataclass(frozen=True)
class OrZeros:
    """Decode a message; a missing message (None) gives zeros."""

    decode: Decode

    def __call__(self, message: Any, out: np.ndarray) -> None:
        """Decode a message into a row, or fill the row with zeros."""
        if message is None:
            out.fill(0)
        else:
            self.decode(message, out)
