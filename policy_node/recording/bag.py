# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Write the bag of a recording so that it can be completed after a crash.

`python -m policy_node.recording.bag BAG` completes a bag that was cut off, in place.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import os
import re
import struct
import sys
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from io import BytesIO, RawIOBase
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from rosbags.interfaces import Connection
from rosbags.rosbag2 import CompressionMode, Reader, StoragePlugin, Writer
from rosbags.rosbag2.storage_mcap import McapWriter, PendingChunk, write_channel, write_schema
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from policy_node.config.files import read_file
from policy_node.recording.format import PARAMETERS_FILE, PARAMETERS_KEY

METADATA_FILE = "metadata.yaml"
# Parsed YAML takes many times as much memory as its text.
MAX_METADATA_BYTES = 2**26
VERSION = Writer.VERSION_LATEST
# MCAP: first and last bytes of a file, and codes of records.
_MAGIC = b"\x89MCAP0\r\n"
_RECORD = struct.Struct("<BQ")
_FOOTER, _MESSAGE_CODE, _CHUNK_CODE, _INDEX_CODE, _DATA_END = 0x02, 0x05, 0x06, 0x07, 0x0F
# Code, length; channel, sequence, time of recording, time of publishing.
_MESSAGE = struct.Struct("<BQHIQQ")
# Code, length; times of the first and the last message, size, no checksum, no compression, size again.
_CHUNK = struct.Struct("<BQQQQIIQ")
# Code, length; channel, bytes that follow.
_INDEX = struct.Struct("<BQHI")
_CHUNK_BYTES = 2**20
# Limit of Linux for one call of writev.
_MOST_PARTS = 1024
# End of a file without a summary or checksums.
_END = _RECORD.pack(_DATA_END, 4) + bytes(4) + _RECORD.pack(_FOOTER, 20) + bytes(20) + _MAGIC
# Errors of a full disk, quota or file, and bytes that are then removed at a time.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ROOM = 65_536
_SEPARATOR = "/msg/"


class UnknownType(ValueError):  # noqa: N818  not an error of the program
    """The definition of a message type cannot be found."""


def typestore_of(types: Iterable[str]) -> Typestore:
    """Return a typestore of message types with their nested types: the installed definitions, else those of rosbags.

    Raises
    ------
    UnknownType
        When there is no definition.
    """
    known = get_typestore(Stores.LATEST).fielddefs
    definitions: dict[str, Any] = {}
    wanted = list(types)
    while wanted:
        name = wanted.pop()
        if name in definitions:
            continue
        package = name.split("/")[0]
        if (text := _installed_definition(name)) is not None:
            definitions |= get_types_from_msg(text, name)
        elif name in known:
            definitions[name] = known[name]
        else:
            raise UnknownType(f"{name}: its definition was not found; source the workspace that has {package}")
        wanted += [part for _, field in definitions[name][1] for part in message_types(field)]
    store = get_typestore(Stores.EMPTY)
    store.register(definitions)
    return store


def _installed_definition(name: str) -> str | None:
    package, _, message = name.partition(_SEPARATOR)
    # Without a sourced ROS installation that has the package.
    with suppress(ImportError, OSError, LookupError, ValueError):
        from ament_index_python.packages import get_package_share_directory

        return (Path(get_package_share_directory(package)) / "msg" / f"{message}.msg").read_text()
    return None


def message_types(field: Any) -> Iterator[str]:
    """Find the message types in the nested tuples with which rosbags describes a field."""
    if isinstance(field, str):
        if _SEPARATOR in field:
            yield field
    elif isinstance(field, Sequence):
        for part in field:
            yield from message_types(part)


