# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Usual messages are copied; rows, reasons and counts are those of decoding each message."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image

from policy_node.config.specs import ArraySpec
from policy_node.messages.codecs import reading_decoder
from policy_node.messages.layouts import find_layout
from policy_node.sensing import staging
from policy_node.sensing.samples import Sample
from policy_node.sensing.staging import Rejections, Staging
from policy_node_bench.fuzz.case import Case
from policy_node_bench.fuzz.cases import CASES

ROBOTS = 3
BY_NAME = {case.name: case for case in CASES}
COPIED = [name for name, case in BY_NAME.items() if case.decoder().copies is not None]
SIGNALLING_NAN = struct.unpack("<d", (0x7FF0000000000001).to_bytes(8, "little"))[0]
NUMBERS = st.floats() | st.sampled_from([SIGNALLING_NAN, -0.0, 5e-324, 3.5e38, 1e200, -np.inf])


@cache
def seeds_of(name: str) -> list[bytes]:
    return BY_NAME[name].seeds()


@st.composite
def messages(draw: st.DrawFn, name: str) -> bytes:
    """Draw a valid message, mostly, or one with other numbers, other bytes or another length."""
    raw = draw(st.sampled_from(seeds_of(name)))
    kind = draw(st.sampled_from(["valid"] * 6 + ["numbers", "bytes", "cut", "padded"]))
    if kind == "numbers":
        layout = find_layout(BY_NAME[name].decoder().message_type, raw)
        changed = bytearray(raw)
        for place in layout.places.values() if layout is not None else ():
            if place.count and place.dtype.kind == "f":
                with np.errstate(over="ignore", invalid="ignore"):
                    numbers = np.full(place.count, draw(NUMBERS)).astype(place.dtype).tobytes()
                changed[place.offset : place.offset + len(numbers)] = numbers
        return bytes(changed)
    if kind == "bytes":
        changed = bytearray(raw)
        changed[draw(st.integers(0, min(len(raw), 120) - 1))] = draw(st.integers(0, 255))
        return bytes(changed)
    if kind == "cut":
        return raw[: draw(st.integers(0, len(raw) - 1))]
    return raw + bytes(4) if kind == "padded" else raw


class Fleet:
    """A staging of some sensors for all robots."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self.rejections = Rejections(ROBOTS)
        names = [f"{index}.{case.name}" for index, case in enumerate(cases)]
        self.rows = {name: np.zeros((ROBOTS, *case.shape), case.dtype) for name, case in zip(names, cases, strict=True)}
        self._decoders = {name: case.decoder() for name, case in zip(names, cases, strict=True)}
        decoders = {name: decoder.decode for name, decoder in self._decoders.items()}
        self.staging = Staging([[name] for name in names], self.rows, decoders, self.rejections)

    def tick(self, chosen: Sequence[tuple[int, Sequence[bytes]]]) -> tuple[object, ...]:
        """Stage messages of some robots; return all that follows."""
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            reasons = self.staging([(robot, [Sample(0, raw) for raw in raws]) for robot, raws in chosen])
        lacking = sorted(self.staging.lacking) if reasons else []
        rows = {name: array.tobytes() for name, array in self.rows.items()}
        notices = [list(decoder.notices) for decoder in self._decoders.values()]
        return reasons, lacking, rows, self.rejections.count.tolist(), notices


def fleets(cases: Sequence[Case]) -> tuple[Fleet, Fleet]:
    """Return a fleet, and one whose messages are all decoded."""
    fleet = Fleet(cases)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(staging, "copies_of", lambda decode: None)
        return fleet, Fleet(cases)


@given(st.data())
def test_copied_messages_give_what_decoded_ones_give(data: st.DataObject) -> None:
    """For any messages of two sensors, of all robots or some."""
    names = [data.draw(st.sampled_from(sorted(COPIED))), data.draw(st.sampled_from(sorted(BY_NAME)))]
    cases = [BY_NAME[name] for name in names]
    fleet, other = fleets(cases)
    for _ in range(data.draw(st.integers(2, 5))):
        robots = sorted(data.draw(st.just({*range(ROBOTS)}) | st.sets(st.integers(0, ROBOTS - 1))))
        chosen = [(robot, [data.draw(messages(name)) for name in names]) for robot in robots]
        for found, expected in zip(fleet.tick(chosen), other.tick(chosen), strict=True):
            assert found == expected


@pytest.mark.parametrize(
    "name",
    [
        *("joint_state", "joint_state_effort", "imu", "odometry", "twist", "wrench", "pose", "image_bgr8"),
        *("float32_array", "float64_array", "covariance", "elements_of_messages"),
    ],
)
def test_the_second_message_of_a_kind_is_not_decoded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else these tests would compare nothing; what is computed with, or converted, is always decoded."""
    fleet, _ = fleets([BY_NAME[name]])
    raws = [raw for raw in seeds_of(name) if not fleet.tick([(0, [raw])])[0]]
    decoded: list[object] = []
    finish = Staging._decode
    monkeypatch.setattr(
        Staging, "_decode", lambda self, given: decoded.extend(jobs := list(given)) or finish(self, jobs)
    )
    for raw in raws:
        fleet.tick([(0, [raw])])
    assert len(decoded) < len(raws)


def test_a_depth_image_without_any_distance_is_refused_at_each_tick() -> None:
    spec = ArraySpec("depth", (4, 5, 1), "uint16", 0, 65535)
    decoder = reading_decoder("sensor_msgs/msg/Image", spec, topic="depth", encoding="16UC1")
    rows = {"depth": np.zeros((1, *spec.shape), np.uint16)}
    stage = Staging([["depth"]], rows, {"depth": decoder.decode}, Rejections(1))
    reasons = []
    for distance in (7, 7, 0, 0, 7):
        pixels = np.full((4, 5), distance, "<u2").tobytes()
        raw = serialize_message(Image(height=4, width=5, encoding="16UC1", step=10, data=pixels))
        reasons.append(stage([(0, [Sample(0, raw)])]))
    assert [bool(reason) for reason in reasons] == [False, False, True, True, False]
