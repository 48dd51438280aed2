# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Bags of other recorders through `policy_replay`: every command is that of `model.predict` for the same readings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from bag_harness import (
    DELAY_NS,
    PERIOD_NS,
    START_NS,
    Readings,
    read_bag,
    twist,
    write_bag,
    write_mixed_mcap,
    write_parameters,
)
from geometry_msgs.msg import TwistStamped
from node_harness import ACTION_SPACE, PATIENCE_S, command_values, parameters_of
from rclpy.serialization import deserialize_message
from rich.console import Console
from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState, Range

from policy_node.cli.replay import main
from policy_node.recording.replay.bag import Bag
from policy_node.recording.replay.definitions import conversion_of
from policy_node.recording.replay.run import Options
from policy_node.recording.replay.session import open_replay, run

ROBOTS = ["robot_0", "robot_1"]
STACK = 2
TOLERANCE = 1e-5 * (ACTION_SPACE.high - ACTION_SPACE.low)
KINDS = [f"{storage}{variant}" for storage in ("mcap", "sqlite") for variant in ("", " file", " split", " zstd file")]
KINDS += ["sqlite zstd messages", "mcap zstd messages file", "mcap zstd chunks", "mcap lz4 chunks"]

Model = Callable[..., tuple[Path, Any]]


def parameters_for(model_file: Path, robots: list[str] = ROBOTS, **changes: Any) -> dict[str, Any]:
    stacks = {f"observations.{key}.stack": STACK for key in ("image", "touch")}
    # Less than a period: what was read one tick ago is too old.
    return parameters_of(model_file, robots, {"synchronisation.max_age_s": 0.049, **stacks, **changes})


def replay(tmp_path: Path, bag: Path, parameters: Mapping[str, Any], *arguments: str) -> dict[str, Any]:
    """Replay a bag; return the report."""
    params = write_parameters(tmp_path / "parameters.yaml", parameters)
    report = tmp_path / "report.json"
    assert main([str(bag), "--params", str(params), "--json", str(report), *arguments]) == 0
    found: dict[str, Any] = json.loads(report.read_text())
    return found


def refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bag: Path, parameters: Mapping[str, Any], *arguments: str
) -> str:
    """Replay a bag in vain; return why."""
    params = write_parameters(tmp_path / "parameters.yaml", parameters)
    assert main([str(bag), "--params", str(params), *arguments]) == 1
    return capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
def test_replayed_commands_equal_those_of_predict(kind: str, model: Model, tmp_path: Path) -> None:
    model_file, built = model(STACK)
    readings = Readings(ROBOTS, silent={"robot_1": range(8, 12)})
    bag = write_bag(tmp_path / "bag", readings.messages(), kind)
    report = replay(tmp_path, bag, parameters_for(model_file), "--output", str(tmp_path / "commands"))
    assert report["time"] == "recorded" and report["complete"] and not report["notes"]
    commands = read_bag(tmp_path / "commands")
    for robot in ROBOTS:
        found = commands[f"/{robot}/cmd_vel"]
        # The first tick is one period after the first message.
        assert [time_ns for time_ns, _ in found] == [
            START_NS + DELAY_NS + tick * PERIOD_NS for tick in range(1, readings.steps)
        ]
        for (_, message), wanted in zip(found, _seen_at_ticks(built, readings, robot), strict=True):
            expected_now = np.zeros(2) if wanted is None else wanted
            assert np.all(np.abs(command_values(message) - expected_now) <= TOLERANCE)
    assert report["robots"]["robot_0"]["states"] == {"READY": 1.0}
    robot = report["robots"]["robot_1"]
    assert robot["states"]["STALE"] == pytest.approx(4 / report["ticks"])
    assert set(robot["reasons"]) == {"STALE: image: is # s old, synchronisation.max_age_s allows # s"}


def _seen_at_ticks(built: Any, readings: Readings, robot: str) -> list[np.ndarray | None]:
    """Return what predict says at each tick: tick k is at the moment at which reading k is recorded."""
    later = Readings(readings.robots, readings.steps, readings.silent)
    later.values = {name: values[1:] for name, values in readings.values.items()}
    later.silent = {name: range(steps.start - 1, steps.stop - 1) for name, steps in readings.silent.items()}
    return later.commands(built, STACK)[robot]