class _UncopiedMcap(McapWriter):
    """Writes chunks with writev from the messages themselves.

    The base class copies them several times while it holds the interpreter lock, which delays the tick thread for large
    images. The writer of the package `mcap` copies them, too, and cannot write a chunk before it is full.
    """

    def __init__(self, path: Path, compression: CompressionMode) -> None:
        super().__init__(path, compression)
        self._parts: list[bytes | memoryview] = []
        self._size = 0

    def write(self, connection: Connection, timestamp: int, data: bytes | memoryview) -> None:
        """Add a message; its bytes must not change before its chunk is closed."""
        chunk, channel = self.chunk, connection.id
        self.message_start_time = min(timestamp, self.message_start_time)
        self.message_end_time = max(timestamp, self.message_end_time)
        self.channel_stats[channel] += 1
        chunk.message_start_time = min(timestamp, chunk.message_start_time)
        chunk.message_end_time = max(timestamp, chunk.message_end_time)
        # Schemas and channels come first, in the buffer of the base class.
        chunk.msgs[channel].append((timestamp, chunk.bio.tell() + self._size))
        size = _MESSAGE.size - _RECORD.size + len(data)
        self._parts += (_MESSAGE.pack(_MESSAGE_CODE, size, channel, 0, timestamp, timestamp), data)
        self._size += _RECORD.size + size
        if self._size > _CHUNK_BYTES:
            self.close_chunk()

    def close_chunk(self) -> None:
        """Write the messages since the last chunk, and their index."""
        chunk, parts = self.chunk, [self.chunk.bio.getvalue(), *self._parts]
        size = chunk.bio.tell() + self._size
        start = self.bio.tell()
        times = (chunk.message_start_time, chunk.message_end_time)
        head = _CHUNK.pack(_CHUNK_CODE, _CHUNK.size - _RECORD.size + size, *times, size, 0, 0, size)
        self.bio.flush()
        _write_parts(self.bio.fileno(), [head, *parts])
        end = self.bio.seek(0, os.SEEK_END)
        offsets = []
        for channel, messages in chunk.msgs.items():
            offsets.append((channel, self.bio.tell()))
            places = b"".join(struct.pack("<QQ", *place) for place in messages)
            self.bio.write(_INDEX.pack(_INDEX_CODE, _INDEX.size - _RECORD.size + len(places), channel, len(places)))
            self.bio.write(places)
        index = BytesIO()
        index.write(struct.pack("<QQQQI", *times, start, end - start, len(offsets) * 10))
        index.write(b"".join(struct.pack("<HQ", *offset) for offset in offsets))
        index.write(struct.pack("<QIQQ", self.bio.tell() - end, 0, size, size))
        self.chunks.append(index)
        self._parts, self._size = [], 0
        self.chunk = PendingChunk(2**63 - 1, 0, BytesIO(), defaultdict(list))

    @property
    def size(self) -> int:
        """Bytes of the file when all messages so far are written."""
        return self.bio.tell() + self.chunk.bio.tell() + self._size

    def close(self, version: int, metadata: str) -> None:
        """Write the last chunk and the summary."""
        if self._parts:
            self.close_chunk()
        super().close(version, metadata)

    def next(self, folder: Path) -> _UncopiedMcap:
        """Return a new file for the same topics."""
        following = _UncopiedMcap(folder, CompressionMode.NONE)
        following.schemas, following.channels = self.schemas, self.channels
        following.channel_stats = dict.fromkeys(self.channel_stats, 0)
        for schema in self.schemas:
            write_schema(following.chunk.bio, schema)
        for channel in self.channels:
            write_channel(following.chunk.bio, channel, self.schemas)
        return following


def _write_parts(file: int, parts: Sequence[bytes | memoryview]) -> None:
    """Write parts one after the other without joining them."""
    for first in range(0, len(parts), _MOST_PARTS):
        rest = [memoryview(part) for part in parts[first : first + _MOST_PARTS]]
        while rest:
            written = os.writev(file, rest)
            while rest and written >= len(rest[0]):
                written -= len(rest.pop(0))
            if rest:
                rest[0] = rest[0][written:]


class _Writer(Writer):
    STORAGE_PLUGINS = {**Writer.STORAGE_PLUGINS, StoragePlugin.MCAP: _UncopiedMcap}  # noqa: RUF012  as in the base class


class _File(NamedTuple):
    """A file of a bag."""

    name: str
    start_ns: int
    end_ns: int  #: Time of the last message.
    messages: int


