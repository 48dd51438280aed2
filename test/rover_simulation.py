# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""`rover_sim` as a process for tests, and the environment of its rovers."""

import contextlib
import itertools
import signal
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from forked import ForkedProcess
from node_harness import PATIENCE_S, end

from policy_node.config.package_files import share_path
from policy_node.config.parameter_file import read_parameter_file
from policy_node.learning.ros_vec_env import RosVecEnv, Step
from policy_node_rover.mujoco.environment import EPISODE_STEPS, FACING_WEIGHT, PRESS_REWARD, TIME_COST
from policy_node_rover.mujoco.rover_sim import main

SIGNALS = {
    "presses": {"topic": "presses", "type": "std_msgs/msg/Int32", "reliability": "reliable", "latched": True},
    "beacon": {"topic": "beacon", "type": "std_msgs/msg/Float64MultiArray", "size": 2, "reliability": "reliable"},
    "position": {
        "topic": "odom",
        "type": "nav_msgs/msg/Odometry",
        "field": "pose.pose.position",
        "reliability": "reliable",
    },
}


@contextlib.contextmanager
def rover_sim(*arguments: str) -> Iterator[ForkedProcess]:
    """Run the simulation while the context lasts; it must end without errors."""
    process = ForkedProcess(main, arguments)
    try:
        yield process
        process.send_signal(signal.SIGINT)
        text, _ = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, text
        assert "Traceback" not in text, text
    finally:
        end(process)
        process.communicate()


def rover_parameters(robots: int, **changes: Any) -> dict[str, Any]:
    """Return the parameters of `config/rover.yaml` without the policy; `__` stands for a dot in changes."""
    parameters = read_parameter_file(share_path("config", "rover.yaml"))
    del parameters["policy.path"]
    return {
        **parameters,
        "robots": [f"rover_{robot}" for robot in range(robots)],
        "policy.device": "cpu",
        "observations.image.reliability": "reliable",
        "observations.touch.reliability": "reliable",
        **{name.replace("__", "."): value for name, value in changes.items()},
    }


def arena_reward(step: Step) -> np.ndarray:
    """Return the reward of the arena's Gymnasium environment from the signals of the simulation."""
    pressed = step.signals["presses"][:, 0] > 0
    potential = np.where(pressed, FACING_WEIGHT, _potential(step.signals))
    return potential - _potential(step.previous_signals) - TIME_COST + PRESS_REWARD * pressed


def _potential(signals: Mapping[str, np.ndarray]) -> np.ndarray:
    distance_m, bearing_rad = signals["beacon"].T
    return FACING_WEIGHT * np.cos(bearing_rad) - distance_m


def pressed(step: Step) -> np.ndarray:
    """Return which rovers have pressed the beacon, which ends the episode."""
    return step.signals["presses"][:, 0] > 0


def rover_env(parameters: Mapping[str, Any], **options: Any) -> RosVecEnv:
    """Return the environment of simulated rovers in lockstep, with seeded resets, unless options say otherwise."""
    return RosVecEnv(
        parameters,
        arena_reward,
        pressed,
        **{
            "signals": SIGNALS,
            "reset": {"topic": "reset", "type": "std_msgs/msg/Int64", "seeded": True},
            "max_steps": EPISODE_STEPS,
            "lockstep": True,
            "episode_seeds": itertools.count(7),
            **options,
        },
    )
