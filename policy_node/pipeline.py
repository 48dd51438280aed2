# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""One tick without ROS: from the samples of all robots to one command per robot.

`Pipeline.step` reads in the order in which data flow: select, stage, upload, infer, guard.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from policy_node.actions import CommandLimiter, CommandMapper
from policy_node.batch import ObservationBatch, ObservationLayout, observation_layout
from policy_node.configuration import (
    Configuration,
    ConfigurationError,
    ObservationConfiguration,
    SourceConfiguration,
)
from policy_node.failures import is_device_failure
from policy_node.inference import Inference, Inferred
from policy_node.policies import Policy, PolicyError, PolicyInterface
from policy_node.policies.formats import format_of
from policy_node.policies.interface import parse_memory
from policy_node.safe_commands import PresentPositions, SafeCommands
from policy_node.samples import Sample, SampleRing
from policy_node.specs import ArraySpec
from policy_node.staging import Rejections, Staging, or_zeros
from policy_node.synchroniser import RobotState, Selection, select, with_newest, with_silent
from policy_node.terms import Decode, checked_decode

# Bounds the memory of a sensor whose partner is silent; a deeper subscription raises it.
RING_LENGTH = 16
# Longer ago than any hold; any time may be subtracted from it.
NEVER_NS = np.iinfo(np.int64).min // 2


@dataclass(frozen=True, eq=False)
class FleetCommands:
    """What one tick gives.

    Attributes
    ----------
    commands
        `[robots, components]` float64: the policy's command, or the one that replaces it.
    publish
        `[robots]` bool: whether the robot gets a command at all.
    states, reasons
        One per robot; the reason is empty when READY.
    ages_s
        `[robots]` float64: age of the robot's oldest synchronised reading at the tick; NaN where there was no set.
    stages_s
        Seconds spent in each stage, in the order of the stages.
    samples
        By robot the readings that the policy was given, in the order of the sensors, a silent one with the message
        None; () where it was given none, or where they had become too old after it.
    positions
        By robot the reading of the safe position before this tick; None where none was usable or needed.
    before
        By robot what happened to its episode since the step before: nothing (empty), `reset` or `overruled`, see
        `Pipeline.reset` and `Pipeline.note_overruled`.
    """

    commands: np.ndarray
    publish: np.ndarray
    states: tuple[RobotState, ...]
    reasons: tuple[str, ...]
    ages_s: np.ndarray
    stages_s: dict[str, float]
    samples: tuple[tuple[Sample, ...], ...]
    positions: tuple[Sample | None, ...]
    before: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Observed:
    """What a step has found before its inference.

    Attributes
    ----------
    now_ns, previous_ns
        The times of this tick and of the one before.
    states, reasons
        One per robot; the reason is empty when READY.
    ages_s
        `[robots]` float64, see `FleetCommands`.
    ready, fresh_start
        `[robots]` bool: whose command will come from the policy, and whose history and memory start anew.
    """

    now_ns: int
    previous_ns: int
    states: tuple[RobotState, ...]
    reasons: tuple[str, ...]
    ages_s: np.ndarray
    ready: np.ndarray
    fresh_start: np.ndarray


def make_inference(configuration: Configuration, policy: Policy, layouts: Mapping[str, ObservationLayout]) -> Inference:
    """Put a policy between its observations and its commands.

    Raises
    ------
    ConfigurationError
        When the policy's actions do not fit the configured command.
    """
    robots, action, device = len(configuration.robots), configuration.action, policy.device
    mapper = CommandMapper(policy.spec.action, action, device)
    limiter = CommandLimiter(action, mapper.components, 1.0 / configuration.control_rate_hz, device)
    batch = ObservationBatch({layout.key: layout for layout in layouts.values()}, robots, device)
    return Inference(policy, batch, mapper, limiter, robots)


