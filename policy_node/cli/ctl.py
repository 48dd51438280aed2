# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Operate running policy nodes from a terminal without the `ros2` command (`policy_ctl`)."""

from __future__ import annotations

import argparse
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import GetParameters, SetParametersAtomically
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from rclpy.utilities import remove_ros_args
from rich.console import Console
from std_msgs.msg import String
from std_srvs.srv import Trigger

from policy_node.cli.monitor import FILE_WIDTH, DiagnosticsView, as_table
from policy_node.cli.options import number
from policy_node.config.schema import named
from policy_node.ros.process import destroy_last_node, ros_process
from policy_node.ros.rclpy_internals import poll_topic, spinning

# Services that all policy nodes have, and no other node has all of.
SERVICES = {
    "stop": "std_srvs/srv/Trigger",
    "reset": "std_srvs/srv/Trigger",
    "change_state": "lifecycle_msgs/srv/ChangeState",
}
OPERATIONS = ("stop", "resume", "reset")
# Number of each transition, and the state after it.
TRANSITIONS = {
    "configure": (Transition.TRANSITION_CONFIGURE, "inactive"),
    "activate": (Transition.TRANSITION_ACTIVATE, "active"),
    "deactivate": (Transition.TRANSITION_DEACTIVATE, "inactive"),
    "cleanup": (Transition.TRANSITION_CLEANUP, "unconfigured"),
}
LOOK_PERIOD_S = 0.05
# Time in which further nodes may be discovered after the first.
SETTLE_S = 0.5
# Nodes report every second.
REPORT_S = 2.5


class ControlError(Exception):
    """A command could not be given; the text says why and what to do."""


