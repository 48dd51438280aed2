# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Subscribe the task texts of robots, of which the tick gets the newest."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import String

from policy_node.config.schema import Configuration, topic_of
from policy_node.config.tasks import shown_task, task_problem
from policy_node.ros.throttle import Throttle

# The newest text, also for a node that starts later.
TASK_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class TaskTopics:
    """Keeps the newest text of each robot, also while no loop runs; callbacks run in the executor.

    Attributes
    ----------
    rejected
        By robot the number of texts that were empty or too long, and had no effect.
    """

    def __init__(self, node: Node, configuration: Configuration) -> None:
        self._node = node
        self._logger = node.get_logger()
        self._topic, self._robots = configuration.policy.task_topic, configuration.robots
        self.rejected = [0] * len(self._robots)
        # By robot, for those that have heard one.
        self._texts: dict[int, str] = {}
        self._use: Callable[[int, str], None] | None = None
        self._lines = Throttle()
        # Robots share an absolute topic.
        robots_of: dict[str, list[int]] = {}
        for robot, name in enumerate(self._robots if self._topic else ()):
            robots_of.setdefault(topic_of(name, self._topic), []).append(robot)
        self._subscriptions = [
            node.create_subscription(String, topic, partial(self._hear, topic, robots), TASK_QOS)
            for topic, robots in robots_of.items()
        ]

    def attach(self, use: Callable[[int, str], None] | None) -> None:
        """Pass the texts so far, and all later ones, to a function of robot and text; None: keep them."""
        self._use = use
        if use is not None:
            for robot, text in self._texts.items():
                use(robot, text)

    def forget(self) -> None:
        """Forget the texts so far, in place of which others were configured."""
        self._texts.clear()

    def _hear(self, topic: str, robots: list[int], message: String) -> None:
        if problem := task_problem(message.data):
            for robot in robots:
                self.rejected[robot] += 1
            if self._lines.allows((topic, "rejected")):
                self._logger.warning(
                    f"{topic}: found {shown_task(message.data)}, but {problem}; the text before goes on"
                )
            return
        changed = [robot for robot in robots if self._texts.get(robot) != message.data]
        for robot in changed:
            self._texts[robot] = message.data
            if self._use is not None:
                self._use(robot, message.data)
        if changed and self._lines.allows((topic, "changed")):
            self._logger.info(f"{topic}: {shown_task(message.data)}")

    def destroy(self) -> None:
        """Remove the subscriptions from the node."""
        self._use = None
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()
