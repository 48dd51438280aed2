# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Monitor deadline and liveliness of the publishers of a command topic."""

from __future__ import annotations

from typing import Any

from rclpy.duration import Duration
from rclpy.event_handler import QoSSubscriptionEventType
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, LivelinessPolicy, QoSProfile, ReliabilityPolicy


class DeadlineMonitor:
    """Detect publishers of a topic that miss their deadline or die, without an executor.

    This is a second subscription beside the one that takes the commands: a subscription that requests a deadline gets
    nothing from publishers that offer none, such as teleoperation or `ros2 topic pub`. Those, and publishers that offer
    a longer deadline or liveliness lease than `deadline_s`, are not monitored.
    """

    def __init__(self, node: Node, message_type: Any, topic: str, deadline_s: float) -> None:
        deadline = Duration(seconds=deadline_s)
        qos = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=1,
            reliability=ReliabilityPolicy.BEST_EFFORT,
            deadline=deadline,
            liveliness=LivelinessPolicy.AUTOMATIC,
            liveliness_lease_duration=deadline,
        )
        self._message_type = message_type
        self._is_commanded = False
        self._subscription = node.create_subscription(message_type, topic, _no_callback, qos, raw=True)
        handle, kinds = self._subscription.handle, QoSSubscriptionEventType
        self._deadline: Any = _rclpy.EventHandle(handle, kinds.RCL_SUBSCRIPTION_REQUESTED_DEADLINE_MISSED)
        self._liveliness: Any = _rclpy.EventHandle(handle, kinds.RCL_SUBSCRIPTION_LIVELINESS_CHANGED)

    def publisher_is_lost(self) -> bool:
        """Return once for each silence whether a publisher missed its deadline or died since its newest command."""
        if self._subscription.handle.take_message(self._message_type, True) is not None:
            self._is_commanded = True
        missed, changed = self._deadline.take_event(), self._liveliness.take_event()
        event = (missed is not None and missed.total_count_change > 0) or (
            changed is not None and changed.not_alive_count_change > 0
        )
        lost = self._is_commanded and event
        # Deadline events repeat; a publisher that is not monitored may command in the meantime.
        self._is_commanded = self._is_commanded and not lost
        return lost


def _no_callback(message: object) -> None:
    raise AssertionError("the deadline monitor must not be spun by an executor")
