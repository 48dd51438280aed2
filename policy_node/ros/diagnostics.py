# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""What the node tells about itself: `/diagnostics`, `~/timing`, changes of robots' states, the topics it waits for."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.duration import Duration
from rclpy.node import Node
from std_msgs.msg import Float64MultiArray, MultiArrayDimension

from policy_node.configuration import Configuration
from policy_node.pipeline import FleetCommands, Pipeline
from policy_node.ros.control_loop import ControlLoop
from policy_node.ros.graph import why_silent
from policy_node.synchroniser import RobotState
from policy_node.timing import TickRecord, percentiles

DIAGNOSTICS_PERIOD_S = 1.0
CHANGES_PERIOD_S = 0.25
WAITING_PERIOD_S = 5.0
# How long the end waits until the last report has arrived.
ACKNOWLEDGE_S = 0.2
# A robot whose state goes to and fro gets so many lines in so long a time.
LINES_PER_ROBOT = 20
LINES_PERIOD_S = 20.0

_LEVELS = {
    RobotState.READY: DiagnosticStatus.OK,
    RobotState.WAITING: DiagnosticStatus.WARN,
    RobotState.STALE: DiagnosticStatus.WARN,
    RobotState.REJECTED: DiagnosticStatus.ERROR,
    RobotState.FAULT: DiagnosticStatus.ERROR,
    RobotState.STOPPED: DiagnosticStatus.WARN,
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
        robots = len(pipeline.robots)
        self._reported_at_s = self._last_tick_s = time.monotonic()
        # Of each robot's changes of state: how many were logged, and when the last lines were.
        self._logged_changes = [0] * robots
        self._logged_at_s = [deque([-math.inf] * LINES_PER_ROBOT, maxlen=LINES_PER_ROBOT) for _ in range(robots)]
        self._diagnostics = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._timing = node.create_publisher(Float64MultiArray, "~/timing", 10)
        # Real time, also in simulation: an operator must be told when simulated time stands still.
        steady_clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._timers = [
            node.create_timer(period_s, self._guarded(callback), clock=steady_clock)
            for period_s, callback in (
                (DIAGNOSTICS_PERIOD_S, self._report),
                (CHANGES_PERIOD_S, self._log_changes),
                (WAITING_PERIOD_S, self._log_unheard),
            )
        ]

    def destroy(self) -> None:
        """Remove timers and publishers from the node; why the loop ended is said first."""
        if self._loop.failure is not None:
            self._guarded(self._report)()
            self._diagnostics.wait_for_all_acked(Duration(seconds=ACKNOWLEDGE_S))
        for timer in self._timers:
            self._node.destroy_timer(timer)
        self._node.destroy_publisher(self._diagnostics)
        self._node.destroy_publisher(self._timing)

    def _guarded(self, callback: Callable[[], None]) -> Callable[[], None]:
        def guarded() -> None:
            try:
                callback()
            except Exception as error:  # a report that fails must not end the process that drives the robots
                self._logger.error(
                    f"reporting failed: {type(error).__name__}: {error}", throttle_duration_sec=WAITING_PERIOD_S
                )

        return guarded

    def _log_changes(self) -> None:
        """Log the newest state of the robots whose state has changed, those in the same state in one line."""
        latest = self._loop.latest
        if latest is None:
            return
        now_s = time.monotonic()
        lines: dict[tuple[RobotState, str], tuple[list[str], str]] = {}
        for robot, changes in enumerate(self._loop.changes):
            unlogged = changes - self._logged_changes[robot]
            if not unlogged or now_s - self._logged_at_s[robot][0] < LINES_PERIOD_S:
                continue
            self._logged_changes[robot] = changes
            self._logged_at_s[robot].append(now_s)
            state, reason = latest.states[robot], latest.reasons[robot]
            # Ages differ from robot to robot; what matters is the state and the sensor.
            names, _ = lines.setdefault((state, _without_digits(reason)), ([], reason))
            names.append(self._pipeline.robots[robot] + (f" (after {unlogged} changes)" if unlogged > 1 else ""))
        for (state, _), (names, reason) in lines.items():
            robots = ", ".join(names)
            if state is RobotState.READY:
                self._logger.info(f"{robots}: READY, driven by the policy")
            else:
                self._logger.warning(
                    f"{robots}: {state.name}, {reason}; when_stale: {self._configuration.action.when_stale}"
                )

    def _log_unheard(self) -> None:
        if self._loop.waits_for_clock:
            self._logger.warning("waiting for the first message of /clock, as use_sim_time is set")
            return
        unheard = self._pipeline.unheard()
        if not unheard:
            return
        by_name = {sources[0].name: sources[0] for sources in self._configuration.sensors}
        silent = []
        for robot, keys in unheard.items():
            whys = [
                (by_name[key].topic, why_silent(self._node, robot, by_name[key], self._pipeline.robots)) for key in keys
            ]
            silent.append(f"{robot}: " + ", ".join(f"{topic} ({why})" if why else topic for topic, why in whys))
        self._logger.warning(f"waiting for the first message of {'; '.join(silent)}")

    def _report(self) -> None:
        records, ticks, missed = self._loop.statistics.collect()
        now_s = time.monotonic()
        elapsed_s, self._reported_at_s = now_s - self._reported_at_s, now_s
        if records:
            self._last_tick_s = now_s
        period_s = self._configuration.period_ns / 1e9
        # Robots whose last tick is long ago are in the state of that tick no more.
        silence = ""
        if self._loop.failure is not None:
            silence = f"the control loop ended: {type(self._loop.failure).__name__}: {self._loop.failure}"
        elif (hanging_since_s := self._loop.hanging_since_s) is not None:
            silence = f"the tick hangs for {now_s - hanging_since_s:.1f} s; the robots get their safe commands"
        elif now_s - self._last_tick_s > max(DIAGNOSTICS_PERIOD_S, 2 * period_s):
            hint = "; is simulated time running?" if self._loop.simulated else ""
            silence = f"no tick for {now_s - self._last_tick_s:.0f} s{hint}"
        latest = self._loop.latest
        message = DiagnosticArray()
        message.header.stamp = self._node.get_clock().now().to_msg()
        message.status = [self._node_status(records, ticks, missed, elapsed_s, latest, silence)]
        if latest is not None:
            robots = range(len(self._pipeline.robots))
            message.status += [self._robot_status(robot, latest, records, silence) for robot in robots]
        self._diagnostics.publish(message)
        if records:
            self._timing.publish(timing_message(records))

    def _node_status(
        self,
        records: Sequence[TickRecord],
        ticks: int,
        missed: int,
        elapsed_s: float,
        latest: FleetCommands | None,
        silence: str,
    ) -> DiagnosticStatus:
        missed_now = sum(record.missed for record in records)
        driven = latest is not None and not silence
        ready = sum(state is RobotState.READY for state in latest.states) if latest and driven else 0
        level, text = DiagnosticStatus.OK, f"{ready} of {len(self._pipeline.robots)} robots ready"
        if silence:
            failed = self._loop.failure is not None or self._loop.hanging_since_s is not None
            level, text = DiagnosticStatus.ERROR if failed else DiagnosticStatus.WARN, silence
        elif missed_now:
            level, text = DiagnosticStatus.WARN, f"{missed_now} ticks missed in the last second; {text}"
        elif ready < len(self._pipeline.robots):
            level = DiagnosticStatus.WARN
        values: dict[str, object] = {
            "rate_hz": len(records) / elapsed_s,
            "control_rate_hz": self._configuration.control_rate_hz,
            "ticks": ticks,
            "missed_ticks": missed,
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

    def _robot_status(
        self, robot: int, latest: FleetCommands, records: Sequence[TickRecord], silence: str
    ) -> DiagnosticStatus:
        hangs = self._loop.hanging_since_s is not None
        state, reason = RobotState.FAULT if hangs else latest.states[robot], silence or latest.reasons[robot]
        values: dict[str, object] = {"state": state.name, "reason": reason}
        # The readings of a robot that is not ready are behind no command; their age is that at the tick.
        age_s = records[-1].command_ages_s[robot] if records else math.nan
        age_s = age_s if math.isfinite(age_s) else latest.ages_s[robot]
        if math.isfinite(age_s):
            values["age_at_command_ms"] = age_s * 1e3
        values |= _percentile_values("stamp_to_command_ms", [record.command_ages_s[robot] * 1e3 for record in records])
        values["rejected"] = int(self._pipeline.rejected_count[robot])
        level = DiagnosticStatus.STALE if silence and not hangs else _LEVELS[state]
        return self._status(self._pipeline.robots[robot], level, reason or "driven by the policy", values)

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
