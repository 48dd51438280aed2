# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""`rover_sim` as a process over real topics."""

import math
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import yaml
from forked import ForkedProcess
from geometry_msgs.msg import Twist, Vector3
from nav_msgs.msg import Odometry
from node_harness import PATIENCE_S, NodeProcess, Peer, end
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Int32

from policy_node.config.package_files import share_path
from policy_node.config.schema import flatten
from policy_node_rover.mujoco.rover_sim import main, parse_options
from policy_node_rover.mujoco.simulated_rover import COMMAND_TIMEOUT_S

BEST_EFFORT = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
RELIABLE = QoSProfile(depth=200)
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)

Simulation = subprocess.Popen[str] | ForkedProcess


@pytest.fixture
def start_sim() -> Iterator[Callable[..., Simulation]]:
    processes: list[Simulation] = []

    def start(*arguments: str, fresh: bool = False) -> Simulation:
        process: Simulation
        if fresh:
            command = [sys.executable, "-m", "policy_node_rover.mujoco.rover_sim", *arguments]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        else:
            process = ForkedProcess(main, arguments)
        processes.append(process)
        return process

    yield start
    for process in processes:
        end(process)
        process.communicate()


def received(peer: Peer, message_type: type, topic: str, qos: QoSProfile) -> list[Any]:
    """Return a list to which the messages of a topic are appended."""
    messages: list[Any] = []
    peer.node.create_subscription(message_type, topic, messages.append, qos)
    return messages


def stamp_ns(message: Any) -> int:
    stamp = message.clock if isinstance(message, Clock) else message.header.stamp
    return stamp.sec * 10**9 + stamp.nanosec


@pytest.mark.both_distributions
def test_every_rover_has_its_topics_and_its_sensors_share_their_stamps(
    peer: Peer, start_sim: Callable[..., Simulation]
) -> None:
    started_ns = peer.node.get_clock().now().nanoseconds
    robots = ("rover_0", "rover_1", "rover_2")
    images = [received(peer, Image, f"{robot}/camera/image_raw", BEST_EFFORT) for robot in robots]
    touches = [received(peer, JointState, f"{robot}/touch", BEST_EFFORT) for robot in robots]
    odometries = [received(peer, Odometry, f"{robot}/odom", RELIABLE) for robot in robots]
    cameras = [received(peer, CameraInfo, f"{robot}/camera/camera_info", BEST_EFFORT) for robot in robots]
    overviews = received(peer, Image, "overview/image_raw", RELIABLE)
    start_sim("--robots", "3", "--seed", "5")
    everything = (*images, *touches, *odometries, *cameras)
    peer.spin_until(lambda: overviews and all(len(messages) > 10 for messages in everything), "all sensors")

    first_images = [np.array(messages[0].data).reshape(64, 64, 3) for messages in images]
    for robot, image_messages, touch_messages, odometry_messages, camera_messages in zip(
        robots, images, touches, odometries, cameras, strict=True
    ):
        image = image_messages[-1]
        assert (image.height, image.width, image.step, image.encoding) == (64, 64, 192, "rgb8")
        assert image.header.frame_id == camera_messages[-1].header.frame_id == f"{robot}/camera_optical"
        assert (camera_messages[-1].height, camera_messages[-1].width) == (64, 64)
        touch = touch_messages[-1]
        assert touch.name == [f"touch_{cell}" for cell in range(8)]
        assert len(touch.effort) == 8
        assert not touch.position
        assert odometry_messages[-1].child_frame_id == f"{robot}/base_link"
        # Images are published last, so all but the newest have their touch and odometry.
        stamps = {stamp_ns(message) for message in image_messages[:-1]}
        assert len({*map(stamp_ns, touch_messages)} & stamps) >= len(stamps) - 1
        assert len({*map(stamp_ns, odometry_messages)} & stamps) >= len(stamps) - 1
        assert len({*map(stamp_ns, camera_messages)} & stamps) >= len(stamps) - 1
        assert all(stamp > started_ns for stamp in stamps)
        assert sorted(stamps) == [stamp_ns(message) for message in image_messages[:-1]]
    assert not np.array_equal(first_images[0], first_images[1]), "each rover has its own arena"
    overview = overviews[-1]
    assert overview.height == overview.width, "three arenas fill a square of two by two"
    assert len(overview.data) == 3 * overview.height * overview.width

    presses = received(peer, Int32, "rover_2/presses", LATCHED)
    peer.spin_until(lambda: presses, "the presses, however late one subscribes")
    assert presses[0].data == 0


