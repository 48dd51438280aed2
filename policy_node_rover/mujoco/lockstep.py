# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Advance simulated time only when every rover has its command, so that a run depends on its seed alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from builtin_interfaces.msg import Time
from rclpy.duration import Duration
from rclpy.node import Node
from rosgraph_msgs.msg import Clock

from policy_node_rover.mujoco.rendering import Renderer
from policy_node_rover.mujoco.simulated_rover import RELIABLE_QOS, Overview, SimulatedRover

# Subscribers of /clock are mostly best effort: a time that may be lost is sent again after this.
CLOCK_RESEND_S = 0.25
LOG_PERIOD_S = 5.0
# The polling period starts short and grows with the time waited.
MIN_POLL_S = 0.0001
MAX_POLL_S = 0.002


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
        self.steps = 0

    def tick(self) -> bool:
        """Execute one tick; False when the simulation is to stop."""
        self._time_ns += self._period_ns
        if not (self._wait_for_peers() and self._publish(self._rovers)):
            return False
        # Commands from before this tick, such as the last ones of a commander that stops, do not count.
        self._without_command(self._rovers)
        self._clock.publish(Clock(clock=ros_time(self._time_ns)))
        if self._wait_for_commands():
            for rover in self._rovers:
                rover.simulate(1.0 / self._rate_hz)
            self.steps += 1
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
            waiting = self._without_command(waiting)
            if not waiting:
                return self._accept_commanders()
            now_s = time.monotonic()
            if now_s >= resend_s:
                if self._has_new_commander():
                    self._commanders = None
                    return False
                resend_s = now_s + CLOCK_RESEND_S
                self._clock.publish(Clock(clock=ros_time(self._time_ns)))
            if now_s - start_s > LOG_PERIOD_S:
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
        if reset:
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
        if before is None:
            return True
        return any(not now or now - then for now, then in zip(self._commanders, before, strict=True))

    @staticmethod
    def _without_command(rovers: Sequence[SimulatedRover]) -> list[SimulatedRover]:
        """Take the commands that have arrived; return the rovers without one."""
        return [rover for rover in rovers if not rover.take_command()]

    def _log(self, text: str) -> None:
        self._logger.info(text, throttle_duration_sec=LOG_PERIOD_S)


def ros_time(nanoseconds: int) -> Time:
    """Convert nanoseconds to a ROS time."""
    return Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)
