# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""What the tick thread guarantees when a tick hangs or fails, with real topics."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import Twist
from node_harness import PATIENCE_S, Peer, ScriptedFleet, command_values, parameters_of

from policy_node.configuration import parse_configuration
from policy_node.policies import Policy, load_policy
from policy_node.ros import control_loop, swap
from policy_node.ros.control_loop import ControlLoop
from policy_node.ros.messages import command_encoder
from policy_node.ros.publishers import CommandPublishers
from policy_node.ros.subscriptions import SensorSubscriptions
from policy_node.ros.swap import deploy

SAFE = (0.125, -0.25)


class BlockingPolicy:
    """A policy that hangs while `blocked` is set."""

    def __init__(self, policy: Policy) -> None:
        self.spec, self.device = policy.spec, policy.device
        self.initial_state, self.reset = policy.initial_state, policy.reset
        self._policy = policy
        self.blocked = threading.Event()
        self.hangs = threading.Event()
        self.released = threading.Event()

    def __call__(self, observations: Any, state: Any) -> Any:
        if self.blocked.is_set():
            self.hangs.set()
            assert self.released.wait(PATIENCE_S)
        return self._policy(observations, state)


class Rig:
    """One scripted robot, and the loop that drives it in this process."""

    def __init__(self, peer: Peer, model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        changes = {"action.safe_command": list(SAFE), "synchronisation.max_age_s": 5.0}
        configuration = parse_configuration(parameters_of(model_file, ["robot"], changes))
        monkeypatch.setattr(swap, "load_policy", lambda *given, **named: BlockingPolicy(load_policy(*given, **named)))
        deployment = deploy(configuration)
        self.policy = deployment.policy
        fields = configuration.action.fields
        encoder = command_encoder(configuration.action.type, 2, fields=fields, time_from_start_s=0.1)
        self.failures: list[Exception] = []
        self.sensors = SensorSubscriptions(peer.node, configuration, deployment.decoders)
        self.publishers = CommandPublishers(peer.node, configuration, encoder)
        self.loop = ControlLoop(
            configuration,
            deployment.pipeline,
            self.sensors,
            self.publishers,
            peer.node.get_clock(),
            simulated=False,
            logger=peer.node.get_logger(),
            on_failure=self.failures.append,
        )
        self.fleet = ScriptedFleet(peer, ["robot"], Twist)
        self.fleet.wait_until_heard()

    def drives(self) -> bool:
        newest = self.fleet.newest("robot")
        return newest is not None and not np.array_equal(newest, SAFE)

    def destroy(self) -> None:
        self.policy.released.set()
        self.loop.stop()
        self.sensors.destroy()
        self.publishers.destroy()


@pytest.fixture
def rig(peer: Peer, model: Callable[..., tuple[Path, Any]], monkeypatch: pytest.MonkeyPatch) -> Any:
    rig = Rig(peer, model()[0], monkeypatch)
    yield rig
    rig.destroy()


def test_a_robot_is_safe_although_the_tick_hangs(rig: Rig, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_loop, "STOP_TIMEOUT_S", 0.1)
    rig.loop.start()
    rig.fleet.drive(rig.drives, "commands of the policy")
    rig.policy.blocked.set()
    rig.fleet.drive(rig.policy.hangs.is_set, "the tick to hang")
    peer.spin_for(0.2)
    rig.fleet.clear()
    assert not rig.loop.stop()
    peer.spin_until(lambda: rig.fleet.commands["robot"], "the safe command")
    # What the tick still computes must reach nobody.
    rig.policy.released.set()
    peer.spin_for(0.5)
    assert [tuple(command_values(command)) for command in rig.fleet.commands["robot"]] == [SAFE]
    assert rig.loop.stop()


def test_a_loop_that_fails_makes_its_robot_safe_and_says_so(rig: Rig, peer: Peer) -> None:
    rig.loop.start()
    rig.fleet.drive(rig.drives, "commands of the policy")
    rig.sensors.destroy()
    # A subscription that is gone ends the loop at its next tick, as does anything else that nobody foresaw.
    rig.sensors.take = _fail  # type: ignore[method-assign]
    peer.spin_until(lambda: rig.failures, "the failure")
    peer.spin_until(lambda: not rig.drives(), "the safe command")
    assert rig.loop.failure is rig.failures[0]


def _fail(*arguments: object) -> None:
    raise RuntimeError("nobody foresaw this")
