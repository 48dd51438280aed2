# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""What command publishers send, in one process, and on real topics when sending is delayed."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import Twist
from node_harness import Peer, command_values, parameters_of
from rclpy.duration import Duration
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, HistoryPolicy, LivelinessPolicy, ReliabilityPolicy
from rclpy.serialization import deserialize_message

from policy_node.config.schema import parse_configuration
from policy_node.control.tick import SentCommands
from policy_node.messages.codecs import command_encoder
from policy_node.ros import publishers as publishers_module
from policy_node.ros.process import Interrupted
from policy_node.ros.publishers import ACKNOWLEDGE_S, CommandPublishers, command_qos

ROBOTS = ("one", "two", "three")


class Recorder:
    """A publisher that keeps what it sends, or fails while `error` is set."""

    def __init__(self, publisher: Publisher) -> None:
        self.publisher = publisher
        self.sent: list[bytes] = []
        self.waited_s: list[float] = []
        self.error: Exception | None = None

    def publish_raw(self, message: bytes) -> None:
        if self.error is not None:
            raise self.error
        self.sent.append(message)

    def wait_for_all_acked(self, timeout: Duration) -> None:
        self.waited_s.append(timeout.nanoseconds / 1e9)


class Rig:
    """Publishers of three robots that only record."""

    def __init__(self, peer: Peer, model: Callable[..., tuple[Path, Any]], **changes: Any) -> None:
        configuration = parse_configuration(parameters_of(model()[0], ROBOTS, changes))
        action = configuration.action
        encoder = command_encoder(action.type, 2, fields=action.fields, time_from_start_s=0.1)
        self.publishers = CommandPublishers(peer.node, configuration, [encoder])
        self.recorders = [Recorder(publisher) for publisher in self.publishers._publishers]
        self._own, self.publishers._publishers = self.publishers._publishers, self.recorders  # type: ignore[assignment]
        self.publishers._senders = [recorder.publish_raw for recorder in self.recorders]
        self.batches: list[SentCommands] = []
        self.publishers.on_sent = self.batches.append

    def take(self) -> list[list[tuple[float, ...]]]:
        """Return the commands that each robot was sent since the last call."""
        sent = [
            [tuple(command_values(deserialize_message(message, Twist)).tolist()) for message in recorder.sent]
            for recorder in self.recorders
        ]
        for recorder in self.recorders:
            recorder.sent.clear()
        return sent

    def destroy(self) -> None:
        self.publishers._publishers = self._own
        self.publishers.destroy()


@pytest.fixture
def rig(peer: Peer, model: Callable[..., tuple[Path, Any]]) -> Iterator[Rig]:
    rig = Rig(peer, model)
    yield rig
    rig.destroy()


COMMANDS, EVERYBODY = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), np.ones(3, bool)
EACH = [[(1.0, 2.0)], [(3.0, 4.0)], [(5.0, 6.0)]]


def test_each_robot_gets_its_row_and_only_those_that_are_to(rig: Rig) -> None:
    delivery = rig.publishers.publish(COMMANDS, np.array([True, False, True]), 7)
    assert rig.take() == [EACH[0], [], EACH[2]]
    assert (delivery.sent.tolist(), delivery.late, delivery.error) == ([True, False, True], [], None)
    (batch,) = rig.batches
    assert batch.time_ns == 7 and batch.of_tick and sorted(batch.messages) == [0, 2]
    # Nobody is told of commands that nobody got.
    assert not rig.publishers.publish(COMMANDS, ~EVERYBODY, 8).sent.any() and len(rig.batches) == 1


def test_safe_commands_leave_robots_without_one_alone(rig: Rig, peer: Peer) -> None:
    safe = COMMANDS.copy()
    safe[1, 0] = np.nan
    before_ns = peer.node.get_clock().now().nanoseconds
    assert rig.publishers.send_safe(safe).sent.tolist() == [True, False, True]
    assert rig.take() == [EACH[0], [], EACH[2]]
    (batch,) = rig.batches
    assert not batch.of_tick and before_ns <= batch.time_ns <= peer.node.get_clock().now().nanoseconds
    assert rig.publishers.without_safe_command == ()
    # They block nothing.
    assert rig.publishers.publish(COMMANDS, EVERYBODY, 0).sent.all()


def test_nothing_follows_the_commands_of_a_stop_until_it_ends(rig: Rig, peer: Peer) -> None:
    safe = COMMANDS.copy()
    safe[1, 1] = np.inf
    before_ns = peer.node.get_clock().now().nanoseconds
    rig.publishers.stop(safe)
    assert rig.take() == [EACH[0], [], EACH[2]] and not rig.batches[-1].of_tick
    assert before_ns <= rig.batches[-1].time_ns <= peer.node.get_clock().now().nanoseconds
    assert rig.publishers.without_safe_command == ("two",)
    assert [bool(recorder.waited_s) for recorder in rig.recorders] == [True, False, True]
    assert all(0.0 < recorder.waited_s[0] <= ACKNOWLEDGE_S for recorder in rig.recorders[::2])
    for delivery in (rig.publishers.publish(COMMANDS, EVERYBODY, 0), rig.publishers.send_safe(COMMANDS)):
        assert not delivery.sent.any() and not delivery.late and delivery.error is None
    # A stop is repeated whenever it is asked for.
    rig.publishers.stop(COMMANDS)
    assert rig.take() == EACH and not rig.publishers.without_safe_command
    rig.publishers.resume()
    assert rig.publishers.publish(COMMANDS, EVERYBODY, 0).sent.all() and rig.take() == EACH


