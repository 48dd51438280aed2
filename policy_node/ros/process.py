# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Open ROS in a process, and end the process in order."""

from __future__ import annotations

import faulthandler
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import rclpy
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

# Far longer than destroying a node takes on a busy machine.
DESTROY_S = 10.0
# Checks, 1 s apart, before the thread counts as dead; peers drop us after 20 s.
STILL_CHECKS = 30


@contextmanager
def open_ros(
    arguments: Sequence[str] = (), signal_handlers: SignalHandlerOptions = SignalHandlerOptions.NO
) -> Iterator[None]:
    """Keep ROS open within the context. Same as the context manager `rclpy.init` returns since Kilted.

    Parameters
    ----------
    arguments
        The command line, with its options for ROS.
    signal_handlers
        Which signals close ROS at once.
    """
    rclpy.init(args=list(arguments), signal_handler_options=signal_handlers)
    try:
        yield
    finally:
        rclpy.try_shutdown()


# Set by a signal while `ros_process` is open.
_ending: threading.Event | None = None


def raise_if_ending() -> None:
    """Raise InterruptedError if SIGINT or SIGTERM has asked the process to end; for long loops."""
    if _ending is not None and _ending.is_set():
        raise InterruptedError("the process was asked to end")


@contextmanager
def ros_process(arguments: Sequence[str] = ()) -> Iterator[threading.Event]:
    """Keep ROS open within the context, also after a signal.

    Parameters
    ----------
    arguments
        The command line, with its options for ROS.

    Yields
    ------
    threading.Event
        Set by SIGINT and SIGTERM; ask it now and then, as a handler runs between two steps of the main thread.
    """
    global _ending
    stopping = _ending = threading.Event()

    def stop(signal_number: int, frame: FrameType | None) -> None:
        # Set it from another thread: the interrupted one may hold the lock of the event, in `wait`.
        threading.Thread(target=stopping.set, name="stop").start()

    # Our own handlers: rclpy's would close the topics before the last messages are sent.
    with open_ros(arguments):
        for signal_number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signal_number, stop)
        yield stopping


@contextmanager
def end_process_if_destruction_hangs() -> Iterator[None]:
    """End the process with status 1 and print the stack of each thread if the context takes longer than `DESTROY_S`.

    Publishers, subscriptions and nodes are destroyed in this context. Fast DDS then waits for its threads, which may
    never answer, see doc/development.md. rclpy holds the GIL meanwhile, so no other Python thread and no signal handler
    runs. Send safe commands and save results before: nothing else runs if the process is ended.
    """
    # Needs a file descriptor, which a replaced `sys.stderr` may not have.
    faulthandler.dump_traceback_later(DESTROY_S, exit=True, file=sys.__stderr__ or 2)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def destroy_last_node(node: Node) -> None:
    """Destroy the last node of the process; end the process after `DESTROY_S` if that hangs.

    Parameters
    ----------
    node
        The node. Send safe commands and save results before: nothing else runs if the process is ended.
    """
    with end_process_if_destruction_hangs():
        node.destroy_node()
        # The state machine holds the rcl node alive, and with it the participant, after `destroy_node`.
        vars(node).pop("_state_machine", None)


class EventThreadMonitor:
    """Detects that the event thread of Fast DDS stands still, after which no message arrives any more.

    The thread wakes at least once per announcement of the participant, by default every 3 s. Other middlewares and
    systems without `/proc` have no such thread.
    """

    def __init__(self) -> None:
        self._status: Path | None = None
        for comm in Path("/proc/self/task").glob("*/comm"):
            # Other threads may end meanwhile.
            with suppress(OSError):
                if comm.read_text().startswith("dds.ev"):
                    self._status = comm.parent / "status"
        self._last_check_s = -math.inf
        self._last_switches: list[str] = []
        self._unchanged = 0

    def has_stopped(self) -> bool:
        """Return whether the thread has slept through `STILL_CHECKS` checks, one per second at most."""
        now_s = time.monotonic()
        if self._status is None or now_s - self._last_check_s < 1.0:
            return False
        self._last_check_s = now_s
        try:
            lines = self._status.read_text().splitlines()
        except OSError:  # the thread has ended with its participant
            self._status = None
            return False
        switches = [line for line in lines if "ctxt_switches" in line]
        # A thread that waits for a processor is not asleep. Count checks, not time: the whole process may be paused.
        is_asleep = any(line.startswith("State:\tS") for line in lines)
        self._unchanged = self._unchanged + 1 if is_asleep and switches == self._last_switches else 0
        self._last_switches = switches
        return self._unchanged >= STILL_CHECKS
