# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Listen to the topics of a deployment for a while, and say what its first commands would be; nothing is sent."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from rclpy.node import Node

from policy_node.config.schema import topic_of
from policy_node.control.pipeline import Pipeline
from policy_node.control.tick import FleetTick
from policy_node.control.timing import Schedule, SteadyClock
from policy_node.messages.summary import summary
from policy_node.ros.command_subscribers import why_unheard
from policy_node.ros.deployment import Deployment
from policy_node.ros.graph import endpoint_names, why_silent
from policy_node.ros.publishers import command_qos
from policy_node.ros.subscriptions import SensorSubscriptions
from policy_node.ros.tasks import TaskTopics
from policy_node.sensing.synchroniser import RobotState


class SensorReport(NamedTuple):
    """What was heard of one sensor of one robot."""

    name: str
    topic: str
    #: Messages per second; 0 where none came.
    rate_hz: float
    #: Ages at the tick that took the message, p50 and largest; NaN without a message.
    age_p50_s: float
    age_max_s: float
    #: Size and encoding of the newest message, empty without one.
    size: str
    encoding: str
    #: Messages that were lost on their way, of all that were sent.
    lost: int
    sent: int
    #: Why there were no messages; empty where some came.
    silence: str


class RobotReport(NamedTuple):
    """What was heard of one robot, and what it would be commanded."""

    robot: str
    sensors: tuple[SensorReport, ...]
    #: Spread of the stamps of the synchronised readings, p50 and largest; NaN where there was no set of them.
    skew_p50_s: float
    skew_max_s: float
    #: State at the last tick, the reason where it is not READY, and the share of ticks in which it was.
    state: str
    reason: str
    ready_share: float
    #: `[components]` float64: the first command of the policy; None where there was none.
    first_command: np.ndarray | None
    #: By full name of each command topic the full names of the nodes that listen to it, and of others that send to it.
    listeners: Mapping[str, tuple[str, ...]]
    commanders: Mapping[str, tuple[str, ...]]
    #: Why some node that listens to the commands gets none, see `why_unheard`.
    unheard: tuple[str, ...]

    @property
    def problems(self) -> list[str]:
        """What keeps the robot from being driven, a line for each."""
        found = [f"{self.robot}: {sensor.silence}" for sensor in self.sensors if sensor.silence]
        if self.first_command is None and not found:
            found.append(f"{self.robot}: {self.state}: {self.reason}")
        for topic, names in self.listeners.items():
            if not names:
                found.append(f"{self.robot}: nobody listens to its commands on {topic}")
        found += [f"{self.robot}: {why}" for why in self.unheard]
        for topic, names in self.commanders.items():
            if names:
                found.append(f"{self.robot}: {', '.join(names)} commands it already on {topic}")
        return found


@dataclass
class _Driven:
    """What the ticks gave for one robot so far."""

    ready_ticks: int = 0
    skews_s: list[float] = field(default_factory=list)
    first_command: np.ndarray | None = None
    state: RobotState = RobotState.WAITING
    reason: str = "no tick"

    def note(self, tick: FleetTick, robot: int, synchronised: Sequence[int]) -> None:
        """Note a tick."""
        self.state, self.reason = tick.states[robot], tick.reasons[robot]
        if not tick.driven[robot]:
            return
        self.ready_ticks += 1
        stamps = [tick.samples[robot][sensor].stamp_ns for sensor in synchronised]
        self.skews_s.append((max(stamps) - min(stamps)) / 1e9)
        if self.first_command is None:
            self.first_command = tick.commands[robot]


@dataclass
class _Heard:
    """The messages of one sensor of one robot so far."""

    count: int = 0
    ages_ns: list[int] = field(default_factory=list)
    newest: bytes = b""


class _Listener:
    """Takes the messages for a pipeline, and notes what came."""

    def __init__(self, pipeline: Pipeline, robots: int, sensors: int) -> None:
        self._pipeline = pipeline
        self.now_ns = 0
        self.heard = [[_Heard() for _ in range(sensors)] for _ in range(robots)]

    def add(self, robot: int, sensor: int, stamp_ns: int, message: Any) -> None:
        """Note a message and hand it on."""
        heard = self.heard[robot][sensor]
        heard.count += 1
        heard.ages_ns.append(self.now_ns - stamp_ns)
        heard.newest = message
        self._pipeline.add(robot, sensor, stamp_ns, message)

    def set_present(self, robot: int, sensor: int, present: bool) -> None:
        """Hand on whether a sensor that may be silent has a publisher."""
        self._pipeline.set_present(robot, sensor, present)

    def name_oldest(self, robot: int, sensor: int, what: str) -> None:
        """Hand on what the readings of a sensor are as old as."""
        self._pipeline.name_oldest(robot, sensor, what)


