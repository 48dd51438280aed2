# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Reset robots through a service or a topic of each."""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.task import Future

from policy_node.config.schema import ConfigurationError, topic_of
from policy_node.messages.fields import MessageTypeError, message_class

_KEYS = {"service": {"service", "type"}, "topic": {"topic", "type", "seeded", "settle_s"}}
# Time after which a robot that refused is asked again.
RETRY_S = 1.0
QUEUE_LENGTH = 10


class Resets:
    """Resets single robots to start new episodes, while an executor spins the node.

    `reset` is `{"service": NAME, "type": TYPE}`, a service of each robot with an empty request, which answers when the
    new episode has started; or `{"topic": NAME, "type": TYPE, "seeded": BOOL, "settle_s": SECONDS}`, a topic of each
    robot. With `seeded` its field `data` takes the seed of the episode, negative if the robot draws it. Readings with a
    stamp up to `settle_s` after the message belong to the old episode. An empty `reset` resets no robot.

    Raises
    ------
    ConfigurationError
        When `reset` has another form.
    """

    def __init__(self, node: Node, robots: Sequence[str], reset: Mapping[str, Any]) -> None:
        self._node = node
        self._robots = tuple(robots)
        # First stamp of the new episode of each robot; None while it is unknown.
        self._since_ns: dict[int, int | None] = {}
        self._ask_again_s: dict[int, float] = {}
        self._seeds: dict[int, int] = {}
        kinds = [kind for kind in _KEYS if kind in reset]
        if reset and (len(kinds) != 1 or not reset.keys() <= _KEYS[kinds[0]] or "type" not in reset):
            raise ConfigurationError(
                f"reset: found {dict(reset)}, allowed is a `service` with its `type`, or a `topic` with its `type` "
                f"and optionally `seeded` and `settle_s`"
            )
        self._kind = kinds[0] if kinds else ""
        #: Whether there is a service or topic that resets robots.
        self.can_reset = bool(kinds)
        self.is_seeded = bool(reset.get("seeded", False))
        self._settle_ns = round(float(reset.get("settle_s", 0.0)) * 1e9)
        self._clients: list[Any] = []
        self._publishers: list[Any] = []
        names = [topic_of(robot, reset[self._kind]) for robot in robots] if self._kind else []
        try:
            if self._kind == "service":
                self._type = service_class(reset["type"])
                self._clients = [node.create_client(self._type, name) for name in names]
            elif self._kind == "topic":
                self._type = message_class(reset["type"])
                if self.is_seeded and "data" not in self._type.get_fields_and_field_types():
                    raise MessageTypeError(f"a {reset['type']} has no field `data` for the seed; remove `seeded`")
                qos = QoSProfile(depth=QUEUE_LENGTH, reliability=ReliabilityPolicy.RELIABLE)
                self._publishers = [node.create_publisher(self._type, name, qos) for name in names]
        except MessageTypeError as error:
            raise ConfigurationError(f"reset: {error}") from error

    def ask(self, robot: int, seed: int) -> None:
        """Reset a robot, by index, as soon as it subscribes or serves; a negative seed lets the robot draw one."""
        self._since_ns[robot] = None
        self._ask_again_s[robot] = 0.0
        self._seeds[robot] = seed

    def since_ns(self, robot: int) -> int | None:
        """Return the first stamp of the new episode of a robot; None while it is unknown."""
        since_ns = self._since_ns.get(robot, 0)
        if since_ns is None and time.monotonic() >= self._ask_again_s[robot]:
            self._try(robot)
        return self._since_ns.get(robot, 0)

    def missing(self, robot: int) -> str:
        """Return what a robot that was asked and not reset yet waits for."""
        if self._kind == "topic":
            return f"no subscriber of {self._publishers[robot].topic_name}"
        client = self._clients[robot]
        return f"no {'answer' if client.service_is_ready() else 'server'} of {client.srv_name}"

    def _try(self, robot: int) -> None:
        if not self._kind:
            self._since_ns[robot] = 0
        elif self._kind == "service":
            if self._clients[robot].service_is_ready():
                self._ask_again_s[robot] = math.inf
                future = self._clients[robot].call_async(self._type.Request())
                future.add_done_callback(partial(self._on_answer, robot))
        elif self._publishers[robot].get_subscription_count():
            self._publishers[robot].publish(self._type(data=self._seeds[robot]) if self.is_seeded else self._type())
            self._since_ns[robot] = self._node.get_clock().now().nanoseconds + self._settle_ns

    def _on_answer(self, robot: int, future: Future) -> None:
        response = future.result()
        if getattr(response, "success", True):
            self._since_ns[robot] = self._node.get_clock().now().nanoseconds
            return
        self._node.get_logger().warning(
            f"{self._robots[robot]} refuses the reset: {getattr(response, 'message', '')}; it is asked again",
            throttle_duration_sec=5.0,
        )
        self._ask_again_s[robot] = time.monotonic() + RETRY_S


def service_class(type_name: str) -> Any:
    """Return the class of a service type such as ``std_srvs/srv/Trigger``.

    Raises
    ------
    MessageTypeError
        When it is not installed.
    """
    package, separator, name = type_name.partition("/srv/")
    try:
        if separator:
            return getattr(importlib.import_module(f"{package}.srv"), name)
    except (ImportError, AttributeError) as error:
        remedy = "install and source its package"
        raise MessageTypeError(f"type '{type_name}' cannot be imported ({error}); {remedy}") from error
    raise MessageTypeError(f"type '{type_name}' is not the name of a service type, such as std_srvs/srv/Trigger")
