# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The tick of a policy that gives plans, or that runs beside the tick: commands follow from the newest plans."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from policy_node.config.parameters import ChunkConfiguration
from policy_node.config.schema import Configuration, ConfigurationError
from policy_node.config.specs import ArraySpec, DiscreteSpec
from policy_node.control.command_mapping import CommandLimiter, CommandMapper
from policy_node.control.planner import Planned, Planner, PlanRequest
from policy_node.control.plans import DueActions, PlanStore
from policy_node.control.tick import Observed, PlannedTick
from policy_node.engines.failures import is_device_failure
from policy_node.engines.inference import WARM_UP_RUNS, Inferred
from policy_node.policies.contract import Policy
from policy_node.sensing.batch import ObservationBatch, ObservationLayout
from policy_node.sensing.synchroniser import RobotState

# The longest of so many inferences is expected of the next one.
DURATIONS_KEPT = 10


class RecordedPlans(NamedTuple):
    """The plans of a recorded tick, to replay it exactly.

    Attributes
    ----------
    requested
        Indices of the robots whose observations were taken for a plan; empty without a request.
    arrived_ns
        Time of the observations of the plans that arrived; None without any.
    delay
        Steps of the previous plans that the policy was told to be executed meanwhile.
    """

    requested: tuple[int, ...] = ()
    arrived_ns: int | None = None
    delay: int = 0


def trajectory_of(configuration: Configuration) -> tuple[int, int]:
    """Return the number of points in a trajectory, 1 without any, and the time from one to the next in nanoseconds."""
    found = [(each.points, each.time_from_start_s) for each in configuration.commands if each.points > 1]
    points, time_s = found[0] if found else (1, 0.0)
    return points, round(time_s * 1e9) or configuration.period_ns


def has_plans(configuration: Configuration, policy: Policy) -> bool:
    """Return whether commands of a policy follow from plans."""
    return policy.spec.horizon > 0 or configuration.policy.inference == "background"


