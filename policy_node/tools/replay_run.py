# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""A bag through the pipeline of a deployment, tick by tick: what the node would have done, without a node."""

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

from policy_node.configuration import Configuration, ConfigurationError, parse_configuration
from policy_node.parameter_file import parse_parameters, read_parameter_file
from policy_node.recording_format import NODE_KEY, PARAMETERS_KEY
from policy_node.recording_format import Tick as RecordedTick
from policy_node.ros.deployment import Deployment, deploy
from policy_node.ros.parameters import uses_sim_time, with_resolved_paths
from policy_node.ros.subscriptions import sensor_qos, topic_of
from policy_node.samples import UnusableReading
from policy_node.synchroniser import RobotState, Selection
from policy_node.tick import FleetTick
from policy_node.tools.replay_bag import Bag, BagError, WantedTopic, check_topics
from policy_node.tools.replay_commands import ReadCommand, command_reader, component_names
from policy_node.tools.replay_recording import Recording, sample_of, selection_of
from policy_node.tools.replay_report import Commands
from policy_node.tools.replay_schedule import Arrival, Tick, ticks_at_rate, ticks_on_clock
from policy_node.tools.replay_time import (
    CLOCK_TOPIC,
    Stamp,
    are_of_one_clock,
    arrivals_of,
    arrivals_on_clock,
    choose_time,
    describe_offsets,
    has_clock,
    measure_offsets,
    unfitting,
)

# Whose names a configuration has, unless the bag says which node recorded it.
NODE = "/policy_node"


@dataclass(frozen=True)
class Options:
    """What to replay, and how.

    Attributes
    ----------
    bag, params
        The bag, and the parameter file of the node.
    overrides
        Parameters by dotted name that replace those of the file.
    remaps
        By the fully qualified name that the configuration gives the name in the bag.
    time
        One of `replay_time.TIMES`.
    compare
        Topic of the recorded commands, relative to each robot or absolute; None: that of the configuration if the bag
        has it.
    """

    bag: Path
    params: Path | None
    overrides: Mapping[str, Any]
    remaps: Mapping[str, str]
    time: str = "auto"
    compare: str | None = None


def read_configuration(options: Options, custom: Mapping[str, str]) -> tuple[Configuration, bool]:
    """Return the configuration of a replay, and whether it has `use_sim_time`.

    Parameters
    ----------
    options
        From the command line.
    custom
        What the recorder has written beside the messages: the node keeps its name and its parameters there.

    Raises
    ------
    ConfigurationError
        When a parameter cannot be used, or there are none.
    """
    if options.params is not None:
        values = read_parameter_file(options.params, custom.get(NODE_KEY, NODE))
    elif PARAMETERS_KEY in custom:
        values = parse_parameters(custom[PARAMETERS_KEY], "the parameters in the bag")
    else:
        raise ConfigurationError(["--params: missing, and the bag has no parameters; give the parameter file"])
    values.update(options.overrides)
    return parse_configuration(with_resolved_paths(values)), uses_sim_time(values)


def full_name(topic: str, remaps: Mapping[str, str] | None = None, node: str = NODE) -> str:
    """Return the fully qualified name that a topic has for a node, remapped.

    Raises
    ------
    BagError
        When it is not the name of a topic.
    """
    namespace, _, node_name = node.rpartition("/")
    try:
        name = expand_topic_name(topic, node_name, namespace or "/")
    except NameValidationException as error:
        raise BagError(f"topic {topic!r}: {str(error).splitlines()[0]} give a name such as camera/image_raw") from error
    return (remaps or {}).get(name, name)


