# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Read the topics and the raw messages of a bag."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader
from rosbags.rosbag2.storage_mcap import DECOMPRESSORS

# Topics of a bag, and bags of a folder, that an error lists.
_TOPICS_NAMED = 60
_BAGS_NAMED = 10
# First bytes of a compressed message; no serialised message has them.
_ZSTD = bytes.fromhex("28b52ffd")
_REMEDY = "give a folder with metadata.yaml, or its .mcap or .db3 file"
_REPAIR = (
    "a recording of the node that was cut off is completed with `python -m policy_node.recording.bag BAG`, any other "
    "bag repaired with `mcap recover` or `ros2 bag reindex`"
)


class BagError(ValueError):
    """A bag cannot be read, or lacks what the replay needs; the text says what was found and what to do."""


class Arrival(NamedTuple):
    """A recorded message."""

    time_ns: int  #: Time at which it arrives; as read from the bag, the time at which it was recorded.
    topic: str  #: Fully qualified name.
    raw: bytes  #: Its serialised bytes (CDR).
    stamp_ns: int | None = None  #: Stamp of its reading; None for the time of the tick that takes it.


class BagTopic(NamedTuple):
    """Message type and number of messages of a topic."""

    type: str
    messages: int


class Bag:
    """Reads a rosbag2 bag: a folder, or a file that ends in .mcap or .db3; compressed or not, split or not.

    Raises
    ------
    BagError
        When there is no bag, or it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._reader = Reader(path)
            self._reader.open()
        except FileNotFoundError as error:
            raise BagError(f"bag '{path}': {_bags_inside(path) or f'{error}; {_REMEDY}'}") from error
        # A damaged file may raise anything.
        except Exception as error:
            raise BagError(f"bag '{path}' cannot be read: {error}; {_REMEDY}; {_REPAIR}") from error
        #: Topics by fully qualified name.
        self.topics: dict[str, BagTopic] = {}
        for connection in self._reader.connections:
            known = self.topics.get(connection.topic, BagTopic(_full_type(connection.msgtype), 0))
            self.topics[connection.topic] = BagTopic(known.type, known.messages + connection.msgcount)
        #: Custom data of metadata.yaml; empty for a single file.
        self.custom: dict[str, str] = dict(self._reader.storage.metadata.custom or {})  # type: ignore[attr-defined]

    def close(self) -> None:
        """Close the files."""
        self._reader.close()

    @property
    def span_ns(self) -> tuple[int, int]:
        """Times of the first and the last message; 0 in an empty bag."""
        if not self._reader.message_count:
            return 0, 0
        return self._reader.start_time, self._reader.end_time - 1

    def messages(self, topics: Collection[str]) -> Iterator[Arrival]:
        """Yield the messages on some topics in the order of recording.

        Raises
        ------
        BagError
            When the bag is damaged.
        """
        chosen: list[Connection] = [
            connection
            for connection in self._reader.connections
            if connection.topic in topics and _full_type(connection.msgtype) == self.topics[connection.topic].type
        ]
        if not chosen:
            return
        try:
            for connection, time_ns, raw in self._reader.messages(chosen):
                # Only metadata.yaml tells of compressed messages, and a single file comes without it.
                if raw[:4] == _ZSTD:
                    raw = DECOMPRESSORS["zstd"](raw, 0)
                yield Arrival(time_ns, connection.topic, raw)
        # Storages and decompressors may raise anything.
        except Exception as error:
            raise BagError(f"bag '{self.path}' is damaged: {type(error).__name__}: {error}; {_REPAIR}") from error

    def describe(self) -> str:
        """List the topics with their types, one per line."""
        shown = sorted(self.topics.items())[:_TOPICS_NAMED]
        width = max((len(name) for name, _ in shown), default=0)
        lines = [f"  {name:<{width}}  {topic.type}  {topic.messages} messages" for name, topic in shown]
        if len(self.topics) > len(shown):
            lines.append(f"  and {len(self.topics) - len(shown)} more")
        return "\n".join(["the bag holds:", *(lines or ["  no topic"])])


def _bags_inside(folder: Path) -> str:
    """Name the bags inside a folder, such as `record.path`; empty if there are none."""
    files = sorted(folder.glob("*/metadata.yaml"), key=lambda file: file.stat().st_mtime, reverse=True)
    if not files:
        return ""
    named = [str(file.parent) for file in files[:_BAGS_NAMED]]
    more = f" and {len(files) - len(named)} more" if len(files) > len(named) else ""
    return f"this is a folder of bags; give one of them, newest first: {', '.join(named)}{more}"


def _full_type(name: str) -> str:
    """Return package/msg/Type, also for package/Type as some recorders write it."""
    package, _, rest = name.partition("/")
    return name if "/" in rest or not rest else f"{package}/msg/{rest}"


class WantedTopic(NamedTuple):
    """A topic that the configuration reads."""

    parameter: str  #: Parameter that names it, such as `observations.image`.
    robot: str  #: Robot that it belongs to.
    topic: str  #: Fully qualified name.
    type: str  #: Configured message type.


def check_topics(bag: Bag, wanted: Sequence[WantedTopic], robots: Sequence[str]) -> None:
    """Check that a bag has all topics that the `robots` of a configuration read.

    Raises
    ------
    BagError
        With one line for each problem, and all topics of the bag.
    """
    present = {entry.robot for entry in wanted if entry.topic in bag.topics}
    taken = {entry.topic for entry in wanted}
    absent = [robot for robot in robots if robot not in present]
    problems = []
    if absent:
        remaining = ", ".join(robot for robot in robots if robot in present)
        remedy = (
            f"replay the others with -p 'robots:=[{remaining}]'"
            if remaining
            else "give the robots of the bag, or --remap the topics of a single robot, or begin them with '/'"
        )
        problems.append(f"robots: the bag has no topic of {', '.join(absent)}; {remedy}")
    for entry in wanted:
        if entry.topic not in bag.topics and (entry.robot in present or not present):
            problems.append(f"{entry.parameter}.topic: {entry.topic} is not in the bag{_hint(bag, entry, taken)}")
    for entry in wanted:
        found = bag.topics.get(entry.topic)
        if found is not None and found.type != entry.type:
            problems.append(
                f"{entry.parameter}.type: {entry.topic} is {found.type} in the bag, but {entry.type} is configured; "
                f"give -p {entry.parameter}.type:={found.type}, or name another topic"
            )
    if problems:
        raise BagError("\n".join([*dict.fromkeys(problems), bag.describe()]))


def _hint(bag: Bag, entry: WantedTopic, taken: Collection[str]) -> str:
    """Suggest a topic of the bag that is not `taken` for a missing one."""
    fitting = [name for name, topic in bag.topics.items() if topic.type == entry.type and name not in taken]
    bare = "/" + entry.topic.strip("/").removeprefix(entry.robot.strip("/")).strip("/")
    close = [bare] if bare in fitting else difflib.get_close_matches(entry.topic, fitting, n=1, cutoff=0.4)
    close = close or (fitting if len(fitting) == 1 else [])
    return f"; give --remap {entry.topic}:={close[0]}" if close else ""
