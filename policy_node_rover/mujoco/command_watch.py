# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""The receiving side of a command topic's deadline and liveliness."""

from __future__ import annotations

from typing import Any

from rclpy.duration import Duration
from rclpy.event_handler import QoSSubscriptionEventType
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, LivelinessPolicy, QoSProfile, ReliabilityPolicy


class CommandWatch:
    """Hears from the middleware when those who command break what they offer: a deadline, and to be alive.

    It subscribes beside whoever takes the commands, as a subscription that requests a deadline gets nothing from
    publishers that offer none, such as a teleoperation or `ros2 topic pub`. Those are merely not watched. No executor
    is needed; only `is_broken` looks.

    Parameters
    ----------
    node
        Owner of the subscription.
    message_type, topic
        What is watched.
    within_s
        Longest time between two commands, and without a sign of life; publishers that offer longer ones are not
        watched.
    """

    def __init__(self, node: Node, message_type: Any, topic: str, within_s: float) -> None:
        within = Duration(seconds=within_s)
        qos = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=1,
            reliability=ReliabilityPolicy.BEST_EFFORT,
            deadline=within,
            liveliness=LivelinessPolicy.AUTOMATIC,
            liveliness_lease_duration=within,
        )
        self._message_type = message_type
        self._is_commanded = False
        self._subscription = node.create_subscription(message_type, topic, _never_called, qos, raw=True)
        handle = self._subscription.handle
        self._deadline: Any
        self._liveliness: Any
        self._deadline, self._liveliness = (
            _rclpy.EventHandle(handle, kind)
            for kind in (
                QoSSubscriptionEventType.RCL_SUBSCRIPTION_REQUESTED_DEADLINE_MISSED,
                QoSSubscriptionEventType.RCL_SUBSCRIPTION_LIVELINESS_CHANGED,
            )
        )

    def is_broken(self) -> bool:
        """Whether since the newest watched command a deadline was missed or a publisher died; once for each silence."""
        if self._subscription.handle.take_message(self._message_type, True) is not None:
            self._is_commanded = True
        missed, changed = self._deadline.take_event(), self._liveliness.take_event()
        told = (missed is not None and missed.total_count_change > 0) or (
            changed is not None and changed.not_alive_count_change > 0
        )
        broken = self._is_commanded and told
        # Deadlines are missed again and again; meanwhile somebody may command who is not watched.
        self._is_commanded = self._is_commanded and not broken
        return broken


def _never_called(message: object) -> None:
    raise AssertionError("a watch looks at events only, and no executor spins it")
