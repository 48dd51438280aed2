# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Read the ticks of a recording of the node, and the samples that the policy got at each."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import groupby
from operator import attrgetter

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.serialization import deserialize_message

from policy_node.messages.cdr import body_end
from policy_node.messages.reading import UnusableReading
from policy_node.recording.format import FORMAT, FORMAT_KEY, NODE_KEY, TICK_TYPE, RobotTick, parse_tick, ticks_topic
from policy_node.recording.format import Tick as RecordedTick
from policy_node.recording.replay.bag import Arrival, Bag, BagError
from policy_node.recording.replay.schedule import Tick
from policy_node.sensing.samples import Sample
from policy_node.sensing.synchroniser import RobotState, Selection


def find_recording(bag: Bag) -> str | None:
    """Return the topic of the ticks; None when the node did not record the bag.

    Raises
    ------
    BagError
        When the recording has an unknown format.
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
        # A single file has no custom data.
        topics = [
            name
            for name, topic in bag.topics.items()
            if topic.type == TICK_TYPE and name == ticks_topic(name.rpartition("/")[0])
        ]
    return topics[0] if topics and topics[0] in bag.topics else None


def recorded_ticks(bag: Bag, ticks: str, topics: Collection[str]) -> Iterator[Tick]:
    """Yield the ticks on the topic `ticks` of a recording, with the messages on `topics`.

    Commands that were sent between two ticks come as a tick whose `recorded` is None.

    Raises
    ------
    BagError
        When a tick cannot be read.
    """
    for time_ns, group in groupby(bag.messages({*topics, ticks}), key=attrgetter("time_ns")):
        arrivals: list[Arrival] = []
        recorded: RecordedTick | None = None
        for message in group:
            if message.topic == ticks:
                recorded = _parse(bag, ticks, message.raw)
            else:
                arrivals.append(message)
        if recorded is not None or arrivals:
            yield Tick(time_ns, arrivals, recorded=recorded)


def _parse(bag: Bag, ticks: str, raw: bytes) -> RecordedTick:
    try:
        body_end(raw)
        return parse_tick(deserialize_message(raw, DiagnosticArray))
    # The middleware may raise anything.
    except Exception as error:
        raise BagError(f"bag '{bag.path}', {ticks}: {error}; replay it with --time recorded") from error


def selection_of(
    recorded: RobotTick, sensors: Sequence[tuple[str, str]], by_topic: Mapping[str, Sequence[bytes]]
) -> Selection:
    """Return the samples of a robot that the policy got at a tick.

    `sensors` are name and topic of each observed sensor in the order of the configuration, `by_topic` the messages that
    were recorded with the tick.
    """
    age_ns = round(recorded.age_s * 1e9) if recorded.age_s == recorded.age_s else None
    state = RobotState[recorded.state]
    if not recorded.readings or state is RobotState.STOPPED:
        # READY without samples: the policy had failed at that tick, and none were kept.
        return Selection(RobotState.STALE if state is RobotState.READY else state, (), age_ns, recorded.reason)
    missing = [name for name, _ in sensors if name not in recorded.readings]
    if missing:
        reason = recorded.reason or f"the recording has no sample of {', '.join(missing)}"
        return Selection(RobotState.WAITING if state is RobotState.READY else state, (), age_ns, reason)
    try:
        samples = tuple(sample_of(recorded, name, by_topic.get(topic, ())) for name, topic in sensors)
    except UnusableReading as error:
        return Selection(RobotState.WAITING, (), age_ns, str(error))
    return Selection(RobotState.READY, samples, age_ns, "")


def sample_of(recorded: RobotTick, name: str, messages: Sequence[bytes]) -> Sample:
    """Return the sample of one sensor at a recorded tick.

    Raises
    ------
    UnusableReading
        When the bag lacks its message.
    """
    stamp_ns, index = recorded.readings[name]
    if index is None:
        return Sample(stamp_ns, None)
    if index >= len(messages):
        raise UnusableReading(f"the recording lacks the message of {name}")
    return Sample(stamp_ns, messages[index])
