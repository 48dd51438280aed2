# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Guarantees of the tick thread on real topics when a tick hangs or fails."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import Twist
from node_harness import PATIENCE_S, Peer, ScriptedFleet, command_values, parameters_of, random_reading
from rclpy.clock import Clock
from rclpy.duration import Duration
from rclpy.time import Time

from policy_node.config.schema import parse_configuration
from policy_node.messages.codecs import command_encoder
from policy_node.policies import Policy, WrappedPolicy, load_policy
from policy_node.ros import control_loop
from policy_node.ros.control_loop import ControlLoop
from policy_node.ros.deployment import deploy
from policy_node.ros.publishers import CommandPublishers
from policy_node.ros.subscriptions import SensorSubscriptions

pytestmark = pytest.mark.timing

SAFE = (0.125, -0.25)


class BlockingPolicy(WrappedPolicy):
    """A policy that hangs while `blocked` is set."""

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        self.blocked = threading.Event()
        self.hangs = threading.Event()
        self.released = threading.Event()

    def act(self, observations: Any, memory: Any, masks: Any) -> Any:
        if self.blocked.is_set():
            self.hangs.set()
            assert self.released.wait(PATIENCE_S)
        return self.source.act(observations, memory, masks)


class SetClock:
    """A system clock that is set.

    Parameters
    ----------
    clock
        The clock, which nobody may set for a test.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.offset = Duration()

    def now(self) -> Time:
        return self._clock.now() + self.offset


class Rig:
    """One scripted robot, and the loop that drives it in this process."""

    def __init__(self, peer: Peer, model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        # Other tests cover the watchdog.
        changes = {"synchronisation.max_age_s": 5.0, "watchdog.timeout_s": 60.0, "action.safe_command": list(SAFE)}
        self.clock = SetClock(peer.node.get_clock())
        configuration = parse_configuration(parameters_of(model_file, ["robot"], changes))
        monkeypatch.setattr(
            "policy_node.ros.deployment.load_policy",
            lambda *given, **named: BlockingPolicy(load_policy(*given, **named)),
        )
        deployment = deploy(configuration)
        self.policy = deployment.policy
        fields = configuration.action.fields
        encoder = command_encoder(configuration.action.type, 2, fields=fields, time_from_start_s=0.1)
        self.failures: list[Exception] = []
        self.may_command = threading.Event()
        self.may_command.set()
        self.sensors = SensorSubscriptions(peer.node, configuration, deployment.decoders)
        self.publishers = CommandPublishers(peer.node, configuration, [encoder])
        self.loop = ControlLoop(
            configuration,
            deployment.pipeline,
            self.sensors,
            self.publishers,
            self.clock,
            simulated=False,
            logger=peer.node.get_logger(),
            on_failure=self.failures.append,
            may_command=self.may_command.is_set,
        )
        self.fleet = ScriptedFleet(peer, ["robot"], Twist)
        self.fleet.wait_until_heard()

    def send(self) -> None:
        """Publish a reading with the time of the clock."""
        self.fleet.publish("robot", self.clock.now().nanoseconds, *random_reading(np.random.default_rng()))

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


@pytest.mark.both_distributions
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
    # The command that the tick still computes must not be sent.
    rig.policy.released.set()
    peer.spin_for(0.5)
    assert [tuple(command_values(command)) for command in rig.fleet.commands["robot"]] == [SAFE]
    assert rig.loop.stop()


def test_a_loop_that_fails_makes_its_robot_safe_and_reports_it(rig: Rig, peer: Peer) -> None:
    rig.loop.start()
    rig.fleet.drive(rig.drives, "commands of the policy")
    rig.sensors.destroy()
    # A destroyed subscription ends the loop at its next tick, as any unforeseen error does.
    rig.sensors.take = _fail  # type: ignore[method-assign]
    peer.spin_until(lambda: rig.failures, "the failure")
    peer.spin_until(lambda: not rig.drives(), "the safe command")
    assert rig.loop.failure is rig.failures[0]


@pytest.mark.both_distributions
@pytest.mark.parametrize("step_s", [-1000, 1000])
def test_setting_the_system_clock_moves_no_tick_and_no_robot(step_s: int, rig: Rig, peer: Peer) -> None:
    rig.loop.start()
    rig.fleet.drive(rig.drives, "commands of the policy", [], rig.send)
    rig.clock.offset = Duration(seconds=step_s)
    # The clock of the robot was not set: its readings are of another time.
    rig.fleet.drive(lambda: not rig.drives(), "the safe command")
    rig.fleet.clear()
    rig.fleet.drive(lambda: len(rig.fleet.commands["robot"]) > 5, "ticks on the steady clock")
    assert not rig.drives()
    rig.fleet.drive(rig.drives, "commands of the policy", [], rig.send)
    assert not rig.failures


def test_missed_ticks_are_counted_and_not_repeated(rig: Rig, peer: Peer) -> None:
    period_s = 0.05
    rig.loop.start()
    rig.fleet.drive(rig.drives, "commands of the policy")
    started_s = time.monotonic()
    rig.policy.blocked.set()
    rig.fleet.drive(rig.policy.hangs.is_set, "the tick to hang")
    rig.loop.statistics.collect()
    peer.spin_for(1.0)
    rig.policy.blocked.clear()
    rig.policy.released.set()
    rig.fleet.clear()
    rig.fleet.drive(lambda: len(rig.fleet.commands["robot"]) >= 10, "ticks after the stall")
    records, _, _ = rig.loop.statistics.collect()
    periods = (time.monotonic() - started_s) / period_s
    missed = sum(record.missed for record in records)
    assert missed >= 1.0 / period_s - 2
    # Each deadline was either ticked or missed.
    assert len(records) + missed <= periods + 1


def test_a_robot_that_another_node_claims_gets_a_final_safe_command(rig: Rig, peer: Peer) -> None:
    rig.loop.start()
    rig.fleet.drive(rig.drives, "commands of the policy")
    rig.loop.yield_robots({0: "/other"})
    # Even if the other node never drives it.
    rig.fleet.drive(lambda: not rig.drives(), "the safe command")
    rig.fleet.clear()
    rig.fleet.drive(lambda: rig.loop.latest.reasons == ("/other commands it",), "the yielding tick")  # type: ignore[union-attr]
    peer.spin_for(0.3)
    assert not rig.fleet.commands["robot"]
    rig.loop.yield_robots({})
    rig.fleet.drive(rig.drives, "commands of the policy")


def test_a_robot_gets_a_safe_command_and_then_none_while_the_claim_does_not_hold(rig: Rig, peer: Peer) -> None:
    rig.loop.start()
    rig.fleet.drive(rig.drives, "commands of the policy")
    rig.may_command.clear()
    rig.fleet.drive(lambda: not rig.drives(), "the safe command")
    rig.fleet.clear()
    peer.spin_for(0.3)
    assert not rig.fleet.commands["robot"]
    rig.may_command.set()
    rig.fleet.drive(rig.drives, "commands of the policy")


def test_requests_do_not_accumulate_while_ticks_pause(rig: Rig, peer: Peer) -> None:
    for _ in range(1000):
        rig.loop.reset_robots()
        rig.loop.reset_robots([0])
        rig.loop.yield_robots({})
        rig.loop.request_stop(())
        rig.loop.resume_robots([0])
        rig.loop.stop_robots()
    assert len(rig.loop._requests) <= 4
    # The newest request holds.
    rig.loop.start()
    rig.fleet.drive(lambda: len(rig.fleet.commands["robot"]) > 10, "commands")
    assert not rig.drives()


def _fail(*arguments: object) -> None:
    raise RuntimeError("nobody foresaw this")
