# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Bags as recorders write them, made without one, and the commands that belong to them."""

from __future__ import annotations

import array
import shutil
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lz4.frame
import numpy as np
import yaml
from geometry_msgs.msg import Twist
from node_harness import CELLS, Predictor, random_reading
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import Image, JointState

from policy_node.messages.fields import message_class

PERIOD_NS = 50_000_000
START_NS = 1_700_000_000_000_000_000
# After its stamp a reading is recorded.
DELAY_NS = 3_000_000

# Takes the place of LeRobot, which needs another version of Python, and writes what it was given.
STAND_IN = """
import json, pathlib
class LeRobotDataset:
    @classmethod
    def create(cls, repo_id, fps, features, root, use_videos, image_writer_threads):
        self = cls()
        self.root, self.head, self.episodes, self.frames = pathlib.Path(root), [repo_id, fps, features], [], []
        self.root.mkdir(parents=True)
        return self
    def add_frame(self, frame):
        shapes = {name: entry["shape"] for name, entry in self.head[2].items()}
        assert {name: rows.shape for name, rows in frame.items() if name != "task"} == shapes
        self.frames.append({name: rows if name == "task" else rows.tolist() for name, rows in frame.items()})
    def save_episode(self):
        self.episodes.append(self.frames)
        self.frames = []
    def finalize(self):
        (self.root / "all.json").write_text(json.dumps([*self.head, self.episodes]))
"""


@dataclass
class Readings:
    """One reading per robot and period, from `START_NS` on, with steps in which a robot is silent.

    Attributes
    ----------
    robots
        Names.
    steps
        How many periods.
    silent
        By robot the steps without a reading.
    """

    robots: Sequence[str]
    steps: int = 24
    silent: Mapping[str, range] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(3)
        self.values = {robot: [random_reading(rng) for _ in range(self.steps)] for robot in self.robots}

    def commands(self, model: Any, stack: int) -> dict[str, list[np.ndarray | None]]:
        """Return by robot what the model says to each reading, None in silent steps; a silence ends the episode."""
        expected: dict[str, list[np.ndarray | None]] = {}
        for robot in self.robots:
            predict = Predictor(model, stack)
            expected[robot] = []
            for step, reading in enumerate(self.values[robot]):
                silent = step in self.silent.get(robot, ())
                if silent:
                    predict.reset()
                expected[robot].append(None if silent else predict(*reading))
        return expected

    def messages(self, stamp_offset_ns: int = 0, zero_stamps: bool = False) -> list[tuple[int, str, Any]]:
        """Return time of recording, topic and message of each reading, in their order.

        Parameters
        ----------
        stamp_offset_ns
            Added to the stamps, not to the times of recording.
        zero_stamps
            Whether stamps are zero.
        """
        found = []
        for step in range(self.steps):
            for robot in self.robots:
                if step in self.silent.get(robot, ()):
                    continue
                image, touch = self.values[robot][step]
                time_ns = START_NS + step * PERIOD_NS
                stamp = divmod(0 if zero_stamps else time_ns + stamp_offset_ns, 10**9)
                height, width, _ = image.shape
                image_message = Image(height=height, width=width, encoding="rgb8", step=3 * width)
                image_message.data = array.array("B", image.tobytes())
                touch_message = JointState(name=[f"touch_{cell}" for cell in range(CELLS)])
                touch_message.effort = array.array("d", touch.astype(np.float64).tolist())
                for message in (image_message, touch_message):
                    message.header.stamp.sec, message.header.stamp.nanosec = stamp
                found.append((time_ns + DELAY_NS, f"/{robot}/touch", touch_message))
                found.append((time_ns + DELAY_NS, f"/{robot}/camera/image_raw", image_message))
        return found


def type_of(message: Any) -> str:
    """Return the name of a message's type, such as sensor_msgs/msg/Image."""
    return f"{type(message).__module__.split('.')[0]}/msg/{type(message).__name__}"


def write_bag(path: Path, messages: Sequence[tuple[int, str, Any]], kind: str = "mcap") -> Path:
    """Write messages, in the order given, as one of the kinds of bags, and return what is to be opened.

    Parameters
    ----------
    path
        The folder to make.
    messages
        Time, topic and message.
    kind
        `mcap` or `sqlite`, with `zstd file`, `zstd messages`, `zstd chunks`, `lz4 chunks` or `split` behind it; `file`
        at the end, to open the file by itself.
    """
    storage, _, variant = kind.partition(" ")
    is_file = variant.endswith("file") and variant != "zstd file"
    variant = variant.removesuffix("file").strip() if is_file else variant
    if variant == "split":
        return _write_split(path, messages, storage)
    plugin = StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3
    writer = Writer(path, version=9, storage_plugin=plugin)
    modes = {
        "zstd file": CompressionMode.FILE,
        "zstd messages": CompressionMode.MESSAGE,
        "zstd chunks": CompressionMode.STORAGE,
    }
    if variant in modes:
        writer.set_compression(modes[variant], CompressionFormat.ZSTD)
    typestore = get_typestore(Stores.ROS2_JAZZY)
    with writer:
        if variant == "lz4 chunks":
            # As rosbag2 writes them, which this library only reads.
            writer.storage.compression, writer.storage.compressor = "lz4", lz4.frame.compress  # type: ignore[union-attr]
        connections: dict[str, Any] = {}
        for time_ns, topic, message in messages:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, type_of(message), typestore=typestore)
            writer.write(connections[topic], time_ns, serialize_message(message))
    return next(file for file in path.iterdir() if file.suffix in (".mcap", ".db3")) if is_file else path


