# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Recording of a drive, and errors of the recording, which never stop the robots."""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy.logging
import yaml
from geometry_msgs.msg import Twist
from node_harness import (
    PATIENCE_S,
    Diagnostics,
    LifecycleClient,
    NodeProcess,
    Peer,
    ScriptedFleet,
    command_values,
    parameters_of,
)
from rclpy.qos import qos_profile_sensor_data
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.rosbag2 import Reader, ReaderError
from sensor_msgs.msg import Image, JointState
from std_srvs.srv import Trigger

from policy_node.config.schema import Configuration, ConfigurationError, parse_configuration
from policy_node.control.tick import FleetTick, SentCommands
from policy_node.recording.bag import RecordingBag, complete, typestore_of
from policy_node.recording.format import TICK_TYPE, Tick, parse_tick
from policy_node.recording.recorder import QUEUE_TICKS, Recording, RecordingPlan, plan_recording
from policy_node.sensing.samples import Sample
from policy_node.sensing.synchroniser import RobotState

ROBOTS = ("robot_0", "robot_1")
STORE = typestore_of([TICK_TYPE])
TICKS = "/policy_node/ticks"

Model = Callable[..., tuple[Path, Any]]
StartNode = Callable[..., NodeProcess]
Message = tuple[str, int, bytes]


def read(folder: Path) -> list[Message]:
    """Return topic, time and bytes of every message of a bag."""
    with Reader(folder) as reader:
        return [(connection.topic, time_ns, bytes(raw)) for connection, time_ns, raw in reader.messages()]


def ticks_of(messages: list[Message], topic: str = TICKS) -> list[Tick]:
    return [parse_tick(STORE.deserialize_cdr(raw, TICK_TYPE)) for name, _, raw in messages if name == topic]


def on(messages: list[Message], topic: str) -> list[bytes]:
    return [raw for name, _, raw in messages if name == topic]


class Raw:
    """Serialised messages as a subscriber gets them."""

    def __init__(self, peer: Peer, message_type: type, topic: str, qos: Any = 1000) -> None:
        self.messages: list[bytes] = []
        peer.node.create_subscription(message_type, topic, self.messages.append, qos, raw=True)


@pytest.mark.both_distributions
def test_every_tick_sample_and_command_of_a_drive_is_recorded(
    model: Model, peer: Peer, start_node: StartNode, tmp_path: Path
) -> None:
    """Samples are those published and commands those received, including the last one."""
    folder = tmp_path / "recordings"
    safe = [0.0625, -0.125]
    changes = {
        "record.path": str(folder),
        "action.safe_command": safe,
        "synchronisation.max_age_s": 2.0,
        "watchdog.timeout_s": 60.0,
    }
    parameters = parameters_of(model()[0], ROBOTS, changes)
    process = start_node(parameters)
    fleet = ScriptedFleet(peer, ROBOTS)
    received = {robot: Raw(peer, Twist, f"/{robot}/cmd_vel") for robot in ROBOTS}
    images = Raw(peer, Image, "/robot_0/camera/image_raw", qos_profile_sensor_data)
    touches = Raw(peer, JointState, "/robot_0/touch", qos_profile_sensor_data)
    diagnostics = Diagnostics(peer)

    def control() -> dict[str, str]:
        return diagnostics.values("policy_node: control")

    fleet.drive(lambda: len(fleet.commands["robot_0"]) > 20, "commands of the policy")
    fleet.drive(lambda: control().get("robots_ready") == "2", "two robots that are driven")
    # Only the first goes on; the other one's last readings are then repeated, and then too old.
    fleet.drive(lambda: control().get("robots_ready") == "1", "a robot that is stale", ["robot_0"])
    assert Path(control()["record_path"]).parent == folder
    assert int(control()["recorded_ticks"]) > 0 and control()["record_dropped"] == "0"
    assert peer.call(Trigger, "/policy_node/stop", Trigger.Request()).success
    fleet.drive(lambda: control().get("robots_ready") == "0", "robots that are stopped")
    assert process.send(signal.SIGINT) == 0

    (bag,) = folder.iterdir()
    assert bag.name.startswith("policy_node_2")
    ticks = check_bag(bag, parameters)
    messages = read(bag)
    published = {"image": (Image, images.messages), "touch": (JointState, touches.messages)}
    check_samples(ticks, messages, published)
    for robot, raw in received.items():
        commands = on(messages, f"/{robot}/cmd_vel")
        peer.spin_until(lambda raw=raw, last=commands[-1]: raw.messages[-1] == last, "the last command")
        # A late subscriber may miss the first commands, and topics keep only the last one.
        recorded = iter(commands)
        assert len(raw.messages) > 20 and all(message in recorded for message in raw.messages)
        assert command_values(deserialize_message(commands[-1], Twist)).tolist() == safe


