# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""What the policy saw and what was commanded, written as a bag by a thread of its own, which no tick ever waits for.

The tick thread hands references over. Where the writer cannot follow, whole ticks are left out and counted; where it
cannot write at all the recording ends, and the robots are driven on. The format is described in `doc/bags.md`.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import yaml
from rclpy.impl.rcutils_logger import RcutilsLogger
from rclpy.node import Node

from policy_node.configuration import Configuration, ConfigurationError
from policy_node.recording_format import (
    FORMAT,
    FORMAT_KEY,
    NODE_KEY,
    PARAMETERS_KEY,
    POLICY_KEY,
    TICK_TYPE,
    Reading,
    RobotTick,
    Tick,
    tick_message,
    ticks_topic,
)
from policy_node.ros.realtime import name_thread
from policy_node.ros.subscriptions import topic_of
from policy_node.samples import Sample
from policy_node.tick import FleetTick, SentCommands

if TYPE_CHECKING:
    from rosbags.typesys.store import Typestore

    from policy_node.recording_bag import RecordingBag

# What may wait for the disk: more would take the memory that the policy needs.
QUEUE_TICKS = 200
QUEUE_BYTES = 256 * 2**20
# Commands beside the ticks, as the watchdog sends them while a tick hangs.
QUEUE_COMMANDS = 1000
# How much of a recording an end without notice may cost.
FLUSH_S = 1.0
# How long begin and end of a recording wait for the disk.
PATIENCE_S = 5.0


class TickNote(NamedTuple):
    """What the tick thread hands over of one tick; nothing of it is changed afterwards."""

    tick: FleetTick
    number: int
    missed: int
    dropped: int
    before: Mapping[int, str]
    commands: Sequence[SentCommands]
    size: int


@dataclass(frozen=True)
class RecordingPlan:
    """What is to be recorded where: everything that can be wrong with it is known before the robots are driven.

    Attributes
    ----------
    folder
        In which each recording makes its own.
    name
        That of the node, fully qualified.
    robots, sensors
        Their names; a safe position that is read comes last.
    sensor_topics, command_topics
        `[robots][sensors]` and `[robots]`, fully qualified.
    types
        Message type by topic.
    typestore
        Has the types.
    parameters
        All parameters of the node as a parameter file.
    """

    folder: Path
    name: str
    robots: tuple[str, ...]
    sensors: tuple[str, ...]
    sensor_topics: tuple[tuple[str, ...], ...]
    command_topics: tuple[str, ...]
    types: Mapping[str, str]
    typestore: Typestore
    parameters: str


def plan_recording(node: Node, configuration: Configuration, parameters: Mapping[str, object]) -> RecordingPlan | None:
    """Check what a recording needs and return what is to be recorded; None when nothing is.

    Parameters
    ----------
    node
        Whose topics.
    configuration
        The deployment.
    parameters
        Of the node by dotted name.

    Raises
    ------
    ConfigurationError
        When rosbags is not installed, the folder cannot be written, or the definition of a message type is missing.
    """
    path = configuration.record.path
    if not path:
        return None
    try:
        from policy_node.recording_bag import UnknownType, typestore_of
    except ImportError as error:
        problem = f"record.path: found {path!r}, but recording needs rosbags ({error}); pip install rosbags"
        raise ConfigurationError([problem]) from error
    folder = Path(path).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(None, "no right to write there")
    except OSError as error:
        problem = f"record.path: found {path!r}, but no bag can be made in it ({error.strerror}); give another folder"
        raise ConfigurationError([problem]) from error
    sources = [sources[0] for sources in configuration.sensors]
    sensor_topics, command_topics = [], []
    types: dict[str, str] = {}
    for robot in configuration.robots:
        topics = tuple(node.resolve_topic_name(topic_of(robot, source.topic)) for source in sources)
        types |= {topic: source.type for topic, source in zip(topics, sources, strict=True)}
        command_topics.append(node.resolve_topic_name(topic_of(robot, configuration.action.topic)))
        types[command_topics[-1]] = configuration.action.type
        sensor_topics.append(topics)
    name = node.get_fully_qualified_name()
    types[ticks_topic(name)] = TICK_TYPE
    try:
        typestore = typestore_of(types.values())
    except UnknownType as error:
        raise ConfigurationError([f"record.path: found {path!r}, but of the message type {error}"]) from error
    return RecordingPlan(
        folder=folder,
        name=name,
        robots=configuration.robots,
        sensors=tuple(source.name for source in sources),
        sensor_topics=tuple(sensor_topics),
        command_topics=tuple(command_topics),
        types=types,
        typestore=typestore,
        parameters=yaml.safe_dump({"/**": {"ros__parameters": _plain(parameters)}}, sort_keys=False),
    )


