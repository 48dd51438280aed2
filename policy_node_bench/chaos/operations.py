# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Faults of the node's operation: swaps, activations, a full disk, and second nodes."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import SetParameters
from rclpy.client import Client
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.task import Future

from policy_node.cli.child_process import Child
from policy_node_bench.chaos.faults import Fault, Planned
from policy_node_bench.chaos.judge import Judge
from policy_node_bench.chaos.observer import Observer
from policy_node_bench.chaos.policy import POLICIES, SECOND_POLICY, save_policy
from policy_node_bench.harness.observer import START_TIMEOUT_S
from policy_node_bench.harness.robots import robot_name

RECORDINGS = "recordings"
# What the error of a node without HOME must name.
HOME_REMEDIES = ("HOME", "ROS_LOG_DIR")
# The disk is full after about this time of recording; diagnostics must show it before the other one.
FILL_S = 3.0
FULL_S = 30.0
# Bytes of a robot's readings and command in a recording.
_TICK_BYTES = 4500


def policy_file(folder: Path, number: int) -> Path:
    """Return the file of the policy with a number."""
    return folder / f"policy_{number}.pt"


def small_disk(folder: Path, robots: int, rate_hz: float) -> list[str]:
    """Return the command that limits the disk of a process that records in a folder.

    It mounts a small file system in a mount namespace of the process, or limits the size of files where that is not
    allowed.
    """
    folder.mkdir()
    size = round(robots * rate_hz * _TICK_BYTES * FILL_S)
    mount = f"mount -t tmpfs -o size={size} tmpfs {folder}"
    can_mount = os.geteuid() == 0 and os.system(f"unshare -m {mount} 2>/dev/null") == 0
    return ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh"] if can_mount else ["prlimit", f"--fsize={size}"]


Steps = Generator[None, None, Any]


class Operator:
    """Call the services of a node."""

    def __init__(self, node_name: str) -> None:
        self._node = rclpy.create_node("policy_chaos_operator")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._parameters: Client = self._node.create_client(SetParameters, f"/{node_name}/set_parameters")
        self._state: Client = self._node.create_client(ChangeState, f"/{node_name}/change_state")

    def close(self) -> None:
        """Leave ROS."""
        self._executor.shutdown()
        self._node.destroy_node()

    def swap(self, path: Path) -> Steps:
        """Set `policy.path`, and return the result."""
        parameter = Parameter("policy.path", value=str(path)).to_parameter_msg()
        response = yield from self._answer(self._parameters.call_async(SetParameters.Request(parameters=[parameter])))
        return response.results[0]

    def change(self, transition: int) -> Steps:
        """Change the state, and return whether it succeeded."""
        request = ChangeState.Request(transition=Transition(id=transition))
        response = yield from self._answer(self._state.call_async(request))
        return response.success

    def _answer(self, future: Future) -> Steps:
        while not future.done():
            self._executor.spin_once(timeout_sec=0.0)
            yield
        return future.result()


