# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Report on the node: `/diagnostics`, `~/timing`, `~/preview`, and lines of the log that are not about one event."""

from __future__ import annotations

import array
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.duration import Duration
from rclpy.logging import LoggingSeverity
from rclpy.node import Node
from std_msgs.msg import Float64MultiArray, MultiArrayDimension

from policy_node.config.schema import Configuration, SourceConfiguration, named, topic_of
from policy_node.control.tick import FleetTick
from policy_node.control.timing import TickRecord, column_percentiles, percentiles
from policy_node.messages.codecs import ReadingDecoder
from policy_node.recording.recorder import Recording
from policy_node.ros.command_subscribers import CommandSubscribers
from policy_node.ros.graph import several_publishers, why_silent, zero_publisher
from policy_node.ros.preview import Preview
from policy_node.ros.process import this_host, this_process
from policy_node.ros.rclpy_internals import NO_EVENTS
from policy_node.ros.resource_usage import DeviceLoad, ProcessLoad
from policy_node.ros.state_log import FINDING_PERIOD_S, BoundLog, Line, OverloadLog, StateLog
from policy_node.ros.subscriptions import SensorSubscriptions
from policy_node.sensing.reception import Finding
from policy_node.sensing.synchroniser import RobotState

if TYPE_CHECKING:
    from policy_node.ros.control_loop import ControlLoop
    from policy_node.ros.deployment import Deployment

DIAGNOSTICS_PERIOD_S = 1.0
# Reports compete with the tick for the interpreter: those of a large fleet go out in parts, spread over the period.
ROBOTS_PER_PART = 16
WAITING_PERIOD_S = 5.0
# Longest wait for the arrival of the last report.
ACKNOWLEDGE_S = 0.2
# Most robots in the account of a tick in the debug log.
ACCOUNT_ROBOTS = 16
# Part of the diagnostics that is about the node itself.
CONTROL = "control"

_LEVELS = {
    RobotState.READY: DiagnosticStatus.OK,
    RobotState.WAITING: DiagnosticStatus.WARN,
    RobotState.STALE: DiagnosticStatus.WARN,
    RobotState.REJECTED: DiagnosticStatus.ERROR,
    RobotState.FAULT: DiagnosticStatus.ERROR,
    RobotState.STOPPED: DiagnosticStatus.WARN,
}


@dataclass(frozen=True, eq=False)
class _Report:
    """The state of the control loop in one period."""

    records: Sequence[TickRecord]
    #: Ticks run and missed since activation.
    ticks: int
    missed: int
    #: Length of the period in real and in ROS time.
    elapsed_s: float
    simulated_s: float
    #: The last tick, None before the first.
    latest: FleetTick | None
    #: Why the state of that tick is outdated; empty if it is not.
    silence: str
    #: Whether the loop ended with an exception.
    failed: bool
    #: Whether the current tick hangs.
    hangs: bool
    #: `[robots]`: number of ticks in which the robot was sent a command of the policy.
    driven_ticks: np.ndarray
    #: `[robots]`: part of the ticks in which it was; NaN without ticks.
    driven_shares: np.ndarray
    #: `[robots]`: changes of its state.
    changes: np.ndarray
    #: `[robots]`: age of the synchronised readings behind these commands; NaN without any.
    p50_ms: np.ndarray
    p99_ms: np.ndarray
    #: `[robots]`: that age at the last tick; for a robot that is not ready the age of its readings, NaN without any.
    ages_ms: np.ndarray
    #: `[robots]`: plans taken, and plans that ended before the next one came; None where no command follows from plans.
    plans: np.ndarray | None
    exhausted: np.ndarray | None
    #: How long the inference beside the tick takes, if it hangs.
    planner_hangs_s: float | None
    #: `[robots, sensors]`: rate of the messages that arrived.
    rates_hz: np.ndarray


