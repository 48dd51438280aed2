# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""`gazebo_watch`: command timeout, touch readings and presses."""

import re
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from builtin_interfaces.msg import Time
from forked import ForkedProcess
from gazebo_contacts import contact, contacts_message
from geometry_msgs.msg import Twist, Vector3
from node_harness import PATIENCE_S, Peer, end
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Bool, Header, Int32

from policy_node_rover.arena.description import ARENA, ROVER
from policy_node_rover.arena.touch_sensor import decay
from policy_node_rover.gazebo.bridge import enable_topic
from policy_node_rover.gazebo.sdf import grid_origin_m, layout_of
from policy_node_rover.gazebo.watch import (
    CHECK_PERIOD_S,
    COMMAND_TIMEOUT_S,
    REARM_S,
    Beacon,
    Bumper,
    main,
    parse_options,
    service_command,
)

FORWARD = Twist(linear=Vector3(x=0.4))
IMAGE_PERIOD_NS = 33_333_333


@pytest.fixture
def watched(ros: None) -> Iterator[ForkedProcess]:
    """Start `gazebo_watch` for two rovers, on simulated time."""
    options = ["--robots", "2", "--ros-args", "-p", "use_sim_time:=true"]
    process = ForkedProcess(main, options, capture=False)
    yield process
    end(process)


class Gazebo:
    """Gazebo's clock, and the messages that disable and enable its drives."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.time_s = 10.0
        self.stops: dict[str, list[bool]] = {"rover_0": [], "rover_1": []}
        self._clock = peer.node.create_publisher(Clock, "/clock", 1)
        self.commands = {robot: peer.node.create_publisher(Twist, f"{robot}/cmd_vel", 1) for robot in self.stops}
        for robot, received in self.stops.items():
            note = partial(self._note, received)
            peer.node.create_subscription(Bool, enable_topic(robot), note, 10)
        peer.spin_until(self._is_heard, "the subscriptions of gazebo_watch")

    @staticmethod
    def _note(received: list[bool], message: Bool) -> None:
        received.append(message.data)

    def _is_heard(self) -> bool:
        publishers = (self._clock, *self.commands.values())
        return all(publisher.get_subscription_count() for publisher in publishers) and all(
            self.peer.node.count_publishers(f"/{enable_topic(robot)}") for robot in self.stops
        )

    def advance(self, duration_s: float, commanded: str = "") -> None:
        """Advance simulated time in steps of 0.1 s, with a command to a rover at each of them."""
        for _ in range(round(duration_s / CHECK_PERIOD_S)):
            self.time_s += CHECK_PERIOD_S
            self.set_time(self.time_s)
            if commanded:
                self.commands[commanded].publish(FORWARD)

    def set_time(self, time_s: float) -> None:
        self.time_s = time_s
        message = Clock()
        message.clock.sec, message.clock.nanosec = divmod(round(time_s * 1e9), 10**9)
        self._clock.publish(message)
        self.peer.spin_for(0.02, lambda: False)

    def advance_until_stopped(self, robot: str) -> None:
        """Advance simulated time until a rover is stopped."""
        count = len(self.stops[robot])

        def stopped() -> bool:
            self.advance(CHECK_PERIOD_S)
            return len(self.stops[robot]) >= count + 2

        self.peer.spin_until(stopped, f"a command to stop {robot}")
        assert self.stops[robot][-2:] == [False, True]


@pytest.mark.over_dds
@pytest.mark.both_distributions
def test_a_rover_whose_commands_cease_is_stopped_once_and_the_other_drives_on(
    peer: Peer, watched: ForkedProcess
) -> None:
    gazebo = Gazebo(peer)
    gazebo.advance(1.0, commanded="rover_0")
    gazebo.advance_until_stopped("rover_0")
    count = len(gazebo.stops["rover_0"])
    gazebo.advance(3 * COMMAND_TIMEOUT_S)
    assert len(gazebo.stops["rover_0"]) == count
    assert not gazebo.stops["rover_1"], "a rover without commands is not stopped"
    gazebo.advance(0.3, commanded="rover_0")
    gazebo.advance_until_stopped("rover_0")


@pytest.mark.over_dds
def test_a_rover_stops_when_simulated_time_jumps_back(peer: Peer, watched: ForkedProcess) -> None:
    gazebo = Gazebo(peer)
    gazebo.advance(0.5, commanded="rover_1")
    gazebo.set_time(0.0)
    gazebo.advance_until_stopped("rover_1")


@pytest.mark.over_dds
def test_gazebo_watch_ends_on_sigint(peer: Peer, watched: ForkedProcess) -> None:
    Gazebo(peer)
    watched.send_signal(signal.SIGINT)
    assert watched.wait(timeout=PATIENCE_S) == 0


def image(at_ns: int) -> Image:
    """Make an image with a stamp."""
    sec, nanosec = divmod(at_ns, 10**9)
    return Image(header=Header(stamp=Time(sec=sec, nanosec=nanosec)))


def pushed(cell: int, at_ns: int, force_n: float = 3.0) -> Any:
    """Make the message of a contact with a cell."""
    name = f"rover_1::base_link::bumper_0_touch_{cell}"
    return contacts_message(contact(name, [(force_n, 0.0, 0.0)], [(1.0, 0.0, 0.0)]), stamp_ns=at_ns)


UNREADABLE = contacts_message(contact("rover_1::base_link::chassis"))


class Listener:
    """Subscribe to the touch of rover_1."""

    def __init__(self, peer: Peer) -> None:
        self.received: list[JointState] = []
        self._peer = peer
        peer.node.create_subscription(JointState, "rover_1/touch", self.received.append, qos_profile_sensor_data)
        peer.spin_until(lambda: peer.node.count_publishers("/rover_1/touch"), "the bumper's publisher")

    def wait_for(self, at_ns: int) -> JointState:
        """Wait for the touch with a stamp."""

        def is_there() -> bool:
            return any(stamp_ns(message) == at_ns for message in self.received)

        self._peer.spin_until(is_there, f"the touch at {at_ns} ns")
        return next(message for message in self.received if stamp_ns(message) == at_ns)


def stamp_ns(message: JointState) -> int:
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def test_touch_is_published_with_each_image_and_decays(peer: Peer) -> None:
    bumper, listener = Bumper(peer.node, "rover_1"), Listener(peer)
    camera = peer.node.create_publisher(Image, "rover_1/camera/image_raw", 1)
    peer.spin_until(camera.get_subscription_count, "the bumper's subscription")
    begin_ns = 7 * 10**9
    bumper.on_contacts(pushed(6, begin_ns))
    camera.publish(image(begin_ns))
    first = listener.wait_for(begin_ns)
    assert (list(first.name), first.header.frame_id) == ([f"touch_{cell}" for cell in range(8)], "rover_1/bumper")
    assert list(first.effort) == [0, 0, 0, 0, 0, 0, 3, 0]
    bumper.on_image(image(begin_ns + IMAGE_PERIOD_NS))
    assert listener.wait_for(begin_ns + IMAGE_PERIOD_NS).effort[6] == pytest.approx(3.0 * decay(IMAGE_PERIOD_NS / 1e9))
    bumper.on_image(image(begin_ns + 2 * 10**9))
    assert not any(listener.wait_for(begin_ns + 2 * 10**9).effort)


def test_a_contact_without_force_reads_as_the_limit(peer: Peer) -> None:
    bumper, listener = Bumper(peer.node, "rover_1"), Listener(peer)
    bumper.on_contacts(contacts_message(contact("rover_1::base_link::bumper_5_touch_2"), stamp_ns=10**9))
    bumper.on_image(image(10**9))
    assert listener.wait_for(10**9).effort[2] == ROVER.touch_limit_n


def test_touch_is_not_published_while_contacts_cannot_be_decoded(peer: Peer) -> None:
    bumper, listener = Bumper(peer.node, "rover_1"), Listener(peer)
    bumper.on_contacts(UNREADABLE)
    bumper.on_image(image(13 * 10**9))
    bumper.on_contacts(pushed(0, 14 * 10**9))
    bumper.on_image(image(14 * 10**9))
    assert listener.wait_for(14 * 10**9).effort[0] == 3.0
    assert len(listener.received) == 1


def test_contacts_are_not_decoded_without_subscribers_of_touch(peer: Peer) -> None:
    bumper = Bumper(peer.node, "rover_1")
    bumper.on_contacts(UNREADABLE)
    listener = Listener(peer)
    bumper.on_image(image(13 * 10**9))
    listener.wait_for(13 * 10**9)


@pytest.fixture
def moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install a substitute for Gazebo's command line; return the file with its arguments."""
    calls, program = tmp_path / "calls", tmp_path / "gz"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {calls}\necho "data: true"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return calls


