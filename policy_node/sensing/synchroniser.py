# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Choose the newest synchronised readings of each robot, by their stamps alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import NamedTuple, TypeAlias

from policy_node.sensing.samples import AGELESS_NS, Sample, SampleRing, as_tuple

# Readings of a robot, and the age of the oldest synchronised one in nanoseconds.
_Usual: TypeAlias = tuple[tuple[Sample, ...], int]

# Tell simulated stamps (below 30 days) from Unix time (above one year).
_LONGEST_SIMULATION_NS = 30 * 86_400 * 10**9
_EARLIEST_REAL_NS = 365 * 86_400 * 10**9


class RobotState(Enum):
    """Whether the policy can drive a robot at this tick, and why not."""

    WAITING = "a topic has not been heard, or there is no plan yet"
    READY = "its command comes from the policy"
    STALE = "its data are old or do not belong together, or its plan has ended"
    REJECTED = "its data cannot be used"
    FAULT = "its action was not finite, or the policy or its publisher failed"
    STOPPED = "an operator stopped it, or this node may not command it"


class Selection(NamedTuple):
    """The readings of one robot for one tick.

    Attributes
    ----------
    state
        READY, or the kind of problem.
    samples
        When READY one sample per sensor, in the order of the sensors; else as many as could be chosen.
    age_ns
        Age of the oldest synchronised sample; None without a set.
    reason
        The problem in words; empty when READY.
    refused
        Count of the messages dropped because their stamps lie too far in the future.
    """

    state: RobotState
    samples: tuple[Sample, ...]
    age_ns: int | None
    reason: str
    refused: int = 0


class FleetSelection:
    """The readings of all robots for one tick.

    Parameters
    ----------
    selections
        Selections of the first robots.

    Attributes
    ----------
    samples, ages_ns
        By robot, as those of `Selection`.
    unusual
        Robot index -> its selection, for robots that are not READY or whose messages were refused.
    """

    __slots__ = ("ages_ns", "samples", "unusual")

    def __init__(self, selections: Iterable[Selection] = ()) -> None:
        self.samples: list[tuple[Sample, ...]] = []
        self.ages_ns: list[int | None] = []
        self.unusual: dict[int, Selection] = {}
        for selection in selections:
            self.add(selection)

    def add(self, selection: Selection) -> None:
        """Add the selection of the next robot."""
        if selection.state is not RobotState.READY or selection.refused:
            self.unusual[len(self.samples)] = selection
        self.samples.append(selection.samples)
        self.ages_ns.append(selection.age_ns)

    def __getitem__(self, robot: int) -> Selection:
        """Return the selection of a robot."""
        usual = Selection(RobotState.READY, self.samples[robot], self.ages_ns[robot], "")
        return self.unusual.get(robot, usual)


def select_usual(
    rings: Sequence[SampleRing], newest_rings: Sequence[SampleRing], now_ns: int, slop_ns: int, max_age_ns: int
) -> _Usual | None:
    """Choose the readings of a robot in the usual case: all its sensors were heard, and no stamp is wrong or old.

    In any other case it chooses nothing and returns None; `select` and `with_newest` then find what is wrong. In the
    usual case it chooses what they choose.
    """
    reference_ns = now_ns
    for ring in rings:
        stamps = ring.stamps
        if not stamps or stamps[-1] > now_ns or ring.first_seen:
            return None
        if stamps[-1] < reference_ns:
            reference_ns = stamps[-1]
    samples: list[Sample] = []
    oldest_ns = last_ns = reference_ns
    for ring in rings:
        stamps = ring.stamps
        if stamps[-1] != reference_ns:
            sample = ring.advance_to(reference_ns)
        else:
            # As `advance_to` does it, without calls.
            del stamps[:-1], ring.messages[:-1]
            sample = as_tuple(Sample, (reference_ns, ring.messages[0]))
        samples.append(sample)
        stamp_ns = stamps[0]
        if stamp_ns < oldest_ns:
            oldest_ns = stamp_ns
        elif stamp_ns > last_ns:
            last_ns = stamp_ns
    if now_ns - oldest_ns > max_age_ns or last_ns - oldest_ns > slop_ns:
        return None
    if newest_rings and not _add_newest(newest_rings, now_ns, samples):
        return None
    return tuple(samples), now_ns - oldest_ns


def _add_newest(rings: Sequence[SampleRing], now_ns: int, samples: list[Sample]) -> bool:
    """Add the newest sample of each ring; return False if one is missing, too old or of the future."""
    for ring in rings:
        stamps = ring.stamps
        if not stamps or ring.first_seen or not 0 <= now_ns - stamps[-1] <= ring.max_age_ns:
            return False
        samples.append(ring.advance_to(stamps[-1]))
    return True


