# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The tick thread: take, observe, act, guard, publish, commit, at absolute deadlines."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from rclpy.clock import Clock, ROSClock
from rclpy.logging import RcutilsLogger

from policy_node.config.schema import Configuration
from policy_node.control.memory_reserve import MemoryReserve
from policy_node.control.pipeline import STOPPED_REASON, Pipeline, yielded_to
from policy_node.control.realtime import apply_realtime, name_thread
from policy_node.control.tick import FleetCommands, FleetTick, Sent, any_of
from policy_node.control.timing import Schedule, SteadyClock, TickRecord, TickStatistics, delay_until_gap
from policy_node.recording.recorder import Recording
from policy_node.ros.clock import SimulatedClock
from policy_node.ros.publishers import CommandPublishers
from policy_node.ros.subscriptions import SensorSubscriptions
from policy_node.ros.watchdog import Watchdog
from policy_node.sensing.synchroniser import RobotState

# Grace period before another node may take over.
RECENT_S = 1.0
# Period of the attempts to tick in simulated time while the claim on the robots does not hold.
CLAIM_POLL_S = 0.05
# Longest wait of deactivation for a tick that hangs.
STOP_TIMEOUT_S = 5.0
# Why a command of the policy was not sent.
HUNG = (RobotState.FAULT, "the tick took longer than watchdog.timeout_s; its safe command was sent instead")
STOPPED = (RobotState.STOPPED, STOPPED_REASON)
NOT_CLAIMED = (RobotState.STOPPED, "the claim of this node does not hold, as after a pause; nothing is sent meanwhile")
NOT_SENT = (RobotState.FAULT, "its command could not be sent")
LATE = "its readings became too old while commands were sent: synchronisation.max_age_s allows {:.3f} s"
ENDED = (RobotState.STOPPED, "the node stops driving")


