# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The control loop in one process with scripted time: ticks begin, hang and end when a test says so."""

import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from geometry_msgs.msg import Twist
from moody import SAFE, moody_parameters
from node_harness import CELLS, PATIENCE_S, Peer, command_values
from rclpy.publisher import Publisher
from rclpy.serialization import deserialize_message, serialize_message
from rclpy.time import Time
from sensor_msgs.msg import JointState

from policy_node.config.schema import parse_configuration
from policy_node.control.tick import FleetTick, Observed, SentCommands
from policy_node.ros import control_loop, publishers, watchdog
from policy_node.ros.control_loop import ControlLoop
from policy_node.ros.deployment import configured_encoders, deploy
from policy_node.ros.publishers import CommandPublishers
from policy_node.ros.subscriptions import Intake

# Exact as floating-point numbers, as are all times of the rig.
PERIOD_S = 1.0 / 16
MAX_AGE_S = 0.25
# So long that the watchdog's own thread never wakes up in a test; see `LoopRig.watch`.
TIMEOUT_S = 30.0

Command = tuple[float, ...]


class Echo(torch.nn.Module):
    """Commands the last two numbers of a reading."""

    def forward(self, touch: torch.Tensor) -> torch.Tensor:
        """Return commands `[robots, 2]` for readings `[robots, 8]`."""
        return touch[:, 6:]


def save_echo(file: Path) -> Path:
    """Save the policy of the rigs as TorchScript."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(Echo()).save(str(file))
    return file


class ScriptedTime:
    """All clocks of the loop: the time of stamps, of deadlines and of durations. Only the test moves it."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s

    perf_counter = monotonic

    def monotonic_ns(self) -> int:
        return round(self.now_s * 1e9)

    def now(self) -> Time:
        return Time(nanoseconds=round(self.now_s * 1e9))


class TickClock:
    """The clock that the tick thread waits for: a deadline is reached when the test releases the tick.

    Attributes
    ----------
    deadlines_ns
        Deadlines that were waited for.
    jumps
        Set to end a wait as when simulated time jumps back.
    jumps_at_beginning
        Whether simulated time jumps back once while the loop waits for its beginning.
    is_closed
        Whether the loop has closed it, as it does with simulated time.
    """

    def __init__(self, time: ScriptedTime) -> None:
        self._time = time
        self.stopping = threading.Event()
        self.released = threading.Semaphore(0)
        self.waits = threading.Event()
        self.deadlines_ns: list[int] = []
        self.jumps = threading.Event()
        self.jumps_at_beginning = False
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True

    def now_ns(self) -> int:
        return round(self._time.now_s * 1e9)

    def wait_until(self, deadline_ns: int) -> bool:
        if deadline_ns == 1:
            # Simulated time may not have begun; this one has.
            has_jumped, self.jumps_at_beginning = self.jumps_at_beginning, False
            return not has_jumped
        self.deadlines_ns.append(deadline_ns)
        self.waits.set()
        while not self.released.acquire(timeout=0.005):
            if self.stopping.is_set() or self.jumps.is_set():
                self.jumps.clear()
                return False
        self._time.now_s = max(self._time.now_s, deadline_ns / 1e9)
        return True


class Sender:
    """A publisher that calls `before` before each command that it sends."""

    def __init__(self, publisher: Publisher) -> None:
        self._publish = publisher.publish
        self.wait_for_all_acked = publisher.wait_for_all_acked
        self.before: Callable[[], None] = lambda: None

    def send(self, message: bytes) -> None:
        self.before()
        self._publish(message)


