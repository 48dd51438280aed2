# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The monitor of deadline and liveliness, over the middleware."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rclpy
from geometry_msgs.msg import Twist
from node_harness import NodeProcess, Peer, ScriptedFleet, parameters_of
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.waitable import NumberOfEntities, Waitable

from policy_node.ros.publishers import command_qos
from policy_node.ros.rclpy_internals import spinning
from policy_node_rover.mujoco.simulated_rover import DeadlineMonitor

pytestmark = [pytest.mark.both_distributions, pytest.mark.timing]

WITHIN_S = 0.5


@pytest.fixture
def watcher(ros: None) -> Iterator[Node]:
    """Return a node that nobody spins: the monitor polls."""
    node = rclpy.create_node("watcher")
    yield node
    node.destroy_node()


class WaitCounter(Waitable):  # type: ignore[type-arg]  # not generic with Jazzy
    """Counts how often an executor waits for the entities of its node."""

    waits = 0

    def __enter__(self) -> None:
        """Do nothing: there is nothing to destroy."""

    def __exit__(self, *exception: object) -> None:
        """Do nothing."""

    def add_to_wait_set(self, wait_set: object) -> None:
        self.waits += 1

    def is_ready(self, wait_set: object) -> bool:
        return False

    def take_data(self) -> None:
        raise AssertionError("never ready")

    async def execute(self, taken_data: None) -> None:
        raise AssertionError("never ready")

    def get_num_entities(self) -> NumberOfEntities:
        return NumberOfEntities()


def test_a_missed_deadline_is_reported_once(peer: Peer, watcher: Node) -> None:
    publisher = peer.node.create_publisher(Twist, "watched", command_qos(0.2))
    monitor = DeadlineMonitor(watcher, Twist, "watched", WITHIN_S)
    peer.spin_until(publisher.get_subscription_count, "the monitor")
    for _ in range(2):
        publisher.publish(Twist())
        peer.spin_until(monitor.publisher_is_lost, "the missed deadline")
        assert not peer.spin_for(3 * WITHIN_S, monitor.publisher_is_lost), "reported once until the next command"


def test_publishers_without_deadline_are_received_and_not_monitored(peer: Peer, watcher: Node) -> None:
    received: list[Twist] = []
    peer.node.create_subscription(Twist, "teleoperation", received.append, 1)
    monitor = DeadlineMonitor(watcher, Twist, "teleoperation", WITHIN_S)
    publisher = peer.node.create_publisher(Twist, "teleoperation", 1)
    peer.spin_until(publisher.get_subscription_count, "the subscription")
    publisher.publish(Twist())
    peer.spin_until(lambda: received, "the command")
    assert not peer.spin_for(3 * WITHIN_S, monitor.publisher_is_lost)


def test_a_killed_node_misses_its_deadline(
    model: Callable[..., tuple[Path, Any]], peer: Peer, watcher: Node, start_node: Callable[..., NodeProcess]
) -> None:
    process = start_node(parameters_of(model()[0], ["robot"], {"action.deadline_s": 0.2}))
    # Subscribers that request no deadline get the commands, too.
    fleet = ScriptedFleet(peer, ["robot"])
    monitor = DeadlineMonitor(watcher, Twist, "robot/cmd_vel", WITHIN_S)
    peer.spin_until(lambda: len(fleet.commands["robot"]) > 5, "commands")
    process.send(signal.SIGKILL)
    peer.spin_until(monitor.publisher_is_lost, "the missed deadline")


def test_commands_that_wait_to_be_taken_leave_the_executor_asleep(peer: Peer, watcher: Node) -> None:
    counter = WaitCounter(ReentrantCallbackGroup())
    watcher.add_waitable(counter)
    publisher = peer.node.create_publisher(Twist, "watched", command_qos(0.2))
    monitor = DeadlineMonitor(watcher, Twist, "watched", WITHIN_S)
    peer.spin_until(publisher.get_subscription_count, "the monitor")
    with spinning(watcher):
        peer.spin_until(lambda: counter.waits, "the executor")
        waits = counter.waits
        for _ in range(20):
            publisher.publish(Twist())
            peer.spin_for(0.02, lambda: None)
        # The graph may have changed.
        assert counter.waits <= waits + 5
        peer.spin_until(monitor.publisher_is_lost, "the missed deadline")
