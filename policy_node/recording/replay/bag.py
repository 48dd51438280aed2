# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Bags as they lie on the disk: their topics, and their raw messages in the order of recording."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader
from rosbags.rosbag2.storage_mcap import DECOMPRESSORS

# So many topics of a bag are listed in an error.
_TOPICS_NAMED = 60
# And so many bags of a folder.
_BAGS_NAMED = 10
# What a compressed message begins with, and no serialised one.
_ZSTD = bytes.fromhex("28b52ffd")
_REMEDY = "give a folder with metadata.yaml, or its .mcap or .db3 file"
_MENDING = (
    "a recording of the node that was cut off is completed with `python -m policy_node.recording.bag BAG`, any other "
    "bag mended with `mcap recover` or `ros2 bag reindex`"
)


class BagError(ValueError):
    """A bag that cannot be read, or does not hold what is to be replayed; says what was found and what to do."""


class Message(NamedTuple):
    """One message as it was recorded: when, on which topic, and its bytes as the middleware delivered them (CDR)."""

    time_ns: int
    topic: str
    raw: bytes


class BagTopic(NamedTuple):
    """One topic of a bag, with its message type and how many messages there are."""

    type: str
    messages: int


class Bag:
    """A rosbag2 bag: a folder, or a single file of it; MCAP or SQLite, compressed or not, split or not.

    Parameters
    ----------
    path
        The folder, or a file that ends in .mcap or .db3.

    Attributes
    ----------
    topics
        By fully qualified name.
    custom
        What the recorder has written beside the messages; empty for a single file.

    Raises
    ------
    BagError
        When it is no bag, or a damaged one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._reader = Reader(path)
            self._reader.open()
        except FileNotFoundError as error:
            raise BagError(f"bag '{path}': {_bags_inside(path) or f'{error}; {_REMEDY}'}") from error
        # Whatever a damaged file makes the reader raise.
        except Exception as error:
            raise BagError(f"bag '{path}' cannot be read: {error}; {_REMEDY}; {_MENDING}") from error
        self.topics: dict[str, BagTopic] = {}
        for connection in self._reader.connections:
            known = self.topics.get(connection.topic, BagTopic(_full_type(connection.msgtype), 0))
            self.topics[connection.topic] = BagTopic(known.type, known.messages + connection.msgcount)
        self.custom: dict[str, str] = dict(self._reader.storage.metadata.custom or {})  # type: ignore[attr-defined]

    def __enter__(self) -> Bag:
        """Return the bag, which closes at the end."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the bag."""
        self._reader.close()

    @property
    def span_ns(self) -> tuple[int, int]:
        """Times of the first and of the last message; equal in a bag without messages."""
        if not self._reader.message_count:
            return 0, 0
        return self._reader.start_time, self._reader.end_time - 1

    def messages(self, topics: Collection[str]) -> Iterator[Message]:
        """Yield the messages on some topics; a damaged part of the bag raises `BagError`."""
        chosen: list[Connection] = [
            connection
            for connection in self._reader.connections
            if connection.topic in topics and _full_type(connection.msgtype) == self.topics[connection.topic].type
        ]
        if not chosen:
            return
        try:
            for connection, time_ns, raw in self._reader.messages(chosen):
                # Only metadata.yaml says that messages are compressed; a file by itself does not.
                if raw[:4] == _ZSTD:
                    raw = DECOMPRESSORS["zstd"](raw, 0)
                yield Message(time_ns, connection.topic, raw)
        # Storages and decompressors raise what they like.
        except Exception as error:
            raise BagError(f"bag '{self.path}' is damaged: {type(error).__name__}: {error}; {_MENDING}") from error

    def describe(self) -> str:
        """List the topics with their types, a line each."""
        named = sorted(self.topics.items())[:_TOPICS_NAMED]
        width = max((len(name) for name, _ in named), default=0)
        lines = [f"  {name:<{width}}  {topic.type}  {topic.messages} messages" for name, topic in named]
        if len(self.topics) > len(named):
            lines.append(f"  and {len(self.topics) - len(named)} more")
        return "\n".join(["the bag holds:", *(lines or ["  no topic"])])


def _bags_inside(folder: Path) -> str:
    """Name the bags of a folder that is none itself, such as that of `record.path`; empty where it has none."""
    files = sorted(folder.glob("*/metadata.yaml"), key=lambda file: file.stat().st_mtime, reverse=True)
    if not files:
        return ""
    named = [str(file.parent) for file in files[:_BAGS_NAMED]]
    more = f" and {len(files) - len(named)} more" if len(files) > len(named) else ""
    return f"this is a folder of bags; give one of them, newest first: {', '.join(named)}{more}"


def _full_type(name: str) -> str:
    """Return package/msg/Type also where a recorder has written package/Type."""
    package, _, rest = name.partition("/")
    return name if "/" in rest or not rest else f"{package}/msg/{rest}"


class WantedTopic(NamedTuple):
    """A topic that is to be in a bag.

    Attributes
    ----------
    parameter
        What names it, such as `observations.image`.
    robot
        Whose topic it is.
    topic
        Fully qualified name.
    type
        The configured message type.
    """

    parameter: str
    robot: str
    topic: str
    type: str


def check_topics(bag: Bag, wanted: Sequence[WantedTopic], robots: Sequence[str]) -> None:
    """Check that a bag holds what a configuration reads.

    Parameters
    ----------
    bag
        The bag.
    wanted
        Everything that is read.
    robots
        All robots of the configuration.

    Raises
    ------
    BagError
        With one line for every problem, and all topics of the bag.
    """
    present = {entry.robot for entry in wanted if entry.topic in bag.topics}
    taken = {entry.topic for entry in wanted}
    missing = [entry for entry in wanted if entry.topic not in bag.topics and (entry.robot in present or not present)]
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
    for entry in missing:
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
    """Say how a topic of the bag, which is not `taken` already, can stand in for one that is missing."""
    fitting = [name for name, topic in bag.topics.items() if topic.type == entry.type and name not in taken]
    bare = "/" + entry.topic.strip("/").removeprefix(entry.robot.strip("/")).strip("/")
    close = [bare] if bare in fitting else difflib.get_close_matches(entry.topic, fitting, n=1, cutoff=0.4)
    # With one candidate only there is little doubt.
    close = close or (fitting if len(fitting) == 1 else [])
    return f"; give --remap {entry.topic}:={close[0]}" if close else ""
