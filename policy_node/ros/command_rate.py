# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Send commands between two ticks, from a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from policy_node.control.realtime import name_thread
from policy_node.control.timing import SteadyClock

# How long `end` waits for the thread.
END_S = 1.0


class CommandRate:
    """Calls a function at a rate for the rest of each control period.

    Nothing is called later than a period after the tick: when the tick hangs, or the process was paused or the machine
    suspended, there are no commands until the next one.

    Parameters
    ----------
    period_ns, steps
        Control period, and calls in it; the first is that of the tick.
    send
        Called from the thread; returns False when nothing is left to send before the next tick.
    prepare
        Called first in the thread, which needs the priority of the tick.
    """

    def __init__(
        self, period_ns: int, steps: int, send: Callable[[], bool], prepare: Callable[[], None] = lambda: None
    ) -> None:
        self._period_ns = period_ns
        self._steps = steps
        self._send = send
        self._prepare = prepare
        # On the monotonic clock, and on the one that goes on while the machine is suspended.
        self._began_ns = self._began_at_ns = 0
        self._began = threading.Event()
        self._stopping = threading.Event()
        self._clock = SteadyClock(self._stopping)
        self._thread = threading.Thread(target=self._run, name="command_rate", daemon=True)

    def begin(self) -> None:
        """Begin the calls of a period; called at each tick, whose own command is the first."""
        self._began_ns = time.monotonic_ns()
        self._began_at_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        if not self._thread.is_alive() and not self._stopping.is_set():
            self._thread.start()
        self._began.set()

    def end(self) -> None:
        """End the thread."""
        self._stopping.set()
        self._began.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(END_S)

    def _run(self) -> None:
        name_thread("command_rate")
        self._prepare()
        while True:
            self._began.wait()
            self._began.clear()
            if self._stopping.is_set():
                return
            began_ns, ends_ns = self._began_ns, self._began_at_ns + self._period_ns
            for step in range(1, self._steps):
                due_ns = began_ns + step * self._period_ns // self._steps
                if not self._clock.wait_until(due_ns) or self._began.is_set():
                    break
                # After a pause another node may drive the robots.
                if time.clock_gettime_ns(time.CLOCK_BOOTTIME) > ends_ns or not self._send():
                    break