def _plain(parameters: Mapping[str, object]) -> dict[str, object]:
    """Return parameters as YAML can say them; ROS knows no empty list."""
    plain = {name: list(value) if isinstance(value, (tuple, list)) else value for name, value in parameters.items()}
    return {name: value for name, value in plain.items() if value != []}


class Recording:
    """Records from its start to its end; a bag for each stretch of time that runs forwards.

    `note_commands` may be called from any thread, `note_tick` from the tick thread; neither ever waits.

    Parameters
    ----------
    plan
        What is recorded where.
    policy_sha256
        Of the policy at the start.
    logger
        Is told of each bag, and how the recording ended.

    Attributes
    ----------
    recorded, dropped
        Ticks that were written, and that were left out as the writer could not follow.
    error
        Why the recording has ended; empty while it has not.
    folder
        The present bag; None before the first.
    """

    def __init__(self, plan: RecordingPlan, policy_sha256: str, logger: RcutilsLogger) -> None:
        self._plan = plan
        self._policy_sha256 = policy_sha256
        self._logger = logger
        self.recorded = self.dropped = 0
        self.error = ""
        self.folder: Path | None = None
        self._ticks: queue.SimpleQueue[TickNote | None] = queue.SimpleQueue()
        # Bytes of messages that wait: each number grows in one thread only.
        self._handed_bytes = self._written_bytes = 0
        self._commands: deque[SentCommands] = deque(maxlen=QUEUE_COMMANDS)
        self._number = 0
        self._before: dict[int, str] = {}
        self._bag: RecordingBag | None = None
        self._last_ns = 0
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recording", daemon=True)

    def start(self) -> None:
        """Begin to record; a large fleet's bag is begun before its ticks, unless the disk keeps it waiting."""
        self._thread.start()
        self._begun.wait(PATIENCE_S)

    def note_commands(self, sent: SentCommands) -> None:
        """Take note of commands that were sent."""
        if not self.error:
            self._commands.append(sent)

    def note_tick(self, tick: FleetTick, missed: int) -> None:
        """Take note of a tick, before which some were missed, and of the commands sent since the one before."""
        number, self._number = self._number, self._number + 1
        if self.error:
            return
        commands = self._take_commands()
        # What happened to a robot before a tick that is left out happened before the next one that is not.
        self._before.update({robot: event for robot, event in enumerate(tick.before) if event})
        size = sum([len(sample.message or b"") for samples in tick.samples for sample in samples])
        waiting = self._handed_bytes - self._written_bytes
        if self._ticks.qsize() >= QUEUE_TICKS or (waiting and waiting + size > QUEUE_BYTES):
            self.dropped += 1
            return
        before, self._before = self._before, {}
        self._handed_bytes += size
        self._ticks.put(TickNote(tick, number, missed, self.dropped, before, commands, size))

    def _take_commands(self) -> list[SentCommands]:
        commands = []
        # Both threads take, and others add: to look before would not help.
        with suppress(IndexError):
            while True:
                commands.append(self._commands.popleft())
        return commands

    def end(self) -> None:
        """Write what waits, and the end of the bag; a disk that takes longer than `PATIENCE_S` is left alone."""
        self._ticks.put(None)
        self._thread.join(PATIENCE_S)
        if self._thread.is_alive():
            self._logger.error(f"recording: {self.folder} is still being written; it may lack its end")
        elif not self.error:
            self._logger.info(f"recorded {self.recorded} ticks, {self.dropped} left out; the last bag: {self.folder}")

    def _run(self) -> None:
        name_thread("recording")
        try:
            self._write_all()
        except Exception as error:  # whatever the disk or the library does, the robots are driven on
            self.error = f"{type(error).__name__}: {error} ({self.folder or self._plan.folder})"
            self._logger.error(f"recording ended: {self.error}; the robots are driven on, and nothing more is recorded")
            self._abandon()
        finally:
            self._begun.set()

    def _abandon(self) -> None:
        """Make the best of a bag that cannot be written any more, and forget what waits for it."""
        bag, self._bag = self._bag, None
        try:
            if bag is not None:
                bag.abandon()
        except Exception as error:
            self._logger.error(f"recording: {self.folder} lacks its end ({error}); complete it as doc/bags.md says")
        self._take_commands()
        while not self._ticks.empty():
            self._ticks.get()

    def _write_all(self) -> None:
        from policy_node.recording_bag import RecordingBag, unused_folder

        custom = {
            FORMAT_KEY: FORMAT,
            NODE_KEY: self._plan.name,
            PARAMETERS_KEY: self._plan.parameters,
            POLICY_KEY: self._policy_sha256,
        }

        def begin() -> RecordingBag:
            name = self._plan.name.strip("/").replace("/", "_")
            self.folder = unused_folder(self._plan.folder, name)
            self._bag = bag = RecordingBag(self.folder, self._plan.types, self._plan.typestore, custom)
            self._logger.info(f"recording into {self.folder}")
            return bag

        bag = begin()
        self._begun.set()
        flush_at_s = time.monotonic() + FLUSH_S
        while True:
            try:
                note = self._ticks.get(timeout=FLUSH_S)
            except queue.Empty:
                bag.flush()
                continue
            if note is None:
                break
            if note.tick.time_ns < self._last_ns:
                # The messages of a bag are in the order of their time.
                bag.close()
                bag = begin()
                self._last_ns = note.tick.time_ns
            self._write_tick(bag, note)
            self.recorded += 1
            self._written_bytes += note.size
            if time.monotonic() >= flush_at_s:
                bag.flush()
                flush_at_s = time.monotonic() + FLUSH_S
        # The last commands of all, which no tick followed.
        self._write_commands(bag, self._take_commands())
        bag.close()
        self._bag = None

    def _write_commands(self, bag: RecordingBag, commands: Iterable[SentCommands]) -> None:
        topics = self._plan.command_topics
        for sent in commands:
            self._last_ns = max(self._last_ns, sent.time_ns)
            for robot, message in sent.messages.items():
                bag.write(topics[robot], self._last_ns, message)

    def _write_tick(self, bag: RecordingBag, note: TickNote) -> None:
        """Write a tick: commands and readings first, then what it says of them, then what was sent after it began."""
        tick, plan = note.tick, self._plan
        later = [sent for sent in note.commands if sent.time_ns > tick.time_ns]
        self._write_commands(bag, [sent for sent in note.commands if sent.time_ns <= tick.time_ns])
        recorded: dict[str, list[bytes]] = {}

        def reading(topic: str, sample: Sample) -> Reading:
            if sample.message is None:
                return Reading(sample.stamp_ns, None)
            messages = recorded.setdefault(topic, [])
            if sample.message not in messages:
                messages.append(sample.message)
                bag.write(topic, tick.time_ns, sample.message)
            return Reading(sample.stamp_ns, messages.index(sample.message))

        robots = {}
        for robot, name in enumerate(plan.robots):
            topics = plan.sensor_topics[robot]
            readings = {
                sensor: reading(topic, sample)
                for sensor, topic, sample in zip(plan.sensors, topics, tick.samples[robot], strict=False)
            }
            position = tick.positions[robot]
            if position is not None:
                readings[plan.sensors[-1]] = reading(topics[-1], position)
            robots[name] = RobotTick(
                state=tick.states[robot].name,
                reason=tick.reasons[robot],
                age_s=float(tick.ages_s[robot]),
                before=note.before.get(robot, ""),
                left_to=tick.owners.get(robot, ""),
                sent=bool(tick.commanded[robot]),
                readings=readings,
            )
        own = (tick.time_ns, note.number, note.missed, note.dropped, tick.stopped, tick.policy_sha256)
        message = tick_message(Tick(*own, robots), plan.name, plan.typestore.types)
        bag.write(ticks_topic(plan.name), tick.time_ns, plan.typestore.serialize_cdr(message, TICK_TYPE))
        self._last_ns = tick.time_ns
        self._write_commands(bag, later)
