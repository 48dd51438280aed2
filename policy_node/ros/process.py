# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Open ROS in a process, and end the process in order."""

from __future__ import annotations

import faulthandler
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import rclpy
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

# Far longer than destroying a node takes on a busy machine.
DESTROY_S = 10.0


@contextmanager
def open_ros(
    arguments: Sequence[str] = (), signal_handlers: SignalHandlerOptions = SignalHandlerOptions.NO
) -> Iterator[None]:
    """Keep ROS open for as long as the context lasts, as what `rclpy.init` returns does from Kilted on.

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
    stopping = threading.Event()

    def stop(signal_number: int, frame: FrameType | None) -> None:
        # From another thread: the interrupted one may hold the lock of the event, as it does now and then in `wait`.
        threading.Thread(target=stopping.set, name="stop").start()

    # Our own handlers: rclpy's would close the topics before the last messages are sent.
    with open_ros(arguments):
        for signal_number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signal_number, stop)
        yield stopping


def destroy_last_node(node: Node) -> None:
    """Destroy the last node of the process; end the process after `DESTROY_S` if that hangs.

    Destroying the last node joins the shared-memory threads of Fast DDS. The join never returns if another process was
    killed less than a second before, while it wrote to the shared memory of this one. rclpy holds the GIL meanwhile, so
    no other Python thread and no signal handler runs. The process then ends with status 1 and prints the stack of
    each thread.

    Parameters
    ----------
    node
        The node. Send safe commands and save results before: nothing else runs if the process is ended.
    """
    # Needs a file descriptor, which a replaced `sys.stderr` may not have.
    faulthandler.dump_traceback_later(DESTROY_S, exit=True, file=sys.__stderr__ or 2)
    try:
        node.destroy_node()
    finally:
        faulthandler.cancel_dump_traceback_later()
