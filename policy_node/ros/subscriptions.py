# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Subscribe sensor topics; the tick takes their messages, no callback does."""

from __future__ import annotations

import itertools
import math
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

from rclpy.exceptions import NameValidationException
from rclpy.expand_topic_name import expand_topic_name
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from rclpy.validate_full_topic_name import validate_full_topic_name
from rclpy.validate_topic_name import validate_topic_name

from policy_node.config.schema import (
    Configuration,
    ConfigurationError,
    ObservationConfiguration,
    SourceConfiguration,
    topic_of,
)
from policy_node.messages.codecs import ReadingDecoder
from policy_node.ros.frames import FrameIntake, FramePoses, Intake, check_frames, uses_tf
from policy_node.ros.middleware import CYCLONE, middleware
from policy_node.ros.process import EventThreadMonitor, end_process_if_destruction_hangs, raise_if_interrupted
from policy_node.ros.rclpy_internals import Take, poll_topic
from policy_node.sensing.reception import Reception, SensorKind, Stream

# Images: keep 2, because the newest may arrive before the other sensors of the same time.
IMAGE_DEPTH = 2
# Other sensors: keep 10, to find the one nearest to the image.
VECTOR_DEPTH = 10
# Within this time every sensor that may be silent is asked once whether its publisher is there.
PRESENCE_PERIOD_S = 0.5
# A topic that is silent for this time or its max_age_s, although it has a publisher, is subscribed again; the next time
# after twice as long. At most so many at a time, because each takes time from the tick.
SILENT_S, LONGEST_SILENT_S = 5.0, 60.0
MOST_RENEWED = 4
# Most pairs of a subscription and a publisher in one node. Fast DDS compares each with each, which takes 3 to 4 µs.
MOST_PAIRS = 2_250_000

# Robots and sensors, by their index.
_Readers: TypeAlias = list[tuple[int, int]]

_RELIABILITY = {"best_effort": ReliabilityPolicy.BEST_EFFORT, "reliable": ReliabilityPolicy.RELIABLE}
_DURABILITY = {"volatile": DurabilityPolicy.VOLATILE, "transient_local": DurabilityPolicy.TRANSIENT_LOCAL}
# Stamp and time of publication of a message, as found so far, its information, and the time of the tick under simulated
# time (else None) -> stamp and time of publication, all in nanoseconds.
Restamp: TypeAlias = Callable[[int, int, Mapping[str, Any], "int | None"], tuple[int, int]]


def sensor_qos(source: SourceConfiguration) -> QoSProfile:
    """Return the QoS of a subscription: keep last, best effort and volatile unless configured."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=source.depth or (IMAGE_DEPTH if source.is_image else VECTOR_DEPTH),
        reliability=_RELIABILITY[source.reliability],
        durability=_DURABILITY[source.durability],
    )


class Names(Protocol):
    """The names of a node, as `rclpy.node.Node` has them."""

    def get_name(self) -> str:
        """Return the name without the namespace."""

    def get_namespace(self) -> str:
        """Return the namespace."""

    def resolve_topic_name(self, topic: str) -> str:
        """Return the full name of a topic."""


def check_topics(node: Names, configuration: Configuration) -> None:
    """Check that topics have valid names, that none is both observed and commanded, and that there are not too many.

    Raises
    ------
    ConfigurationError
        One line for every problem.
    """
    problems = [*_check_count(configuration), *check_frames(configuration)]
    topics = {f"observations.{source.name}.topic": source.topic for source in configuration.sources}
    topics |= {f"{command.prefix}.topic": command.topic for command in configuration.commands}
    names = {
        parameter: (topic, topic_of(max(configuration.robots, key=len), topic)) for parameter, topic in topics.items()
    }
    if task_topic := configuration.policy.task_topic:
        names["policy.task_topic"] = (task_topic, topic_of(max(configuration.robots, key=len), task_topic))
    names["claims_topic"] = (configuration.claims_topic, configuration.claims_topic)
    for parameter, (topic, name) in names.items():
        try:
            validate_topic_name(name)
            validate_full_topic_name(expand_topic_name(name, node.get_name(), node.get_namespace()))
        except NameValidationException as error:
            reason = str(error).splitlines()[0]
            problems.append(f"{parameter}: found {topic!r}; {reason.rstrip(':')}; give a name such as camera/image_raw")
    problems = problems or list(_check_feedback(node, configuration))
    if problems:
        raise ConfigurationError(problems)


def _check_count(configuration: Configuration) -> Iterator[str]:
    """Check that one node can open the topics of all robots within seconds."""
    robots = len(configuration.robots)
    per_robot = sum(not sources[0].topic.startswith("/") for sources in configuration.sensors)
    most = math.isqrt(MOST_PAIRS // max(1, per_robot))
    if per_robot and robots > most:
        yield (
            f"robots: found {robots} with {per_robot} {'topics' if per_robot > 1 else 'topic'} each, but one node "
            f"drives at most {most} of them, because the middleware would need minutes to open their topics; give each "
            f"of {-(-robots // most)} nodes a part with shard, such as 0/{-(-robots // most)}"
        )


def _check_feedback(node: Names, configuration: Configuration) -> Iterator[str]:
    """Check that no robot's commands are what this node observes, after namespaces and remapping."""

    def names_of(topic: str) -> dict[str, str]:
        return {node.resolve_topic_name(topic_of(robot, topic)): robot for robot in configuration.robots}

    commanded = {name: robot for command in configuration.commands for name, robot in names_of(command.topic).items()}
    for source, *_ in configuration.sensors:
        is_position = source is configuration.safe_position
        parameter = "action.safe_position_topic" if is_position else f"observations.{source.name}.topic"
        for name in [name for name in names_of(source.topic) if name in commanded][:1]:
            yield (
                f"{parameter}: found {source.topic!r}, but {name} has the commands of "
                f"{commanded[name]}: the policy would take what it commands for what is measured; give the topic of a "
                f"sensor, or a term of the kind previous_action"
            )


