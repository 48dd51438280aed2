# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Run the messages of a bag through the pipeline of a deployment, tick by tick."""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.exceptions import NameValidationException
from rclpy.expand_topic_name import expand_topic_name

from policy_node.config.parameter_file import parse_parameters, read_parameter_file
from policy_node.config.schema import (
    Configuration,
    ConfigurationError,
    SourceConfiguration,
    parse_configuration,
    topic_of,
    with_limits,
)
from policy_node.control.pipeline import STOPPED_REASON
from policy_node.control.planned_inference import RecordedPlans
from policy_node.control.tick import FleetTick
from policy_node.messages.reading import UnusableReading
from policy_node.policies.described_parameters import fill_in
from policy_node.recording.format import NODE_KEY, PARAMETERS_KEY, RobotTick, parse_limits
from policy_node.recording.format import Tick as RecordedTick
from policy_node.recording.replay.bag import Arrival, Bag, BagError, WantedTopic, check_topics
from policy_node.recording.replay.commands import ReadCommand, command_reader, component_names
from policy_node.recording.replay.recording import recorded_ticks, sample_of, selection_of
from policy_node.recording.replay.report import Commands
from policy_node.recording.replay.schedule import (
    CLOCK_TOPIC,
    Tick,
    are_of_one_clock,
    arrivals_of,
    arrivals_on_clock,
    choose_time,
    describe_offsets,
    has_clock,
    measure_offsets,
    stamp_reader,
    ticks_at_rate,
    ticks_on_clock,
    unfitting,
)
from policy_node.ros.deployment import Deployment, deploy
from policy_node.ros.parameters import uses_sim_time, with_resolved_paths
from policy_node.ros.subscriptions import sensor_qos
from policy_node.sensing.samples import age_ns
from policy_node.sensing.synchroniser import RobotState

# Node whose namespace topics are relative to, unless the bag names the node that recorded it.
NODE = "/policy_node"
# Stands in for a robot that a recording does not have.
_ABSENT = RobotTick("WAITING", "the recording does not have this robot", sent=True)


@dataclass(frozen=True)
class Options:
    """Options of a replay."""

    bag: Path  #: Folder or file.
    params: Path | None  #: Parameter file of the node; None for the parameters in the recording.
    overrides: Mapping[str, Any]  #: Parameters by dotted name that override those of the file.
    remaps: Mapping[str, str]  #: Topic of the bag by fully qualified topic of the configuration.
    time: str = "auto"  #: Clock of the ticks, one of `TIMES`.
    #: Topic of the recorded commands, relative to each robot or absolute; by default `action.topic`, if the bag has it.
    compare: str | None = None


def read_configuration(options: Options, custom: Mapping[str, str]) -> tuple[Configuration, bool]:
    """Read the configuration of a replay, and whether it sets `use_sim_time`; `custom` is the custom data of the bag.

    Raises
    ------
    ConfigurationError
        When a parameter is invalid, or there are no parameters.
    """
    if options.params is not None:
        values = read_parameter_file(options.params, custom.get(NODE_KEY, NODE))
    elif PARAMETERS_KEY in custom:
        values = parse_parameters(custom[PARAMETERS_KEY], "the parameters in the bag")
    else:
        raise ConfigurationError("--params: missing, and the bag has no parameters; give the parameter file")
    values.update(options.overrides)
    filled, _ = fill_in(with_resolved_paths(values))
    return parse_configuration(filled), uses_sim_time(values)


def full_name(topic: str, remaps: Mapping[str, str] | None = None, node: str = NODE) -> str:
    """Return the fully qualified, remapped name of a topic of a node.

    Raises
    ------
    BagError
        When the name is invalid.
    """
    namespace, _, node_name = node.rpartition("/")
    try:
        name = expand_topic_name(topic, node_name, namespace or "/")
    except NameValidationException as error:
        raise BagError(f"topic {topic!r}: {str(error).splitlines()[0]} give a name such as camera/image_raw") from error
    return (remaps or {}).get(name, name)


