# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The choice of a set of readings, against a brute-force search over all samples ever sent."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_node.sensing.samples import Sample, SampleRing
from policy_node.sensing.synchroniser import RobotState, Selection, old_reason, select, with_newest, with_silent

NAMES = ("image", "touch", "odom")
SLOP_NS = 30
MAX_AGE_NS = 100


def rings_of(
    *stamps: list[int], length: int = 1000, names: Sequence[str] = NAMES, max_age_ns: int = 0
) -> list[SampleRing]:
    rings = []
    for sensor, name in zip(stamps, names, strict=False):
        ring = SampleRing(length, name, max_age_ns)
        for stamp in sensor:
            ring.append(stamp, f"message of {stamp}")
        rings.append(ring)
    return rings


def choose(rings: list[SampleRing], now_ns: int) -> Selection:
    return select(rings, now_ns, SLOP_NS, MAX_AGE_NS)


def unreturned(stamps: list[int]) -> list[int]:
    """Return the stamps that no later message went back behind."""
    return [stamp for index, stamp in enumerate(stamps) if all(stamp < later for later in stamps[index + 1 :])]


def brute_force(
    sensors: list[list[int]], now_ns: int, first_seen: dict[tuple[int, int], int] | None = None
) -> tuple[RobotState, tuple[int, ...]]:
    """Choose from all stamps that have arrived, without ring or search."""
    sensors = [unreturned(stamps) for stamps in sensors]
    usable = [[stamp for stamp in stamps if stamp <= now_ns + MAX_AGE_NS] for stamps in sensors]
    for stamps, kept in zip(sensors, usable, strict=True):
        if kept != stamps and not (kept and max(kept) >= now_ns - MAX_AGE_NS):
            return RobotState.REJECTED, ()
    if not all(sensors):
        return RobotState.WAITING, ()
    # Of what is older than allowed only the newest counts: it tells the age of a sensor that has died.
    usable = [[stamp for stamp in stamps if stamp >= min(max(stamps), now_ns - MAX_AGE_NS)] for stamps in usable]
    reference = min(max(stamps) for stamps in usable)
    chosen = tuple(min(stamps, key=lambda stamp: (abs(stamp - reference), -stamp)) for stamps in usable)
    counted = [(first_seen or {}).get(each, each[1]) for each in enumerate(chosen)]
    good = now_ns - min(counted) <= MAX_AGE_NS and max(chosen) - min(chosen) <= SLOP_NS
    return (RobotState.READY if good else RobotState.STALE), chosen


stamp_lists = st.lists(st.integers(0, 400), max_size=12)


@given(st.lists(stamp_lists, min_size=1, max_size=3), st.integers(0, 400))
def test_choice_equals_brute_force(sensors, now_ns):
    selection = choose(rings_of(*sensors), now_ns)
    state, chosen = brute_force(sensors, now_ns)
    assert selection.state is state
    assert tuple(sample.stamp_ns for sample in selection.samples) == chosen
    assert all(sample.message == f"message of {sample.stamp_ns}" for sample in selection.samples)
    assert selection.age_ns == (max(now_ns - min(chosen), 0) if chosen else None)
    assert selection.refused == sum(stamp > now_ns + MAX_AGE_NS for stamps in sensors for stamp in unreturned(stamps))
    assert (selection.reason == "") == (state is RobotState.READY)


@given(st.lists(stamp_lists, min_size=1, max_size=3), st.integers(0, 400))
def test_a_ready_set_is_never_old_nor_spread(sensors, now_ns):
    selection = choose(rings_of(*sensors, length=4), now_ns)
    if selection.state is RobotState.READY:
        stamps = [sample.stamp_ns for sample in selection.samples]
        assert len(stamps) == len(sensors)
        assert now_ns - min(stamps) <= MAX_AGE_NS
        assert max(stamps) - min(stamps) <= SLOP_NS