def select(rings: Sequence[SampleRing], now_ns: int, slop_ns: int, max_age_ns: int) -> Selection:
    """Choose the newest set of readings that belong together.

    The reference is the oldest of the sensors' newest stamps. From each sensor the sample nearest to the reference is
    taken. The set is synchronised if its stamps spread over at most `slop_ns`, and fresh if its oldest sample is at
    most `max_age_ns` old. The cost is linear in the number of sensors. The age of a sample in the future counts from
    the time when it was first seen, so a clock that runs ahead makes no sample fresher than it is.

    Parameters
    ----------
    rings
        One ring per sensor. Samples that no later tick can choose are dropped: those older than the chosen one, and
        those too old, except the newest.
    now_ns
        Time of the tick, on the clock of the stamps.
    slop_ns, max_age_ns
        The two limits; a stamp may lie at most `max_age_ns` in the future.
    """
    usual = select_usual(rings, (), now_ns, slop_ns, max_age_ns)
    if usual is not None:
        return Selection(RobotState.READY, *usual, "")
    return _select_carefully(rings, now_ns, slop_ns, max_age_ns)


def _select_carefully(rings: Sequence[SampleRing], now_ns: int, slop_ns: int, max_age_ns: int) -> Selection:
    """Choose a set where there may be a problem, and describe the problem."""
    refused = sum([ring.refuse_ahead(now_ns, max_age_ns) for ring in rings])
    oldest_usable_ns = now_ns - max_age_ns
    for ring in rings:
        # Samples that are too old are of no use; without this, they would pile up while another sensor is silent.
        if ring.stamps:
            ring.discard_before(min(ring.stamps[-1], oldest_usable_ns))
    ahead = [
        ring.name
        for ring in rings
        # A single message with a wrong stamp does not stop a robot whose other readings are good.
        if ring.is_ahead and not (ring.stamps and ring.counts_from(ring.stamps[-1]) >= oldest_usable_ns)
    ]
    if ahead:
        return Selection(RobotState.REJECTED, (), None, ahead_reason(ahead, max_age_ns), refused)
    unheard = [ring.name for ring in rings if not ring.stamps]
    if unheard:
        return Selection(RobotState.WAITING, (), None, f"no message on {', '.join(unheard)}", refused)
    reference_ns = min(ring.stamps[-1] for ring in rings)
    samples = tuple(ring.advance_to(reference_ns) for ring in rings)
    stamps = [sample.stamp_ns for sample in samples]
    counted = [ring.counts_from(stamp_ns) for ring, stamp_ns in zip(rings, stamps, strict=True)]
    age_ns = now_ns - min(counted)
    if age_ns > max_age_ns:
        oldest = counted.index(min(counted))
        reason = old_reason(rings[oldest].name, stamps[oldest], age_ns, "synchronisation.max_age_s", max_age_ns)
        return Selection(RobotState.STALE, samples, age_ns, reason, refused)
    oldest_ns, newest_ns = min(stamps), max(stamps)
    if newest_ns - oldest_ns > slop_ns:
        apart = f"{rings[stamps.index(oldest_ns)].name} and {rings[stamps.index(newest_ns)].name}"
        reason = (
            f"{apart}: stamps are {(newest_ns - oldest_ns) / 1e9:.3f} s apart, "
            f"synchronisation.slop_s allows {slop_ns / 1e9:.3f} s"
        )
        return Selection(RobotState.STALE, samples, age_ns, reason, refused)
    return Selection(RobotState.READY, samples, age_ns, "", refused)


def old_reason(name: str, stamp_ns: int, age_ns: int, limit: str, max_age_ns: int) -> str:
    """Return why a reading of a sensor is too old; `limit` names the parameter with `max_age_ns`."""
    if stamp_ns == 0:
        return f"{name}: its header stamp is zero; the publisher must set it to the time of the measurement"
    if stamp_ns < _LONGEST_SIMULATION_NS and stamp_ns + age_ns > _EARLIEST_REAL_NS:
        return (
            f"{name}: its stamp, {stamp_ns / 1e9:.3f} s, is simulated time, but this node runs in real time; start the "
            f"node with use_sim_time: true"
        )
    return f"{name}: is {age_ns / 1e9:.3f} s old, {limit} allows {max_age_ns / 1e9:.3f} s"


def ahead_reason(names: Sequence[str], max_ahead_ns: int) -> str:
    """Return why readings of some sensors are refused, whose stamps lie in the future."""
    return f"{', '.join(names)}: stamp lies more than {max_ahead_ns / 1e9:.3f} s in the future; synchronise the clocks"