class Replay:
    """A bag on its way through the pipeline.

    Parameters
    ----------
    bag
        Open, as long as the replay goes on.
    configuration, simulated
        From `read_configuration`.
    options
        What to replay, and how.
    recording
        What the bag is if the node has recorded it, and its ticks are to be replayed as they were; else None.

    Attributes
    ----------
    deployment
        The policy with its decoders and its pipeline.
    time
        Whose time it follows, one of `replay_time.TIMES`.
    notes
        What a user should know of the bag.
    names
        Of the components of a command.
    command_topics
        By robot, where the replayed commands would be sent.
    unread
        Recorded commands that could not be read.

    Raises
    ------
    BagError, ConfigurationError
        When bag and configuration do not fit.
    """

    def __init__(
        self,
        bag: Bag,
        configuration: Configuration,
        simulated: bool,
        options: Options,
        recording: Recording | None = None,
    ) -> None:
        self.bag = bag
        self._remaps = options.remaps
        self._node = bag.custom.get(NODE_KEY, NODE)
        self._recording = recording
        self._last_recorded: RecordedTick | None = None
        self.notes: list[str] = []
        self.unread = 0
        self._configuration = configuration
        robots = configuration.robots
        wanted, self._sensors = self._wire()
        check_topics(bag, wanted, robots)
        self.deployment: Deployment = deploy(configuration)
        self.pipeline = self.deployment.pipeline
        for receivers in self._sensors.values():
            for robot, sensor in receivers:
                self.pipeline.set_present(robot, sensor, True)
        self.names = component_names(configuration.action, self.pipeline.components)
        self.command_topics = [self.topic_name(robot, configuration.action.topic) for robot in robots]
        self._readers = self._command_readers(options)
        self._recorded: list[tuple[list[int], list[np.ndarray]]] = [([], []) for _ in robots]
        self._sensor_topics = [self._topics_of(robot) for robot in range(len(robots))]
        self._depths = [sensor_qos(sources[0]).depth for sources in configuration.sensors]
        self._stamps = self._stamps_by_topic()
        self._offsets = measure_offsets(bag, self._stamps) if recording is None else {}
        self.time = "ticks"
        if recording is None:
            limits_ns = self._limits_ns()
            limit_ns = max(limits_ns.values(), default=0)
            self.time = choose_time(options.time, simulated, has_clock(bag), self._offsets, limit_ns)
            self._note_time(options.time, limits_ns)

    def _stamps_by_topic(self) -> dict[str, Stamp]:
        stamps: dict[str, Stamp] = {}
        for topic, receivers in self._sensors.items():
            source = self._configuration.sensors[receivers[0][1]][0]
            stamps[topic] = self.deployment.decoders[source.name].stamp_ns
        return stamps

    def topic_name(self, robot: str, topic: str) -> str:
        """Return the name in the bag of a topic, relative to a robot or absolute."""
        return full_name(topic_of(robot, topic), self._remaps, self._node)

    def _wire(self) -> tuple[list[WantedTopic], dict[str, list[tuple[int, int]]]]:
        """Return which topics are wanted, and by topic the robots and sensors that read it."""
        wanted = []
        sensors: dict[str, list[tuple[int, int]]] = {}
        for robot, name in enumerate(self._configuration.robots):
            for sensor, (source, *_) in enumerate(self._configuration.sensors):
                topic = self.topic_name(name, source.topic)
                prefix = "" if source is self._configuration.safe_position else "observations."
                wanted.append(WantedTopic(f"{prefix}{source.name}", name, topic, source.type))
                sensors.setdefault(topic, []).append((robot, sensor))
        return wanted, sensors

    def _command_readers(self, options: Options) -> dict[str, tuple[list[int], ReadCommand]]:
        """Return by topic of recorded commands with which robots they are compared, and what reads them."""
        action = self._configuration.action
        readers: dict[str, tuple[list[int], ReadCommand]] = {}
        for robot, name in enumerate(self._configuration.robots):
            topic = self.topic_name(name, options.compare or action.topic)
            if topic in readers:
                readers[topic][0].append(robot)
            elif topic in self.bag.topics:
                try:
                    kind = self.bag.topics[topic].type
                    readers[topic] = ([robot], command_reader(kind, action, self.pipeline.components, topic))
                except BagError as error:
                    if options.compare:
                        raise
                    self.notes.append(f"nothing is compared: {error}")
            elif options.compare:
                raise BagError(f"--compare: {topic} is not in the bag\n{self.bag.describe()}")
        return readers

    def _limits_ns(self) -> dict[str, int]:
        """Return by topic how old its readings may be."""
        ages_s = {}
        for topic, receivers in self._sensors.items():
            source = self._configuration.sensors[receivers[0][1]][0]
            ages_s[topic] = source.max_age_s or self._configuration.synchronisation.max_age_s
        return {topic: round(age_s * 1e9) for topic, age_s in ages_s.items()}

    def _note_time(self, asked: str, limits_ns: Mapping[str, int]) -> None:
        if asked == "auto" and self.time == "clock":
            self.notes.append(f"ticks follow the bag's {CLOCK_TOPIC}")
        if asked == "auto" and self.time == "stamp":
            self.notes.append(f"use_sim_time is set, but the bag has no {CLOCK_TOPIC}: ticks follow the header stamps")
        bad = unfitting(self._offsets, self.time, limits_ns)
        if bad:
            measured = describe_offsets({topic: self._offsets[topic] for topic in bad}, to_clock=self.time == "clock")
            by_stamp = (
                "--time stamp (each message arrives at its header stamp), " if are_of_one_clock(self._offsets) else ""
            )
            self.notes.append(
                f"these readings are too old, or in the future, when they arrive:\n{measured}\ngive {by_stamp}"
                f"--time arrival (each message is stamped with the time of its recording), or a larger "
                f"synchronisation.max_age_s"
            )
        empty = [topic for topic in self._sensors if not self.bag.topics[topic].messages]
        if empty:
            self.notes.append(f"no message was recorded on {', '.join(empty)}")

    @property
    def topics(self) -> set[str]:
        """The topics that are read."""
        return {*self._sensors, *self._readers}

    @property
    def match_ns(self) -> int:
        """How long after a tick its recorded command may come; in a recording it has the time of the tick."""
        return 1 if self._recording is not None else self._configuration.period_ns

    @property
    def expected_ticks(self) -> int:
        """About how many ticks there will be."""
        first_ns, last_ns = self.bag.span_ns
        return math.ceil((last_ns - first_ns) / self._configuration.period_ns)

    def ticks(self, others: Sequence[str] = ()) -> Iterator[Tick]:
        """Yield the ticks of the bag with what arrives before each; also what is on some other topics."""
        topics = {*self.topics, *others}
        period_ns = self._configuration.period_ns
        if self._recording is not None:
            return self._recording.ticks(topics)
        if self.time == "clock":
            messages = self.bag.messages({*topics, CLOCK_TOPIC})
            return ticks_on_clock(arrivals_on_clock(messages, self._stamps), period_ns)
        arrivals = arrivals_of(self.bag.messages(topics), self._stamps, self.time, self._offsets)
        return ticks_at_rate(arrivals, period_ns)

    def step(self, tick: Tick) -> FleetTick | None:
        """Hand the messages of a tick to the pipeline and run it; None where only commands left between two ticks."""
        if self._recording is not None:
            return self._step_as_recorded(tick)
        if tick.restarts:
            self.pipeline.reset()
        newest: dict[tuple[int, int], deque[Arrival]] = {}
        for arrival in tick.arrivals:
            for robot, sensor in self._sensors.get(arrival.topic, ()):
                # As many as the queue of the node's subscription holds.
                newest.setdefault((robot, sensor), deque(maxlen=self._depths[sensor])).append(arrival)
            if arrival.topic in self._readers:
                self._note_command(arrival)
        for (robot, sensor), arrivals in newest.items():
            for arrival in arrivals:
                stamp_ns = tick.time_ns if arrival.stamp_ns is None else arrival.stamp_ns
                self.pipeline.add(robot, sensor, stamp_ns, arrival.raw)
        return self.pipeline.step(tick.time_ns)

    def _step_as_recorded(self, tick: Tick) -> FleetTick | None:
        """Run a recorded tick: the pipeline is told what the node's was told, and given what the node's had chosen."""
        by_topic: dict[str, list[bytes]] = {}
        for arrival in tick.arrivals:
            by_topic.setdefault(arrival.topic, []).append(arrival.raw)
            if arrival.topic in self._readers:
                self._note_command(arrival)
        recorded = tick.recorded
        if recorded is None:
            return None
        self._note_gaps(recorded)
        # Readings are given as they were chosen; of a safe position only what was read at this very tick is there.
        self.pipeline.forget_samples()
        robots = [recorded.robots.get(name) for name in self._configuration.robots]
        before = [robot.before if robot is not None else "" for robot in robots]
        self.pipeline.note_overruled([index for index, what in enumerate(before) if what == "overruled"])
        if before == ["reset"] * len(before):
            self.pipeline.reset()
        else:
            self.pipeline.reset([index for index, what in enumerate(before) if what == "reset"])
        if recorded.stopped:
            self.pipeline.stop()
        else:
            self.pipeline.resume()
        owners = {index: robot.left_to for index, robot in enumerate(robots) if robot is not None and robot.left_to}
        self.pipeline.yield_robots(owners)
        selections = []
        for index, robot in enumerate(robots):
            if robot is None:
                selections.append(Selection(RobotState.WAITING, (), None, "the recording does not have it"))
                continue
            observed, position = self._sensor_topics[index]
            if position is not None and position[0] in robot.readings:
                # Where a damaged bag lacks the message, the robot's position is not known, as it may be on the robot.
                with contextlib.suppress(UnusableReading):
                    sample = sample_of(robot, position[0], by_topic.get(position[1], ()))
                    self.pipeline.add(index, len(observed), sample.stamp_ns, sample.message)
            selections.append(selection_of(robot, observed, by_topic))
        instead = {
            index: (RobotState[robot.state], robot.reason)
            for index, robot in enumerate(robots)
            if robot is not None and not robot.sent
        }
        return self.pipeline.step(tick.time_ns, selections=selections, instead=instead)

    def _topics_of(self, robot: int) -> tuple[list[tuple[str, str]], tuple[str, str] | None]:
        """Return name and topic of each sensor that is observed of a robot, and those of the safe position."""
        topics = {
            sensor: topic for topic, receivers in self._sensors.items() for index, sensor in receivers if index == robot
        }
        named = [(sources[0].name, topics[sensor]) for sensor, sources in enumerate(self._configuration.sensors)]
        return (named, None) if self._configuration.safe_position is None else (named[:-1], named[-1])

    def _note_gaps(self, recorded: RecordedTick) -> None:
        """Note once what keeps a replay from being exact."""
        last, self._last_recorded = self._last_recorded, recorded
        if last is None:
            if recorded.policy_sha256 != self.deployment.policy.spec.sha256:
                self._note("the policy is another one than drove when this was recorded")
            return
        if recorded.dropped > last.dropped:
            self._note(
                "ticks were not recorded, as the disk was too slow; after them commands may differ until the "
                "robots' episodes begin anew"
            )
        if recorded.policy_sha256 != last.policy_sha256:
            self._note("the policy was replaced while it was recorded; all ticks are replayed with one")
        if recorded.number < last.number:
            self._note("the node was activated again, or time was set back, while it was recorded")

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _note_command(self, arrival: Arrival) -> None:
        robots, read = self._readers[arrival.topic]
        try:
            command = read(arrival.raw)
        except UnusableReading:
            self.unread += 1
            return
        for robot in robots:
            times_ns, commands = self._recorded[robot]
            times_ns.append(arrival.time_ns)
            commands.append(command)

    @property
    def recorded(self) -> dict[int, Commands]:
        """The recorded commands so far, by the index of the robot; only robots whose topic is in the bag."""
        return {robot: self.recorded_of(robot) for robot in self.compared}

    @property
    def compared(self) -> list[int]:
        """The indices of the robots whose recorded commands are in the bag."""
        return sorted({robot for robots, _ in self._readers.values() for robot in robots})

    def recorded_of(self, robot: int) -> Commands:
        """Return the recorded commands of one robot so far."""
        return _in_order(*self._recorded[robot], self.pipeline.components)


def _in_order(times_ns: list[int], commands: list[np.ndarray], components: int) -> Commands:
    times, values = np.array(times_ns, np.int64), np.array(commands, np.float64).reshape(-1, components)
    order = np.argsort(times, kind="stable")
    return Commands(times[order], values[order])
