# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Today's loop, the baseline of the fleet benchmark: what users write without this package.

One rclpy node in a SingleThreadedExecutor: callbacks keep the newest reading of every robot as NumPy arrays, a timer
calls `model.predict` for one robot after another, or once for the stacked rows of all robots. The loop is as fast as
this design allows: images are viewed, not copied; they are resized at the tick and not at the rate of the camera;
PyTorch has one thread, as in the node.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np
import torch
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import Twist
from onnxruntime import InferenceSession, SessionOptions
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image, JointState
from stable_baselines3 import PPO
from std_msgs.msg import Float64MultiArray

from policy_node.control.timing import TickRecord, TickStatistics
from policy_node.ros.diagnostics import DIAGNOSTICS_PERIOD_S, timing_message
from policy_node.ros.process import open_ros
from policy_node_bench.harness.robots import COMMAND_TOPIC, IMAGE_TOPIC, TOUCH_TOPIC, robot_name

SYNCHRONISER_QUEUE = 10


class Reading(NamedTuple):
    """The newest reading of one sensor: stamp and values."""

    stamp_ns: int
    array: np.ndarray


class Seen(NamedTuple):
    """What a robot has seen: its older stamp, and its observations by key."""

    robot: int
    stamp_ns: int
    observations: Mapping[str, np.ndarray]


Actions: TypeAlias = Iterator[tuple[Seen, np.ndarray]]


def predict_each(model: PPO, robots: Iterable[Seen]) -> Actions:
    """Yield the action of each robot as soon as it is computed."""
    for seen in robots:
        yield seen, model.predict(dict(seen.observations), deterministic=True)[0]


def predict_batch(model: PPO, robots: Iterable[Seen]) -> Actions:
    """Yield the actions of all robots, which one call computes."""
    if every := list(robots):
        rows = {key: np.stack([seen.observations[key] for seen in every]) for key in every[0].observations}
        yield from zip(every, model.predict(rows, deterministic=True)[0], strict=True)


class TimedLoop(Node):
    """A loop that a timer runs, and that reports its ticks as the node does.

    Implement `drive`.
    """

    def __init__(self, name: str, robots: int, rate_hz: float) -> None:
        super().__init__(name)
        self._robots = robots
        self._statistics = TickStatistics()
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._timing = self.create_publisher(Float64MultiArray, "~/timing", 10)
        self._timer = self.create_timer(1.0 / rate_hz, self._tick)
        self._due_ns = self._next_due_ns(time.monotonic_ns())
        self.create_timer(DIAGNOSTICS_PERIOD_S, self._report)

    def drive(self) -> Iterator[tuple[int, int]]:
        """Send the commands of robots with readings; yield after each the robot and the stamp of its reading."""
        raise NotImplementedError

    def _next_due_ns(self, now_ns: int) -> int:
        """Return the next deadline of the timer on the clock of `now_ns`."""
        return now_ns + (self._timer.time_until_next_call() or 0)

    def _tick(self) -> None:
        started = time.perf_counter()
        # The executor has already advanced the timer to the next deadline in the future.
        now_ns = time.monotonic_ns()
        due_ns, self._due_ns = self._due_ns, self._next_due_ns(now_ns)
        missed = round((self._due_ns - due_ns) / self._timer.timer_period_ns) - 1
        ages_s = np.full(self._robots, np.nan)
        for robot, stamp_ns in self.drive():
            ages_s[robot] = (time.time_ns() - stamp_ns) / 1e9
        duration_s = time.perf_counter() - started
        self._statistics.add(TickRecord(max(0.0, (now_ns - due_ns) / 1e9), duration_s, max(0, missed), {}, ages_s))

    def _report(self) -> None:
        records, ticks, missed = self._statistics.collect()
        values = {"ticks": ticks, "missed_ticks": missed}
        pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
        status = DiagnosticStatus(name=f"{self.get_name()}: control", hardware_id="control", values=pairs)
        self._diagnostics.publish(DiagnosticArray(status=[status]))
        if records:
            self._timing.publish(timing_message(records))


