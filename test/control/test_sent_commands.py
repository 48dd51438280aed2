# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Only commands that left count: replaced or withheld ones are neither remembered nor counted."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import Twist
from node_harness import PATIENCE_S, Peer, ScriptedFleet, command_values, parameters_of, random_reading
from rclpy.publisher import Publisher
from test_control_loop import SAFE, BlockingPolicy

from policy_node.config.schema import parse_configuration
from policy_node.messages.codecs import command_encoder
from policy_node.policies import load_policy
from policy_node.ros.control_loop import ControlLoop
from policy_node.ros.deployment import deploy
from policy_node.ros.publishers import CommandPublishers
from policy_node.ros.subscriptions import SensorSubscriptions
from policy_node.sensing.synchroniser import RobotState

ROBOTS = ("one", "two")
MAX_AGE_S = 0.3
PERIOD_S = 0.05
MAX_RATE = 0.2


class TroubledPublisher:
    """A publisher that takes too long while `held` is set, as where another process keeps a lock, or fails once."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self.wait_for_all_acked = publisher.wait_for_all_acked
        self.held, self.holds, self.fails = threading.Event(), threading.Event(), threading.Event()

    def publish(self, message: bytes) -> None:
        if self.fails.is_set():
            self.fails.clear()
            raise RuntimeError("nobody foresaw this")
        self._publisher.publish(message)
        if self.held.is_set():
            self.holds.set()
            time.sleep(MAX_AGE_S)


class Rig:
    """Two scripted robots with constant readings, and the loop that drives them in this process."""

    def __init__(self, peer: Peer, model_file: Path, monkeypatch: pytest.MonkeyPatch, **action: Any) -> None:
        changes = {
            "synchronisation.max_age_s": MAX_AGE_S,
            "watchdog.timeout_s": 60.0,
            "action.safe_command": list(SAFE),
            **{f"action.{name}": value for name, value in action.items()},
        }
        self.peer = peer
        configuration = parse_configuration(parameters_of(model_file, ROBOTS, changes))
        monkeypatch.setattr(
            "policy_node.ros.deployment.load_policy",
            lambda *given, **named: BlockingPolicy(load_policy(*given, **named)),
        )
        deployment = deploy(configuration)
        self.policy = deployment.policy
        encoder = command_encoder(
            configuration.action.type, 2, fields=configuration.action.fields, time_from_start_s=PERIOD_S
        )
        self.failures: list[Exception] = []
        self.may_command = threading.Event()
        self.may_command.set()
        self.sensors = SensorSubscriptions(peer.node, configuration, deployment.decoders)
        self.publishers = CommandPublishers(peer.node, configuration, [encoder])
        self.own = self.publishers._publishers
        self.senders = [TroubledPublisher(publisher) for publisher in self.own]
        self.publishers._publishers = self.senders  # type: ignore[assignment]
        self.publishers._senders = [sender.publish for sender in self.senders]
        self.loop = ControlLoop(
            configuration,
            deployment.pipeline,
            self.sensors,
            self.publishers,
            peer.node.get_clock(),
            simulated=False,
            logger=peer.node.get_logger(),
            on_failure=self.failures.append,
            may_command=self.may_command.is_set,
        )
        self.fleet = ScriptedFleet(peer, ROBOTS, Twist)
        self.fleet.wait_until_heard()
        self.reading = random_reading(np.random.default_rng(3))

    def drive(self, condition: Callable[[], Any], what: str) -> None:
        """Send the same readings until a condition holds."""

        def send() -> None:
            for robot in ROBOTS:
                self.fleet.publish(robot, self.peer.node.get_clock().now().nanoseconds, *self.reading)

        self.fleet.drive(condition, what, [], send)

    def heard(self, robot: str) -> list[tuple[float, ...]]:
        return [tuple(command_values(command)) for command in self.fleet.commands[robot]]

    def drives(self) -> bool:
        return all(self.heard(robot) and self.heard(robot)[-1] != SAFE for robot in ROBOTS)

    def hold_up(self) -> None:
        """Let the command of the second robot become too old once, while that of the first is sent."""
        self.senders[0].held.set()
        self.drive(self.senders[0].holds.is_set, "sending to be held up")
        self.senders[0].held.clear()
        self.senders[0].holds.clear()

    def destroy(self) -> None:
        self.policy.released.set()
        self.loop.stop()
        self.sensors.destroy()
        self.publishers._publishers = self.own
        self.publishers.destroy()


@pytest.fixture
def make_rig(
    peer: Peer, model: Callable[..., tuple[Path, Any]], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Rig]]:
    made = []

    def make(**action: Any) -> Rig:
        made.append(Rig(peer, model()[0], monkeypatch, **action))
        return made[-1]

    yield make
    for rig in made:
        rig.destroy()


@pytest.mark.parametrize("limit", [{"max_rate": [MAX_RATE]}, {"ramp_s": 1.0}])
def test_after_a_late_command_the_robot_is_driven_from_its_safe_one(
    make_rig: Callable[..., Rig], limit: dict[str, Any]
) -> None:
    rig = make_rig(**limit)
    rig.loop.start()
    far = 5 * MAX_RATE * PERIOD_S

    def is_far() -> bool:
        return rig.drives() and bool(np.abs(np.subtract(rig.heard("two")[-1], SAFE)).max() > far)

    rig.drive(is_far, "commands far from the safe one")
    rig.fleet.clear()
    rig.hold_up()
    rig.drive(lambda: SAFE in rig.heard("two"), "the safe command")
    rig.drive(is_far, "commands far from the safe one")
    heard = rig.heard("two")
    after = heard[heard.index(SAFE) + 1]
    # The ramp begins at the safe command itself.
    assert np.abs(np.subtract(after, SAFE)).max() <= MAX_RATE * PERIOD_S + 1e-9


def test_a_late_command_is_not_held(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(when_stale="hold", hold_s=60.0)
    rig.loop.start()
    rig.drive(rig.drives, "commands of the policy")
    rig.fleet.clear()
    rig.hold_up()
    # No readings follow.
    rig.peer.spin_until(lambda: SAFE in rig.heard("two"), "the safe command")
    rig.peer.spin_until(lambda: len(rig.heard("two")) > 8, "the commands of later ticks")
    heard = rig.heard("two")
    assert set(heard[heard.index(SAFE) :]) == {SAFE}


def hold_up_sending(rig: Rig) -> None:
    rig.senders[0].held.set()


def stop(rig: Rig) -> None:
    rig.loop.stop_robots()


def lose_the_claim(rig: Rig) -> None:
    rig.may_command.clear()


def yield_one(rig: Rig) -> None:
    rig.loop.yield_robots({1: "/other"})


@pytest.mark.parametrize(
    ("happens", "driven", "state"),
    [
        (hold_up_sending, [True, False], RobotState.STALE),
        (stop, [False, False], RobotState.STOPPED),
        (lose_the_claim, [False, False], RobotState.STOPPED),
        (yield_one, [True, False], RobotState.STOPPED),
    ],
)
def test_a_command_that_did_not_leave_is_not_counted(
    make_rig: Callable[..., Rig], happens: Callable[[Rig], None], driven: list[bool], state: RobotState
) -> None:
    """Each happens while the policy computes commands, or while they are sent."""
    rig = make_rig()
    rig.loop.start()
    rig.drive(rig.drives, "commands of the policy")
    rig.policy.blocked.set()
    rig.drive(rig.policy.hangs.is_set, "the policy to compute")
    rig.policy.blocked.clear()
    rig.loop.statistics.collect()
    seen: list[Any] = []
    add = rig.loop.statistics.add

    def add_and_look(record: Any) -> None:
        seen.append((record, rig.loop.latest))
        add(record)

    rig.loop.statistics.add = add_and_look  # type: ignore[method-assign]
    happens(rig)
    rig.policy.released.set()
    rig.peer.spin_until(lambda: len(seen) > 0, "the end of the tick")
    rig.senders[0].held.clear()
    record, tick = seen[0]
    assert np.isfinite(record.command_ages_s).tolist() == driven
    assert tick.states[1] is state and tick.reasons[1]


def test_commands_sent_before_a_publisher_failed_are_counted_and_the_loop_ends(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    rig.loop.start()
    rig.drive(rig.drives, "commands of the policy")
    rig.policy.blocked.set()
    rig.drive(rig.policy.hangs.is_set, "the policy to compute")
    rig.loop.statistics.collect()
    rig.senders[1].fails.set()
    rig.policy.released.set()
    rig.peer.spin_until(lambda: rig.failures, "the end of the loop", PATIENCE_S)
    (record,), _, _ = rig.loop.statistics.collect()
    assert np.isfinite(record.command_ages_s).tolist() == [True, False]
    rig.peer.spin_until(lambda: not any(rig.heard(robot)[-1] != SAFE for robot in ROBOTS), "the safe commands")