class StatusPublisher:
    """Publishes on `/diagnostics` for a node. The hardware of the node is its computer, that of a robot the robot."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._prefix = node.get_fully_qualified_name().lstrip("/")
        self._hardware = {CONTROL: this_host()}
        self._process = this_process()
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10, event_callbacks=NO_EVENTS)

    def status(self, part: str, level: bytes, text: str, values: Mapping[str, object]) -> DiagnosticStatus:
        """Return the status of a part of the node: `CONTROL` or a robot."""
        if part not in self._hardware:
            self._hardware[part] = self._node.resolve_topic_name(part.rstrip("/")).lstrip("/")
        # Tells two nodes of one name apart.
        values = {**values, "process": self._process}
        pairs = [KeyValue(key=key, value=f"{v:.3f}" if isinstance(v, float) else str(v)) for key, v in values.items()]
        name, hardware = f"{self._prefix}: {part}", self._hardware[part]
        return DiagnosticStatus(level=level, name=name, message=text, hardware_id=hardware, values=pairs)

    def publish(self, statuses: list[DiagnosticStatus]) -> None:
        """Publish statuses with the present time."""
        message = DiagnosticArray(status=statuses)
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)

    def wait_until_heard(self) -> None:
        """Wait for a moment until the subscribers have the last message."""
        self._publisher.wait_for_all_acked(Duration(seconds=ACKNOWLEDGE_S))


class LifecycleDiagnostics:
    """Publishes the state of the lifecycle on `/diagnostics` from the construction of the node on.

    While the node drives, a `Reporter` publishes in its place.
    """

    def __init__(self, node: Node) -> None:
        self.publisher = StatusPublisher(node)
        #: What failed; empty if nothing did.
        self.failure = ""
        self._state = "unconfigured"
        steady_clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(DIAGNOSTICS_PERIOD_S, self._publish, clock=steady_clock)

    def note(self, state: str, failure: str | None = "") -> None:
        """Publish a new state of the lifecycle and what failed, or None to keep the failure.

        It is published at once, because a transition keeps the timer from running.
        """
        self._state = state
        if failure is not None:
            self.failure = failure
        if state == "active":
            self._timer.cancel()
        else:
            self._timer.reset()
            self._publish()
            if self.failure:
                # The process may end now.
                self.publisher.wait_until_heard()

    def _publish(self) -> None:
        level, text = DiagnosticStatus.WARN, "no robot is driven"
        if self.failure:
            level, text = DiagnosticStatus.ERROR, self.failure
        values = {"lifecycle_state": self._state}
        self.publisher.publish([self.publisher.status(CONTROL, level, f"{self._state}: {text}", values)])


class Reporter:
    """Reports on a running control loop from the executor's thread, never from the tick thread.

    `decoders` returns the decoder of each source, whose notices are logged once.
    `tasks_rejected` is by robot the number of task texts without effect, which may grow.
    `description` holds the values that change with the policy only, such as its file and device; set it again when the
    policy is replaced. `deployment` returns what is deployed then.
    """

    def __init__(
        self,
        node: Node,
        configuration: Configuration,
        loop: ControlLoop,
        sensors: SensorSubscriptions,
        description: dict[str, str],
        publisher: StatusPublisher,
        deployment: Callable[[], Deployment | None],
        recording: Recording | None = None,
        decoders: Callable[[], Mapping[str, ReadingDecoder]] = dict,
        tasks_rejected: Sequence[int] = (),
    ) -> None:
        self._node = node
        self._configuration = configuration
        self._loop = loop
        self._reception = sensors.reception
        self._renew = sensors.renew_silent
        self.description = description
        self._recording = recording
        self._dropped = 0
        self._sensors = tuple(sources[0].name for sources in configuration.sensors)
        self._logger = node.get_logger()
        robots = len(configuration.robots)
        self._reported_at_s = self._last_tick_s = self._searched_s = time.monotonic()
        self._reported_at_ns = node.get_clock().now().nanoseconds
        self._received = self._messages_received()
        self._process = ProcessLoad()
        import torch

        self._device = DeviceLoad(torch.device(description["device"]))
        self._parts = math.ceil(robots / ROBOTS_PER_PART)
        self._next_part = 0
        self._subscribers = CommandSubscribers(node, configuration)
        self._next_look = 0
        self._current: _Report | None = None
        self._changes = np.zeros(robots, np.int64)
        # Plans taken and exhausted until the last report.
        self._plans, self._exhausted = np.zeros((2, robots), np.int64)
        self._state_log = StateLog(configuration.robots, configuration.action.when_stale)
        self._overload_log = OverloadLog(configuration.control_rate_hz)
        self._bound_log = BoundLog(configuration.robots)
        self._decoders = decoders
        self._tasks_rejected = tasks_rejected
        self._noted: set[tuple[str, str]] = set()
        self._found_at_s: dict[tuple[str, str], float] = {}
        self._publisher = publisher
        self._timing = node.create_publisher(Float64MultiArray, "~/timing", 10, event_callbacks=NO_EVENTS)
        self._preview = Preview(node, lambda: loop.latest, deployment)
        # Real time, also in simulation: reports go on while simulated time stands still.
        steady_clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = node.create_timer(DIAGNOSTICS_PERIOD_S / self._parts, self._act, clock=steady_clock)

    def report_end(self) -> None:
        """Publish why the loop ended, if it failed."""
        if self._loop.failure is not None:
            self._next_part = 0
            for _ in range(self._parts):
                self._guard(self._report)
            self._publisher.wait_until_heard()

    def destroy(self) -> None:
        """Remove timers and publishers from the node."""
        self._node.destroy_timer(self._timer)
        self._preview.end()
        self._node.destroy_publisher(self._timing)

    def _act(self) -> None:
        """Do what is due. One timer wakes the executor for all of it, because each wake-up takes time from the tick."""
        self._guard(self._report)
        self._guard(self._log_changes)
        self._guard(self._look_at_subscribers)
        now_s = time.monotonic()
        if now_s - self._searched_s >= WAITING_PERIOD_S:
            self._searched_s = now_s
            for search in (self._renew_silent, self._log_silent, self._log_several_publishers):
                self._guard(search)
        # Just after a tick, because this holds the GIL.
        self._timer.timer_period_ns = round(self._loop.delay_until_gap(DIAGNOSTICS_PERIOD_S / self._parts) * 1e9)
        self._timer.reset()

    def _guard(self, act: Callable[[], None]) -> None:
        """Log an exception: a failed report must not end the process that drives the robots."""
        try:
            act()
        except Exception as error:
            self._logger.error(
                f"reporting failed: {type(error).__name__}: {error}", throttle_duration_sec=WAITING_PERIOD_S
            )

    def _log_changes(self) -> None:
        """Log robots whose state or reason has changed."""
        latest = self._loop.latest
        if latest is None:
            return
        shares = self._current.driven_shares if self._current is not None else np.full(len(latest.states), np.nan)
        lines = self._state_log.lines(
            time.monotonic(), latest.states, latest.reasons, self._loop.changes, self._loop.interruptions, shares
        )
        self._log(lines)

    def _log(self, lines: Sequence[Line]) -> None:
        for line in lines:
            if line.is_warning:
                self._logger.warning(line.text)
            else:
                self._logger.info(line.text)

    def _renew_silent(self) -> None:
        for topic in self._renew(self._searched_s):
            text = (
                f"no message came for seconds on {topic}, although it has a publisher; subscribed again, in case the "
                "publisher does not know of this node"
            )
            self._warn_once_in_a_period(("renewed", topic), text)

    def _log_silent(self) -> None:
        if self._loop.waits_for_clock:
            self._logger.warning("waiting for the first message of /clock, as use_sim_time is set")
            return
        latest = self._loop.latest
        if latest is None or not latest.unheard:
            return
        by_name = {sources[0].name: sources[0] for sources in self._configuration.sensors}
        silent = []
        for robot, keys in latest.unheard.items():
            # Two sensors may read one topic; an observation comes first.
            by_topic: dict[str, SourceConfiguration] = {}
            for key in keys:
                by_topic.setdefault(by_name[key].topic, by_name[key])
            whys = [
                (topic, why_silent(self._node, robot, source, self._configuration.robots))
                for topic, source in by_topic.items()
            ]
            silent.append(f"{robot}: " + ", ".join(f"{topic} ({why})" if why else topic for topic, why in whys))
        self._logger.warning(f"waiting for the first message of {'; '.join(silent)}")

    def _log_several_publishers(self) -> None:
        joined = {sensor for _, sensor in self._loop.joined}
        for sensor, (source, *_) in enumerate(self._configuration.sensors):
            if sensor in joined:
                continue
            why = several_publishers(self._node, self._configuration.robots, source)
            if why:
                self._warn_once_in_a_period(("several_publishers", source.name), f"{source.name}: {why}")

    def _look_at_subscribers(self) -> None:
        """Look at who subscribes to the commands of some robots; after the last ones log what was found."""
        self._subscribers.look(self._robots_of(self._next_look), self._loop.owners)
        self._next_look = (self._next_look + 1) % self._parts
        if self._next_look == 0:
            self._log_unheard_commands()

    def _log_unheard_commands(self) -> None:
        """Log robots whose commands are not heard, each once in a period."""
        now_s, robots = time.monotonic(), self._configuration.robots
        keys = {robot: ("commands_unheard", robots[robot]) for robot in self._subscribers.problems}
        due = [robot for robot, key in keys.items() if now_s - self._found_at_s.get(key, -math.inf) >= FINDING_PERIOD_S]
        if due:
            self._found_at_s.update({keys[robot]: now_s for robot in due})
            others = f"; so it is with {named([robots[robot] for robot in due[1:]])}" if due[1:] else ""
            self._logger.warning(f"commands are not heard: {self._subscribers.problems[due[0]]}{others}")

    def _warn_once_in_a_period(self, key: tuple[str, str], text: str) -> None:
        now_s = time.monotonic()
        if now_s - self._found_at_s.get(key, -math.inf) >= FINDING_PERIOD_S:
            self._found_at_s[key] = now_s
            self._logger.warning(text)

    def _report(self) -> None:
        """Publish the next part of the report; a new one begins with the node itself."""
        statuses = []
        if self._next_part == 0 or self._current is None:
            self._next_part = 0
            self._current = report = self._begin_report()
            statuses.append(self._node_status(report))
            if report.records:
                self._timing.publish(timing_message(report.records))
            self._log(self._overload_log.lines(time.monotonic(), report.records, report.elapsed_s))
            if report.latest is not None:
                self._log(self._bound_log.lines(report.latest.bounded, report.driven_ticks))
            if report.latest is not None and report.records and self._logger.is_enabled_for(LoggingSeverity.DEBUG):
                self._logger.debug(tick_account(report.latest, report.records[-1], self._configuration.robots))
        if self._current.latest is not None:
            robots = self._robots_of(self._next_part)
            statuses += [self._robot_status(robot, self._current, self._current.latest) for robot in robots]
        self._next_part = (self._next_part + 1) % self._parts
        if statuses:
            self._publisher.publish(statuses)

    def _robots_of(self, part: int) -> range:
        """Return the indices of the robots of a part of a report."""
        first = part * ROBOTS_PER_PART
        return range(first, min(first + ROBOTS_PER_PART, len(self._configuration.robots)))

    def _begin_report(self) -> _Report:
        records, ticks, missed = self._loop.statistics.collect()
        now_s, now_ns = time.monotonic(), self._node.get_clock().now().nanoseconds
        elapsed_s, self._reported_at_s = now_s - self._reported_at_s, now_s
        simulated_ns, self._reported_at_ns = now_ns - self._reported_at_ns, now_ns
        before, self._received = self._received, self._messages_received()
        if records:
            self._last_tick_s = now_s
        hanging_since_s, failure = self._loop.hanging_since_s, self._loop.failure
        silent_s = now_s - self._last_tick_s
        silence = ""
        if failure is not None:
            silence = f"the control loop ended: {type(failure).__name__}: {failure}"
        elif hanging_since_s is not None:
            silence = f"the tick hangs for {now_s - hanging_since_s:.1f} s; the robots get their safe commands"
        elif silent_s > max(DIAGNOSTICS_PERIOD_S, 2 * self._configuration.period_ns / 1e9):
            silence = f"no tick for {silent_s:.0f} s" + ("; is simulated time running?" if self._loop.simulated else "")
        latest = self._loop.latest
        robots = len(self._configuration.robots)
        ages_ms = np.array([record.command_ages_s for record in records]).reshape(-1, robots) * 1e3
        p50_ms, p99_ms = column_percentiles(ages_ms)
        driven_ticks = np.isfinite(ages_ms).sum(axis=0)
        changes = np.array(self._loop.changes)
        before_changes, self._changes = self._changes, changes
        newest_ms = ages_ms[-1] if records else np.full(robots, np.nan)
        if latest is not None:
            # A robot that is not ready has no command: its age is that of its readings at the tick.
            newest_ms = np.where(np.isfinite(newest_ms), newest_ms, latest.ages_s * 1e3)
        plans = exhausted = None
        if latest is not None and latest.planned is not None:
            plans = _since(self._plans, latest.planned.taken)
            exhausted = _since(self._exhausted, latest.planned.exhausted)
            self._plans, self._exhausted = latest.planned.taken, latest.planned.exhausted
        planning_s = self._loop.planning_s
        return _Report(
            records=records,
            ticks=ticks,
            missed=missed,
            elapsed_s=elapsed_s,
            simulated_s=simulated_ns / 1e9,
            latest=latest,
            silence=silence,
            failed=failure is not None,
            hangs=hanging_since_s is not None,
            driven_ticks=driven_ticks,
            driven_shares=driven_ticks / len(records) if records else np.full(robots, np.nan),
            changes=changes - before_changes,
            p50_ms=p50_ms,
            p99_ms=p99_ms,
            ages_ms=newest_ms,
            plans=plans,
            exhausted=exhausted,
            planner_hangs_s=planning_s if planning_s is not None and planning_s > self._loop.plan_lasts_s else None,
            rates_hz=(self._received - before) / max(elapsed_s, 1e-9),
        )

    def _messages_received(self) -> np.ndarray:
        """Return the number of messages that have arrived, `[robots, sensors]`."""
        return np.array([[stream.counts().received for stream in streams] for streams in self._reception.streams])

    def _node_status(self, report: _Report) -> DiagnosticStatus:
        records, latest, robots = report.records, report.latest, len(self._configuration.robots)
        findings = self._findings() | self._recording_findings() | self._plan_findings(report)
        if unheard := self._subscribers.problems:
            more = f"; {len(unheard)} robots in all" if len(unheard) > 1 else ""
            findings["commands_unheard"] = f"{next(iter(unheard.values()))}{more}"
        driven = latest is not None and not report.silence
        ready = sum(state is RobotState.READY for state in latest.states) if latest and driven else 0
        interrupted = int((report.driven_shares < 1.0).sum())
        level, text = self._node_summary(report, ready, findings)
        inferences = int(report.driven_ticks.sum())
        values: dict[str, object] = {
            "lifecycle_state": "active",
            "rate_hz": len(records) / report.elapsed_s,
            "control_rate_hz": self._configuration.control_rate_hz,
            "ticks": report.ticks,
            "missed_ticks": report.missed,
            "robots": robots,
            "robots_ready": ready,
            "robots_interrupted": interrupted,
            "inferences_per_s": inferences / report.elapsed_s,
        }
        if self._loop.simulated:
            values["real_time_factor"] = report.simulated_s / report.elapsed_s
            if report.simulated_s > 0:
                values["simulated_rate_hz"] = len(records) / report.simulated_s
        if records:
            values["batch_occupancy"] = inferences / (len(records) * robots)
            values |= _timing_values(records)
        values |= _plan_values(report)
        values |= self._process.values() | self._device.values()
        if self._recording is not None:
            values["record_path"] = self._recording.folder or self._configuration.record.path
            values |= {"recorded_ticks": self._recording.recorded, "record_dropped": self._recording.dropped}
        if self._configuration.shard:
            values["shard"] = self._configuration.shard
        return self._publisher.status(CONTROL, level, text, {**values, **findings, **self.description})

    def _node_summary(self, report: _Report, ready: int, findings: Mapping[str, str]) -> tuple[bytes, str]:
        """Return level and text of the node's own part."""
        robots, interrupted = len(self._configuration.robots), int((report.driven_shares < 1.0).sum())
        text = f"{ready} of {robots} robots ready"
        if interrupted:
            text += f", {interrupted} not driven at every tick"
        if report.silence:
            is_error = report.failed or report.hangs
            return DiagnosticStatus.ERROR if is_error else DiagnosticStatus.WARN, report.silence
        if report.planner_hangs_s is not None:
            return DiagnosticStatus.ERROR, findings["planner_hangs"]
        if any(record.missed for record in report.records):
            overload = self._overload_log.text(report.records, report.elapsed_s)
            return DiagnosticStatus.WARN, f"{text}; overload: {overload}"
        is_fine = ready == robots and not interrupted and not findings
        return DiagnosticStatus.OK if is_fine else DiagnosticStatus.WARN, text

    def _findings(self) -> dict[str, str]:
        """Return the problems of the reception of sensors; log each once in a period."""
        findings = [
            replace(finding, text=finding.text + self._zeros(finding)) if finding.kind == "mixed" else finding
            for finding in self._reception.findings(time.monotonic(), self._loop.joined)
        ]
        for finding in findings:
            self._warn_once_in_a_period((finding.kind, finding.sensor), finding.text)
        for name, decoder in self._decoders().items():
            for text in decoder.notices:
                if (name, text) not in self._noted:
                    self._noted.add((name, text))
                    self._logger.warning(f"observations.{name}: {text}")
        return {f"{finding.sensor}_{finding.kind}": finding.text for finding in findings}

    def _plan_findings(self, report: _Report) -> dict[str, str]:
        """Return the problems of an inference beside the tick; log each once in a period."""
        hangs_s, found = report.planner_hangs_s, {}
        if hangs_s is not None:
            found["planner_hangs"] = (
                f"the inference beside the tick hangs: it takes {hangs_s:.1f} s so far, and a plan lasts "
                f"{self._loop.plan_lasts_s:.3g} s; robots get their safe commands when their plans end"
            )
            self._logger.error(
                f"{found['planner_hangs']}; deactivate and clean up the node, or set another policy",
                throttle_duration_sec=FINDING_PERIOD_S,
            )
        elif report.exhausted is not None and report.exhausted.any():
            found["planner_slow"] = text = (
                f"the plans of {np.count_nonzero(report.exhausted)} robots ended before the next ones came; raise "
                f"chunk.stagger, lower chunk.replan_every, or choose a faster policy, policy.engine or policy.device"
            )
            self._warn_once_in_a_period(("planner_slow", ""), text)
        return found

    def _zeros(self, finding: Finding) -> str:
        """Return which of two publishers sends only zeros, see `zero_publisher`."""
        sensor, robot = self._sensors.index(finding.sensor), self._configuration.robots.index(finding.robots[0])
        source = self._configuration.sensors[sensor][0]
        topic = self._node.resolve_topic_name(topic_of(finding.robots[0], source.topic))
        turns = dict(self._reception.streams[robot][sensor].turns)
        decoder = self._decoders().get(source.name)
        return zero_publisher(self._node, topic, turns, decoder.message_type) if decoder is not None else ""

    def _recording_findings(self) -> dict[str, str]:
        """Return the problems of the recording; log once in a period that ticks are left out."""
        if self._recording is None:
            return {}
        if self._recording.error:
            return {"record_error": self._recording.error}
        dropped, self._dropped = self._recording.dropped - self._dropped, self._recording.dropped
        if not dropped:
            return {}
        text = f"{dropped} ticks were not recorded within a second, as {self._recording.folder} is written too slowly"
        self._logger.warning(text, throttle_duration_sec=FINDING_PERIOD_S)
        return {"record_slow": text}

    def _robot_status(self, robot: int, report: _Report, latest: FleetTick) -> DiagnosticStatus:
        state = RobotState.FAULT if report.hangs else latest.states[robot]
        reason = report.silence or latest.reasons[robot]
        level = DiagnosticStatus.STALE if report.silence and not report.hangs else _LEVELS[state]
        text = reason or "driven by the policy"
        share = float(report.driven_shares[robot])
        if state is RobotState.READY and not report.silence and share < 1.0:
            before = self._loop.interruptions[robot]
            reason = f"{before[0].name}: {before[1]}" if before is not None else "not driven yet"
            level, text = DiagnosticStatus.WARN, f"driven in {share:.0%} of the ticks; before: {reason}"
        unheard = self._subscribers.problems.get(robot, "")
        if unheard and level == DiagnosticStatus.OK:
            reason = f"its commands are not heard: {unheard}"
            level, text = DiagnosticStatus.WARN, reason
        ages_ms = {
            "age_at_command_ms": report.ages_ms[robot],
            "stamp_to_command_ms_p50": report.p50_ms[robot],
            "stamp_to_command_ms_p99": report.p99_ms[robot],
        }
        rates_hz = zip(self._sensors, report.rates_hz[robot].tolist(), strict=True)
        values: dict[str, object] = {
            "state": state.name,
            "reason": reason,
            **({"driven_percent": share * 100.0} if math.isfinite(share) else {}),
            "state_changes": int(report.changes[robot]),
            **{name: float(age_ms) for name, age_ms in ages_ms.items() if math.isfinite(age_ms)},
            **{f"{sensor}_hz": rate_hz for sensor, rate_hz in rates_hz},
            "rejected": int(latest.rejected[robot]),
            "bounded": int(latest.bounded[robot]),
            "slowed": int(latest.slowed[robot]),
            **({"commands_unheard": unheard} if unheard else {}),
        }
        if latest.tasks:
            values |= {"task": latest.tasks[robot], "tasks_rejected": self._tasks_rejected[robot]}
        if latest.planned is not None:
            values |= {"plans": int(latest.planned.taken[robot]), "plans_ended": int(latest.planned.exhausted[robot])}
            if math.isfinite(age_s := float(latest.planned.ages_s[robot])):
                values["plan_age_ms"] = age_s * 1e3
        return self._publisher.status(self._configuration.robots[robot], level, text, values)


