# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The tick thread: take, step, publish, account, at absolute deadlines."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from rclpy.clock import Clock
from rclpy.impl.rcutils_logger import RcutilsLogger

from policy_node.config.schema import Configuration
from policy_node.control.pipeline import FleetCommands, Pipeline
from policy_node.control.timing import Schedule, SteadyClock, TickRecord, TickStatistics
from policy_node.recording.recorder import Recording
from policy_node.ros.clock import SimulatedClock
from policy_node.ros.publishers import CommandPublishers
from policy_node.ros.realtime import apply_realtime, name_thread
from policy_node.ros.subscriptions import SensorSubscriptions
from policy_node.ros.watchdog import Watchdog
from policy_node.sensing.synchroniser import RobotState

# Whom this loop commanded so lately nobody else commands yet.
RECENT_S = 1.0
# How long deactivation waits for a tick that hangs.
STOP_TIMEOUT_S = 5.0


class ControlLoop:
    """Runs the pipeline at the control rate in a thread of its own.

    The thread alone touches samples, batch and policy; `replace_policy` does so between two ticks. `statistics`,
    `latest` and `changes` are what others may read while it runs, `failure` is the exception that ended it.

    Parameters
    ----------
    configuration
        The deployment.
    pipeline, subscriptions, publishers
        Where samples come from and commands go to.
    clock
        The node's clock: the time of stamps and ages.
    simulated
        Whether ticks follow ROS time instead of the steady clock.
    logger
        Is told of ticks that hang.
    on_failure
        Called from the thread with an exception that ended it, after every robot got the safe command.
    may_command
        Whether other nodes still leave the robots to this one; asked before every command, from the thread.
    recording
        Takes note of every tick; None: nobody does.
    excuse
        Says why a tick takes so long where that is no fault, see `Watchdog`.
    """

    def __init__(
        self,
        configuration: Configuration,
        pipeline: Pipeline,
        subscriptions: SensorSubscriptions,
        publishers: CommandPublishers,
        clock: Clock,
        simulated: bool,
        logger: RcutilsLogger,
        on_failure: Callable[[Exception], None],
        may_command: Callable[[], bool] = lambda: True,
        recording: Recording | None = None,
        excuse: Callable[[], str] = lambda: "",
    ) -> None:
        self._pipeline = pipeline
        self._subscriptions = subscriptions
        self._publishers = publishers
        self._configuration = configuration
        self._clock = clock
        self._stopping = threading.Event()
        # Held during a tick and while the policy is replaced.
        self._ticking = threading.Lock()
        self._simulated = SimulatedClock(clock, self._stopping) if simulated else None
        self._on_failure = on_failure
        self._may_command = may_command
        self._recording = recording
        self._thread = threading.Thread(target=self._run, name="control_loop", daemon=True)
        period_s = configuration.period_ns / 1e9
        # Or a tick that computes without end would keep the watchdog from running; it may run on any CPU.
        priority = replace(configuration.realtime, cpus=())
        self._watchdog = Watchdog(
            configuration.watchdog_timeout_s,
            period_s,
            self._make_safe,
            logger,
            lambda: apply_realtime(priority),
            excuse,
        )
        self.statistics = TickStatistics()
        self.latest: FleetCommands | None = None
        self.failure: Exception | None = None
        # How often each robot's state has changed; all are WAITING before the first tick.
        self.changes = [0] * len(pipeline.robots)
        # What others ask of the pipeline, done by the tick thread at its next tick; the newest wish of each kind, as
        # ticks may stand still for long.
        self._requests: dict[Hashable, Callable[[], None]] = {}
        # Held while commands are sent and requests are noted: what was decided before safe commands left must not
        # follow them.
        self._sending = threading.Lock()
        self._overruled = False
        self._yielded: tuple[int, ...] = ()
        # When the thread last sent commands, on the monotonic clock.
        self._sent_s = -math.inf

    @property
    def simulated(self) -> bool:
        """Whether ticks follow simulated time."""
        return self._simulated is not None

    @property
    def waits_for_clock(self) -> bool:
        """Whether simulated time has not begun."""
        return self._simulated is not None and self._simulated.now_ns() == 0

    @property
    def hanging_since_s(self) -> float | None:
        """When the present tick began on the monotonic clock, if it takes longer than the watchdog allows."""
        return self._watchdog.hanging_since_s

    def start(self) -> None:
        """Start the thread."""
        self._publishers.resume()
        self._thread.start()
        self._watchdog.start()

    def replace_policy(self, pipeline: Pipeline) -> None:
        """Go on with the policy of another pipeline, see `Pipeline.adopt`; waits for the end of the present tick.

        Raises
        ------
        TimeoutError
            When the present tick hangs.
        """
        if not self._ticking.acquire(timeout=self._configuration.watchdog_timeout_s):
            raise TimeoutError("the present tick hangs; set the new policy when the robots are driven again")
        try:
            self._pipeline.adopt(pipeline)
        finally:
            self._ticking.release()

    def stop_robots(self) -> int:
        """Send every robot its safe command at once, also while the tick hangs, and until `resume_robots`.

        Returns
        -------
        int
            How many robots have a safe command.

        Raises
        ------
        Exception
            The first error of a publisher; the robots are stopped all the same.
        """
        with self._sending:
            self._requests["drive"] = self._pipeline.stop
            return self._overrule()

    def resume_robots(self) -> None:
        """Let the policy drive again from the next tick on."""
        with self._sending:
            self._requests["drive"] = self._pipeline.resume

    def reset_robots(self, robots: Sequence[int] | None = None) -> None:
        """Forget samples, histories and memories of some robots, by their index, or of all at the next tick."""
        with self._sending:
            self._requests["reset", None if robots is None else tuple(robots)] = lambda: self._pipeline.reset(robots)

    def yield_robots(self, owners: Mapping[int, str]) -> None:
        """Leave robots, by their index, to the nodes named, from now on; all others are driven.

        A robot that was driven gets its safe command at last: whoever claims it may not drive it.

        Raises
        ------
        Exception
            The first error of a publisher; the robots are left alone all the same.
        """
        with self._sending:
            begun = [robot for robot in owners if robot not in self._yielded and self._is_driving(robot)]
            last_commands = self._safe_commands(begun)
            self._yielded = tuple(owners)
            self._requests["yield"] = lambda: self._pipeline.yield_robots(owners)
            if begun:
                self._publishers.send_safe(last_commands)

    def _is_driving(self, robot: int) -> bool:
        return self.latest is not None and bool(self.latest.publish[robot]) and self._may_command()

    def _make_safe(self) -> None:
        """Send safe commands while the tick hangs; called by the watchdog."""
        with self._sending:
            # It may have ended while this waited. After a pause the robots may be another's.
            if self.hanging_since_s is not None and self._may_command():
                self._overrule()

    def _overrule(self) -> int:
        """Send safe commands and keep back what the present tick decides; `_sending` must be held."""
        self._overruled = True
        commands = self._safe_commands()
        self._publishers.send_safe(commands)
        return int(np.isfinite(commands).all(axis=1).sum())

    def _safe_commands(self, robots: Sequence[int] | None = None) -> np.ndarray:
        """Return the safe commands `[robots, components]`, NaN for robots without one and those of other nodes.

        Parameters
        ----------
        robots
            Indices of the only robots to be made safe, NaN for all others; None: all of them.
        """
        commands = self._pipeline.safe_commands.copy()
        commands[list(self._yielded)] = np.nan
        if robots is not None:
            others = np.ones(len(commands), bool)
            others[list(robots)] = False
            commands[others] = np.nan
        return commands

    def stop(self) -> bool:
        """Send every robot the safe command, then end the loop.

        Returns
        -------
        bool
            False when the thread still hangs in its tick; it can send no more commands.
        """
        self._stopping.set()
        self._watchdog.end()
        try:
            self._publishers.stop(self._safe_commands())
        finally:
            if self._thread.is_alive():
                self._thread.join(STOP_TIMEOUT_S)
            if self._simulated is not None:
                self._simulated.close()
        return not self._thread.is_alive()

    def _run(self) -> None:
        name_thread("control_loop")
        # OpenMP counts them for each thread by itself: the first layers would take all cores, and wait for them.
        torch.set_num_threads(self._configuration.policy.threads)
        try:
            # Threads that the policy starts at its first run are to have no CPUs of their own.
            self._pipeline.warm_up()
            apply_realtime(self._configuration.realtime)
            self._tick_on(self._simulated or SteadyClock(self._stopping))
        except BaseException as error:  # also the SystemExit of somebody's module, which would end the thread silently
            self.failure = error if isinstance(error, Exception) else RuntimeError(f"{type(error).__name__}: {error}")
            self._watchdog.end_tick()
            try:
                self._publishers.stop(self._safe_commands())
            finally:
                self._on_failure(self.failure)

    def _tick_on(self, clock: SteadyClock | SimulatedClock) -> None:
        while not self._stopping.is_set():
            # Simulated time is zero until its first message: no deadline can be set before.
            if not clock.wait_until(1):
                self._pipeline.reset()
                continue
            schedule = Schedule(self._configuration.period_ns, clock.now_ns())
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
        self._watchdog.begin_tick()
        with self._sending:
            self._overruled = False
            for request in self._requests.values():
                request()
            self._requests.clear()
        self._subscriptions.take(self._pipeline, self._simulated.now_ns() if self._simulated is not None else None)
        taken = time.perf_counter()
        tick_time_ns = self._now_ns()
        result = self._pipeline.step(tick_time_ns, self._now_ns)
        stepped = time.perf_counter()
        with self._sending:
            if self._overruled:
                self._pipeline.note_overruled()
            elif self._may_command():
                publish = result.publish
                publish[list(self._yielded)] = False
                self._publish(result, publish, tick_time_ns, taken)
                self._sent_s = time.monotonic()
            else:
                result.publish[:] = False
                self._leave_to_others()
            self._watchdog.end_tick()
        ended = time.perf_counter()
        # Ages are those of the readings at the tick; the command leaves a little later.
        ready = np.array([state is RobotState.READY for state in result.states])
        command_ages_s = np.where(ready, result.ages_s + (ended - taken), np.nan)
        stages_s = {"take": taken - started, **result.stages_s, "publish": ended - stepped}
        self.statistics.add(TickRecord(lateness_ns / 1e9, ended - started, missed, stages_s, command_ages_s))
        before = self.latest.states if self.latest is not None else (RobotState.WAITING,) * len(result.states)
        for robot, state in enumerate(result.states):
            self.changes[robot] += state is not before[robot]
        self.latest = result
        if self._recording is not None:
            pipeline = self._pipeline
            told = (pipeline.is_stopped, pipeline.owners, pipeline.policy.spec.sha256)
            self._recording.note_tick(tick_time_ns, missed, result, *told)

    def _publish(self, result: FleetCommands, publish: np.ndarray, tick_time_ns: int, taken_s: float) -> None:
        """Send the commands; one whose readings have become too old while others were sent is replaced."""
        # Simulated time may stand still for as long as sending takes.
        max_age_s = self._configuration.synchronisation.max_age_s if self._simulated is None else math.inf
        # Safe commands and those that are held are sent however old the readings are.
        ready = [state is RobotState.READY for state in result.states]
        until_s = np.where(ready, taken_s + max_age_s - result.ages_s, math.inf)
        late = self._publishers.publish(result.commands, publish, tick_time_ns, until_s)
        if late:
            self._publishers.send_safe(self._safe_commands(late))

    def _leave_to_others(self) -> None:
        """Command nothing, as other nodes may by now; robots begin anew. `_sending` must be held."""
        self._pipeline.reset()
        # After a pause of this process the robots may be another's already, and what is safe has changed.
        if time.monotonic() - self._sent_s < RECENT_S:
            self._publishers.send_safe(self._safe_commands())
        self._sent_s = -math.inf

    def _now_ns(self) -> int:
        return self._clock.now().nanoseconds