def test_a_command_moves_only_its_rover_until_the_timeout(peer: Peer, start_sim: Callable[..., Simulation]) -> None:
    moving, standing = (received(peer, Odometry, f"rover_{robot}/odom", RELIABLE) for robot in range(2))
    commands = peer.node.create_publisher(Twist, "rover_0/cmd_vel", 1)
    start_sim("--robots", "2", "--seed", "5")

    def turn_rate() -> float:
        return moving[-1].twist.twist.angular.z if moving else 0.0

    def turning() -> bool:
        commands.publish(Twist(angular=Vector3(z=1.0)))
        return turn_rate() > 0.8

    peer.spin_until(turning, "the rover to turn")
    last_command_ns = peer.node.get_clock().now().nanoseconds
    peer.spin_until(lambda: abs(turn_rate()) < 0.02, "the rover to stop")
    still_fresh_ns = last_command_ns + round(0.8 * COMMAND_TIMEOUT_S * 1e9)
    rates = [m.twist.twist.angular.z for m in moving if last_command_ns < stamp_ns(m) < still_fresh_ns]
    assert min(rates) > 0.5, "a command holds until it is too old"
    yaws = [2 * math.atan2(m.pose.pose.orientation.z, m.pose.pose.orientation.w) for m in standing]
    assert max(yaws) - min(yaws) < 1e-3, "the other rover got no command"


@pytest.mark.parametrize(
    "options", [["--clock"], ["--ros-args", "-p", "use_sim_time:=true"]], ids=["option", "parameter"]
)
def test_simulated_time_is_on_the_clock_and_in_the_stamps(
    options: list[str], peer: Peer, start_sim: Callable[..., Simulation]
) -> None:
    clocks = received(peer, Clock, "/clock", RELIABLE)
    touches = received(peer, JointState, "rover_0/touch", BEST_EFFORT)
    start_sim("--robots", "1", "--speed", "5", "--rate-hz", "20", *options)
    peer.spin_until(lambda: len(touches) > 20 and len(clocks) > 20, "simulated time")
    times, stamps = ([stamp_ns(message) for message in messages] for messages in (clocks, touches))
    assert times == sorted(set(times)), "time only goes forward"
    assert 0 < times[0] < times[-1] < 10**9 * PATIENCE_S * 5, "time starts at zero"
    assert all(stamp % 50_000_000 == stamps[0] % 50_000_000 for stamp in stamps), "20 Hz in simulated time"
    assert {*stamps} & {*times}, "readings are stamped with the time on the clock"


def test_speed_zero_runs_a_duration_as_fast_as_possible(start_sim: Callable[..., Simulation]) -> None:
    sim = start_sim("--robots", "2", "--speed", "0", "--duration-s", "3")
    text, _ = sim.communicate(timeout=PATIENCE_S)
    assert sim.returncode == 0
    assert "ended after 3.0 s" in text


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_a_signal_ends_rover_sim_cleanly(
    peer: Peer, start_sim: Callable[..., Simulation], number: signal.Signals
) -> None:
    touches = received(peer, JointState, "rover_0/touch", BEST_EFFORT)
    sim = start_sim("--robots", "1", "--renderer", "raycast", "--ros-args", "--log-level", "info", fresh=True)
    peer.spin_until(lambda: touches, "the simulation")
    sim.send_signal(number)
    text, _ = sim.communicate(timeout=PATIENCE_S)
    assert sim.returncode == 0
    assert "Traceback" not in text
    assert "images by raycast" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--robots", "0"], "--robots: found '0', allowed is a whole number from 1"),
        (["--robots", "2.5"], "--robots: found '2.5', allowed is a whole number"),
        (["--rate-hz", "fast"], "--rate-hz: found 'fast', allowed is a number from 1 to 100"),
        (["--speed", "-1"], "--speed: found '-1', allowed is a number from 0"),
        (["--renderer", "glx"], "invalid choice: 'glx'"),
    ],
)
def test_an_invalid_option_is_reported(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit):
        parse_options(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_a_rover_stops_when_the_node_that_commands_it_is_killed(
    peer: Peer, start_sim: Callable[..., Simulation], start_node: Callable[..., NodeProcess]
) -> None:
    odometries = received(peer, Odometry, "rover_0/odom", RELIABLE)
    start_sim("--robots", "1", "--seed", "5")
    parameters = flatten(yaml.safe_load(share_path("config", "rover.yaml").read_text())["/**"]["ros__parameters"])
    node = start_node({**parameters, "robots": ["rover_0"]})

    def speed() -> float:
        twist = odometries[-1].twist.twist if odometries else Twist()
        return max(abs(twist.linear.x), abs(twist.angular.z))

    peer.spin_until(lambda: speed() > 0.1, "the rover to drive")
    node.send(signal.SIGKILL)
    killed_ns = peer.node.get_clock().now().nanoseconds
    # Braking takes a moment.
    standing_ns = killed_ns + round((COMMAND_TIMEOUT_S + 1.0) * 1e9)
    peer.spin_until(lambda: stamp_ns(odometries[-1]) > standing_ns, "the time to pass")
    assert speed() < 0.02
