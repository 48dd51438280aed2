# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Run the node: read the arguments, start by itself, serve callbacks, and end in order."""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import pairwise

import cv2
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.utilities import remove_ros_args

from policy_node.config.files import check_file
from policy_node.config.package_files import share_path
from policy_node.config.parameter_file import MAX_BYTES
from policy_node.config.warning import warnings_to
from policy_node.control.memory_reserve import MemoryMonitor
from policy_node.control.realtime import shorten_slice
from policy_node.ros.node import PolicyNode
from policy_node.ros.process import EventThreadMonitor, destroy_last_node, exit_at_once, exit_without, ros_process

# Longest wait for a callback; None: the timers of the node end it, as a signal does. Each wake-up takes time from the
# tick thread.
SPIN_TIMEOUT_S: float | None = None
# Repeated failures must not take time from the tick.
PAUSE_S = 0.25
# Time in which requests that came during the first configure are served, before the node activates by itself.
REQUESTS_S = 0.05
EXITS = "exit_on_failure is true: the process ends with status 1"
EVENT_THREAD_STOPPED = (
    "Fast DDS stands still: no more messages reach this process. The node makes every robot safe and ends with status "
    "1; start it again, as respawn:=true of the launch files does"
)
MEMORY_EXHAUSTED = (
    "the memory is exhausted: this process gets no more. The node stops and ends with status 1; free "
    "memory or raise its limit (ulimit -v), then start it again, as respawn:=true of the launch files does"
)
# Remedies by the text of the error for arguments and parameter files that ROS cannot read.
_START_REMEDIES = {
    "Failed to get logging directory": "ROS writes its log below the home folder: set HOME, or ROS_LOG_DIR to a folder "
    "that this user may write, such as ROS_LOG_DIR=/tmp/ros_log",
    "Error opening YAML file": "give --params-file the path of a file that exists",
    "should be of same type": "give all numbers of a list a decimal point, or none",
    "parsing a event": "correct the YAML: no tabs, and in {…} quotes around a value with a colon, as 'package://…'",
    "ros__parameters": "begin the file with the lines `/**:` and `  ros__parameters:`, the parameters below them",
    "file system did not answer": "mount it again, or copy the file to a local disk",
    "not a regular file": "give --params-file the path of a YAML file",
    "bytes, allowed are": "give --params-file the path of a YAML file",
}


def _serve(executor: SingleThreadedExecutor, node: PolicyNode, timeout_s: float | None) -> None:
    """Run one callback; log its exception, and drive on."""
    try:
        executor.spin_once(timeout_sec=timeout_s)
    except Exception as error:
        node.get_logger().error(f"a callback failed: {type(error).__name__}: {error}")
        time.sleep(PAUSE_S)


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of `policy_node`, without its arguments for ROS."""
    return argparse.ArgumentParser(
        prog="policy_node",
        usage="policy_node --ros-args --params-file FILE [-p NAME:=VALUE] [-r __ns:=NAMESPACE]",
        description="One learned policy drives a fleet; ROS parameters set everything, as in "
        f"{share_path('config', 'rover.yaml')}. Commands, each with --help: policy_node init (write a parameter file "
        "for a policy), check (check one, and the topics of running robots), simulate (publish the sensors of one).",
        epilog="Arguments for ROS come after --ros-args. Documentation: doc/getting_started.md",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the node until it gets SIGINT or SIGTERM, then make every robot safe."""
    arguments = sys.argv if arguments is None else ["policy_node", *arguments]
    # The threads of OpenCV spin while they wait: a single one resizes a camera image in two thirds of the CPU time.
    cv2.setNumThreads(1)
    shorten_slice()
    with ExitStack() as stack:
        try:
            _check_parameter_files(arguments)
            make_parser().parse_args(remove_ros_args(arguments)[1:])
            stopping = stack.enter_context(ros_process(arguments))
            node = PolicyNode(stopping)
        except Exception as error:
            # ROS reads the file before there is a node that could stay alive.
            remedies = (remedy for text, remedy in _START_REMEDIES.items() if text in str(error))
            print(f"policy_node cannot start: {error}\n{next(remedies, 'correct the ROS arguments')}", file=sys.stderr)
            return 1
        stack.callback(destroy_last_node, node)
        stack.enter_context(warnings_to(node.get_logger().warning))
        executor = SingleThreadedExecutor()
        stack.callback(executor.shutdown)
        executor.add_node(node)
        stopping.on_set = node.create_guard_condition(lambda: None).trigger
        try:
            status = _drive(executor, node, stopping)
        finally:
            stopping.on_set = None
            stopped = _try(node, node.stop)
    status = status if stopped else 1
    exit_without(node.parameter_changes.threads, status)
    return status


def _try(node: PolicyNode, stop: Callable[[], None]) -> bool:
    """Stop the node; log an exception, and return whether there was none."""
    try:
        stop()
    except Exception as error:
        node.get_logger().error(f"stopping failed: {type(error).__name__}: {error}; make sure that every robot is safe")
        return False
    return True


def _check_parameter_files(arguments: Sequence[str]) -> None:
    """Refuse parameter files that would block ROS, which reads them before there is a node; raises OSError."""
    for option, path in pairwise(arguments):
        if option == "--params-file":
            try:
                check_file(path, MAX_BYTES)
            except FileNotFoundError:
                pass  # ROS says so
            except OSError as error:
                raise OSError(f"--params-file {path}: {error.strerror}") from error


def _drive(executor: SingleThreadedExecutor, node: PolicyNode, stopping: threading.Event) -> int:
    """Configure and activate the node if it starts by itself, serve its callbacks until it ends; return the status."""
    event_thread, memory = EventThreadMonitor(), MemoryMonitor()
    if node.autostart and node.trigger_configure() == TransitionCallbackReturn.SUCCESS:
        # Requests of an operator that came meanwhile are served first.
        requests_until_s = time.monotonic() + REQUESTS_S
        while time.monotonic() < requests_until_s:
            _serve(executor, node, 0.0)
        if not stopping.is_set():
            node.trigger_activate()
    while not stopping.is_set():
        _serve(executor, node, SPIN_TIMEOUT_S)
        if node.has_failed and node.exit_on_failure:
            node.get_logger().fatal(EXITS)
            return 1
        if node.is_configured and event_thread.has_stopped():
            node.get_logger().fatal(EVENT_THREAD_STOPPED)
            return 1
        if memory.is_exhausted():
            # The log line may need memory, too: the robots come first. Destroying topics would need more of it.
            _try(node, node.make_safe)
            node.get_logger().fatal(MEMORY_EXHAUSTED)
            exit_at_once(1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