def pressed(force_n: float | None, beacon: str = "beacon_1") -> Any:
    """Make the message of a press; None for Fortress, which reports no forces."""
    forces, normals = ([], []) if force_n is None else ([(force_n, 0.0, 0.0)], [(1.0, 0.0, 0.0)])
    return contacts_message(
        contact("rover_1::base_link::touch_0", forces, normals, touched=f"{beacon}::beacon::beacon")
    )


def test_a_press_is_counted_once_and_moves_the_beacon(ros: None, peer: Peer, moves: Path) -> None:
    options = parse_options(["--robots", "4", "--seed", "7", "--world", "arenas"])
    node = rclpy.create_node("watch")
    beacon = Beacon(node, 1, options)
    presses: list[Int32] = []
    qos = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    peer.node.create_subscription(Int32, "rover_1/presses", presses.append, qos)
    beacon.on_contacts(pressed(5.0, beacon="beacon_0"))
    beacon.on_contacts(pressed(0.5))
    beacon.on_contacts(contacts_message(contact("touch_0", [(5.0, 0.0, 0.0)], touched="beacon_1::beacon::beacon")))
    assert beacon.presses == 0, "another beacon, too little force, and a force without its normal"
    for _ in range(3):
        beacon.on_contacts(pressed(5.0))
    peer.spin_until(lambda: presses and presses[-1].data == 1, "the press")
    peer.spin_until(moves.exists, "the beacon's move")
    time.sleep(2 * REARM_S)
    beacon.on_contacts(pressed(5.0))
    assert beacon.presses == 1, "the beacon has not moved yet"
    peer.spin_until(lambda: beacon.check() or not beacon.is_moving, "the end of the first move")
    time.sleep(2 * REARM_S)
    beacon.on_contacts(pressed(None))
    assert beacon.presses == 2
    peer.spin_until(lambda: beacon.check() or not beacon.is_moving, "the end of the second move")
    assert moves.read_text().count("/world/arenas/set_pose") == 2
    places = [
        (float(x), float(y))
        for x, y in re.findall(r'name: "beacon_1", position: {x: (\S+), y: (\S+)}', moves.read_text())
    ]
    origin_m = grid_origin_m(1, 4)
    for (x_m, y_m), before in zip(places, [np.add(origin_m, layout_of(1, 7).beacon), places[0]], strict=True):
        assert np.abs(np.subtract((x_m, y_m), origin_m)).max() < ARENA.half_size_m
        assert np.hypot(*np.subtract((x_m, y_m), before)) >= ARENA.beacon_distance_m - 1e-3
    node.destroy_node()


def test_a_missing_command_line_of_gazebo_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="neither `gz` nor `ign`"):
        service_command()
