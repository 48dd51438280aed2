# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""An operator takes a robot over through twist_mux, as doc/onboard.md describes it."""

import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from geometry_msgs.msg import Twist
from node_harness import NodeProcess, Peer, ScriptedFleet, parameters_of
from std_msgs.msg import Bool

from policy_node.config.package_files import share_path

TELEOPERATED = 0.123


class Multiplexer:
    """Does what twist_mux does: forwards a command at once if no topic of higher priority is alive, and no lock holds.

    Topics, priorities and timeouts are those of `config/twist_mux.yaml`. twist_mux itself needs a ROS installation.
    """

    def __init__(self, peer: Peer, namespace: str) -> None:
        parameters = yaml.safe_load(share_path("config", "twist_mux.yaml").read_text())["/**"]["ros__parameters"]
        self._topics, self._locks = parameters["topics"], parameters["locks"]
        self._heard_s = dict.fromkeys(self._topics, -np.inf)
        self._locked = dict.fromkeys(self._locks, False)
        self._publisher = peer.node.create_publisher(Twist, f"{namespace}/cmd_vel", 1)
        for name, topic in self._topics.items():
            peer.node.create_subscription(Twist, f"{namespace}/{topic['topic']}", partial(self._on_command, name), 10)
        for name, lock in self._locks.items():
            peer.node.create_subscription(Bool, f"{namespace}/{lock['topic']}", partial(self._on_lock, name), 10)

    def _on_lock(self, name: str, message: Bool) -> None:
        self._locked[name] = message.data

    def _on_command(self, name: str, message: Twist) -> None:
        now_s = time.monotonic()
        self._heard_s[name] = now_s
        locked = max((lock["priority"] for key, lock in self._locks.items() if self._locked[key]), default=0)
        alive = [
            key
            for key, topic in self._topics.items()
            if now_s - self._heard_s[key] <= topic["timeout"] and topic["priority"] >= locked
        ]
        if alive and name == max(alive, key=lambda key: self._topics[key]["priority"]):
            self._publisher.publish(message)


def test_an_operator_takes_over_through_the_multiplexer_and_hands_back(
    model: Callable[..., tuple[Path, Any]], peer: Peer, start_node: Callable[..., NodeProcess]
) -> None:
    Multiplexer(peer, "/muxed")
    fleet = ScriptedFleet(peer, ["muxed"])
    operator = peer.node.create_publisher(Twist, "/muxed/cmd_vel_teleop", 1)
    pause = peer.node.create_publisher(Bool, "/muxed/pause", 1)
    node = start_node(parameters_of(model()[0], ["muxed"], {"action.topic": "cmd_vel_policy"}))
    command = Twist()
    command.linear.x = TELEOPERATED

    def of_operator() -> list[bool]:
        return [message == command for message in fleet.commands["muxed"]]

    def drive(condition: Callable[[], bool], what: str, teleoperate: bool = False) -> None:
        fleet.clear()
        fleet.drive(condition, what, publish_more=lambda: operator.publish(command) if teleoperate else None)

    drive(lambda: len(of_operator()) > 5, "commands of the policy")
    assert not any(of_operator())
    drive(lambda: any(of_operator()), "the operator", teleoperate=True)
    drive(lambda: len(of_operator()) > 10, "more commands", teleoperate=True)
    assert all(of_operator()), "the policy stays silent for the robot"
    drive(lambda: len(of_operator()) > 5 and not any(of_operator()[-5:]), "the policy")

    pause.publish(Bool(data=True))
    stop_s = time.monotonic() + 0.5
    drive(lambda: time.monotonic() > stop_s, "the lock")
    stop_s = time.monotonic() + 0.5
    drive(lambda: time.monotonic() > stop_s, "silence", teleoperate=True)
    assert not fleet.commands["muxed"], "nobody drives"
    pause.publish(Bool(data=False))
    drive(lambda: bool(of_operator()) and not of_operator()[-1], "the policy")

    fleet.clear()
    node.send(signal.SIGTERM)
    peer.spin_until(lambda: fleet.commands["muxed"] and fleet.commands["muxed"][-1] == Twist(), "the safe command")


@pytest.mark.parametrize("name", ["teleoperation", "policy"])
def test_the_multiplexer_forgets_a_topic_no_sooner_than_the_node_offers_commands(name: str) -> None:
    parameters = yaml.safe_load(share_path("config", "twist_mux.yaml").read_text())["/**"]["ros__parameters"]
    rover = yaml.safe_load(share_path("config", "rover.yaml").read_text())["/**"]["ros__parameters"]
    assert parameters["topics"][name]["timeout"] >= 3.0 / rover["control_rate_hz"]
