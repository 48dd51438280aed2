# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""What is said of messages that are lost, late, or come from two publishers."""

from collections.abc import Iterable
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_node.config.package_files import share_path
from policy_node.sensing import reception as reception_module
from policy_node.sensing.reception import Reception, SensorKind

CAMERA = SensorKind("image", "camera/image_raw", is_image=True, depth=2, max_age_s=0.2)
TOUCH = SensorKind("touch", "touch", is_image=False, depth=10, max_age_s=0.2)
ROBOTS = ("one", "two", "three")


def reception_of(*kinds: SensorKind) -> Reception:
    return Reception(ROBOTS, kinds, [[f"{robot}/{kind.topic}" for kind in kinds] for robot in ROBOTS])


def tick(reception: Reception, sequences: Iterable[int], robot: int = 0, sensor: int = 0, age_s: float = 0.0) -> None:
    stream = reception.streams[robot][sensor]
    for sequence in sequences:
        stream.arrived(sequence, b"camera", round(age_s * 1e9))
    stream.tick_ended()


def unnamed(reception: Reception, sequences: Iterable[int]) -> None:
    """Execute a tick with messages whose publishers the middleware does not name."""
    stream = reception.streams[0][0]
    for sequence in sequences:
        stream.arrived(sequence, b"", 0)
    stream.tick_ended()


def test_a_sensor_that_loses_nothing_is_not_mentioned() -> None:
    reception = reception_of(CAMERA)
    for sequence in range(40):
        tick(reception, [sequence])
    assert reception.findings() == []


def test_lost_images_are_counted_with_robots_and_the_remedy() -> None:
    reception = reception_of(CAMERA, TOUCH)
    for sequence in range(0, 40, 4):
        tick(reception, [sequence], robot=1)
        tick(reception, [], robot=1)
    (finding,) = reception.findings()
    assert (finding.sensor, finding.kind, finding.robots) == ("image", "lost", ("two",))
    # Nine gaps of three before ten messages.
    assert finding.fraction == pytest.approx(27 / 37)
    assert "27 of 37 messages on camera/image_raw were lost" in str(finding)
    assert "73%; two" in finding.text and "50% of the ticks" in finding.text
    assert "FASTRTPS_DEFAULT_PROFILES_FILE=" in finding.text and "config/fastdds.xml" in finding.text


def test_small_messages_have_another_remedy() -> None:
    reception = reception_of(TOUCH)
    for robot in range(3):
        tick(reception, range(0, 18, 2), robot)
    (finding,) = reception.findings()
    assert "all 3 robots" in finding.text and "lower rate, or reliably" in finding.text
    assert "fastdds" not in finding.text


def test_what_a_full_queue_drops_is_no_loss() -> None:
    reception = reception_of(CAMERA)
    for sequence in range(0, 100, 5):
        tick(reception, [sequence, sequence + 1])
    assert reception.findings() == []


def test_a_gap_within_a_full_queue_is_a_loss() -> None:
    reception = reception_of(CAMERA)
    for sequence in range(0, 100, 5):
        tick(reception, [sequence, sequence + 2])
    (finding,) = reception.findings()
    assert finding.fraction == pytest.approx(20 / 60)


def test_a_publisher_that_starts_again_loses_nothing() -> None:
    reception = reception_of(CAMERA)
    stream = reception.streams[0][0]
    for publisher, start in ((b"first", 1000), (b"second", 1), (b"third", 500)):
        for sequence in range(start, start + 20):
            stream.arrived(sequence, publisher, 0)
            stream.tick_ended()
    # One that keeps its identity, too.
    for sequence in range(1, 20):
        stream.arrived(sequence, b"third", 0)
        stream.tick_ended()
    assert reception.findings() == []


def test_two_publishers_that_take_turns_are_named() -> None:
    reception = reception_of(CAMERA)
    for sequence in range(10):
        for publisher in (b"left", b"right"):
            reception.streams[2][0].arrived(sequence, publisher, 0)
            reception.streams[2][0].tick_ended()
    (finding,) = reception.findings()
    assert (finding.kind, finding.robots) == ("mixed", ("three",))
    assert "two publishers take turns on camera/image_raw (three)" in finding.text