@st.composite
def fleets_over_time(draw):
    """Ticks of `(now, arrivals per sensor)`; each sensor's stamps grow, some run ahead of the clock."""
    sensors = draw(st.integers(1, 3))
    latest, now_ns, ticks = [0] * sensors, 0, []
    for _ in range(draw(st.integers(1, 12))):
        now_ns += draw(st.integers(1, 60))
        arrivals: list[list[int]] = [[] for _ in range(sensors)]
        for sensor in range(sensors):
            for _ in range(draw(st.integers(0, 3))):
                latest[sensor] += draw(st.integers(1, 40))
                arrivals[sensor].append(latest[sensor])
        ticks.append((now_ns, arrivals))
    return sensors, ticks


@given(fleets_over_time())
def test_discarding_changes_no_later_choice(fleet):
    """What a tick drops from the rings would not have been chosen later either."""
    sensors, ticks = fleet
    rings = rings_of(*[[]] * sensors)
    arrived: list[list[int]] = [[] for _ in range(sensors)]
    first_seen: dict[tuple[int, int], int] = {}
    for now_ns, arrivals in ticks:
        for sensor, stamps in enumerate(arrivals):
            for stamp in stamps:
                rings[sensor].append(stamp, f"message of {stamp}")
            arrived[sensor] += stamps
            for stamp in stamps:
                if stamp > now_ns:
                    first_seen[sensor, stamp] = now_ns
        selection = choose(rings, now_ns)
        state, chosen = brute_force(arrived, now_ns, first_seen)
        if selection.state is RobotState.REJECTED:
            # The brute force has forgotten what lay in the future; the ring still says why nothing else came.
            assert state is not RobotState.READY
        else:
            assert selection.state is state
            assert tuple(sample.stamp_ns for sample in selection.samples) == chosen
        # A sample too far in the future never comes back, not even when its time has come.
        arrived = [[stamp for stamp in stamps if stamp <= now_ns + MAX_AGE_NS] for stamps in arrived]


def test_a_dead_sensor_does_not_let_the_others_pile_up():
    rings = rings_of([100], list(range(0, 2000, 10)))
    assert choose(rings, now_ns=2000).state is RobotState.STALE
    assert len(rings[1].stamps) <= MAX_AGE_NS // 10
    rings = rings_of([], list(range(0, 2000, 10)))
    assert choose(rings, now_ns=2000).state is RobotState.WAITING
    assert len(rings[1].stamps) <= MAX_AGE_NS // 10


def test_the_set_follows_the_slower_sensor():
    selection = choose(rings_of([0, 100, 200], [80, 110, 140, 170, 190, 210, 230]), now_ns=240)
    assert [sample.stamp_ns for sample in selection.samples] == [200, 210]
    assert selection.age_ns == 40


@pytest.mark.parametrize(
    ("sensors", "now_ns", "state", "reason"),
    [
        ([[], [50]], 60, RobotState.WAITING, "no message on image"),
        ([[], []], 60, RobotState.WAITING, "no message on image, touch"),
        ([[50], [60]], 151, RobotState.STALE, "image: is 0.000 s old, synchronisation.max_age_s allows 0.000 s"),
        ([[50], [60]], 150, RobotState.READY, ""),
        ([[50], [80]], 90, RobotState.READY, ""),
        ([[50], [81]], 90, RobotState.STALE, "image and touch: stamps are 0.000 s apart"),
        ([[0], [60]], 150, RobotState.STALE, "image: its header stamp is zero"),
        ([[50], [160]], 60, RobotState.STALE, "apart"),
        ([[50], [161]], 60, RobotState.REJECTED, "touch: stamp lies more than 0.000 s in the future"),
        ([[], [161]], 60, RobotState.REJECTED, "touch"),
    ],
)
def test_limits_are_inclusive_and_reasons_name_the_sensor(sensors, now_ns, state, reason):
    selection = choose(rings_of(*sensors), now_ns)
    assert selection.state is state
    assert reason in selection.reason


