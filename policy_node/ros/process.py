# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Open ROS in a process, and end the process in order."""

from __future__ import annotations

import faulthandler
import math
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, TimeoutError, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import rclpy
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions

from policy_node.config.threads import start
from policy_node.ros.rclpy_internals import release_state_machine

# Far longer than destroying a node takes on a busy machine.
DESTROY_S = 10.0
# Checks, 1 s apart, before the thread counts as dead; peers drop us after 20 s.
STILL_CHECKS = 30
# Longest delay of a signal while a step runs in another thread.
POLL_S = 0.1
# Longest wait of `exit_without` for its threads.
ABANDON_S = 0.5

T = TypeVar("T")


def this_host() -> str:
    """Return the name of this computer."""
    return platform.node()


def this_process() -> str:
    """Return this process as ``HOST:PID``, which tells nodes of one name apart."""
    return f"{this_host()}:{os.getpid()}"


class StopEvent(threading.Event):
    """Asks the process to end."""

    #: Called after the event was set, from the thread that sets it; None: nothing is.
    on_set: Callable[[], None] | None = None

    def set(self) -> None:
        """Set the event."""
        super().set()
        if self.on_set is not None:
            self.on_set()


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


@contextmanager
def ros_process(arguments: Sequence[str] = ()) -> Iterator[StopEvent]:
    """Keep ROS open within the context, also after a signal.

    Parameters
    ----------
    arguments
        The command line, with its options for ROS.

    Yields
    ------
    StopEvent
        Set by SIGINT and SIGTERM, also while the main thread is in a library that does not return.
    """
    stopping = StopEvent()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def note(signal_number: int, frame: FrameType | None) -> None:
        """Do nothing: the thread below has the number from the pipe."""

    def stop_on_signals() -> None:
        # Not by the handler: the main thread may hold the lock of the event, in `wait`. And not by a thread that starts
        # at the signal: there may be no memory for it.
        while number := os.read(reading, 1):
            if signal.getsignal(number[0]) is note:
                stopping.set()
        os.close(reading)

    # Our own handlers: rclpy's would close the topics before the last messages are sent.
    with open_ros(arguments):
        threading.Thread(target=stop_on_signals, name="signals", daemon=True).start()
        for signal_number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signal_number, note)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        # Signals of a forked process are not those of this one.
        os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
        try:
            yield stopping
        finally:
            signal.set_wakeup_fd(-1)
            os.close(writing)


class Interrupted(Exception):  # noqa: N818  as KeyboardInterrupt
    """A signal came during a long step."""


def raise_if_interrupted(stopping: threading.Event | None) -> None:
    """Raise Interrupted if a signal has asked the process to end; for long loops."""
    if stopping is not None and stopping.is_set():
        raise Interrupted("the process was asked to end")


# Steps that `run_interruptibly` no longer waits for.
_abandoned: list[Future[Any]] = []


def run_interruptibly(act: Callable[[], T], stopping: threading.Event) -> T:
    """Run a step that may take long in another thread, and return its result.

    Raises
    ------
    Interrupted
        When `stopping` is set meanwhile; the step goes on in its thread, see `exit_without`.
    """
    raise_if_interrupted(stopping)
    step = start(act, "configure")
    while not stopping.is_set():
        try:
            return step.result(POLL_S)
        except TimeoutError:
            # The step may have raised it.
            if step.done():
                return step.result()
    if not step.done():
        _abandoned.append(step)
    raise Interrupted("a signal ended the wait")


def exit_without(steps: Sequence[Future[Any]], status: int) -> None:
    """End the process at once if one of these steps in threads, or one after `Interrupted`, is still running.

    At its normal end Python does not wait for daemon threads. It stops them inside a library, which may crash.
    """
    if wait([*steps, *_abandoned], ABANDON_S).not_done:
        exit_at_once(status)


def exit_at_once(status: int) -> None:
    """End the process without freeing anything."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


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
        release_state_machine(node)


@contextmanager
def tool_node(
    name: str, arguments: Sequence[str] = (), namespace: str = "", parameters: Mapping[str, Any] | None = None
) -> Iterator[tuple[Node, StopEvent]]:
    """Keep ROS and the only node of a command open within the context; yield it and the event of `ros_process`."""
    with ros_process(arguments) as stopping:
        overrides = [Parameter(key, value=value) for key, value in (parameters or {}).items()]
        node = Node(name, namespace=namespace or None, start_parameter_services=False, parameter_overrides=overrides)
        try:
            yield node, stopping
        finally:
            destroy_last_node(node)


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

    def has_stopped(self, still_checks: int = STILL_CHECKS) -> bool:
        """Return whether the thread has slept through some checks, one per second at most."""
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
        return self._unchanged >= still_checks
