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

from policy_node.batch import ObservationLayout, observation_layout
from policy_node.configuration import (
    Configuration,
    ConfigurationError,
    ObservationConfiguration,
    SourceConfiguration,
)
from policy_node.failures import is_device_failure
from policy_node.inference import Inference, Inferred
from policy_node.policies import Policy, PolicyError, PolicyInterface
from policy_node.policies.interface import parse_memory
from policy_node.samples import Sample, SampleRing, UnusableReading
from policy_node.specs import ArraySpec
from policy_node.synchroniser import RobotState, Selection, select, with_newest
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
    """

    commands: np.ndarray
    publish: np.ndarray
    states: tuple[RobotState, ...]
    reasons: tuple[str, ...]
    ages_s: np.ndarray
    stages_s: dict[str, float]


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
    in_order = policy.format in ("torchscript", "exported") or (
        policy.format == "auto" and policy.path.endswith((".pt", ".ts", ".pt2"))
    )
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


class Pipeline:
    """Samples of all robots in, one command per robot out.

    Not thread-safe: one thread adds samples and steps.

    Parameters
    ----------
    configuration
        The deployment.
    policy
        The policy, on its device.
    layouts
        From `match_observations`.
    decoders
        By the name of each source: writes a message into its reading.

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
        # Ticks that are not missed are less than two periods apart, however late they are.
        self._gap_ns = configuration.period_ns + max(configuration.period_ns, self._max_age_ns)
        count = len(self.robots)
        lengths = [max(RING_LENGTH, sources[0].depth) for sources in configuration.sensors]
        self._rings = [[SampleRing(length) for length in lengths] for _ in self.robots]
        self._heard = np.zeros((count, len(self.keys)), bool)
        self._inference = Inference(configuration, policy, layouts)
        checked = dict(decoders)
        for layout in layouts.values():
            for term in layout.terms:
                name = term.configuration.name
                if term.reading:
                    checked[name] = checked_decode(term, decoders[name])
        # For each robot what is read: index of the sensor, name of the source, its decoder and where it writes.
        self._readings = [
            [
                (sensor, source.name, checked[source.name], rows[source.name])
                for sensor, sources in enumerate(configuration.sensors)
                for source in sources
            ]
            for rows in map(self._inference.batch.readings, range(count))
        ]
        # The synchronised sensors come first.
        self._synchronised = sum(sources[0].is_synchronised for sources in configuration.sensors)
        self._newest_ages_ns = [
            round(sources[0].max_age_s * 1e9) for sources in configuration.sensors[self._synchronised :]
        ]
        self.components = self._inference.components
        # Robots whose history and memory start anew at their next good set of readings.
        self._fresh_start = np.ones(count, bool)
        safe = self._inference.safe_command
        # By robot, [robots, components]: NaN marks that there is none.
        self._safe = np.tile(np.full(self.components, np.nan) if safe is None else safe, (count, 1))
        self._safe_commands = self._safe.copy()
        self._last_commands = np.full((count, self.components), np.nan)
        self._last_ready_ns = np.full(count, NEVER_NS)
        # Where each robot's ramp began, and when.
        self._ramp_start = self._last_commands.copy()
        self._recovered_ns = np.full(count, NEVER_NS)
        self._ramp_ns = self._action.ramp_s * 1e9
        self._is_stopped = False
        self._owners: dict[int, str] = {}
        # Why robots are STOPPED, by their index.
        self._stop_reasons: dict[int, str] = {}
        # By robot: messages that could not be used, each once however many ticks it is the newest, and commands on
        # which a bound, or a limit of the change, acted.
        self.rejected_count, self.bounded_count, self.slowed_count = np.zeros((3, count), np.int64)
        self._last_rejected: dict[tuple[int, int], Sample] = {}

    @property
    def safe_command(self) -> np.ndarray | None:
        """The safe command `[components]` float64, None when the configuration names none."""
        return self._inference.safe_command

    @property
    def safe_commands(self) -> np.ndarray:
        """What makes each robot safe, `[robots, components]` float64, NaN in the rows of robots to be left alone.

        A new array whenever it changes, so that any thread may read it.
        """
        return self._safe_commands

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
        self._note_stops()

    def _note_stops(self) -> None:
        reason = "stopped by an operator, until resumed"
        self._stop_reasons = dict.fromkeys(range(len(self.robots)), reason) if self._is_stopped else {}
        self._stop_reasons.update({robot: f"{owner} commands it" for robot, owner in self._owners.items()})
        # What was sent last says nothing about a robot that somebody else commands.
        self._last_commands[list(self._owners)] = np.nan
        self._offer_safe_commands()

    def _offer_safe_commands(self) -> None:
        safe_commands = self._safe.copy()
        safe_commands[list(self._owners)] = np.nan
        self._safe_commands = safe_commands

    @property
    def policy(self) -> Policy:
        """The policy that drives."""
        return self._inference.policy

    def add(self, robot: int, sensor: int, stamp_ns: int, message: Any) -> None:
        """Take in a sample of one sensor of one robot, both by their index."""
        self._heard[robot, sensor] = True
        self._rings[robot][sensor].append(stamp_ns, message)

    def unheard(self) -> dict[str, list[str]]:
        """Robots of which some sensor was never heard, with the keys of those sensors."""
        return {
            robot: [key for key, heard in zip(self.keys, row, strict=True) if not heard]
            for robot, row in zip(self.robots, self._heard, strict=True)
            if not row.all()
        }

    def reset(self, robots: Sequence[int] | None = None) -> None:
        """Forget samples, histories and memories, as when simulated time jumps back.

        Parameters
        ----------
        robots
            Indices of the robots; None: all of them.
        """
        for robot in range(len(self.robots)) if robots is None else robots:
            for ring in self._rings[robot]:
                ring.clear()
            self._fresh_start[robot] = True
            self._last_ready_ns[robot] = NEVER_NS
            self._last_commands[robot] = np.nan

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
            # What is read is written into the batch.
            self._readings = other._readings
            self._fresh_start[:] = True

    def _select(self, rings: list[SampleRing], now_ns: int) -> Selection:
        """Choose the readings of one robot."""
        if not self._newest_ages_ns:
            return select(rings, self.keys, now_ns, self._slop_ns, self._max_age_ns)
        count = self._synchronised
        selection = select(rings[:count], self.keys[:count], now_ns, self._slop_ns, self._max_age_ns)
        return with_newest(selection, rings[count:], self.keys[count:], now_ns, self._max_age_ns, self._newest_ages_ns)

    def step(self, now_ns: int, clock: Callable[[], int] | None = None) -> FleetCommands:
        """Run one tick.

        Parameters
        ----------
        now_ns
            The time of the tick on the clock of the stamps, in nanoseconds.
        clock
            That clock, read again after the inference: a command whose readings have become too old meanwhile is
            replaced. None: time stands still during the step.

        Raises
        ------
        Exception
            When the device of the policy failed, or its memory ran out: no later tick can heal that.
        """
        started = time.perf_counter()
        selections = [self._select(rings, now_ns) for rings in self._rings]
        states = [selection.state for selection in selections]
        reasons = [selection.reason for selection in selections]
        ages_s = np.array([np.nan if s.age_ns is None else s.age_ns / 1e9 for s in selections])
        selected = time.perf_counter()

        for robot, reason in self._stop_reasons.items():
            states[robot], reasons[robot] = RobotState.STOPPED, reason
        for robot, selection in enumerate(selections):
            if states[robot] is RobotState.READY:
                for sensor, name, decode, row in self._readings[robot]:
                    sample = selection.samples[sensor]
                    try:
                        decode(sample.message, row)
                    except Exception as error:  # whatever a message does to its decoder, the others are driven on
                        kind = "" if isinstance(error, UnusableReading) else f"{type(error).__name__}: "
                        states[robot], reasons[robot] = RobotState.REJECTED, f"{name}: {kind}{error}"
                        if self._last_rejected.get((robot, sensor)) is not sample:
                            self._last_rejected[robot, sensor] = sample
                            self.rejected_count[robot] += 1
        staged = time.perf_counter()

        ready = np.array([state is RobotState.READY for state in states])
        since_ready_ns = now_ns - self._last_ready_ns
        # No tick saw the gap when the process itself was stopped, or the clock was set.
        unseen_gap = ~self._fresh_start & ((since_ready_ns < 0) | (since_ready_ns > self._gap_ns))
        fresh_start = ready & (self._fresh_start | unseen_gap)
        faulty = np.zeros(len(self.robots), bool)
        safe = self._safe_commands
        commands = safe.copy()
        if ready.any():
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
                # NaN where a robot has no readings: those are not ready.
                outdated = ready & (ages_s * 1e9 + elapsed_ns > self._max_age_ns)
                for robot in np.flatnonzero(outdated).tolist():
                    reason = f"its readings became too old while the tick took {elapsed_ns / 1e9:.3f} s"
                    states[robot], reasons[robot] = RobotState.STALE, reason
                ready &= ~outdated
            if inferred is not None:
                commands[ready] = inferred.commands[ready]
                self.bounded_count += inferred.bounded & ready
                self.slowed_count += inferred.slowed & ready
        # A gap in the data ends a robot's episode: stack and memory then start as they do in training after a reset.
        self._fresh_start = ~ready
        inferred_at = time.perf_counter()

        stopped = np.zeros(len(self.robots), bool)
        stopped[list(self._stop_reasons)] = True
        self._last_ready_ns[ready] = now_ns
        self._last_ready_ns[faulty | stopped] = NEVER_NS  # no gap in the data that `hold` may bridge
        if self._action.when_stale == "hold":
            # A clock that is set back must not hold a command for as long as it was set back.
            held = ~ready & ~faulty & ~stopped & (since_ready_ns >= 0) & (since_ready_ns <= self._hold_ns)
            commands[held] = self._last_commands[held]
        # `silent` is about data: a robot whose policy fails, or that an operator stops, is stopped all the same.
        publish = ready | faulty | stopped | (self._action.when_stale != "silent")
        # A robot without a safe command, or that another node commands, is left alone.
        publish &= ready | ~np.isnan(commands).any(axis=1)
        self._last_commands = np.where(publish[:, None], commands, np.nan)
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
        )

    def _infer(self, now_ns: int, fresh_start: np.ndarray, unseen_gap: np.ndarray) -> Inferred:
        """Run the policy; its commands are limited by what each robot is taken to do at present."""
        previous = self._last_commands.copy()
        # A robot that gets no command, or got none for a while, is taken to have been made safe by its own timeout.
        alone = unseen_gap[:, None] | np.isnan(previous)
        previous[alone] = self._safe_commands[alone]
        self._ramp_start[fresh_start] = previous[fresh_start]
        self._recovered_ns[fresh_start] = now_ns
        ramp = np.ones(len(self.robots))
        if self._ramp_ns:
            ramp = np.clip((now_ns - self._recovered_ns) / self._ramp_ns, 0.0, 1.0)
        return self._inference(fresh_start, previous, self._ramp_start, ramp)
