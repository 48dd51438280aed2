# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Parameters of what is read from a message and of its time: which type takes them, and what contradicts itself."""

import math
from typing import Any

import pytest

from policy_node.config.parameters import CHOICES, OF_IMAGES, PARAMETERS
from policy_node.config.schema import Configuration, ConfigurationError, parse_configuration

IMAGE, SCAN, JOINTS = (f"sensor_msgs/msg/{name}" for name in ("Image", "LaserScan", "JointState"))
POSE = "geometry_msgs/msg/PoseStamped"


def configuration_of(kind: str, **given: Any) -> Configuration:
    return parse_configuration(
        {
            "control_rate_hz": 20.0,
            "robots": ["a"],
            "policy": {"path": "unused"},
            "observations": {
                "keys": ["seen", "touch"],
                "seen": {"topic": "seen", "type": kind, **given},
                "touch": {"topic": "touch", "type": JOINTS},
            },
            "synchronisation": {"slop_s": 0.02, "max_age_s": 0.1},
            "action": {"topic": "cmd_vel", "type": "geometry_msgs/msg/Twist", "fields": ["linear.x"]},
        }
    )


@pytest.mark.parametrize(
    ("kind", "given", "problem"),
    [
        (JOINTS, {"rays": 3}, "rays: given for a sensor_msgs/msg/JointState; only sensor_msgs/msg/LaserScan have it"),
        (SCAN, {"resize": "crop"}, "resize: given for a .*; only sensor_msgs/msg/Image and .*CompressedImage have it"),
        (IMAGE, {"padding": "zeros"}, "padding: given for a sensor_msgs/msg/Image; which is not read by paths"),
        (JOINTS, {"out_of_range": [0.0]}, "out_of_range: given for a .*; only .* and others have it"),
        (IMAGE, {"encoding": "bayer_rggb8"}, "encoding: found 'bayer_rggb8', but it must be one of"),
        (IMAGE, {"depth_scale": 0.0}, "depth_scale: found 0.0, but it must be finite, 1e-09 to 1000"),
        (SCAN, {"reduce": "median"}, "reduce: found 'median', but it must be one of 'min', 'mean', 'nearest'"),
        (SCAN, {"stamp": "arrival"}, "stamp: found 'arrival', but it must be one of 'header', 'receive', 'source'"),
        (SCAN, {"stamp_offset_s": math.inf}, "stamp_offset_s: found inf, but it must be finite"),
        (SCAN, {"max_age_s": math.nan}, "max_age_s: found nan, but it must be 0 or more"),
        (
            SCAN,
            {"durability": "transient_local"},
            "durability: found transient_local, which needs reliability: reliable",
        ),
        (POSE, {"frame": "dock"}, "frame: given without base_frame"),
        (POSE, {"base_frame": "base", "max_age_s": math.inf}, "max_age_s: found .inf beside base_frame"),
    ],
)
def test_what_contradicts_itself_is_refused(kind: str, given: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"observations\.seen\.{problem}"):
        configuration_of(kind, **given)


def test_what_is_given_reaches_the_source() -> None:
    source = configuration_of(
        SCAN, rays=36, angle_min=-1.0, angle_max=1.0, max_age_s=math.inf, stamp="receive"
    ).sources[0]
    assert (source.rays, source.angle_min, source.angle_max, source.stamp) == (36, -1.0, 1.0, "receive")
    assert source.max_age_s == math.inf and not source.is_synchronised
    assert source.choices == {**CHOICES, "rays": 36, "angle_min": -1.0, "angle_max": 1.0}


def test_topics_that_are_stamped_differently_are_not_shared() -> None:
    def sensors(**second: Any) -> int:
        terms = {name: {"topic": "state", "type": JOINTS, "joints": [name]} for name in ("a", "b")}
        terms["b"] |= second
        observation = {"keys": ["seen"], "seen": {"terms": ["a", "b"], **terms}}
        return len(
            parse_configuration(
                {
                    "control_rate_hz": 20.0,
                    "robots": ["a"],
                    "policy": {"path": "unused"},
                    "observations": observation,
                    "synchronisation": {"slop_s": 0.02, "max_age_s": 0.1},
                    "action": {"topic": "cmd_vel", "type": "geometry_msgs/msg/Twist", "fields": ["linear.x"]},
                }
            ).sensors
        )

    assert sensors() == 1 and sensors(stamp="receive") == sensors(stamp_offset_s=1.0) == 2


def test_terms_have_no_parameters_of_images() -> None:
    names = {parameter.name for parameter in PARAMETERS}
    assert OF_IMAGES == {"encoding", "resize", "depth_scale", "hole_value"}
    for name in CHOICES:
        assert f"observations.<key>.{name}" in names
        assert (f"observations.<key>.<term>.{name}" in names) is (name not in OF_IMAGES)
    with pytest.raises(
        ConfigurationError, match=r"observations\.seen\.part\.resize: found 'crop', but there is no such"
    ):
        parse_configuration(
            {
                "observations": {
                    "keys": ["seen"],
                    "seen": {"terms": ["part"], "part": {"topic": "t", "type": JOINTS, "resize": "crop"}},
                }
            }
        )
