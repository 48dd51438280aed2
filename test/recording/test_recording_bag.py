# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Bags of recordings: what is written is read, also when the file was cut off anywhere or the disk is full."""

import math
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rosbags.rosbag2 import Reader

from policy_node.recording.bag import RecordingBag, UnknownType, complete, main, typestore_of, unused_folder
from policy_node.recording.format import TICK_TYPE, Reading, RobotTick, Tick, parse_limits, parse_tick, tick_message

TWIST = "geometry_msgs/msg/Twist"
TOPICS = {"/robot_0/cmd_vel": TWIST, "/robot_1/cmd_vel": TWIST}
CUSTOM = {"policy_node.node": "/fleet/policy_node", "policy_node.parameters": "/**:\n  ros__parameters:\n    a: b\n"}
STORE = typestore_of([TWIST, TICK_TYPE])

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
names = st.from_regex(r"[a-z][a-z0-9_./]{0,10}", fullmatch=True)
times = st.integers(0, 2**31 * 10**9 - 1)
readings = st.dictionaries(
    names, st.builds(Reading, st.integers(-(2**62), 2**62), st.none() | st.integers(0, 9)), max_size=3
)
robots = st.builds(
    RobotTick,
    state=st.sampled_from(["READY", "STALE", "FAULT", "WAITING"]),
    reason=texts,
    age_s=st.floats(0.0, allow_infinity=False),
    before=st.sampled_from(["", "reset", "overruled"]),
    left_to=texts,
    sent=st.booleans(),
    readings=readings,
)
numbers = st.integers(0, 10**9)
ticks = st.builds(
    Tick, times, numbers, numbers, numbers, st.booleans(), texts, st.dictionaries(names, robots, max_size=3)
)


@given(ticks)
def test_ticks_survive_the_conversion_to_messages(tick):
    message = tick_message(tick, "/fleet/policy_node", STORE.types)
    raw = bytes(STORE.serialize_cdr(message, TICK_TYPE))
    assert parse_tick(STORE.deserialize_cdr(raw, TICK_TYPE)) == tick


def test_a_message_without_values_is_refused():
    message = tick_message(Tick(0, 0, 0, 0, False, "", {}), "/policy_node", STORE.types)
    message.status[0].values = []
    with pytest.raises(ValueError, match=r"the tick at 0\.000000000 is not of this format: 'tick'"):
        parse_tick(message)


@pytest.mark.parametrize(
    "key, value",
    [
        ("state", "DRIVING"),
        ("before", "forgotten"),
        ("age_s", "inf"),
        ("sample.touch", "5 -1"),
        ("sample.touch", f"{2**63} 0"),
        ("sample.touch", "5"),
    ],
)
def test_invalid_values_of_a_tick_are_refused(key, value):
    robot = RobotTick("READY", age_s=0.1, readings={"touch": Reading(5, 0)})
    message = tick_message(Tick(0, 0, 0, 0, False, "", {"robot": robot}), "/policy_node", STORE.types)
    (pair,) = [pair for pair in message.status[1].values if pair.key == key]
    pair.value = value
    with pytest.raises(ValueError, match="is not of this format"):
        parse_tick(message)


@pytest.mark.parametrize(
    "text",
    ["", "5", "[" * 5_000, '{"action.low": [Infinity]}', '{"action.low": 1.0}', '{"action.ramp_s": 1.0}'],
    ids=lambda text: text[:30],
)
def test_invalid_limits_of_a_tick_are_refused(text):
    with pytest.raises(ValueError, match=r"limits is|must be finite|but it must be"):
        parse_limits(text)


def test_limits_of_a_tick_are_read():
    assert parse_limits('{"action.low": [], "synchronisation.max_age_s": 0.5}') == {
        "action.low": [],
        "synchronisation.max_age_s": 0.5,
    }