@pytest.mark.parametrize(
    "starts", [(1000, 5), (5, 1000), (12, 10), (10, 12), (7, 7), (7, 8), (500, 3, 10_000), (3, 500, 10_000)]
)
@pytest.mark.parametrize("per_tick", [1, 2, 5])
def test_publishers_without_identity_that_take_turns_are_named_and_lose_nothing(
    starts: tuple[int, ...], per_tick: int
) -> None:
    reception = reception_of(TOUCH)
    messages = [start + index for index in range(40) for start in starts]
    for first in range(0, len(messages), per_tick):
        unnamed(reception, messages[first : first + per_tick])
    assert [finding.kind for finding in reception.findings()] == ["mixed"]


@given(st.integers(0, 300), st.integers(0, 300), st.lists(st.booleans(), max_size=60), st.integers(1, 4))
def test_publishers_without_identity_lose_nothing_in_any_order(
    first: int, second: int, turns: list[bool], per_tick: int
) -> None:
    reception = reception_of(TOUCH)
    starts, messages = {False: first, True: second}, []
    for turn in turns:
        starts[turn] += 1
        messages.append(starts[turn])
    # Both send again, so that a gap at the end is known to be none.
    last = (starts[False], starts[True])
    messages += [number + again for again in (1, 2) for number in last]
    for start in range(0, len(messages), per_tick):
        unnamed(reception, messages[start : start + per_tick])
    assert reception.streams[0][0].counts().lost == 0


def test_losses_without_identity_are_counted() -> None:
    reception = reception_of(TOUCH)
    for sequence in range(0, 40, 4):
        unnamed(reception, [sequence])
    (finding,) = reception.findings()
    assert (finding.kind, finding.fraction) == ("lost", pytest.approx(27 / 37))


def test_losses_of_one_of_two_publishers_without_identity_are_counted() -> None:
    reception = reception_of(TOUCH)
    for index in range(20):
        unnamed(reception, [5 + index, 1000 + 2 * index])
    assert {finding.kind for finding in reception.findings()} == {"lost", "mixed"}
    assert reception.streams[0][0].counts().lost == 19


def test_a_publisher_without_identity_that_starts_again_loses_nothing() -> None:
    reception = reception_of(TOUCH)
    for start in (1000, 1, 500):
        for sequence in range(start, start + 20):
            unnamed(reception, [sequence])
    # From 20 to 500 is a gap: only a return to 21 would show that it is none.
    assert reception.streams[0][0].counts().changes == 0
    assert reception.streams[0][0].counts().lost == 500 - 20 - 1


def test_publishers_are_told_apart_by_identity_alone() -> None:
    reception = reception_of(TOUCH)
    for _ in range(10):
        for publisher in (b"left", b"right"):
            reception.streams[0][0].arrived(None, publisher, 0)
        reception.streams[0][0].tick_ended()
    assert [finding.kind for finding in reception.findings()] == ["mixed"]


def test_messages_that_wait_until_they_are_taken_are_late_only_beyond_a_period() -> None:
    reception = Reception(ROBOTS, [TOUCH], [[f"{robot}/touch"] for robot in ROBOTS], waits_s=0.5)
    for sequence in range(20):
        tick(reception, [sequence], age_s=0.69)
    assert reception.findings() == []
    for sequence in range(20, 40):
        tick(reception, [sequence], age_s=0.71)
    assert [finding.kind for finding in reception.findings()] == ["late"]


def test_a_changed_limit_keeps_the_wait_until_messages_are_taken() -> None:
    reception = Reception(ROBOTS, [TOUCH], [[f"{robot}/touch"] for robot in ROBOTS], waits_s=0.5)
    reception.change_limits([replace(TOUCH, max_age_s=0.3)])
    for sequence in range(10):
        tick(reception, [sequence], age_s=0.79)
    assert reception.findings() == []
    for sequence in range(10, 20):
        tick(reception, [sequence], age_s=0.81)
    assert [finding.kind for finding in reception.findings()] == ["late"]


