# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Command publishers on real topics when sending is delayed."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import Twist
from node_harness import Peer, command_values, parameters_of

from policy_node.config.schema import parse_configuration
from policy_node.messages.codecs import command_encoder
from policy_node.ros.process import Interrupted
from policy_node.ros.publishers import CommandPublishers

pytestmark = pytest.mark.both_distributions

ROBOTS = ("one", "two", "three")


def test_a_command_that_has_become_too_old_is_not_sent(peer: Peer, model: Callable[..., tuple[Path, Any]]) -> None:
    configuration = parse_configuration(parameters_of(model()[0], ROBOTS, {}))
    encoder = command_encoder(configuration.action.type, 2, fields=configuration.action.fields, time_from_start_s=0.1)
    publishers = CommandPublishers(peer.node, configuration, encoder)
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
    CommandPublishers(peer.node, configuration, encoder, stopping).destroy()
    stopping.set()
    with pytest.raises(Interrupted):
        CommandPublishers(peer.node, configuration, encoder, stopping)
    assert len(list(peer.node.publishers)) == before
