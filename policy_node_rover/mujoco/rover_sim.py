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
from collections.abc import Iterator, Sequence
from contextlib import closing

from builtin_interfaces.msg import Time
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rclpy.utilities import remove_ros_args
from rosgraph_msgs.msg import Clock

from policy_node.cli.options import number
from policy_node.control.timing import SteadyClock
from policy_node.ros.middleware import confirms_arrival, middleware
from policy_node.ros.process import tool_node
from policy_node.ros.rclpy_internals import spinning
from policy_node_rover.arena.description import ARENA
from policy_node_rover.frames import PosePublisher, publish_fixed_transforms
from policy_node_rover.mujoco.arena import Arena
from policy_node_rover.mujoco.model import ArenaModel
from policy_node_rover.mujoco.rendering import KINDS, Renderer, RendererError, make_renderer
from policy_node_rover.mujoco.simulated_rover import RELIABLE_QOS, Disturbance, Overview, SimulatedRover

LOG_PERIOD_S = 10.0
LOCKSTEP_LOG_PERIOD_S = 5.0
# Subscribers of /clock are mostly best effort: a time that may be lost is sent again after this.
CLOCK_RESEND_S = 0.25
# The polling period in lockstep starts short and grows with the time waited.
MIN_POLL_S = 0.0001
MAX_POLL_S = 0.002
# A longer delay is not caught up: the simulation then runs slower than requested.
MAX_CATCH_UP_S = 0.1
# Warn below this part of the requested speed.
MIN_SPEED = 0.9
DEFAULT_RATE_HZ = 30.0
LOCKSTEP_RATE_HZ = 20.0