def listen(node: Node, deployment: Deployment, duration_s: float, stopping: threading.Event) -> list[RobotReport]:
    """Run the ticks of a deployment without sending a command, and report on every robot.

    Parameters
    ----------
    node
        Spun by another thread; its parameter `use_sim_time` says which time the stamps have.
    deployment
        The deployment; its pipeline is used up.
    duration_s
        Duration in real time.
    stopping
        Ends it before.
    """
    configuration, pipeline = deployment.configuration, deployment.pipeline
    simulated = bool(node.get_parameter("use_sim_time").value)
    listener = _Listener(pipeline, len(configuration.robots), len(configuration.sensors))
    sensors = SensorSubscriptions(node, configuration, deployment.decoders, stopping)
    texts: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()
    tasks = TaskTopics(node, configuration)
    tasks.attach(lambda robot, text: texts.put((robot, text)))
    pipeline.reset()
    synchronised = [index for index, (source, *_) in enumerate(configuration.sensors) if source.is_synchronised]
    driven, ticks = [_Driven() for _ in configuration.robots], 0
    clock = SteadyClock(stopping)
    started_ns = clock.now_ns()
    schedule = Schedule(configuration.period_ns, started_ns)
    while schedule.deadline_ns < started_ns + duration_s * 1e9 and clock.wait_until(schedule.deadline_ns):
        listener.now_ns = node.get_clock().now().nanoseconds
        sensors.take(listener, listener.now_ns if simulated else None)
        while not texts.empty():
            pipeline.set_task(*texts.get())
        # Simulated time is zero until its first message.
        if listener.now_ns:
            tick = pipeline.step(node.get_clock().now().nanoseconds)
            ticks += 1
            for robot, each in enumerate(driven):
                each.note(tick, robot, synchronised)
        schedule.advance(clock.now_ns())
    elapsed_s = (clock.now_ns() - started_ns) / 1e9
    try:
        return [
            _robot_report(node, deployment, robot, listener.heard[robot], sensors, each, ticks, elapsed_s)
            for robot, each in enumerate(driven)
        ]
    finally:
        tasks.destroy()
        sensors.destroy()


def _robot_report(
    node: Node,
    deployment: Deployment,
    robot: int,
    heard: Sequence[_Heard],
    subscriptions: SensorSubscriptions,
    driven: _Driven,
    ticks: int,
    elapsed_s: float,
) -> RobotReport:
    configuration = deployment.configuration
    name = configuration.robots[robot]
    reports = []
    for sensor, (source, *_) in enumerate(configuration.sensors):
        counts = subscriptions.reception.streams[robot][sensor].counts()
        each, topic = heard[sensor], node.resolve_topic_name(topic_of(name, source.topic))
        size = encoding = silence = ""
        ages_s = np.array(each.ages_ns, np.float64) / 1e9 if each.ages_ns else np.full(1, np.nan)
        if each.count:
            size, encoding = summary(each.newest, deployment.decoders[source.name].message_type)
        elif not source.may_be_silent:
            why = why_silent(node, name, source, configuration.robots)
            silence = why or f"{topic} has a publisher, but no message came within {elapsed_s:.1f} s"
        reports.append(
            SensorReport(
                source.name,
                topic,
                each.count / elapsed_s,
                float(np.median(ages_s)),
                float(ages_s.max()),
                size,
                encoding,
                counts.lost,
                counts.lost + counts.received,
                silence,
            )
        )
    skews_s = np.array(driven.skews_s or [np.nan])
    topics = {node.resolve_topic_name(topic_of(name, command.topic)): command for command in configuration.commands}
    qos = command_qos(configuration.action.deadline_s)
    unheard = [why_unheard(node, topic, command.type, command.prefix, qos) for topic, command in topics.items()]
    reason = driven.reason
    if not ticks and node.get_parameter("use_sim_time").value:
        reason = "/clock has no message, but use_sim_time is true"
    return RobotReport(
        name,
        tuple(reports),
        float(np.median(skews_s)),
        float(skews_s.max()),
        driven.state.name,
        reason,
        driven.ready_ticks / max(1, ticks),
        driven.first_command,
        {topic: endpoint_names(node.get_subscriptions_info_by_topic(topic)) for topic in topics},
        {topic: endpoint_names(node.get_publishers_info_by_topic(topic)) for topic in topics},
        tuple(filter(None, unheard)),
    )


def wait_for_graph(node: Node, stopping: threading.Event, settle_s: float = 1.0, most_s: float = 5.0) -> None:
    """Wait until no further topic appears for `settle_s`, at most `most_s`."""
    began_s = changed_s = time.monotonic()
    known: Mapping[str, Any] = {}
    while not stopping.wait(0.1):
        now_s, found = time.monotonic(), dict(node.get_topic_names_and_types())
        if found.keys() != known.keys():
            known, changed_s = found, now_s
        if now_s - changed_s >= settle_s or now_s - began_s >= most_s:
            return
