# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Episodes played through the node: rovers and node as processes of their own, over DDS, as on robots.

This process deals the episodes, by resets with a seed, and follows them by what the simulation tells. After a reset a
rover is silent for longer than readings may be old, so that the node begins the episode anew as well: that is a gap in
its readings, which ends an episode, stacks and memory included.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rich.console import Console
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray, Int64

from policy_node.cli.child_process import Child, ToolError
from policy_node.cli.process_environment import memory_environment, transport_environment
from policy_node.config.package_files import share_path
from policy_node.config.parameter_file import read_parameter_file
from policy_node.config.schema import Configuration, parse_configuration
from policy_node.control.timing import percentiles
from policy_node_rover.demo.episodes import Dealer, Report, ages_while_driven_ms
from policy_node_rover.demo.node import SENSOR_RATE_HZ, NodeMonitor, never_called, take, wait_until_driving
from policy_node_rover.demo.progress import EpisodeProgress

# How often it is looked for reports: in lockstep time goes on until a rover whose episode has ended is reset.
LOOK_PERIOD_S = 0.005
# How long a rover may be silent before it is asked again to begin, and all of them before they are given up.
ASK_AGAIN_S = 30.0
SILENCE_S = 120.0
# By how many periods a rover is silent for longer than readings may be old; in real time ticks may be missed.
SPARE_PERIODS = 6
SPARE_PERIODS_IN_LOCKSTEP = 2
REPORTS = 2000
# No tick may pass for hanging that waits for another process.
PATIENT_S = 60.0


@dataclass(frozen=True)
class Play:
    """How episodes are played.

    Attributes
    ----------
    robots
        Namespaces of the rovers.
    seeds
        Of the episodes.
    lockstep
        Whether time waits for the commands of every tick.
    renderer
        Kind of the renderer.
    model
        The policy to run; None: the one that `config/rover.yaml` names.
    keys, stack
        Which observations it takes, and how many of the latest ones.
    folder
        For logs and parameters.
    """

    robots: tuple[str, ...]
    seeds: range
    lockstep: bool
    renderer: str
    model: Path | None
    keys: Sequence[str]
    stack: int
    folder: Path

    @property
    def configuration(self) -> Configuration:
        """That of the demonstration."""
        return parse_configuration(read_parameter_file(share_path("config", "rover.yaml")))

    @property
    def reset_pause_s(self) -> float:
        """How long a rover is silent after a reset."""
        spare_periods = SPARE_PERIODS_IN_LOCKSTEP if self.lockstep else SPARE_PERIODS
        configuration = self.configuration
        return configuration.synchronisation.max_age_s + spare_periods * configuration.period_ns / 1e9


class EpisodePlayer:
    """Lets rovers play the episodes that they are dealt.

    Parameters
    ----------
    node
        Owner of the topics; nobody needs to spin it.
    robots
        Namespaces.
    dealer
        Who plays what.
    """

    def __init__(self, node: Node, robots: Sequence[str], dealer: Dealer) -> None:
        self._dealer = dealer
        self._resets = [node.create_publisher(Int64, f"{robot}/reset", QoSProfile(depth=10)) for robot in robots]
        self._reports = [
            node.create_subscription(Float64MultiArray, f"{robot}/episode", never_called, QoSProfile(depth=REPORTS))
            for robot in robots
        ]
        # By index of a robot which seed it was asked to play, and when.
        self._asked: dict[int, tuple[int, float]] = {}
        self._heard_s = time.monotonic()

    @property
    def silence_s(self) -> float:
        """For how long nobody has reported."""
        return time.monotonic() - self._heard_s

    def look(self) -> None:
        """Take the reports that have arrived, and reset rovers that are to begin."""
        for robot, subscription in enumerate(self._reports):
            while (message := take(subscription)) is not None:
                self._heard_s = time.monotonic()
                self._dealer.note(robot, Report(*message.data))
        for robot, seed in self._dealer.running.items():
            asked_seed, asked_s = self._asked.get(robot, (-1, -math.inf))
            is_asked = asked_seed == seed and time.monotonic() - asked_s < ASK_AGAIN_S
            if is_asked or self._dealer.has_begun(robot) or not self._resets[robot].get_subscription_count():
                continue
            self._resets[robot].publish(Int64(data=seed))
            self._asked[robot] = seed, time.monotonic()