class Lockstep:
    """Run the simulation tick by tick.

    At each tick the sensors of all rovers are published with the stamp of the tick. When all reliable subscribers have
    received them, `/clock` publishes the time of the tick. When every rover has its command, the physics advance by
    one period. While a rover has no publisher of commands, time stands still.

    A new commander has its first tick one period after the first time that it receives. Until every rover got a
    command, the clock therefore advances without physics; the physics start with the next tick.
    """

    def __init__(
        self,
        node: Node,
        rovers: Sequence[SimulatedRover],
        renderer: Renderer,
        overview: Overview,
        rate_hz: float,
        stopping: threading.Event,
    ) -> None:
        self._logger = node.get_logger()
        if not confirms_arrival():
            self._logger.warning(
                f"{middleware()} confirms no arrival: in lockstep, readings may come after their tick; use "
                "rmw_fastrtps_cpp"
            )
        self._rovers = rovers
        self._renderer = renderer
        self._overview = overview
        self._rate_hz = rate_hz
        self._stopping = stopping
        self._clock = node.create_publisher(Clock, "/clock", RELIABLE_QOS)
        # The nodes that command each rover, known once each rover got a command; None while there is a new one.
        self._commanders: list[frozenset[bytes]] | None = None
        # The same rounding as in the node, so that its deadlines are the times of the ticks.
        self._period_ns = round(1e9 / rate_hz)
        self._time_ns = 0
        self._steps = 0

    def run(self, duration_s: float) -> Iterator[float]:
        """Run for a simulated duration, 0 without an end; yield the simulated time after each tick."""
        self._logger.info(
            f"{len(self._rovers)} rovers in lockstep at {self._rate_hz:g} Hz, images by {self._renderer.kind}, "
            "simulated time on /clock"
        )
        max_steps = round(duration_s * self._rate_hz) if duration_s else math.inf
        while not self._stopping.is_set() and self._steps < max_steps and self._tick():
            yield self._steps / self._rate_hz
        for rover in self._rovers:
            rover.answer_resets()

    def _tick(self) -> bool:
        """Execute one tick; False when the simulation is to stop."""
        self._time_ns += self._period_ns
        if not (self._wait_for_peers() and self._publish(self._rovers)):
            return False
        # Commands from before this tick, such as the last ones of a commander that stops, do not count.
        for rover in self._rovers:
            rover.take_command()
        self._clock.publish(Clock(clock=ros_time(self._time_ns)))
        for rover in self._rovers:
            rover.drive()
        if self._wait_for_commands():
            for rover in self._rovers:
                rover.simulate(1.0 / self._rate_hz)
            self._steps += 1
        self._overview.update(self._time_ns / 1e9, ros_time(self._time_ns))
        return True

    def _publish(self, rovers: Sequence[SimulatedRover]) -> bool:
        """Publish the sensors and wait until they have arrived; False when the simulation is to stop."""
        rovers = [rover for rover in rovers if not rover.is_paused]
        for rover in rovers:
            rover.publish_presses(self._time_ns / 1e9)
            rover.publish_sensors(self._renderer, ros_time(self._time_ns))
        for publisher in (publisher for rover in rovers for publisher in rover.publishers):
            while not publisher.wait_for_all_acked(Duration(seconds=CLOCK_RESEND_S)):
                if self._stopping.is_set():
                    return False
                self._log(f"waiting for the reliable subscribers of {publisher.topic_name} to receive it")
        return True

    def _wait_for_peers(self) -> bool:
        """Wait until every rover is observed and commanded; False when the simulation is to stop."""
        if self._commanders is not None:
            return True
        while not self._stopping.is_set():
            missing = [
                f"a subscriber of {publisher.topic_name}"
                for rover in self._rovers
                for publisher in rover.observation_publishers
                if not publisher.get_subscription_count()
            ]
            missing += [f"a publisher of {rover.name}/cmd_vel" for rover in self._rovers if not rover.is_commanded]
            if not missing:
                return True
            self._log(f"waiting for {', '.join(missing)}")
            self._stopping.wait(MAX_POLL_S)
        return False

    def _wait_for_commands(self) -> bool:
        """Wait for a command of every rover; False to go on without physics, or to stop."""
        waiting = list(self._rovers)
        start_s = time.monotonic()
        resend_s = start_s + CLOCK_RESEND_S
        while not self._stopping.is_set():
            if not self._handle_resets():
                return False
            waiting = [rover for rover in waiting if not rover.take_command()]
            if not waiting:
                return self._accept_commanders()
            now_s = time.monotonic()
            if now_s >= resend_s:
                if self._has_new_commander():
                    self._commanders = None
                    return False
                resend_s = now_s + CLOCK_RESEND_S
                self._clock.publish(Clock(clock=ros_time(self._time_ns)))
            if now_s - start_s > LOCKSTEP_LOG_PERIOD_S:
                self._log(
                    f"waiting for commands of {', '.join(rover.name for rover in waiting)}; check that their node "
                    f"follows /clock (use_sim_time) at {self._rate_hz:g} Hz"
                )
            time.sleep(min(MAX_POLL_S, max(MIN_POLL_S, (now_s - start_s) / 10)))
        return False

    def _handle_resets(self) -> bool:
        """Reset rovers on request and publish their new sensors; False when the simulation is to stop."""
        # While the clock advances without physics, a client could not tell the stamp of its new readings.
        if self._commanders is None:
            return True
        reset = [rover for rover in self._rovers if rover.take_resets()]
        if not self._publish(reset):
            return False
        for rover in reset:
            rover.answer_resets()
        return True

    def _accept_commanders(self) -> bool:
        """Return whether the commands answer this tick: those of new commanders may answer an earlier time."""
        if self._commanders is not None:
            return True
        self._stopping.wait(CLOCK_RESEND_S)
        self._commanders = [rover.commanders() for rover in self._rovers]
        return False

    def _has_new_commander(self) -> bool:
        """Return whether a rover has lost its commander or got another one, which may not have received the time."""
        before, self._commanders = self._commanders, [rover.commanders() for rover in self._rovers]
        return before is None or any(not now or now - then for now, then in zip(self._commanders, before, strict=True))

    def _log(self, text: str) -> None:
        self._logger.info(text, throttle_duration_sec=LOCKSTEP_LOG_PERIOD_S)


