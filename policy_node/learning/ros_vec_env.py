# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Train on robots over ROS topics: a vectorised environment of Stable-Baselines3.

The environment runs the control loop and the pipeline of the node, with the learner in place of the policy. `step`
gives the actions of the current tick and returns the observations of the next one. All safety functions of the node
apply: maximum age of readings, command limits, watchdog.
"""

from __future__ import annotations

import atexit
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import rclpy
import torch
from gymnasium import spaces
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions
from stable_baselines3.common.vec_env import VecEnv

from policy_node.config.parameter_file import read_parameter_file
from policy_node.config.parameters import ChunkConfiguration
from policy_node.config.schema import Configuration, ConfigurationError, flatten, parse_configuration, topic_of
from policy_node.config.specs import PolicySpec
from policy_node.control.pipeline import Pipeline
from policy_node.control.tick import FleetTick, Observed
from policy_node.learning.learner import Learner, Turn
from policy_node.learning.resets import Resets
from policy_node.learning.reward_signals import Signals
from policy_node.policies import PolicyError, select_device
from policy_node.policies import spaces as spaces_of
from policy_node.policies.described_parameters import fill_in
from policy_node.policies.sb3.actions import action_spec
from policy_node.policies.sb3.observations import keyed_spaces, observation_spec
from policy_node.ros.control_loop import ControlLoop
from policy_node.ros.deployment import configured_encoders, load_configured, pair
from policy_node.ros.graph import why_silent
from policy_node.ros.ownership import Claims
from policy_node.ros.parameters import uses_sim_time, with_resolved_paths
from policy_node.ros.publishers import CommandPublishers
from policy_node.ros.subscriptions import SensorSubscriptions, check_topics
from policy_node.sensing.synchroniser import RobotState

Observations: TypeAlias = "dict[str, torch.Tensor] | dict[str, np.ndarray] | np.ndarray"

# Period at which threads check whether the environment was closed.
POLL_S = 0.25
# Period at which the environment logs what it waits for.
LOG_PERIOD_S = 5.0
# Period at which it looks for the readings of a new episode while simulated time is paused.
PAUSED_POLL_S = 0.0005
PROMPT_TURNS = 3
# Disables the watchdog: in lockstep, simulated time is paused while the learner computes.
NEVER_HANGS_S = 1e6
# Value of policy.path when spaces are given: no policy is loaded, but the parameter is required.
NO_POLICY = "none"
LATE = "the learner took too long, so the robot got its safe command"


@dataclass(frozen=True, eq=False)
class Step:
    """One step of all robots, from which rewards are computed.

    Rows of `interrupted` robots are undefined, and their rewards are ignored.
    """

    #: Observations before the step, key to tensor `[robots, *space]`; the key of a Box space is ``observation``.
    previous_observations: dict[str, torch.Tensor]
    observations: dict[str, torch.Tensor]  #: Observations after the step, `[robots, *space]`.
    actions: np.ndarray  #: `[robots, *action]` actions of the learner.
    #: Newest values of each signal before the step, `[robots, numbers]` float64.
    previous_signals: dict[str, np.ndarray]
    signals: dict[str, np.ndarray]  #: Newest values after the step, `[robots, numbers]` float64.
    ages_s: np.ndarray  #: `[robots]` float64 age of the oldest reading in the new observation; NaN without a reading.
    states: tuple[RobotState, ...]  #: State of each robot after the step.
    reasons: tuple[str, ...]  #: Reason for each state; empty when READY.
    #: `[robots]` bool, robots without usable readings, or that got another command than the learner's.
    interrupted: np.ndarray
    steps: np.ndarray  #: `[robots]` int64 steps since the reset, including this one.


class RosVecEnv(VecEnv):
    """Vectorised environment with one robot per row; one step is one tick.

    When the episode of a robot ends, the robot is reset, and the step returns when all robots are observed again. Until
    then the others get their safe commands; in lockstep, simulated time is paused instead. An episode whose readings
    stop is truncated at its last observation, and the robot continues without a reset.

    Parameters
    ----------
    config
        Configuration, its parameters nested or by dotted name, or the path of its YAML file. `policy.path` is optional
        when both spaces are given.
    reward
        Returns the rewards `[robots]` of a step.
    done
        Returns the terminated episodes `[robots]` bool of a step; None: episodes never terminate.
    observation_space, action_space
        Spaces of one robot; None: those of the configured policy.
    signals
        Further topics for rewards, see `policy_node.learning.reward_signals.Signals`.
    reset
        Service or topic that resets a robot, see `policy_node.learning.resets.Resets`.
    max_steps
        Steps after which an episode is truncated and its robot reset; 0: no limit.
    lockstep
        Whether simulated time waits for the commands of each tick, as with `rover_sim --lockstep`. All observations and
        signals are then subscribed reliably.
    use_sim_time
        Whether ticks follow `/clock`; None: as in the parameters. Always in lockstep.
    tensors
        Whether observations of a Dict space are tensors; those of a Box space are always arrays, as
        Stable-Baselines3 requires.
    episode_seeds
        Seeds of the episodes in the order of their starts, for seeded resets; None: those of `seed` at the next
        `reset`, and later drawn by the robots.
    name
        Name of the ROS node.

    Raises
    ------
    ConfigurationError
        When a parameter is invalid.
    """

    def __init__(
        self,
        config: Configuration | Mapping[str, Any] | str | Path,
        reward: Callable[[Step], np.ndarray],
        done: Callable[[Step], np.ndarray] | None = None,
        *,
        observation_space: spaces.Space | None = None,
        action_space: spaces.Space | None = None,
        signals: Mapping[str, Mapping[str, Any]] | None = None,
        reset: Mapping[str, Any] | None = None,
        max_steps: int = 0,
        lockstep: bool = False,
        use_sim_time: bool | None = None,
        tensors: bool = True,
        episode_seeds: Iterator[int] | None = None,
        name: str = "ros_vec_env",
    ) -> None:
        configuration, simulated = _configuration_of(config)
        # The training acts at every tick.
        in_tick = replace(configuration.policy, inference="tick")
        configuration = replace(configuration, policy=in_tick, chunk=ChunkConfiguration())
        simulated = lockstep or (simulated if use_sim_time is None else use_sim_time)
        if lockstep:
            configuration = replace(_subscribed_reliably(configuration), watchdog_timeout_s=NEVER_HANGS_S)
            signals = {signal: {**given, "reliability": "reliable"} for signal, given in (signals or {}).items()}
        self.configuration = configuration
        self.render_mode = None
        spec, device = _spec_of(configuration, observation_space, action_space)
        super().__init__(
            len(configuration.robots),
            observation_space or spaces_of.observation_space(spec),
            action_space or spaces_of.action_space(spec.action),
        )
        self._reward, self._done = reward, done
        self._max_steps, self._lockstep, self._episode_seeds = max_steps, lockstep, episode_seeds
        self._tensors = tensors and isinstance(self.observation_space, spaces.Dict)
        self._start_counters()
        self._start_node(name, simulated)
        self._learner = Learner(spec, device)
        self._loop: ControlLoop | None = None
        self._claims: Claims | None = None
        atexit.register(self.close)
        try:
            self._open(simulated, signals or {}, reset or {})
        except BaseException:
            self.close()
            raise

    def _start_counters(self) -> None:
        """Create the state of the episodes."""
        self.late_steps = 0  #: Number of steps that took two control periods or more.
        #: Seed of the current episode of each robot, negative if the robot drew it.
        self.running_seeds = [-1] * self.num_envs
        self._actions = np.zeros((self.num_envs, *(self.action_space.shape or ())), self.action_space.dtype)
        self._turn: Turn | None = None
        # Why there was no tick for a while before the latest one; empty where it came in time.
        self._interruption = ""
        self._observations: dict[str, torch.Tensor] = {}
        self._signal_values: dict[str, np.ndarray] = {}
        self._steps = np.zeros(self.num_envs, np.int64)
        self._returns = np.zeros(self.num_envs)
        self._lengths = np.zeros(self.num_envs, np.int64)
        self._began_s = np.zeros(self.num_envs)
        # Times on the monotonic clock of the last observation, and of the last log about waiting.
        self._observed_s = time.monotonic()
        self._logged_s = -math.inf

    def _start_node(self, name: str, simulated: bool) -> None:
        """Create the ROS node with a separate context, so the learner's process can use ROS independently."""
        self._closed = False
        self._ending = threading.Event()
        self._context = Context()
        # Ctrl-C raises KeyboardInterrupt in the learner; `close` sends the safe commands.
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        #: ROS node, for further topics; the environment spins it.
        self.node = Node(
            name,
            context=self._context,
            parameter_overrides=[Parameter("use_sim_time", value=simulated)],
            start_parameter_services=False,
        )
        self._logger = self.node.get_logger()
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._spinning = threading.Thread(target=self._spin, name="executor", daemon=True)

    def _open(self, simulated: bool, signals: Mapping[str, Mapping[str, Any]], reset: Mapping[str, Any]) -> None:
        """Open all topics and start the control loop."""
        configuration = self.configuration
        check_topics(self.node, configuration)
        topics = {
            robot: [self.node.resolve_topic_name(topic_of(robot, command.topic)) for command in configuration.commands]
            for robot in configuration.robots
        }
        self._claims = claims = Claims(self.node, topics, configuration.claims_topic)
        layouts, decoders = pair(configuration, self._learner)
        decode = {source: decoder.decode for source, decoder in decoders.items()}
        self._pipeline = Pipeline(configuration, self._learner, layouts, decode)
        self._learner.attach(self._pipeline)
        encoders = configured_encoders(configuration, self._pipeline.components)
        publishers = CommandPublishers(self.node, configuration, encoders)
        self._sensors = SensorSubscriptions(self.node, configuration, decoders)
        self._signals = Signals(self.node, configuration.robots, signals)
        self._resets = Resets(self.node, configuration.robots, reset)
        loop = ControlLoop(
            configuration,
            self._pipeline,
            self._sensors,
            publishers,
            self.node.get_clock(),
            simulated=simulated,
            logger=self._logger,
            on_failure=self._on_failure,
            # In lockstep, robots stand still while this process is paused.
            may_command=lambda: self._lockstep or claims.holds,
            slow_tick_reason=self._slow_tick_reason,
        )
        self._spinning.start()
        claims.begin(loop.yield_robots)
        self._loop = loop
        loop.start()

    def _on_failure(self, error: Exception) -> None:
        self._logger.fatal(f"the control loop ended: {type(error).__name__}: {error}; every robot got its safe command")

    def _slow_tick_reason(self) -> str:
        if not self._learner.awaited:
            return ""
        return (
            f"step was not called for {self.configuration.watchdog_timeout_s:.3f} s (watchdog.timeout_s): the robots "
            f"get their safe commands until the next step, which truncates their episodes; this is logged once"
        )

    def reset(self) -> Observations:  # type: ignore[override]
        """Start the episodes of all robots and return their observations."""
        self._check_open()
        self._learner.begin()
        turn = self._turn or self._next_turn()
        self._start_episodes(turn, list(range(self.num_envs)), self._seeds)
        self._reset_seeds()
        self._reset_options()
        return self._begin_step(np.ones(self.num_envs, bool))

    def step_async(self, actions: np.ndarray) -> None:
        """Store the actions `[robots, *action]` for `step_wait`; those of a Box are clipped to its bounds.

        Numbers that are not finite, and choices that do not exist, are a fault of their robot at the tick.
        """
        self._check_open()
        wanted = (self.num_envs, *(self.action_space.shape or ()))
        actions = np.asarray(actions)
        if actions.shape != wanted:
            raise ValueError(f"actions: found {list(actions.shape)}, but {self.action_space} takes {list(wanted)}")
        if self._turn is None:
            raise RuntimeError("step: the robots have not been observed yet; call reset first")
        self._actions = self._commandable(actions)

    def _commandable(self, actions: np.ndarray) -> np.ndarray:
        """Return actions of the space's dtype; raise ValueError for numbers in place of choices."""
        space = self.action_space
        if isinstance(space, spaces.Box):
            # An infinite action is wrong and not merely large.
            clipped = np.where(np.isfinite(actions), np.clip(actions, space.low, space.high), actions)
            return clipped.astype(space.dtype)
        if not np.array_equal(actions, np.rint(actions)):
            raise ValueError(f"actions: found {actions.tolist()}, but {space} takes whole numbers")
        return actions.astype(np.int64)

    def step_wait(  # type: ignore[override]
        self,
    ) -> tuple[Observations, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Command all robots and wait for the next tick; return observations, rewards, dones `[robots]` and infos."""
        before = self._turn
        assert before is not None and self._loop is not None
        self._turn, self._observed_s = None, time.monotonic()
        self._learner.answer(self._actions)
        turn = self._next_turn()
        period_ns = self.configuration.period_ns
        self.late_steps += turn.observed.now_ns - before.observed.now_ns >= 2 * period_ns
        step = self._step(turn)
        rewards = np.where(step.interrupted, 0.0, self._checked("reward", self._reward(step))).astype(np.float32)
        finished = np.zeros(self.num_envs, bool)
        if self._done is not None:
            finished = self._checked("done", self._done(step)).astype(bool) & ~step.interrupted
        timed_out = ~finished & ~step.interrupted & (step.steps >= self._max_steps) & bool(self._max_steps)
        dones = finished | timed_out | step.interrupted
        self._returns += rewards
        self._lengths += 1
        infos = self._infos(step, turn, dones, dones & ~finished)
        self._start_episodes(turn, np.flatnonzero(finished | timed_out).tolist(), None)
        return self._begin_step(dones), rewards, dones, infos

    def _check_open(self) -> None:
        """Raise RuntimeError when the environment was closed."""
        if self._closed:
            raise RuntimeError("the environment is closed; make another one")

    def _step(self, turn: Turn) -> Step:
        """Return the step from the last observation to the current turn."""
        assert self._loop is not None
        observed = turn.observed
        interrupted = ~observed.ready | observed.fresh_start
        states, reasons = list(observed.states), list(observed.reasons)
        latest = self._loop.latest
        for robot in np.flatnonzero(observed.ready & interrupted).tolist():
            # READY again: the previous tick was interrupted.
            states[robot], reasons[robot] = RobotState.STALE, LATE
            if self._interruption:
                reasons[robot] = f"interrupted: {self._interruption}"
            elif latest is not None and latest.states[robot] is not RobotState.READY:
                states[robot], reasons[robot] = latest.states[robot], latest.reasons[robot]
        self._steps += 1
        return Step(
            previous_observations=self._observations,
            observations=turn.observations,
            actions=self._actions,
            previous_signals=self._signal_values,
            signals=self._signals.take(),
            ages_s=observed.ages_s,
            states=tuple(states),
            reasons=tuple(reasons),
            interrupted=interrupted,
            steps=self._steps.copy(),
        )

    def _infos(self, step: Step, turn: Turn, dones: np.ndarray, truncated: np.ndarray) -> list[dict[str, Any]]:
        infos: list[dict[str, Any]] = []
        now_s = time.monotonic()
        for robot in range(self.num_envs):
            info: dict[str, Any] = {
                "state": step.states[robot].name,
                "reason": step.reasons[robot],
                "age_s": float(step.ages_s[robot]),
                "TimeLimit.truncated": bool(truncated[robot]),
            }
            if dones[robot]:
                last = self._observations if step.interrupted[robot] else turn.observations
                duration_s = float(now_s - self._began_s[robot])
                info["terminal_observation"] = self._converted({key: rows[robot] for key, rows in last.items()})
                info["episode"] = {"r": float(self._returns[robot]), "l": int(self._lengths[robot]), "t": duration_s}
                info["seed"] = self.running_seeds[robot]
            infos.append(info)
        return infos

    def _start_episodes(self, turn: Turn, robots: Sequence[int], seeds: Sequence[int | None] | None) -> None:
        """Reset robots by index and wait until all are observed."""
        for robot in robots:
            given = seeds[robot] if seeds is not None else None
            if self._episode_seeds is not None:
                given = next(self._episode_seeds)
            self.running_seeds[robot] = -1 if given is None or not self._resets.is_seeded else int(given)
            self._resets.ask(robot, self.running_seeds[robot])
        if not self._lockstep:
            self._signals.forget(robots)
        begun: Turn | None = None
        while begun is None:
            while missing := self._missing(turn, () if self._lockstep else robots):
                turn = self._skip_tick(missing)
            begun = self._begin_while_paused(turn, robots) if robots and self._lockstep else turn
            if begun is None:
                # The simulation is ahead of the commands, or has none yet: prompt answers synchronise it.
                for _ in range(PROMPT_TURNS):
                    turn = self._skip_tick(["simulated time was not paused"])
                for robot in robots:
                    if self._resets.since_ns(robot) is not None:
                        self._resets.ask(robot, self.running_seeds[robot])
        self._steps[list(robots)] = 0
        self._turn = begun

    def _skip_tick(self, missing: Sequence[str]) -> Turn:
        """Skip the current tick and return the next one."""
        self._log_waiting(missing)
        self._learner.let_pass(f"the learner waits: {'; '.join(missing)}")
        return self._next_turn()

    def _missing(self, turn: Turn, robots: Sequence[int]) -> list[str]:
        """Return what is missing until all robots are observed, `robots` in their new episodes."""
        observed, names = turn.observed, self.configuration.robots
        missing = self._not_ready(observed)
        for robot in robots:
            since_ns = self._resets.since_ns(robot)
            if since_ns is None:
                missing.append(f"{names[robot]} was not reset yet: {self._resets.missing(robot)}")
            elif observed.now_ns - observed.ages_s[robot] * 1e9 < since_ns:
                missing.append(f"{names[robot]} is not observed since its reset")
        self._signals.take()
        return missing + [f"{text} was not heard" for text in self._signals.unheard(range(self.num_envs))]

    def _not_ready(self, tick: Observed | FleetTick) -> list[str]:
        """Return the state and its reason of each robot that is not READY."""
        rows = zip(self.configuration.robots, tick.states, tick.reasons, strict=True)
        return [f"{robot} is {state.name}: {reason}" for robot, state, reason in rows if state is not RobotState.READY]

    def _begin_while_paused(self, turn: Turn, robots: Sequence[int]) -> Turn | None:
        """Reset robots while simulated time is paused and observe them; None when time is not paused.

        Without a reset they go on from the readings of this tick: there will be no others before the next command.
        """
        now_ns, names = turn.observed.now_ns, self.configuration.robots
        if not self._resets.can_reset:
            return turn if self.node.get_clock().now().nanoseconds == now_ns else None
        samples = _Samples(self._pipeline)
        self._signals.forget(robots)

        def forget() -> None:
            self._sensors.take(self._pipeline, now_ns)
            self._pipeline.reset(robots)

        def take() -> None:
            self._sensors.take(samples, now_ns)

        self._learner.observe_again(forget, robots)
        missing = ["nothing yet"]
        while missing:
            self._check_open()
            if self.node.get_clock().now().nanoseconds > now_ns or samples.newest_ns > now_ns:
                return None
            asked = [robot for robot in robots if self._resets.since_ns(robot) is None]
            missing = [f"{names[robot]} was not reset yet: {self._resets.missing(robot)}" for robot in asked]
            if not missing:
                turn = self._learner.observe_again(take, robots)
                self._signals.take()
                missing = [f"{names[robot]}: {reason}" for robot, reason in turn.unusable.items()]
                missing += self._signals.unheard(robots)
            if missing:
                self._log_waiting(missing)
                time.sleep(PAUSED_POLL_S)
        return turn if samples.newest_ns <= now_ns else None

    def _next_turn(self) -> Turn:
        """Wait for the next tick with a READY robot."""
        assert self._loop is not None
        self._interruption = ""
        while (turn := self._learner.next_turn(POLL_S)) is None:
            self._check_open()
            failure = self._loop.failure
            if failure is not None:
                raise RuntimeError("the control loop ended; every robot got its safe command") from failure
            if self._loop.waits_for_clock:
                self._log_waiting(["no message on /clock"])
            elif self._loop.latest is not None:
                stopped = self._stopped_clock(self._loop.latest)
                self._interruption = self._interruption or stopped
                missing = [stopped] if stopped else self._not_ready(self._loop.latest)
                self._log_waiting(missing or ["no tick"], bool(stopped))
        return turn

    def _stopped_clock(self, latest: FleetTick) -> str:
        """Return that simulated time stands still; empty where a tick is due."""
        assert self._loop is not None
        now_ns = self.node.get_clock().now().nanoseconds
        if not self._loop.simulated or now_ns >= latest.time_ns + self.configuration.period_ns:
            return ""
        return f"/clock stands still at {now_ns / 1e9:.3f} s, so no robot is observed; see whether the simulation runs"

    def _log_waiting(self, missing: Sequence[str], clock_stands: bool = False) -> None:
        """Log what is missing after a long wait; warn if it needs a change by the user."""
        assert self._loop is not None
        now_s = time.monotonic()
        if now_s - max(self._observed_s, self._logged_s) <= LOG_PERIOD_S:
            return
        self._logged_s = now_s
        latest, reasons = self._loop.latest, self._waiting_reasons(clock_stands)
        text = f"waiting: {'; '.join([*missing, *reasons])}"
        if reasons or (latest is not None and RobotState.REJECTED in latest.states):
            self._logger.warning(text)
        else:
            self._logger.info(text)

    def _waiting_reasons(self, clock_stands: bool) -> list[str]:
        """Return the reasons in the ROS graph why readings or the time are missing."""
        assert self._loop is not None
        latest, robots = self._loop.latest, self.configuration.robots
        reasons = []
        if clock_stands and not self.node.count_publishers("/clock"):
            reasons.append("/clock has no publisher any more")
        if not self._loop.simulated and self.node.count_publishers("/clock"):
            reasons.append(
                "/clock has a publisher, but the environment runs on real time: use lockstep=True where time waits for "
                "the commands, as with `rover_sim --lockstep`, else use_sim_time=True"
            )
        for robot, name in enumerate(robots):
            if clock_stands or latest is None or latest.states[robot] in (RobotState.WAITING, RobotState.STALE):
                reasons += [why_silent(self.node, name, source, robots) for source, *_ in self.configuration.sensors]
        return [why for why in reasons if why] + self._signals.why_unheard()

    def _begin_step(self, restarted: np.ndarray) -> Observations:
        """Keep and return the observations from which the next step starts; `restarted` `[robots]` bool."""
        assert self._turn is not None
        self._returns[restarted] = 0.0
        self._lengths[restarted] = 0
        self._observed_s = self._began_s[restarted] = time.monotonic()
        self._observations = self._turn.observations
        self._signal_values = self._signals.take()
        return self._converted(self._observations)

    def _checked(self, name: str, values: Any) -> np.ndarray:
        array = values.numpy(force=True) if isinstance(values, torch.Tensor) else np.asarray(values)
        if array.shape != (self.num_envs,):
            raise ValueError(f"{name}: found {list(array.shape)}, but it must give [{self.num_envs}], one per robot")
        return array

    def _converted(self, observations: Mapping[str, torch.Tensor]) -> Any:
        """Convert observations to tensors or arrays as configured."""
        if self._tensors:
            return dict(observations)
        arrays = {key: rows.numpy(force=True) for key, rows in observations.items()}
        return arrays if isinstance(self.observation_space, spaces.Dict) else next(iter(arrays.values()))

    def _spin(self) -> None:
        while not self._ending.is_set():
            try:
                self._executor.spin_once(timeout_sec=POLL_S)
            except Exception as error:
                if not self._ending.is_set():
                    self._logger.error(f"a callback failed: {type(error).__name__}: {error}")
                    time.sleep(POLL_S)

    def close(self) -> None:
        """Send every robot its safe command and close all topics."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        self._learner.end()
        try:
            if self._loop is not None:
                self._loop.stop()
        finally:
            if self._claims is not None:
                self._claims.destroy()
            self._ending.set()
            if self._spinning.is_alive():
                self._executor.wake()
                self._spinning.join()
            self._executor.shutdown()
            self.node.destroy_node()
            rclpy.shutdown(context=self._context, uninstall_handlers=False)

    def get_attr(self, attr_name: str, indices: int | Iterable[int] | None = None) -> list[Any]:
        """Return an attribute of this environment for each robot."""
        return [getattr(self, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: int | Iterable[int] | None = None) -> None:
        """Raise: robots have no attributes."""
        raise NotImplementedError(f"{attr_name}: robots have no attributes; set it on the RosVecEnv")

    def env_method(
        self, method_name: str, *arguments: Any, indices: int | Iterable[int] | None = None, **keywords: Any
    ) -> list[Any]:
        """Raise: robots have no methods."""
        raise NotImplementedError(f"{method_name}: robots have no methods; call it on the RosVecEnv")

    def env_is_wrapped(self, wrapper_class: type, indices: int | Iterable[int] | None = None) -> list[bool]:
        """Return that no robot is wrapped."""
        return [False for _ in self._get_indices(indices)]


class _Samples:
    """Passes samples to a pipeline and keeps their newest stamp."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self.newest_ns = 0

    def add(self, robot: int, sensor: int, stamp_ns: int, message: Any) -> None:
        """See `Pipeline.add`."""
        self.newest_ns = max(self.newest_ns, stamp_ns)
        self._pipeline.add(robot, sensor, stamp_ns, message)

    def set_present(self, robot: int, sensor: int, present: bool) -> None:
        """See `Pipeline.set_present`."""
        self._pipeline.set_present(robot, sensor, present)

    def name_oldest(self, robot: int, sensor: int, what: str) -> None:
        """See `Pipeline.name_oldest`."""
        self._pipeline.name_oldest(robot, sensor, what)


def _configuration_of(config: Configuration | Mapping[str, Any] | str | Path) -> tuple[Configuration, bool]:
    """Return the configuration, and whether its parameters set `use_sim_time`."""
    if isinstance(config, Configuration):
        return config, False
    values = flatten(config) if isinstance(config, Mapping) else read_parameter_file(Path(config))
    values, _ = fill_in(with_resolved_paths({"policy.path": NO_POLICY, **values}))
    return parse_configuration(values), uses_sim_time(values)


def _subscribed_reliably(configuration: Configuration) -> Configuration:
    """Return the configuration with reliable observations; others may arrive after the clock has reached their time."""
    observations = tuple(
        replace(
            observation,
            reliability="reliable",
            terms=tuple(replace(term, reliability="reliable") for term in observation.terms),
        )
        for observation in configuration.observations
    )
    return replace(configuration, observations=observations)


def _spec_of(
    configuration: Configuration, observation_space: spaces.Space | None, action_space: spaces.Space | None
) -> tuple[PolicySpec, torch.device]:
    """Return observations and actions of the spaces, or else of the configured policy, and the device."""
    if (observation_space is None) != (action_space is None):
        raise ConfigurationError("observation_space, action_space: one is given without the other; give both")
    if observation_space is None or action_space is None:
        if configuration.policy.path == NO_POLICY:
            raise ConfigurationError(
                "policy.path: missing; give it, or observation_space and action_space of one robot"
            )
        policy = load_configured(configuration)
        return replace(policy.spec, memory={}, mask=0, horizon=0), policy.device
    try:
        device = select_device(configuration.policy.device)
        observations = {
            key: observation_spec(key, space, None, "observation_space")
            for key, space in keyed_spaces(observation_space).items()
        }
        return PolicySpec(observations, action_spec(action_space, "action_space"), "learner", ""), device
    except PolicyError as error:
        raise ConfigurationError(str(error)) from error