class Replay:
    """Replays a bag through a pipeline.

    The bag is open during the whole replay; `configuration` and `simulated` are the result of `read_configuration`.
    `recording` is the topic of the ticks of a recording, which is replayed exactly; None: any other bag.

    Raises
    ------
    BagError, ConfigurationError
        When bag and configuration do not match.
    """

    def __init__(
        self, bag: Bag, configuration: Configuration, simulated: bool, options: Options, recording: str | None = None
    ) -> None:
        self.bag = bag
        self._remaps = options.remaps
        self._node = bag.custom.get(NODE_KEY, NODE)
        self._recording = recording
        self._last_recorded: RecordedTick | None = None
        # The limits of the last tick, and the parameters that the user gives in place of those.
        self._limits = ""
        self._overridden = frozenset(options.overrides)
        self.notes = bag.notes  #: Notes for the user.
        self.unread = 0  #: Number of recorded commands that could not be read.
        self._configuration = configuration
        robots = configuration.robots
        # Topic -> robots and sensors that read it, and the first of these sensors.
        self._receivers: dict[str, list[tuple[int, int]]] = {}
        self._sources: dict[str, SourceConfiguration] = {}
        # Name and topic of each robot's sensors.
        self._sensors: list[list[tuple[str, str]]] = [[] for _ in robots]
        check_topics(bag, self._find_topics(), robots)
        self.deployment: Deployment = deploy(configuration)
        self.pipeline = self.deployment.pipeline
        for receivers in self._receivers.values():
            for robot, sensor in receivers:
                self.pipeline.set_present(robot, sensor, True)
        #: Names of the components of a command.
        self.names = component_names(configuration.action, self.pipeline.components)
        #: Command topics of the first robot, then of the next.
        self.command_topics = [
            self.topic_name(robot, command.topic) for robot in robots for command in configuration.commands
        ]
        self._readers = self._command_readers(options.compare)
        #: Indices of the robots whose recorded commands are in the bag.
        self.compared = sorted(robot for robots, _ in self._readers.values() for robot in robots)
        self._commands: list[list[tuple[int, np.ndarray]]] = [[] for _ in robots]
        self._depths = [sensor_qos(sources[0]).depth for sources in configuration.sensors]
        decoders = self.deployment.decoders
        self._stamps = {
            topic: stamp_reader(source, decoders[source.name].stamp_ns) for topic, source in self._sources.items()
        }
        #: Clock of the ticks, one of `TIMES`, or ``ticks`` for the ticks of a recording.
        self.time = "ticks"
        if recording is None:
            self._offsets = measure_offsets(bag, self._stamps)
            default_s = configuration.synchronisation.max_age_s
            limits_ns = {
                topic: age_ns(source.reading_max_age_s or default_s)
                for topic, source in self._sources.items()
                if source.reading_max_age_s != math.inf
            }
            limit_ns = max(limits_ns.values(), default=0)
            self.time = choose_time(options.time, simulated, has_clock(bag), self._offsets, limit_ns)
            self._note_time(options.time, limits_ns)

    def topic_name(self, robot: str, topic: str) -> str:
        """Return the name in the bag of a topic that is relative to a robot or absolute."""
        return full_name(topic_of(robot, topic), self._remaps, self._node)

    def _find_topics(self) -> list[WantedTopic]:
        """Note the topics of all sensors, and return them for `check_topics`."""
        wanted = []
        for robot, name in enumerate(self._configuration.robots):
            for sensor, (source, *_) in enumerate(self._configuration.sensors):
                topic = self.topic_name(name, source.topic)
                prefix = "" if source is self._configuration.safe_position else "observations."
                wanted.append(WantedTopic(f"{prefix}{source.name}", name, topic, source.type))
                self._receivers.setdefault(topic, []).append((robot, sensor))
                self._sources.setdefault(topic, source)
                self._sensors[robot].append((source.name, topic))
        return wanted

    def _command_readers(self, compare: str | None) -> dict[str, tuple[list[int], ReadCommand]]:
        """Return by topic of recorded commands the robots that are compared with it, and its reader."""
        action = self._configuration.action
        readers: dict[str, tuple[list[int], ReadCommand]] = {}
        if len(self._configuration.commands) > 1:
            if compare:
                raise BagError(f"--compare {compare}: the robots have several command topics, which cannot be compared")
            self.notes.append("nothing is compared: the robots have several command topics")
            return readers
        for robot, name in enumerate(self._configuration.robots):
            topic = self.topic_name(name, compare or action.topic)
            if topic in readers:
                readers[topic][0].append(robot)
            elif topic in self.bag.topics:
                try:
                    kind = self.bag.topics[topic].type
                    readers[topic] = ([robot], command_reader(kind, action, self.pipeline.components, topic))
                except BagError as error:
                    if compare:
                        raise
                    self.notes.append(f"nothing is compared: {error}")
            elif compare:
                raise BagError(f"--compare: {topic} is not in the bag\n{self.bag.describe()}")
        return readers

    def _note_time(self, asked: str, limits_ns: Mapping[str, int]) -> None:
        if asked == "auto" and self.time == "clock":
            self.notes.append(f"ticks follow the bag's {CLOCK_TOPIC}")
        if asked == "auto" and self.time == "stamp":
            self.notes.append(f"use_sim_time is set, but the bag has no {CLOCK_TOPIC}: ticks follow the header stamps")
        bad = unfitting(self._offsets, self.time, limits_ns)
        if bad:
            measured = describe_offsets({topic: self._offsets[topic] for topic in bad}, to_clock=self.time == "clock")
            one_clock = are_of_one_clock(self._offsets)
            by_stamp = "--time stamp (each message arrives at its header stamp), " if one_clock else ""
            self.notes.append(
                f"these readings are too old, or in the future, when they arrive:\n{measured}\ngive {by_stamp}"
                f"--time arrival (each message is stamped with the time of its recording), or a larger "
                f"synchronisation.max_age_s"
            )
        empty = [topic for topic in self._sources if not self.bag.topics[topic].messages]
        if empty:
            self.notes.append(f"no message was recorded on {', '.join(empty)}")

    @property
    def match_ns(self) -> int:
        """Time within which the command of a tick was recorded; in a recording it has the time of the tick."""
        return 1 if self._recording is not None else self._configuration.period_ns

    @property
    def expected_ticks(self) -> int:
        """Approximate number of ticks."""
        first_ns, last_ns = self.bag.span_ns
        return math.ceil((last_ns - first_ns) / self._configuration.period_ns)

    def ticks(self, others: Sequence[str] = ()) -> Iterator[Tick]:
        """Yield the ticks with the messages that arrive before each, including those on `others`."""
        topics = {*self._sources, *self._readers, *others}
        period_ns = self._configuration.period_ns
        if self._recording is not None:
            return recorded_ticks(self.bag, self._recording, topics)
        if self.time == "clock":
            messages = self.bag.messages({*topics, CLOCK_TOPIC})
            return ticks_on_clock(arrivals_on_clock(messages, self._stamps), period_ns)
        return ticks_at_rate(arrivals_of(self.bag.messages(topics), self._stamps, self.time, self._offsets), period_ns)

    def step(self, tick: Tick) -> FleetTick | None:
        """Run one tick of the pipeline; None for commands of a recording that were sent between two ticks."""
        for arrival in tick.arrivals:
            if arrival.topic in self._readers:
                self._note_command(arrival)
        if self._recording is not None:
            return None if tick.recorded is None else self._step_as_recorded(tick, tick.recorded)
        if tick.restarts:
            self.pipeline.reset()
        newest: dict[tuple[int, int], deque[Arrival]] = {}
        for arrival in tick.arrivals:
            for robot, sensor in self._receivers.get(arrival.topic, ()):
                # As many as the queue of the node's subscription holds.
                newest.setdefault((robot, sensor), deque(maxlen=self._depths[sensor])).append(arrival)
        for (robot, sensor), arrivals in newest.items():
            for arrival in arrivals:
                stamp_ns = tick.time_ns if arrival.stamp_ns is None else arrival.stamp_ns
                self.pipeline.add(robot, sensor, stamp_ns, arrival.raw)
        return self.pipeline.step(tick.time_ns)

    def _step_as_recorded(self, tick: Tick, recorded: RecordedTick) -> FleetTick:
        """Run a recorded tick with its samples, resets, stops and owners."""
        by_topic: dict[str, list[bytes]] = {}
        for arrival in tick.arrivals:
            by_topic.setdefault(arrival.topic, []).append(arrival.raw)
        self._note_gaps(recorded)
        if recorded.limits != self._limits:
            self._limits = recorded.limits
            self._change_limits(recorded.limits)
        # The recording has the safe position only for the ticks that read it.
        self.pipeline.forget_samples()
        robots = [recorded.robots.get(name, _ABSENT) for name in self._configuration.robots]
        self._apply_events(recorded.stopped, robots)
        if self.deployment.policy.spec.task and "policy.task" not in self._overridden:
            for index, robot in enumerate(robots):
                if robot.task is not None:
                    self.pipeline.set_task(index, robot.task)
        selections = []
        for index, robot in enumerate(robots):
            observed = self._sensors[index]
            if self._configuration.safe_position is not None:
                *observed, (position, topic) = observed
                if position in robot.readings:
                    # Without the message of a damaged bag, the position is unknown, as it can be on the robot.
                    with contextlib.suppress(UnusableReading):
                        sample = sample_of(robot, position, by_topic.get(topic, ()))
                        self.pipeline.add(index, len(observed), sample.stamp_ns, sample.message)
            selections.append(selection_of(robot, observed, by_topic))
        not_sent = {
            index: (RobotState[robot.state], robot.reason) for index, robot in enumerate(robots) if not robot.sent
        }
        plans = None
        if recorded.has_plans:
            requested = tuple(index for index, robot in enumerate(robots) if robot.planned)
            plans = RecordedPlans(requested, recorded.plan_arrived_ns, recorded.plan_delay)
        return self.pipeline.step(tick.time_ns, selections=selections, not_sent=not_sent, plans=plans)

    def _change_limits(self, text: str) -> None:
        """Use the limits that were in force, but for those that the user gives."""
        try:
            values = {name: value for name, value in parse_limits(text).items() if name not in self._overridden}
            self.pipeline.change_limits(with_limits(self._configuration, values))
        except ValueError as error:  # also ConfigurationError, with a policy of other commands
            note = f"the limits of some ticks cannot be used, others are: {error}"
            self.notes += [note] if note not in self.notes else []

    def _apply_events(self, stopped: bool, robots: Sequence[RobotTick]) -> None:
        """Repeat what happened to the pipeline of the node before a tick."""
        before = [robot.before for robot in robots]
        self.pipeline.note_overruled([index for index, event in enumerate(before) if event == "overruled"])
        if before == ["reset"] * len(before):
            self.pipeline.reset()
        else:
            self.pipeline.reset([index for index, event in enumerate(before) if event == "reset"])
        halted = [index for index, robot in enumerate(robots) if robot.sent and robot.reason == STOPPED_REASON]
        self.pipeline.stop(None if stopped else halted)
        self.pipeline.yield_robots({index: robot.left_to for index, robot in enumerate(robots) if robot.left_to})

    def _note_gaps(self, recorded: RecordedTick) -> None:
        """Note once each reason why a replay is not exact."""
        last, self._last_recorded = self._last_recorded, recorded
        if last is None:
            gaps = {
                "the policy is another one than drove when this was recorded": recorded.policy_sha256
                != self.deployment.policy.spec.sha256
            }
        else:
            gaps = {
                "ticks were not recorded, as the disk was too slow; after them commands may differ until the robots' "
                "episodes start again": recorded.dropped > last.dropped,
                "the policy was replaced while it was recorded; all ticks are replayed with one": recorded.policy_sha256
                != last.policy_sha256,
                "the node was activated again, or time was set back, while it was recorded": recorded.number
                < last.number,
            }
        self.notes += [note for note, found in gaps.items() if found and note not in self.notes]

    def _note_command(self, arrival: Arrival) -> None:
        robots, read = self._readers[arrival.topic]
        try:
            command = read(arrival.raw)
        except UnusableReading:
            self.unread += 1
            return
        for robot in robots:
            self._commands[robot].append((arrival.time_ns, command))

    @property
    def recorded(self) -> dict[int, Commands]:
        """Recorded commands so far, by index of the robots in `compared`."""
        return {robot: self.recorded_of(robot) for robot in self.compared}

    def recorded_of(self, robot: int) -> Commands:
        """Return the recorded commands of one robot so far, in the order of time."""
        commands = sorted(self._commands[robot], key=lambda entry: entry[0])
        values = np.array([command for _, command in commands], np.float64)
        return Commands(
            np.array([time_ns for time_ns, _ in commands], np.int64), values.reshape(-1, self.pipeline.components)
        )