def check_bag(bag: Path, parameters: dict[str, Any]) -> list[Tick]:
    """Check topics, custom data and ticks of a drive that ended with a stop, and return the ticks."""
    messages = read(bag)
    assert [time_ns for _, time_ns, _ in messages] == sorted(time_ns for _, time_ns, _ in messages)
    with Reader(bag) as reader:
        types = {connection.topic: connection.msgtype for connection in reader.connections}
        custom = reader.storage.metadata.custom
    assert types == {
        TICKS: TICK_TYPE,
        **{f"/{robot}/camera/image_raw": "sensor_msgs/msg/Image" for robot in ROBOTS},
        **{f"/{robot}/touch": "sensor_msgs/msg/JointState" for robot in ROBOTS},
        **{f"/{robot}/cmd_vel": "geometry_msgs/msg/Twist" for robot in ROBOTS},
    }
    assert custom["policy_node.node"] == "/policy_node"
    again = yaml.safe_load((bag / "parameters.yaml").read_text())
    assert again == yaml.safe_load(custom["policy_node.parameters"])
    configuration = parse_configuration(again["/**"]["ros__parameters"])
    assert configuration == parse_configuration(parameters)

    ticks = ticks_of(messages)
    assert [tick.number for tick in ticks] == list(range(len(ticks)))
    assert {tick.policy_sha256 for tick in ticks} == {custom["policy_node.policy_sha256"]}
    assert ticks[0].robots["robot_0"].before == "reset" and ticks[-1].stopped and not ticks[0].stopped
    states = {robot: {tick.robots[robot].state for tick in ticks} for robot in ROBOTS}
    assert states["robot_0"] >= {"READY", "STOPPED"} and states["robot_1"] >= {"READY", "STALE", "STOPPED"}

    return ticks


def check_samples(ticks: list[Tick], messages: list[Message], published: dict[str, tuple[type, list[bytes]]]) -> None:
    """Check that each tick has its command, and the samples of robot_0 as they were published."""
    topics = {"image": "/robot_0/camera/image_raw", "touch": "/robot_0/touch"}
    overruled = 0
    for tick in ticks:
        at_tick = [message for message in messages if message[1] == tick.time_ns]
        assert at_tick[-1][0] == TICKS
        for robot in ROBOTS:
            recorded = tick.robots[robot]
            assert set(recorded.readings) == ({"image", "touch"} if recorded.state == "READY" else set())
            # A stop during a tick replaces its command.
            assert recorded.sent is (len(on(at_tick, f"/{robot}/cmd_vel")) == 1)
            # The end of the node may replace the last ones.
            overruled += not recorded.sent and tick is not ticks[-1]
        for sensor, (message_type, raws) in published.items():
            recorded_raws = on(at_tick, topics[sensor])
            assert set(recorded_raws) <= set(raws)
            if sensor in tick.robots["robot_0"].readings:
                stamp_ns, index = tick.robots["robot_0"].readings[sensor]
                stamp = deserialize_message(recorded_raws[index], message_type).header.stamp
                assert stamp_ns == stamp.sec * 10**9 + stamp.nanosec
    assert overruled <= 2


