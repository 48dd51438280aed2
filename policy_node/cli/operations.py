# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Operate running policy nodes by their services and topics, for `policy_ctl` and the page of `policy_monitor`."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetAvailableTransitions
from rcl_interfaces.srv import GetParameters, SetParametersAtomically
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from std_msgs.msg import String
from std_srvs.srv import Trigger

from policy_node.config.schema import named
from policy_node.ros.domain import search_scope
from policy_node.ros.rclpy_internals import poll_topic

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
TIMEOUT_S = 5.0
# Longest wait for a change of the policy or the state, as loading a policy may take long.
CHANGE_TIMEOUT_S = 300.0
LOOK_PERIOD_S = 0.02
# Time in which further nodes may be discovered after the first.
SETTLE_S = 0.5
# Nodes report every second.
REPORT_S = 2.5

_REMEDY = "see whether the node still runs, and if robots must stop, use their emergency stop"

# Whether a node did what it was asked for, and what it answered.
Answer = tuple[bool, str]


class OperationError(Exception):
    """A command could not be given; the text says why and what to do."""


class Operations:
    """Finds policy nodes and gives them commands; nodes have full names, such as ``/policy_node``.

    Parameters
    ----------
    node
        Own node, spun by another thread.
    stopping
        Ends every wait.
    timeout_s
        Longest wait for a node to appear, and for an answer other than to a change of policy or state.
    """

    def __init__(self, node: Node, stopping: threading.Event, timeout_s: float = TIMEOUT_S) -> None:
        self._node = node
        self._stopping = stopping
        self._timeout_s = timeout_s
        self._clients: dict[str, Any] = {}
        self._publishers: dict[str, Any] = {}
        self._take_report: Callable[[], Any] | None = None

    def prepare(self, name: str) -> None:
        """Look for the services and topics of a node, so that a stop need not wait for that."""
        for operation in OPERATIONS:
            self._client(Trigger, f"{name}/{operation}")
            self._publisher(f"{name}/{operation}")

    async def find(self, wanted: str = "") -> list[str]:
        """Return the full names of the nodes, or only `wanted`; raises OperationError if there is none."""
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
            await asyncio.sleep(LOOK_PERIOD_S)
        others = ", ".join(self._nodes())
        if others:
            raise OperationError(f"there is no policy node {wanted}; found are {others}")
        raise OperationError(
            f"no policy node was found within {self._timeout_s:g} s with {search_scope()}: start the node, or set both "
            "variables here as for the node"
        )

    def _nodes(self) -> list[str]:
        offered = dict(self._node.get_service_names_and_types())
        return sorted(
            name.removesuffix("/stop")
            for name in offered
            if name.endswith("/stop")
            and all(kind in offered.get(name[: -len("stop")] + each, ()) for each, kind in SERVICES.items())
        )

    async def operate(self, name: str, operation: str, robot: str = "") -> Answer:
        """Ask a node to `stop`, `resume` or `reset` all its robots, or one."""
        if robot:
            return await self._operate_robot(name, operation, robot)
        response = await self._call(Trigger, f"{name}/{operation}", Trigger.Request())
        return response.success, response.message

    async def _operate_robot(self, name: str, operation: str, robot: str) -> Answer:
        publisher = self._publisher(f"{name}/{operation}")
        await self._wait(lambda: publisher.get_subscription_count() > 0, f"{name}/{operation} has no subscriber")
        # A stop waits for nothing else: a name that is wrong is found afterwards.
        publisher.publish(String(data=robot))
        await self._wait(lambda: publisher.wait_for_all_acked(Duration()), f"{name} did not confirm {operation}")
        request = GetParameters.Request(names=["robots"])
        response = await self._call(GetParameters, f"{name}/get_parameters", request)
        robots = [each.strip("/") for each in response.values[0].string_array_value]
        if robot.strip("/") not in robots:
            return False, f"found {robot!r}, which is no robot of this node; allowed are {named(robots)}"
        return True, f"{operation} of {robot}: the node has it"

    async def swap(self, name: str, changes: dict[str, Any]) -> Answer:
        """Set the parameters `policy.…` of another policy."""
        parameters = [Parameter(key, value=value).to_parameter_msg() for key, value in changes.items()]
        request = SetParametersAtomically.Request(parameters=parameters)
        response = await self._call(
            SetParametersAtomically, f"{name}/set_parameters_atomically", request, CHANGE_TIMEOUT_S
        )
        policy = changes["policy.path"]
        return response.result.successful, response.result.reason or f"the policy is now {policy}"

    async def change(self, name: str, transition: str) -> Answer:
        """Request a transition of the lifecycle; the answer is what the node reports of itself then."""
        if self._take_report is None:
            _, self._take_report = poll_topic(self._node, DiagnosticArray, "/diagnostics", QoSProfile(depth=100))
        wanted, state = TRANSITIONS[transition]
        service = f"{name}/get_available_transitions"
        available = await self._call(GetAvailableTransitions, service, GetAvailableTransitions.Request())
        # rclpy of Jazzy does not answer a request for another transition.
        if wanted in [each.transition.id for each in available.available_transitions]:
            request = ChangeState.Request(transition=Transition(id=wanted))
            response = await self._call(ChangeState, f"{name}/change_state", request, CHANGE_TIMEOUT_S)
            if response.success:
                return True, await self._report(name, state) or f"{transition}: done"
        found = await self._report(name) or "see the log of the node"
        return False, f"{transition} failed, or is not possible now: {found}"

    async def _report(self, name: str, state: str = "") -> str:
        """Return what a node reports of itself, in a state of its lifecycle or in any; empty if nothing in time."""
        assert self._take_report is not None
        wanted, newest = f"{name.lstrip('/')}: control", ""
        until_s = time.monotonic() + REPORT_S
        while time.monotonic() < until_s and not newest and not self._stopping.is_set():
            for message, _ in iter(self._take_report, None):
                for status in message.status:
                    values = {pair.key: pair.value for pair in status.values}
                    if status.name == wanted and (not state or values.get("lifecycle_state") == state):
                        newest = status.message
            await asyncio.sleep(LOOK_PERIOD_S)
        return newest

    async def _call(self, kind: Any, name: str, request: Any, timeout_s: float | None = None) -> Any:
        """Return the response of a service; raises OperationError if there is none."""
        is_new = name not in self._clients
        client = self._client(kind, name)
        await self._wait(client.service_is_ready, f"{name} does not answer")
        if is_new and timeout_s is not None:
            # The node may not know this client yet; the answer would be lost.
            await asyncio.sleep(SETTLE_S)
        future = client.call_async(request)
        try:
            await self._wait(
                lambda: future.done() or not client.service_is_ready(), f"{name} did not answer", timeout_s
            )
            if not future.done():
                raise OperationError(f"{name} ended before it answered; {_REMEDY}")
        finally:
            client.remove_pending_request(future)
        return future.result()

    def _client(self, kind: Any, name: str) -> Any:
        if name not in self._clients:
            self._clients[name] = self._node.create_client(kind, name)
        return self._clients[name]

    def _publisher(self, topic: str) -> Any:
        if topic not in self._publishers:
            self._publishers[topic] = self._node.create_publisher(String, topic, 10)
        return self._publishers[topic]

    async def _wait(self, condition: Callable[[], bool], problem: str, timeout_s: float | None = None) -> None:
        allowed_s = self._timeout_s if timeout_s is None else timeout_s
        until_s = time.monotonic() + allowed_s
        while not condition():
            if self._stopping.is_set():
                raise OperationError("interrupted")
            if time.monotonic() > until_s:
                raise OperationError(f"{problem} within {allowed_s:g} s; {_REMEDY}")
            await asyncio.sleep(LOOK_PERIOD_S)
