# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Stop, resume and reset robots and swap the policy of a node, for a page."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_msgs.msg import String
from std_srvs.srv import Trigger

ACTIONS = ("stop", "resume", "reset")
SWAP = "swap"
# Longest wait for a service to be found, and for its answer. A swap loads and warms up a policy.
FIND_S = 3.0
ANSWER_S = 10.0
SWAP_S = 180.0
POLL_S = 0.02

Answer = tuple[bool, str]


class Operator:
    """Calls the services of nodes by their full name, without a leading slash."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._executor = SingleThreadedExecutor(context=node.context)
        self._executor.add_node(node)
        self._services: dict[str, Any] = {}
        self._publishers: dict[str, Any] = {}

    def spin(self) -> None:
        """Handle answers that have arrived."""
        self._executor.spin_once(timeout_sec=0.0)

    def close(self) -> None:
        """Leave the node."""
        self._executor.shutdown()

    def prepare(self, node: str) -> None:
        """Find the services and topics of a node, so that a stop need not wait for that."""
        for action in ACTIONS:
            self._service(Trigger, f"/{node}/{action}")
            self._publisher(f"/{node}/{action}")

    async def act(self, node: str, action: str, robot: str = "", path: str = "") -> Answer:
        """Act on a node, or on one robot of it; return whether it did, and what it answered."""
        if action == SWAP:
            return await self._swap(node, path)
        if robot:
            return await self._tell(node, action, robot)
        answer = await self._call(Trigger, f"/{node}/{action}", Trigger.Request(), ANSWER_S)
        return (answer.success, answer.message) if answer is not None else (False, _silent(node, action))

    async def _swap(self, node: str, path: str) -> Answer:
        parameter = Parameter("policy.path", Parameter.Type.STRING, path).to_parameter_msg()
        request = SetParameters.Request(parameters=[parameter])
        answer = await self._call(SetParameters, f"/{node}/set_parameters", request, SWAP_S)
        if answer is None:
            return False, _silent(node, SWAP)
        result = answer.results[0]
        return result.successful, result.reason or f"{node} drives with {path}"

    async def _tell(self, node: str, action: str, robot: str) -> Answer:
        publisher = self._publisher(f"/{node}/{action}")
        if not await _until(lambda: publisher.get_subscription_count() > 0, FIND_S):
            return False, _silent(node, action)
        publisher.publish(String(data=robot))
        return True, f"{action} of {robot} was sent; its state shows what follows"

    async def _call(self, service_type: Any, name: str, request: Any, timeout_s: float) -> Any:
        """Call a service; None if it is not there or does not answer."""
        client = self._service(service_type, name)
        if not await _until(client.service_is_ready, FIND_S):
            return None
        future = client.call_async(request)
        if await _until(future.done, timeout_s):
            return future.result()
        client.remove_pending_request(future)
        return None

    def _service(self, service_type: Any, name: str) -> Any:
        if name not in self._services:
            self._services[name] = self._node.create_client(service_type, name)
        return self._services[name]

    def _publisher(self, topic: str) -> Any:
        if topic not in self._publishers:
            self._publishers[topic] = self._node.create_publisher(String, topic, 10)
        return self._publishers[topic]


async def _until(condition: Any, timeout_s: float) -> bool:
    """Wait until a condition holds, and return whether it does."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline_s:
            return False
        await asyncio.sleep(POLL_S)
    return True


def _silent(node: str, action: str) -> str:
    return f"/{node} does not answer to {action}: if robots must stop, use their emergency stop"