def test_a_missing_age_is_nan():
    message = tick_message(Tick(0, 0, 0, 0, False, "", {"robot": RobotTick("WAITING")}), "/policy_node", STORE.types)
    assert math.isnan(parse_tick(message).robots["robot"].age_s)


def test_a_bag_that_is_being_recorded_is_not_completed(tmp_path):
    bag = RecordingBag(tmp_path / "bag", TOPICS, STORE, CUSTOM)
    with pytest.raises(ValueError, match="it is being recorded; end that first"):
        complete(tmp_path / "bag")
    bag.close()
    assert complete(tmp_path / "bag") == 0


def write(folder: Path, count: int, flushed: int) -> list[tuple[str, int, bytes]]:
    """Write messages, flush after some of them, and leave the bag as it is when the process is killed."""
    bag = RecordingBag(folder, TOPICS, STORE, CUSTOM)
    written = []
    for number in range(count):
        topic = list(TOPICS)[number % 2]
        written.append((topic, number * 10, bytes([number % 256]) * 52))
        bag.write(*written[-1])
        if number + 1 == flushed:
            bag.flush()
    bag._writer.abort()
    return written


def read(folder: Path) -> list[tuple[str, int, bytes]]:
    with Reader(folder) as reader:
        messages = [(connection.topic, time_ns, bytes(raw)) for connection, time_ns, raw in reader.messages()]
        assert reader.message_count == len(messages)
        assert reader.storage.metadata.custom == CUSTOM
        return messages


def test_a_closed_bag_is_complete(tmp_path):
    bag = RecordingBag(tmp_path / "bag", TOPICS, STORE, CUSTOM)
    bag.write("/robot_1/cmd_vel", 7, bytes(52))
    bag.close()
    assert read(tmp_path / "bag") == [("/robot_1/cmd_vel", 7, bytes(52))]
    before = (tmp_path / "bag" / "bag.mcap").read_bytes()
    assert complete(tmp_path / "bag") == 1
    assert (tmp_path / "bag" / "bag.mcap").read_bytes() == before
    assert (tmp_path / "bag" / "parameters.yaml").read_text() == CUSTOM["policy_node.parameters"]
    with Reader(tmp_path / "bag") as reader:
        (connection,) = (each for each in reader.connections if each.msgcount)
        assert connection.msgtype == TWIST and "geometry_msgs/Vector3 linear" in connection.msgdef.data


