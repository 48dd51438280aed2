# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The tick thread: take, step, publish, account, at absolute deadlines."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

import numpy as np
import torch
from rclpy.clock import Clock

from policy_node.pipeline import FleetCommands, Pipeline
from policy_node.ros.clock import SimulatedClock
from policy_node.ros.publishers import CommandPublishers
from policy_node.ros.subscriptions import SensorSubscriptions
from policy_node.synchroniser import RobotState
from policy_node.timing import Schedule, SteadyClock, TickRecord, TickStatistics


class ControlLoop:
    """Runs the pipeline at the control rate in a thread of its own.

    The thread alone touches samples, batch and policy; `replace_policy` does so between two ticks. `statistics`,
    `latest` and `transitions` are what others may read while it runs.

    Parameters
    ----------
    pipeline, subscriptions, publishers
        Where samples come from and commands go to.
    period_ns
        Control period.
    threads
        CPU threads of one inference.
    clock
        The node's clock: the time of stamps and ages.
    simulated
        Whether ticks follow ROS time instead of the steady clock.
    on_failure
        Called from the thread with an exception that ended it, after every robot got the safe command.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        subscriptions: SensorSubscriptions,
        publishers: CommandPublishers,
        period_ns: int,
        threads: int,
        clock: Clock,
        simulated: bool,
        on_failure: Callable[[Exception], None],
    ) -> None:
        self._pipeline = pipeline
        self._subscriptions = subscriptions
        self._publishers = publishers
        self._period_ns = period_ns
        self._threads = threads
        self._clock = clock
        self._stopping = threading.Event()
        # Held during a tick and while the policy is replaced.
        self._ticking = threading.Lock()
        self._simulated = SimulatedClock(clock, self._stopping) if simulated else None
        self._on_failure = on_failure
        self._thread = threading.Thread(target=self._run, name="control_loop", daemon=True)
        self._states: tuple[RobotState, ...] = (RobotState.WAITING,) * len(pipeline.robots)
        self.statistics = TickStatistics()
        self.latest: FleetCommands | None = None
        # (robot, state, reason) at each change of a robot's state; whoever reports them removes them.
        self.transitions: deque[tuple[int, RobotState, str]] = deque(maxlen=1000)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def replace_policy(self, pipeline: Pipeline) -> None:
        """Go on with the policy of another pipeline, see `Pipeline.adopt`; waits for the end of the present tick."""
        with self._ticking:
            self._pipeline.adopt(pipeline)

    def stop(self) -> None:
        """End the loop after the present tick, then send the safe command to every robot."""
        self._stopping.set()
        if self._thread is not threading.current_thread():
            self._thread.join()
        if self._simulated is not None:
            self._simulated.close()
        self._publishers.publish_safe()

    def _run(self) -> None:
        # OpenMP counts them for each thread by itself: the first layers would take all cores, and wait for them.
        torch.set_num_threads(self._threads)
        try:
            if self._simulated is not None:
                self._tick_on(self._simulated)
            else:
                self._tick_on(SteadyClock())
        except Exception as error:
            self._publishers.publish_safe()
            self._on_failure(error)

    def _tick_on(self, clock: SteadyClock | SimulatedClock) -> None:
        while not self._stopping.is_set():
            # Simulated time is zero until its first message: no deadline can be set before.
            if not clock.wait_until(1):
                self._pipeline.reset()
                continue
            schedule = Schedule(self._period_ns, clock.now_ns())
            missed = 0
            while clock.wait_until(schedule.deadline_ns) and not self._stopping.is_set():
                lateness_ns = clock.now_ns() - schedule.deadline_ns
                with self._ticking:
                    self._tick(lateness_ns, missed)
                missed = schedule.advance(clock.now_ns())
            if not self._stopping.is_set():
                self._pipeline.reset()

    def _tick(self, lateness_ns: int, missed: int) -> None:
        started = time.perf_counter()
        self._subscriptions.take(self._pipeline, self._simulated.now_ns() if self._simulated is not None else None)
        taken = time.perf_counter()
        tick_time_ns = self._clock.now().nanoseconds
        result = self._pipeline.step(tick_time_ns)
        stepped = time.perf_counter()
        self._publishers.publish(result.commands, result.publish, tick_time_ns)
        ended = time.perf_counter()
        # Ages are those of the readings at the tick; the command leaves a little later.
        ready = np.array([state is RobotState.READY for state in result.states])
        command_ages_s = np.where(ready, result.ages_s + (ended - taken), np.nan)
        stages_s = {"take": taken - started, **result.stages_s, "publish": ended - stepped}
        self.statistics.add(TickRecord(lateness_ns / 1e9, ended - started, missed, stages_s, command_ages_s))
        for robot, (before, state) in enumerate(zip(self._states, result.states, strict=True)):
            if state is not before:
                self.transitions.append((robot, state, result.reasons[robot]))
        self._states = result.states
        self.latest = result