def tick_account(tick: FleetTick, record: TickRecord, robots: Sequence[str]) -> str:
    """Describe one tick for the debug log: its stages, and of the first robots state, age and command."""
    stages = ", ".join(f"{stage} {seconds * 1e3:.2f}" for stage, seconds in record.stages_s.items())
    parts = [
        f"{robot} {state.name}"
        + (f" ({reason})" if reason else "")
        + (f", age {age_s * 1e3:.0f} ms" if math.isfinite(age_s) else "")
        + f", sent {np.array2string(sent, precision=4, threshold=20) if np.isfinite(sent).any() else 'nothing'}"
        for robot, state, reason, age_s, sent in zip(
            robots[:ACCOUNT_ROBOTS], tick.states, tick.reasons, tick.ages_s.tolist(), tick.sent, strict=False
        )
    ]
    times = f"{record.lateness_s * 1e3:.2f} ms late, took {record.duration_s * 1e3:.2f} ms ({stages})"
    account = named([*parts, *robots[ACCOUNT_ROBOTS:]], ACCOUNT_ROBOTS, "; ")
    return f"tick at {tick.time_ns / 1e9:.3f} s: {times}; {account}"


def timing_message(records: Sequence[TickRecord]) -> Float64MultiArray:
    """Pack tick records as rows in ms: lateness and duration of the tick, age of the data at each robot's command."""
    ages_s = np.array([record.command_ages_s for record in records])
    ticks_s = np.array([(record.lateness_s, record.duration_s) for record in records])
    rows = np.concatenate([ticks_s, ages_s], axis=1) * 1e3
    ticks, columns = rows.shape
    message = Float64MultiArray(data=array.array("d", rows.tobytes()))
    message.layout.dim = [
        MultiArrayDimension(label="ticks", size=ticks, stride=ticks * columns),
        MultiArrayDimension(label="columns", size=columns, stride=columns),
    ]
    return message


