# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Record the samples and commands of every tick in a bag, from a separate thread.

The tick thread hands over references and never waits. When the writer is too slow, whole ticks are dropped and counted;
when it fails, the recording ends and the node drives on. `doc/bags.md` describes the format.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import yaml

from policy_node.config.schema import Configuration, ConfigurationError, topic_of
from policy_node.control.realtime import name_thread
from policy_node.control.tick import FleetTick, SentCommands
from policy_node.recording.format import (
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
from policy_node.sensing.samples import Sample

if TYPE_CHECKING:
    from rosbags.typesys.store import Typestore

    from policy_node.recording.bag import RecordingBag

# Limits of the queue: more would take memory from the policy.
QUEUE_TICKS = 200
QUEUE_BYTES = 256 * 2**20
# Most commands outside of ticks, such as those of the watchdog while a tick hangs.
QUEUE_COMMANDS = 1000
# Time after which written messages are flushed; a crash loses no more.
FLUSH_S = 1.0
# Longest time that start and end wait for the disk.
PATIENCE_S = 5.0
# Longest delay of a signal meanwhile.
POLL_S = 0.1


class Logger(Protocol):
    """Logger of a node."""

    def info(self, message: str) -> Any:
        """Log information."""

    def error(self, message: str) -> Any:
        """Log an error."""


class QueuedTick(NamedTuple):
    """Tick that waits to be written, with the commands sent since the previous one; not changed after queueing."""

    tick: FleetTick
    number: int
    missed: int
    dropped: int
    before: Mapping[int, str]
    commands: Sequence[SentCommands]
    size: int


@dataclass(frozen=True)
class RecordingPlan:
    """Topics and folder of a recording, checked before the robots are driven."""

    folder: Path  #: Folder in which each recording creates its own.
    name: str  #: Fully qualified name of the node.
    robots: tuple[str, ...]  #: Names, in the order of the configuration.
    sensors: tuple[str, ...]  #: Names; the sensor of the safe position comes last.
    sensor_topics: tuple[tuple[str, ...], ...]  #: `[robots][sensors]` fully qualified names.
    command_topics: tuple[str, ...]  #: Fully qualified names: those of the first robot, then of the next.
    types: Mapping[str, str]  #: Message type by topic.
    typestore: Typestore  #: Definitions of these types.
    parameters: str  #: All parameters of the node as a parameter file.
    max_duration_ns: int = 0  #: Longest time in a file of the bag; 0: any.
    max_bytes: int = 0  #: Size from which the bag continues in another file; 0: any.


def plan_recording(
    name: str, resolve: Callable[[str], str], configuration: Configuration, parameters: Mapping[str, object]
) -> RecordingPlan | None:
    """Check folder and message types and return the plan of the recording; None when `record.path` is empty.

    `name` is the fully qualified name of the node, `resolve` returns that of a topic, and `parameters`
    are those of the node by dotted name.

    Raises
    ------
    ConfigurationError
        When rosbags is not installed, the folder cannot be written, or the definition of a message type is missing.
    """
    path = configuration.record.path
    if not path:
        return None
    found = f"record.path: found {path!r}, but"
    try:
        from policy_node.recording.bag import UnknownType, typestore_of
    except ImportError as error:
        raise ConfigurationError(f"{found} recording needs rosbags ({error}); pip install rosbags") from error
    folder = Path(path).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(None, "no right to write there")
    except OSError as error:
        raise ConfigurationError(f"{found} no bag can be made in it ({error.strerror}); give another folder") from error
    sources = [sources[0] for sources in configuration.sensors]
    sensor_topics = [
        tuple(resolve(topic_of(robot, source.topic)) for source in sources) for robot in configuration.robots
    ]
    command_types = {
        resolve(topic_of(robot, command.topic)): command.type
        for robot in configuration.robots
        for command in configuration.commands
    }
    types = {topic: source.type for topics in sensor_topics for topic, source in zip(topics, sources, strict=True)}
    types |= command_types
    types[ticks_topic(name)] = TICK_TYPE
    try:
        typestore = typestore_of(types.values())
    except UnknownType as error:
        raise ConfigurationError(f"{found} of the message type {error}") from error
    return RecordingPlan(
        folder=folder,
        name=name,
        robots=configuration.robots,
        sensors=tuple(source.name for source in sources),
        sensor_topics=tuple(sensor_topics),
        command_topics=tuple(command_types),
        types=types,
        typestore=typestore,
        parameters=yaml.safe_dump({"/**": {"ros__parameters": _plain(parameters)}}, sort_keys=False),
        max_duration_ns=round(configuration.record.max_bag_duration_s * 1e9),
        max_bytes=round(configuration.record.max_bag_size_mb * 1e6),
    )


def _plain(parameters: Mapping[str, object]) -> dict[str, object]:
    """Convert parameters for YAML; leave out empty lists, which ROS does not support."""
    plain = {name: list(value) if isinstance(value, (tuple, list)) else value for name, value in parameters.items()}
    return {name: value for name, value in plain.items() if value != []}


class Recording:
    """Records ticks and commands; a jump back in time begins a new bag.

    `note_commands` may be called from any thread, `note_tick` from the tick thread; neither waits.
    `policy_sha256` is the hash of the policy at the start.
    """

    def __init__(self, plan: RecordingPlan, policy_sha256: str, logger: Logger) -> None:
        self._plan = plan
        self._policy_sha256 = policy_sha256
        self._logger = logger
        #: Numbers of ticks that were written, and dropped as the writer was too slow.
        self.recorded = self.dropped = 0
        self.error = ""  #: Error that ended the recording; empty without one.
        self.folder: Path | None = None  #: Current bag; None before the first.
        self._ticks: queue.SimpleQueue[QueuedTick | None] = queue.SimpleQueue()
        # Their difference is the size of the queue; each is changed by one thread only.
        self._handed_bytes = self._written_bytes = 0
        self._commands: deque[SentCommands] = deque(maxlen=QUEUE_COMMANDS)
        self._number = 0
        self._before: dict[int, str] = {}
        self._bag: RecordingBag | None = None
        self._last_ns = 0
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._run, name="recording", daemon=True)

    def start(self, stopping: Callable[[], bool] = lambda: False) -> None:
        """Start the thread and wait until the bag is created, at most `PATIENCE_S` and until `stopping` says so."""
        self._thread.start()
        until_s = time.monotonic() + PATIENCE_S
        while not self._begun.wait(POLL_S) and time.monotonic() < until_s and not stopping():
            pass

    def note_commands(self, sent: SentCommands) -> None:
        """Queue commands that were sent."""
        if not self.error:
            self._commands.append(sent)

    def note_tick(self, tick: FleetTick, missed: int) -> None:
        """Queue a tick, before which `missed` ticks were missed, with the commands sent since the previous one."""
        number, self._number = self._number, self._number + 1
        if self.error:
            return
        commands = self._take_commands()
        # Events before a dropped tick are recorded with the next tick.
        self._before.update({robot: event for robot, event in enumerate(tick.before) if event})
        # A message that several robots share is written once.
        messages = {id(sample.message): sample.message for samples in tick.samples for sample in samples}
        size = sum([len(message or b"") for message in messages.values()])
        waiting = self._handed_bytes - self._written_bytes
        if self._ticks.qsize() >= QUEUE_TICKS or (waiting and waiting + size > QUEUE_BYTES):
            self.dropped += 1
            return
        before, self._before = self._before, {}
        self._handed_bytes += size
        self._ticks.put(QueuedTick(tick, number, missed, self.dropped, before, commands, size))

    def _take_commands(self) -> list[SentCommands]:
        commands = []
        # Another thread may take the last one between a check and the call.
        with suppress(IndexError):
            while True:
                commands.append(self._commands.popleft())
        return commands

    def end(self) -> None:
        """Write the queue and the end of the bag; give up waiting after `PATIENCE_S`."""
        self._ticks.put(None)
        self._thread.join(PATIENCE_S)
        if self._thread.is_alive():
            self._logger.error(f"recording: {self.folder} is still being written; its index may be missing")
        elif not self.error:
            self._logger.info(f"recorded {self.recorded} ticks, {self.dropped} dropped; the last bag: {self.folder}")

    def _run(self) -> None:
        name_thread("recording")
        try:
            self._write_all()
        except Exception as error:  # no error of the recording may stop the robots
            self.error = f"{type(error).__name__}: {error} ({self.folder or self._plan.folder})"
            self._logger.error(f"recording ended: {self.error}; the node drives on without recording")
            self._abandon()
        finally:
            self._begun.set()

    def _abandon(self) -> None:
        """Complete a bag after an error, and clear the queue."""
        try:
            if self._bag is not None:
                self._bag.abandon()
        except Exception as error:
            self._logger.error(
                f"recording: {self.folder} could not be completed ({error}); complete it as doc/bags.md says"
            )
        self._take_commands()
        while not self._ticks.empty():
            self._ticks.get()

    def _write_all(self) -> None:
        from policy_node.recording.bag import RecordingBag, unused_folder

        custom = {
            FORMAT_KEY: FORMAT,
            NODE_KEY: self._plan.name,
            PARAMETERS_KEY: self._plan.parameters,
            POLICY_KEY: self._policy_sha256,
        }

        def begin() -> RecordingBag:
            # After an error here there is no bag to complete.
            self._bag = None
            self.folder = unused_folder(self._plan.folder, self._plan.name.strip("/").replace("/", "_"))
            self._bag = RecordingBag(self.folder, self._plan.types, self._plan.typestore, custom)
            self._logger.info(f"recording into {self.folder}")
            return self._bag

        bag = begin()
        self._begun.set()
        flush_at_s = time.monotonic() + FLUSH_S
        while True:
            try:
                queued = self._ticks.get(timeout=FLUSH_S)
            except queue.Empty:
                bag.flush()
                continue
            if queued is None:
                break
            if queued.tick.time_ns < self._last_ns:
                # Messages in a bag are ordered by time.
                bag.close()
                bag = begin()
                self._last_ns = queued.tick.time_ns
            elif self._is_full(bag, queued.tick.time_ns):
                bag.split()
            self._write_tick(bag, queued)
            self.recorded += 1
            self._written_bytes += queued.size
            if time.monotonic() >= flush_at_s:
                bag.flush()
                flush_at_s = time.monotonic() + FLUSH_S
        # Commands after the last tick.
        self._write_commands(bag, self._take_commands())
        bag.close()

    def _is_full(self, bag: RecordingBag, time_ns: int) -> bool:
        """Return whether the bag is to continue in another file."""
        limit_ns, limit = self._plan.max_duration_ns, self._plan.max_bytes
        duration_ns = bag.duration_ns(time_ns)
        # An empty file is never full.
        return duration_ns >= 0 and (0 < limit_ns <= duration_ns or 0 < limit <= bag.size_bytes)

    def _write_commands(self, bag: RecordingBag, commands: Iterable[SentCommands]) -> None:
        topics = self._plan.command_topics
        for sent in commands:
            self._last_ns = max(self._last_ns, sent.time_ns)
            for index, message in sent.messages.items():
                bag.write(topics[index], self._last_ns, message)

    def _write_tick(self, bag: RecordingBag, queued: QueuedTick) -> None:
        """Write commands up to the tick, its samples, the message about the tick, and the commands after it began."""
        tick, plan = queued.tick, self._plan
        later = [sent for sent in queued.commands if sent.time_ns > tick.time_ns]
        self._write_commands(bag, [sent for sent in queued.commands if sent.time_ns <= tick.time_ns])
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
        plans = tick.planned
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
                before=queued.before.get(robot, ""),
                left_to=tick.owners.get(robot, ""),
                sent=bool(tick.commanded[robot]),
                planned=plans is not None and robot in plans.requested,
                task=tick.tasks[robot] if tick.tasks else None,
                readings=readings,
            )
        own = (tick.time_ns, queued.number, queued.missed, queued.dropped, tick.stopped, tick.policy_sha256)
        of_plans = (True, plans.arrived_ns, plans.delay) if plans is not None else ()
        message = tick_message(Tick(*own, robots, tick.limits, *of_plans), plan.name, plan.typestore.types)
        bag.write(ticks_topic(plan.name), tick.time_ns, plan.typestore.serialize_cdr(message, TICK_TYPE))
        self._last_ns = tick.time_ns
        self._write_commands(bag, later)
