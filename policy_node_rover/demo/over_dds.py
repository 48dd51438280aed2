# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Drive episodes over DDS, with the rovers and the node as processes, as on robots.

This process assigns the episodes by resets with a seed, and follows the published status. After a reset a rover
publishes nothing for longer than readings may be old. This gap makes the node start a new episode, too, with empty
stacks and memory.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rich.console import Console
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray, Int64

from policy_node.cli.child_process import ToolError
from policy_node.config.parameter_file import read_parameter_file
from policy_node.config.schema import Configuration, parse_configuration
from policy_node.control.timing import percentiles
from policy_node_rover.demo.fleet import SENSOR_RATE_HZ, FleetProcesses, NodeMonitor, messages_of
from policy_node_rover.evaluation.progress import EpisodeProgress
from policy_node_rover.evaluation.results import EpisodeResult, RecordedCommands
from policy_node_rover.mujoco.environment import EPISODE_S

# Short, as in lockstep a rover whose episode has ended drives on until it is reset.
POLL_PERIOD_S = 0.005
RESET_RETRY_S = 30.0
SILENCE_TIMEOUT_S = 120.0
# The pause after a reset exceeds the maximum age of readings by these periods; in real time ticks may be missed.
SPARE_PERIODS = 6
SPARE_PERIODS_IN_LOCKSTEP = 2
STATUS_QUEUE = 2000
# In lockstep a tick waits for other processes.
LOCKSTEP_WATCHDOG_S = 60.0
# Simulated time is a sum of time steps.
ROUNDING_S = 1e-6


@dataclass(frozen=True)
class DdsSetup:
    """Setup of an evaluation over DDS.

    `params` is the file of the node's parameters, `model` the policy, None for the one in that file; `keys` and `stack`
    are its observations, empty and 0 for those in the file. Logs and parameters go to `folder`.
    """

    robots: tuple[str, ...]
    seeds: range
    lockstep: bool
    renderer: str
    model: Path | None
    keys: Sequence[str]
    stack: int
    folder: Path
    params: Path

    @cached_property
    def configuration(self) -> Configuration:
        """The configuration of the node."""
        return parse_configuration(read_parameter_file(self.params))

    @property
    def reset_pause_s(self) -> float:
        """How long a rover publishes nothing after a reset."""
        spare_periods = SPARE_PERIODS_IN_LOCKSTEP if self.lockstep else SPARE_PERIODS
        configuration = self.configuration
        return configuration.synchronisation.max_age_s + spare_periods * configuration.period_ns / 1e9

    def simulation_options(self) -> list[str]:
        """Return the options of `rover_sim`."""
        rate_hz = self.configuration.control_rate_hz if self.lockstep else SENSOR_RATE_HZ
        return [
            *("--robots", str(len(self.robots)), "--renderer", self.renderer, "--seed", str(self.seeds.start)),
            *("--reset-pause-s", f"{self.reset_pause_s:g}", "--rate-hz", f"{rate_hz:g}"),
            *(["--lockstep"] if self.lockstep else []),
        ]

    def node_parameters(self) -> dict[str, Any]:
        """Return the parameters of the node by dotted name."""
        given = read_parameter_file(self.params)
        keys = self.keys or given["observations.keys"]
        unused = tuple(f"observations.{key}." for key in given["observations.keys"] if key not in keys)
        parameters = {name: value for name, value in given.items() if not name.startswith(unused)}
        parameters |= {"robots": list(self.robots), "observations.keys": list(keys)}
        parameters |= {f"observations.{key}.stack": self.stack for key in self.keys}
        if self.lockstep:
            parameters |= {f"observations.{key}.reliability": "reliable" for key in keys}
            parameters |= {"use_sim_time": True, "watchdog.timeout_s": LOCKSTEP_WATCHDOG_S}
        if self.model is not None:
            # A file that the user names is trusted.
            parameters |= {"policy.path": str(self.model.resolve()), "policy.trusted": True}
        return parameters


