# Copyright 2026 The policy_node authors
# SPDX-License-Identifier: Apache-2.0
"""Publish what the policy sees and commands, small, on `~/preview` while somebody subscribes to it."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from rclpy.node import Node
from std_msgs.msg import String

from policy_node.config.commands import UNBOUNDED
from policy_node.config.schema import ActionConfiguration, Configuration
from policy_node.control.realtime import name_thread
from policy_node.control.tick import FleetTick
from policy_node.messages.codecs import ReadingDecoder
from policy_node.messages.reading import UnusableReading
from policy_node.sensing.synchroniser import RobotState

if TYPE_CHECKING:
    from policy_node.ros.deployment import Deployment

PERIOD_S = 0.1
# Period of the look for a subscriber while there is none.
IDLE_PERIOD_S = 1.0
# Processor time for images in each period, so that a fleet with many cameras costs no more than one with few.
IMAGES_S = 0.001
# Longest side of an image in pixels.
IMAGE_SIDE = 128
JPEG_QUALITY = 70
IMAGE_AXES = 3
# Decimals of commands.
DECIMALS = 4


@dataclass(frozen=True, eq=False)
class _Camera:
    """An image observation: its place among the sensors, its decoder, and the frame that the policy gets."""

    key: str
    sensor: int
    decoder: ReadingDecoder
    #: `[height, width, channels]`, of the dtype of the observation.
    frame: np.ndarray
    #: Lowest and highest value, which become black and white; None: those of each frame.
    limits: tuple[float, float] | None
    is_bgr: bool

    def thumbnail(self, message: bytes) -> str:
        """Return a reading as a small JPEG in base64; empty if it is unusable."""
        try:
            self.decoder.decode(message, self.frame)
        except UnusableReading:
            return ""
        height, width = self.frame.shape[:2]
        scale = min(1.0, IMAGE_SIDE / max(height, width))
        image = self.frame[..., :3] if self.frame.shape[2] > 2 else self.frame[..., :1]
        if scale < 1.0:
            size = (max(1, round(width * scale)), max(1, round(height * scale)))
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        image = _as_uint8(image, self.limits)
        if image.ndim == IMAGE_AXES and image.shape[2] == 3 and not self.is_bgr:
            image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        done, jpeg = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))
        return base64.b64encode(jpeg.tobytes()).decode() if done else ""


def _as_uint8(image: np.ndarray, limits: tuple[float, float] | None) -> np.ndarray:
    if image.dtype == np.uint8:
        return np.ascontiguousarray(image)
    numbers = np.nan_to_num(image.astype(np.float32), posinf=0.0, neginf=0.0)
    low, high = limits or (float(numbers.min()), float(numbers.max()))
    return np.clip((numbers - low) * (255.0 / max(high - low, 1e-9)), 0.0, 255.0).astype(np.uint8)


class Preview:
    """Publishes the newest tick on `~/preview`: states, ages, commands and images of the robots.

    A message is JSON in a `std_msgs/msg/String`, see `doc/monitoring.md`. Everything is made in a separate thread, and
    nothing while nobody subscribes.

    Parameters
    ----------
    node
        Owner of the topic.
    latest
        Returns the newest tick; None before the first.
    deployment
        Returns what the node has deployed, which changes with the policy; None if nothing is.
    """

    def __init__(
        self, node: Node, latest: Callable[[], FleetTick | None], deployment: Callable[[], Deployment | None]
    ) -> None:
        self._node = node
        self._latest = latest
        self._deployment = deployment
        self._deployed: Deployment | None = None
        self._cameras: tuple[_Camera, ...] = ()
        self._description: dict[str, Any] = {}
        # Stamps of the readings whose images were sent, by robot and camera.
        self._shown_ns: dict[tuple[int, str], int] = {}
        self._next_robot = 0
        self._last: FleetTick | None = None
        self._publisher = node.create_publisher(String, "~/preview", 1)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="preview", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """End the thread and remove the topic."""
        self._ended.set()
        self._thread.join()
        self._node.destroy_publisher(self._publisher)

    def _run(self) -> None:
        name_thread("preview")
        period_s = IDLE_PERIOD_S
        while not self._ended.wait(period_s):
            try:
                has_viewer = self._publisher.get_subscription_count() > 0
                period_s = PERIOD_S if has_viewer else IDLE_PERIOD_S
                if has_viewer:
                    self._publish()
            except Exception as error:  # a preview must never end the process that drives the robots
                period_s = IDLE_PERIOD_S
                self._node.get_logger().error(f"~/preview: {type(error).__name__}: {error}", throttle_duration_sec=60.0)

    def _publish(self) -> None:
        tick, deployment = self._latest(), self._deployment()
        # The same tick again says nothing; its age tells a viewer that the node hangs.
        if tick is None or deployment is None or tick is self._last:
            return
        self._last = tick
        if deployment is not self._deployed:
            self._deployed = deployment
            self._cameras = _cameras(deployment)
            self._description = _described(deployment.configuration, deployment.pipeline.components)
        content = self._description | _figures(tick) | {"images": self._images(tick)}
        self._publisher.publish(String(data=json.dumps(content, separators=(",", ":"))))

    def _images(self, tick: FleetTick) -> dict[str, dict[str, str]]:
        """Return new images by robot and key: of robots in turn, as many as there is time for."""
        images: dict[str, dict[str, str]] = {}
        if not self._cameras:
            return images
        assert self._deployed is not None
        robots = self._deployed.configuration.robots
        until_s = time.thread_time() + IMAGES_S
        for robot in self._in_turn(len(robots)):
            found = self._thumbnails(robot, tick.samples[robot])
            if found:
                images[robots[robot]] = found
            if time.thread_time() >= until_s:
                break
        return images

    def _in_turn(self, robots: int) -> Iterator[int]:
        """Yield each robot once, beginning with the one after the last of the call before."""
        for _ in range(robots):
            robot = self._next_robot % robots
            self._next_robot = robot + 1
            yield robot

    def _thumbnails(self, robot: int, samples: Sequence[Any]) -> dict[str, str]:
        found = {}
        for camera in self._cameras:
            if camera.sensor >= len(samples) or samples[camera.sensor].message is None:
                continue
            stamp_ns, message = samples[camera.sensor]
            if self._shown_ns.get((robot, camera.key)) == stamp_ns:
                continue
            self._shown_ns[robot, camera.key] = stamp_ns
            if image := camera.thumbnail(message):
                found[camera.key] = image
        return found


def _cameras(deployment: Deployment) -> tuple[_Camera, ...]:
    """Return the image observations of a deployment with decoders of their own, which another thread may use."""
    configuration = deployment.configuration
    images = {observation.key: observation for observation in configuration.observations if observation.is_image}
    if not images:
        return ()
    from policy_node.ros.deployment import pair

    layouts, decoders = pair(configuration, deployment.policy)
    cameras = []
    for sensor, (source, *_) in enumerate(configuration.sensors):
        if source.name not in images:
            continue
        spec = layouts[source.key].readings[source.name]
        low, high = float(np.min(spec.low)), float(np.max(spec.high))
        limits = (low, high) if np.isfinite((low, high)).all() else None
        frame = np.zeros(spec.shape, spec.dtype)
        is_bgr = images[source.name].encoding.startswith("bgr")
        cameras.append(_Camera(source.key, sensor, decoders[source.name], frame, limits, is_bgr))
    return tuple(cameras)


def _described(configuration: Configuration, components: int) -> dict[str, Any]:
    """Return the robots and the components of a command with their bounds."""
    action = configuration.action
    return {
        "robots": configuration.robots,
        "components": component_names(action, components),
        "low": _for_each(action.low, components),
        "high": _for_each(action.high, components),
    }


def component_names(action: ActionConfiguration, components: int) -> list[str]:
    """Return the name of each component of a command: its field, its joint, or its number."""
    names = [*(action.fields or action.joints)]
    return names if len(names) == components else [str(component) for component in range(components)]


def _for_each(bounds: Sequence[float], components: int) -> list[float | None]:
    """Return one bound per component; None where there is none."""
    if len(bounds) <= 1:
        bounds = [*(bounds or [np.nan])] * components
    return [float(bound) if abs(bound) < UNBOUNDED else None for bound in bounds]


def _finite(command: list[float]) -> list[float | None] | None:
    """Return a command with None in place of NaN; None where all of it is NaN."""
    numbers = [number if number == number else None for number in command]
    return None if all(number is None for number in numbers) else numbers


def _figures(tick: FleetTick) -> dict[str, Any]:
    """Return the states, ages and commands of a tick, in the order of the robots."""
    commands = np.round(tick.sent, DECIMALS).tolist()
    ages_ms = np.round(tick.ages_s * 1e3, 1).tolist()
    return {
        "time_s": round(tick.time_ns / 1e9, 3),
        "states": [state.name for state in tick.states],
        "reasons": {
            robot: reason
            for robot, (state, reason) in enumerate(zip(tick.states, tick.reasons, strict=True))
            if state is not RobotState.READY
        },
        # NaN is no JSON.
        "ages_ms": [age_ms if age_ms == age_ms else None for age_ms in ages_ms],
        # A robot without any command has none; of several topics, those without one have null.
        "commands": [_finite(command) for command in commands],
    }