def policy_interface(configuration: Configuration) -> PolicyInterface | None:
    """Return what the configuration says about the inputs and outputs of a policy file; None when it says nothing.

    Raises
    ------
    PolicyError
        When it contradicts itself.
    """
    policy, observations = configuration.policy, configuration.observations
    said = (policy.memory, policy.lengths, policy.mask, policy.action, policy.discrete, policy.low, policy.high)
    if not any(said) and not any(entry.input or entry.history or entry.shape for entry in observations):
        return None
    # A policy with one observation takes it under any name.
    alone = len(observations) == 1 and not observations[0].input
    keyed = {"observation" if alone else entry.key: entry for entry in observations}
    try:
        memories = [parse_memory(text) for text in policy.memory]
    except PolicyError as error:
        raise PolicyError(f"policy.memory: {error}") from error
    in_order = format_of(policy.path, policy.format).is_ordered
    return PolicyInterface(
        # Inputs that are known by their order only are all named.
        inputs={key: entry.input or key for key, entry in keyed.items() if entry.input or in_order},
        memory=tuple((name, output) for name, output, _ in memories),
        lengths=policy.lengths,
        mask=policy.mask,
        padding=policy.padding,  # type: ignore[arg-type]
        action=policy.action,
        discrete=policy.discrete,
        low=_bound(policy.low, -np.inf),
        high=_bound(policy.high, np.inf),
        history={key: entry.history for key, entry in keyed.items() if entry.history},
        shapes={key: entry.shape for key, entry in keyed.items() if entry.shape}
        | {name: shape for name, _, shape in memories if shape is not None},
        dtypes={key: "uint8" for key, entry in keyed.items() if entry.is_image},
    )


def _bound(numbers: tuple[float, ...], none: float) -> tuple[float, ...] | float:
    return numbers if len(numbers) > 1 else next(iter(numbers), none)


def match_observations(
    configuration: Configuration, policy: Policy, sizes: Mapping[str, int | None] | None = None
) -> dict[str, ObservationLayout]:
    """Pair the configured sensors with the policy's observation space.

    Parameters
    ----------
    configuration
        The deployment.
    policy
        The policy.
    sizes
        By name of a term: how many numbers its messages give, None or missing where only each message says it.

    Returns
    -------
    dict
        Layout by configured key.

    Raises
    ------
    ConfigurationError
        When they do not fit; shows both side by side.
    """
    wanted = _wanted(configuration, policy)
    configured = {observation.key: observation for observation in configuration.observations}
    problems = [
        f"observations.keys: '{key}' is not in the policy's observation space"
        for key in configured
        if key not in wanted
    ]
    problems += [
        f"observations.keys: '{key}' is missing, the policy needs it" for key in wanted if key not in configured
    ]
    action = policy.spec.action
    action_size = math.prod(action.shape) if isinstance(action, ArraySpec) else 0
    layouts = {}
    for key, observation in configured.items():
        if key in wanted:
            policy_key = key if key in policy.spec.observations else "observation"
            try:
                layouts[key] = observation_layout(policy_key, wanted[key], observation, sizes, action_size)
            except ConfigurationError as error:
                problems += error.problems
    if problems:
        raise ConfigurationError([*problems, side_by_side(configuration, policy)])
    return layouts


def _wanted(configuration: Configuration, policy: Policy) -> Mapping[str, ArraySpec]:
    """Return the policy's observation space by configured key."""
    wanted, configured = policy.spec.observations, configuration.observations
    # A space that is not a Dict has one observation, whatever the user calls it.
    if list(wanted) == ["observation"] and len(configured) == 1:
        return {configured[0].key: wanted["observation"]}
    return wanted