class Fleet:
    """The simulation and the node as processes, until the context is left.

    Parameters
    ----------
    play
        What is to be played.
    dealer
        Deals the episodes.
    console
        Where to tell how it goes.
    stopping
        Whether to end early.
    """

    def __init__(self, play: Play, dealer: Dealer, console: Console, stopping: Callable[[], bool]) -> None:
        self._play = play
        self._dealer = dealer
        self._console = console
        self._stopping = stopping
        self._children: dict[str, Child] = {}
        self._held = ExitStack()
        self._node = Node("policy_demo", start_parameter_services=False)
        self._monitor = NodeMonitor(self._node, play.robots)
        self._player = EpisodePlayer(self._node, play.robots, dealer)
        if "touch" not in play.keys:
            # In lockstep time waits until somebody listens.
            newest = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
            for robot in play.robots:
                self._node.create_subscription(JointState, f"{robot}/touch", never_called, newest)

    def __enter__(self) -> Fleet:
        """Start the processes."""
        folder = self._play.folder
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "policy_node.yaml"
        file.write_text(yaml.safe_dump({"/**": {"ros__parameters": node_parameters(self._play)}}))
        drive = ["-m", "policy_node.ros.node", "--ros-args", "--params-file", str(file)]
        transport, memory = transport_environment(), memory_environment()
        with ExitStack() as held:
            held.callback(self._node.destroy_node)
            simulation = Child("rover_sim", simulation_arguments(self._play), folder / "rover_sim.log", transport)
            held.callback(simulation.stop)
            node = Child("policy_node", drive, folder / "policy_node.log", {**transport, **memory})
            # Ended before the simulation, so that its safe commands still find their rovers.
            held.callback(node.stop)
            self._held = held.pop_all()
        self._children = {"simulation": simulation, "node": node}
        return self

    def __exit__(self, *exception: object) -> None:
        """End the processes."""
        self._held.close()

    def run(self) -> dict[str, Any]:
        """Let the rovers play the episodes, until the last one has ended or it is told to stop.

        Returns
        -------
        dict
            What else is known of the run than its episodes.

        Raises
        ------
        ToolError
            When a process ends or falls silent, or steps were not heard.
        """
        play, dealer, monitor = self._play, self._dealer, self._monitor
        wait_until_driving(monitor, self._children, self._stopping)
        monitor.timing_ms.clear()
        before = dict(monitor.control)
        began_s = time.monotonic()
        with EpisodeProgress(self._console, "over ROS", len(play.seeds)) as progress:
            while dealer.running and not self._stopping():
                self._look()
                progress.show(len(dealer.finished), sum(episode.result.success for episode in dealer.finished))
                time.sleep(LOOK_PERIOD_S)
        elapsed_s = time.monotonic() - began_s
        if play.lockstep:
            self._check_complete()
        control = monitor.control
        return {
            "policy": Path(control.get("policy", "")).name,
            **{name: control.get(name) for name in ("policy_sha256", "engine", "device", "rmw")},
            "reset_pause_s": round(play.reset_pause_s, 6),
            "wall_time_s": elapsed_s,
            "lateness": None if play.lockstep or dealer.running else self._lateness(before),
        }

    def _look(self) -> None:
        self._player.look()
        self._monitor.take()
        for child in self._children.values():
            child.check()
        if self._player.silence_s > SILENCE_S:
            raise self._children["simulation"].error(f"has told nothing of any episode for {SILENCE_S:g} s")

    def _check_complete(self) -> None:
        """Check that every step of every episode was heard."""
        period_s = self._play.configuration.period_ns / 1e9
        for episode in self._dealer.finished:
            steps = round(episode.result.time_s / period_s)
            if len(episode.commands) != steps:
                raise ToolError(
                    f"seed {episode.result.seed}: {len(episode.commands)} of {steps} steps were heard; run it again on "
                    "a machine that is less busy"
                )

    def _lateness(self, before: dict[str, str]) -> dict[str, Any]:
        """Return how late ticks and commands were since some diagnostics."""
        monitor, configuration = self._monitor, self._play.configuration
        left_out = math.ceil(configuration.synchronisation.max_age_s * configuration.control_rate_hz)
        lateness_ms, tick_ms = np.concatenate(monitor.timing_ms)[:, :2].T
        figures = {
            "lateness_ms": lateness_ms,
            "tick_ms": tick_ms,
            "age_at_command_ms": ages_while_driven_ms(monitor.timing_ms, left_out),
        }
        counts = {name: int(monitor.control[name]) - int(before[name]) for name in ("ticks", "missed_ticks")}
        return counts | {
            name: dict(zip(("p50", "p99"), (round(figure, 3) for figure in percentiles(values)), strict=True))
            for name, values in figures.items()
        }


def simulation_arguments(play: Play) -> list[str]:
    """Return the arguments of Python with which the rovers are simulated."""
    rate_hz = play.configuration.control_rate_hz if play.lockstep else SENSOR_RATE_HZ
    return [
        *("-m", "policy_node_rover.mujoco.rover_sim", "--robots", str(len(play.robots)), "--renderer", play.renderer),
        *("--reset-pause-s", f"{play.reset_pause_s:g}", "--seed", str(play.seeds.start), "--rate-hz", f"{rate_hz:g}"),
        *(["--lockstep"] if play.lockstep else []),
    ]


def node_parameters(play: Play) -> dict[str, Any]:
    """Return the parameters of the node by dotted name: those of the demonstration, for the policy at hand."""
    given = read_parameter_file(share_path("config", "rover.yaml"))
    left_out = tuple(f"observations.{key}." for key in given["observations.keys"] if key not in play.keys)
    parameters = {name: value for name, value in given.items() if not name.startswith(left_out)}
    parameters |= {"robots": list(play.robots), "observations.keys": list(play.keys)}
    parameters |= {f"observations.{key}.stack": play.stack for key in play.keys}
    if play.lockstep:
        parameters |= {f"observations.{key}.reliability": "reliable" for key in play.keys}
        parameters |= {"use_sim_time": True, "watchdog.timeout_s": PATIENT_S}
    if play.model is not None:
        # Whoever names a file of one's own trusts it.
        parameters |= {"policy.path": str(play.model.resolve()), "policy.trusted": True}
    return parameters