class TodaysLoop(TimedLoop):
    """Run callbacks, a timer and `model.predict` of a PPO model with the observations `image` and `touch`.

    `slop_s` is that of message_filters' ApproximateTimeSynchronizer; None keeps the newest message of each topic.
    """

    def __init__(
        self,
        name: str,
        robots: int,
        rate_hz: float,
        model: PPO,
        slop_s: float | None,
        predict: Callable[[PPO, Iterable[Seen]], Actions],
    ) -> None:
        super().__init__(name, robots, rate_hz)
        self._model = model
        self._predict = predict
        # Stable-Baselines3 saves image spaces with the channels first, but accepts images with the channels last.
        _, self._height, self._width = model.policy.observation_space["image"].shape  # type: ignore[index]
        self._images: list[Reading | None] = [None] * robots
        self._touches: list[Reading | None] = [None] * robots
        names = [robot_name(robot) for robot in range(robots)]
        self._commands = [self.create_publisher(Twist, f"{name}/{COMMAND_TOPIC}", 1) for name in names]
        self._synchronisers = []
        for robot, namespace in enumerate(names):
            topics = ((Image, f"{namespace}/{IMAGE_TOPIC}"), (JointState, f"{namespace}/{TOUCH_TOPIC}"))
            if slop_s is None:
                for (message_type, topic), callback in zip(topics, (self._on_image, self._on_touch), strict=True):
                    self.create_subscription(message_type, topic, partial(callback, robot), qos_profile_sensor_data)
            else:
                # Not on PyPI and therefore optional.
                filters = importlib.import_module("message_filters")
                inputs = [filters.Subscriber(self, *topic, qos_profile=qos_profile_sensor_data) for topic in topics]
                synchroniser = filters.ApproximateTimeSynchronizer(inputs, SYNCHRONISER_QUEUE, slop_s)
                synchroniser.registerCallback(partial(self._on_both, robot))
                self._synchronisers.append(synchroniser)

    def _on_image(self, robot: int, message: Image) -> None:
        image = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)
        self._images[robot] = Reading(_stamp_ns(message), image)

    def _on_touch(self, robot: int, message: JointState) -> None:
        self._touches[robot] = Reading(_stamp_ns(message), np.array(message.effort, np.float32))

    def _on_both(self, robot: int, image: Image, touch: JointState) -> None:
        self._on_image(robot, image)
        self._on_touch(robot, touch)

    def drive(self) -> Iterator[tuple[int, int]]:
        """See `TimedLoop`."""
        for seen, action in self._predict(self._model, self._observe()):
            command = Twist()
            command.linear.x, command.angular.z = float(action[0]), float(action[1])
            self._commands[seen.robot].publish(command)
            yield seen.robot, seen.stamp_ns

    def _observe(self) -> Iterator[Seen]:
        """Yield the robots that have readings."""
        for robot, (image, touch) in enumerate(zip(self._images, self._touches, strict=True)):
            if image is None or touch is None:
                continue
            pixels = image.array
            if pixels.shape[:2] != (self._height, self._width):
                pixels = cv2.resize(pixels, (self._width, self._height), interpolation=cv2.INTER_AREA)
            yield Seen(robot, min(image.stamp_ns, touch.stamp_ns), {"image": pixels, "touch": touch.array})


class LeggedLoop(TimedLoop):
    """Run callbacks, a timer and onnxruntime on the vector of each robot, or once on those of all of them."""

    def __init__(self, name: str, robots: int, rate_hz: float, session: InferenceSession, batched: bool) -> None:
        super().__init__(name, robots, rate_hz)
        self._session = session
        self._input = session.get_inputs()[0].name
        self._batched = batched
        self._states: list[Reading | None] = [None] * robots
        names = [robot_name(robot) for robot in range(robots)]
        self._commands = [self.create_publisher(Float64MultiArray, f"{name}/{COMMAND_TOPIC}", 1) for name in names]
        for robot, namespace in enumerate(names):
            topic = f"{namespace}/{TOUCH_TOPIC}"
            self.create_subscription(JointState, topic, partial(self._on_state, robot), qos_profile_sensor_data)

    def _on_state(self, robot: int, message: JointState) -> None:
        self._states[robot] = Reading(_stamp_ns(message), np.array(message.effort, np.float32))

    def drive(self) -> Iterator[tuple[int, int]]:
        """See `TimedLoop`."""
        known = [(robot, state) for robot, state in enumerate(self._states) if state is not None]
        for part in [known] if self._batched and known else [[each] for each in known]:
            rows = np.stack([state.array for _, state in part])
            (actions,) = self._session.run(None, {self._input: rows})
            for (robot, state), action in zip(part, actions, strict=True):
                self._commands[robot].publish(Float64MultiArray(data=action.tolist()))
                yield robot, state.stamp_ns


def _stamp_ns(message: Image | JointState) -> int:
    return message.header.stamp.sec * 1_000_000_000 + message.header.stamp.nanosec


def main(
    name: str, robots: int, rate_hz: float, model: str, batched: bool, slop_s: float | None = None, legged: bool = False
) -> None:
    """Run the loop until SIGINT or SIGTERM; `batched` runs the model once for all robots."""
    torch.set_num_threads(1)
    with open_ros(signal_handlers=SignalHandlerOptions.ALL):
        executor = SingleThreadedExecutor()
        executor.add_node(
            LeggedLoop(name, robots, rate_hz, _session(model), batched)
            if legged
            else TodaysLoop(
                name,
                robots,
                rate_hz,
                PPO.load(model, device="cpu"),
                slop_s,
                predict_batch if batched else predict_each,
            )
        )
        with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
            executor.spin()


def _session(model: str) -> InferenceSession:
    options = SessionOptions()
    options.intra_op_num_threads = 1
    return InferenceSession(model, options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