def _write_split(path: Path, messages: Sequence[tuple[int, str, Any]], storage: str) -> Path:
    """Write two files of one bag."""
    half = len(messages) // 2
    write_bag(path, messages[:half], storage)
    second = path.with_name(f"{path.name}_1")
    write_bag(second, messages[half:], storage)
    metadata, more = (yaml.safe_load((folder / "metadata.yaml").read_text()) for folder in (path, second))
    whole, part = metadata["rosbag2_bagfile_information"], more["rosbag2_bagfile_information"]
    for name in ("relative_file_paths", "files"):
        whole[name] += part[name]
    whole["message_count"] += part["message_count"]
    whole["duration"]["nanoseconds"] = messages[-1][0] - messages[0][0]
    counts = {topic["topic_metadata"]["name"]: topic["message_count"] for topic in part["topics_with_message_count"]}
    for topic in whole["topics_with_message_count"]:
        topic["message_count"] += counts[topic["topic_metadata"]["name"]]
    for name in part["relative_file_paths"]:
        shutil.move(second / name, path / name)
    (path / "metadata.yaml").write_text(yaml.safe_dump(metadata))
    return path


def write_mixed_mcap(path: Path, bag: Path, indexed: bool) -> Path:
    """Copy a bag of ROS messages into an MCAP file with channels of JSON and Protobuf beside them.

    `indexed` tells whether the file has a summary.
    """
    rest: list[bytes] = []
    head, times, counts = [], [], {}
    texts = lambda *parts: b"".join(struct.pack("<I", len(part)) + part for part in parts)  # noqa: E731
    record = lambda code, data: struct.pack("<BQ", code, len(data)) + data  # noqa: E731
    others = [(b"jsonschema", b"{}", b"json"), (b"protobuf", bytes(range(128, 256)), b"protobuf")]
    with Reader(bag) as reader:
        connections = list(reader.connections)
        for number, (schema, data, encoding) in enumerate(others, 900):
            head.append(record(3, struct.pack("<H", number) + texts(b"other.Type", schema, data)))
            head.append(record(4, struct.pack("<HH", number, number) + texts(b"/other", encoding, b"")))
            rest.append(record(5, struct.pack("<HIQQ", number, 0, reader.start_time, reader.start_time) + b"{}"))
        for each in connections:
            name, definition = each.msgtype.encode(), each.msgdef.data.encode()
            head.append(record(3, struct.pack("<H", each.id) + texts(name, b"ros2msg", definition)))
            head.append(record(4, struct.pack("<HH", each.id, each.id) + texts(each.topic.encode(), b"cdr", b"")))
            counts[each.id] = each.msgcount
        for connection, time_ns, raw in reader.messages():
            times.append(time_ns)
            rest.append(record(5, struct.pack("<HIQQ", connection.id, 0, time_ns, time_ns) + raw))
    data = b"\x89MCAP0\r\n" + record(1, texts(b"ros2", b"")) + b"".join(head + rest) + record(15, bytes(4))
    summary = b""
    if indexed:
        statistics = (len(times) + 2, len(head) // 2, len(head) // 2, 0, 0, 0, times[0], times[-1])
        by_channel = b"".join(struct.pack("<HQ", *count) for count in counts.items())
        summary = b"".join(head) + record(11, struct.pack("<QHIIIIQQ", *statistics) + texts(by_channel))
    footer = record(2, struct.pack("<QQI", len(data) if indexed else 0, 0, 0))
    path.write_bytes(data + summary + footer + b"\x89MCAP0\r\n")
    return path


def read_bag(path: Path) -> dict[str, list[tuple[int, Any]]]:
    """Return times and messages by topic, and see that every type's definition lies in the bag."""
    found: dict[str, list[tuple[int, Any]]] = {}
    with Reader(path) as reader:
        for connection in reader.connections:
            assert connection.msgdef.data, f"{connection.topic} has no definition of {connection.msgtype}"
            found[connection.topic] = []
        for connection, time_ns, raw in reader.messages():
            found[connection.topic].append((time_ns, deserialize_message(raw, message_class(connection.msgtype))))
    return found


def twist(command: Sequence[float] | np.ndarray) -> Twist:
    """Return the velocity command of two components."""
    message = Twist()
    message.linear.x, message.angular.z = map(float, command)
    return message


def write_parameters(path: Path, parameters: Mapping[str, Any]) -> Path:
    """Write a parameter file."""
    path.write_text(yaml.safe_dump({"/**": {"ros__parameters": dict(parameters)}}))
    return path


def stand_in_for_lerobot(folder: Path) -> Path:
    """Write what takes the place of LeRobot's datasets into a folder for `PYTHONPATH`, and return it."""
    package = folder / "lerobot" / "datasets"
    package.mkdir(parents=True)
    (package / "lerobot_dataset.py").write_text(STAND_IN)
    return folder
