# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Control the processes of the robots under test, and inject the faults."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess

from policy_node.cli.child_process import ToolError
from policy_node_bench.chaos.faults import Fault, Planned
from policy_node_bench.chaos.judge import Limits
from policy_node_bench.chaos.robot import (
    DELAY_STEP_S,
    DELAY_STEPS,
    Behaviour,
    MixedPositions,
    Published,
    RobotOptions,
    Slipped,
    robot_process,
)

# Robots are forked from a process that has imported everything and opened nothing, to start within milliseconds. That
# includes the main module, which multiprocessing otherwise imports again for every robot.
_CONTEXT = get_context("forkserver")
_CONTEXT.set_forkserver_preload(["policy_node_bench.cli", "policy_node_bench.chaos.robot"])
# Jumps of the clocks; a smaller one than synchronisation.max_age_s would look like a delay.
SMALLEST_JUMP_S = 1.0
LARGEST_JUMP_S = 3600.0
NORMAL = Behaviour()
# A third of the kinds of faults of one robot starts a process, and a fault takes about two seconds.
BYSTANDER_PERIOD_S = 6.0
BYSTANDER_RUN_S = 1.5


class RobotProcess:
    """A process that publishes and can be killed and started again.

    `target` runs with a connection and the options, whose behaviour each start sets.
    """

    def __init__(
        self, options: RobotOptions, target: Callable[[Connection, RobotOptions], None] = robot_process
    ) -> None:
        self._target = target
        self._options = options
        self._process: ForkServerProcess | None = None
        self._connection: Connection | None = None

    def start(self, behaviour: Behaviour) -> None:
        """Start the process."""
        self._connection, other = _CONTEXT.Pipe()
        with other:
            options = replace(self._options, behaviour=behaviour)
            self._process = _CONTEXT.Process(target=self._target, args=(other, options), daemon=True)
            self._process.start()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        assert self._process is not None and self._process.pid is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """Send SIGKILL to the process, if there is one."""
        if self._process is not None and self._connection is not None:
            self._process.kill()
            self._process.join()
            self._process.close()
            self._connection.close()
            self._process = self._connection = None

    def tell(self, what: Behaviour | MixedPositions) -> None:
        """Change the behaviour of the process."""
        assert self._connection is not None
        self._connection.send(what)

    def poll(self) -> list[Published | Slipped]:
        """Return its messages since the last call.

        Raises ToolError if it has ended.
        """
        messages: list[Published | Slipped] = []
        try:
            while self._connection is not None and self._connection.poll():
                messages.append(self._connection.recv())
        except (EOFError, ConnectionError):
            raise ToolError(
                f"a robot's process ended by itself: {self._options.log.read_text()[-2000:] or '(it wrote nothing)'}"
            ) from None
        return messages


class Bystander:
    """A process that nobody listens to, and that starts and ends as often as robots with faults do.

    `phase` is that of its start, as a part of `BYSTANDER_PERIOD_S`.
    """

    def __init__(self, process: RobotProcess, phase: float) -> None:
        self.process = process
        self._phase_s = phase * BYSTANDER_PERIOD_S
        self._runs = False

    def step(self, now_s: float) -> None:
        """Start or end the process if it is time."""
        runs = (now_s + self._phase_s) % BYSTANDER_PERIOD_S < BYSTANDER_RUN_S
        if runs and not self._runs:
            self.process.start(NORMAL)
        elif self._runs and not runs:
            self.process.kill()
        self._runs = runs

    def end(self) -> None:
        """End the process if it runs."""
        self.process.kill()
        self._runs = False


class Injection:
    """One fault of robots from its begin to its end; sets `begun_s` and `ended_s` of the fault.

    `another` is a process that publishes on the same topics as the robot, `positions` publishes the positions of all
    robots, and `patience_s` is the longest time to the end of the cause.
    """

    def __init__(
        self,
        planned: Planned,
        fault: Fault,
        robot: RobotProcess,
        another: RobotProcess,
        positions: RobotProcess,
        limits: Limits,
        patience_s: float,
    ) -> None:
        self.fault = fault
        self.planned = planned
        self._robot = robot
        self._another = another
        self._positions = positions
        self.patience_s = patience_s
        self._limits = limits
        self._behaviour = self._begin(planned, fault.asked_s)
        self._is_ending = False

    def _begin(self, planned: Planned, now_s: float) -> Behaviour:
        kind = planned.kind.name
        jump_s = SMALLEST_JUMP_S * (LARGEST_JUMP_S / SMALLEST_JUMP_S) ** planned.size
        behaviour = {
            "clock_ahead": Behaviour(kind, stamp_offset_s=jump_s),
            "clock_behind": Behaviour(kind, stamp_offset_s=-jump_s),
            "clock_zero": Behaviour(kind, zero_stamps=True),
            # The youngest of these readings are good, the oldest are too old.
            "delayed": Behaviour(kind, delay_s=max(0.0, self._limits.max_age_s - DELAY_STEPS * DELAY_STEP_S)),
            "policy_blocks": Behaviour(kind, block_s=planned.duration_s),
        }.get(kind, Behaviour(kind))
        if kind == "killed":
            self._robot.kill()
        elif kind in ("paused", "mixed_positions"):
            if kind == "mixed_positions":
                self._positions.tell(MixedPositions(planned.robot, True))
            self._robot.signal(signal.SIGSTOP)
        elif kind.startswith("clock_"):
            self._robot.kill()
            self._robot.start(behaviour)
        elif kind in ("duplicate", "wrong_type"):
            self._another.start(NORMAL)
        else:
            self._robot.tell(behaviour)
        # Of the others, the robot reports the begin. While it is slowed, its next reading is already late.
        if kind in ("killed", "paused", "mixed_positions", "slowed") or kind.startswith("clock_"):
            self.fault.begun_s = now_s
        return behaviour

    def on_published(self, published: Published) -> None:
        """Process the message that a publisher of this robot has changed its behaviour."""
        time_s = published.time_us / 1e6
        kind = self.planned.kind.name
        if self._is_ending and published.behaviour == NORMAL:
            self.fault.ended_s = min(self.fault.ended_s, time_s)
        elif not self._is_ending and (published.behaviour == self._behaviour or kind in ("duplicate", "wrong_type")):
            self.fault.begun_s = min(self.fault.begun_s, time_s)
            if kind == "policy_blocks":
                # The policy blocks in one of the next two ticks.
                self.fault.ended_s = time_s + 2 * self._limits.period_s + self.planned.duration_s

    def close(self) -> None:
        """Keep the processes; the campaign ends them."""

    def step(self, now_s: float) -> None:
        """End the cause of the fault if its duration has passed."""
        kind = self.planned.kind.name
        if self._is_ending or now_s < self.fault.begun_s + self.planned.duration_s:
            return
        self._is_ending = True
        if kind == "killed":
            self._robot.start(NORMAL)
        elif kind in ("paused", "mixed_positions"):
            if kind == "mixed_positions":
                self._positions.tell(MixedPositions(self.planned.robot, False))
            self._robot.signal(signal.SIGCONT)
            self.fault.ended_s = now_s
        elif kind in ("duplicate", "wrong_type"):
            self._another.kill()
            self.fault.ended_s = now_s
        elif kind != "policy_blocks":
            self._robot.tell(NORMAL)