class RecordingBag:
    """Writes a rosbag2 bag (MCAP) into a new folder.

    `topics` are message types by topic, `typestore` has their definitions, `custom` is written to metadata.yaml. The
    file that is being written is `NAME.mcap`, those before a split are `NAME_0.mcap`, `NAME_1.mcap` and so on.

    Raises
    ------
    OSError, WriterError
        When the folder exists or cannot be created.
    """

    def __init__(
        self, folder: Path, topics: Mapping[str, str], typestore: Typestore, custom: Mapping[str, str]
    ) -> None:
        self.folder = folder
        self._custom = dict(custom)
        self._files: list[_File] = []
        self._writer = _Writer(folder, version=VERSION, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        try:
            self._begin(topics, typestore)
        except BaseException:
            # The writer refers to itself: without this, the file stays open until the next garbage collection.
            with suppress(Exception):
                self._writer.abort()
            raise

    def _begin(self, topics: Mapping[str, str], typestore: Typestore) -> None:
        """Describe topics and parameters, before the first message."""
        assert isinstance(self._writer.storage, _UncopiedMcap)
        self._storage = self._writer.storage
        self._lock()
        self._connections = {
            topic: self._writer.add_connection(topic, message_type, typestore=typestore)
            for topic, message_type in topics.items()
        }
        if PARAMETERS_KEY in self._custom:
            (self.folder / PARAMETERS_FILE).write_text(self._custom[PARAMETERS_KEY])
        # `complete` reads custom data and hashes from it.
        self._write_metadata()

    @property
    def size_bytes(self) -> int:
        """Bytes of the current file."""
        return self._storage.size

    def duration_ns(self, time_ns: int) -> int:
        """Return the time from the first message of the current file to a time; 0 or less without a message."""
        return time_ns - self._storage.message_start_time

    def split(self) -> None:
        """Complete the current file and go on in another one.

        Raises
        ------
        OSError
            When writing fails.
        """
        path = self._storage.path
        complete_file = path.with_stem(f"{path.stem}_{len(self._files)}")
        self._finish_file(complete_file.name)
        path.replace(complete_file)
        self._write_metadata()
        self._storage = self._storage.next(self.folder)
        self._writer.storage = self._storage
        self._lock()
        self._write_metadata()

    def _lock(self) -> None:
        # Locks out `complete`; some file systems have no locks.
        with suppress(OSError):
            fcntl.flock(self._storage.bio, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _finish_file(self, name: str) -> None:
        """Write the index of the current file, and note what it has and its final name."""
        storage = self._storage
        count = sum(storage.channel_stats.values())
        times = (storage.message_start_time, storage.message_end_time) if count else (0, 0)
        self._files.append(_File(name, *times, count))
        storage.close(VERSION, _metadata_text([self._files[-1]], self._described(storage.channel_stats), self._custom))

    def _described(self, counts: Mapping[int, int]) -> list[Connection]:
        return [each._replace(msgcount=counts[each.id]) for each in self._connections.values()]

    def _write_metadata(self) -> None:
        """Write metadata.yaml of the complete files, and of the current one if it is open."""
        current = [] if self._storage.bio.closed else [_File(self._storage.path.name, 0, 0, 0)]
        _write_metadata(self.folder, [*self._files, *current], self._described(self._writer.counts), self._custom)

    def write(self, topic: str, time_ns: int, raw: bytes | memoryview) -> None:
        """Add a message; it is in the file after the next `flush` at the latest."""
        self._writer.write(self._connections[topic], time_ns, raw)

    def flush(self) -> None:
        """Write all messages so far to the file.

        Raises
        ------
        OSError
            When writing fails, or the file was removed.
        """
        if self._storage.chunk.msgs:
            self._storage.close_chunk()
        self._storage.bio.flush()
        self._storage.path.stat()

    def close(self) -> None:
        """Write index and metadata."""
        self._finish_file(self._storage.path.name)
        self._write_metadata()

    def abandon(self) -> None:
        """Close after an error, and complete the bag with the messages that the file has."""
        # The rest of the buffer cannot be written, either.
        with suppress(Exception):
            self._writer.abort()
        complete(self.folder)


def complete(folder: Path) -> int:
    """Complete a bag that was cut off, in place, and return its number of messages.

    Raises
    ------
    ValueError
        When there is no such bag, it is no MCAP file, or it is being recorded.
    OSError
        When it cannot be written.
    """
    file = folder / f"{folder.name}.mcap"
    if not file.is_file():
        if _parts(folder):  # it was cut off between two files
            return _describe(folder)
        raise ValueError(f"{folder}: found no {file.name} in it; give the folder of a recording")
    with file.open("r+b", buffering=0) as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"{folder}: it is being recorded; end that first") from error
        if _is_complete(stream):
            return _describe(folder)
        ends = list(_ends_of_records(stream))
        if not ends:
            raise ValueError(f"{file}: it is not an MCAP file; there is nothing to complete")
        if _write_end(stream, ends):
            return _describe(folder)
    raise OSError(errno.ENOSPC, "there is no room for the end of the file; make some and try again", str(file))


def _write_end(stream: RawIOBase, ends: Sequence[int]) -> bool:
    """Write the end of a file behind its last record; return False where the disk has no room for it."""
    tried = ends[-1] + _ROOM
    for end in reversed(ends):
        # On a full disk, remove messages until the end fits.
        if tried - end < _ROOM:
            continue
        tried = end
        try:
            stream.truncate(end)
            stream.seek(end)
            if stream.write(_END) == len(_END):
                return True
        except OSError as error:
            if error.errno not in _FULL:
                raise
    return False


def _parts(folder: Path) -> list[Path]:
    """Return the files before the last split, in their order."""
    numbered = re.compile(rf"{re.escape(folder.name)}_(\d+)\.mcap")
    found = {int(match[1]): file for file in folder.glob("*.mcap") if (match := numbered.fullmatch(file.name))}
    return [found[number] for number in sorted(found)]


def _describe(folder: Path) -> int:
    """Write the metadata of complete files and return their number of messages."""
    last = folder / f"{folder.name}.mcap"
    try:
        metadata = yaml.safe_load(read_file(folder / METADATA_FILE, MAX_METADATA_BYTES))["rosbag2_bagfile_information"]
        described = [topic["topic_metadata"] for topic in metadata["topics_with_message_count"]]
        hashes = {topic["name"]: topic["type_description_hash"] for topic in described}
        custom = dict(metadata["custom_data"])
    except Exception as error:  # a damaged file may raise anything, as after a power failure
        raise ValueError(
            f"{folder / METADATA_FILE} cannot be read ({error}); the messages are complete: delete it and "
            f"create it again with `ros2 bag reindex`"
        ) from error
    files: list[_File] = []
    connections: dict[str, Connection] = {}
    for file in [*_parts(folder), *([last] if last.exists() else [])]:
        with Reader(file) as reader:
            count = reader.message_count
            files.append(_File(file.name, *((reader.start_time, reader.end_time - 1) if count else (0, 0)), count))
            for each in reader.connections:
                before = connections[each.topic].msgcount if each.topic in connections else 0
                connections[each.topic] = each._replace(
                    digest=hashes.get(each.topic, ""), msgcount=each.msgcount + before
                )
    _write_metadata(folder, files, list(connections.values()), custom)
    return sum(file.messages for file in files)


def _is_complete(stream: RawIOBase) -> bool:
    size = stream.seek(0, os.SEEK_END)
    if size < len(_MAGIC) + len(_END):
        return False
    stream.seek(-len(_MAGIC), os.SEEK_END)
    return stream.read() == _MAGIC


def _ends_of_records(stream: RawIOBase) -> Iterator[int]:
    """Yield the end of each complete record of a file before its summary; the first is the header."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    if stream.read(len(_MAGIC)) != _MAGIC:
        return
    position = len(_MAGIC)
    while position + _RECORD.size <= size:
        stream.seek(position)
        code, length = _RECORD.unpack(stream.read(_RECORD.size))
        position += _RECORD.size + length
        if code in (_DATA_END, _FOOTER) or position > size:
            return
        yield position


def _write_metadata(
    folder: Path, files: Sequence[_File], connections: Collection[Connection], custom: Mapping[str, str]
) -> None:
    """Write metadata.yaml, see `_metadata_text`."""
    unfinished = folder / f"{METADATA_FILE}.tmp"
    unfinished.write_text(_metadata_text(files, connections, custom))
    unfinished.replace(folder / METADATA_FILE)


def _times(start_ns: int, end_ns: int, messages: int) -> dict[str, Any]:
    return {
        "starting_time": {"nanoseconds_since_epoch": start_ns},
        "duration": {"nanoseconds": end_ns - start_ns},
        "message_count": messages,
    }


def _metadata_text(files: Sequence[_File], connections: Collection[Connection], custom: Mapping[str, str]) -> str:
    """Return the text of metadata.yaml of files with these connections, whose digest is the hash of the type."""
    filled = [file for file in files if file.messages]
    start_ns, end_ns = (filled[0].start_ns, filled[-1].end_ns) if filled else (0, 0)
    information = {
        "version": VERSION,
        "storage_identifier": "mcap",
        "relative_file_paths": [file.name for file in files],
        **_times(start_ns, end_ns, sum(each.msgcount for each in connections)),
        "topics_with_message_count": [
            {
                "topic_metadata": {
                    "name": each.topic,
                    "type": each.msgtype,
                    "serialization_format": "cdr",
                    "offered_qos_profiles": [],
                    "type_description_hash": each.digest,
                },
                "message_count": each.msgcount,
            }
            for each in connections
        ],
        "compression_format": "",
        "compression_mode": "",
        "files": [{"path": file.name, **_times(file.start_ns, file.end_ns, file.messages)} for file in files],
        "custom_data": dict(custom),
        "ros_distro": "rosbags",
    }
    return yaml.safe_dump({"rosbag2_bagfile_information": information}, sort_keys=False)


def unused_folder(parent: Path, name: str, seconds: float | None = None) -> Path:
    """Return a folder that does not exist, named after the recorder and the time in UTC."""
    moment = time.strftime("%Y_%m_%d-%H_%M_%S", time.gmtime(seconds))
    names = (f"{name}_{moment}{f'_{number}' if number else ''}" for number in range(1_000_000))
    return next(parent / each for each in names if not (parent / each).exists())


def main(arguments: Sequence[str] | None = None) -> int:
    """Complete bags that were cut off."""
    parser = argparse.ArgumentParser(
        prog="python -m policy_node.recording.bag",
        description="Complete recordings that were cut off, in place.",
    )
    parser.add_argument("bags", nargs="+", metavar="BAG", type=Path, help="folder of a recording that was cut off")
    status = 0
    for folder in parser.parse_args(arguments).bags:
        try:
            print(f"{folder}: complete, {complete(folder.resolve())} messages")
        except Exception as error:  # a damaged file may raise anything
            print(error if str(folder) in str(error) else f"{folder}: {error}", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