@pytest.mark.parametrize("time, offset_s", [("stamp", -1e9), ("arrival", -1e9), ("stamp", 3.0), ("arrival", 3.0)])
def test_stamps_of_another_clock_are_reported_and_can_be_replayed(
    time: str, offset_s: float, model: Model, tmp_path: Path
) -> None:
    model_file, _ = model(STACK)
    readings = Readings(ROBOTS)
    bag = write_bag(tmp_path / "bag", readings.messages(stamp_offset_ns=round(offset_s * 1e9)))
    report = replay(tmp_path, bag, parameters_for(model_file))
    assert all("READY" not in robot["states"] for robot in report["robots"].values())
    side = "before" if offset_s < 0 else "after"
    measured = abs(offset_s - DELAY_NS / 1e9)
    for text in (f"stamps lie {measured:.3f} s {side} the time of recording", "/robot_1/touch", "--time arrival"):
        assert text in report["notes"][0]
    mended = replay(tmp_path, bag, parameters_for(model_file), "--time", time)
    assert all(robot["states"] == {"READY": 1.0} for robot in mended["robots"].values())
    assert not mended["notes"]


def test_zero_stamps_are_reported_and_can_be_replayed_by_arrival_only(
    model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model_file, _ = model(STACK)
    bag = write_bag(tmp_path / "bag", Readings(ROBOTS).messages(zero_stamps=True))
    parameters = parameters_for(model_file)
    notes = replay(tmp_path, bag, parameters)["notes"][0]
    assert "stamps are zero" in notes and "--time arrival" in notes and "--time stamp" not in notes
    capsys.readouterr()
    assert "give --time arrival" in refused(tmp_path, capsys, bag, parameters, "--time", "stamp")
    mended = replay(tmp_path, bag, parameters, "--time", "arrival")
    assert all(robot["states"] == {"READY": 1.0} for robot in mended["robots"].values())


@pytest.mark.parametrize("simulated", [True, False], ids=["use_sim_time", "seen by the stamps"])
def test_ticks_follow_the_clock_of_a_simulation(simulated: bool, model: Model, tmp_path: Path) -> None:
    model_file, built = model(STACK)
    readings = Readings(ROBOTS)
    offset_ns = 5_000_000_000 - START_NS
    clocks = []
    for step in range(readings.steps):
        clock = Clock()
        clock.clock.sec, clock.clock.nanosec = divmod(START_NS + step * PERIOD_NS + offset_ns, 10**9)
        # Recorded after the readings of that time.
        clocks.append((START_NS + step * PERIOD_NS + DELAY_NS, "/clock", clock))
    messages = sorted([*readings.messages(stamp_offset_ns=offset_ns), *clocks], key=lambda entry: entry[0])
    bag = write_bag(tmp_path / "bag", messages)
    output = tmp_path / "commands"
    report = replay(tmp_path, bag, parameters_for(model_file, use_sim_time=simulated), "--output", str(output))
    assert report["time"] == "clock"
    for robot in ROBOTS:
        found = read_bag(output)[f"/{robot}/cmd_vel"]
        assert [time_ns for time_ns, _ in found] == [5_000_000_000 + step * PERIOD_NS for step in range(1, 24)]
        for (_, message), wanted in zip(found, _seen_at_ticks(built, readings, robot), strict=True):
            assert np.all(np.abs(command_values(message) - wanted) <= TOLERANCE)


def test_simulated_stamps_without_a_clock_are_followed(model: Model, tmp_path: Path) -> None:
    model_file, _ = model(STACK)
    bag = write_bag(tmp_path / "bag", Readings(ROBOTS).messages(stamp_offset_ns=5_000_000_000 - START_NS))
    report = replay(tmp_path, bag, parameters_for(model_file, use_sim_time=True))
    assert report["time"] == "stamp" and "the bag has no /clock" in report["notes"][0]
    assert all(robot["states"] == {"READY": 1.0} for robot in report["robots"].values())


def test_recorded_commands_are_compared_and_plotted(model: Model, tmp_path: Path) -> None:
    model_file, built = model(STACK)
    readings = Readings(ROBOTS)
    expected = {robot: _seen_at_ticks(built, readings, robot) for robot in ROBOTS}
    commands = []
    for robot in ROBOTS:
        for tick, command in enumerate(expected[robot], start=1):
            assert command is not None
            message = TwistStamped()
            message.twist = twist(command + ([0.25, -0.5] if robot == "robot_1" and tick == 7 else [0.0, 0.0]))
            if (robot, tick) != ("robot_0", 3):
                # A little after the tick, as of a node that was recorded.
                commands.append((START_NS + DELAY_NS + tick * PERIOD_NS + 2_000_000, f"/{robot}/driven", message))
    messages = sorted([*readings.messages(), *commands], key=lambda entry: entry[0])
    bag = write_bag(tmp_path / "bag", messages)
    plot = tmp_path / "drive.png"
    parameters = parameters_for(model_file)
    report = replay(tmp_path, bag, parameters, "--compare", "driven", "--plot", str(plot))
    good, bad = (report["robots"][robot]["compare"] for robot in ROBOTS)
    # The last command makes one tick more, for which nothing was recorded.
    assert good["ticks"] == 22 and good["only_replayed"] == 2
    assert bad["ticks"] == 23 and bad["only_replayed"] == 1
    assert good["largest"] < 1e-5
    assert bad["ready"]["linear.x"]["max"] == pytest.approx(0.25, abs=1e-5)
    assert bad["ready"]["angular.z"]["max"] == pytest.approx(0.5, abs=1e-5)
    assert bad["ready"]["linear.x"]["max_at_s"] == pytest.approx(6 * PERIOD_NS / 1e9)
    assert bad["ready"]["linear.x"]["mean"] == pytest.approx(0.25 / 23, abs=1e-5)
    assert bad["ready"]["linear.x"]["rms"] == pytest.approx(0.25 / np.sqrt(23), abs=1e-5)
    assert plot.read_bytes().startswith(b"\x89PNG")
    # The commands on the configured topic are compared without being asked for.
    twists = [(time_ns, topic.replace("driven", "cmd_vel"), message.twist) for time_ns, topic, message in commands]
    bag = write_bag(tmp_path / "other", sorted([*readings.messages(), *twists], key=lambda entry: entry[0]))
    assert replay(tmp_path, bag, parameters)["robots"]["robot_0"]["compare"] == good


def test_one_topic_is_compared_with_all_robots(
    model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model_file, _ = model(STACK)
    readings = Readings(ROBOTS)
    driven = [(START_NS + tick * PERIOD_NS + 5_000_000, "/driven", twist([0.1, 0.2])) for tick in range(2, 20)]
    messages = sorted([*readings.messages(), *driven], key=lambda entry: entry[0])
    bag = write_bag(tmp_path / "bag", messages)
    parameters = parameters_for(model_file)
    report = replay(tmp_path, bag, parameters, "--compare", "/driven")
    assert [report["robots"][robot]["compare"]["ticks"] for robot in ROBOTS] == [len(driven)] * 2
    # What the configuration would command lies in the bag as something else: no reason not to replay.
    report = replay(tmp_path, bag, parameters | {"action.topic": "touch"})
    assert "nothing is compared" in report["notes"][0] and "compare" not in report["robots"]["robot_0"]


def test_one_robot_without_a_namespace_is_remapped_or_named_absolutely(
    model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model_file, _ = model(STACK)
    messages = Readings(["robot"]).messages()
    messages = [(time_ns, topic.removeprefix("/robot"), message) for time_ns, topic, message in messages]
    bag = write_bag(tmp_path / "bag", messages)
    parameters = parameters_for(model_file, ["robot"])
    error = refused(tmp_path, capsys, bag, parameters)
    remaps = ["--remap", "/robot/camera/image_raw:=/camera/image_raw", "--remap", "/robot/touch:=/touch"]
    assert " ".join(remaps[:2]) in error and " ".join(remaps[2:]) in error
    assert "/camera/image_raw  sensor_msgs/msg/Image  24 messages" in error
    remapped = replay(tmp_path, bag, parameters, *remaps)
    absolute = {"observations.image.topic": "/camera/image_raw", "observations.touch.topic": "/touch"}
    assert remapped["robots"]["robot"]["states"] == {"READY": 1.0}
    assert replay(tmp_path, bag, {**parameters, **absolute})["robots"] == remapped["robots"]


def test_errors_name_missing_topics_of_a_bag(model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model_file, _ = model(STACK)
    bag = write_bag(tmp_path / "bag", Readings(ROBOTS).messages())
    parameters = parameters_for(model_file, [*ROBOTS, "robot_9"])
    error = refused(tmp_path, capsys, bag, parameters)
    assert "robots: the bag has no topic of robot_9; replay the others with -p 'robots:=[robot_0, robot_1]'" in error
    assert replay(tmp_path, bag, parameters, "-p", "robots:=[robot_0, robot_1]")["robots"].keys() == set(ROBOTS)
    capsys.readouterr()
    compressed = parameters_for(model_file) | {"observations.image.type": "sensor_msgs/msg/CompressedImage"}
    error = refused(tmp_path, capsys, bag, compressed)
    assert "is sensor_msgs/msg/Image in the bag, but sensor_msgs/msg/CompressedImage is configured" in error
    error = refused(tmp_path, capsys, bag, parameters_for(model_file), "--compare", "nothing")
    assert "--compare: /robot_0/nothing is not in the bag" in error and "the bag holds:" in error
    error = refused(tmp_path, capsys, bag, parameters_for(model_file), "--compare", "touch")
    assert "--compare /robot_0/touch: it is sensor_msgs/msg/JointState" in error
    (tmp_path / "there").mkdir()
    error = refused(tmp_path, capsys, bag, parameters_for(model_file), "--output", str(tmp_path / "there"))
    assert "give a folder that does not exist yet" in error
    error = refused(tmp_path, capsys, bag, parameters_for(model_file), "--plot", "drive.xyz")
    assert "--plot: found 'drive.xyz'" in error and "png" in error


def test_the_report_needs_no_matplotlib(model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model_file, _ = model(STACK)
    bag = write_bag(tmp_path / "bag", Readings(ROBOTS).messages())
    params = write_parameters(tmp_path / "parameters.yaml", parameters_for(model_file))
    assert main([str(bag), "--params", str(params), "--plot", str(tmp_path / "nowhere" / "drive.png")]) == 1
    said = capsys.readouterr()
    assert "robot_0: 23 ticks, READY 100.0%" in said.out and "give another path" in said.err


def test_other_files_are_refused(model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parameters = parameters_for(model(STACK)[0])
    assert "does not exist" in refused(tmp_path, capsys, tmp_path / "nowhere", parameters)
    assert "metadata" in refused(tmp_path, capsys, tmp_path, parameters)
    # The folder of `record.path`, with the bags of several activations.
    for age, name in enumerate(("newest", "older", "oldest")):
        metadata = tmp_path / "recordings" / name / "metadata.yaml"
        metadata.parent.mkdir(parents=True)
        metadata.touch()
        os.utime(metadata, (1e9 - age, 1e9 - age))
    recordings = tmp_path / "recordings"
    named = f"newest first: {recordings / 'newest'}, {recordings / 'older'}, {recordings / 'oldest'}\n"
    assert refused(tmp_path, capsys, recordings, parameters).endswith(named)
    bag = write_bag(tmp_path / "bag", Readings(ROBOTS).messages(), "mcap file")
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(bag.read_bytes()[:5000])
    assert "mcap recover" in refused(tmp_path, capsys, cut, parameters)
    assert main([str(bag)]) == 1
    assert "--params: missing" in capsys.readouterr().err


def test_an_interrupted_replay_reports_its_ticks(model: Model, tmp_path: Path) -> None:
    model_file, _ = model(STACK)
    bag = write_bag(tmp_path / "bag", Readings(ROBOTS).messages())
    params = write_parameters(tmp_path / "parameters.yaml", parameters_for(model_file))
    seen = []

    def interrupt(tick: Any, result: Any) -> None:
        seen.append(tick.time_ns)
        if len(seen) == 5:
            # What Python makes of Ctrl-C.
            raise KeyboardInterrupt

    console = Console(stderr=True)
    with open_replay(Options(bag, params, {}, {}), console) as opened:
        _, complete = run(opened, [interrupt], 0.0, console)
    assert not complete and len(seen) == 5


def test_a_replay_in_real_time_takes_as_long_as_the_bag(model: Model, tmp_path: Path) -> None:
    model_file, _ = model(STACK)
    bag = write_bag(tmp_path / "bag", Readings(ROBOTS).messages())
    report = replay(tmp_path, bag, parameters_for(model_file), "--rate", "2.0")
    assert report["elapsed_s"] >= report["duration_s"] / 2.0 > 0.5


@pytest.mark.slow
def test_a_replay_uses_no_node_and_no_network(model: Model, tmp_path: Path) -> None:
    model_file, _ = model(STACK)
    bag = write_bag(tmp_path / "bag", Readings(ROBOTS).messages())
    params = write_parameters(tmp_path / "parameters.yaml", parameters_for(model_file))
    script = (
        "import os, sys, rclpy\n"
        "from policy_node.cli.replay import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "assert not rclpy.ok()\n"
        "files = [os.readlink(f'/proc/self/fd/{name}') for name in os.listdir('/proc/self/fd') if name != '3']\n"
        "assert not [file for file in files if file.startswith('socket:')], files\n"
    )
    command = [sys.executable, "-c", script, str(bag), "--params", str(params), "--output", str(tmp_path / "commands")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, stdin=subprocess.DEVNULL)
    assert ended.returncode == 0, ended.stderr
    assert "robot_0: 23 ticks, READY 100.0%" in ended.stdout


def test_topics_of_a_bag_without_a_leading_slash_are_those_of_the_root(model: Model, tmp_path: Path) -> None:
    messages = Readings(ROBOTS).messages()
    parameters = parameters_for(model(STACK)[0])
    absolute = replay(tmp_path, write_bag(tmp_path / "absolute", messages), parameters)
    bare = [(time_ns, topic.removeprefix("/"), message) for time_ns, topic, message in messages]
    relative = write_bag(tmp_path / "relative", bare)
    assert replay(tmp_path, relative, parameters)["robots"] == absolute["robots"]
    # Both ways to write the name of a topic of the bag mean it.
    renamed = [(time_ns, f"recorded/{topic}", message) for time_ns, topic, message in bare]
    bag = write_bag(tmp_path / "renamed", renamed)
    for slash in ("", "/"):
        remaps = [
            word
            for robot in ROBOTS
            for topic in ("touch", "camera/image_raw")
            for word in ("--remap", f"/{robot}/{topic}:={slash}recorded/{robot}/{topic}")
        ]
        assert replay(tmp_path, bag, parameters, *remaps)["robots"] == absolute["robots"]


@pytest.mark.parametrize("summary", [True, False], ids=["indexed", "without an index"])
def test_channels_in_other_encodings_are_left_out(summary: bool, model: Model, tmp_path: Path) -> None:
    """A file as the writers of Foxglove make it."""
    parameters = parameters_for(model(STACK)[0])
    messages = Readings(ROBOTS).messages()
    bag = write_bag(tmp_path / "bag", messages, "mcap file")
    expected = replay(tmp_path, bag, parameters)["robots"]
    mixed = write_mixed_mcap(tmp_path / "mixed.mcap", bag, summary)
    with closing(Bag(mixed)) as opened:
        assert {topic.rpartition("/")[2] for topic in opened.topics} == {"touch", "image_raw"}
    assert replay(tmp_path, mixed, parameters)["robots"] == expected
    # The same file in a folder with metadata.
    folder = write_bag(tmp_path / "folder", messages, "mcap")
    mixed.replace(folder / "folder.mcap")
    metadata = yaml.safe_load((folder / "metadata.yaml").read_text())
    other = {"name": "/other", "type": "other.Type", "serialization_format": "json", "offered_qos_profiles": []}
    metadata["rosbag2_bagfile_information"]["topics_with_message_count"].append(
        {"topic_metadata": {**other, "type_description_hash": ""}, "message_count": 2}
    )
    (folder / "metadata.yaml").write_text(yaml.safe_dump(metadata))
    assert replay(tmp_path, folder, parameters)["robots"] == expected


@pytest.mark.parametrize("storage", ["mcap", "sqlite"])
def test_a_file_that_was_compressed_as_a_whole_is_read_by_itself(storage: str, model: Model, tmp_path: Path) -> None:
    parameters = parameters_for(model(STACK)[0])
    bag = write_bag(tmp_path / "bag", Readings(ROBOTS).messages(), f"{storage} zstd file")
    (file,) = bag.glob("*.zstd")
    expected = replay(tmp_path, bag, parameters)["robots"]
    assert replay(tmp_path, file, parameters)["robots"] == expected
    # The folder without its metadata.
    (bag / "metadata.yaml").unlink()
    report = replay(tmp_path, bag, parameters)
    assert report["robots"] == expected
    assert any("has no metadata.yaml: its file" in note for note in report["notes"])


def test_a_folder_of_several_files_without_metadata_is_refused_with_the_remedy(
    model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = write_bag(tmp_path / "bag", Readings(ROBOTS).messages(), "mcap split")
    (bag / "metadata.yaml").unlink()
    error = refused(tmp_path, capsys, bag, parameters_for(model(STACK)[0]))
    assert f"make it with `ros2 bag reindex {bag}`, or give one of its files: bag.mcap, bag_1.mcap" in error


def test_files_that_could_block_are_no_bags(model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parameters = parameters_for(model(STACK)[0])
    os.mkfifo(tmp_path / "pipe.mcap")
    assert "it is a named pipe, not a regular file" in refused(tmp_path, capsys, tmp_path / "pipe.mcap", parameters)
    folder = tmp_path / "folder"
    folder.mkdir()
    os.mkfifo(folder / "metadata.yaml")
    assert "it is a named pipe, not a regular file" in refused(tmp_path, capsys, folder, parameters)


RANGE = """std_msgs/Header header
uint8 ULTRASOUND=0
uint8 INFRARED=1
uint8 radiation_type
float32 field_of_view
float32 min_range
float32 max_range
float32 range
"""
HEADER = "builtin_interfaces/Time stamp\nstring frame_id\n"


def test_messages_with_an_older_definition_are_converted(tmp_path: Path) -> None:
    """Range had no variance before Iron."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    folder = tmp_path / "bag"
    values = np.linspace(0.5, 1.0, 5, dtype=np.float32).tolist()
    with Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection("/sonar", "sensor_msgs/msg/Range", typestore=store)
        types = store.types
        for index, value in enumerate(values):
            stamp = types["builtin_interfaces/msg/Time"](sec=7, nanosec=index)
            header = types["std_msgs/msg/Header"](stamp=stamp, frame_id="sonar")
            message = types["sensor_msgs/msg/Range"](header, 1, 0.1, 0.2, 4.0, value)
            writer.write(connection, START_NS + index, store.serialize_cdr(message, "sensor_msgs/msg/Range"))
    with closing(Bag(folder)) as bag:
        found = [deserialize_message(arrival.raw, Range) for arrival in bag.messages(["/sonar"])]
        assert [message.range for message in found] == values
        assert all(message.header.frame_id == "sonar" and message.header.stamp.sec == 7 for message in found)
        assert all(message.radiation_type == 1 and message.variance == 0.0 for message in found)
        assert bag.notes == [
            "/sonar: sensor_msgs/msg/Range in the bag lacks variance (sensor_msgs/msg/Range); its fields are read by "
            "their names"
        ]


def test_lists_and_nested_messages_are_converted() -> None:
    rule = "=" * 80
    definition = f"std_msgs/Header header\nstring[] name\nfloat64[] position\n{rule}\nMSG: std_msgs/Header\n{HEADER}"
    definition += f"{rule}\nMSG: builtin_interfaces/Time\nint32 sec\nuint32 nanosec\n"
    conversion = conversion_of("sensor_msgs/msg/JointState", MessageDefinition(MessageDefinitionFormat.MSG, definition))
    assert conversion is not None and "lacks velocity, effort" in conversion.difference
    store = get_typestore(Stores.EMPTY)
    store.register(get_types_from_msg(definition, "sensor_msgs/msg/JointState"))
    names = ("builtin_interfaces/msg/Time", "std_msgs/msg/Header", "sensor_msgs/msg/JointState")
    time_type, header, state = (store.types[name] for name in names)
    recorded = state(header(time_type(1, 2), "arm"), ["a", "b"], np.array([0.5, 1.5]))
    raw = conversion.convert(bytes(store.serialize_cdr(recorded, "sensor_msgs/msg/JointState")))
    found = deserialize_message(raw, JointState)
    assert (list(found.name), list(found.position), list(found.effort)) == (["a", "b"], [0.5, 1.5], [])


@pytest.mark.parametrize("type_name", ["sensor_msgs/msg/Image", "sensor_msgs/msg/JointState", "nav_msgs/msg/Odometry"])
def test_messages_with_the_installed_definition_are_left_alone(type_name: str) -> None:
    text, _ = get_typestore(Stores.LATEST).generate_msgdef(type_name, ros_version=2)
    assert conversion_of(type_name, MessageDefinition(MessageDefinitionFormat.MSG, text)) is None
    assert conversion_of(type_name, MessageDefinition(MessageDefinitionFormat.MSG, "= broken =")) is None
    assert conversion_of("no_package/msg/Type", MessageDefinition(MessageDefinitionFormat.MSG, "int8 a")) is None