@pytest.mark.parametrize(("now_s", "says_so"), [(1.795e9, True), (4000.0, False)])
def test_stamps_of_simulated_time_are_named_as_such(now_s: float, says_so: bool) -> None:
    reason = choose(rings_of([12_250_000_000]), round(now_s * 1e9)).reason
    assert ("12.250 s, is simulated time" in reason and "use_sim_time: true" in reason) is says_so
    assert ("s old" in reason) is not says_so


DAY_NS = 86_400 * 10**9


@pytest.mark.parametrize(
    ("stamp_ns", "now_ns", "reason"),
    [
        (0, 10**18, "touch: its header stamp is zero; the publisher must set it to the time of the measurement"),
        (1, 2 * 10**9 + 1, "touch: is 2.000 s old, its max_age_s allows 0.500 s"),
        (
            30 * DAY_NS - 1,
            365 * DAY_NS + 1,
            "touch: its stamp, 2592000.000 s, is simulated time, but this node runs in real time; start the node with "
            "use_sim_time: true",
        ),
        # A stamp of the first year of Unix time, and a simulation that lasts a year.
        (30 * DAY_NS, 365 * DAY_NS + 1, "touch: is 28944000.000 s old, its max_age_s allows 0.500 s"),
        (30 * DAY_NS - 1, 365 * DAY_NS, "touch: is 28944000.000 s old, its max_age_s allows 0.500 s"),
    ],
)
def test_old_readings_are_told_in_words(stamp_ns: int, now_ns: int, reason: str) -> None:
    assert old_reason("touch", stamp_ns, now_ns - stamp_ns, "its max_age_s", 500_000_000) == reason


def test_a_clock_that_runs_ahead_makes_no_reading_fresher_than_it_is():
    """A stamp in the tolerated future counts from when it was first seen there, also when it is sent again."""
    rings = rings_of([MAX_AGE_NS])
    ages = []
    for now_ns in (1, 50, 101):
        ages.append(choose(rings, now_ns).age_ns)
        rings[0].append(MAX_AGE_NS, "sent again")
    assert ages == [0, 49, 100]
    assert choose(rings, 102).state is RobotState.STALE


def test_a_single_stamp_from_the_future_stops_nobody():
    rings = rings_of([50, 10_000])
    selection = choose(rings, 60)
    assert (selection.state, selection.refused) == (RobotState.READY, 1)
    assert choose(rings, 150).state is RobotState.READY
    # Once the good reading is too old, the reason is why no other came.
    selection = choose(rings, 151)
    assert (selection.state, selection.refused) == (RobotState.REJECTED, 0)
    assert "in the future" in selection.reason


def test_a_publisher_with_another_clock_is_followed_at_its_first_message():
    rings = rings_of([1050, 1080])
    assert choose(rings, 1000).samples[0].stamp_ns == 1080
    rings[0].append(1010, "from the new one")
    selection = choose(rings, 1020)
    assert (selection.state, selection.samples[0].stamp_ns) == (RobotState.READY, 1010)


def test_a_dead_stream_from_the_future_never_becomes_fresh():
    """Its clock ran ahead, then it died: when the time of its stamps comes, the data are old in truth."""
    rings = rings_of([1000])
    assert [choose(rings, now_ns).state for now_ns in (0, 500, 950, 1000, 1050)] == [RobotState.REJECTED] * 5


def test_a_stream_from_the_future_stays_rejected_between_its_messages():
    rings = rings_of([1000])
    states = []
    for tick in range(4):
        states.append(choose(rings, tick).state)
        if tick == 2:
            rings[0].append(2000, "still ahead")
    assert states == [RobotState.REJECTED] * 4
    rings[0].append(4, "clocks are synchronised")
    assert choose(rings, 4).state is RobotState.READY


def choose_with_newest(wishes: list[int], now_ns: int = 1000) -> Selection:
    """Choose for a robot with one synchronised sensor of stamp 990 and one whose newest reading is used."""
    synchronised, newest = rings_of([980, 990], wishes, names=("touch", "wish"), max_age_ns=500)
    selection = select([synchronised], now_ns, SLOP_NS, MAX_AGE_NS)
    return with_newest(selection, [newest], now_ns, MAX_AGE_NS)