def side_by_side(configuration: Configuration, policy: Policy) -> str:
    """Show the policy's observation space beside the configured sensors, a line per key."""
    wanted = _wanted(configuration, policy)
    sensors = {
        observation.key: _described(observation)
        + (f", stack {observation.stack}" if observation.stack > 1 else "")
        + (f" as {observation.stack_as}" if observation.stack_as != "vecframestack" else "")
        + (f", history {observation.history}" if observation.history else "")
        for observation in configuration.observations
    }
    rows = [
        (key, str(wanted.get(key, "not there")), sensors.get(key, "not configured")) for key in {**wanted, **sensors}
    ]
    rows = [("key", "policy wants", "configured sensor"), *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(f"  {row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}" for row in rows)


def _described(source: SourceConfiguration) -> str:
    """Say where an observation comes from."""
    if isinstance(source, ObservationConfiguration) and source.terms:
        return "terms " + ", ".join(term.term for term in source.terms)
    paths = list(source.fields) or source.field
    return (
        f"{source.type} on {source.topic}"
        + (f", field {paths}" if paths else "")
        + (f", joints {list(source.joints)}" if source.joints else "")
    )


def _silent_sources(sensors: Sequence[Sequence[SourceConfiguration]]) -> list[str]:
    return [source.name for sources in sensors for source in sources if source.may_be_silent]


class Pipeline:
    """Samples of all robots in, one command per robot out.

    Not thread-safe: one thread adds samples and steps; what operators and other nodes ask for comes between two steps.

    Parameters
    ----------
    configuration
        The deployment.
    policy
        The policy, on its device.
    layouts
        From `match_observations`.
    decoders
        By the name of each source, and of the safe position: writes a message into its reading, see `Staging`.

    Attributes
    ----------
    bounded_count, slowed_count
        `[robots]` int64: commands on which a bound, or a limit of the change, acted.
    observed
        What the step with the latest inference had found before it, for a policy that asks; None before the first.

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
        self.robots = configuration.robots
        # Names of the sensors.
        self.keys = tuple(sources[0].name for sources in configuration.sensors)
        self._action = configuration.action
        self._slop_ns = round(configuration.synchronisation.slop_s * 1e9)
        self._max_age_ns = round(configuration.synchronisation.max_age_s * 1e9)
        self._hold_ns = round(configuration.action.hold_s * 1e9)
        self._ramp_ns = configuration.action.ramp_s * 1e9
        # Ticks that are not missed are less than two periods apart, however late they are.
        self._gap_ns = configuration.period_ns + max(configuration.period_ns, self._max_age_ns)
        count = len(self.robots)
        lengths = [max(RING_LENGTH, sources[0].depth) for sources in configuration.sensors]
        self._rings = [[SampleRing(length) for length in lengths] for _ in self.robots]
        self._heard = np.zeros((count, len(self.keys)), bool)
        # What is observed, in this order; the safe position is not.
        observed = [sources for sources in configuration.sensors if sources[0] is not configuration.safe_position]
        self._synchronised = sum(sources[0].is_synchronised for sources in observed)
        silent = sum(sources[0].may_be_silent for sources in observed)
        newest = slice(self._synchronised, len(observed) - silent)
        self._silent = slice(newest.stop, len(observed))
        self._synchronised_rings = [rings[: self._synchronised] for rings in self._rings]
        self._newest_names, self._silent_names = self.keys[newest], self.keys[self._silent]
        self._newest_rings = [rings[newest] for rings in self._rings]
        self._silent_rings = [rings[self._silent] for rings in self._rings]
        ages_ns = [round(sources[0].max_age_s * 1e9) for sources in observed]
        self._newest_ages_ns, self._silent_ages_ns = ages_ns[newest], ages_ns[self._silent]
        # Whether there are publishers, `[robots][sensors]`; asked only of sensors that may be silent.
        self._present = [[False] * len(self.keys) for _ in self.robots]
        self._inference = make_inference(configuration, policy, layouts)
        self.components = self._inference.components
        checked = dict(decoders)
        for layout in layouts.values():
            for term in layout.terms:
                name = term.configuration.name
                if term.reading:
                    checked[name] = checked_decode(term, decoders[name])
        checked |= {name: or_zeros(checked[name]) for name in _silent_sources(observed)}
        names = [[source.name for source in sources] for sources in observed]
        rows = [self._inference.batch.readings(robot) for robot in range(count)]
        self._rejections = Rejections(count)
        self._staging = Staging(names, rows, checked, self._rejections)
        self._safe = self._safe_commands_of(configuration, decoders)
        self.observed: Observed | None = None
        self._is_stopped = False
        self._owners: dict[int, str] = {}
        self._before = [""] * count
        # Why robots are STOPPED, by their index.
        self._stop_reasons: dict[int, str] = {}
        self.bounded_count, self.slowed_count = np.zeros((2, count), np.int64)
        # Robots whose history and memory start anew at their next good set of readings.
        self._fresh_start = np.ones(count, bool)
        self._last_ready_ns = np.full(count, NEVER_NS)
        self._last_step_ns = NEVER_NS
        # What was sent at the last tick, [robots, components]: NaN where nothing was.
        self._last_commands = np.full((count, self.components), np.nan)
        # Where each robot's ramp began, and when.
        self._ramp_start = self._last_commands.copy()
        self._recovered_ns = np.full(count, NEVER_NS)

    def _safe_commands_of(self, configuration: Configuration, decoders: Mapping[str, Decode]) -> SafeCommands:
        position = configuration.safe_position
        if position is None:
            return SafeCommands(len(self.robots), self.components, self._inference.safe_command)
        if len(position.joints) != self.components:
            problem = (
                f"action.safe_position_joints: found {len(position.joints)}, but a command has {self.components} "
                f"components; give the joint of each"
            )
            raise ConfigurationError([problem])
        rings = [rings[-1] for rings in self._rings]
        decode = decoders[position.name]
        return PresentPositions(self.components, position.name, rings, decode, self._max_age_ns, self._rejections)

    @property
    def safe_commands(self) -> np.ndarray:
        """What makes each robot safe, `[robots, components]` float64, NaN in the rows of robots to be left alone.

        A new array whenever it changes, so that any thread may read it.
        """
        return self._safe.commands

    @property
    def rejected_count(self) -> np.ndarray:
        """Messages that could not be used, `[robots]` int64; each counts once."""
        return self._rejections.count

    @property
    def is_stopped(self) -> bool:
        """Whether `stop` holds."""
        return self._is_stopped

    @property
    def owners(self) -> Mapping[int, str]:
        """The robots that are left to other nodes, by their index, with the names of these; never changed in place."""
        return self._owners

    @property
    def policy(self) -> Policy:
        """The policy that drives."""
        return self._inference.policy

    @property
    def observations(self) -> Mapping[str, torch.Tensor]:
        """What the policy was given at the last step, `[robots, *space]` by key, valid until the next one.

        Rows of robots that were not ready mean nothing.
        """
        return self._inference.batch.latest

    def add(self, robot: int, sensor: int, stamp_ns: int, message: Any) -> None:
        """Take in a sample of one sensor of one robot, both by their index."""
        self._heard[robot, sensor] = True
        self._rings[robot][sensor].append(stamp_ns, message)

    def set_present(self, robot: int, sensor: int, present: bool) -> None:
        """Note whether a sensor that may be silent has a publisher, without which its silence is no reading."""
        self._present[robot][sensor] = present

    def unheard(self) -> dict[str, list[str]]:
        """Robots of which some sensor was never heard and is not merely silent, with the keys of those sensors."""
        heard = self._heard.copy()
        heard[:, self._silent] |= np.array(self._present, bool)[:, self._silent]
        return {
            robot: [key for key, is_heard in zip(self.keys, row, strict=True) if not is_heard]
            for robot, row in zip(self.robots, heard, strict=True)
            if not row.all()
        }

    def stop(self) -> None:
        """Make every robot safe until `resume`, whatever happens meanwhile."""
        self._is_stopped = True
        self._note_stops()

    def resume(self) -> None:
        """Drive on after `stop`; every robot's episode begins anew."""
        self._is_stopped = False
        self._note_stops()

    def yield_robots(self, owners: Mapping[int, str]) -> None:
        """Leave robots alone that another node commands.

        Parameters
        ----------
        owners
            By the index of each such robot the name of that node; empty: all robots are driven again.
        """
        self._owners = dict(owners)
        self._safe.leave_alone(owners)
        self._note_stops()

    def _note_stops(self) -> None:
        reason = "stopped by an operator, until resumed"
        self._stop_reasons = dict.fromkeys(range(len(self.robots)), reason) if self._is_stopped else {}
        self._stop_reasons.update({robot: f"{owner} commands it" for robot, owner in self._owners.items()})

    def reset(self, robots: Sequence[int] | None = None) -> None:
        """Forget samples, histories, memories and commands, as when a simulation begins anew; not what was stopped.

        Parameters
        ----------
        robots
            Indices of the robots; None: all of them, and time may go on from anywhere.
        """
        if robots is None:
            robots = range(len(self.robots))
            self._last_step_ns = NEVER_NS
        for robot in robots:
            self._before[robot] = "reset"
        self._forget_samples(robots)
        self._last_commands[list(robots)] = np.nan
        self._safe.forget(robots)

    def note_overruled(self) -> None:
        """Take note that the safe commands were sent instead of those of the last step: every episode begins anew.

        A robot stays where its safe command holds it.
        """
        self._before = ["overruled"] * len(self.robots)
        self._forget_samples(range(len(self.robots)))
        self._last_commands = self.safe_commands.copy()
        self._safe.keep(~np.isnan(self.safe_commands).any(axis=1))

    def _forget_samples(self, robots: Sequence[int]) -> None:
        for robot in robots:
            for ring in self._rings[robot]:
                ring.clear()
            self._fresh_start[robot] = True
            self._last_ready_ns[robot] = NEVER_NS

    def observe_again(self, robots: Sequence[int]) -> tuple[dict[str, torch.Tensor], dict[int, str]]:
        """Observe some robots once more while the policy acts, as their episodes began anew at the time of the tick.

        Parameters
        ----------
        robots
            Indices of robots that were ready, and that `reset` was called for.

        Returns
        -------
        dict
            The observations of all robots, as the policy gets them, with histories of these ones that start anew.
        dict
            By robot why its new readings cannot be used yet; its observation is then that of before.
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

    def adopt(self, other: Pipeline) -> None:
        """Go on with the policy of another pipeline of the same deployment; to be called between two ticks.

        Samples, states and last commands stay. The histories go on as they are if the new policy takes the same,
        else every robot's history starts anew. The new policy's memory starts anew.

        Parameters
        ----------
        other
            Warmed up, with the same robots, sensors and command; not to be used any more.

        Raises
        ------
        ConfigurationError
            When its commands have another number of components; nothing is changed then.
        """
        if not self._inference.adopt(other._inference):
            self._fresh_start[:] = True
        self._staging = other._staging
        self._staging.rejections = self._rejections

    def step(
        self, now_ns: int, clock: Callable[[], int] | None = None, selections: Sequence[Selection] | None = None
    ) -> FleetCommands:
        """Run one tick.

        Parameters
        ----------
        now_ns
            The time of the tick on the clock of the stamps, in nanoseconds.
        clock
            That clock, read again after the inference: a command whose readings have become too old meanwhile is
            replaced. None: time stands still during the step.
        selections
            By robot the readings, when they were chosen before, as in a recording; None: they are chosen now.

        Raises
        ------
        Exception
            When the device of the policy failed, or its memory ran out: no later tick can heal that.
        """
        started = time.perf_counter()
        before, self._before = tuple(self._before), [""] * len(self.robots)
        previous_ns, self._last_step_ns = self._last_step_ns, now_ns
        set_back_ns = previous_ns - now_ns
        if set_back_ns > 0:
            # What was stamped before would pass for newer than it is.
            self._forget_samples(range(len(self.robots)))
        endangered = self._safe.update(now_ns, self._last_commands)
        if selections is None:
            selections = self._select(now_ns, previous_ns)
            if set_back_ns > 0:
                reason = f"the clock was set back by {set_back_ns / 1e9:.3f} s"
                selections = [Selection(RobotState.STALE, (), None, reason)] * len(self.robots)
        states = [selection.state for selection in selections]
        reasons = [selection.reason for selection in selections]
        ages_s = np.array([selection.age_ns for selection in selections], np.float64) / 1e9
        for robot, (state, reason) in endangered.items():
            if states[robot] is RobotState.READY:
                states[robot], reasons[robot] = state, reason
        for robot, reason in self._stop_reasons.items():
            states[robot], reasons[robot] = RobotState.STOPPED, reason
        selected = time.perf_counter()

        chosen = [(robot, selections[robot].samples) for robot, state in enumerate(states) if state is RobotState.READY]
        for robot, reason in self._staging(chosen).items():
            states[robot], reasons[robot] = RobotState.REJECTED, reason
        staged = time.perf_counter()

        ready = np.array([state is RobotState.READY for state in states])
        since_ready_ns = now_ns - self._last_ready_ns
        faulty = np.zeros(len(self.robots), bool)
        commands = self._safe.commands.copy()
        if ready.any():
            # No tick saw the gap when the process itself was stopped, or the clock was set.
            unseen_gap = ~self._fresh_start & (since_ready_ns > self._gap_ns)
            fresh_start = ready & (self._fresh_start | unseen_gap)
            self.observed = Observed(
                now_ns, previous_ns, tuple(states), tuple(reasons), ages_s, ready.copy(), fresh_start
            )
            try:
                inferred = self._infer(now_ns, fresh_start, unseen_gap)
                finite = np.isfinite(inferred.commands).all(axis=1)
                fault_reason = "its action is not finite"
            except Exception as error:  # whatever the policy does, the robots get their safe command
                if is_device_failure(error):
                    raise
                inferred, finite = None, np.zeros(len(self.robots), bool)
                fault_reason = f"the policy failed: {type(error).__name__}: {error}"
            faulty = ready & ~finite
            for robot in np.flatnonzero(faulty).tolist():
                states[robot], reasons[robot] = RobotState.FAULT, fault_reason
            ready &= finite
            if clock is not None:
                elapsed_ns = clock() - now_ns
                if elapsed_ns < 0:  # it was set back meanwhile
                    elapsed_ns = round((time.perf_counter() - started) * 1e9)
                # NaN where a robot has no readings: those are not ready.
                outdated = ready & (ages_s * 1e9 + elapsed_ns > self._max_age_ns)
                for robot in np.flatnonzero(outdated).tolist():
                    reason = (
                        f"its readings became too old while the tick took {elapsed_ns / 1e9:.3f} s: they are "
                        f"{ages_s[robot] + elapsed_ns / 1e9:.3f} s old, synchronisation.max_age_s allows "
                        f"{self._max_age_ns / 1e9:.3f} s"
                    )
                    states[robot], reasons[robot] = RobotState.STALE, reason
                ready &= ~outdated
            if inferred is not None:
                commands[ready] = inferred.commands[ready]
                self.bounded_count += inferred.bounded & ready
                self.slowed_count += inferred.slowed & ready
        # A gap in the data ends a robot's episode: stack and memory then start as they do in training after a reset.
        self._fresh_start = ~ready
        samples = tuple(
            [selection.samples if given else () for selection, given in zip(selections, ready | faulty, strict=True)]
        )
        inferred_at = time.perf_counter()

        stopped = np.zeros(len(self.robots), bool)
        stopped[list(self._stop_reasons)] = True
        self._last_ready_ns[ready] = now_ns
        self._last_ready_ns[faulty | stopped] = NEVER_NS  # no gaps in the data that `hold` may bridge
        held = np.zeros(len(self.robots), bool)
        if self._action.when_stale == "hold":
            held = ~ready & ~faulty & ~stopped & (since_ready_ns <= self._hold_ns)
            commands[held] = self._last_commands[held]
        # `silent` is about data: a robot whose policy fails, or that an operator stops, is stopped all the same.
        publish = ready | faulty | stopped | (self._action.when_stale != "silent")
        # Without a safe command, or where another node commands it, a robot is left alone.
        publish &= ready | ~np.isnan(commands).any(axis=1)
        self._last_commands = np.where(publish[:, None], commands, np.nan)
        self._safe.keep(publish & ~ready & ~held)
        guarded = time.perf_counter()
        return FleetCommands(
            commands=commands,
            publish=publish,
            states=tuple(states),
            reasons=tuple(reasons),
            ages_s=ages_s,
            stages_s={
                "select": selected - started,
                "stage": staged - selected,
                "infer": inferred_at - staged,
                "guard": guarded - inferred_at,
            },
            samples=samples,
            positions=self._safe.readings,
            before=before,
        )

    def _select(self, now_ns: int, previous_ns: int) -> list[Selection]:
        """Choose the readings of every robot; the tick before was at `previous_ns`."""
        names, limits_ns = self.keys[: self._synchronised], (self._slop_ns, self._max_age_ns)
        selections = [select(rings, names, now_ns, *limits_ns) for rings in self._synchronised_rings]
        if self._newest_ages_ns:
            selections = [
                with_newest(selection, rings, self._newest_names, now_ns, self._max_age_ns, self._newest_ages_ns)
                for selection, rings in zip(selections, self._newest_rings, strict=True)
            ]
        if self._silent_names:
            own = (self._silent_names, self._silent_ages_ns, now_ns, previous_ns, *limits_ns)
            selections = [
                with_silent(selection, rings, present[self._silent], *own)
                for selection, rings, present in zip(selections, self._silent_rings, self._present, strict=True)
            ]
        for robot, selection in enumerate(selections):
            if selection.refused:
                self.rejected_count[robot] += selection.refused
        return selections

    def _infer(self, now_ns: int, fresh_start: np.ndarray, unseen_gap: np.ndarray) -> Inferred:
        """Run the policy; its commands are limited by what each robot is taken to do at present."""
        previous = self._last_commands.copy()
        # A robot that gets no command, or got none for a while, is taken to have been made safe by its own timeout.
        alone = unseen_gap[:, None] | np.isnan(previous)
        previous[alone] = self._safe.commands[alone]
        self._ramp_start[fresh_start] = previous[fresh_start]
        self._recovered_ns[fresh_start] = now_ns
        ramp = np.ones(len(self.robots))
        if self._ramp_ns:
            ramp = np.clip((now_ns - self._recovered_ns) / self._ramp_ns, 0.0, 1.0)
        return self._inference(fresh_start, previous, self._ramp_start, ramp)