class EpisodeStatus(NamedTuple):
    """Status of a rover's episode, in the order of `rover_i/episode`.

    The seed is that of the latest reset, negative without one; time and counts are since then.
    """

    seed: float
    time_s: float
    presses: float
    collisions: float
    linear_m_s: float
    angular_rad_s: float


class EpisodeScheduler:
    """Give the next seed to each rover that has finished an episode, by a press or after the maximum time.

    `running` has the seed of the present episode by index of the rover, while there are episodes for it; `finished` the
    finished episodes in the order of their ends.
    """

    def __init__(self, robots: int, seeds: Iterable[int]) -> None:
        self._seeds = iter(seeds)
        self._statuses: list[list[EpisodeStatus]] = [[] for _ in range(robots)]
        self.running = dict(zip(range(robots), self._seeds, strict=False))
        self.finished: list[RecordedCommands] = []

    def has_started(self, robot: int) -> bool:
        """Return whether a status of the rover's present episode was received."""
        return bool(self._statuses[robot])

    def update(self, robot: int, status: EpisodeStatus) -> None:
        """Add a status; those of other episodes are ignored."""
        if self.running.get(robot) != status.seed:
            return
        statuses = self._statuses[robot]
        if status.time_s == 0.0:
            # The episode starts, or was reset again.
            statuses.clear()
        elif statuses and status.time_s <= statuses[-1].time_s:
            return
        statuses.append(status)
        if status.presses > 0 or status.time_s >= EPISODE_S - ROUNDING_S:
            pressed = status.presses > 0 and status.time_s <= EPISODE_S + ROUNDING_S
            result = EpisodeResult(int(status.seed), pressed, status.time_s, int(status.collisions))
            commands = np.array([(each.linear_m_s, each.angular_rad_s) for each in statuses[1:]])
            self.finished.append(RecordedCommands(result, commands.reshape(-1, 2)))
            self._statuses[robot] = []
            del self.running[robot]
            if (seed := next(self._seeds, None)) is not None:
                self.running[robot] = seed


class EpisodeClient:
    """Reset rovers for their episodes, and take the status of these, without an executor."""

    def __init__(self, node: Node, robots: Sequence[str], scheduler: EpisodeScheduler) -> None:
        self._scheduler = scheduler
        self._resets = [node.create_publisher(Int64, f"{robot}/reset", QoSProfile(depth=10)) for robot in robots]
        qos = QoSProfile(depth=STATUS_QUEUE)
        self._statuses = [messages_of(node, Float64MultiArray, f"{robot}/episode", qos) for robot in robots]
        # Seed and time of the latest reset by index of the rover.
        self._requested: dict[int, tuple[int, float]] = {}
        self._received_s = time.monotonic()

    @property
    def silence_s(self) -> float:
        """Time since the latest status of any rover."""
        return time.monotonic() - self._received_s

    def poll(self) -> None:
        """Take all statuses, and reset the rovers that have a new episode."""
        for robot, take in enumerate(self._statuses):
            for message in iter(take, None):
                self._received_s = time.monotonic()
                self._scheduler.update(robot, EpisodeStatus(*message.data))
        for robot, seed in self._scheduler.running.items():
            last_seed, requested_s = self._requested.get(robot, (-1, -math.inf))
            is_requested = last_seed == seed and time.monotonic() - requested_s < RESET_RETRY_S
            is_connected = self._resets[robot].get_subscription_count() > 0
            if is_connected and not is_requested and not self._scheduler.has_started(robot):
                self._resets[robot].publish(Int64(data=seed))
                self._requested[robot] = seed, time.monotonic()