class Control:
    """Finds policy nodes and gives them commands.

    Parameters
    ----------
    node
        Own node, spun by another thread.
    stopping
        Ends every wait.
    timeout_s
        Longest wait for a node to appear, and for an answer.
    """

    def __init__(self, node: Node, stopping: threading.Event, timeout_s: float) -> None:
        self._node = node
        self._stopping = stopping
        self._timeout_s = timeout_s
        _, self._take_report = poll_topic(node, DiagnosticArray, "/diagnostics", QoSProfile(depth=100))

    def find(self, wanted: str = "") -> list[str]:
        """Return the full names of the nodes, or only `wanted`; raises ControlError if there is none."""
        began_s = time.monotonic()
        found: list[str] = []
        found_s = began_s
        while not self._stopping.is_set():
            now_s = time.monotonic()
            names = [name for name in self._nodes() if not wanted or name == wanted]
            if names != found:
                found, found_s = names, now_s
            if found and (wanted or now_s - found_s >= SETTLE_S):
                return found
            if now_s - began_s >= self._timeout_s:
                break
            self._stopping.wait(LOOK_PERIOD_S)
        others = ", ".join(self._nodes())
        if others:
            raise ControlError(f"there is no policy node {wanted}; found are {others}")
        domain = os.environ.get("ROS_DOMAIN_ID", "0 (not set)")
        reach = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET (not set)")
        raise ControlError(
            f"no policy node was found within {self._timeout_s:g} s with ROS_DOMAIN_ID {domain} and "
            f"ROS_AUTOMATIC_DISCOVERY_RANGE {reach}: start the node, or set both variables here as for the node"
        )

    def _nodes(self) -> list[str]:
        offered = dict(self._node.get_service_names_and_types())
        return sorted(
            name.removesuffix("/stop")
            for name in offered
            if name.endswith("/stop")
            and all(kind in offered.get(name[: -len("stop")] + each, ()) for each, kind in SERVICES.items())
        )

    def operate(self, name: str, operation: str) -> tuple[bool, str]:
        """Call `~/stop`, `~/resume` or `~/reset` of a node; return success and the answer."""
        response = self._call(Trigger, f"{name}/{operation}", Trigger.Request())
        return response.success, response.message

    def operate_robot(self, name: str, operation: str, robot: str) -> tuple[bool, str]:
        """Send the name of a robot on the topic `~/stop`, `~/resume` or `~/reset`; return whether the node has it."""
        request = GetParameters.Request(names=["robots"])
        response = self._call(GetParameters, f"{name}/get_parameters", request)
        robots = [each.strip("/") for each in response.values[0].string_array_value]
        if robot.strip("/") not in robots:
            return False, f"found {robot!r}, which is no robot of this node; allowed are {named(robots)}"
        publisher = self._node.create_publisher(String, f"{name}/{operation}", 10)
        self._wait(lambda: publisher.get_subscription_count() > 0, f"{name}/{operation} has no subscriber")
        publisher.publish(String(data=robot))
        arrived = publisher.wait_for_all_acked(Duration(seconds=self._timeout_s))
        return arrived, f"{operation} of {robot}: {'the node has it' if arrived else 'the node did not confirm it'}"

    def swap(self, name: str, changes: dict[str, Any]) -> tuple[bool, str]:
        """Set the parameters of a policy; return success and why they were refused."""
        parameters = [Parameter(key, value=value).to_parameter_msg() for key, value in changes.items()]
        request = SetParametersAtomically.Request(parameters=parameters)
        # Loading a policy may take long.
        response = self._call(SetParametersAtomically, f"{name}/set_parameters_atomically", request, math.inf)
        policy = changes["policy.path"]
        return response.result.successful, response.result.reason or f"the policy is now {policy}"

    def change(self, name: str, transition: str) -> tuple[bool, str]:
        """Request a transition of the lifecycle; return success, and what the node reports of itself then."""
        wanted, state = TRANSITIONS[transition]
        request = ChangeState.Request(transition=Transition(id=wanted))
        response = self._call(ChangeState, f"{name}/change_state", request, math.inf)
        if response.success:
            return True, self._report(name, state) or f"{transition}: done"
        return False, f"{transition} failed, or is not possible now: {self._report(name) or 'see the log of the node'}"

    def _report(self, name: str, state: str = "") -> str:
        """Return what a node reports of itself, in a state of its lifecycle or in any; empty if nothing in time."""
        wanted, newest = f"{name.lstrip('/')}: control", ""
        until_s = time.monotonic() + REPORT_S
        while time.monotonic() < until_s and not newest and not self._stopping.is_set():
            for message, _ in iter(self._take_report, None):
                for status in message.status:
                    values = {pair.key: pair.value for pair in status.values}
                    if status.name == wanted and (not state or values.get("lifecycle_state") == state):
                        newest = status.message
            self._stopping.wait(LOOK_PERIOD_S)
        return newest

    def _call(self, kind: Any, name: str, request: Any, timeout_s: float | None = None) -> Any:
        client: Any = self._node.create_client(kind, name)
        self._wait(client.service_is_ready, f"{name} does not answer")
        future = client.call_async(request)
        self._wait(future.done, f"{name} did not answer", timeout_s)
        return future.result()

    def _wait(self, condition: Callable[[], bool], problem: str, timeout_s: float | None = None) -> None:
        until_s = time.monotonic() + (self._timeout_s if timeout_s is None else timeout_s)
        while not condition():
            if self._stopping.is_set():
                raise ControlError("interrupted")
            if time.monotonic() > until_s:
                raise ControlError(f"{problem} within {self._timeout_s:g} s; see whether the node still runs")
            self._stopping.wait(LOOK_PERIOD_S)


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of `policy_ctl`."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--node", default="", help="full name, such as /policy_node; needed if there are several nodes")
    shared.add_argument("--all", action="store_true", help="give the command to every policy node that is found")
    shared.add_argument(
        "--timeout-s",
        type=number(float, 0.1, 3600),
        default=5.0,
        help="longest wait for the node and its answer (default 5)",
    )
    parser = argparse.ArgumentParser(
        prog="policy_ctl",
        description="Operate running policy nodes, without the ros2 command. The exit status is 1 if a node refuses.",
        epilog="Documentation: doc/safety.md",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    about = {
        "status": "show the nodes and their robots",
        "stop": "send every robot, or one, its safe command until resume",
        "resume": "let the policy drive every robot, or one, again",
        "reset": "start a new episode of every robot, or one",
        "swap": "load another policy and switch to it between two ticks",
        "configure": "load the policy and open the topics",
        "activate": "drive the robots",
        "deactivate": "send every robot its safe command and stop driving",
        "cleanup": "close the topics and free the policy",
    }
    for name, text in about.items():
        command = commands.add_parser(name, parents=[shared], help=text, description=text[0].upper() + text[1:] + ".")
        if name in OPERATIONS:
            command.add_argument("robot", nargs="?", help="name of a robot (default: all)")
        if name == "swap":
            command.add_argument("policy", help="policy file on the computer of the node, as for policy.path")
            command.add_argument("--sha256", help="SHA-256 that the file must have")
            command.add_argument("--vecnormalize", help="file of VecNormalize.save()")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `policy_ctl`."""
    arguments = sys.argv if arguments is None else ["policy_ctl", *arguments]
    options = make_parser().parse_args(remove_ros_args(arguments)[1:])
    with ros_process(arguments) as stopping:
        node = Node(f"policy_ctl_{os.getpid()}", start_parameter_services=False)
        try:
            if options.command == "status":
                return _status(node, options, stopping)
            with spinning(node):
                return _act(Control(node, stopping, options.timeout_s), options)
        except ControlError as error:
            print(f"policy_ctl: {error}", file=sys.stderr)
            return 1
        finally:
            destroy_last_node(node)


def _act(control: Control, options: argparse.Namespace) -> int:
    """Give the command to the chosen nodes; return the exit status."""
    names = control.find(f"/{options.node.strip('/')}" if options.node else "")
    if len(names) > 1 and not options.all:
        raise ControlError(f"there are several policy nodes, {', '.join(names)}; choose with --node, or give --all")
    status = 0
    for name in names:
        success, text = _give(control, name, options)
        print(f"{name}: {text}", file=sys.stdout if success else sys.stderr, flush=True)
        status |= not success
    return int(status)


def _give(control: Control, name: str, options: argparse.Namespace) -> tuple[bool, str]:
    """Give the command to one node; return success and its answer."""
    if options.command in TRANSITIONS:
        return control.change(name, options.command)
    if options.command == "swap":
        # Relative paths count from the folder of the node, which is mostly another.
        local = Path(options.policy)
        path = str(local.resolve()) if local.exists() else options.policy
        given = {"policy.path": path, "policy.sha256": options.sha256, "policy.vecnormalize": options.vecnormalize}
        return control.swap(name, {key: value for key, value in given.items() if value is not None})
    if options.robot is not None:
        return control.operate_robot(name, options.command, options.robot)
    return control.operate(name, options.command)


def _status(node: Node, options: argparse.Namespace, stopping: threading.Event) -> int:
    """Print the nodes and their robots; return the exit status."""
    view = DiagnosticsView(node, options.node)
    view.wait(options.timeout_s, stopping)
    if not view.nodes:
        raise ControlError(view.why_nothing())
    Console(width=None if sys.stdout.isatty() else FILE_WIDTH).print(as_table(view), highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
