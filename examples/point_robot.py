# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Two robots as one would write them oneself: points that publish their state at 30 Hz and are pushed by commands."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import Float32MultiArray, Float64MultiArray

PERIOD_S = 1 / 30


class PointRobot(Node):
    """Publishes `state`: offset to the goal and velocity, x and y; takes `push`: an acceleration, x and y."""

    def __init__(self, name: str, position: tuple[float, float]) -> None:
        super().__init__("robot", namespace=name)
        self.state = np.array([*position, 0.0, 0.0])
        self.push = np.zeros(2)
        self.publisher = self.create_publisher(Float32MultiArray, "state", 1)
        self.create_subscription(Float64MultiArray, "push", self.on_push, 1)
        self.create_timer(PERIOD_S, self.step)

    def on_push(self, message: Float64MultiArray) -> None:
        """Take a command."""
        self.push = np.array(message.data)

    def step(self) -> None:
        """Move for one period, and publish the state."""
        self.state[2:] += self.push * PERIOD_S
        self.state[:2] += self.state[2:] * PERIOD_S
        self.publisher.publish(Float32MultiArray(data=self.state.tolist()))


rclpy.init()
executor = SingleThreadedExecutor()
for robot in (PointRobot("left", (-1.0, 0.5)), PointRobot("right", (1.0, 0.0))):
    executor.add_node(robot)
with suppress(KeyboardInterrupt):
    executor.spin()