@pytest.mark.parametrize("newest", [500, 700, 1000, 1100])
def test_the_newest_reading_is_used_whatever_the_other_stamps(newest):
    selection = choose_with_newest([100, 400, newest])
    assert (selection.state, selection.reason) == (RobotState.READY, "")
    assert [sample.stamp_ns for sample in selection.samples] == [990, newest]
    # The age stays that of what is synchronised.
    assert selection.age_ns == 10


@pytest.mark.parametrize(
    ("wishes", "now_ns", "state", "reason"),
    [
        ([], 1000, RobotState.WAITING, "no message on wish"),
        ([400, 499], 1000, RobotState.STALE, "wish: is 0.000 s old, its max_age_s allows 0.000 s"),
        ([1101], 1000, RobotState.REJECTED, "wish: stamp lies more than 0.000 s in the future"),
        ([1000], 2000, RobotState.STALE, "touch: is 0.000 s old"),
    ],
)
def test_without_a_newest_reading_that_is_good_the_robot_is_not_ready(wishes, now_ns, state, reason):
    selection = choose_with_newest(wishes, now_ns)
    assert selection.state is state
    assert selection.reason.startswith(reason)


def test_the_newest_reading_stays_until_there_is_a_newer_one():
    (ring,) = rings_of([1, 2, 3], max_age_ns=100)
    ready = Selection(RobotState.READY, (), 0, "")
    for _ in range(3):
        (sample,) = with_newest(ready, [ring], 10, 5).samples
        assert sample.stamp_ns == 3
    assert ring.stamps == [3]


def choose_with_silent(
    contacts: SampleRing, now_ns: int, previous_ns: int, age_ns: int = 10, present: bool = True, own_age_ns: int = 0
) -> Selection:
    """Choose for a robot whose synchronised reading is `age_ns` old and whose contact sensor may be silent."""
    others = Selection(RobotState.READY, (Sample(now_ns - age_ns, "image"),), age_ns, "")
    limits = (now_ns, previous_ns, SLOP_NS, MAX_AGE_NS)
    contacts.name, contacts.max_age_ns = "contacts", own_age_ns
    return with_silent(others, [contacts], [present], *limits)


def silence_or_contact(stamps: list[int], now_ns: int, previous_ns: int, oldest_ns: int) -> object:
    """Say what a contact sensor read, from all stamps that arrived; a word where the robot must not be driven."""
    stamps = unreturned(stamps)
    ahead = [stamp for stamp in stamps if stamp > now_ns + MAX_AGE_NS]
    usable = [stamp for stamp in stamps if oldest_ns - SLOP_NS <= stamp <= now_ns + MAX_AGE_NS]
    if usable:
        return min(usable, key=lambda stamp: (abs(stamp - oldest_ns), -stamp))
    if ahead:
        return RobotState.REJECTED
    return RobotState.STALE if stamps and max(stamps) < previous_ns - MAX_AGE_NS else None


@given(stamp_lists, st.integers(100, 400), st.integers(0, MAX_AGE_NS), st.integers(1, 250))
def test_a_silent_sensor_reads_what_fits_the_others_or_zeros(contacts, now_ns, age_ns, period_ns):
    previous_ns = now_ns - period_ns
    selection = choose_with_silent(rings_of(contacts)[0], now_ns, previous_ns, age_ns)
    expected = silence_or_contact(contacts, now_ns, previous_ns, now_ns - age_ns)
    if isinstance(expected, RobotState):
        assert selection.state is expected and "contacts" in selection.reason
        return
    assert (selection.state, selection.reason, selection.age_ns) == (RobotState.READY, "", age_ns)
    reading = selection.samples[1]
    assert reading.message == (None if expected is None else f"message of {expected}")
    assert expected is None or reading.stamp_ns == expected