def test_nothing_is_sent_after_the_topics_are_removed(rig: Rig) -> None:
    rig.publishers._publishers = rig._own
    rig.publishers.destroy()
    delivery = rig.publishers.publish(COMMANDS, EVERYBODY, 0)
    assert not delivery.sent.any() and delivery.error is None and rig.take() == [[], [], []]


def test_a_command_is_late_after_its_time_not_at_it(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishers_module, "time", SimpleNamespace(perf_counter=lambda: 100.0))
    until_s = np.array([100.0, 99.875, 100.125])
    delivery = rig.publishers.publish(COMMANDS, EVERYBODY, 0, until_s)
    assert delivery.late == [1] and delivery.sent.tolist() == [True, False, True]


def test_the_wait_for_the_last_commands_ends_for_all_robots_together(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = iter([100.0, 100.0, 100.0 + ACKNOWLEDGE_S / 2, 101.0])
    monkeypatch.setattr(
        publishers_module, "time", SimpleNamespace(perf_counter=time.perf_counter, monotonic=lambda: next(now_s))
    )
    rig.publishers.stop(COMMANDS)
    assert [recorder.waited_s for recorder in rig.recorders] == [[ACKNOWLEDGE_S], [ACKNOWLEDGE_S / 2], [0.0]]


def test_the_node_logs_that_commands_cannot_be_sent_as_bytes(
    peer: Peer, model: Callable[..., tuple[Path, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[str] = []
    monkeypatch.setattr(publishers_module, "direct_send", lambda publisher, logger: logged.append(logger.name))
    configuration = parse_configuration(parameters_of(model()[0], ROBOTS, {}))
    encoder = command_encoder(configuration.action.type, 2, fields=configuration.action.fields, time_from_start_s=0.1)
    CommandPublishers(peer.node, configuration, [encoder]).destroy()
    assert logged == [peer.node.get_logger().name] * 3


def test_a_failure_is_the_first_one_and_concerns_its_robot_only(rig: Rig) -> None:
    errors = [RuntimeError("first"), RuntimeError("second")]
    rig.recorders[0].error, rig.recorders[1].error = errors
    for delivery in (rig.publishers.publish(COMMANDS, EVERYBODY, 0), rig.publishers.send_safe(COMMANDS)):
        assert delivery.error is errors[0] and delivery.sent.tolist() == [False, False, True]
    with pytest.raises(RuntimeError, match="first"):
        rig.publishers.stop(COMMANDS)
    assert rig.take() == [[], [], [(5.0, 6.0)] * 3]
    assert not rig.publishers.publish(COMMANDS, EVERYBODY, 0).sent.any()


@pytest.mark.parametrize(("deadline_s", "lease_s"), [(0.02, 0.1), (0.5, 0.5)])
def test_command_topics_offer_reliable_newest_commands_with_a_deadline(deadline_s: float, lease_s: float) -> None:
    qos = command_qos(deadline_s)
    assert (qos.depth, qos.reliability, qos.history) == (1, ReliabilityPolicy.RELIABLE, HistoryPolicy.KEEP_LAST)
    assert (qos.durability, qos.liveliness) == (DurabilityPolicy.VOLATILE, LivelinessPolicy.AUTOMATIC)
    assert qos.deadline.nanoseconds == round(deadline_s * 1e9)
    assert qos.liveliness_lease_duration.nanoseconds == round(lease_s * 1e9)


@pytest.mark.both_distributions
def test_a_command_that_has_become_too_old_is_not_sent(peer: Peer, model: Callable[..., tuple[Path, Any]]) -> None:
    configuration = parse_configuration(parameters_of(model()[0], ROBOTS, {}))
    encoder = command_encoder(configuration.action.type, 2, fields=configuration.action.fields, time_from_start_s=0.1)
    publishers = CommandPublishers(peer.node, configuration, [encoder])
    heard: dict[str, list[Twist]] = {robot: [] for robot in ROBOTS}
    for robot in ROBOTS:
        peer.node.create_subscription(Twist, f"{robot}/cmd_vel", heard[robot].append, 10)
    commands, everybody = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), np.ones(3, bool)

    def all_heard() -> bool:
        assert publishers.publish(commands, everybody, 0).sent.all()
        return all(heard.values())

    peer.spin_until(all_heard, "commands")
    peer.spin_for(0.2)
    for messages in heard.values():
        messages.clear()
    # The second one's readings are too old by now; the third robot has none, and gets its safe command.
    until_s = np.array([np.inf, time.perf_counter() - 0.001, np.nan])
    delivery = publishers.publish(commands, everybody, 0, until_s)
    assert delivery.late == [1] and delivery.sent.tolist() == [True, False, True] and delivery.error is None
    peer.spin_until(lambda: bool(heard["one"] and heard["three"]), "commands")
    peer.spin_for(0.2)
    assert [[tuple(command_values(message)) for message in heard[robot]] for robot in ROBOTS] == [
        [(1.0, 2.0)],
        [],
        [(5.0, 6.0)],
    ]
    publishers.destroy()


def test_a_signal_ends_the_creation_of_topics(peer: Peer, model: Callable[..., tuple[Path, Any]]) -> None:
    configuration = parse_configuration(parameters_of(model()[0], ROBOTS, {}))
    encoder = command_encoder(configuration.action.type, 2, fields=configuration.action.fields, time_from_start_s=0.1)
    before = len(list(peer.node.publishers))
    stopping = threading.Event()
    CommandPublishers(peer.node, configuration, [encoder], stopping).destroy()
    stopping.set()
    with pytest.raises(Interrupted):
        CommandPublishers(peer.node, configuration, [encoder], stopping)
    assert len(list(peer.node.publishers)) == before
