# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The simulation in lockstep with the node, each in a process: a drive depends only on its seed."""

import functools
import math
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from geometry_msgs.msg import Twist
from nav_msgs.msg import Odometry
from node_harness import NodeProcess, Peer
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.time import Time
from rover_simulation import rover_parameters, rover_sim
from std_msgs.msg import Float64MultiArray, Int64

from policy_node.ros.ownership import EXPIRY_S
from policy_node_rover.mujoco.arena import Arena, ArenaModel

ROVERS = ("rover_0", "rover_1")
STEPS = 80
PART = 20
Values = tuple[float, ...]
QUEUE = QoSProfile(depth=2000, reliability=ReliabilityPolicy.RELIABLE)


class Drive:
    """Commands and poses of the rovers that this process has received."""

    def __init__(self, peer: Peer) -> None:
        self.poses: dict[str, list[Values]] = {rover: [] for rover in ROVERS}
        self.commands: dict[str, list[Values]] = {rover: [] for rover in ROVERS}
        self.stamps_ns: list[int] = []
        for rover in ROVERS:
            peer.node.create_subscription(Odometry, f"{rover}/odom", self._noting_pose(rover), QUEUE)
            peer.node.create_subscription(Twist, f"{rover}/cmd_vel", self._noting_command(rover), QUEUE)

    def _noting_pose(self, rover: str) -> Callable[[Odometry], None]:
        def note(odometry: Odometry) -> None:
            pose = odometry.pose.pose
            values = (pose.position.x, pose.position.y, pose.orientation.z, pose.orientation.w)
            # Until the node drives, time advances with rovers at rest.
            if values not in self.poses[rover][-1:]:
                self.poses[rover].append(values)
            self.stamps_ns.append(Time.from_msg(odometry.header.stamp).nanoseconds)

        return note

    def _noting_command(self, rover: str) -> Callable[[Twist], None]:
        return lambda command: self.commands[rover].append((command.linear.x, command.angular.z))

    def is_long(self) -> bool:
        """Whether every rover has driven for a while."""
        return all(len(poses) > STEPS for poses in (*self.poses.values(), *self.commands.values()))

    def has(self, parts: list[list[Values]]) -> bool:
        """Whether parts of a drive, of poses and of commands by rover, are parts of this one."""
        series = [*self.poses.values(), *self.commands.values()]
        return all(
            any(whole[first : first + len(part)] == part for first in range(len(whole)))
            for whole, part in zip(series, parts, strict=True)
        )

    def last_parts(self) -> list[list[Values]]:
        """Return the last part of the poses and commands by rover, long enough to be unique."""
        return [whole[-PART:] for whole in (*self.poses.values(), *self.commands.values())]


def parameters() -> dict[str, Any]:
    return rover_parameters(
        len(ROVERS),
        use_sim_time=True,
        policy__path="package://policy_node/models/rover.bundle",
        policy__engine="direct",
        # A tick may take any time: simulated time waits for it.
        watchdog__timeout_s=60.0,
    )


@pytest.mark.both_distributions
@pytest.mark.slow
def test_two_drives_with_one_seed_are_bitwise_equal(peer: Peer, start_node: Callable[..., NodeProcess]) -> None:
    parts: list[list[Values]] = []
    for _ in range(2):
        drive = Drive(peer)
        with rover_sim("--lockstep", "--robots", "2", "--seed", "5"):
            node = start_node(parameters())
            if not parts:
                peer.spin_until(drive.is_long, "the rovers to drive")
                parts = drive.last_parts()
                assert all(len(set(part)) == PART for part in parts[: len(ROVERS)]), "they move at every step"
            else:
                again = functools.partial(drive.has, parts)
                peer.spin_until(again, "the same poses and commands as before")
            node.end()
        assert all(stamp_ns % 50_000_000 == 0 for stamp_ns in drive.stamps_ns)


@pytest.mark.slow
def test_simulated_time_waits_for_a_new_node_when_the_node_dies(
    peer: Peer, start_node: Callable[..., NodeProcess]
) -> None:
    drive = Drive(peer)
    resets = peer.node.create_publisher(Int64, "rover_1/reset", 1)
    with rover_sim("--lockstep", "--robots", "2", "--seed", "5"):
        node = start_node(parameters())
        peer.spin_until(lambda: all(len(poses) > 5 for poses in drive.poses.values()), "the rovers to drive")
        node.send(signal.SIGKILL)
        peer.spin_for(0.5)
        stood = {rover: len(poses) for rover, poses in drive.poses.items()}
        where = {rover: poses[-1] for rover, poses in drive.poses.items()}
        assert all(set(drive.poses[rover][stood[rover] - 1 :]) == {where[rover]} for rover in ROVERS)
        start_node(parameters())
        peer.spin_until(
            lambda: all(drive.poses[rover][-1] != where[rover] for rover in ROVERS), "the next node to drive"
        )
        resets.publish(Int64(data=6))
        arena = Arena(ArenaModel())
        arena.reset(6)
        x, y, yaw = arena.pose
        start = (x, y, math.sin(yaw / 2), math.cos(yaw / 2))
        peer.spin_until(lambda: start in drive.poses["rover_1"], "the rover to begin the episode of the seed")


@pytest.mark.slow
def test_the_drive_goes_on_after_the_node_was_paused_and_lost_its_claim(
    peer: Peer, start_node: Callable[..., NodeProcess]
) -> None:
    drive = Drive(peer)
    with rover_sim("--lockstep", "--robots", "2", "--seed", "5"):
        node = start_node(parameters(), alone=False)
        peer.spin_until(lambda: all(len(poses) > 5 for poses in drive.poses.values()), "the rovers to drive")
        # Only a pause that ends shortly before a tick leaves it without a claim.
        for _ in range(4):
            os.kill(node.pid, signal.SIGSTOP)
            peer.spin_for(EXPIRY_S + 0.5)
            os.kill(node.pid, signal.SIGCONT)
            stood = {rover: len(poses) for rover, poses in drive.poses.items()}
            goes_on = functools.partial(
                lambda stood: all(len(drive.poses[rover]) > stood[rover] + 5 for rover in ROVERS), stood
            )
            peer.spin_until(goes_on, "the rovers to go on")


def test_a_reset_during_a_pause_starts_rover_and_node_at_rest(
    peer: Peer, start_node: Callable[..., NodeProcess]
) -> None:
    """The first step of an episode follows its first readings, and no command of the previous episode."""
    told: list[Values] = []
    peer.node.create_subscription(
        Float64MultiArray, "rover_0/episode", lambda message: told.append(tuple(message.data)), QUEUE
    )
    resets = peer.node.create_publisher(Int64, "rover_0/reset", 1)
    with rover_sim("--lockstep", "--robots", "1", "--seed", "5", "--reset-pause-s", "0.3"):
        start_node({**parameters(), "robots": ["rover_0"]})
        episodes: list[list[Values]] = []
        peer.spin_until(lambda: len({values[1] for values in told}) > PART, "the rover to drive")
        for seed in (6, 7, 6):
            told.clear()
            resets.publish(Int64(data=seed))
            of_seed = functools.partial(lambda seed: [values for values in told if values[0] == seed], seed)
            peer.spin_until(lambda: len(of_seed()) > PART, "the episode of the seed")  # noqa: B023
            episodes.append(of_seed()[:PART])
    assert episodes[0] == episodes[2]
    assert [round(values[1], 9) for values in episodes[0]] == [round(0.05 * step, 9) for step in range(PART)]
    assert episodes[0][0][4:] == (0.0, 0.0), "it stood still"
    assert all(any(values[4:]) for values in episodes[0][1:]), "and drove with the first command"
