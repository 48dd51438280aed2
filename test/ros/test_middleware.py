# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Node and simulation on middlewares that lack something, and publishers that the middleware does not name."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from geometry_msgs.msg import Twist, Vector3
from nav_msgs.msg import Odometry
from node_harness import NodeProcess, Peer, end, parameters_of
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState

from policy_node.config.package_files import share_path
from policy_node.config.parameter_file import read_parameter_file
from policy_node.config.schema import parse_configuration
from policy_node.config.specs import ArraySpec
from policy_node.messages.codecs import reading_decoder
from policy_node.ros.middleware import lacking
from policy_node.ros.rclpy_internals import poll_topic
from policy_node.ros.subscriptions import SensorSubscriptions

pytestmark = pytest.mark.both_distributions

Simulation = subprocess.Popen[str]


@pytest.fixture(scope="module", params=["rmw_zenoh_cpp", pytest.param("rmw_unknown_cpp", marks=pytest.mark.slow)])
def without_deadlines(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the command that runs the one after it on a middleware that has no more than rmw_zenoh_cpp has."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    library = tmp_path_factory.mktemp("middleware") / "zenoh_like.so"
    source = Path(__file__).parents[1] / "zenoh_like.c"
    name = f'-DRMW_NAME="{request.param}"'
    subprocess.run([compiler, "-shared", "-fPIC", name, "-o", str(library), str(source), "-ldl"], check=True)
    return ["env", f"LD_PRELOAD={library}"]


@pytest.fixture
def start_sim(without_deadlines: list[str]) -> Iterator[Callable[..., Simulation]]:
    processes: list[Simulation] = []

    def start(*arguments: str) -> Simulation:
        command = [*without_deadlines, sys.executable, "-m", "policy_node_rover.mujoco.rover_sim", *arguments]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        return processes[-1]

    yield start
    for process in processes:
        end(process)
        if process.stdout is not None:
            process.stdout.close()


def turn_rates(peer: Peer, robot: str) -> list[float]:
    """Return a list to which the turn rates of a rover are appended."""
    rates: list[float] = []
    peer.node.create_subscription(Odometry, f"{robot}/odom", lambda m: rates.append(m.twist.twist.angular.z), 10)
    return rates


def test_without_deadlines_rovers_stop_by_their_timeout(peer: Peer, start_sim: Callable[..., Simulation]) -> None:
    rates = turn_rates(peer, "rover_0")
    commands = peer.node.create_publisher(Twist, "rover_0/cmd_vel", 1)
    simulation = start_sim("--robots", "2", "--seed", "5")

    def turning() -> bool:
        commands.publish(Twist(angular=Vector3(z=1.0)))
        return bool(rates) and rates[-1] > 0.8

    peer.spin_until(turning, "the rover to turn")
    peer.spin_until(lambda: abs(rates[-1]) < 0.02, "the rover to stop")
    simulation.send_signal(signal.SIGINT)
    text, _ = simulation.communicate()
    assert simulation.returncode == 0, text
    said = "_cpp reports no missed deadlines: rovers stop 0.5 s after their last command"
    assert text.count(said) == 1, "said once, not for each rover"


@pytest.mark.slow
def test_without_deadlines_a_rover_stops_when_the_node_is_killed(
    peer: Peer,
    start_sim: Callable[..., Simulation],
    start_node: Callable[..., NodeProcess],
    without_deadlines: list[str],
) -> None:
    odometries: list[Odometry] = []
    peer.node.create_subscription(Odometry, "rover_0/odom", odometries.append, 10)
    start_sim("--robots", "1", "--seed", "5")
    parameters = read_parameter_file(share_path("config", "rover.yaml"))
    node = start_node({**parameters, "robots": ["rover_0"]}, wrapper=without_deadlines)

    def speed() -> float:
        twist = odometries[-1].twist.twist if odometries else Twist()
        return max(abs(twist.linear.x), abs(twist.angular.z))

    node.wait_for(r"WARN.*rmw_\w+_cpp: it .*; see the table of middlewares in doc/safety.md")
    peer.spin_until(lambda: speed() > 0.1, "the rover to drive")
    node.send(signal.SIGKILL)
    peer.spin_until(lambda: speed() < 0.02, "the rover to stop")
    assert node.text.count("table of middlewares") == 1


def test_what_a_middleware_lacks_is_told_with_the_remedy() -> None:
    assert lacking("rmw_fastrtps_cpp") == ""
    for name in ("rmw_cyclonedds_cpp", "rmw_zenoh_cpp", "rmw_connextdds"):
        text = lacking(name)
        assert text.startswith(f"{name}: it ") and text.endswith("or use rmw_fastrtps_cpp")


class Nowhere:
    """Replaces the pipeline."""

    def add(self, robot: int, sensor: int, stamp_ns: int, message: Any) -> None:
        """Drop the message."""

    def set_present(self, robot: int, sensor: int, present: bool) -> None:
        """Do nothing."""


def test_two_publishers_of_a_sensor_are_named_and_not_taken_for_losses(peer: Peer, tmp_path: Path) -> None:
    changes = {"observations.keys": ["touch"], "observations.image.topic": None, "observations.image.type": None}
    configuration = parse_configuration(parameters_of(tmp_path / "policy.zip", ["mixed"], changes))
    (touch, *_), *_ = configuration.sensors
    decoder = reading_decoder(
        touch.type, ArraySpec("touch", (2,), "float32", -1, 1), topic=touch.topic, field=touch.field
    )
    subscriptions = SensorSubscriptions(peer.node, configuration, {"touch": decoder})
    qos = QoSProfile(depth=10)
    first = peer.node.create_publisher(JointState, "/mixed/touch", qos)
    peer.spin_until(first.get_subscription_count, "the subscription")
    (stream,) = subscriptions.reception.streams[0]
    about: dict[str, Any] = {}

    def send(*publishers: Any) -> None:
        received = stream.counts().received + len(publishers)
        for publisher in publishers:
            message = JointState(name=["a", "b"], effort=[0.0, 0.0])
            message.header.stamp = peer.node.get_clock().now().to_msg()
            publisher.publish(message)

        def arrived() -> bool:
            subscriptions.take(Nowhere(), None)
            return stream.counts().received == received

        peer.spin_until(arrived, "the messages")

    _, take = poll_topic(peer.node, JointState, "/mixed/touch", qos, raw=True)
    peer.spin_until(lambda: first.get_subscription_count() == 2, "the probe")
    send(first)

    def told() -> bool:
        if (taken := take()) is not None:
            about.update(taken[1])
        return bool(about)

    peer.spin_until(told, "its message")
    if "publisher_gid" not in about and about.get("publication_sequence_number") is None:
        pytest.skip("the middleware tells nothing of publishers")
    for _ in range(200):
        send(first)
    second = peer.node.create_publisher(JointState, "/mixed/touch", qos)
    peer.spin_until(second.get_subscription_count, "the subscription")
    for _ in range(20):
        send(first, second)
    assert [finding.kind for finding in subscriptions.reception.findings()] == ["mixed"]
    assert stream.counts().lost == 0
    subscriptions.destroy()