class ControlLoop:
    """Runs the pipeline at the control rate in another thread.

    Only that thread uses samples, batch and policy; `replace_policy` does so between two ticks. Other threads may read
    `statistics`, `latest`, `changes` and `interruptions` while it runs.

    Parameters
    ----------
    configuration
        The deployment.
    pipeline, subscriptions, publishers
        Source of the samples, and destination of the commands.
    clock
        The node's clock: the time of stamps and ages.
    simulated
        Whether ticks follow ROS time instead of the steady clock.
    logger
        Logs ticks that hang.
    on_failure
        Called from the thread with an exception that ended it, after every robot got the safe command.
    may_command
        Called before every command, from the thread: whether this node's claim on its robots is valid.
    recording
        Records every tick; None: nothing is recorded.
    slow_tick_reason
        Returns why a long tick is no fault, see `Watchdog`.
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
        slow_tick_reason: Callable[[], str] = lambda: "",
    ) -> None:
        self._pipeline = pipeline
        self._subscriptions = subscriptions
        self._publishers = publishers
        self._configuration = configuration
        # ROS time that is not simulated is that of the system, which Python tells several times faster than rclpy.
        is_system = isinstance(clock, ROSClock) and not simulated
        self._now_ns = time.time_ns if is_system else lambda: clock.now().nanoseconds
        self._stopping = threading.Event()
        # Held during a tick and while the policy is replaced.
        self._ticking = threading.Lock()
        self._simulated = SimulatedClock(clock, self._stopping) if simulated else None
        self._on_failure = on_failure
        self._may_command = may_command
        self._recording = recording
        self._thread = threading.Thread(target=self._run, name="control_loop", daemon=True)
        # A tick that computes without end would block a watchdog of lower priority; it may run on any CPU.
        priority = replace(configuration.realtime, cpus=())
        self._schedule: Schedule | None = None
        self._watchdog = Watchdog(
            configuration.watchdog_timeout_s,
            configuration.period_ns / 1e9,
            self._make_safe,
            logger,
            lambda: apply_realtime(priority),
            slow_tick_reason,
        )
        self.statistics = TickStatistics()
        self.latest: FleetTick | None = None
        #: The exception that ended the thread.
        self.failure: Exception | None = None
        #: Number of changes of each robot's state; all are WAITING before the first tick.
        self.changes = [0] * len(pipeline.robots)
        #: State and reason of each robot before it was last READY again; None: it always was.
        self.interruptions: list[tuple[RobotState, str] | None] = [None] * len(pipeline.robots)
        # Requests to the pipeline, served by the tick thread at its next tick; the newest of each kind.
        self._requests: dict[Hashable, Callable[[], None]] = {}
        # Held while commands are sent and requests are made: no command that was decided earlier may follow a safe one.
        self._sending = threading.Lock()
        # Why safe commands were sent to all robots in place of those of the current tick; None: they were not.
        self._overruled: tuple[RobotState, str] | None = None
        # Safe commands that were sent since the last tick was committed, NaN if none was.
        self._safe_sent = np.full((len(pipeline.robots), pipeline.components), np.nan)
        # Whether any may have been sent.
        self._has_safe_sent = False
        self._owners: Mapping[int, str] = {}
        # Robots that an operator has stopped, and those stopped since the last `_begin_tick`, by their index.
        self._halted: frozenset[int] = frozenset()
        self._just_halted: set[int] = set()
        self._reserve = MemoryReserve()
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
        """See `Watchdog.hanging_since_s`."""
        return self._watchdog.hanging_since_s

    def delay_until_gap(self, delay_s: float) -> float:
        """See `timing.delay_until_gap`; in simulated time the delay is the given one."""
        schedule, tick = self._schedule, self.statistics.newest
        if schedule is None or tick is None or self.simulated:
            return delay_s
        tick_s = (schedule.deadline_ns - time.monotonic_ns()) / 1e9
        return delay_until_gap(delay_s, tick_s, tick, self._configuration.period_ns / 1e9)

    @property
    def planning_s(self) -> float | None:
        """How long the current inference beside the tick takes so far; None without one."""
        since_s = self._pipeline.planning_since_s
        return None if since_s is None else time.monotonic() - since_s

    @property
    def plan_lasts_s(self) -> float:
        """See `Pipeline.plan_lasts_s`; an inference that takes longer hangs, because no plan can follow from it."""
        return self._pipeline.plan_lasts_s

    @property
    def owners(self) -> Mapping[int, str]:
        """Robots that are yielded to other nodes: robot index -> name of the node."""
        return self._owners

    def start(self) -> None:
        """Start the thread."""
        self._publishers.resume()
        self._thread.start()
        self._watchdog.start()

    @property
    def joined(self) -> set[tuple[int, int]]:
        """Robot and sensor whose joint states come from several publishers."""
        return self._pipeline.joined

    def replace_policy(self, pipeline: Pipeline) -> None:
        """Continue with the policy of another pipeline, see `Pipeline.adopt`; wait for the end of the current tick.

        The inference of the old policy beside the tick may go on; nothing comes of it.

        Raises
        ------
        TimeoutError
            When the current tick hangs.
        """
        pipeline.start()
        try:
            if not self._ticking.acquire(timeout=self._configuration.watchdog_timeout_s):
                raise TimeoutError("the current tick hangs; set the new policy when the robots are driven again")
            try:
                # Texts of before: those of the new policy's parameter are newer.
                with self._sending:
                    told = [key for key in self._requests if isinstance(key, tuple) and key[0] == "task"]
                    tasks = [self._requests.pop(key) for key in told]
                for use_task in tasks:
                    use_task()
                self._pipeline.adopt(pipeline)
            finally:
                self._ticking.release()
        finally:
            # It has the policy that was replaced, or does not fit.
            pipeline.end()

    def change_limits(self, configuration: Configuration) -> None:
        """Use the limits of another configuration from the next tick on, see `Pipeline.change_limits`."""
        with self._sending:
            self._requests["limits"] = partial(self._pipeline.change_limits, configuration)
        self._configuration = configuration
        self._watchdog.change_timeout(configuration.watchdog_timeout_s)

    def stop_robots(self, robots: Collection[int] | None = None) -> int:
        """Send robots their safe command at once, also while the tick hangs, and until `resume_robots`.

        Parameters
        ----------
        robots
            Indices of the robots; None: all of them.

        Returns
        -------
        int
            Number of these robots that have a safe command.

        Raises
        ------
        Exception
            The first error of a publisher; the robots are stopped nevertheless.
        """
        with self._sending:
            if robots is None:
                self._request_halt(range(len(self.changes)))
                return self._overrule(STOPPED)
            self._request_halt(self._halted.union(robots))
            self._just_halted.update(robots)
            commands = self._safe_commands(robots)
            self._publishers.end_between(robots)
            self._send_safe(commands)
            return int(np.isfinite(commands).all(axis=1).sum())

    def request_stop(self, robots: Iterable[int]) -> None:
        """Stop exactly these robots, by their index, from the next tick on; send nothing before it."""
        with self._sending:
            self._request_halt(robots)

    def resume_robots(self, robots: Iterable[int]) -> None:
        """Let the policy drive these robots, by their index, again from the next tick on."""
        with self._sending:
            self._request_halt(self._halted.difference(robots))

    def _request_halt(self, robots: Iterable[int]) -> None:
        """Stop exactly these robots at the next tick; `_sending` must be held."""
        self._halted = frozenset(robots)
        self._requests["drive"] = partial(self._pipeline.stop, self._halted)

    def reset_robots(self, robots: Sequence[int] | None = None) -> None:
        """Forget samples, histories and memories of some robots, by their index, or of all at the next tick."""
        with self._sending:
            self._requests["reset", None if robots is None else tuple(robots)] = lambda: self._pipeline.reset(robots)

    def set_task(self, robot: int, text: str) -> None:
        """Tell a robot, by its index, what it is to do from the next tick on, see `Pipeline.set_task`."""
        with self._sending:
            self._requests["task", robot] = partial(self._pipeline.set_task, robot, text)

    def yield_robots(self, owners: Mapping[int, str]) -> None:
        """Yield robots to other nodes, `owners`: robot index -> name of the node; drive all others.

        A robot that was driven gets its safe command, because the other node may not drive it yet.

        Raises
        ------
        Exception
            The first error of a publisher; the robots are yielded nevertheless.
        """
        with self._sending:
            taken = [robot for robot in owners if robot not in self._owners and self._is_driving(robot)]
            final_safe_commands = self._safe_commands(taken)
            self._owners = dict(owners)
            self._requests["yield"] = lambda: self._pipeline.yield_robots(owners)
            self._publishers.end_between(owners)
            if taken:
                self._send_safe(final_safe_commands)

    def _is_driving(self, robot: int) -> bool:
        return self.latest is not None and bool(np.isfinite(self.latest.sent[robot]).any()) and self._may_command()

    def _make_safe(self) -> None:
        """Send safe commands while the tick hangs; called by the watchdog."""
        with self._sending:
            # The tick may have ended meanwhile. After a pause another node may drive the robots.
            if self.hanging_since_s is not None and self._may_command():
                self._overrule(HUNG)

    def _overrule(self, why: tuple[RobotState, str]) -> int:
        """Send safe commands in place of those of the current tick; `_sending` must be held."""
        self._overruled = why
        commands = self._safe_commands()
        self._publishers.end_between(range(len(commands)))
        self._send_safe(commands)
        return int(np.isfinite(commands).all(axis=1).sum())

    def _send_safe(self, commands: np.ndarray) -> None:
        """Send safe commands and note which were sent; `_sending` must be held.

        Without memory for them the reserve is released, and they are sent once more.

        Raises
        ------
        Exception
            The first error of a publisher, after every other robot got its command.
        """
        try:
            self._try_to_send_safe(commands)
        except MemoryError:
            self._reserve.release()
            self._try_to_send_safe(commands)

    def _try_to_send_safe(self, commands: np.ndarray) -> None:
        """Send safe commands once, see `_send_safe`."""
        delivery = self._publishers.send_safe(commands)
        self._safe_sent[delivery.sent] = commands[delivery.sent]
        self._has_safe_sent = True
        if delivery.error is not None:
            raise delivery.error

    def _safe_commands(self, robots: Collection[int] | None = None) -> np.ndarray:
        """Return the safe commands `[robots, components]`, NaN for robots without one and those of other nodes.

        `robots` are the indices of the only robots to make safe, with NaN for all others; None: all of them.
        """
        commands = self._pipeline.safe_commands.copy()
        commands[list(self._owners)] = np.nan
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
            False when the thread still hangs in its tick, or in an inference beside it; it can send no commands any
            more.
        """
        self._reserve.release()
        self._stopping.set()
        self._watchdog.end()
        try:
            self._publishers.stop(self._safe_commands())
        finally:
            if self._thread.is_alive():
                self._thread.join(STOP_TIMEOUT_S)
            if self._simulated is not None:
                self._simulated.close()
            has_ended = self._pipeline.end(STOP_TIMEOUT_S)
        return has_ended and not self._thread.is_alive()

    def _run(self) -> None:
        name_thread("control_loop")
        # OpenMP counts threads per calling thread: without this the first layers would use all cores.
        torch.set_num_threads(self._configuration.policy.threads)
        try:
            # Before the CPUs are set: threads that the policy starts at its first run must not inherit them.
            self._pipeline.start()
            self._pipeline.warm_up()
            apply_realtime(self._configuration.realtime)
            self._tick_on(self._simulated or SteadyClock(self._stopping))
        except BaseException as error:  # also SystemExit of a module of the policy, which would end the thread silently
            self._reserve.release()
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
            self._schedule = schedule = Schedule(self._configuration.period_ns, clock.now_ns())
            missed = 0
            while clock.wait_until(schedule.deadline_ns) and not self._stopping.is_set():
                lateness_ns = clock.now_ns() - schedule.deadline_ns
                with self._ticking:
                    has_claim = self._tick(lateness_ns, missed)
                if has_claim or self._simulated is None:
                    missed = schedule.advance(clock.now_ns())
                else:
                    # Simulated time may stand still until the robots get a command: repeat the tick.
                    self._stopping.wait(CLAIM_POLL_S)
            if not self._stopping.is_set():
                self._pipeline.reset()

    def _tick(self, lateness_ns: int, missed: int) -> bool:
        """Run one tick; return False if it sent nothing because the claim on the robots does not hold."""
        began_s = time.perf_counter()
        self._watchdog.begin_tick()
        self._begin_tick()
        self._subscriptions.take(self._pipeline, self._simulated.now_ns() if self._simulated is not None else None)
        taken_s = time.perf_counter()
        observed = self._pipeline.observe(self._now_ns(), started_s=taken_s)
        actions = self._pipeline.act(observed)
        decided = self._pipeline.guard(actions, observed, self._now_ns)
        decided_s = time.perf_counter()
        with self._sending:
            has_no_claim = self._overruled is None and not self._may_command()
            sent, error = (_nothing_sent(decided, NOT_CLAIMED), None) if has_no_claim else self._send(decided)
            ended_s = time.perf_counter()
            self._commit(decided, sent)
            if has_no_claim:
                error = self._yield_to_others()
            self._watchdog.end_tick()
        assert self.latest is not None
        stages_s = {"take": taken_s - began_s, **self.latest.stages_s, "publish": ended_s - decided_s}
        # Ages are those of the synchronised readings at the tick; the command is sent a little later.
        ages_s = self.latest.ages_s + (ended_s - taken_s)
        if not decided.all_ready or sent.not_sent:
            ages_s = np.where(self.latest.driven, ages_s, np.nan)
        planned = self.latest.planned
        self.statistics.add(TickRecord(lateness_ns / 1e9, ended_s - began_s, missed, stages_s, ages_s, planned))
        if self._recording is not None:
            self._recording.note_tick(self.latest, missed)
        if error is not None:
            raise error
        return not has_no_claim

    def _begin_tick(self) -> None:
        """Pass the events and requests since the last tick to the pipeline.

        Requests are run without `_sending`: new limits are copied to the device, which may hang. A stop that comes
        meanwhile waits for the next tick, but `_send` drops the commands of this one.
        """
        with self._sending:
            if self._has_safe_sent:
                made_safe = np.flatnonzero(np.isfinite(self._safe_sent).any(axis=1)).tolist()
                if made_safe:
                    self._pipeline.note_overruled(made_safe)
                self._forget_safe_sent()
            self._overruled = None
            requests, self._requests = self._requests, {}
            self._just_halted.clear()
        for request in requests.values():
            request()

    def _forget_safe_sent(self) -> None:
        if self._has_safe_sent:
            self._safe_sent[:] = np.nan
            self._has_safe_sent = False

    def _send(self, decided: FleetCommands) -> tuple[Sent, Exception | None]:
        """Send the commands of the tick, unless safe ones replaced them; `_sending` must be held.

        Returns the commands that were really sent, and the first error of a publisher.
        """
        if self._overruled is not None:
            sent = _nothing_sent(decided, self._overruled)
            return sent._replace(commands=self._safe_sent.copy(), overruled=True), None
        not_sent = dict.fromkeys(self._just_halted, STOPPED)
        not_sent |= {robot: (RobotState.STOPPED, yielded_to(owner)) for robot, owner in self._owners.items()}
        publish = decided.publish
        if not_sent:
            publish = publish.copy()
            publish[list(not_sent)] = False
        # Simulated time may pause while commands are sent.
        until_s = decided.expires_s if self._simulated is None else None
        # Between the ticks of simulated time nothing is sent: its speed is unknown.
        smooth = decided.ready if self._simulated is None else None
        now_ns, following = decided.observed.now_ns, decided.following
        if any_of(decided.observed.unseen_gap):
            # The robot's own timeout has stopped it: the way to its command does not begin at the last one.
            self._publishers.end_between(np.flatnonzero(decided.observed.unseen_gap).tolist())
        delivery = self._publishers.publish(decided.commands, publish, now_ns, until_s, smooth, following)
        error = delivery.error
        why = ENDED if error is None else NOT_SENT
        unsent = publish & ~delivery.sent
        if any_of(unsent):
            not_sent |= dict.fromkeys(np.flatnonzero(unsent).tolist(), why)
        if delivery.late:
            not_sent |= dict.fromkeys(delivery.late, (RobotState.STALE, LATE.format(decided.max_age_s)))
            try:
                self._send_safe(self._safe_commands(delivery.late))
            except Exception as late_error:
                error = error or late_error
        self._sent_s = time.monotonic()
        if decided.all_ready and not not_sent:
            return Sent(decided.commands, delivery.sent, not_sent), error
        commands = np.where(delivery.sent[:, None], decided.commands, self._safe_sent)
        return Sent(commands, delivery.sent, not_sent), error

    def _commit(self, decided: FleetCommands, sent: Sent) -> None:
        """Commit the sent commands, and publish the snapshot of the tick; `_sending` must be held."""
        tick = self._pipeline.commit(decided, sent)
        self._forget_safe_sent()
        if self.latest is None:
            states, reasons = (RobotState.WAITING,) * len(tick.states), ("",) * len(tick.states)
        else:
            states, reasons = self.latest.states, self.latest.reasons
        if tick.states != states:
            for robot, (state, before) in enumerate(zip(tick.states, states, strict=True)):
                self.changes[robot] += state is not before
                if state is RobotState.READY and before is not RobotState.READY:
                    self.interruptions[robot] = (before, reasons[robot])
        self.latest = tick

    def _yield_to_others(self) -> Exception | None:
        """Restart the episodes, because other nodes may have taken over; `_sending` must be held."""
        self._publishers.end_between(range(len(self.changes)))
        recent = time.monotonic() - self._sent_s < RECENT_S
        self._sent_s = -math.inf
        self._pipeline.reset()
        # After a pause of this process other nodes may drive the robots, and the safe commands are outdated.
        return self._publishers.send_safe(self._safe_commands()).error if recent else None


def _nothing_sent(decided: FleetCommands, why: tuple[RobotState, str]) -> Sent:
    """Return that no command of a tick was sent, with one reason for all robots."""
    return Sent.without(decided, dict.fromkeys(range(len(decided.publish)), why))
