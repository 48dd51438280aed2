# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""What the node tells about itself: `/diagnostics`, `~/timing`, changes of robots' states, the topics it waits for."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node
from std_msgs.msg import Float64MultiArray, MultiArrayDimension

from policy_node.configuration import Configuration
from policy_node.pipeline import FleetCommands, Pipeline
from policy_node.ros.control_loop import ControlLoop
from policy_node.synchroniser import RobotState
from policy_node.timing import TickRecord, percentiles

DIAGNOSTICS_PERIOD_S = 1.0
TRANSITIONS_PERIOD_S = 0.25
WAITING_PERIOD_S = 5.0

_LEVELS = {
    RobotState.READY: DiagnosticStatus.OK,
    RobotState.WAITING: DiagnosticStatus.WARN,
    RobotState.STALE: DiagnosticStatus.WARN,
    RobotState.REJECTED: DiagnosticStatus.ERROR,
    RobotState.FAULT: DiagnosticStatus.ERROR,
}


class Reporter:
    """Reports on a running control loop from the executor's thread, never on the tick's own time.

    Parameters
    ----------
    node
        Owner of publishers and timers.
    configuration, pipeline, loop
        What is reported.
    description
        Key and value pairs that change with the policy only, such as its file and device.

    Attributes
    ----------
    description
        Set anew when the policy is replaced.
    """

    def __init__(
        self,
        node: Node,
        configuration: Configuration,
        pipeline: Pipeline,
        loop: ControlLoop,
        description: dict[str, str],
    ) -> None:
        self._node = node
        self._configuration = configuration
        self._pipeline = pipeline
        self._loop = loop
        self.description = description
        self._logger = node.get_logger()
        self._reported_at_s = time.monotonic()
        self._diagnostics = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._timing = node.create_publisher(Float64MultiArray, "~/timing", 10)
        # Real time, also in simulation: an operator must be told when simulated time stands still.
        steady_clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._timers = [
            node.create_timer(period_s, callback, clock=steady_clock)
            for period_s, callback in (
                (DIAGNOSTICS_PERIOD_S, self._report),
                (TRANSITIONS_PERIOD_S, self.log_transitions),
                (WAITING_PERIOD_S, self._log_unheard),
            )
        ]

    def destroy(self) -> None:
        """Remove timers and publishers from the node."""
        for timer in self._timers:
            self._node.destroy_timer(timer)
        self._node.destroy_publisher(self._diagnostics)
        self._node.destroy_publisher(self._timing)

    def log_transitions(self) -> None:
        """Log each change of a robot's state once, robots with the same change in one line."""
        changes: dict[tuple[RobotState, str], tuple[list[str], str]] = {}
        while self._loop.transitions:
            robot, state, reason = self._loop.transitions.popleft()
            # Ages differ from robot to robot; what matters is the state and the sensor.
            names, _ = changes.setdefault((state, _without_digits(reason)), ([], reason))
            names.append(self._pipeline.robots[robot])
        for (state, _), (names, reason) in changes.items():
            robots = ", ".join(dict.fromkeys(names))
            if state is RobotState.READY:
                self._logger.info(f"{robots}: READY, driven by the policy")
            else:
                self._logger.warning(
                    f"{robots}: {state.name}, {reason}; when_stale: {self._configuration.action.when_stale}"
                )

    def _log_unheard(self) -> None:
        unheard = self._pipeline.unheard()
        if not unheard:
            return
        topics = {sources[0].name: sources[0].topic for sources in self._configuration.sensors}
        text = "; ".join(f"{robot}: {', '.join(topics[key] for key in keys)}" for robot, keys in unheard.items())
        self._logger.warning(f"waiting for the first message of {text}")

    def _report(self) -> None:
        records = self._loop.statistics.collect()
        now_s = time.monotonic()
        elapsed_s, self._reported_at_s = now_s - self._reported_at_s, now_s
        latest = self._loop.latest
        message = DiagnosticArray()
        message.header.stamp = self._node.get_clock().now().to_msg()
        message.status = [self._node_status(records, elapsed_s, latest)]
        if latest is not None:
            message.status += [
                self._robot_status(robot, latest, records) for robot in range(len(self._pipeline.robots))
            ]
        self._diagnostics.publish(message)
        if records:
            self._timing.publish(timing_message(records))

    def _node_status(
        self, records: Sequence[TickRecord], elapsed_s: float, latest: FleetCommands | None
    ) -> DiagnosticStatus:
        statistics = self._loop.statistics
        missed_now = sum(record.missed for record in records)
        ready = sum(state is RobotState.READY for state in latest.states) if latest else 0
        level, text = DiagnosticStatus.OK, f"{ready} of {len(self._pipeline.robots)} robots ready"
        if not records:
            level, text = DiagnosticStatus.WARN, "no tick in the last second; is simulated time running?"
        elif missed_now:
            level, text = DiagnosticStatus.WARN, f"{missed_now} ticks missed in the last second; {text}"
        elif ready < len(self._pipeline.robots):
            level = DiagnosticStatus.WARN
        values: dict[str, object] = {
            "rate_hz": len(records) / elapsed_s,
            "control_rate_hz": self._configuration.control_rate_hz,
            "ticks": statistics.ticks,
            "missed_ticks": statistics.missed,
            "robots_ready": ready,
            **_percentile_values("lateness_ms", [record.lateness_s * 1e3 for record in records]),
            **_percentile_values("tick_ms", [record.duration_s * 1e3 for record in records]),
        }
        if records:
            ages_s = np.concatenate([record.command_ages_s for record in records])
            values |= _percentile_values("stamp_to_command_ms", ages_s * 1e3)
            for stage in records[-1].stages_s:
                values |= _percentile_values(f"{stage}_ms", [record.stages_s[stage] * 1e3 for record in records])
        return self._status("control", level, text, {**values, **self.description})

    def _robot_status(self, robot: int, latest: FleetCommands, records: Sequence[TickRecord]) -> DiagnosticStatus:
        state, reason = latest.states[robot], latest.reasons[robot]
        values = {
            "state": state.name,
            "reason": reason,
            "age_at_command_ms": latest.ages_s[robot] * 1e3,
            **_percentile_values("stamp_to_command_ms", [record.command_ages_s[robot] * 1e3 for record in records]),
            "rejected": int(self._pipeline.rejected_count[robot]),
        }
        return self._status(self._pipeline.robots[robot], _LEVELS[state], reason or "driven by the policy", values)

    def _status(self, part: str, level: bytes, text: str, values: dict[str, object]) -> DiagnosticStatus:
        pairs = [KeyValue(key=key, value=f"{v:.3f}" if isinstance(v, float) else str(v)) for key, v in values.items()]
        name = self._node.get_fully_qualified_name().lstrip("/")
        return DiagnosticStatus(level=level, name=f"{name}: {part}", message=text, hardware_id=part, values=pairs)


def timing_message(records: Sequence[TickRecord]) -> Float64MultiArray:
    """Pack tick records as rows in ms: lateness and duration of the tick, each robot's age of data at its command."""
    rows = np.array([[record.lateness_s, record.duration_s, *record.command_ages_s] for record in records]) * 1e3
    message = Float64MultiArray()
    ticks, columns = rows.shape
    message.layout.dim = [
        MultiArrayDimension(label="ticks", size=ticks, stride=ticks * columns),
        MultiArrayDimension(label="columns", size=columns, stride=columns),
    ]
    message.data = rows.ravel().tolist()
    return message


def _percentile_values(name: str, values: Sequence[float] | np.ndarray) -> dict[str, float]:
    p50, p99 = percentiles(values)
    return {} if math.isnan(p50) else {f"{name}_p50": p50, f"{name}_p99": p99}


def _without_digits(text: str) -> str:
    return "".join(character for character in text if not character.isdigit())
