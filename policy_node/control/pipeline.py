# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""One tick without ROS: from the samples of all robots to one command per robot.

`Pipeline.step` reads in the order in which data flow: observe, act, guard, commit.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from policy_node.config.schema import Configuration, ConfigurationError, limits_of, topic_of
from policy_node.config.tasks import encode_task, task_of_each
from policy_node.control.command_mapping import CommandLimiter, CommandMapper
from policy_node.control.fleet_memory import NEVER_NS, FleetMemory
from policy_node.control.guard import Guard
from policy_node.control.planned_inference import PlannedInference, RecordedPlans, check_plans, has_plans
from policy_node.control.safe_commands import MeasuredPositions, SafeCommands
from policy_node.control.tick import (
    Actions,
    FleetCommands,
    FleetTick,
    Observed,
    Problem,
    Sent,
    any_of,
    constant,
    with_problems,
)
from policy_node.engines.failures import is_device_failure
from policy_node.engines.inference import Inference, Inferred
from policy_node.engines.wrapped import CapturedPolicy
from policy_node.messages.reading import Decode
from policy_node.policies import Policy
from policy_node.sensing.batch import ObservationBatch, ObservationLayout
from policy_node.sensing.fleet_samples import FleetSamples
from policy_node.sensing.samples import Sample
from policy_node.sensing.staging import OrZeros, Rejections, Staging
from policy_node.sensing.synchroniser import FleetSelection, RobotState, Selection
from policy_node.sensing.terms import checked_decode

STOPPED_REASON = "stopped by an operator, until resumed"


def make_inference(configuration: Configuration, policy: Policy, layouts: Mapping[str, ObservationLayout]) -> Inference:
    """Connect a policy to its observations and to its commands.

    Raises
    ------
    ConfigurationError
        When the policy's actions do not fit the configured command.
    """
    robots, action, device = len(configuration.robots), configuration.action, policy.device
    mapper = CommandMapper(policy.spec.action, action, device)
    captured = isinstance(policy, CapturedPolicy)
    limiter = CommandLimiter(action, mapper.components, 1.0 / configuration.control_rate_hz, device, captured)
    batch = ObservationBatch({layout.key: layout for layout in layouts.values()}, robots, device)
    return Inference(policy, batch, mapper, limiter, robots)


def _longest_gap_ns(configuration: Configuration) -> int:
    """Return the longest time between two ticks that is no pause; without missed ticks it is less than two periods."""
    max_age_ns = round(configuration.synchronisation.max_age_s * 1e9)
    return configuration.period_ns + max(configuration.period_ns, max_age_ns)


def yielded_to(owner: str) -> str:
    """Return why the node yields a robot to another node."""
    return f"{owner} commands it"


