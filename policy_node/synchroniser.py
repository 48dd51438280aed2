# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The newest synchronised set of readings of one robot, as a function of stamps alone."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from policy_node.samples import Sample, SampleRing


class RobotState(Enum):
    """What the node can do for a robot at this tick."""

    WAITING = "a topic has not been heard"
    READY = "its command comes from the policy"
    STALE = "its data are old or do not belong together"
    REJECTED = "its data cannot be used"
    FAULT = "its action was not finite, or the policy failed"
    STOPPED = "an operator stopped it, or another node commands it"


class Selection(NamedTuple):
    """The readings of one robot for one tick.

    Attributes
    ----------
    state
        READY, or why there is no usable set.
    samples
        One sample per sensor, in the sensors' order; empty when none can be chosen.
    age_ns
        Age of the oldest sample in the set; None without a set.
    reason
        What is wrong, empty when READY.
    """

    state: RobotState
    samples: tuple[Sample, ...]
    age_ns: int | None
    reason: str


def select(rings: Sequence[SampleRing], names: Sequence[str], now_ns: int, slop_ns: int, max_age_ns: int) -> Selection:
    """Choose the newest set of readings that belong together.

    The reference is the oldest of the sensors' newest stamps; from each sensor the sample nearest to it is taken. The
    set is synchronised when its stamps spread over at most `slop_ns`, and fresh when its oldest stamp is at most
    `max_age_ns` old. No search: the cost is linear in the number of sensors.

    Parameters
    ----------
    rings
        One ring per sensor. What no later tick can choose is dropped: samples older than the chosen one, as stamps only
        grow, and those that are too old, up to the newest.
    names
        The sensors' names, for the reason.
    now_ns
        The time of the tick, on the clock of the stamps.
    slop_ns, max_age_ns
        The two limits.
    """
    # A clock that runs ahead would make a dead stream look fresh for as long as it is ahead.
    ahead = [name for name, ring in zip(names, rings, strict=True) if ring.discard_after(now_ns + max_age_ns)]
    if ahead:
        reason = (
            f"{', '.join(ahead)}: stamp lies more than {max_age_ns / 1e9:.3f} s in the future; synchronise the clocks"
        )
        return Selection(RobotState.REJECTED, (), None, reason)
    for ring in rings:
        # What is older than allowed can never be used; without this, a silent sensor would let the others pile up.
        if len(ring):
            ring.discard_before(min(ring.newest_stamp_ns, now_ns - max_age_ns))
    silent = [name for name, ring in zip(names, rings, strict=True) if not len(ring)]
    if silent:
        return Selection(RobotState.WAITING, (), None, f"no message on {', '.join(silent)}")
    reference_ns = min(ring.newest_stamp_ns for ring in rings)
    samples = tuple(ring.nearest(reference_ns) for ring in rings)
    stamps = [sample.stamp_ns for sample in samples]
    oldest_ns, newest_ns = min(stamps), max(stamps)
    age_ns = now_ns - oldest_ns
    for ring, stamp_ns in zip(rings, stamps, strict=True):
        ring.discard_before(stamp_ns)
    if age_ns > max_age_ns:
        oldest_name = names[stamps.index(oldest_ns)]
        reason = f"is {age_ns / 1e9:.3f} s old, synchronisation.max_age_s allows {max_age_ns / 1e9:.3f} s"
        if oldest_ns == 0:
            reason = "its header stamp is zero; the publisher must set it to the time of the measurement"
        return Selection(RobotState.STALE, samples, age_ns, f"{oldest_name}: {reason}")
    if newest_ns - oldest_ns > slop_ns:
        apart = f"{names[stamps.index(oldest_ns)]} and {names[stamps.index(newest_ns)]}"
        return Selection(
            RobotState.STALE,
            samples,
            age_ns,
            f"{apart}: stamps are {(newest_ns - oldest_ns) / 1e9:.3f} s apart, "
            f"synchronisation.slop_s allows {slop_ns / 1e9:.3f} s",
        )
    return Selection(RobotState.READY, samples, age_ns, "")


def with_newest(
    selection: Selection,
    rings: Sequence[SampleRing],
    names: Sequence[str],
    now_ns: int,
    max_ahead_ns: int,
    max_ages_ns: Sequence[int],
) -> Selection:
    """Add the newest sample of each sensor that is not synchronised, as an operator's that is published seldom.

    A robot is not ready while one of them was never heard or its newest sample is older than its limit.

    Parameters
    ----------
    selection
        Of the synchronised sensors; its age stays.
    rings, names, max_ages_ns
        Of the others, one of each per sensor.
    now_ns
        The time of the tick, on the clock of the stamps.
    max_ahead_ns
        How far in the future a stamp may lie.
    """
    if selection.state is not RobotState.READY:
        return selection
    samples, age_ns = selection.samples, selection.age_ns
    for ring, name, max_age_ns in zip(rings, names, max_ages_ns, strict=True):
        if ring.discard_after(now_ns + max_ahead_ns):
            reason = f"{name}: stamp lies more than {max_ahead_ns / 1e9:.3f} s in the future; synchronise the clocks"
            return Selection(RobotState.REJECTED, (), None, reason)
        if not len(ring):
            return Selection(RobotState.WAITING, (), None, f"no message on {name}")
        newest_ns = ring.newest_stamp_ns
        samples += (ring.nearest(newest_ns),)
        ring.discard_before(newest_ns)
        if now_ns - newest_ns > max_age_ns:
            found = f"is {(now_ns - newest_ns) / 1e9:.3f} s old, its max_age_s allows {max_age_ns / 1e9:.3f} s"
            return Selection(RobotState.STALE, samples, age_ns, f"{name}: {found}")
    return Selection(RobotState.READY, samples, age_ns, "")
