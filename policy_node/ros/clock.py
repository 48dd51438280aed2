# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Wait on simulated ROS time, which may start late, pause or jump back."""

from __future__ import annotations

import threading

from rclpy.clock import Clock, JumpThreshold, TimeJump
from rclpy.duration import Duration

from policy_node.control.timing import POLL_S


class SimulatedClock:
    """Waits on ROS time, which the `/clock` topic drives.

    Parameters
    ----------
    clock
        The node's clock, with `use_sim_time` set. An executor must spin the node.
    stopping
        Set to end every wait.
    """

    def __init__(self, clock: Clock, stopping: threading.Event) -> None:
        self._clock = clock
        self._stopping = stopping
        self._moved = threading.Condition()
        self._jumped_back = False
        threshold = JumpThreshold(
            min_forward=Duration(nanoseconds=1), min_backward=Duration(nanoseconds=-1), on_clock_change=True
        )
        self._handle = clock.create_jump_callback(threshold, post_callback=self._on_jump)

    def _on_jump(self, jump: TimeJump) -> None:
        with self._moved:
            if jump.delta.nanoseconds < 0:
                self._jumped_back = True
            self._moved.notify_all()

    def now_ns(self) -> int:
        """Return the current ROS time; zero before the first message on `/clock`."""
        return self._clock.now().nanoseconds

    def wait_until(self, deadline_ns: int) -> bool:
        """Wait until ROS time has reached the deadline.

        Returns
        -------
        bool
            False when time jumped back or the wait was ended; the deadline is then invalid.
        """
        with self._moved:
            while not self._stopping.is_set():
                if self._jumped_back:
                    self._jumped_back = False
                    return False
                if self.now_ns() >= deadline_ns:
                    return True
                self._moved.wait(POLL_S)
        return False

    def close(self) -> None:
        """Stop listening to the clock."""
        self._handle.unregister()