class Pipeline:
    """Samples of all robots in, one command per robot out.

    Not thread-safe: one thread adds samples and runs ticks, and serves requests of operators and other nodes between
    two ticks. A tick is `observe`, `act`, `guard`, and `commit` once the commands were sent; `step` does all.

    Parameters
    ----------
    configuration, policy
        The deployment, and its policy on its device.
    layouts
        From `pairing.match_observations`.
    decoders
        Name of each source, and of the safe position -> function that writes a message into a reading, see `Staging`.

    Raises
    ------
    ConfigurationError
        When the policy's actions do not fit the configured command.
    """

    def __init__(
        self,
        configuration: Configuration,
        policy: Policy,
        layouts: Mapping[str, ObservationLayout],
        decoders: Mapping[str, Decode],
    ) -> None:
        #: Names of the robots.
        self.robots = configuration.robots
        self._everyone = range(len(self.robots))
        self._indices = np.arange(len(self.robots))
        # What is true of all robots in most ticks, shared by their snapshots.
        self._everybody = constant(np.ones(len(self.robots), bool))
        self._all_ready = (RobotState.READY,) * len(self.robots)
        self._no_reasons = ("",) * len(self.robots)
        self._gap_ns = _longest_gap_ns(configuration)
        self._limits = json.dumps(limits_of(configuration))
        self._samples = FleetSamples(configuration)
        #: Names of the sensors.
        self.keys = self._samples.names
        self._inference: Inference | PlannedInference
        if has_plans(configuration, policy):
            self._inference = PlannedInference(configuration, policy, layouts)
        else:
            check_plans(configuration, policy)
            self._inference = make_inference(configuration, policy, layouts)
        #: Number of components of a command.
        self.components = self._inference.components
        self._rejections = Rejections(len(self.robots))
        self._staging = self._make_staging(layouts, decoders)
        self._safe = self._make_safe_commands(configuration, decoders)
        self._guard = Guard(configuration)
        self._memory = FleetMemory(configuration, self.components)
        #: The observation of the current tick, for `observe_again`; None before the first.
        self.observed: Observed | None = None
        self._last_tick_ns = NEVER_NS
        # Robots that an operator has stopped, by their index.
        self._halted: frozenset[int] = frozenset()
        self._owners: dict[int, str] = {}
        # Why robots are STOPPED, by their index.
        self._stop_reasons: dict[int, str] = {}
        self._stopped = self._nobody = nobody = self._memory.nobody
        self._no_commands = Inferred(np.full((len(self.robots), self.components), np.nan), nobody, nobody)
        self._task_topic = configuration.policy.task_topic
        # By robot the text that says what it is to do, also while the policy takes none; at first the configured ones.
        self._tasks = self._configured_tasks = task_of_each(configuration.policy.task, len(self.robots))
        # Robots that have none yet.
        self._without_task: dict[int, Problem] = {}
        self._stage_tasks()

    def _make_staging(self, layouts: Mapping[str, ObservationLayout], decoders: Mapping[str, Decode]) -> Staging:
        checked = dict(decoders)
        for layout in layouts.values():
            for term in layout.terms:
                name = term.configuration.name
                if term.reading:
                    checked[name] = checked_decode(term, decoders[name])
        sensors = self._samples.observed
        silent = [source.name for sources in sensors for source in sources if source.may_be_silent]
        checked |= {name: OrZeros(checked[name]) for name in silent}
        names = [[source.name for source in sources] for sources in sensors]
        return Staging(names, self._inference.batch.arrays, checked, self._rejections)

    def _make_safe_commands(self, configuration: Configuration, decoders: Mapping[str, Decode]) -> SafeCommands:
        position = configuration.safe_position
        if position is None:
            return SafeCommands(len(self.robots), self.components, self._inference.safe_command)
        columns = None
        if len(configuration.commands) > 1:
            measured = [
                np.arange(self.components)[columns]
                for command, columns in zip(configuration.commands, configuration.columns, strict=True)
                if command.safe_position_topic
            ]
            columns = np.concatenate(measured)
        elif len(position.joints) != self.components:
            problem = (
                f"action.safe_position_joints: found {len(position.joints)}, but a command has {self.components} "
                f"components; give the joint of each"
            )
            raise ConfigurationError(problem)
        decode = decoders[position.name]
        fixed = self._inference.safe_command if columns is not None else None
        return MeasuredPositions(self.components, self._samples.positions, decode, self._rejections, columns, fixed)

    @property
    def safe_commands(self) -> np.ndarray:
        """See `SafeCommands.commands`; any thread may read it."""
        return self._safe.commands

    @property
    def policy(self) -> Policy:
        """The policy that drives the robots."""
        return self._inference.policy

    @property
    def session(self) -> str:
        """See `Inference.session`."""
        return self._inference.session

    @property
    def inference_s(self) -> float:
        """Shortest time of one inference for all robots at the warm-up."""
        return self._inference.duration_s

    @property
    def plan_lasts_s(self) -> float:
        """Longest time from the observation of a plan to a command; infinite where no command follows from plans."""
        return self._inference.store.lasts_s if isinstance(self._inference, PlannedInference) else math.inf

    @property
    def observations(self) -> Mapping[str, torch.Tensor]:
        """Inputs of the policy at the last tick, `[robots, *space]` by key, valid until the next one.

        Rows of robots that were not ready mean nothing.
        """
        return self._inference.batch.latest

    @property
    def joined(self) -> set[tuple[int, int]]:
        """See `FleetSamples.joined`."""
        return self._samples.joined

    def add(self, robot: int, sensor: int, stamp_ns: int, message: Any) -> None:
        """Add a sample of one sensor of one robot, both by their index."""
        self._samples.add(robot, sensor, stamp_ns, message)

    def set_present(self, robot: int, sensor: int, present: bool) -> None:
        """Set whether a sensor that may be silent has a publisher; without one its silence is not a reading."""
        self._samples.set_present(robot, sensor, present)

    def name_oldest(self, robot: int, sensor: int, what: str) -> None:
        """Name what the readings of a sensor are as old as, for the reason if they are too old."""
        self._samples.name_oldest(robot, sensor, what)

    def check_limits(self, configuration: Configuration) -> None:
        """Check that `change_limits` can use a configuration; may be called from any thread.

        Raises
        ------
        ConfigurationError
            When it cannot.
        """
        self._inference.limits.check(configuration.action)

    def change_limits(self, configuration: Configuration) -> None:
        """Use the bounds, the largest change and the largest ages of another configuration, with the same sensors."""
        self._inference.limits.change(configuration.action)
        self._gap_ns = _longest_gap_ns(configuration)
        self._limits = json.dumps(limits_of(configuration))
        self._guard.max_age_ns = round(configuration.synchronisation.max_age_s * 1e9)
        self._samples.change_limits(configuration)

    def stop(self, robots: Iterable[int] | None = None) -> None:
        """Send these robots, by their index (None: all), their safe command; drive all others.

        The episode of a robot that is driven again restarts.
        """
        self._halted = frozenset(self._everyone if robots is None else robots)
        self._note_stops()

    def yield_robots(self, owners: Mapping[int, str]) -> None:
        """Yield robots to other nodes, `owners`: robot index -> name of the node; drive all others."""
        self._owners = dict(owners)
        self._safe.yield_robots(owners)
        self._note_stops()

    def _note_stops(self) -> None:
        self._stop_reasons = dict.fromkeys(sorted(self._halted), STOPPED_REASON)
        self._stop_reasons.update({robot: yielded_to(owner) for robot, owner in self._owners.items()})
        self._stopped = np.array([robot in self._stop_reasons for robot in self._everyone])

    def reset(self, robots: Sequence[int] | None = None) -> None:
        """Forget samples, histories, memories and commands, as when a simulation restarts; stops stay in force.

        Parameters
        ----------
        robots
            Indices of the robots; None: all of them, and the clock may jump.
        """
        if robots is None:
            robots = self._everyone
            self._last_tick_ns = NEVER_NS
        self._samples.forget(robots)
        self._memory.forget(robots)
        self._safe.forget(robots)

    def forget_samples(self) -> None:
        """Drop all samples."""
        self._samples.forget(self._everyone)

    def note_overruled(self, robots: Sequence[int]) -> None:
        """Record that safe commands were sent to some robots, by their index, since the last tick.

        Their episodes restart. A robot keeps the position that its safe command holds.
        """
        chosen = list(robots)
        self._memory.overrule(chosen, self.safe_commands[chosen])
        self._safe.freeze_known(chosen)

    def set_task(self, robot: int, text: str) -> None:
        """Tell a robot, by its index, what it is to do from the next tick on; another text begins a new episode.

        A policy that takes no text goes on; the text is for the next one that takes one.
        """
        if text != self._tasks[robot]:
            self._tasks = (*self._tasks[:robot], text, *self._tasks[robot + 1 :])
            if self.policy.spec.task:
                self._stage_tasks([robot])
                # Drops its plans, also those that are still computed.
                self._memory.restart([robot])

    def _stage_tasks(self, robots: Iterable[int] | None = None) -> None:
        key = self.policy.spec.task
        if not key:
            self._without_task = {}
            return
        for robot in self._everyone if robots is None else robots:
            text = self._tasks[robot]
            self._inference.batch.row(key, robot)[:] = encode_task(text)
            if text:
                self._without_task.pop(robot, None)
            else:
                topic = topic_of(self.robots[robot], self._task_topic)
                self._without_task[robot] = RobotState.WAITING, f"it waits for its first text on {topic}"

    def observe_again(self, robots: Sequence[int]) -> tuple[dict[str, torch.Tensor], dict[int, str]]:
        """Observe some robots again, at the time of the tick, after `reset` restarted their episodes.

        Parameters
        ----------
        robots
            Indices of robots that were ready, and that `reset` was called for.

        Returns
        -------
        dict
            The observations of all robots, as the policy gets them; the histories of these robots restart.
        dict
            Robot index -> why its new readings cannot be used yet; its observation is then the earlier one.
        """
        observed = self.observed
        assert observed is not None, "only a policy that acts can ask"
        selections = self._select(observed.now_ns, observed.previous_ns)
        reasons = {robot: selections[robot].reason for robot in robots if selections[robot].reason}
        reasons |= self._staging([(robot, selections[robot].samples) for robot in robots if robot not in reasons])
        restart = np.zeros(len(self.robots), bool)
        restart[[robot for robot in robots if robot not in reasons]] = True
        return self._inference.batch.begin_again(restart), reasons

    def warm_up(self) -> None:
        """Run the policy on example observations, see `Inference.warm_up`."""
        self._inference.warm_up()
        self._stage_tasks()

    def start(self) -> None:
        """Start the thread that runs the policy beside the tick, if there is to be one, and warm it up.

        The calling thread must not have a real-time priority yet, which the new one must not have.
        """
        if isinstance(self._inference, PlannedInference) and self._inference.in_background:
            self._inference.start()

    def end(self, timeout_s: float = 0.0) -> bool:
        """End the thread in the background, if there is one; return False if it takes longer than a time."""
        return not isinstance(self._inference, PlannedInference) or self._inference.end(timeout_s)

    @property
    def planning_since_s(self) -> float | None:
        """When the current inference in the background began, on the monotonic clock; None without one."""
        inference = self._inference
        return inference.planner.busy_since_s if isinstance(inference, PlannedInference) else None

    def adopt(self, other: Pipeline) -> None:
        """Continue with the policy of another pipeline of the same deployment; to be called between two ticks.

        Samples, states and last commands stay. The histories stay if the new policy takes the same, else they restart.
        The new policy's memory restarts, and all plans are dropped. The texts of robots stay, unless the other pipeline
        was configured with others.

        Parameters
        ----------
        other
            Warmed up, with the same robots, sensors and command; afterwards only `end` may be called.

        Raises
        ------
        ConfigurationError
            When its commands have another number of components; nothing is changed then.
        """
        old, new = self._inference, other._inference
        if new.components != old.components:
            found = f"the new policy's commands have {new.components} components, those of the current one"
            remedy = "clean up the node, then configure it with the new policy"
            raise ConfigurationError(f"policy.path: {found} {old.components}; {remedy}")
        with torch.inference_mode():
            if not new.batch.take_over(old.batch):
                self._memory.restart_histories()
        # The other pipeline ends the thread of the old one.
        self._inference, other._inference = new, old
        other._staging.take_over(self._staging)
        self._staging = other._staging
        if other._configured_tasks != self._configured_tasks:
            self._configured_tasks = other._configured_tasks
            for robot, text in enumerate(self._configured_tasks):
                # Without one a robot keeps what a topic has told it.
                if text:
                    self.set_task(robot, text)
        self._stage_tasks()

    def step(
        self,
        now_ns: int,
        clock: Callable[[], int] | None = None,
        selections: Sequence[Selection] | None = None,
        not_sent: Mapping[int, tuple[RobotState, str]] | None = None,
        plans: RecordedPlans | None = None,
    ) -> FleetTick:
        """Run one tick and assume that its commands are sent as decided.

        Parameters
        ----------
        now_ns, selections
            See `observe`.
        clock
            See `guard`.
        not_sent
            Robots whose commands are not sent, see `Sent`; None: all commands are sent.
        plans
            See `PlannedInference`.
        """
        observed = self.observe(now_ns, selections)
        actions = self.act(observed, plans)
        decided = self.guard(actions, observed, clock)
        replaced = {robot: why for robot, why in not_sent.items() if decided.publish[robot]} if not_sent else {}
        return self.commit(decided, Sent.without(decided, replaced))

    def observe(
        self, now_ns: int, selections: Sequence[Selection] | None = None, started_s: float | None = None
    ) -> Observed:
        """Choose the readings of every robot and stage them for the policy.

        Parameters
        ----------
        now_ns
            The time of the tick on the clock of the stamps, in nanoseconds.
        selections
            Readings of each robot, if they are known already, such as in a recording; None: choose them now.
        started_s
            Time just before `now_ns` was read, on the clock of `time.perf_counter`; None: now.
        """
        started_s = time.perf_counter() if started_s is None else started_s
        previous_ns, self._last_tick_ns = self._last_tick_ns, now_ns
        if now_ns < previous_ns:
            # Earlier samples would seem newer than they are.
            self.forget_samples()
            self._memory.restart(self._everyone)
            self._safe.freeze_known(self._everyone)
        without_safe_command = self._safe.update(now_ns)
        if selections is None:
            selected = self._select(now_ns, previous_ns)
        else:
            selected = FleetSelection(selections)
        states, reasons = self._all_ready, self._no_reasons
        chosen: Iterable[tuple[int, Sequence[Sample]]] = enumerate(selected.samples)
        all_ready = self._is_usual(selected, without_safe_command)
        if not all_ready:
            states, reasons = self._states(selected, without_safe_command)
            chosen = [each for each, state in zip(chosen, states, strict=True) if state is RobotState.READY]
        selected_s = time.perf_counter()

        if unusable := self._staging(chosen):
            all_ready = False
            rejected = {robot: (RobotState.REJECTED, reason) for robot, reason in unusable.items()}
            states, reasons = with_problems(states, reasons, rejected)
            for lacking in self._staging.lacking:
                self._samples.join_joints(*lacking)
        ready = self._everybody if all_ready else np.array([state is RobotState.READY for state in states])
        # Detect pauses: while the process was suspended or the clock stepped, no tick could mark the robot as not
        # driven.
        memory = self._memory
        unseen_gap = ~memory.fresh_start if now_ns - previous_ns > self._gap_ns else self._nobody
        fresh_start = memory.fresh_start
        if not (all_ready and fresh_start is self._nobody and unseen_gap is self._nobody):
            fresh_start = ready & (fresh_start | unseen_gap)
        self.observed = Observed(
            now_ns=now_ns,
            previous_ns=previous_ns,
            started_s=started_s,
            states=states,
            reasons=reasons,
            ages_s=np.array(selected.ages_ns, np.float64) / 1e9,
            ready=ready,
            fresh_start=fresh_start,
            stopped=self._stopped,
            unseen_gap=unseen_gap,
            samples=tuple(selected.samples),
            positions=self._safe.readings,
            before=memory.take_events(),
            stages_s={"select": selected_s - started_s, "stage": time.perf_counter() - selected_s},
            all_ready=all_ready,
        )
        return self.observed

    def _is_usual(self, selected: FleetSelection, without_safe_command: Mapping[int, Problem]) -> bool:
        """Return whether every robot is READY as far as its readings are not decoded."""
        return not (selected.unusual or without_safe_command or self._without_task or self._stop_reasons)

    def _states(
        self, selected: FleetSelection, without_safe_command: Mapping[int, Problem]
    ) -> tuple[tuple[RobotState, ...], tuple[str, ...]]:
        """Return the state of each robot, and the reason where it is not READY."""
        problems: dict[int, Problem] = {**self._without_task, **without_safe_command}
        for robot, selection in selected.unusual.items():
            if selection.state is not RobotState.READY:
                problems[robot] = selection.state, selection.reason
        problems.update({robot: (RobotState.STOPPED, reason) for robot, reason in self._stop_reasons.items()})
        return with_problems(self._all_ready, self._no_reasons, problems)

    def _select(self, now_ns: int, previous_ns: int) -> FleetSelection:
        """Choose the readings of every robot; the tick before was at `previous_ns`."""
        selected = self._samples.select(now_ns, previous_ns)
        for robot, selection in selected.unusual.items():
            if selection.refused:
                self._rejections.add(robot, selection.refused)
        if now_ns < previous_ns:
            reason = f"the clock was set back by {(previous_ns - now_ns) / 1e9:.3f} s"
            return FleetSelection([Selection(RobotState.STALE, (), None, reason)] * len(self.robots))
        return selected

    def act(self, observed: Observed, plans: RecordedPlans | None = None) -> Actions:
        """Run the policy once for all robots, if any is ready; or take what is due in its plans.

        `plans` are those of a recorded tick, see `PlannedInference`.

        Raises
        ------
        Exception
            When the device of the policy failed, or its memory ran out: no later tick can recover from that.
        """
        started_s = time.perf_counter()
        current = self._memory.last_commands.copy()
        if not (self._memory.all_driven and observed.unseen_gap is self._nobody):
            # After a pause the robot's own timeout has stopped it: start from the safe command.
            timed_out = observed.unseen_gap[:, None] | np.isnan(current)
            current[timed_out] = self.safe_commands[timed_out]
        inferred, failure = self._no_commands, ""
        if isinstance(self._inference, PlannedInference):
            ramp = self._memory.ramp(observed, current)
            inferred, planned = self._inference(observed, current, *ramp, plans)
            return Actions(inferred, current, "", time.perf_counter() - started_s, planned)
        if any_of(observed.ready):
            try:
                inferred = self._inference(observed.fresh_start, current, *self._memory.ramp(observed, current))
            except Exception as error:  # the robots then get their safe command
                if is_device_failure(error):
                    raise
                failure = f"the policy failed: {type(error).__name__}: {error}"
        return Actions(inferred, current, failure, time.perf_counter() - started_s)

    def guard(self, actions: Actions, observed: Observed, clock: Callable[[], int] | None = None) -> FleetCommands:
        """Decide which command every robot gets, see `Guard`."""
        return self._guard(actions, observed, self._safe.commands, self._memory, clock)

    def commit(self, decided: FleetCommands, sent: Sent) -> FleetTick:
        """Store the commands that were really sent, and return the snapshot of the tick."""
        observed, memory = decided.observed, self._memory
        memory.commit(decided, sent)
        # The memory keeps a reference to it.
        sent.commands.flags.writeable = False
        driven, states, reasons, samples = decided.ready, decided.states, decided.reasons, observed.samples
        if memory.all_driven:
            self._safe.freeze(self._nobody)
        else:
            got_safe = sent.as_decided & ~decided.ready & ~decided.held
            if sent.not_sent:
                got_safe |= sent.replaced
                driven = driven & sent.as_decided
                states, reasons = _with_replaced(decided, sent)
            self._safe.freeze(got_safe & self._safe.was_sent(sent.commands))
            if sent.overruled:
                self.forget_samples()
                memory.overrule(self._everyone, sent.commands)
            samples = self._used(decided, sent, driven)
        return FleetTick(
            time_ns=observed.now_ns,
            commands=decided.commands,
            publish=decided.publish,
            sent=sent.commands,
            commanded=sent.as_decided,
            driven=driven,
            states=states,
            reasons=reasons,
            ages_s=observed.ages_s,
            fresh_start=observed.fresh_start,
            stages_s={**observed.stages_s, "infer": decided.actions.infer_s, "guard": decided.guard_s},
            samples=samples,
            positions=observed.positions,
            before=observed.before,
            stopped=len(self._halted) == len(self.robots),
            owners=self._owners,
            policy_sha256=self._inference.policy.spec.sha256,
            rejected=self._rejections.count,
            bounded=memory.bounded,
            slowed=memory.slowed,
            unheard=self._samples.unheard(),
            limits=self._limits,
            planned=decided.actions.planned,
            tasks=self._tasks if self.policy.spec.task else (),
        )

    def _used(self, decided: FleetCommands, sent: Sent, driven: np.ndarray) -> tuple[tuple[Sample, ...], ...]:
        """Return the readings behind a command or a fault, see `FleetTick.samples`; `driven` is that of the tick."""
        used = driven | decided.faulty
        if decided.pending is not None:
            used |= decided.pending & ~np.isin(self._indices, list(sent.not_sent))
        given = zip(decided.observed.samples, used.tolist(), strict=True)
        return tuple([samples if is_used else () for samples, is_used in given])


def _with_replaced(decided: FleetCommands, sent: Sent) -> tuple[tuple[RobotState, ...], tuple[str, ...]]:
    """Return states and reasons if the commands of some ready robots were not sent."""
    states, reasons = list(decided.states), list(decided.reasons)
    for robot, (state, reason) in sent.not_sent.items():
        if decided.ready[robot] or (decided.pending is not None and decided.pending[robot]):
            states[robot], reasons[robot] = state, reason
    return tuple(states), tuple(reasons)