def run_over_dds(
    setup: DdsSetup, scheduler: EpisodeScheduler, console: Console, stopping: Callable[[], bool]
) -> dict[str, Any]:
    """Drive the episodes of the scheduler until the last one has ended, or `stopping` returns True.

    Returns policy, engine, durations and lateness for the report. ToolError is raised when a process ends or publishes
    nothing, or statuses were lost.
    """
    setup.folder.mkdir(parents=True, exist_ok=True)
    file = setup.folder / "policy_node.yaml"
    file.write_text(yaml.safe_dump({"/**": {"ros__parameters": setup.node_parameters()}}))
    node = Node("policy_demo", start_parameter_services=False)
    try:
        monitor = NodeMonitor(node, setup.robots)
        client = EpisodeClient(node, setup.robots, scheduler)
        if setup.keys and "touch" not in setup.keys:
            # In lockstep time waits for a subscriber.
            qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
            for robot in setup.robots:
                messages_of(node, JointState, f"{robot}/touch", qos)
        with FleetProcesses(setup.simulation_options(), ["--params-file", str(file)], setup.folder) as fleet:
            fleet.wait_until_driving(monitor, stopping)
            monitor.timing_ms.clear()
            control_before = monitor.control
            start_s = time.monotonic()
            with EpisodeProgress(console, "over ROS", len(setup.seeds)) as progress:
                while scheduler.running and not stopping():
                    client.poll()
                    monitor.poll()
                    fleet.check()
                    if client.silence_s > SILENCE_TIMEOUT_S:
                        silence = f"published no episode status for {SILENCE_TIMEOUT_S:g} s"
                        raise fleet.children["simulation"].error(silence)
                    successes = sum(episode.result.success for episode in scheduler.finished)
                    progress.show(len(scheduler.finished), successes)
                    time.sleep(POLL_PERIOD_S)
            elapsed_s = time.monotonic() - start_s
    finally:
        node.destroy_node()
    if setup.lockstep:
        _check_complete(setup, scheduler)
    control = monitor.control
    return {
        "policy": Path(control.get("policy", "")).name,
        **{name: control.get(name) for name in ("policy_sha256", "engine", "device", "rmw")},
        "reset_pause_s": round(setup.reset_pause_s, 6),
        "wall_time_s": elapsed_s,
        "lateness": None if setup.lockstep or scheduler.running else _lateness(setup, monitor, control_before),
    }


def _check_complete(setup: DdsSetup, scheduler: EpisodeScheduler) -> None:
    """Raise ToolError when a step of a finished episode was lost."""
    for episode in scheduler.finished:
        steps = round(episode.result.time_s / (setup.configuration.period_ns / 1e9))
        if len(episode.commands) != steps:
            raise ToolError(
                f"seed {episode.result.seed}: {len(episode.commands)} of {steps} steps were received; repeat the run "
                "on a machine with less load"
            )


def _lateness(setup: DdsSetup, monitor: NodeMonitor, control_before: dict[str, str]) -> dict[str, Any]:
    """Return the lateness of ticks and the age of readings."""
    configuration = setup.configuration
    omitted_ticks = math.ceil(configuration.synchronisation.max_age_s * configuration.control_rate_hz)
    lateness_ms, tick_ms = np.concatenate(monitor.timing_ms)[:, :2].T
    figures = {
        "lateness_ms": lateness_ms,
        "tick_ms": tick_ms,
        "age_at_command_ms": ages_in_episodes_ms(monitor.timing_ms, omitted_ticks),
    }
    counts = {name: int(monitor.control[name]) - int(control_before[name]) for name in ("ticks", "missed_ticks")}
    return counts | {
        name: dict(zip(("p50", "p99"), (round(figure, 3) for figure in percentiles(values)), strict=True))
        for name, values in figures.items()
    }


def ages_in_episodes_ms(timing_ms: Sequence[np.ndarray], omitted_ticks: int) -> np.ndarray:
    """Return the ages of readings at the commands within episodes, float64 [commands].

    `timing_ms` is that of `NodeMonitor`; an age is NaN where a robot was not driven. Some ticks before one without
    readings are omitted: a rover that was reset publishes nothing for a while, and its last readings age.
    """
    ages_ms = np.concatenate(timing_ms)[:, 2:]
    is_driven = np.isfinite(ages_ms)
    kept = is_driven.copy()
    for tick in range(1, omitted_ticks + 1):
        kept[:-tick] &= is_driven[tick:]
    return ages_ms[kept]
