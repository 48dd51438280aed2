# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Simulate rovers on ROS 2 topics (`rover_sim`): camera, touch and odometry out, velocity commands in.

Time advances in slots of about one physics step. In each slot every rover takes its newest command and is simulated.
The cameras are staggered over the camera period, so that the images of a fleet do not come in a burst. In lockstep
time waits for the commands, see `Lockstep`.
"""

from __future__ import annotations

import argparse
import math
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import closing

from rclpy.node import Node
from rclpy.utilities import remove_ros_args
from rosgraph_msgs.msg import Clock

from policy_node.cli.options import number
from policy_node.control.timing import SteadyClock
from policy_node.ros.process import destroy_last_node, ros_process
from policy_node_rover.arena.description import ARENA
from policy_node_rover.mujoco.arena import Arena
from policy_node_rover.mujoco.lockstep import Lockstep, ros_time
from policy_node_rover.mujoco.model import ArenaModel
from policy_node_rover.mujoco.rendering import KINDS, Renderer, RendererError, make_renderer
from policy_node_rover.mujoco.simulated_rover import RELIABLE_QOS, SENSOR_QOS, Overview, SimulatedRover

LOG_PERIOD_S = 10.0
# A longer delay is not caught up: the simulation then runs slower than requested.
MAX_CATCH_UP_S = 0.1
# Warn below this part of the requested speed.
MIN_SPEED = 0.9
DEFAULT_RATE_HZ = 30.0
LOCKSTEP_RATE_HZ = 20.0


class ProgressLog:
    """Log presses and real-time factor periodically; warn when the simulation is slower than requested."""

    def __init__(self, node: Node, rovers: Sequence[SimulatedRover], speed: float) -> None:
        self._logger = node.get_logger()
        self._rovers = rovers
        self._speed = speed
        self._at_s = time.monotonic()
        self._simulated_s = 0.0

    def update(self, simulated_s: float) -> None:
        """Log when it is due."""
        now_s = time.monotonic()
        elapsed_s = now_s - self._at_s
        if elapsed_s < LOG_PERIOD_S:
            return
        factor = (simulated_s - self._simulated_s) / elapsed_s
        self._at_s, self._simulated_s = now_s, simulated_s
        text = f"{self._presses()} presses, real-time factor {factor:.2f}"
        if factor < MIN_SPEED * self._speed:
            self._logger.warning(
                f"{text}: slower than --speed {self._speed:g}; lower --robots or --rate-hz, or free a processor"
            )
        else:
            self._logger.info(text)

    def end(self, simulated_s: float) -> None:
        """Log the end of the simulation."""
        self._logger.info(f"ended after {simulated_s:.1f} s with {self._presses()} presses")

    def _presses(self) -> int:
        return sum(rover.arena.presses for rover in self._rovers)


def simulate(
    node: Node, options: argparse.Namespace, renderer: Renderer, model: ArenaModel, stopping: threading.Event
) -> None:
    """Simulate the fleet until it is stopped or its duration is over; the node needs no executor."""
    seeds = [None if options.seed is None else options.seed + robot for robot in range(options.robots)]
    # With a depth of 1, Fast DDS requests the acknowledgement of a sample at once, otherwise only every 3 s.
    sensor_qos = RELIABLE_QOS if options.lockstep else SENSOR_QOS
    rovers = [
        SimulatedRover(node, f"rover_{robot}", Arena(model, seed), not options.clock, sensor_qos, options.reset_pause_s)
        for robot, seed in enumerate(seeds)
    ]
    overview = Overview(node, [rover.arena for rover in rovers], renderer)
    run = _run_lockstep if options.lockstep else _run_timed
    run(node, options, renderer, rovers, overview, stopping)


def _run_lockstep(
    node: Node,
    options: argparse.Namespace,
    renderer: Renderer,
    rovers: Sequence[SimulatedRover],
    overview: Overview,
    stopping: threading.Event,
) -> None:
    lockstep = Lockstep(node, rovers, renderer, overview, options.rate_hz, stopping)
    progress = ProgressLog(node, rovers, speed=0.0)
    node.get_logger().info(
        f"{options.robots} rovers in lockstep at {options.rate_hz:g} Hz, images by {renderer.kind}, simulated time on "
        "/clock"
    )
    max_steps = round(options.duration_s * options.rate_hz) if options.duration_s else math.inf
    while not stopping.is_set() and lockstep.steps < max_steps and lockstep.tick():
        progress.update(lockstep.steps / options.rate_hz)
    for rover in rovers:
        rover.answer_resets()
    progress.end(lockstep.steps / options.rate_hz)


def _run_timed(
    node: Node,
    options: argparse.Namespace,
    renderer: Renderer,
    rovers: Sequence[SimulatedRover],
    overview: Overview,
    stopping: threading.Event,
) -> None:
    """Run at the requested speed, with or without commands."""
    clock_publisher = node.create_publisher(Clock, "/clock", RELIABLE_QOS) if options.clock else None
    progress = ProgressLog(node, rovers, options.speed)
    slots = max(1, round(1.0 / options.rate_hz / ARENA.timestep_s))
    slot_s = 1.0 / options.rate_hz / slots
    steady = SteadyClock()
    deadline_ns = steady.now_ns()
    node.get_logger().info(
        f"{options.robots} rovers, sensors at {options.rate_hz:g} Hz, images by {renderer.kind}, "
        + (f"{options.speed:g} times real time" if options.speed else "as fast as possible")
        + (", simulated time on /clock" if options.clock else "")
    )
    slot, last_slot = 0, round(options.duration_s / slot_s) if options.duration_s else math.inf
    while not stopping.is_set() and slot < last_slot:
        if options.speed:
            deadline_ns += round(slot_s / options.speed * 1e9)
            deadline_ns = max(deadline_ns, steady.now_ns() - round(MAX_CATCH_UP_S * 1e9))
            steady.wait_until(deadline_ns)
        slot += 1
        simulated_s = slot * slot_s
        stamp = ros_time(round(simulated_s * 1e9))
        if clock_publisher is not None:
            clock_publisher.publish(Clock(clock=stamp))
        for robot, rover in enumerate(rovers):
            # The arenas are independent: each one's time is the moment of its simulation.
            if clock_publisher is None:
                stamp = ros_time(time.time_ns())
            if rover.take_resets():
                rover.answer_resets()
            rover.update(slot_s, simulated_s if options.clock else time.monotonic())
            if (robot - slot) % slots == 0 and not rover.is_paused:
                rover.publish_sensors(renderer, stamp)
        overview.update(simulated_s, stamp)
        progress.update(simulated_s)
    progress.end(slot * slot_s)


def parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the options of `rover_sim`, without those for ROS."""
    parser = argparse.ArgumentParser(prog="rover_sim", description="Simulate rovers in walled arenas on ROS 2 topics.")
    add = parser.add_argument
    add("--robots", type=number(int, 1, 256), default=4, help="number of rovers, rover_0, rover_1, … (default 4)")
    # 30 Hz: at a control rate of 20 Hz images are 17 ms old on average, and 16 rovers take 40 % of a core.
    add(
        "--rate-hz",
        type=number(float, 1, 100),
        help="rate of camera, touch and odometry in simulated time (default 30); with --lockstep the control rate "
        "(default 20)",
    )
    add("--seed", type=number(int, 0, 2**31), help="layout of rover_0; the others follow (default: random)")
    add("--renderer", choices=KINDS, default="auto", help="auto: EGL if it works, else ray casting")
    add(
        "--speed",
        type=number(float, 0, 1000),
        default=1.0,
        help="simulated seconds per second; 0: as fast as possible (default 1)",
    )
    add(
        "--clock",
        action="store_true",
        help="publish /clock and stamp with simulated time, as with the parameter use_sim_time",
    )
    add(
        "--lockstep",
        action="store_true",
        help="wait for the commands of all rovers in each control period; implies --clock, ignores --speed",
    )
    add(
        "--reset-pause-s",
        type=number(float, 0, 60),
        default=0.0,
        help="simulated seconds for which a rover stands still and publishes nothing after a reset, so that the node "
        "starts a new episode, too (default 0)",
    )
    add("--duration-s", type=number(float, 0, 1e9), default=0.0, help="simulated seconds; 0: endless (default)")
    options = parser.parse_args(arguments)
    options.clock |= options.lockstep
    if options.rate_hz is None:
        options.rate_hz = LOCKSTEP_RATE_HZ if options.lockstep else DEFAULT_RATE_HZ
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate until SIGINT, SIGTERM or the end of `--duration-s`."""
    arguments = sys.argv if arguments is None else ["rover_sim", *arguments]
    options = parse_options(remove_ros_args(arguments)[1:])
    with ros_process(arguments) as stopping:
        # Parameter services would need an executor.
        node = Node("rover_sim", start_parameter_services=False)
        options.clock |= node.get_parameter("use_sim_time").value
        try:
            model = ArenaModel()
            with closing(make_renderer(model, options.renderer)) as renderer:
                simulate(node, options, renderer, model, stopping)
        except RendererError as error:
            node.get_logger().fatal(str(error))
            return 1
        finally:
            destroy_last_node(node)
    return 0


if __name__ == "__main__":
    sys.exit(main())
