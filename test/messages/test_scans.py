# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Laser scans as real sensors publish them: rays without a distance, and other numbers of rays."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rclpy.serialization import serialize_message
from sensor_msgs.msg import LaserScan, Range

from policy_node.config.specs import ArraySpec
from policy_node.messages.codecs import MessageTypeError, reading_decoder, reading_size
from policy_node.messages.reading import UnusableReading

SCAN = "sensor_msgs/msg/LaserScan"


def scan_of(ranges: Any, first: float = 0.0, increment: float = 0.1) -> LaserScan:
    ranges = [float(distance) for distance in ranges]
    return LaserScan(
        angle_min=first,
        angle_max=first + increment * (len(ranges) - 1),
        angle_increment=increment,
        range_min=0.5,
        range_max=8.0,
        ranges=ranges,
    )


def decode(message: Any, count: int, **choices: Any) -> list[float]:
    kind = f"sensor_msgs/msg/{type(message).__name__}"
    decoder = reading_decoder(kind, ArraySpec("scan", (count,), np.float64, -10, 10), topic="scan", **choices)
    # The second message of a shape is read at the places that were found in the first.
    out, again = np.full(count, 77.0), np.full(count, 77.0)
    decoder.decode(serialize_message(message), out)
    decoder.decode(serialize_message(message), again)
    assert np.array_equal(out, again)
    return out.tolist()


UNMEASURED = [1.0, math.nan, math.inf, -math.inf, 0.0, 9.0]


@pytest.mark.both_distributions
def test_rays_without_a_distance_become_the_limits_or_a_chosen_value() -> None:
    assert decode(scan_of(UNMEASURED), 6) == [1.0, 8.0, 8.0, 0.5, 0.5, 8.0]
    # -inf says that something is too near to measure, whatever stands for the others.
    assert decode(scan_of(UNMEASURED), 6, out_of_range=[-1.0]) == [1.0, -1.0, -1.0, 0.5, -1.0, -1.0]
    assert decode(Range(min_range=0.5, max_range=4.0, range=9.0), 1, out_of_range=[0.0]) == [0.0]


@pytest.mark.parametrize(
    ("reduce", "expected"), [("min", [1.0, 2.0, 5.0]), ("mean", [1.5, 3.5, 5.5]), ("nearest", [1.0, 4.0, 6.0])]
)
def test_a_scan_of_more_rays_is_reduced_by_angle(reduce: str, expected: list[float]) -> None:
    # Directions 0.0, 0.25 and 0.5: a ray belongs to the nearest of them.
    message = scan_of([1.0, 2.0, 2.0, 5.0, 5.0, 6.0])
    choices = {"rays": 3, "angle_max": 0.5, "reduce": reduce}
    message.ranges[3] = 4.0 if reduce == "nearest" else 5.0
    if reduce == "nearest":
        message.ranges[2] = 4.0
    assert decode(message, 3, **choices) == pytest.approx(expected)


def test_a_scan_of_fewer_rays_gives_each_direction_its_nearest_ray() -> None:
    assert decode(scan_of([1.0, 2.0, 3.0], increment=0.4), 5, rays=5)[::2] == [1.0, 2.0, 3.0]


def test_unmeasured_rays_do_not_count_beside_measured_ones() -> None:
    message = scan_of([math.nan, 2.0, 0.0, 0.0, math.inf, math.nan, math.nan, math.nan], increment=0.1)
    for reduce in ("min", "mean"):
        # Two rays per direction: the second of the first, none of the second, +inf of the third, none of the last.
        choices = {"rays": 4, "angle_min": 0.05, "angle_max": 0.65, "reduce": reduce}
        assert decode(message, 4, **choices) == [2.0, 8.0, 8.0, 8.0]
        assert decode(message, 4, out_of_range=[-1.0], **choices) == [2.0, -1.0, -1.0, -1.0]


def test_directions_wrap_around_a_full_turn() -> None:
    """A sensor counts from 0 to a turn, the policy from minus half a turn."""
    rays = 36
    step = 2 * math.pi / rays
    message = scan_of(np.linspace(1.0, 4.5, rays), first=0.0, increment=step)
    angles = {"angle_min": -math.pi, "angle_max": math.pi - step}
    expected = np.roll(np.linspace(1.0, 4.5, rays), rays // 2)
    assert decode(message, rays, rays=rays, **angles) == pytest.approx(expected.tolist())


def test_a_scanner_that_turns_clockwise_is_read_by_angle() -> None:
    message = scan_of([1.0, 2.0, 3.0], first=0.2, increment=-0.1)
    assert decode(message, 3, rays=3, angle_max=0.2) == [3.0, 2.0, 1.0]
    assert decode(message, 3, rays=3) == [3.0, 2.0, 1.0]


@given(count=st.integers(1, 60), rays=st.integers(1, 60), reduce=st.sampled_from(["min", "mean", "nearest"]))
def test_every_direction_within_a_scan_lies_between_its_distances(count: int, rays: int, reduce: str) -> None:
    ranges = np.random.default_rng(count).uniform(1.0, 7.0, count)
    got = decode(scan_of(ranges, first=-1.0), rays, rays=rays, reduce=reduce)
    assert min(got) >= ranges.min() - 1e-5 and max(got) <= ranges.max() + 1e-5
    if reduce == "min" and rays <= count:
        assert min(got) == pytest.approx(ranges.min())


def test_a_direction_that_no_ray_covers_is_refused_or_gets_the_chosen_value() -> None:
    choices = {"rays": 3, "angle_max": 1.0}
    with pytest.raises(UnusableReading, match=r"no ray near 1.000 rad, as the scan covers 0.000 to 0.400 rad"):
        decode(scan_of([1.0] * 5), 3, **choices)
    assert decode(scan_of([1.0] * 5), 3, out_of_range=[-1.0], **choices) == [1.0, 1.0, -1.0]


@pytest.mark.parametrize(("first", "increment"), [(math.nan, 0.1), (0.0, 0.0), (0.0, math.inf), (0.0, math.nan)])
def test_a_scan_without_directions_is_unusable(first: float, increment: float) -> None:
    message = scan_of([1.0, 2.0])
    message.angle_min, message.angle_increment = first, increment
    with pytest.raises(UnusableReading, match="have no directions"):
        decode(message, 2, rays=2)


def test_a_scan_of_too_many_rays_is_refused_with_the_remedy() -> None:
    remedy = "5 numbers found, the policy takes 3; set `rays` to observe it in that many directions"
    with pytest.raises(UnusableReading, match=remedy):
        decode(scan_of([1.0] * 5), 3)


def test_the_number_of_directions_is_the_size_of_a_term() -> None:
    assert reading_size(SCAN, rays=36) == 36 and reading_size(SCAN) is None
    for choices, text in (
        ({"rays": 3, "angle_max": -1.0}, "angle_min, angle_max: found 0 and -1"),
        ({"rays": 3, "angle_min": 1.0}, "ascending"),
        ({"rays": 3, "angle_min": -4.0, "angle_max": 4.0}, "less than a turn"),
        ({"out_of_range": [1.0, 2.0]}, "out_of_range: found"),
    ):
        with pytest.raises(MessageTypeError, match=text):
            reading_decoder(SCAN, ArraySpec("scan", (3,), np.float64, 0, 1), topic="scan", **choices)
