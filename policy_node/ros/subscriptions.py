# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Sensor topics, drained at the tick instead of by callbacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.exceptions import NameValidationException
from rclpy.expand_topic_name import expand_topic_name
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from rclpy.validate_full_topic_name import validate_full_topic_name
from rclpy.validate_topic_name import validate_topic_name

from policy_node.configuration import Configuration, ConfigurationError, SourceConfiguration
from policy_node.pipeline import Pipeline
from policy_node.ros.messages import ReadingDecoder

IMAGE_DEPTH = 2  # the newest image, and the one before it: the newest may be ahead of the small readings of its instant
VECTOR_DEPTH = 10  # of small readings the one that fits the image best

_RELIABILITY = {"best_effort": ReliabilityPolicy.BEST_EFFORT, "reliable": ReliabilityPolicy.RELIABLE}


class _TakenAtTheTick(CallbackGroup):
    """Keeps its subscriptions out of every executor's wait set: the tick thread takes their messages itself."""

    def can_execute(self, entity: object) -> bool:
        return False

    def beginning_execution(self, entity: object) -> bool:
        return False

    def ending_execution(self, entity: object) -> None:
        pass


def sensor_qos(source: SourceConfiguration) -> QoSProfile:
    """Return the QoS with which a topic is subscribed: volatile, keep last, best effort unless configured."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=source.depth or (IMAGE_DEPTH if source.is_image else VECTOR_DEPTH),
        reliability=_RELIABILITY[source.reliability],
        durability=DurabilityPolicy.VOLATILE,
    )


def topic_of(robot: str, topic: str) -> str:
    """Return the topic of a robot: relative topics lie below its namespace, absolute ones are shared by all robots."""
    return topic if topic.startswith("/") else f"{robot.rstrip('/')}/{topic}"


def check_topics(node: Node, configuration: Configuration) -> None:
    """Check that every topic has a valid name, before any is opened.

    Raises
    ------
    ConfigurationError
        With one line for every problem.
    """
    problems = []
    topics = {f"observations.{source.name}.topic": source.topic for source in configuration.sources}
    for parameter, topic in {**topics, "action.topic": configuration.action.topic}.items():
        name = topic_of(max(configuration.robots, key=len), topic)
        try:
            validate_topic_name(name)
            validate_full_topic_name(expand_topic_name(name, node.get_name(), node.get_namespace()))
        except NameValidationException as error:
            reason = str(error).splitlines()[0]
            problems.append(f"{parameter}: found {topic!r}; {reason.rstrip(':')}; give a name such as camera/image_raw")
    if problems:
        raise ConfigurationError(problems)


class SensorSubscriptions:
    """One subscription per robot and sensor.

    Parameters
    ----------
    node
        Owner of the subscriptions.
    configuration
        Robots, topics and QoS.
    decoders
        By the name of the source; they say the message class and find the stamp.
    """

    def __init__(self, node: Node, configuration: Configuration, decoders: Mapping[str, ReadingDecoder]) -> None:
        self._node = node
        group = _TakenAtTheTick()
        self._sensors: list[tuple[int, int, Subscription, ReadingDecoder]] = []
        try:
            for robot, name in enumerate(configuration.robots):
                for sensor, (source, *_) in enumerate(configuration.sensors):
                    decoder = decoders[source.name]
                    subscription = node.create_subscription(
                        decoder.message_type,
                        topic_of(name, source.topic),
                        _never_called,
                        sensor_qos(source),
                        callback_group=group,
                        raw=True,
                    )
                    self._sensors.append((robot, sensor, subscription, decoder))
        except Exception:
            self.destroy()
            raise

    def take(self, pipeline: Pipeline, simulated_ns: int | None) -> None:
        """Hand every message that has arrived to the pipeline; called by the tick thread alone.

        Parameters
        ----------
        pipeline
            Takes the messages in.
        simulated_ns
            Stamp of messages without a header under simulated time; None in real time, where the time of their
            publishing is their stamp.
        """
        for robot, sensor, subscription, decoder in self._sensors:
            handle = subscription.handle
            # As many as the queue can hold: a publisher faster than this loop must not keep the tick here.
            for _ in range(subscription.qos_profile.depth):
                taken: tuple[bytes, Mapping[str, Any]] | None = handle.take_message(decoder.message_type, True)
                if taken is None:
                    break
                raw, info = taken
                stamp_ns = decoder.stamp_ns(raw)
                if stamp_ns is None:
                    stamp_ns = info["source_timestamp"] if simulated_ns is None else simulated_ns
                pipeline.add(robot, sensor, stamp_ns, raw)

    def destroy(self) -> None:
        """Remove the subscriptions from the node."""
        for _, _, subscription, _ in self._sensors:
            self._node.destroy_subscription(subscription)
        self._sensors.clear()


def _never_called(message: object) -> None:
    raise AssertionError("sensor subscriptions are drained by the tick thread, never by an executor")
