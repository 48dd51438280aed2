# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Exported policies of LeRobot in the whole tick without ROS, against the actions that LeRobot itself took."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lerobot_cases import CASES, DATA
from rclpy.serialization import serialize_message
from sensor_msgs.msg import Image, JointState

from policy_node.config.schema import parse_configuration
from policy_node.control.pipeline import Pipeline
from policy_node.ros.deployment import deploy
from policy_node.sensing.synchroniser import RobotState

PERIOD_NS = 50_000_000
PREFIX = "observations."


def deployed(policy: Path, stored: Mapping[str, np.ndarray]) -> Pipeline:
    """Return the pipeline of robots with the parameters that `policy_export import` writes for such a policy."""
    observations: dict[str, Any] = {}
    for name in (name for name in stored if name.startswith(PREFIX)):
        kind = "Image" if stored[name].dtype == np.uint8 else "JointState"
        observations |= {f"{name}.topic": name.removeprefix(PREFIX), f"{name}.type": f"sensor_msgs/msg/{kind}"}
        observations |= {f"{name}.field": "position"} if kind == "JointState" else {}
        if stored["steps"] > 1:
            observations |= {f"{name}.history": int(stored["steps"]), f"{name}.history_start": "first"}
    ensemble = {"chunk.aggregate": "ensemble", "chunk.ensemble_decay": float(stored["ensemble_decay"])}
    parameters = {
        "control_rate_hz": 20.0,
        "robots": [f"robot_{robot}" for robot in range(stored["resets"].shape[1])],
        "policy.path": str(policy),
        "observations.keys": [name.removeprefix(PREFIX) for name in stored if name.startswith(PREFIX)],
        **observations,
        "action.topic": "command",
        "action.type": "std_msgs/msg/Float64MultiArray",
        "action.safe_command": [0.0, 0.0, 0.0],
        "chunk.replan_every": int(stored["replan_every"]),
        **(ensemble if stored["ensemble_decay"] else {}),
    }
    return deploy(parse_configuration(parameters)).pipeline


def message(reading: np.ndarray) -> bytes:
    """Return a reading as a serialised message: an image `[channels, height, width]`, or positions."""
    if reading.dtype != np.uint8:
        return serialize_message(JointState(position=reading.astype(np.float64).tolist()))
    channels, height, width = reading.shape
    data = np.moveaxis(reading, 0, -1).tobytes()
    return serialize_message(Image(height=height, width=width, encoding="rgb8", step=width * channels, data=data))


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_robots_get_the_commands_of_lerobot_through_resets(name: str) -> None:
    with np.load(DATA / f"lerobot_{name}.npz") as file:
        stored = dict(file)
    pipeline = deployed(DATA / f"lerobot_{name}.onnx", stored)
    expected = stored["actions"]
    found = np.zeros_like(expected)
    now_ns = 1_000_000_000_000
    for tick, reset in enumerate(stored["resets"]):
        now_ns += PERIOD_NS
        pipeline.reset(np.flatnonzero(reset).tolist())
        for sensor, key in enumerate(pipeline.keys):
            for robot, reading in enumerate(stored[PREFIX + key][tick]):
                pipeline.add(robot, sensor, now_ns, message(reading))
        result = pipeline.step(now_ns)
        assert set(result.states) == {RobotState.READY}, result.reasons
        found[tick] = result.commands
    size = np.ptp(expected, axis=(0, 1))
    assert (size > 0.01).all()
    assert (np.abs(found - expected) / size).max() < 1e-5