def rows_of(configuration: Configuration) -> int:
    """Return the number of robots that are planned at a time."""
    robots = len(configuration.robots)
    return -(-robots // min(robots, configuration.chunk.stagger))


def check_plans(configuration: Configuration, policy: Policy) -> None:
    """Check that a policy and the parameters of plans fit.

    Raises
    ------
    ConfigurationError
        When they do not.
    """
    chunk, horizon = configuration.chunk, policy.spec.horizon
    for command in configuration.commands if horizon <= 1 else ():
        if command.points > 1:
            raise ConfigurationError(
                f"{command.prefix}.points: found {command.points}, but the policy gives one action, not a plan with "
                f"later ones; set it to 1"
            )
    if not has_plans(configuration, policy):
        default = ChunkConfiguration()
        for name in (name for name in vars(default) if getattr(chunk, name) != getattr(default, name)):
            raise ConfigurationError(
                f"chunk.{name}: given, but the policy gives one action and runs in the tick; remove it, or set "
                f"policy.inference to background"
            )
        return
    if horizon and chunk.replan_every > horizon:
        raise ConfigurationError(
            f"chunk.replan_every: found {chunk.replan_every}, but a plan of this policy has {horizon} actions; give at "
            f"most {horizon}"
        )
    if horizon <= 1 and chunk.aggregate != "newest":
        raise ConfigurationError(
            f"chunk.aggregate: found {chunk.aggregate}, but the policy gives one action; set it to newest"
        )
    _check_prefix(chunk, policy)
    outputs = [term.name for each in configuration.observations for term in each.terms if term.kind == "policy_output"]
    if outputs:
        raise ConfigurationError(
            f"observations.{outputs[0]}.kind: found policy_output, which is known at every tick only for a policy of "
            f"one action in the tick; set policy.inference to tick, or remove the term"
        )


def _check_prefix(chunk: ChunkConfiguration, policy: Policy) -> None:
    """Check the inputs that take the previous plan."""
    given = {name: getattr(chunk, name) for name in ("prefix_input", "delay_input") if getattr(chunk, name)}
    spec = policy.spec
    size = math.prod(spec.action.shape) if isinstance(spec.action, ArraySpec) else 0
    for name, numbers in (("prefix_input", spec.horizon * size), ("delay_input", 1)):
        found = spec.observations.get(given.get(name, ""))
        if name in given and (found is None or math.prod(found.shape) != numbers):
            raise ConfigurationError(
                f"chunk.{name}: found '{given[name]}', but the policy takes {found or list(spec.observations)}; name "
                f"an input of {numbers} numbers for each robot"
            )


class PlannedInference:
    """Runs a policy when robots are due for a plan, and gives the commands that are due in their newest plans.

    It takes the place of `Inference` in the pipeline. Plans belong to the episode of a robot: a gap in its readings, a
    reset, a stop, a jump of the clock or another policy drops them, also those that are still computed.

    Attributes
    ----------
    batch, components, safe_command, limits, duration_s, policy
        As those of `Inference`; `duration_s` is the shortest time of a plan at the warm-up.
    planner
        Runs the policy.
    store
        The newest plans.
    """

    def __init__(self, configuration: Configuration, policy: Policy, layouts: Mapping[str, ObservationLayout]) -> None:
        check_plans(configuration, policy)
        robots, action, chunk = len(configuration.robots), configuration.action, configuration.chunk
        self.policy = policy
        self.duration_s = 0.0
        #: As `Inference.session`: commands follow from plans, outside of any session.
        self.session = ""
        self.batch = ObservationBatch({layout.key: layout for layout in layouts.values()}, robots, policy.device)
        # Commands are few numbers, and plans lie on the host.
        host = torch.device("cpu")
        self._map = CommandMapper(policy.spec.action, action, host)
        self.components, self.safe_command = self._map.components, self._map.safe_command
        self.limits = CommandLimiter(action, self.components, 1.0 / configuration.control_rate_hz, host)
        self._points, self._point_ns = trajectory_of(configuration)
        # Control periods from one point of a trajectory to the next.
        self._point_periods = self._point_ns / configuration.period_ns
        spec = policy.spec.action
        self._is_array = isinstance(spec, ArraySpec)
        self._shape = (robots, *(spec.shape if isinstance(spec, ArraySpec) else ()))
        numbers = math.prod(spec.shape) if isinstance(spec, ArraySpec) else 1
        if not isinstance(spec, (ArraySpec, DiscreteSpec)):
            numbers = len(spec.choices)
            self._shape = (robots, numbers)
        self.store = PlanStore(
            robots,
            policy.spec.horizon,
            numbers,
            configuration.period_ns,
            chunk,
            choices=not self._is_array,
            nearest=_nearest(configuration, numbers) if self._is_array else (),
        )
        channels_last = [layout.key for layout in layouts.values() if layout.channels_first]
        self.planner = Planner(policy, robots, rows_of(configuration), channels_last, configuration.policy.threads)
        #: Whether the policy is to run beside the tick.
        self.in_background = configuration.policy.inference == "background"
        self._prefix, self._delay = chunk.prefix_input, chunk.delay_input
        # Durations of the last inferences, of which the longest is expected of the next one.
        self._durations_s: deque[float] = deque(maxlen=DURATIONS_KEPT)
        self._nothing = np.zeros(robots, bool)
        self._everyone = np.arange(robots)
        self._episodes = np.zeros(robots, np.int64)
        # Robots whose memory in the policy restarts with their next plan.
        self._restart = np.ones(robots, bool)
        # Number of the last request for each robot.
        self._last_request = np.zeros(robots, np.int64)
        # Why the last plan of a robot could not be used, by its index.
        self._faults: dict[int, str] = {}
        # Plans that a recording took later than they are computed, by the time of their observations.
        self._early: dict[int, Planned] = {}
        #: Steps of the previous plans that the policy was told at the last request to be executed meanwhile.
        self.delay = 0
        #: `[robots]` int64: plans taken, and plans that ended before the next one came; a new array at every change.
        self.taken, self.exhausted = np.zeros((2, robots), np.int64)
        self._was_exhausted = self._nothing

    def warm_up(self) -> None:
        """Run the policy on example observations in this thread, unless another one runs it.

        Raises any exception of the policy.
        """
        robots = len(self._everyone)
        everything, nothing = np.ones(robots, bool), np.full((robots, self.components), np.nan)
        # Those of an earlier activation.
        self.store.drop(everything)
        self._step(everything)
        self._commands(self.store.due(0), everything, nothing, nothing, np.ones(robots))
        self._following(0, nothing, everything, nothing, np.ones(robots))
        if self.planner.is_in_background:
            return
        durations_s = []
        for _ in range(WARM_UP_RUNS):
            planned = self.planner.run(self._example())
            if planned.error is not None:
                raise planned.error
            durations_s.append(planned.inference_s)
        self.duration_s = min(durations_s)
        self._durations_s.append(self.duration_s)
        self.planner.forget()

    def _example(self) -> PlanRequest:
        rng = np.random.default_rng(0)
        robots = len(self._episodes)
        examples = {
            key: torch.from_numpy(np.ascontiguousarray(spec.example(robots, rng))).to(self.policy.device)
            for key, spec in self.policy.spec.observations.items()
        }
        rows = np.arange(self.planner.rows)
        return self.planner.snapshot(rows, 0, self._episodes, examples, np.ones(robots, bool))

    def start(self) -> None:
        """Start the thread of the planner, see `Pipeline.start`."""
        self.planner.start(self._example())

    def end(self, timeout_s: float) -> bool:
        """End the thread of the planner; return False if its inference takes longer than a time."""
        return self.planner.end(timeout_s)

    def __call__(
        self,
        observed: Observed,
        current: np.ndarray,
        start: np.ndarray,
        ramp: np.ndarray,
        recorded: RecordedPlans | None = None,
    ) -> tuple[Inferred, PlannedTick]:
        """Request and collect plans, and return the commands that are due.

        Parameters
        ----------
        observed
            The observation of this tick.
        current, start, ramp
            See `CommandLimits`, where `current` is `previous`.
        recorded
            When plans were requested and arrived at a recorded tick; None: as soon as they are wanted and computed.
        """
        now_ns = observed.now_ns
        self._forget_ended(observed)
        if observed.ready.any():
            self._step(observed.fresh_start)
        arrived = self._arrived(recorded)
        faulty = self._nothing if arrived is None else self._take(arrived, now_ns)
        requested: tuple[int, ...] = ()
        if self.planner.busy_since_s is None:
            # The episode of a robot whose plan cannot be used ends with this tick.
            requested = self._request(observed, observed.ready & ~faulty, recorded)
        if requested and arrived is None and not self.planner.is_in_background:
            arrived = self._arrived(recorded)
            faulty = self._nothing if arrived is None else self._take(arrived, now_ns)
        due = self.store.due(now_ns)
        missing = due.missing & observed.ready
        inferred = self._commands(due, missing, current, start, ramp)
        following = self._following(now_ns, inferred.commands, missing, start, ramp)
        self._count(due, observed)
        return inferred, PlannedTick(
            pending=missing & ~faulty,
            problems=self._problems(missing, due) if missing.any() else {},
            ages_s=due.ages_s,
            requested=requested,
            delay=self.delay,
            arrived_ns=None if arrived is None else arrived.request.start_ns,
            taken=self.taken,
            exhausted=self.exhausted,
            inference_s=None if arrived is None else arrived.inference_s,
            latency_s=None if arrived is None else (now_ns - arrived.request.start_ns) / 1e9,
            following=following,
        )

    def _forget_ended(self, observed: Observed) -> None:
        """Drop the plans of robots whose episodes have ended, also those that are still computed."""
        ended = ~observed.ready | observed.fresh_start
        if ended.any():
            self.store.drop(ended)
            self._episodes[ended] += 1
            self._restart |= ended
        for robot in [robot for robot in self._faults if not observed.ready[robot]]:
            del self._faults[robot]

    def _step(self, fresh_start: np.ndarray) -> None:
        """Append the staged readings to the histories."""
        with torch.inference_mode():
            self.batch.push(fresh_start)
        if self.policy.device.type == "cuda":
            # The next tick writes the staged rows again.
            torch.cuda.current_stream(self.policy.device).synchronize()

    def _request(self, observed: Observed, usable: np.ndarray, recorded: RecordedPlans | None) -> tuple[int, ...]:
        """Request plans of the robots that are due, at most as many as are planned at a time; return their indices."""
        if recorded is not None:
            robots = np.array(recorded.requested, np.intp)
        else:
            robots = np.flatnonzero(usable & self.store.wanted(observed.now_ns))
            if len(robots) > self.planner.rows:
                # Each in turn, also one whose plans cannot be used.
                waiting = np.argsort(self._last_request[robots], kind="stable")[: self.planner.rows]
                robots = np.sort(robots[waiting])
        if not len(robots):
            return ()
        observations = self.batch.latest
        if self._prefix or self._delay:
            self.delay = self._expected_delay() if recorded is None else recorded.delay
            observations = {**observations, **self._previous_plans(observed.now_ns)}
        request = self.planner.snapshot(robots, observed.now_ns, self._episodes, observations, self._restart)
        self._restart[robots] = False
        self._last_request[robots] = self._last_request.max() + 1
        if recorded is None:
            self.planner.request(request)
        else:
            self._early = {observed.now_ns: self.planner.run(request)}
        return tuple(robots.tolist())

    def _expected_delay(self) -> int:
        """Return how many steps of the previous plans are executed until a plan that is requested now is used."""
        if not self.planner.is_in_background:
            return 0
        return math.ceil(max(self._durations_s) * 1e9 / self.store.step_ns)

    def _previous_plans(self, now_ns: int) -> dict[str, torch.Tensor]:
        """Return the inputs of the policy that take the rest of the previous plan, and its steps until the next one."""
        # Of a plan that is not executed, such as one that has ended, nothing is told.
        missing = self.store.due(now_ns).missing
        upcoming = self.store.upcoming(self._everyone, now_ns)
        upcoming[missing] = 0.0
        found = {self._prefix: upcoming, self._delay: np.where(missing, 0, self.delay)}
        specs, device = self.policy.spec.observations, self.policy.device
        return {
            key: torch.from_numpy(array.reshape(-1, *specs[key].shape).astype(specs[key].dtype)).to(device)
            for key, array in found.items()
            if key
        }

    def _arrived(self, recorded: RecordedPlans | None) -> Planned | None:
        """Return plans that have arrived since the last tick."""
        if recorded is None:
            return self.planner.collect()
        return None if recorded.arrived_ns is None else self._early.pop(recorded.arrived_ns, None)

    def _take(self, planned: Planned, now_ns: int) -> np.ndarray:
        """Use plans that have arrived; return `[robots]` bool: robots whose plan cannot be used.

        Raises
        ------
        Exception
            When the device of the policy failed, or its memory ran out: no later tick can recover from that.
        """
        request, error = planned.request, planned.error
        self._durations_s.append(planned.inference_s)
        if error is not None and (is_device_failure(error) or not isinstance(error, Exception)):
            raise error
        faulty = np.zeros_like(self._nothing)
        # Robots whose episodes have ended meanwhile get nothing.
        same = request.episodes == self._episodes[request.robots]
        if planned.actions is None:
            reason, usable = f"the policy failed: {type(error).__name__}: {error}", np.zeros_like(same)
        else:
            reason, usable = "its plan is not finite", np.isfinite(planned.actions).all(axis=(1, 2))
        bad = request.robots[same & ~usable]
        if len(bad):
            faulty[bad] = True
            self.store.drop(faulty)
            self._faults |= dict.fromkeys(bad.tolist(), reason)
        if planned.actions is not None:
            good = same & usable
            robots = request.robots[good]
            self.store.take(robots, request.start_ns, now_ns, planned.actions[good])
            self.taken = self.taken + np.isin(self._everyone, robots)
            for robot in self._faults.keys() & set(robots.tolist()):
                del self._faults[robot]
        return faulty

    def _commands(
        self, due: DueActions, missing: np.ndarray, current: np.ndarray, start: np.ndarray, ramp: np.ndarray
    ) -> Inferred:
        """Return the commands for the actions that are due, limited; NaN for robots without an action."""
        numbers = due.actions
        if missing.any():
            # Nothing of an earlier plan may be remembered.
            numbers = np.where(missing[:, None], 0.0, numbers)
        actions = self._tensor(numbers)
        with torch.inference_mode():
            self.batch.remember(actions, {})
            commands = self._map(actions)
            if not self.limits.is_needed:
                limited = commands.numpy()
                bounded = slowed = self._nothing
            else:
                columns = self.limits(commands, *map(torch.from_numpy, (current, start, ramp))).numpy()
                limited, bounded, slowed = columns[:, :-2], columns[:, -2] != 0.0, columns[:, -1] != 0.0
        if missing.any():
            limited = np.where(missing[:, None], np.nan, limited)
        return Inferred(limited, bounded, slowed)

    def _tensor(self, numbers: np.ndarray) -> torch.Tensor:
        """Return actions as the policy gave them."""
        actions = torch.from_numpy(numbers).reshape(self._shape)
        return actions if self._is_array else actions.long()

    def _following(
        self, now_ns: int, commands: np.ndarray, missing: np.ndarray, start: np.ndarray, ramp: np.ndarray
    ) -> np.ndarray | None:
        """Return the commands that follow those of this tick in the plans, see `PlannedTick`.

        Each is limited as if the one before it had been sent; the ramp stays where it is at this tick. The last action
        of a plan repeats.
        """
        if self._points == 1:
            return None
        low, high, max_change = self.limits.numbers
        found, before = [], commands
        for point in range(1, self._points):
            numbers = np.where(missing[:, None], 0.0, self.store.due(now_ns + point * self._point_ns).actions)
            with torch.inference_mode():
                wanted = self._map(self._tensor(numbers))
                if self.limits.is_needed:
                    sent, begin, share = map(torch.from_numpy, (before, start, ramp))
                    most = max_change * self._point_periods
                    wanted = self.limits.limit(wanted, sent, begin, share, low, high, most)[:, :-2]
            before = wanted.numpy()
            found.append(before)
        following = np.stack(found, axis=1)
        following[missing] = np.nan
        return following

    def _count(self, due: DueActions, observed: Observed) -> None:
        exhausted = due.exhausted & observed.ready
        if exhausted.any():
            self.exhausted = self.exhausted + (exhausted & ~self._was_exhausted)
        self._was_exhausted = exhausted

    def _problems(self, missing: np.ndarray, due: DueActions) -> dict[int, tuple[RobotState, str]]:
        """Return state and reason of robots without an action."""
        problems: dict[int, tuple[RobotState, str]] = {}
        busy_since_s = self.planner.busy_since_s
        slow = ""
        if busy_since_s is not None:
            slow = f"; the current inference takes {time.monotonic() - busy_since_s:.1f} s so far"
        for robot in np.flatnonzero(missing).tolist():
            if robot in self._faults:
                problems[robot] = (RobotState.FAULT, self._faults[robot])
            elif due.waiting[robot]:
                problems[robot] = (RobotState.WAITING, f"it waits for its first plan{slow}")
            elif due.exhausted[robot]:
                problems[robot] = (RobotState.STALE, f"its plan has ended before the next one came{slow}")
            else:
                age_s, most_s = due.ages_s[robot], self.store.max_age_ns / 1e9
                reason = f"its plan is {age_s:.3f} s old, chunk.max_age_s allows {most_s:.3f} s{slow}"
                problems[robot] = (RobotState.STALE, reason)
        return problems


def _nearest(configuration: Configuration, components: int) -> list[int]:
    """Return the indices of the components of the action that are not interpolated."""
    action = configuration.action
    names = action.fields or action.joints
    found = []
    for name in configuration.chunk.nearest:
        index = names.index(name) if name in names else int(name) if name.isdecimal() else components
        if index >= max(components, len(names)):
            allowed = ", ".join(names) or f"the numbers 0 to {components - 1}"
            raise ConfigurationError(f"chunk.nearest: found {name!r}, but the components are {allowed}")
        # Names are those of the command, plans have the components of the action.
        found.append(action.components[index] if name in names and action.components else index)
    return found
