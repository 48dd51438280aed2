# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""A recording of the node as its ticks, each with exactly the readings that the policy was given."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import groupby
from operator import attrgetter

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.serialization import deserialize_message

from policy_node.messages.cdr import body_end
from policy_node.messages.reading import UnusableReading
from policy_node.recording.format import (
    FORMAT,
    FORMAT_KEY,
    NODE_KEY,
    TICK_TYPE,
    RobotTick,
    parse_tick,
    ticks_topic,
)
from policy_node.recording.format import Tick as RecordedTick
from policy_node.recording.replay.bag import Bag, BagError
from policy_node.recording.replay.schedule import Arrival, Tick
from policy_node.sensing.samples import Sample
from policy_node.sensing.synchroniser import RobotState, Selection


class Recording:
    """What the node has said of its ticks in a bag.

    Parameters
    ----------
    bag
        The bag.
    topic
        Of the ticks.
    """

    def __init__(self, bag: Bag, topic: str) -> None:
        self._bag = bag
        self._topic = topic

    def ticks(self, topics: Collection[str]) -> Iterator[Tick]:
        """Yield the ticks, with the messages that were recorded with each on some topics.

        Raises
        ------
        BagError
            When what is said of a tick cannot be read.
        """
        messages = self._bag.messages({*topics, self._topic})
        for time_ns, group in groupby(messages, key=attrgetter("time_ns")):
            arrivals: list[Arrival] = []
            recorded: RecordedTick | None = None
            for message in group:
                if message.topic == self._topic:
                    recorded = self._parse(message.raw)
                else:
                    arrivals.append(Arrival(time_ns, None, message.topic, message.raw))
            # Safe commands leave between two ticks, too.
            if recorded is not None or arrivals:
                yield Tick(time_ns, arrivals, recorded=recorded)

    def _parse(self, raw: bytes) -> RecordedTick:
        try:
            body_end(raw)
            return parse_tick(deserialize_message(raw, DiagnosticArray))
        # The middleware chooses what it raises.
        except Exception as error:
            raise BagError(f"bag '{self._bag.path}', {self._topic}: {error}; replay it with --time recorded") from error


def find_recording(bag: Bag) -> Recording | None:
    """Return the recording that a bag is; None when another program has recorded it.

    Raises
    ------
    BagError
        When it is one of another format.
    """
    found = bag.custom.get(FORMAT_KEY, FORMAT)
    if found != FORMAT:
        raise BagError(
            f"bag '{bag.path}': its recording has the format {found}, this version reads {FORMAT}; replay it with "
            "--time recorded, or with the version that recorded it"
        )
    if NODE_KEY in bag.custom:
        topics = [ticks_topic(bag.custom[NODE_KEY])]
    else:
        topics = [
            name
            for name, topic in bag.topics.items()
            if topic.type == TICK_TYPE and name == ticks_topic(name.rpartition("/")[0])
        ]
    return Recording(bag, topics[0]) if topics and topics[0] in bag.topics else None


def selection_of(
    recorded: RobotTick, sensors: Sequence[tuple[str, str]], by_topic: Mapping[str, Sequence[bytes]]
) -> Selection:
    """Return the choice of readings that a robot's policy was given at a tick.

    Parameters
    ----------
    recorded
        What the node said of the robot.
    sensors
        Name and topic of each sensor that is observed, in the order of the configuration.
    by_topic
        The messages that were recorded with the tick.
    """
    age_ns = round(recorded.age_s * 1e9) if recorded.age_s == recorded.age_s else None
    state = RobotState[recorded.state]
    if not recorded.readings or state in (RobotState.STOPPED, RobotState.WAITING):
        # A policy that failed then had no readings that were kept.
        return Selection(RobotState.STALE if state is RobotState.READY else state, (), age_ns, recorded.reason)
    missing = [name for name, _ in sensors if name not in recorded.readings]
    if missing:
        reason = recorded.reason or f"the recording has no reading of {', '.join(missing)}"
        return Selection(RobotState.WAITING if state is RobotState.READY else state, (), age_ns, reason)
    try:
        samples = tuple(sample_of(recorded, name, by_topic.get(topic, ())) for name, topic in sensors)
    except UnusableReading as error:
        return Selection(RobotState.WAITING, (), age_ns, str(error))
    return Selection(RobotState.READY, samples, age_ns, "")


def sample_of(recorded: RobotTick, name: str, messages: Sequence[bytes]) -> Sample:
    """Return the reading of one sensor.

    Raises
    ------
    UnusableReading
        When its message is not in the bag.
    """
    stamp_ns, index = recorded.readings[name]
    if index is None:
        return Sample(stamp_ns, None)
    if index >= len(messages):
        raise UnusableReading(f"the recording lacks the message of {name}")
    return Sample(stamp_ns, messages[index])
