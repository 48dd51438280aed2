# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Over DDS the node gives every robot the command of `model.predict`.

Simulated time makes it exact: the readings of a step are received before `/clock` reaches their stamp, then the node
ticks once. The node's first deadline lies one period after the first time that it sees, so every time here is a
multiple of the period. `/clock` is subscribed with best effort, so a time is sent again until its commands come, which
changes nothing for a node that heard it the first time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import Twist, TwistStamped
from node_harness import (
    ACTION_SPACE,
    DISCRETE_ACTIONS,
    Lockstep,
    Peer,
    Predictor,
    ScriptedFleet,
    command_values,
    parameters_of,
    random_reading,
)
from rclpy.time import Time
from std_msgs.msg import Float64MultiArray

pytestmark = pytest.mark.both_distributions

PERIOD_NS = 50_000_000
START_NS = 1_000_000_000
STEPS = 16
# Robot 0 sends nothing in these steps.
SILENT_STEPS = range(6, 10)


@dataclass(frozen=True)
class Case:
    robots: int
    stack: int
    command_type: type
    discrete: bool = False

    def __str__(self) -> str:
        actions = "discrete" if self.discrete else "continuous"
        return f"{self.robots} robots, stack {self.stack}, {self.command_type.__name__}, {actions}"


CASES = [
    Case(1, 1, TwistStamped),
    Case(1, 4, Twist, discrete=True),
    Case(3, 1, Twist, discrete=True),
    Case(3, 4, TwistStamped),
    Case(16, 1, Float64MultiArray),
    Case(16, 4, Twist),
]


@pytest.mark.parametrize(
    "case", [*CASES[:-2], *(pytest.param(case, marks=pytest.mark.slow) for case in CASES[-2:])], ids=str
)
def test_every_command_equals_predict(
    case: Case, model: Callable[..., tuple[Path, Any]], peer: Peer, start_node: Callable[..., Any]
) -> None:
    model_file, built_model = model(case.stack, case.discrete)
    robots = [f"robot_{index}" for index in range(case.robots)]
    table = np.random.default_rng(5).uniform(-1.0, 1.0, (DISCRETE_ACTIONS, 2))
    safe = np.array([0.125, -0.25])
    is_twist = case.command_type in (Twist, TwistStamped)
    process = start_node(
        parameters_of(
            model_file,
            robots,
            {
                "use_sim_time": True,
                "observations.image.stack": case.stack,
                "observations.touch.stack": case.stack,
                "observations.image.reliability": "reliable",
                "observations.touch.reliability": "reliable",
                # Less than a period: readings of the last tick are too old.
                "synchronisation.max_age_s": 0.04,
                "action.type": f"{case.command_type.__module__.split('.')[0]}/msg/{case.command_type.__name__}",
                "action.fields": ["linear.x", "angular.z"] if is_twist else None,
                "action.table": table.ravel().tolist() if case.discrete else None,
                "action.safe_command": safe.tolist(),
            },
        )
    )
    fleet = ScriptedFleet(peer, robots, case.command_type, reliable=True)
    fleet.wait_until_heard()
    process.wait_for(r"\bactive: ")
    lockstep = Lockstep(peer, fleet, PERIOD_NS)
    lockstep.start(START_NS)

    rng = np.random.default_rng(7)
    predictors = {robot: Predictor(built_model, case.stack) for robot in robots}
    tolerance = 1e-5 * (ACTION_SPACE.high - ACTION_SPACE.low)
    driven: list[np.ndarray] = []
    for step in range(STEPS):
        expected = {}
        for robot in robots:
            if robot == robots[0] and step in SILENT_STEPS:
                expected[robot] = safe
                predictors[robot].reset()
                continue
            reading = random_reading(rng)
            fleet.publish(robot, lockstep.next_ns, *reading)
            action = predictors[robot](*reading)
            expected[robot] = table[action] if case.discrete else action
            driven.append(expected[robot])
        fleet.wait_until_received()
        for robot, command in lockstep.tick().items():
            found, wanted = command_values(command), expected[robot]
            assert np.all(np.abs(found - wanted) <= tolerance), f"{robot}, step {step}: {found}, not {wanted}"
            if case.command_type is TwistStamped:
                assert Time.from_msg(command.header.stamp).nanoseconds == lockstep.now_ns
    # Guards the comparison itself: constant commands would always agree.
    assert len(np.unique(np.round(driven, 3), axis=0)) >= (3 if case.discrete else len(driven) // 2)