@given(st.lists(st.tuples(st.integers(20, 60), st.integers(0, 40)), min_size=1, max_size=12))
def test_a_burst_is_read_at_every_tick_while_it_lasts_and_ends_within_slop(periods):
    """A contact sensor at every nanosecond of some spans, its queue far too short, the other sensor 25 ns late."""
    (ring,) = rings_of([], length=4)
    now_ns = 1000
    last_contact_ns = None
    for period_ns, touching_ns in periods:
        previous_ns, now_ns = now_ns, now_ns + period_ns
        touched = range(previous_ns, previous_ns + min(touching_ns, period_ns))
        for stamp_ns in touched:
            ring.append(stamp_ns, f"message of {stamp_ns}")
            last_contact_ns = stamp_ns
        selection = choose_with_silent(ring, now_ns, previous_ns, age_ns=25)
        assert selection.state is RobotState.READY
        is_contact = last_contact_ns is not None and last_contact_ns >= now_ns - 25 - SLOP_NS
        assert (selection.samples[1].message is not None) == is_contact


def test_without_its_publisher_silence_is_no_reading():
    (ring,) = rings_of([])
    selection = choose_with_silent(ring, 1000, 950, present=False)
    assert (selection.state, selection.reason) == (
        RobotState.WAITING,
        "no message on contacts, and nobody publishes it",
    )
    # A reading that has come is used, whether or not its publisher is still there.
    ring.append(990, "contact")
    assert choose_with_silent(ring, 1000, 950, present=False).samples[1] == (990, "contact")


def test_stamps_that_cannot_be_are_not_taken_for_silence():
    assert "header stamp is zero" in choose_with_silent(rings_of([0])[0], 1000, 950).reason
    (ring,) = rings_of([1101])
    selection = choose_with_silent(ring, 1000, 950)
    assert (selection.state, selection.refused) == (RobotState.REJECTED, 1)
    # It is over once such messages do not come any more.
    assert choose_with_silent(ring, 1050, 1000).state is RobotState.READY


@pytest.mark.parametrize(
    ("own_age_s", "limit"), [(0.0, "synchronisation.max_age_s allows 0.100 s"), (0.05, "its max_age_s allows 0.050 s")]
)
def test_a_silent_sensor_whose_messages_come_too_late_is_told_its_limit(own_age_s: float, limit: str) -> None:
    ms = 10**6
    (ring,) = rings_of([])
    ring.name, ring.max_age_ns = "contacts", round(own_age_s * 1e9)
    others = Selection(RobotState.READY, (Sample(990 * ms, "image"),), 10 * ms, "")
    for late_ms in (300, 310):
        ring.append((1000 - late_ms) * ms, "late")
        selection = with_silent(others, [ring], [True], 1000 * ms, 950 * ms, 30 * ms, 100 * ms)
        assert selection.state is RobotState.STALE
        assert selection.reason == f"contacts: is 0.{late_ms} s old, {limit}"
        assert selection.samples == others.samples and selection.age_ns == 10 * ms


def test_a_contact_from_the_tolerated_future_lasts_no_longer_than_one_of_the_present():
    (ring,) = rings_of([1000 + MAX_AGE_NS])
    read = [
        choose_with_silent(ring, now_ns, now_ns - 20).samples[1].message is not None
        for now_ns in (1000, 1020, 1040, 1041)
    ]
    assert read == [True, True, True, False]


def test_a_limit_of_its_own_says_how_long_the_newest_reading_of_a_silent_sensor_lasts():
    (ring,) = rings_of([900, 960])
    assert choose_with_silent(ring, 1000, 950, own_age_ns=50).samples[1].stamp_ns == 960
    assert choose_with_silent(ring, 1011, 1000, own_age_ns=50).samples[1].message is None


def test_a_silent_sensor_makes_no_robot_ready_whose_others_are_not():
    others = Selection(RobotState.STALE, (), None, "image: is old")
    (ring,) = rings_of([990])
    limits = (1000, 950, SLOP_NS, MAX_AGE_NS)
    selection = with_silent(others, [ring], [True], *limits)
    assert (selection.state, selection.reason) == (RobotState.STALE, "image: is old")