def test_messages_that_arrive_too_late_are_told_with_their_age() -> None:
    reception = reception_of(CAMERA)
    for sequence in range(20):
        tick(reception, [sequence], age_s=0.75 if sequence % 2 else 0.01)
    (finding,) = reception.findings()
    assert (finding.kind, finding.fraction) == ("late", 0.5)
    assert (
        "10 of 20 messages" in finding.text and "0.750 s old" in finding.text and "0.200 s are allowed" in finding.text
    )


def test_stamps_of_simulated_time_are_named_as_such() -> None:
    reception = reception_of(CAMERA)
    for sequence in range(20):
        tick(reception, [sequence], age_s=1.795e9)
    (finding,) = reception.findings()
    assert "simulated or recorded time" in finding.text and "use_sim_time: true" in finding.text
    assert "clocks agree" not in finding.text and "compressed" not in finding.text


def test_without_sequence_numbers_only_lateness_is_judged() -> None:
    reception = reception_of(CAMERA)
    for _ in range(20):
        reception.streams[0][0].arrived(None, b"", 10**9)
        reception.streams[0][0].tick_ended()
    assert [finding.kind for finding in reception.findings()] == ["late"]


def test_a_finding_ends_when_its_cause_has_ended() -> None:
    reception = reception_of(CAMERA)
    sequence, found = 0, []
    (now_s, _), *_ = reception._history
    for second in range(1, 20):
        for _ in range(20):
            sequence += 2 if second < 5 else 1
            tick(reception, [sequence])
        found.append(bool(reception.findings(now_s + second)))
    assert all(found[:5]) and not any(found[10:])


@given(st.lists(st.lists(st.integers(0, 2**64), max_size=12), max_size=30), st.integers(1, 10))
def test_any_sequence_numbers_are_counted(ticks: list[list[int]], depth: int) -> None:
    reception = reception_of(SensorKind("image", "camera", True, depth, 0.1))
    for sequences in ticks:
        tick(reception, sequences)
    for finding in reception.findings():
        assert 0 < finding.fraction <= 1


def test_every_robot_is_counted_but_few_are_named() -> None:
    robots = [f"r{index}" for index in range(9)]
    reception = Reception(robots, [TOUCH], [[f"{robot}/touch"] for robot in robots])
    for robot in range(8):
        tick(reception, range(0, 18, 2), robot)
    (finding,) = reception.findings()
    assert len(finding.robots) == 8 and "r0, r1, r2, r3, r4 and 3 more" in finding.text


def test_a_topic_that_robots_share_is_counted_once_and_concerns_all_of_them() -> None:
    reception = Reception(ROBOTS, [CAMERA], [["/left"], ["/left"], ["/right"]])
    assert reception.streams[0][0] is reception.streams[1][0] is not reception.streams[2][0]
    for sequence in range(0, 40, 4):
        tick(reception, [sequence])
    (finding,) = reception.findings()
    assert finding.robots == ("one", "two")
    assert "27 of 37 messages" in finding.text


# The texts for operators, and the limits.


