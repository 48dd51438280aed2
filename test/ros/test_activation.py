# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Transitions of a node in this process that a signal interrupts."""

import threading
from pathlib import Path

import pytest
from geometry_msgs.msg import Twist
from loop_rig import save_echo
from moody import moody_parameters
from node_harness import Diagnostics, Peer
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter

from policy_node.ros import ownership
from policy_node.ros.node import PolicyNode
from policy_node.ros.process import destroy_last_node


def test_a_signal_during_the_activation_leaves_the_robots_alone(
    peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # The test would take that long if the activation did not end with the signal.
    monkeypatch.setattr(ownership, "DISCOVERY_S", 600.0)
    parameters = moody_parameters(save_echo(tmp_path / "policy.pt"), ["robot"])
    stopping = threading.Event()
    node = PolicyNode(stopping, parameter_overrides=[Parameter(key, value=value) for key, value in parameters.items()])
    commands: list[Twist] = []
    peer.node.create_subscription(Twist, "/robot/cmd_vel", commands.append, 10)
    signal = threading.Timer(0.5, stopping.set)
    try:
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        peer.spin_until(lambda: peer.node.count_publishers("/robot/cmd_vel"), "the command topic")
        signal.start()
        assert node.trigger_activate() == TransitionCallbackReturn.FAILURE
        log = capfd.readouterr().err
        assert "activate was interrupted by a signal" in log and "failed" not in log
        assert "control_loop" not in {thread.name for thread in threading.enumerate()}
    finally:
        signal.cancel()
        node.stop()
        destroy_last_node(node)
    peer.spin_for(0.2)
    assert not commands


def test_after_an_interrupted_configure_the_diagnostics_show_an_unconfigured_node(peer: Peer, tmp_path: Path) -> None:
    parameters = moody_parameters(save_echo(tmp_path / "policy.pt"), ["robot"])
    stopping = threading.Event()
    stopping.set()
    diagnostics = Diagnostics(peer)
    node = PolicyNode(stopping, parameter_overrides=[Parameter(key, value=value) for key, value in parameters.items()])
    try:
        peer.spin_until(lambda: node.count_subscribers("/diagnostics"), "the subscription")
        assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
        shown = lambda: [status.message for array in diagnostics.arrays for status in array.status]  # noqa: E731
        peer.spin_until(lambda: any(text.startswith("configuring") for text in shown()), "the transition")
        peer.spin_until(lambda: shown()[-1] == "unconfigured: no robot is driven", "the end of the transition")
    finally:
        node.stop()
        destroy_last_node(node)