@given(st.data())
def test_a_bag_cut_off_anywhere_is_completed(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("cut") / "bag"
    written = write(folder, 40, data.draw(st.integers(1, 40), "flushed"))
    file = folder / "bag.mcap"
    flushed = file.stat().st_size
    kept = data.draw(st.integers(0, flushed), "bytes kept")
    with file.open("r+b") as stream:
        stream.truncate(kept)
    try:
        count = complete(folder)
    except ValueError:
        # Not even the beginning was left.
        assert kept < 60
        return
    messages = read(folder)
    assert messages == written[: len(messages)] and count == len(messages)
    if kept == flushed:
        assert messages
    # Completed once, it stays as it is.
    assert complete(folder) == count and read(folder) == messages


def write_split(folder: Path, count: int, per_file: int) -> tuple[RecordingBag, list[tuple[str, int, bytes]]]:
    """Write messages into files of `per_file` messages; return the open bag and the messages."""
    bag = RecordingBag(folder, TOPICS, STORE, CUSTOM)
    written = []
    for number in range(count):
        if number and number % per_file == 0:
            assert bag.duration_ns(number * 10) == per_file * 10
            bag.split()
        written.append((list(TOPICS)[number % 2], number * 10, bytes([number % 256]) * 52))
        size = bag.size_bytes
        bag.write(*written[-1])
        assert size + 52 < bag.size_bytes < size + 200
    return bag, written


def test_a_bag_is_split_into_files_that_are_read_as_one(tmp_path):
    bag, written = write_split(tmp_path / "bag", 25, 10)
    assert [file.name for file in sorted((tmp_path / "bag").glob("*.mcap"))] == ["bag.mcap", "bag_0.mcap", "bag_1.mcap"]
    # What is complete can be read while the last file is written.
    with Reader(tmp_path / "bag" / "bag_1.mcap") as reader:
        assert [time_ns for _, time_ns, _ in reader.messages()] == list(range(100, 200, 10))
    bag.close()
    assert read(tmp_path / "bag") == written
    metadata = yaml.safe_load((tmp_path / "bag" / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert metadata["relative_file_paths"] == ["bag_0.mcap", "bag_1.mcap", "bag.mcap"]
    assert [file["message_count"] for file in metadata["files"]] == [10, 10, 5]
    # Each file has its own name in its own metadata.
    for name in metadata["relative_file_paths"]:
        assert f"relative_file_paths:\n  - {name}\n".encode() in (tmp_path / "bag" / name).read_bytes()
    starts = [file["starting_time"]["nanoseconds_since_epoch"] for file in metadata["files"]]
    assert starts == [0, 100, 200] and metadata["duration"]["nanoseconds"] == 240
    assert [topic["message_count"] for topic in metadata["topics_with_message_count"]] == [13, 12]
    assert complete(tmp_path / "bag") == 25 and read(tmp_path / "bag") == written


@pytest.mark.parametrize("current", ["flushed", "empty", "missing"])
def test_a_split_bag_that_was_cut_off_is_completed(tmp_path, current):
    folder = tmp_path / "bag"
    bag, written = write_split(folder, 25, 10)
    if current == "flushed":
        bag.flush()
    bag._writer.abort()
    if current == "missing":  # killed between two files
        (folder / "bag.mcap").unlink()
    kept = written if current == "flushed" else written[:20]
    assert complete(folder) == len(kept)
    assert read(folder) == kept
    assert complete(folder) == len(kept)


DESCRIBED = "rosbag2_bagfile_information: {topics_with_message_count: [], custom_data: 5}"


@pytest.mark.parametrize("text", [None, "", "{", "[" * 100_000, DESCRIBED, "rosbag2_bagfile_information: {version: 9}"])
def test_messages_are_completed_without_metadata(tmp_path, text):
    written = write(tmp_path / "bag", 5, 5)
    metadata = tmp_path / "bag" / "metadata.yaml"
    metadata.unlink()
    if text is not None:
        metadata.write_text(text)
    with pytest.raises(ValueError, match=r"(?s)metadata\.yaml cannot be read .*`ros2 bag reindex`"):
        complete(tmp_path / "bag")
    with Reader(tmp_path / "bag" / "bag.mcap") as reader:
        assert reader.message_count == len(written)


def test_a_bag_is_completed_from_the_command_line(tmp_path, capsys):
    written = write(tmp_path / "bag", 10, 10)
    assert main([str(tmp_path / "bag")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'bag'}: complete, 10 messages\n"
    assert read(tmp_path / "bag") == written
    assert main([str(tmp_path / "nothing")]) == 1
    assert "found no nothing.mcap in it" in capsys.readouterr().err
    (tmp_path / "bag" / "bag.mcap").write_bytes(b"something else")
    assert main([str(tmp_path / "bag")]) == 1
    assert "is not an MCAP file" in capsys.readouterr().err
    magic = b"\x89MCAP0\r\n"
    (tmp_path / "bag" / "bag.mcap").write_bytes(magic + bytes(100) + magic)
    assert main([str(tmp_path / "bag")]) == 1
    assert str(tmp_path / "bag") in capsys.readouterr().err


# Writes until the file may not grow any more, and says how many messages it had flushed before.
FULL = textwrap.dedent("""
    import errno, resource, sys
    from pathlib import Path
    from test_recording_bag import CUSTOM, STORE, TOPICS, RecordingBag
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
    bag = RecordingBag(Path(sys.argv[1]), TOPICS, STORE, CUSTOM)
    number = flushed = 0
    try:
        while True:
            bag.write("/robot_0/cmd_vel", number, bytes(1000))
            number += 1
            if number % 50 == 0:
                bag.flush()
                flushed = number
    except OSError as error:
        assert error.errno == errno.EFBIG
        bag.abandon()
    print(flushed)
""")


@pytest.mark.parametrize("bytes_allowed", [200_000, 1_000_000])
def test_a_bag_on_a_full_disk_is_complete(tmp_path, bytes_allowed):
    command = [sys.executable, "-c", FULL, str(tmp_path / "bag"), str(bytes_allowed)]
    process = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    messages = read(tmp_path / "bag")
    # The end may have taken the place of the last messages.
    assert int(process.stdout) - 100 <= len(messages) and len(messages) * 1000 > bytes_allowed / 2
    assert [time_ns for _, time_ns, _ in messages] == list(range(len(messages)))


# Begins a bag where no file may grow, and prints the files that stay open without a garbage collection.
FULL_AT_START = textwrap.dedent("""
    import errno, gc, os, resource, sys
    from pathlib import Path
    from test_recording_bag import CUSTOM, STORE, TOPICS, RecordingBag
    gc.disable()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
    try:
        RecordingBag(Path(sys.argv[1]), TOPICS, STORE, CUSTOM)
    except OSError as error:
        assert error.errno == errno.EFBIG
    else:
        raise AssertionError("the bag began")
    opened = [os.path.realpath(f"/proc/self/fd/{file}") for file in os.listdir("/proc/self/fd")]
    print([file for file in opened if sys.argv[1] in file])
""")


def test_a_bag_that_cannot_begin_leaves_no_file_open(tmp_path):
    command = [sys.executable, "-c", FULL_AT_START, str(tmp_path / "bag")]
    process = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert process.stdout == "[]\n"


def test_a_removed_file_is_an_error(tmp_path):
    bag = RecordingBag(tmp_path / "bag", TOPICS, STORE, CUSTOM)
    (tmp_path / "bag" / "bag.mcap").unlink()
    bag.write("/robot_0/cmd_vel", 0, bytes(52))
    with pytest.raises(FileNotFoundError):
        bag.flush()


def test_definitions_include_nested_types():
    store = typestore_of(["sensor_msgs/msg/Image"])
    assert set(store.types) >= {"sensor_msgs/msg/Image", "std_msgs/msg/Header", "builtin_interfaces/msg/Time"}
    with pytest.raises(UnknownType, match=r"my_robots/msg/Bumper: .* source the workspace that has my_robots"):
        typestore_of(["my_robots/msg/Bumper"])


def test_installed_definitions_are_used(tmp_path, monkeypatch):
    messages = tmp_path / "share" / "my_robots" / "msg"
    messages.mkdir(parents=True)
    (messages / "Bumper.msg").write_text("uint8 CELLS=8\nstd_msgs/Header header\nCell[<=8] cells\n")
    (messages / "Cell.msg").write_text("float32 force\ngeometry_msgs/Vector3[2] edges\n")
    index = tmp_path / "share" / "ament_index" / "resource_index" / "packages"
    index.mkdir(parents=True)
    (index / "my_robots").touch()
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    store = typestore_of(["my_robots/msg/Bumper"])
    assert "my_robots/Cell" in store.generate_msgdef("my_robots/msg/Bumper", ros_version=2)[0]
    assert store.hash_rihs01("my_robots/msg/Bumper").startswith("RIHS01_")


def test_each_recording_has_a_new_folder(tmp_path):
    first = unused_folder(tmp_path, "policy_node", 0)
    assert first == tmp_path / "policy_node_1970_01_01-00_00_00"
    first.mkdir()
    assert unused_folder(tmp_path, "policy_node", 0) == tmp_path / "policy_node_1970_01_01-00_00_00_1"