@pytest.mark.slow
@pytest.mark.both_distributions
def test_each_activation_records_a_new_bag(model: Model, peer: Peer, start_node: StartNode, tmp_path: Path) -> None:
    folder = tmp_path / "recordings"
    process = start_node(parameters_of(model()[0], ROBOTS, {"record.path": str(folder)}))
    lifecycle = LifecycleClient(peer, process.full_name)
    diagnostics = Diagnostics(peer)

    def wait_for_ticks(count: int) -> None:
        diagnostics.newest.clear()
        control = "policy_node: control"
        peer.spin_until(lambda: int(diagnostics.values(control).get("recorded_ticks", 0)) > count, "recorded ticks")

    wait_for_ticks(10)
    assert lifecycle.change("deactivate")
    (first,) = folder.iterdir()
    recorded = len(ticks_of(read(first)))
    assert recorded > 10
    process.wait_for(f"recording into {first}")
    process.wait_for(f"recorded {recorded} ticks, 0 dropped; the last bag: {first}")

    assert lifecycle.change("activate")
    wait_for_ticks(0)
    (second,) = set(folder.iterdir()) - {first}
    shutil.rmtree(second)
    process.wait_for("recording ended: FileNotFoundError")
    peer.spin_until(lambda: "record_error" in diagnostics.values("policy_node: control"), "the error in diagnostics")
    assert lifecycle.change("deactivate")

    assert lifecycle.change("activate")
    # All but what was recorded in the last second is on the disk when the node is killed.
    wait_for_ticks(60)
    assert process.send(signal.SIGKILL) != 0
    (third,) = set(folder.iterdir()) - {first}
    with pytest.raises(ReaderError):
        read(third)
    complete(third)
    ticks = ticks_of(read(third))
    assert len(ticks) > 10 and [tick.number for tick in ticks] == list(range(len(ticks)))


