# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""How far commands jump where plans follow each other, in a pipeline with simulated time and inference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.serialization import serialize_message
from sensor_msgs.msg import JointState

from policy_node.config.schema import parse_configuration
from policy_node.control.pipeline import Pipeline
from policy_node.control.planned_inference import PlannedInference, RecordedPlans
from policy_node.ros.deployment import deploy
from policy_node_bench.chunks.policies import SPEED, PrefixedSwing, Swing, save

AGGREGATES = ("newest", "ensemble", "blend", "prefix")
ROBOTS = 4
SIMULATED_S = 60.0
# Standard deviation of the error of an observation, a constant error of the plan that follows from it.
ERROR = 0.1


def largest_jumps(
    parameters: Mapping[str, Any], folder: Path, horizon: int, inference_s: float
) -> dict[str, dict[str, float]]:
    """Return for every aggregation the largest change of a command from tick to tick.

    `jump` is that change, `step` the largest one within a plan, `ratio` their ratio.

    Parameters
    ----------
    parameters
        Those of the node, with the control rate and `chunk.replan_every`.
    folder
        For the policy files.
    """
    rate_hz = parameters["control_rate_hz"]
    found = {}
    for aggregate in AGGREGATES:
        given = {**parameters, "chunk.aggregate": aggregate, "robots": [f"robot_{index}" for index in range(ROBOTS)]}
        policy = Swing(horizon, 1.0 / rate_hz)
        if aggregate == "prefix":
            policy = PrefixedSwing(horizon, 1.0 / rate_hz)
            given |= {"chunk.prefix_input": "rest", "chunk.delay_input": "delay"}
        given |= {"policy.path": save(policy, folder / f"{aggregate}.pt"), "policy.horizon": horizon}
        found[aggregate] = _simulate(deploy(parse_configuration(given)).pipeline, rate_hz, inference_s)
    return found


def _simulate(pipeline: Pipeline, rate_hz: float, inference_s: float) -> dict[str, float]:
    """Drive robots with plans that arrive as many ticks after their observation as an inference takes."""
    rng = np.random.default_rng(0)
    inference = pipeline._inference
    assert isinstance(inference, PlannedInference)
    steps: list[float] = []
    take = inference.store.take

    def noted(robots: np.ndarray, start_ns: int, now_ns: int, actions: np.ndarray) -> None:
        steps.append(float(np.abs(np.diff(actions, axis=1)).max()))
        take(robots, start_ns, now_ns, actions)

    inference.store.take = noted  # type: ignore[method-assign]
    period_ns = round(1e9 / rate_hz)
    delay = round(inference_s * rate_hz)
    requested_tick: int | None = None
    commands = []
    for tick in range(round(SIMULATED_S * rate_hz)):
        now_ns = 10**12 + tick * period_ns
        for robot in range(ROBOTS):
            phase = SPEED * (tick * period_ns / 1e9 + robot)
            message = JointState(position=[phase, float(rng.normal(0.0, ERROR))])
            pipeline.add(robot, 0, now_ns, serialize_message(message))
        arrived_ns = None
        if requested_tick is not None and tick - requested_tick >= delay:
            arrived_ns, requested_tick = 10**12 + requested_tick * period_ns, None
        requested: tuple[int, ...] = ()
        if requested_tick is None and inference.store.wanted(now_ns).all():
            requested, requested_tick = tuple(range(ROBOTS)), tick
        fleet = pipeline.step(now_ns, plans=RecordedPlans(requested, arrived_ns, delay))
        if fleet.driven.all():
            commands.append(fleet.commands)
    jump, step = float(np.abs(np.diff(commands, axis=0)).max()), max(steps)
    return {"jump": jump, "step": step, "ratio": jump / step}