@pytest.fixture
def at_100_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let reception begin at 100 s."""
    monkeypatch.setattr(reception_module, "time", SimpleNamespace(monotonic=lambda: 100.0))


def texts(reception: Reception, now_s: float = 102.5) -> list[str]:
    return [str(finding) for finding in reception.findings(now_s)]


def test_lost_messages_are_told_in_words(at_100_s: None) -> None:
    reception = reception_of(CAMERA, TOUCH)
    for sequence in range(0, 40, 4):
        tick(reception, [sequence], robot=1)
        tick(reception, [], robot=1)
    for robot in range(3):
        tick(reception, range(0, 18, 2), robot, sensor=1)
    profile = share_path("config", "fastdds.xml")
    assert texts(reception) == [
        "image: 27 of 37 messages on camera/image_raw were lost on their way within 2.5 s (73%; two), a new one came "
        "at 50% of the ticks; where the images are published with Fast DDS, start the publishers with "
        f"FASTRTPS_DEFAULT_PROFILES_FILE={profile} (its default settings lose large messages), or publish compressed "
        "or smaller images, or fewer of them",
        "touch: 24 of 51 messages on touch were lost on their way within 2.5 s (47%; all 3 robots), a new one came at "
        "100% of the ticks; see that network and CPUs are not overloaded, publish at a lower rate, or reliably",
    ]


@pytest.mark.parametrize(
    ("kind", "age_s", "remedy"),
    [
        (TOUCH, 0.25, "see that the clocks agree and that the publisher stamps the time of the measurement"),
        (TOUCH, 3600.0, "see that the clocks agree and that the publisher stamps the time of the measurement"),
        (
            CAMERA,
            0.25,
            "see that the clocks agree and that the publisher stamps the time of the measurement, publish compressed "
            "or smaller images, or fewer of them",
        ),
        (
            CAMERA,
            3600.5,
            "their stamps are simulated or recorded time: start the node with use_sim_time: true, and a /clock",
        ),
    ],
)
def test_late_messages_are_told_in_words(at_100_s: None, kind: SensorKind, age_s: float, remedy: str) -> None:
    reception = reception_of(kind)
    for sequence in range(12):
        tick(reception, [sequence], age_s=age_s if sequence % 3 == 0 else 0.2)
    assert texts(reception) == [
        f"{kind.name}: 4 of 12 messages on {kind.topic} within 2.5 s were {age_s:.3f} s old on average when they "
        f"arrived (one), but 0.200 s are allowed; {remedy}"
    ]


def test_two_publishers_are_told_in_words(at_100_s: None) -> None:
    reception = reception_of(TOUCH)
    for sequence in range(10):
        for publisher in (b"left", b"right"):
            reception.streams[2][0].arrived(sequence, publisher, 0)
        reception.streams[2][0].tick_ended()
    (finding,) = reception.findings(102.5)
    assert str(finding) == (
        "touch: two publishers take turns on touch (three); the policy sees one, then the other: stop one of them, or "
        "give it another topic"
    )
    # One of three robots.
    assert finding.fraction == pytest.approx(1 / 3)


@pytest.mark.parametrize(("late", "received", "is_found"), [(3, 150, True), (3, 151, False), (2, 2, False)])
def test_few_messages_and_small_shares_are_no_problem(late: int, received: int, is_found: bool) -> None:
    reception = reception_of(TOUCH)
    for sequence in range(received):
        tick(reception, [sequence], age_s=0.25 if sequence < late else 0.0)
    assert bool(reception.findings()) is is_found


@pytest.mark.parametrize(
    ("robots", "named"), [(("one",), "one"), (("one", "two"), "all 2 robots"), (("one", "two", "three"), "one, two")]
)
def test_robots_are_named_unless_they_are_all(robots: tuple[str, ...], named: str) -> None:
    reception = Reception(robots, [TOUCH], [[f"{robot}/touch"] for robot in robots])
    for robot in range(min(len(robots), 2)):
        for sequence in range(5):
            tick(reception, [sequence], robot, age_s=0.25)
    (finding,) = reception.findings()
    assert f"({named})" in finding.text and finding.robots == robots[:2]


def test_a_problem_ends_with_the_window(at_100_s: None) -> None:
    reception = reception_of(TOUCH)
    for sequence in range(5):
        tick(reception, [sequence], age_s=0.25)
    for now_s in (101.0, 102.0, 103.0, 104.0, 105.0, 105.9375):
        (text,) = texts(reception, now_s)
        assert f"5 of 5 messages on touch within {now_s - 100.0:.1f} s" in text
    assert not texts(reception, 106.0)


def test_a_problem_ends_although_findings_are_rarely_asked_for(at_100_s: None) -> None:
    reception = reception_of(TOUCH)
    for sequence in range(5):
        tick(reception, [sequence], age_s=0.25)
    assert len(texts(reception, 101.0)) == 1
    assert not texts(reception, 200.0)


def test_a_new_stream_has_counted_nothing() -> None:
    (counts,) = {stream.counts() for streams in reception_of(TOUCH).streams for stream in streams}
    assert counts == (0,) * 7


def ages(reception: Reception, ages_s: Iterable[float], robot: int = 0, sensor: int = 0) -> list[str]:
    """Return the texts of the findings after messages of these ages, one a second."""
    found: list[str] = []
    for second, age_s in enumerate(ages_s):
        for _ in range(4):
            tick(reception, [4 * second + _], robot, sensor, age_s)
        found = [finding.text for finding in reception.findings(float(second))]
    return found


@pytest.mark.parametrize(("offset_s", "words"), [(10.02, "10.02 s behind"), (-3.5, "3.50 s ahead of")])
def test_a_constant_offset_of_stamps_is_named_with_its_remedies(offset_s: float, words: str) -> None:
    reception = reception_of(CAMERA, TOUCH)
    (text,) = ages(reception, [offset_s + jitter for jitter in (0.0, 0.01, -0.01, 0.02, 0.0, 0.0)], robot=1)
    assert text.startswith(f"image: stamps on camera/image_raw are {words} the clock of this computer, constant (two)")
    assert f"synchronise the clocks, or set stamp_offset_s: {offset_s:.2f}" in text


def test_ages_that_change_are_late_but_no_offset() -> None:
    reception = reception_of(CAMERA)
    (text,) = ages(reception, [0.3, 0.9, 0.4, 1.5, 0.5, 0.8])
    assert "old on average when they arrived" in text
    assert ages(reception_of(CAMERA), [0.1, 0.11, 0.1, 0.1, 0.1, 0.1]) == []


def test_stamps_of_two_sensors_that_are_apart_are_named() -> None:
    reception = reception_of(CAMERA, TOUCH)
    for second in range(6):
        for sensor, age_s in ((0, 0.12), (1, -0.11)):
            tick(reception, range(4 * second, 4 * second + 4), sensor=sensor, age_s=age_s)
        found = reception.findings(float(second))
    (finding,) = found
    assert finding.text.startswith(
        "image: stamps on camera/image_raw are 0.23 s behind those of another sensor of the robot, constant (one)"
    )


def test_a_constant_delay_is_late_but_no_offset() -> None:
    """A message may take half a second to arrive, and an offset would hide that it is old."""
    (text,) = ages(reception_of(CAMERA), [0.5] * 6)
    assert "old on average when they arrived" in text and "constant" not in text


def test_stamps_that_are_not_of_the_messages_have_no_offset() -> None:
    assert ages(reception_of(replace(CAMERA, has_stamps=False, max_age_s=1e3)), [10.0] * 6) == []


def test_a_stack_with_one_image_twice_is_named() -> None:
    reception = reception_of(replace(CAMERA, steps=4))
    for sequence in range(20):
        tick(reception, [sequence])
        tick(reception, [])
    (finding,) = reception.findings()
    assert finding.kind == "repeated"
    assert "at 50% of the ticks" in finding.text and "so the 4 steps hold one twice" in finding.text
    # A camera as fast as the ticks, one that is silent, and one whose images are not stacked.
    fast, silent, single = (reception_of(replace(CAMERA, steps=steps)) for steps in (4, 4, 1))
    for sequence in range(20):
        tick(fast, [sequence] if sequence % 15 else [])
        tick(silent, [])
        tick(single, [sequence])
        tick(single, [])
    assert fast.findings() == silent.findings() == single.findings() == []


def test_publishers_whose_joints_are_joined_may_take_turns() -> None:
    reception = reception_of(TOUCH)
    for sequence in range(20):
        stream = reception.streams[0][0]
        stream.arrived(sequence, b"arm", 0)
        stream.arrived(sequence, b"gripper", 0)
        stream.tick_ended()
    assert [finding.kind for finding in reception.findings(joined={(0, 0)})] == []
    assert [finding.kind for finding in reception.findings(joined={(1, 0)})] == ["mixed"]
