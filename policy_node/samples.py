# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""One stamped reading of one sensor, and the short ring of the newest ones."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Any, NamedTuple


class UnusableReading(ValueError):  # noqa: N818  not an error of the program
    """A message that cannot be used; its text is the reason that the operator sees."""


class Sample(NamedTuple):
    """One reading as it was taken: its stamp and the message, not yet decoded."""

    stamp_ns: int
    message: Any


class SampleRing:
    """The newest samples of one sensor of one robot, in the order of their stamps.

    Parameters
    ----------
    length
        Samples kept; the oldest is dropped when one more arrives.
    """

    def __init__(self, length: int) -> None:
        self._length = length
        self._samples: list[Sample] = []
        self._only_ahead = False

    def __len__(self) -> int:
        """Return the number of samples kept."""
        return len(self._samples)

    @property
    def newest_stamp_ns(self) -> int:
        """Stamp of the newest sample; the ring must not be empty."""
        return self._samples[-1].stamp_ns

    def append(self, stamp_ns: int, message: Any) -> None:
        """Add a sample; one that arrives late takes its place by stamp, one of an equal stamp replaces it."""
        samples = self._samples
        self._only_ahead = False
        if samples and stamp_ns <= samples[-1].stamp_ns:
            position = bisect_left(samples, stamp_ns, key=_stamp)
            replaces = position < len(samples) and samples[position].stamp_ns == stamp_ns
            samples[position : position + replaces] = [Sample(stamp_ns, message)]
        else:
            samples.append(Sample(stamp_ns, message))
        if len(samples) > self._length:
            del samples[0]

    def nearest(self, stamp_ns: int) -> Sample:
        """Return the sample whose stamp is nearest, the newer of two equally near; the ring must not be empty."""
        samples = self._samples
        position = bisect_left(samples, stamp_ns, key=_stamp)
        if position == len(samples):
            return samples[-1]
        if position and stamp_ns - samples[position - 1].stamp_ns < samples[position].stamp_ns - stamp_ns:
            return samples[position - 1]
        return samples[position]

    def discard_before(self, stamp_ns: int) -> None:
        """Drop the samples that are older than `stamp_ns`."""
        del self._samples[: bisect_left(self._samples, stamp_ns, key=_stamp)]

    def discard_after(self, stamp_ns: int) -> bool:
        """Drop the samples that are newer than `stamp_ns`; True while the ring is empty for that reason."""
        position = bisect_right(self._samples, stamp_ns, key=_stamp)
        if position < len(self._samples):
            self._only_ahead = position == 0
            del self._samples[position:]
        return self._only_ahead

    def clear(self) -> None:
        """Drop all samples."""
        self._samples.clear()
        self._only_ahead = False


def _stamp(sample: Sample) -> int:
    return sample.stamp_ns