def _plan_values(report: _Report) -> dict[str, object]:
    """Return the values about plans: their number, inference time, and age at the commands; empty without plans."""
    if report.plans is None or report.exhausted is None:
        return {}
    planned = [(record.planned, record.command_ages_s) for record in report.records if record.planned is not None]
    values: dict[str, object] = {
        "plans_per_s": int(report.plans.sum()) / report.elapsed_s,
        "plans_ended": int(report.exhausted.sum()),
        "robots_waiting_for_plan": int(planned[-1][0].pending.sum()) if planned else 0,
    }
    # Only robots that were sent a command of the policy have an age of it.
    ages_s = [np.where(np.isfinite(sent_s), each.ages_s, np.nan) for each, sent_s in planned]
    found_s = {
        "inference": np.array([each.inference_s for each, _ in planned if each.inference_s is not None]),
        "observation_to_plan": np.array([each.latency_s for each, _ in planned if each.latency_s is not None]),
        "plan_age_at_command": np.array(ages_s).ravel(),
    }
    for name, seconds in found_s.items():
        low, high = percentiles(seconds * 1e3)
        if math.isfinite(low):
            values |= {f"{name}_ms_p50": low, f"{name}_ms_p99": high}
    return values


def _since(before: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Return how many came since a count, which begins at 0 again with another policy."""
    return np.where(count < before, count, count - before)


def _timing_values(records: Sequence[TickRecord]) -> dict[str, float]:
    """Return p50 and p99 in ms of lateness, tick, age of the data at the commands, and every stage."""
    stages = list(records[-1].stages_s)
    names = ["lateness_ms", "tick_ms", *(f"{stage}_ms" for stage in stages)]
    rows_s = [
        (record.lateness_s, record.duration_s, *(record.stages_s[stage] for stage in stages)) for record in records
    ]
    p50, p99 = column_percentiles(np.array(rows_s) * 1e3)
    values: dict[str, float] = {}
    for name, low, high in zip(names, p50.tolist(), p99.tolist(), strict=True):
        values |= {f"{name}_p50": low, f"{name}_p99": high}
    low, high = percentiles(np.concatenate([record.command_ages_s for record in records]) * 1e3)
    if math.isfinite(low):
        values |= {"stamp_to_command_ms_p50": low, "stamp_to_command_ms_p99": high}
    return values
