# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""A process that uses ROS and ends in order when it is told to."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import rclpy
from rclpy.signals import SignalHandlerOptions


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
    """Keep ROS open for as long as the context lasts, whatever signal comes.

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