def simulate(
    node: Node, options: argparse.Namespace, renderer: Renderer, model: ArenaModel, stopping: threading.Event
) -> None:
    """Simulate the fleet until it is stopped or its duration is over, while another thread spins the node."""
    sensor_qos = RELIABLE_QOS if options.lockstep else qos_profile_sensor_data
    names = [f"rover_{robot}" for robot in range(options.robots)]
    publish_fixed_transforms(node, names)
    poses = PosePublisher(node)
    rovers = []
    for robot, name in enumerate(names):
        seed = None if options.seed is None else options.seed + robot
        disturbance = Disturbance(options.disturb, seed) if options.disturb else None
        rovers.append(
            SimulatedRover(
                *(node, name, Arena(model, seed), not options.clock, sensor_qos, poses, options.reset_pause_s),
                *(options.scripted, disturbance),
            )
        )
    overview = Overview(node, [rover.arena for rover in rovers], renderer)
    if options.lockstep:
        times_s = Lockstep(node, rovers, renderer, overview, options.rate_hz, stopping).run(options.duration_s)
    else:
        times_s = _run_timed(node, options, renderer, rovers, overview, stopping)
    logger = node.get_logger()
    simulated_s, logged_s, logged_simulated_s = 0.0, time.monotonic(), 0.0
    for simulated_s in times_s:
        elapsed_s = time.monotonic() - logged_s
        if elapsed_s < LOG_PERIOD_S:
            continue
        factor = (simulated_s - logged_simulated_s) / elapsed_s
        logged_s, logged_simulated_s = logged_s + elapsed_s, simulated_s
        text = f"{_presses(rovers)} presses, real-time factor {factor:.2f}"
        if not options.lockstep and factor < MIN_SPEED * options.speed:
            logger.warning(
                f"{text}: slower than --speed {options.speed:g}; lower --robots or --rate-hz, or free a processor"
            )
        else:
            logger.info(text)
    logger.info(f"ended after {simulated_s:.1f} s with {_presses(rovers)} presses")


def _presses(rovers: Sequence[SimulatedRover]) -> int:
    return sum(rover.arena.presses for rover in rovers)


def _run_timed(
    node: Node,
    options: argparse.Namespace,
    renderer: Renderer,
    rovers: Sequence[SimulatedRover],
    overview: Overview,
    stopping: threading.Event,
) -> Iterator[float]:
    """Run at the requested speed, with or without commands; yield the simulated time after each slot."""
    clock_publisher = node.create_publisher(Clock, "/clock", RELIABLE_QOS) if options.clock else None
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
                rover.drive()
        overview.update(simulated_s, stamp)
        yield simulated_s


def ros_time(nanoseconds: int) -> Time:
    """Convert nanoseconds to a ROS time."""
    return Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)


def parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the options of `rover_sim`, without those for ROS."""
    parser = argparse.ArgumentParser(
        prog="rover_sim",
        description="Simulate rovers in walled arenas on ROS 2 topics.",
        epilog="Documentation: doc/getting_started.md",
    )
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
    add("--scripted", action="store_true", help="let the scripted driver send the commands, which knows the true state")
    add(
        "--disturb",
        type=number(float, 0, 1),
        default=0.0,
        metavar="SHARE",
        help="share of the time in which rovers drive at random instead of as commanded, so that recordings show "
        "returns to the way (default 0)",
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
    with tool_node("rover_sim", arguments) as (node, stopping):
        options.clock |= node.get_parameter("use_sim_time").value
        try:
            model = ArenaModel()
            with closing(make_renderer(model, options.renderer)) as renderer, spinning(node):
                simulate(node, options, renderer, model, stopping)
        except RendererError as error:
            node.get_logger().fatal(str(error))
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