class LoopRig:
    """Robots with scripted readings and the loop that drives them; the policy commands what the reading says.

    Attributes
    ----------
    readings
        Robot index -> command that its reading asks for, and age of the reading at the tick; None: no reading.
    sent
        Every command in the order of sending: robot index, command, whether it is of a tick.
    taken_ns
        Simulated time of each reading of the messages; None with the steady clock.
    """

    def __init__(
        self,
        peer: Peer,
        policy: Path,
        monkeypatch: pytest.MonkeyPatch,
        robots: int = 3,
        simulated: bool = False,
        recording: Any = None,
        **changes: Any,
    ) -> None:
        self.time = ScriptedTime()
        for module in (control_loop, publishers, watchdog):
            monkeypatch.setattr(module, "time", self.time)
        self.clock = TickClock(self.time)
        monkeypatch.setattr(control_loop, "SteadyClock", self._start_clock)
        monkeypatch.setattr(control_loop, "SimulatedClock", lambda clock, stopping: self._start_clock(stopping))
        changes = {
            "control_rate_hz": 1.0 / PERIOD_S,
            "synchronisation__max_age_s": MAX_AGE_S,
            "watchdog__timeout_s": TIMEOUT_S,
            **changes,
        }
        names = [f"robot_{robot}" for robot in range(robots)]
        self.configuration = configuration = parse_configuration(moody_parameters(policy, names, **changes))
        deployment = deploy(configuration)
        self.pipeline = deployment.pipeline
        self._act, self.pipeline.act = self.pipeline.act, self._held_act  # type: ignore[method-assign]
        self.publishers = CommandPublishers(peer.node, configuration, configured_encoders(configuration, 2))
        self._own = self.publishers._publishers
        self.senders = [Sender(publisher) for publisher in self._own]
        self.publishers._publishers = self.senders  # type: ignore[assignment]
        self.publishers._senders = [sender.send for sender in self.senders]
        self.publishers.on_sent = self._note
        self.has_claim = True
        self.failures: list[Exception] = []
        self.loop = ControlLoop(
            configuration,
            deployment.pipeline,
            SimpleNamespace(take=self._take),  # type: ignore[arg-type]
            self.publishers,
            self.time,  # type: ignore[arg-type]
            simulated=simulated,
            logger=peer.node.get_logger(),
            on_failure=self.failures.append,
            may_command=lambda: self.has_claim,
            recording=recording,
        )
        self.readings: dict[int, tuple[Command, float] | None] = {
            robot: ((robot + 1.0, 10.0), 0.0) for robot in range(robots)
        }
        self.sent: list[tuple[int, Command, bool]] = []
        self.taken_ns: list[int | None] = []
        self._hold = threading.Event()
        self._holds = threading.Event()
        self._go_on = threading.Event()
        self.loop.start()
        assert self.clock.waits.wait(PATIENCE_S)

    def _start_clock(self, stopping: threading.Event) -> TickClock:
        self.clock.stopping = stopping
        return self.clock

    def _take(self, pipeline: Intake, simulated_ns: int | None) -> None:
        self.taken_ns.append(simulated_ns)
        for robot, reading in self.readings.items():
            if reading is not None:
                command, age_s = reading
                message = JointState(name=[str(cell) for cell in range(CELLS)])
                message.effort = [*[0.0] * (CELLS - 2), *command]
                pipeline.add(robot, 0, round((self.time.now_s - age_s) * 1e9), serialize_message(message))

    def _held_act(self, observed: Observed) -> Any:
        actions = self._act(observed)
        if self._hold.is_set():
            self._holds.set()
            assert self._go_on.wait(PATIENCE_S)
        return actions

    def _note(self, commands: SentCommands) -> None:
        for robot, message in commands.messages.items():
            values = tuple(command_values(deserialize_message(message, Twist)).tolist())
            self.sent.append((robot, values, commands.of_tick))

    def commands(self, robot: int) -> list[Command]:
        """Return the commands that a robot got since the last `sent.clear()`."""
        return [command for each, command, _ in self.sent if each == robot]

    def newest(self) -> Mapping[int, Command]:
        """Return the newest command of each robot that got one since the last `sent.clear()`."""
        return {robot: command for robot, command, _ in self.sent}

    def tick(self) -> FleetTick:
        """Run one tick."""
        self.clock.waits.clear()
        self.clock.released.release()
        assert self.clock.waits.wait(PATIENCE_S), self.failures
        assert self.loop.latest is not None
        return self.loop.latest

    def jump_back(self, duration_s: float) -> None:
        """Set simulated time back, between two ticks."""
        self.clock.waits.clear()
        self.time.now_s -= duration_s
        self.clock.jumps.set()
        assert self.clock.waits.wait(PATIENCE_S), self.failures

    def begin_tick(self) -> None:
        """Begin a tick whose policy takes until `end_tick`."""
        self._go_on.clear()
        self._holds.clear()
        self._hold.set()
        self.clock.waits.clear()
        self.clock.released.release()
        assert self._holds.wait(PATIENCE_S), self.failures
        self._hold.clear()

    def end_tick(self) -> FleetTick:
        """Let the policy return, and wait for the end of the tick."""
        self._go_on.set()
        assert self.clock.waits.wait(PATIENCE_S), self.failures
        assert self.loop.latest is not None
        return self.loop.latest

    def let_hang(self) -> None:
        """Let the current tick take longer than it may."""
        self.time.now_s += TIMEOUT_S

    def watch(self) -> None:
        """Act as the watchdog does that has just found the tick hanging."""
        self.loop._watchdog._act()

    def destroy(self) -> None:
        self._go_on.set()
        try:
            self.loop.stop()
        finally:
            self.publishers._publishers = self._own
            self.publishers.destroy()


def wanted(robot: int) -> Command:
    """Return the command that the policy gives a robot at the start of a rig."""
    return (robot + 1.0, 10.0)


def is_safe(command: Any) -> bool:
    """Return whether a command is the safe one."""
    return bool(np.array_equal(command, SAFE))
