# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The bond with Nav2's lifecycle_manager: with a stand-in for bondpy, and with bondpy where it is installed."""

import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from node_harness import LifecycleClient, NodeProcess, Peer, parameters_of
from std_msgs.msg import String

from policy_node.config.schema import ConfigurationError
from policy_node.ros.bond import bond, check_bond

PERIOD_S = 0.05


class StandIn:
    """A bond as bondpy has it, whose heartbeats are texts."""

    made: ClassVar[list["StandIn"]] = []

    def __init__(self, node: Any, topic: str, bond_id: str) -> None:
        self.node, self.id = node, bond_id
        self.heartbeat_period = self.heartbeat_timeout = 0.0
        self.on_formed: Callable[[], None] | None = None
        self.on_broken: Callable[[], None] | None = None
        self.pub = node.create_publisher(String, topic, 10)
        self._ended = threading.Event()
        self.made.append(self)

    def set_formed_callback(self, callback: Callable[[], None] | None) -> None:
        self.on_formed = callback

    def set_broken_callback(self, callback: Callable[[], None] | None) -> None:
        self.on_broken = callback

    def start(self) -> None:
        self.sub = self.node.create_subscription(String, "unused", print, 1)
        self._thread = threading.Thread(target=self._beat)
        self._thread.start()

    def _beat(self) -> None:
        while not self._ended.wait(self.heartbeat_period):
            self.pub.publish(String(data=f"{self.id} lives"))

    def time_out(self) -> None:
        """Do what bondpy does when the manager falls silent."""
        self.node.declare_parameter("/bond_disable_heartbeat_timeout", False)
        if not self.node.get_parameter("/bond_disable_heartbeat_timeout").value and self.on_broken is not None:
            self.on_broken()

    def break_bond(self) -> None:
        self._ended.set()
        self._thread.join()
        self.pub.publish(String(data=f"{self.id} ends"))
        if self.on_broken is not None:
            self.on_broken()

    def shutdown(self) -> None:
        self.sub.destroy()
        self.pub.destroy()


@pytest.fixture
def bondpy(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    """Let the stand-in be imported as bondpy."""
    StandIn.made.clear()
    module = types.ModuleType("bondpy.bondpy")
    monkeypatch.setattr(module, "Bond", StandIn, raising=False)
    monkeypatch.setitem(sys.modules, "bondpy", types.ModuleType("bondpy"))
    monkeypatch.setitem(sys.modules, "bondpy.bondpy", module)
    return StandIn


def test_heartbeats_are_sent_within_the_bond_and_its_end_is_told(peer: Peer, bondpy: type[StandIn]) -> None:
    heard: list[str] = []
    peer.node.create_subscription(String, "bond", lambda message: heard.append(message.data), 10)
    publishers, subscriptions = len(list(peer.node.publishers)), len(list(peer.node.subscriptions))
    name = peer.node.get_name()
    for _ in range(2):
        heard.clear()
        with bond(peer.node, PERIOD_S):
            (made,) = bondpy.made
            assert (made.heartbeat_period, made.heartbeat_timeout) == (PERIOD_S, 4.0)
            peer.spin_until(lambda: len(heard) >= 3, "heartbeats")
        peer.spin_until(lambda: heard[-1] == f"{name} ends", "the end")
        assert set(heard) == {f"{name} lives", f"{name} ends"}
        assert len(list(peer.node.publishers)) == publishers, "the node keeps nothing of the bond"
        assert len(list(peer.node.subscriptions)) == subscriptions
        bondpy.made.clear()


def test_a_broken_bond_is_logged_and_the_end_of_the_node_is_none(
    peer: Peer, bondpy: type[StandIn], capfd: pytest.CaptureFixture[str]
) -> None:
    with bond(peer.node, PERIOD_S):
        bondpy.made[0].time_out()
        assert "was not formed: no manager answers on its topic; the node drives on" in capfd.readouterr().err
        formed = bondpy.made[0].on_formed
        assert formed is not None
        formed()
        bondpy.made[0].time_out()
        bondpy.made[0].time_out()
        assert capfd.readouterr().err.count("is broken; the node drives on") == 2
        assert not peer.node.has_parameter("/bond_disable_heartbeat_timeout")
    assert "broken" not in capfd.readouterr().err


def test_without_a_period_there_is_no_bond(peer: Peer, bondpy: type[StandIn]) -> None:
    with bond(peer.node, 0.0):
        assert not bondpy.made


def test_a_bond_without_bondpy_fails_at_configure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bondpy", None)
    check_bond(0.0)
    with pytest.raises(ConfigurationError, match=r"bond_period_s: found 0\.1, .*install .*bondpy, or set 0\.0 here"):
        check_bond(0.1)


def bind_and_part(peer: Peer, lifecycle: LifecycleClient, manager: Any) -> None:
    """Take the manager's side of a bond through an activation and a deactivation of the node."""
    manager.heartbeat_period, manager.heartbeat_timeout = 0.1, 4.0
    manager.start()
    assert not peer.spin_for(1.0, lambda: manager.sm.getState().getName() != "SM.WaitingForSister")
    assert lifecycle.change("activate")
    peer.spin_until(lambda: manager.sm.getState().getName() == "SM.Alive", "the bond")
    assert not peer.spin_for(2.0, manager.is_broken)
    assert lifecycle.change("deactivate")
    peer.spin_until(manager.is_broken, "the end of the bond")
    manager.shutdown()
    # An executor would stumble over what bondpy has closed, but not removed from the node.
    peer.node.destroy_subscription(manager.sub)
    peer.node.destroy_publisher(manager.pub)


def test_the_manager_hears_the_node_while_it_is_active(
    model: Callable[..., tuple[Path, Any]], peer: Peer, start_node: Callable[..., NodeProcess]
) -> None:
    """With the real bondpy: the manager's side of the bond forms, and breaks when the node is deactivated."""
    real = pytest.importorskip("bondpy.bondpy", reason="bondpy is not installed")
    node = start_node(
        parameters_of(model()[0], ["bound"], {"autostart": False, "bond_period_s": 0.1}), name="bound_node"
    )
    lifecycle = LifecycleClient(peer, node.full_name)
    assert lifecycle.change("configure")
    for _ in range(2):
        bind_and_part(peer, lifecycle, real.Bond(peer.node, "bond", "bound_node"))
    assert lifecycle.state() == "inactive"
    assert node.text.count("bound to Nav2's lifecycle_manager") == 2
    assert "Traceback" not in node.text and "is broken" not in node.text
