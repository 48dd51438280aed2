# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The simulation in lockstep with the node, each in its own process: a drive depends on nothing but its seed."""

import signal
from collections.abc import Callable
from typing import Any

import numpy as np
from geometry_msgs.msg import Twist
from nav_msgs.msg import Odometry
from node_harness import NodeProcess, Peer
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.time import Time
from rover_simulation import rover_parameters, rover_sim
from std_msgs.msg import Int64

ROVERS = ("rover_0", "rover_1")
STEPS = 40
QUEUE = QoSProfile(depth=2000, reliability=ReliabilityPolicy.RELIABLE)


class Drive:
    """Commands and poses of the rovers, from the first pose that a command has changed."""

    def __init__(self, peer: Peer) -> None:
        self.poses: dict[str, list[tuple[float, ...]]] = {rover: [] for rover in ROVERS}
        self.commands: dict[str, list[tuple[float, ...]]] = {rover: [] for rover in ROVERS}
        self.stamps_ns: list[int] = []
        for rover in ROVERS:
            peer.node.create_subscription(Odometry, f"{rover}/odom", self._noting(rover), QUEUE)
            peer.node.create_subscription(
                Twist,
                f"{rover}/cmd_vel",
                lambda command, rover=rover: self.commands[rover].append((command.linear.x, command.angular.z)),
                QUEUE,
            )

    def _noting(self, rover: str) -> Callable[[Odometry], None]:
        def note(odometry: Odometry) -> None:
            pose = odometry.pose.pose
            values = (pose.position.x, pose.position.y, pose.orientation.z, pose.orientation.w)
            # Until the node drives, times go on with rovers that stand still.
            if not self.poses[rover] or len(self.poses[rover]) > 1 or values != self.poses[rover][0]:
                self.poses[rover].append(values)
            self.stamps_ns.append(Time.from_msg(odometry.header.stamp).nanoseconds)

        return note

    def is_done(self) -> bool:
        """Whether every rover has driven for long enough."""
        return all(len(poses) > STEPS for poses in self.poses.values())


def parameters() -> dict[str, Any]:
    return rover_parameters(
        len(ROVERS),
        use_sim_time=True,
        policy__path="package://policy_node/models/rover.bundle",
        policy__engine="direct",
        # A tick may take as long as it likes: time waits for it.
        watchdog__timeout_s=60.0,
    )


def test_two_drives_with_one_seed_are_equal_bit_by_bit(peer: Peer, start_node: Callable[..., NodeProcess]) -> None:
    drives = []
    for _ in range(2):
        drive = Drive(peer)
        with rover_sim("--lockstep", "--robots", "2", "--seed", "5"):
            node = start_node(parameters())
            peer.spin_until(drive.is_done, "the rovers to drive")
            node.end()
        drives.append(drive)
    first, second = drives
    for rover in ROVERS:
        assert first.poses[rover][:STEPS] == second.poses[rover][:STEPS]
        driven = [[command for command in drive.commands[rover] if command != (0.0, 0.0)] for drive in drives]
        assert driven[0][: STEPS - 1] == driven[1][: STEPS - 1]
        assert len(np.unique(driven[0], axis=0)) > STEPS // 2
    assert all(stamp_ns % 50_000_000 == 0 for stamp_ns in first.stamps_ns)


def test_time_waits_for_a_commander_that_died_and_goes_on_with_the_next(
    peer: Peer, start_node: Callable[..., NodeProcess]
) -> None:
    drive = Drive(peer)
    resets = peer.node.create_publisher(Int64, "rover_1/reset", 1)
    with rover_sim("--lockstep", "--robots", "2", "--seed", "5"):
        node = start_node(parameters())
        peer.spin_until(drive.is_done, "the rovers to drive")
        node.send(signal.SIGKILL)
        peer.spin_for(0.5)
        stood = {rover: len(poses) for rover, poses in drive.poses.items()}
        where = {rover: poses[-1] for rover, poses in drive.poses.items()}
        assert all(set(drive.poses[rover][stood[rover] - 1 :]) == {where[rover]} for rover in ROVERS)
        start_node(parameters())
        peer.spin_until(
            lambda: all(drive.poses[rover][-1] != where[rover] for rover in ROVERS), "the next node to drive"
        )
        # Its episode begins anew where it began before.
        resets.publish(Int64(data=6))
        start = drive.poses["rover_1"][0]
        peer.spin_until(lambda: start in drive.poses["rover_1"][stood["rover_1"] :], "the rover to begin anew")