@pytest.mark.slow
def test_a_full_disk_ends_the_recording_while_the_node_drives_on(
    model: Model, peer: Peer, start_node: StartNode, tmp_path: Path
) -> None:
    """A file system of a megabyte, in a mount namespace of the node's own; where that is not allowed, small files."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    mount = f'mount -t tmpfs -o size=1m tmpfs {folder} && exec "$@"'
    wrapper = ["unshare", "-m", "sh", "-c", mount, "sh"]
    can_mount = os.geteuid() == 0 and os.system(f"unshare -m mount -t tmpfs -o size=1m tmpfs {folder} 2>/dev/null") == 0
    process = start_node(
        parameters_of(model()[0], ROBOTS, {"record.path": str(folder)}),
        wrapper=wrapper if can_mount else ["prlimit", "--fsize=1000000"],
    )
    fleet = ScriptedFleet(peer, ROBOTS)
    diagnostics = Diagnostics(peer)

    def control() -> dict[str, str]:
        return diagnostics.values("policy_node: control")

    fleet.drive(lambda: "record_error" in control(), "the end of the recording")
    said = process.wait_for("recording ended: .* the node drives on without recording")
    assert ("No space left on device" if can_mount else "File too large") in said[0]
    ticks = int(control()["ticks"])
    fleet.clear()
    fleet.drive(
        lambda: int(control()["ticks"]) > ticks + 20 and control()["robots_ready"] == "2", "robots that are driven on"
    )
    assert all(len(commands) > 10 for commands in fleet.commands.values())
    # The namespace and what is in it end with the node.
    seen = Path(f"/proc/{process.pid}/root{folder}") if can_mount else folder
    kept = shutil.copytree(seen, tmp_path / "kept")
    (bag,) = kept.iterdir()
    recorded = ticks_of(read(bag))
    assert len(recorded) > 10 and [tick.number for tick in recorded] == list(range(len(recorded)))
    assert process.text.count("recording ended") == 1


def plan_of(configuration: Configuration, parameters: dict[str, Any]) -> RecordingPlan | None:
    return plan_recording("/policy_node", str, configuration, parameters)


def test_a_path_that_cannot_be_written_is_refused_at_configure(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    parameters = parameters_of(tmp_path / "unused.zip", ROBOTS, {"record.path": str(file / "folder")})
    configuration = parse_configuration(parameters)
    with pytest.raises(ConfigurationError, match=r"record\.path: found '.*', but no bag can be made in it \(Not a dir"):
        plan_of(configuration, parameters)


def test_without_rosbags_recording_is_refused_at_configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = parameters_of(tmp_path / "unused.zip", ROBOTS, {"record.path": str(tmp_path)})
    monkeypatch.setitem(sys.modules, "rosbags.rosbag2", None)
    monkeypatch.delitem(sys.modules, "policy_node.recording.bag")
    with pytest.raises(ConfigurationError, match=r"recording needs rosbags .*; pip install rosbags"):
        plan_of(parse_configuration(parameters), parameters)
    without = parameters_of(tmp_path / "unused.zip", ROBOTS, {})
    assert plan_of(parse_configuration(without), without) is None


TWIST = serialize_message(Twist())
# What a pipe of Linux holds.
PIPE_BYTES = 65_536


@pytest.fixture
def plan(tmp_path: Path) -> RecordingPlan:
    return RecordingPlan(
        folder=tmp_path,
        name=TICKS.removesuffix("/ticks"),
        robots=ROBOTS,
        sensors=("speed", "wind", "action.safe_position"),
        # The wind is the same for both, and the position is read from where the speed is.
        sensor_topics=tuple((f"/{robot}/speed", "/wind", f"/{robot}/speed") for robot in ROBOTS),
        command_topics=tuple(f"/{robot}/cmd_vel" for robot in ROBOTS),
        types={
            **{f"/{robot}/speed": "geometry_msgs/msg/Twist" for robot in ROBOTS},
            "/wind": "geometry_msgs/msg/Twist",
            **{f"/{robot}/cmd_vel": "geometry_msgs/msg/Twist" for robot in ROBOTS},
            TICKS: TICK_TYPE,
        },
        typestore=typestore_of([TICK_TYPE, "geometry_msgs/msg/Twist"]),
        parameters="",
    )


def tick_of(
    time_ns: int,
    samples: tuple[tuple[Sample, ...], ...] = ((), ()),
    positions: tuple[Sample | None, ...] = (None, None),
    before: tuple[str, ...] = ("", ""),
    commanded: tuple[bool, ...] = (True, True),
) -> FleetTick:
    states = tuple(RobotState.READY if each else RobotState.WAITING for each in samples)
    reasons = tuple("" if each else "no message on speed" for each in samples)
    sent = np.array(commanded)
    return FleetTick(
        time_ns=time_ns,
        commands=np.zeros((2, 2)),
        publish=np.ones(2, bool),
        sent=np.where(sent[:, None], np.zeros((2, 2)), np.nan),
        commanded=sent,
        driven=sent.copy(),
        states=states,
        reasons=reasons,
        ages_s=np.zeros(2),
        fresh_start=np.zeros(2, bool),
        stages_s={},
        samples=samples,
        positions=positions,
        before=before,
        stopped=False,
        owners={},
        policy_sha256="a" * 64,
        rejected=np.zeros(2, np.int64),
        bounded=np.zeros(2, np.int64),
        slowed=np.zeros(2, np.int64),
        unheard={},
    )


def recording_of(plan: RecordingPlan) -> Recording:
    return Recording(plan, "a" * 64, rclpy.logging.get_logger("test_recording"))


def test_each_sample_refers_to_its_message(plan: RecordingPlan) -> None:
    recording = recording_of(plan)
    recording.start()
    speeds = [serialize_message(Twist()) + bytes([robot]) for robot in range(2)]
    older = TWIST + b"older"
    samples = tuple((Sample(90 + robot, speeds[robot]), Sample(80, TWIST)) for robot in range(2))
    recording.note_commands(SentCommands(100, {0: TWIST, 1: TWIST}, of_tick=True))
    recording.note_tick(tick_of(100, samples, (Sample(70, older), Sample(91, speeds[1])), ("reset", "")), 0)
    # The second sensor is silent, the command of robot_1 was replaced later.
    recording.note_commands(SentCommands(200, {0: TWIST}, of_tick=True))
    recording.note_commands(SentCommands(210, {1: TWIST}, of_tick=False))
    recording.note_tick(tick_of(200, ((Sample(190, speeds[0]), Sample(195, None)), ()), commanded=(True, False)), 0)
    recording.note_commands(SentCommands(250, {0: TWIST, 1: TWIST}, of_tick=False))
    recording.end()
    assert recording.folder is not None and not recording.error and recording.recorded == 2
    messages = read(recording.folder)
    assert [(topic, time_ns) for topic, time_ns, _ in messages] == [
        ("/robot_0/cmd_vel", 100),
        ("/robot_1/cmd_vel", 100),
        ("/robot_0/speed", 100),
        ("/wind", 100),
        ("/robot_0/speed", 100),
        ("/robot_1/speed", 100),
        (TICKS, 100),
        ("/robot_0/cmd_vel", 200),
        ("/robot_0/speed", 200),
        (TICKS, 200),
        ("/robot_1/cmd_vel", 210),
        ("/robot_0/cmd_vel", 250),
        ("/robot_1/cmd_vel", 250),
    ]
    assert on(messages, "/robot_0/speed") == [speeds[0], older, speeds[0]]
    first, second = ticks_of(messages)
    assert first.robots["robot_0"].readings == {"speed": (90, 0), "wind": (80, 0), "action.safe_position": (70, 1)}
    assert first.robots["robot_1"].readings == {"speed": (91, 0), "wind": (80, 0), "action.safe_position": (91, 0)}
    assert second.robots["robot_0"].readings == {"speed": (190, 0), "wind": (195, None)}
    assert second.robots["robot_1"].readings == {}
    assert [first.robots[robot].before for robot in ROBOTS] == ["reset", ""]
    assert [second.robots[robot].sent for robot in ROBOTS] == [True, False]


def test_a_jump_back_in_time_begins_a_new_bag(plan: RecordingPlan) -> None:
    recording = recording_of(plan)
    recording.start()
    for time_ns in (100, 200, 150, 300):
        recording.note_tick(tick_of(time_ns), 0)
    recording.end()
    bags = sorted(plan.folder.iterdir())
    assert [[tick.time_ns for tick in ticks_of(read(bag))] for bag in bags] == [[100, 200], [150, 300]]


@pytest.mark.parametrize("limits", [{"max_duration_ns": 100}, {"max_bytes": 1}], ids=["duration", "size"])
def test_a_recording_is_split_between_ticks(plan: RecordingPlan, limits: dict[str, int]) -> None:
    recording = recording_of(replace(plan, **limits))
    recording.start()
    times_ns = [100, 150, 200, 250, 300, 350]
    for time_ns in times_ns:
        recording.note_tick(tick_of(time_ns), 0)
    recording.end()
    (bag,) = plan.folder.iterdir()
    assert [tick.time_ns for tick in ticks_of(read(bag))] == times_ns
    files = [bag / f"{bag.name}_{number}.mcap" for number in range(len(list(bag.glob("*.mcap"))) - 1)]
    found = [[tick.time_ns for tick in ticks_of(read(file))] for file in [*files, bag / f"{bag.name}.mcap"]]
    by_duration = [[100, 150], [200, 250], [300, 350]]
    assert found == (by_duration if "max_duration_ns" in limits else [[each] for each in times_ns])


@pytest.fixture
def blocked(plan: RecordingPlan, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Let the first flush of a bag wait for a pipe that nobody reads until the function is called."""
    pipe = plan.folder / "pipe"
    os.mkfifo(pipe)
    end = os.open(pipe, os.O_RDWR)
    flush = RecordingBag.flush

    def flush_after_the_pipe(bag: RecordingBag) -> None:
        monkeypatch.setattr(RecordingBag, "flush", flush)
        os.write(end, bytes(PIPE_BYTES + 1))
        flush(bag)

    monkeypatch.setattr(RecordingBag, "flush", flush_after_the_pipe)
    monkeypatch.setattr("policy_node.recording.recorder.FLUSH_S", 0.0)
    yield lambda: os.read(end, PIPE_BYTES)
    os.close(end)


def test_a_blocked_writer_drops_ticks_and_never_blocks_the_node(plan: RecordingPlan, blocked) -> None:
    recording = recording_of(plan)
    recording.start()
    noted = QUEUE_TICKS + 100
    for number in range(noted):
        recording.note_tick(tick_of(number, before=("reset", "") if number == noted - 1 else ("", "")), 0)
    assert 50 < recording.dropped <= 100
    blocked()
    deadline_s = time.monotonic() + PATIENCE_S
    while recording.recorded + recording.dropped < noted:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    dropped = recording.dropped
    recording.note_tick(tick_of(noted), 0)
    recording.end()
    assert recording.folder is not None
    ticks = ticks_of(read(recording.folder))
    assert len(ticks) == noted + 1 - dropped and ticks[-1].number == noted and ticks[-1].dropped == dropped
    # What happened before a tick that was left out is said with the next one.
    assert ticks[-1].robots["robot_0"].before == "reset" and ticks[-2].robots["robot_0"].before == ""
