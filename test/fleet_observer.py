# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Run as a process: waits until every rover has got a command that moves it, then prints who commands it, as JSON."""

import json
import sys

from geometry_msgs.msg import Twist
from node_harness import Peer

from policy_node.ros.process import open_ros


def observe(robots: list[str]) -> dict[str, list[str]]:
    """Return the full names of the nodes that publish each robot's commands."""
    peer = Peer()
    moved: set[str] = set()

    def note(robot: str, command: Twist) -> None:
        if command.linear.x or command.angular.z:
            moved.add(robot)

    for robot in robots:
        peer.node.create_subscription(Twist, f"/{robot}/cmd_vel", lambda command, robot=robot: note(robot, command), 10)
    peer.spin_until(lambda: len(moved) == len(robots), f"commands that move {robots}")

    def owners() -> dict[str, list[str]]:
        return {
            robot: [info.node_name for info in peer.node.get_publishers_info_by_topic(f"/{robot}/cmd_vel")]
            for robot in robots
        }

    # Names of nodes come after their topics.
    peer.spin_until(lambda: all("UNKNOWN" not in name for names in owners().values() for name in names), "their names")
    found = owners()
    peer.destroy()
    return found


if __name__ == "__main__":
    with open_ros():
        print(json.dumps(observe(sys.argv[1:])))