def with_newest(selection: Selection, rings: Sequence[SampleRing], now_ns: int, max_ahead_ns: int) -> Selection:
    """Add the newest sample of each sensor that is not synchronised, such as the rare commands of an operator.

    A robot is not ready until each of them was heard, and while its newest sample is older than its limit. The age of
    the selection is kept. A stamp may lie at most `max_ahead_ns` after `now_ns`, the time of the tick.
    """
    refused = selection.refused
    state, reason, samples = selection.state, selection.reason, selection.samples
    for ring in rings:
        newest = _newest(ring, now_ns, max_ahead_ns)
        refused += newest.refused
        samples += newest.samples
        if state is RobotState.READY:
            state, reason = newest.state, newest.reason
    return Selection(state, samples, selection.age_ns, reason, refused)


def with_silent(
    selection: Selection,
    rings: Sequence[SampleRing],
    present: Sequence[bool],
    now_ns: int,
    previous_ns: int,
    slop_ns: int,
    max_age_ns: int,
) -> Selection:
    """Add a reading of each sensor that may be silent, such as a contact sensor that publishes only while it touches.

    Such a sensor does not affect the reference. Its sample nearest to the oldest reading of the set is taken, unless it
    is more than `slop_ns` earlier: then the contact is over. Of a sensor with `max_age_s` the newest sample within that
    limit is taken. Without such a sample, a sensor that has a publisher is silent: its sample has the message None.

    Parameters
    ----------
    selection
        Selection of the other sensors; its age is kept.
    rings, present
        Samples of the sensors that may be silent, and whether each sensor has a publisher.
    now_ns, previous_ns
        Times of this tick and of the one before, on the clock of the stamps.
    slop_ns, max_age_ns
        Limits, see `select`.
    """
    state, reason, refused, samples = selection.state, selection.reason, selection.refused, selection.samples
    oldest_ns = now_ns - (selection.age_ns or 0)
    for ring, is_present in zip(rings, present, strict=True):
        own_age_ns = ring.max_age_ns
        allowed_ns = own_age_ns or max_age_ns
        refused_now = ring.refuse_ahead(now_ns, max_age_ns)
        newest_ns = ring.stamps[-1] if ring.stamps else now_ns
        target_ns, earliest_ns = (now_ns, now_ns - own_age_ns) if own_age_ns else (oldest_ns, oldest_ns - slop_ns)
        sample = _nearest_from(ring, target_ns, earliest_ns)
        found, problem = RobotState.READY, ""
        if sample is not None:
            samples += (sample,)
        # A sensor whose messages arrive is not silent: if no tick can use them, their stamps are wrong.
        elif refused_now:
            found, problem = RobotState.REJECTED, ahead_reason([ring.name], max_age_ns)
        elif newest_ns < previous_ns - allowed_ns:
            limit = "its max_age_s" if own_age_ns else "synchronisation.max_age_s"
            found, problem = RobotState.STALE, old_reason(ring.name, newest_ns, now_ns - newest_ns, limit, allowed_ns)
        elif is_present:
            samples += (Sample(target_ns, None),)
        else:
            found, problem = RobotState.WAITING, f"no message on {ring.name}, and nobody publishes it"
        refused += refused_now
        if state is RobotState.READY:
            state, reason = found, problem
    return Selection(state, samples, selection.age_ns, reason, refused)


def _nearest_from(ring: SampleRing, target_ns: int, earliest_ns: int) -> Sample | None:
    """Return the sample nearest to `target_ns` that is not older than `earliest_ns`; drop older ones."""
    ring.discard_before(earliest_ns)
    if ring.first_seen:
        over = [stamp_ns for stamp_ns in ring.stamps if ring.counts_from(stamp_ns) < earliest_ns]
        if over:
            ring.discard_before(over[-1] + 1)
    return ring.advance_to(target_ns) if ring.stamps else None


def _newest(ring: SampleRing, now_ns: int, max_ahead_ns: int) -> Selection:
    """Choose the newest sample of one sensor; see `with_newest`."""
    is_ageless = ring.max_age_ns == AGELESS_NS
    # What does not age may have been stamped before simulated time began again.
    refused = 0 if is_ageless else ring.refuse_ahead(now_ns, max_ahead_ns)
    if not ring.stamps:
        if ring.is_ahead:
            return Selection(RobotState.REJECTED, (), None, ahead_reason([ring.name], max_ahead_ns), refused)
        return Selection(RobotState.WAITING, (), None, f"no message on {ring.name}", refused)
    sample = ring.advance_to(ring.stamps[-1])
    age_ns = now_ns - ring.counts_from(sample.stamp_ns)
    if is_ageless or age_ns <= ring.max_age_ns:
        return Selection(RobotState.READY, (sample,), age_ns, "", refused)
    if ring.is_ahead:
        return Selection(RobotState.REJECTED, (), None, ahead_reason([ring.name], max_ahead_ns), refused)
    reason = old_reason(ring.name, sample.stamp_ns, age_ns, f"its {ring.limit}", ring.max_age_ns)
    return Selection(RobotState.STALE, (sample,), age_ns, reason, refused)
