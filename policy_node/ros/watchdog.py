# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Detect a tick that hangs, from another thread."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from rclpy.logging import RcutilsLogger

# Log at most one hanging tick per REPEAT_S, unless it hangs for LONG_S.
REPEAT_S = 60.0
LONG_S = 5.0
# How long `end` waits for commands that the watchdog is sending.
END_S = 1.0


class Watchdog:
    """Acts periodically while a tick takes longer than it may.

    The watchdog runs only while the tick releases the GIL. Python code does, and so do PyTorch (eager, TorchScript,
    exported programs) and onnxruntime while they compute. A C function that keeps the GIL, or publishing that blocks,
    stops the watchdog as well; receivers then see that the deadline of the command topics has passed.

    Between two ticks, and while simulated time stands still, nothing is watched. The thread wakes once per timeout, and
    never wakes the tick thread.

    Parameters
    ----------
    timeout_s, period_s
        Longest duration of a tick, and the period of `act` while it hangs.
    act
        Called from the watchdog's thread.
    logger
        Logs when a tick begins to hang, and when it returns.
    prepare
        Called first in the thread, which needs the priority of the thread that it watches.
    slow_tick_reason
        Returns why a long tick is no fault; empty if it is one. Only the first reason is logged, as a warning in place
        of the error.
    """

    def __init__(
        self,
        timeout_s: float,
        period_s: float,
        act: Callable[[], None],
        logger: RcutilsLogger,
        prepare: Callable[[], None] = lambda: None,
        slow_tick_reason: Callable[[], str] = lambda: "",
    ) -> None:
        self._timeout_s = timeout_s
        self._period_s = period_s
        self._act = act
        self._logger = logger
        self._prepare = prepare
        self._slow_tick_reason = slow_tick_reason
        self._began_s: float | None = None
        # Start of the last tick that was logged to hang, the time of that line, and the hanging ticks since.
        self._logged_began_s: float | None = None
        self._logged_s = -math.inf
        self._unlogged = 0
        self._ended = False
        # Set when the thread is to end, or to use another timeout.
        self._woken = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    @property
    def hanging_since_s(self) -> float | None:
        """Start of the current tick on the monotonic clock, if it takes longer than it may."""
        began_s = self._began_s
        return began_s if began_s is not None and time.monotonic() - began_s >= self._timeout_s else None

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def change_timeout(self, timeout_s: float) -> None:
        """Use another timeout from now on, also for the current tick."""
        self._timeout_s = timeout_s
        self._woken.set()

    def begin_tick(self) -> None:
        """Start to watch a tick; called by the tick thread."""
        self._began_s = time.monotonic()

    def end_tick(self) -> None:
        """End watching the tick; called by the tick thread."""
        self._began_s = None

    def end(self) -> None:
        """End the thread; `act` is not called after this returns, unless it hangs."""
        self._ended = True
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join(END_S)

    def _run(self) -> None:
        self._prepare()
        hanging_s: float | None = None
        reason = ""
        wait_s = self._timeout_s
        while True:
            self._woken.wait(wait_s)
            self._woken.clear()
            if self._ended:
                return
            began_s = self._began_s
            now_s = time.monotonic()
            if hanging_s is not None and began_s != hanging_s:
                if not reason:
                    self._note_return(now_s, hanging_s)
                hanging_s = None
            # A tick that begins after this check has ended, or is seen in time, at the next one.
            age_s = 0.0 if began_s is None else now_s - began_s
            if age_s < self._timeout_s:
                wait_s = self._timeout_s - age_s
                continue
            wait_s = self._period_s
            if hanging_s is None:
                hanging_s = began_s
                reason = self._slow_tick_reason()
                if reason:
                    self._logger.warning(reason, once=True)
            if not reason and began_s is not None:
                self._log_hang(now_s, began_s)
            try:
                self._act()
            except Exception as error:  # the next attempt may succeed
                self._logger.error(
                    f"the watchdog failed to send safe commands: {type(error).__name__}: {error}",
                    throttle_duration_sec=END_S,
                )

    def _log_hang(self, now_s: float, began_s: float) -> None:
        """Log that the tick hangs, once for a tick, and once in `REPEAT_S` unless it hangs for `LONG_S`."""
        if began_s == self._logged_began_s or (now_s - self._logged_s < REPEAT_S and now_s - began_s < LONG_S):
            return
        others = f"; {self._unlogged} other ticks hung since the last such line" if self._unlogged else ""
        self._logged_began_s, self._logged_s, self._unlogged = began_s, now_s, 0
        self._logger.error(
            f"the tick hangs: it takes longer than watchdog.timeout_s, {self._timeout_s:.3f} s; the robots get their "
            f"safe commands until it returns; if that happens often, relieve the machine, choose a faster policy, or "
            f"raise watchdog.timeout_s{others}"
        )

    def _note_return(self, now_s: float, began_s: float) -> None:
        """Log that a tick returned if it was logged to hang, and count it otherwise."""
        if began_s == self._logged_began_s:
            self._logger.warning(f"the tick returned after {now_s - began_s:.1f} s")
        else:
            self._unlogged += 1
