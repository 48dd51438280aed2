# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""`policy_node simulate` publishes what a parameter file observes, so that the node runs end to end."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from forked import ForkedProcess
from node_harness import NodeProcess, parameters_of

from policy_node.cli.simulate import main
from policy_node.config.catalogue import IMAGE_ENCODINGS, MESSAGE_TYPES
from policy_node.config.specs import ArraySpec
from policy_node.messages.cdr import deserialise, header_stamp_ns, serialise
from policy_node.messages.codecs import reading_decoder
from policy_node.messages.examples import example_message
from policy_node.messages.fields import MessageTypeError, message_class
from policy_node.ros.simulated_robots import BAG_PAUSE_S, _restamped, bag_readings


def test_a_node_drives_simulated_robots(
    model: Callable[..., tuple[Path, Any]], start_node: Callable[..., NodeProcess], tmp_path: Path
) -> None:
    parameters = parameters_of(model()[0], ("robot_0", "robot_1"), {"synchronisation.max_age_s": 5.0})
    file = tmp_path / "robots.yaml"
    file.write_text(yaml.safe_dump({"/**": {"ros__parameters": parameters}}))
    node = start_node(parameters)
    node.wait_for(r"\bactive: ")
    process = ForkedProcess(main, [str(file), "--duration-s", "4"])
    node.wait_for("READY, driven by the policy")
    said, _ = process.communicate()
    assert process.returncode == 0, said
    assert "simulating robot_0, robot_1: 4 topics" in said and "robot_1: " in said and "commands/s, newest " in said


def test_problems_end_with_status_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nothing.yaml")]) == 1
    assert "cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"use_sim_time": True}, "publish no /clock; give -p use_sim_time:=false"),
        (
            {"observations.touch.type": "geometry_msgs/msg/PoseStamped", "observations.touch.base_frame": "base_link"},
            "observations.touch.base_frame: found 'base_link', but simulated robots publish no tf",
        ),
        (
            {
                "observations.touch.type": "geometry_msgs/msg/PoseStamped",
                "observations.touch.base_frame": "base_link",
                "observations.touch.max_age_s": math.inf,
                "observations.touch.transform_max_age_s": 0.5,
            },
            "give -p observations.touch.base_frame:='' -p observations.touch.transform_max_age_s:=0.0 here and to the",
        ),
    ],
)
def test_what_simulated_robots_lack_is_refused(
    model: Callable[..., tuple[Path, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    words: str,
) -> None:
    parameters = parameters_of(model()[0], ("robot_0",), changes)
    file = tmp_path / "robots.yaml"
    file.write_text(yaml.safe_dump({"/**": {"ros__parameters": parameters}}))
    assert main([str(file)]) == 1
    assert words in capsys.readouterr().err


# Types that random numbers can give; others need a bag.
RANDOM_TYPES = [
    *(f"sensor_msgs/msg/{name}" for name in ("Image", "CompressedImage", "JointState", "LaserScan", "Range", "Imu")),
    *(f"geometry_msgs/msg/{name}" for name in ("Twist", "TwistStamped", "WrenchStamped")),
    "nav_msgs/msg/Odometry",
    *(f"std_msgs/msg/{name}" for name in ("Float32MultiArray", "Float64MultiArray", "Bool", "Int32")),
    "ros_gz_interfaces/msg/Contacts",
]


@pytest.mark.parametrize("name", RANDOM_TYPES)
def test_an_example_of_a_type_can_be_read(name: str) -> None:
    try:
        kind = message_class(name)
    except MessageTypeError:
        pytest.skip("its package is not installed here")
    for seed in range(3):
        rng = np.random.default_rng(seed)
        specs = [ArraySpec("seen", (count,), np.float32, -np.inf, np.inf) for count in (1, 2, 4, 6, 10, 13, 50)]
        if MESSAGE_TYPES[name].is_image:
            specs = [ArraySpec("seen", (6, 8, 3), np.uint8, 0, 255)]
        read = 0
        for spec in specs:
            try:
                decoder = reading_decoder(name, spec, topic="seen")
            except MessageTypeError:
                continue  # messages of this type have another count
            out = np.full(spec.shape, 77, spec.dtype)
            decoder.decode(serialise(example_message(kind, spec, rng)), out)
            assert not (out == 77).all()
            read += 1
        assert read


@pytest.mark.parametrize("name", [name for name, kind in IMAGE_ENCODINGS.items() if not kind.is_mosaic])
def test_an_example_of_every_encoding_can_be_read(name: str) -> None:
    kind = IMAGE_ENCODINGS[name]
    high = np.iinfo(kind.dtype).max if kind.dtype.kind in "iu" else 10.0
    spec = ArraySpec("seen", (6, 8, kind.channels), kind.dtype, 0, high)
    message = example_message(message_class("sensor_msgs/msg/Image"), spec, np.random.default_rng(0), encoding=name)
    assert message.encoding == name
    out = np.zeros(spec.shape, spec.dtype)
    reading_decoder("sensor_msgs/msg/Image", spec, topic="seen", encoding=name).decode(serialise(message), out)
    assert out.any()


def test_a_stamp_is_replaced_and_nothing_else() -> None:
    message = message_class("sensor_msgs/msg/JointState")(name=["a"], position=[2.5])
    raw = _restamped(serialise(message), 1_500_000_001)
    assert header_stamp_ns(raw) == 1_500_000_001
    message.header.stamp.sec, message.header.stamp.nanosec = 1, 500_000_001
    assert deserialise(raw, type(message)) == message


def test_the_messages_of_a_bag_come_again_in_their_rhythm() -> None:
    recorded = [(10_000_000_000, "/a", b"1"), (10_500_000_000, "/b", b"2")]
    first = list(itertools.islice(bag_readings(lambda: recorded), 4))
    assert [reading.topic for reading in first] == ["/a", "/b", "/a", "/b"]
    assert [reading.after_s for reading in first] == [0.0, 0.5, BAG_PAUSE_S, 0.5]
    # Also those of one time come in a rhythm.
    assert [reading.after_s for reading in itertools.islice(bag_readings(lambda: recorded[:1]), 3)] == [
        0.0,
        BAG_PAUSE_S,
        BAG_PAUSE_S,
    ]
    assert list(bag_readings(lambda: [])) == []