class Operations:
    """Cause the faults of the node's operation.

    The methods named after the faults are generators: they set `begun_s` and `ended_s` of the fault, and are continued
    every few milliseconds.

    Parameters
    ----------
    node_name
        Name of the node under test.
    robots
        Number of its robots.
    folder
        Folder with its policies, and for the logs of second nodes.
    observer
        Its time and what it has received is used.
    start_second
        Starts a second node of a name for the same robots, behind a command.
    """

    def __init__(
        self,
        node_name: str,
        robots: int,
        folder: Path,
        observer: Observer,
        start_second: Callable[[str, list[str]], Child],
    ) -> None:
        self.operator = Operator(node_name)
        self._node_name = node_name
        self._robots = [robot_name(robot) for robot in range(robots)]
        self._folder = folder
        self._observer = observer
        self._start_second = start_second
        self._number = 0  # of the current policy
        self._seconds = 0
        self._full_by_s = np.inf
        self.full_disks = 0  # recordings that ended because of a full disk
        for number in POLICIES:
            save_policy(policy_file(folder, number), number)
        whole = policy_file(folder, 0).read_bytes()
        (folder / "damaged.pt").write_bytes(whole[: len(whole) // 2])
        save_policy(policy_file(folder, SECOND_POLICY), SECOND_POLICY)

    def swapped(self, fault: Fault, planned: Planned, judge: Judge, node: Child) -> Steps:
        """Swap the policy; the new one gives every command after the answer."""
        new = 1 - self._number
        # Until the answer, both may drive.
        judge.expect_policies(POLICIES, fault.begun_s)
        result = yield from self.operator.swap(policy_file(self._folder, new))
        fault.ended_s = self._observer.now_s()
        if result.successful:
            self._number = new
        else:
            judge.note("undetected", None, fault.ended_s, fault="swapped", found=result.reason)
        judge.expect_policies([self._number], fault.ended_s)

    def swap_refused(self, fault: Fault, planned: Planned, judge: Judge, node: Child) -> Steps:
        """Swap to a file that cannot be loaded; the policy stays."""
        result = yield from self.operator.swap(self._folder / "damaged.pt")
        fault.ended_s = self._observer.now_s()
        if result.successful:
            judge.note("undetected", None, fault.ended_s, fault="swap_refused", found="the swap succeeded")

    def reactivated(self, fault: Fault, planned: Planned, judge: Judge, node: Child) -> Steps:
        """Deactivate and activate the node; in half of the cases, empty the disk of its recordings before."""
        succeeded = yield from self.operator.change(Transition.TRANSITION_DEACTIVATE)
        if planned.size < 0.5:
            # The file system of the node, in which the small disk is mounted.
            for recording in Path(f"/proc/{node.pid}/root{self._folder / RECORDINGS}").iterdir():
                shutil.rmtree(recording)
        self._observer.statuses.clear()
        succeeded &= yield from self.operator.change(Transition.TRANSITION_ACTIVATE)
        fault.ended_s = self._observer.now_s()
        self._full_by_s = fault.ended_s + FULL_S
        if not succeeded:
            judge.note("undetected", None, fault.ended_s, fault="reactivated", found="a transition failed")

    @property
    def fills_disk(self) -> bool:
        """Whether the recording has not yet filled the disk since the last activation."""
        return bool(np.isfinite(self._full_by_s))

    def check_disk(self, judge: Judge, now_s: float) -> None:
        """Judge whether diagnostics show a recording that ended because its disk is full."""
        if self.fills_disk and self._observer.value(f"{self._node_name}: control", "record_error"):
            self.full_disks += 1
        elif now_s > self._full_by_s:
            judge.note("undetected", None, now_s, fault="reactivated", found="no report of the full disk")
        else:
            return
        self._full_by_s = np.inf

    def second_node(self, fault: Fault, planned: Planned, judge: Judge, node: Child) -> Steps:
        """Start a second node, wait until it leaves every robot to the first, and end it with SIGTERM or SIGKILL."""
        name = self._next_name()
        second = self._start_second(name, [])
        try:
            while not self._stands_by(name):
                second.check()
                yield
            yield from self._pause(planned.duration_s)
            stop = second.stop if planned.size < 0.5 else second.kill
            # In another thread: the end of a node takes seconds on a busy machine.
            ending = threading.Thread(target=stop)
            ending.start()
            while ending.is_alive():
                yield
        finally:
            second.kill()
        fault.ended_s = self._observer.now_s()
        if name not in node.log.read_text(errors="replace"):
            judge.note("undetected", None, fault.ended_s, fault="second_node", found="the first node does not name it")

    def no_home(self, fault: Fault, planned: Planned, judge: Judge, node: Child) -> Steps:
        """Start a second node without HOME; it must run, or end with an error that names a remedy."""
        name = self._next_name()
        second = self._start_second(name, ["env", "-u", "HOME"])
        try:
            while second.status is None and not self._stands_by(name):
                yield
            ended = second.status is not None
        finally:
            second.kill()
        fault.ended_s = self._observer.now_s()
        if ended and (not second.status or not any(remedy in second.tail() for remedy in HOME_REMEDIES)):
            found = f"status {second.status}: {second.tail()}"
            judge.note("undetected", None, fault.ended_s, fault="no_home", found=found)

    def _next_name(self) -> str:
        self._seconds += 1
        return f"policy_chaos_second_{self._seconds}"

    def _stands_by(self, name: str) -> bool:
        """Whether a node reports that it leaves every robot to the node under test."""
        reasons = [self._observer.value(f"{name}: {robot}", "reason") for robot in self._robots]
        return all(self._node_name in reason for reason in reasons)

    def _pause(self, seconds: float) -> Steps:
        end_s = self._observer.now_s() + seconds
        while self._observer.now_s() < end_s:
            yield


class Operation:
    """One fault of the node's operation from its begin to its end, with the interface of `Injection`."""

    #: Longest time to the end of its cause: a node may start meanwhile.
    patience_s = START_TIMEOUT_S

    def __init__(self, planned: Planned, fault: Fault, operations: Operations, judge: Judge, node: Child) -> None:
        self.planned = planned
        self.fault = fault
        fault.begun_s = fault.asked_s
        self._steps: Steps = getattr(operations, planned.kind.name)(fault, planned, judge, node)

    def step(self, now_s: float) -> None:
        """Continue."""
        next(self._steps, None)

    def on_published(self, message: object) -> None:
        """Ignore a message of a robot."""

    def close(self) -> None:
        """End what was started."""
        self._steps.close()