class _Topic(NamedTuple):
    """One subscription and everything that reads from it.

    Attributes
    ----------
    name
        Its name before namespaces and remapping.
    subscription
        The subscription in rclpy.
    take
        Takes the next message.
    qos
        Its QoS, with the number of messages that its queue holds.
    decoder
        Gives the message class and finds the stamp.
    readers
        Robots and sensors that read it.
    streams
        Count its messages, one per sensor.
    restamp
        Changes the stamps; None where they stay.
    """

    name: str
    subscription: Subscription
    take: Take
    qos: QoSProfile
    decoder: ReadingDecoder
    readers: _Readers
    streams: list[Stream]
    restamp: Restamp | None


# What the tick needs of a topic.
_Taking: TypeAlias = tuple[int, Take, Callable[[bytes], "int | None"], _Readers, list[Stream], "Restamp | None"]


def restamp_of(source: SourceConfiguration) -> Restamp | None:
    """Return what changes the stamps of a sensor's messages as configured; None where they stay."""
    mode, offset_ns = source.stamp, round(source.stamp_offset_s * 1e9)
    if mode == "header":
        if not offset_ns:
            return None
        return lambda stamp_ns, published_ns, info, simulated_ns: (stamp_ns + offset_ns, published_ns + offset_ns)
    time = "received_timestamp" if mode == "receive" else "source_timestamp"

    def restamp(stamp_ns: int, published_ns: int, info: Mapping[str, Any], simulated_ns: int | None) -> tuple[int, int]:
        stamp_ns = info[time] if simulated_ns is None else simulated_ns
        return stamp_ns + offset_ns, info[time] + offset_ns

    return restamp


@dataclass
class _Silence:
    """Since when no message of a topic came, at how many ticks and messages, and after what time it is renewed."""

    ticks: int = -1
    received: int = -1
    since_s: float = 0.0
    wait_s: float = 0.0


