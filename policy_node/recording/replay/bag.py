# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Read the topics and the raw messages of a bag."""

from __future__ import annotations

import difflib
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import yaml
from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader, reader
from rosbags.rosbag2.storage_mcap import DECOMPRESSORS

from policy_node.config.files import check_file, read_file
from policy_node.recording.bag import MAX_METADATA_BYTES, METADATA_FILE
from policy_node.recording.replay.definitions import conversion_of
from policy_node.recording.replay.mcap import RosMcapReader

# Topics of a bag, and bags of a folder, that an error lists.
_TOPICS_NAMED = 60
_BAGS_NAMED = 10
# First bytes of a compressed message; no serialised message has them.
_ZSTD = bytes.fromhex("28b52ffd")
_SUFFIXES = (".mcap", ".db3")
_COMPRESSED = ".zstd"
# Encoding of a topic in metadata.yaml.
_ENCODING = re.compile(r"serialization_format:[ \t]*['\"]?([\w-]*)")
# Room that an unpacked bag leaves on the disk.
_ROOM_BYTES = 2**28
_BLOCK_BYTES = 2**22
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


class _DirectoryReader(reader.DirectoryReader):
    STORAGE_PLUGINS = {**reader.DirectoryReader.STORAGE_PLUGINS, "mcap": RosMcapReader}  # noqa: RUF012  as in the base


class _Reader(Reader):
    STORAGE_PLUGINS = {**Reader.STORAGE_PLUGINS, "dir": _DirectoryReader, ".mcap": RosMcapReader}  # noqa: RUF012


class Bag:
    """Reads a rosbag2 bag: a folder, or a file that ends in .mcap or .db3; compressed or not, split or not.

    Topics are relative to the root where the bag has them without a leading slash. Channels in other encodings than
    that of ROS are left out. Messages are converted where their definition in the bag has other fields than the
    installed one.

    Raises
    ------
    BagError
        When there is no bag, or it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        #: Notes for the user.
        self.notes: list[str] = []
        # Closes the files, and removes unpacked ones.
        self._open = ExitStack()
        try:
            self._reader = self._open.enter_context(_Reader(self._storage()))
        except BaseException as error:
            self._open.close()
            if isinstance(error, BagError) or not isinstance(error, Exception):
                raise
            if isinstance(error, FileNotFoundError):
                raise BagError(f"bag '{path}': {_bags_inside(path) or f'{error}; {_REMEDY}'}") from error
            # A damaged file may raise anything.
            raise BagError(f"bag '{path}' cannot be read: {error}; {_REMEDY}; {_REPAIR}") from error
        #: Topics by fully qualified name.
        self.topics: dict[str, BagTopic] = {}
        for connection in self._reader.connections:
            name = _full_name(connection.topic)
            known = self.topics.get(name, BagTopic(_full_type(connection.msgtype), 0))
            self.topics[name] = BagTopic(known.type, known.messages + connection.msgcount)
        self._conversions: dict[str, Callable[[bytes], bytes] | None] = {}
        #: Custom data of metadata.yaml; empty for a single file.
        self.custom: dict[str, str] = dict(self._reader.storage.metadata.custom or {})  # type: ignore[attr-defined]

    def close(self) -> None:
        """Close the files."""
        self._open.close()

    def _storage(self) -> Path:
        """Return the folder or file to open, after checks that nothing in it can block or fill the memory.

        Raises
        ------
        BagError
            When a folder has files of a bag but no metadata.yaml.
        OSError
            When one of the files is not regular or too large.
        """
        path = self.path
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.name.removesuffix(_COMPRESSED).endswith(_SUFFIXES))
            for file in files:
                check_file(file)
            if (path / METADATA_FILE).exists():
                return self._without_other_encodings(path, files)
            if not files:
                return path
            if len(files) > 1:
                raise BagError(
                    f"bag '{path}': it has no {METADATA_FILE}; make it with `ros2 bag reindex {path}`, or give one of "
                    f"its files: {', '.join(file.name for file in files[:_BAGS_NAMED])}"
                )
            self.notes.append(f"'{path}' has no {METADATA_FILE}: its file {files[0].name} is read")
            path = files[0]
        elif path.exists():
            check_file(path)
        unpacked = path.name.removesuffix(_COMPRESSED)
        if unpacked == path.name or not unpacked.endswith(_SUFFIXES):
            return path
        folder = Path(self._open.enter_context(TemporaryDirectory()))
        _unpack(path, folder / unpacked)
        return folder / unpacked

    def _without_other_encodings(self, folder: Path, files: Sequence[Path]) -> Path:
        """Return a folder whose metadata.yaml has only topics in the encoding of ROS: rosbags refuses any other."""
        text = read_file(folder / METADATA_FILE, MAX_METADATA_BYTES).decode()
        if set(_ENCODING.findall(text)) <= {"cdr"}:
            return folder
        metadata = yaml.safe_load(text)
        described = metadata["rosbag2_bagfile_information"]
        topics = [
            topic
            for topic in described["topics_with_message_count"]
            if topic["topic_metadata"]["serialization_format"] == "cdr"
        ]
        described["topics_with_message_count"] = topics
        described["message_count"] = sum(topic["message_count"] for topic in topics)
        filtered = Path(self._open.enter_context(TemporaryDirectory()))
        for file in files:
            (filtered / file.name).symlink_to(file.absolute())
        (filtered / METADATA_FILE).write_text(yaml.safe_dump(metadata))
        return filtered

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
            if (name := _full_name(connection.topic)) in topics
            and _full_type(connection.msgtype) == self.topics[name].type
        ]
        if not chosen:
            return
        converted = {connection.topic: self._conversion(connection) for connection in chosen}
        try:
            for connection, time_ns, raw in self._reader.messages(chosen):
                # Only metadata.yaml tells of compressed messages, and a single file comes without it.
                if raw[:4] == _ZSTD:
                    raw = DECOMPRESSORS["zstd"](raw, 0)
                convert = converted[connection.topic]
                yield Arrival(time_ns, _full_name(connection.topic), raw if convert is None else convert(raw))
        # Storages and decompressors may raise anything.
        except Exception as error:
            raise BagError(f"bag '{self.path}' is damaged: {type(error).__name__}: {error}; {_REPAIR}") from error

    def _conversion(self, connection: Connection) -> Callable[[bytes], bytes] | None:
        """Return the function that converts messages of the bag to the installed definition; None: they are the same.

        The user is told once.
        """
        name = _full_name(connection.topic)
        if name not in self._conversions:
            found = conversion_of(self.topics[name].type, connection.msgdef)
            self._conversions[name] = found and found.convert
            if found is not None:
                self.notes.append(f"{name}: {self.topics[name].type} {found.difference}")
        return self._conversions[name]

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


def _unpack(packed: Path, file: Path) -> None:
    """Unpack a file that was compressed as a whole; raises OSError when the disk has no room for it."""
    left = shutil.disk_usage(file.parent).free - _ROOM_BYTES
    with packed.open("rb") as source, reader.zstd.open(source, "rb") as stream, file.open("wb") as output:
        while block := stream.read(_BLOCK_BYTES):
            left -= len(block)
            if left < 0:
                raise OSError(f"{file.parent} has no room for it; unpack it (`unzstd`) where there is more")
            output.write(block)


def _full_name(topic: str) -> str:
    return topic if topic.startswith("/") else f"/{topic}"


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
