# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Deadline and liveliness of the commands, as those who receive them see it over the middleware."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rclpy
from geometry_msgs.msg import Twist
from node_harness import NodeProcess, Peer, ScriptedFleet, parameters_of
from rclpy.node import Node

from policy_node.ros.publishers import command_qos
from policy_node_rover.mujoco.deadline_monitor import DeadlineMonitor

WITHIN_S = 0.5


@pytest.fixture
def watcher(ros: None) -> Iterator[Node]:
    """Return a node that nobody spins."""
    node = rclpy.create_node("watcher")
    yield node
    node.destroy_node()


def test_each_silence_of_a_watched_publisher_is_told_once(peer: Peer, watcher: Node) -> None:
    publisher = peer.node.create_publisher(Twist, "watched", command_qos(0.2))
    watch = DeadlineMonitor(watcher, Twist, "watched", WITHIN_S)
    peer.spin_until(publisher.get_subscription_count, "the watch")
    for _ in range(2):
        publisher.publish(Twist())
        peer.spin_until(watch.publisher_is_lost, "the missed deadline")
        assert not peer.spin_for(3 * WITHIN_S, watch.publisher_is_lost), "until it commands again"


def test_publishers_that_offer_less_still_reach_those_who_do_not_watch(peer: Peer, watcher: Node) -> None:
    received: list[Twist] = []
    peer.node.create_subscription(Twist, "teleoperation", received.append, 1)
    watch = DeadlineMonitor(watcher, Twist, "teleoperation", WITHIN_S)
    publisher = peer.node.create_publisher(Twist, "teleoperation", 1)
    peer.spin_until(publisher.get_subscription_count, "the subscription")
    publisher.publish(Twist())
    peer.spin_until(lambda: received, "the command")
    assert not peer.spin_for(3 * WITHIN_S, watch.publisher_is_lost)


def test_a_node_that_is_killed_is_missed(
    model: Callable[..., tuple[Path, Any]], peer: Peer, watcher: Node, start_node: Callable[..., NodeProcess]
) -> None:
    process = start_node(parameters_of(model()[0], ["robot"], {"action.deadline_s": 0.2}))
    # Subscribers that ask for nothing get the commands all the same.
    fleet = ScriptedFleet(peer, ["robot"])
    watch = DeadlineMonitor(watcher, Twist, "robot/cmd_vel", WITHIN_S)
    peer.spin_until(lambda: len(fleet.commands["robot"]) > 5, "commands")
    process.send(signal.SIGKILL)
    peer.spin_until(watch.publisher_is_lost, "the missed deadline")