class SensorSubscriptions:
    """One subscription per topic, shared by all robots and sensors that read it.

    Sensors share a subscription if their topics are the same after namespaces and remapping, with the same type and
    QoS. Each message is taken once and handed to every robot and sensor that reads the topic.

    Parameters
    ----------
    node
        Owner of the subscriptions.
    configuration
        Robots, topics and QoS.
    decoders
        Name of the source -> decoder, which gives the message class and finds the stamp.
    stopping
        Ends the creation of topics, which raises `Interrupted`; None: nothing does.

    Attributes
    ----------
    reception
        Judges which sensors lose messages or get them late.
    """

    def __init__(
        self,
        node: Node,
        configuration: Configuration,
        decoders: Mapping[str, ReadingDecoder],
        stopping: threading.Event | None = None,
    ) -> None:
        self._node = node
        sources = [sources[0] for sources in configuration.sensors]
        names = [
            [node.resolve_topic_name(topic_of(robot, source.topic)) for source in sources]
            for robot in configuration.robots
        ]
        waits_s = configuration.period_ns / 1e9 if middleware() == CYCLONE else 0.0
        self.reception = Reception(configuration.robots, _kinds(configuration), names, waits_s)
        topics: dict[tuple[Hashable, ...], _Topic] = {}
        self._topics: list[_Topic] = []
        # Replaced subscriptions, with what counts the ticks, and how many must have been: one may still take from them.
        self._replaced: list[tuple[Subscription, Stream, int]] = []
        # Attributes of each topic that `take` needs, looked up once.
        self._takes: list[_Taking] = []
        # Topics of sensors that may be silent, with a function that counts their publishers. Each tick asks a few.
        self._poses = FramePoses(node, configuration) if any(map(uses_tf, sources)) else None
        self._silent: deque[tuple[_Readers, Callable[[], int]]] = deque()
        try:
            for robot, sensor in itertools.product(range(len(names)), range(len(sources))):
                source, decoder, qos = sources[sensor], decoders[sources[sensor].name], sensor_qos(sources[sensor])
                key = (
                    *(names[robot][sensor], source.type, qos.depth, qos.reliability, qos.durability),
                    *(source.stamp, source.stamp_offset_s),
                )
                topic = topics.get(key)
                if topic is None:
                    raise_if_interrupted(stopping)
                    name = topic_of(configuration.robots[robot], source.topic)
                    subscription, take = poll_topic(node, decoder.message_type, name, qos, raw=True)
                    topics[key] = topic = _Topic(name, subscription, take, qos, decoder, [], [], restamp_of(source))
                    self._topics.append(topic)
                topic.readers.append((robot, sensor))
                stream = self.reception.streams[robot][sensor]
                if stream not in topic.streams:
                    topic.streams.append(stream)
        except Exception:
            self.destroy()
            raise
        for topic in self._topics:
            silent = [reader for reader in topic.readers if sources[reader[1]].may_be_silent]
            if silent:
                self._silent.append((silent, topic.subscription.get_publisher_count))
        self._asked = math.ceil(len(self._silent) * configuration.period_ns / 1e9 / PRESENCE_PERIOD_S)
        self._asked = min(len(self._silent), self._asked)
        self._takes = [self._taking(topic) for topic in self._topics]
        self._silences = [_Silence() for _ in self._topics]
        self._waits_s = self._longest_silences_s(configuration)
        self._event_thread = EventThreadMonitor()

    @staticmethod
    def _taking(topic: _Topic) -> _Taking:
        return topic.qos.depth, topic.take, topic.decoder.stamp_ns, topic.readers, topic.streams, topic.restamp

    def _longest_silences_s(self, configuration: Configuration) -> list[float]:
        """Return by topic the time without a message after which it is renewed; infinite where silence is usual."""
        sources = [sources[0] for sources in configuration.sensors]

        def wait_s(source: SourceConfiguration) -> float:
            # An old message that comes again could count as a new one.
            if source.may_be_silent or source.durability == "transient_local":
                return math.inf
            return max(SILENT_S, source.max_age_s or configuration.synchronisation.max_age_s)

        return [max(wait_s(sources[sensor]) for _, sensor in topic.readers) for topic in self._topics]

    def renew_silent(self, now_s: float) -> list[str]:
        """Subscribe topics again that are silent although they have a publisher, and return their names.

        With Fast DDS a publisher that starts on a busy machine may never know of a subscription, see
        doc/development.md; it hears of a new one. Call it about every `SILENT_S` from the thread that created the
        subscriptions; `now_s` is the time on the monotonic clock.
        """
        # A Fast DDS that stands still would never return.
        if self._event_thread.has_stopped(1):
            return []
        self._destroy_replaced()
        due = [index for index in range(len(self._topics)) if self._is_due(index, now_s)]
        due = sorted(due, key=lambda index: self._silences[index].wait_s)[:MOST_RENEWED]
        for index in due:
            topic, silence = self._topics[index], self._silences[index]
            silence.since_s, silence.wait_s = now_s, max(silence.wait_s, min(2 * silence.wait_s, LONGEST_SILENT_S))
            replaced, stream = topic.subscription, topic.streams[0]
            subscription, take = poll_topic(self._node, topic.decoder.message_type, topic.name, topic.qos, raw=True)
            self._topics[index] = topic = topic._replace(subscription=subscription, take=take)
            self._takes[index] = self._taking(topic)
            self._replaced.append((replaced, stream, stream.counts().ticks + 2))
        return [self._topics[index].subscription.topic_name for index in due]

    def _is_due(self, index: int, now_s: float) -> bool:
        topic, silence, wait_s = self._topics[index], self._silences[index], self._waits_s[index]
        counts = topic.streams[0].counts()
        # Without ticks nothing is taken, as while simulated time stands still.
        if counts.received != silence.received or counts.ticks == silence.ticks:
            self._silences[index] = _Silence(counts.ticks, counts.received, now_s, wait_s)
            return False
        silence.ticks = counts.ticks
        if now_s - silence.since_s < silence.wait_s or wait_s == math.inf:
            return False
        if not topic.subscription.get_publisher_count():
            silence.since_s = now_s
            return False
        return True

    def _destroy_replaced(self) -> None:
        """Destroy replaced subscriptions that no tick uses any more."""
        kept = []
        for subscription, stream, ticks in self._replaced:
            if stream.counts().ticks >= ticks:
                with end_process_if_destruction_hangs():
                    self._node.destroy_subscription(subscription)
            else:
                kept.append((subscription, stream, ticks))
        self._replaced = kept

    def take(self, pipeline: Intake, simulated_ns: int | None) -> None:
        """Take all messages that have arrived and hand them to the pipeline; called by the tick thread alone.

        Parameters
        ----------
        pipeline
            Receives the messages, and whether sensors that may be silent have a publisher.
        simulated_ns
            Stamp of messages without a header under simulated time; None in real time, where their stamp is the time
            at which they were published.
        """
        if self._poses is None:
            self._take(pipeline, simulated_ns)
        else:
            self._take(FrameIntake(self._poses, pipeline), simulated_ns)
            self._poses.pass_on(pipeline)
        if self._asked:
            self._ask_for_publishers(pipeline)

    def _take(self, pipeline: Intake, simulated_ns: int | None) -> None:
        """Take all messages that have arrived."""
        add = pipeline.add
        for depth, take, header_stamp_ns, readers, streams, restamp in self._takes:
            # At most the depth of the queue: a publisher faster than this loop must not keep the tick here.
            for _ in range(depth):
                taken = take()
                if taken is None:
                    break
                raw, info = taken
                published_ns = info["source_timestamp"]
                header_ns = header_stamp_ns(raw)
                without_header_ns = published_ns if simulated_ns is None else simulated_ns
                stamp_ns = without_header_ns if header_ns is None else header_ns
                # A stamp of simulated time, or a missing one, tells nothing about the delay of the message.
                if simulated_ns is None and header_ns:
                    published_ns = header_ns
                if restamp is not None:
                    stamp_ns, published_ns = restamp(stamp_ns, published_ns, info, simulated_ns)
                for stream in streams:
                    stream.arrived(
                        info.get("publication_sequence_number"),
                        _publisher_of(info),
                        info["received_timestamp"] - published_ns,
                        raw,
                    )
                for robot, sensor in readers:
                    add(robot, sensor, stamp_ns, raw)
            for stream in streams:
                stream.tick_ended()

    def _ask_for_publishers(self, pipeline: Intake) -> None:
        """Ask at some ticks whether sensors that may be silent have a publisher."""
        for readers, count_publishers in itertools.islice(self._silent, self._asked):
            is_present = count_publishers() > 0
            for robot, sensor in readers:
                pipeline.set_present(robot, sensor, is_present)
        self._silent.rotate(-self._asked)

    def change_limits(self, configuration: Configuration) -> None:
        """Judge late messages by the largest ages of another configuration, with the same sensors."""
        self.reception.change_limits(_kinds(configuration))
        self._waits_s = self._longest_silences_s(configuration)

    def destroy(self) -> None:
        """Remove the subscriptions from the node."""
        # The caller guards against a destruction that hangs; a guard in here would end that one.
        for subscription, *_ in self._replaced:
            self._node.destroy_subscription(subscription)
        for topic in self._topics:
            self._node.destroy_subscription(topic.subscription)
        self._replaced.clear()
        self._topics.clear()
        self._takes.clear()
        self._silent.clear()


def _kinds(configuration: Configuration) -> list[SensorKind]:
    default_s = configuration.synchronisation.max_age_s
    return [
        SensorKind(
            source.name,
            source.topic,
            source.is_image,
            sensor_qos(source).depth,
            source.max_age_s or default_s,
            steps=max(source.stack, source.history)
            if source.is_image and isinstance(source, ObservationConfiguration)
            else 1,
            has_stamps=source.stamp == "header",
        )
        for source, *_ in configuration.sensors
    ]


def _publisher_of(info: Mapping[str, Any]) -> bytes:
    """Return the identity of the publisher of a message; empty if rclpy does not tell it."""
    publisher = info.get("publisher_gid")
    return publisher["data"] if publisher else b""
